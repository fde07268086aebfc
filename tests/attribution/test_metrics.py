"""Conservation and the model's gradient (docs/laws.md) for every metric, with several answers and distractors."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

import circuitlens
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions
from circuitlens.attribution.scores import conservation_residual
from circuitlens.errors import PromptError
from circuitlens.prompts.batch import Score
from circuitlens.testing import uncut_gradients
from tests.helpers import close
from tests.oracles import direct_effect
from tests.scores import METRICS, matrix, scored, several_answers
from tests.tiny_transformer import Layout, TinyTransformer

OF_ALL = ["custom", "log_probability", "probability_difference", "kl_divergence"]


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("name", METRICS)
def test_conservation_and_the_models_gradient_hold_for_every_metric(
    name: str, layout: Layout, contrastive: bool
) -> None:
    adapter = TinyTransformer(layout)
    batch = several_answers(adapter, name)
    clean, nodes = scored(adapter, batch, contrastive)
    for total, expected in zip(nodes.totals, uncut_gradients(adapter, batch), strict=True):
        assert expected.abs().max() > 1e-3
        close(total, expected)
    inner = nodes.site < len(clean.sites)
    edges = score_edges(clean, nodes)
    close(matrix(nodes, edges).sum(1)[inner], nodes.attribution[inner])
    assert nodes.attribution[inner].abs().max() > 1e-2
    assert conservation_residual(nodes, edges) < 1e-11


@pytest.mark.parametrize("name", METRICS)
def test_logits_share_out_the_metrics_gradient(name: str, contrastive: bool) -> None:
    """Answers and distractors each have gradient × Δ of their logit, and one node those of all other outputs."""
    adapter = TinyTransformer()
    batch = several_answers(adapter, name)
    assert batch.corrupted is not None
    _, nodes = scored(adapter, batch, contrastive)
    logits, corrupted = (inputs.at_last(adapter.run(inputs, {})) for inputs in (batch.clean, batch.corrupted))
    leaf = logits.clone().requires_grad_()
    gradient = torch.autograd.grad(batch.metric(leaf).sum(), leaf)[0]
    effect = gradient * (logits - corrupted if contrastive else logits)
    against = [[], []] if name in ("logit", "log_probability") else [[5], [7, 6]]
    for b, ours in enumerate(([4, 2], [1])):
        named = [*ours, *against[b]]
        expected = {index: effect[b, index].item() for index in named}
        if name not in ("logit", "logit_difference"):
            expected[VECTOR] = sum(effect[b, j].item() for j in range(8) if j not in named)
            assert abs(expected[VECTOR]) > 1e-3
        here = (nodes.site == len(adapter.sites)) & (nodes.example == b)
        assert (nodes.pos[here] == batch.clean.last[b]).all()
        found = dict(zip(nodes.index[here].tolist(), nodes.attribution[here].tolist(), strict=True))
        assert len(found) == here.sum()
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("name", OF_ALL)
def test_edges_into_the_rest_of_the_logits_sum_those_into_each(name: str, layout: Layout, contrastive: bool) -> None:
    """Against a circuit of the same metric in which every output has a node, and that against the slow oracle."""
    adapter = TinyTransformer(layout)
    batch = several_answers(adapter, name)
    every = replace(batch.metric, answers=torch.arange(8).expand(2, 8), distractors=torch.full((2, 1), -1))
    clean, nodes = scored(adapter, batch, contrastive)
    apart, of_each = scored(adapter, replace(batch, metric=every), contrastive)
    found, each = matrix(nodes, score_edges(clean, nodes)), matrix(of_each, score_edges(apart, of_each))
    inner, last = nodes.site < len(clean.sites), len(clean.sites)
    for b, named in enumerate((batch.metric.answers[0], batch.metric.answers[1])):
        others = ((nodes.site == last) & (nodes.index == VECTOR) & (nodes.example == b)).nonzero()[:, 0]
        assert len(others) == 1
        unnamed = (of_each.site == last) & (of_each.example == b)
        for index in (*named.tolist(), *batch.metric.distractors[b].tolist()):
            unnamed &= of_each.index != index
        rows = unnamed.nonzero()[:, 0].tolist()
        assert 3 < len(rows) < 8
        close(found[inner, others[0]], each[: int(inner.sum())][:, rows].sum(1))
        strongest = found[:, others[0]].abs().argsort(descending=True)[:3].tolist()
        for u in strongest:
            unit = directions(clean, nodes, int(nodes.site[u]), torch.tensor([u]))[0]
            measured = sum(direct_effect(adapter, apart, of_each, u, d, unit) for d in rows)
            assert found[u, others[0]] == pytest.approx(measured, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    "function",
    [lambda logits: logits.argmax(1).double(), lambda logits: torch.ones(len(logits))],
    ids=["argmax", "constant"],
)
def test_a_metric_without_a_gradient_is_refused(function: Score) -> None:
    with pytest.raises(PromptError, match="gradient"):
        circuitlens.find(TinyTransformer(), "a b", "d", metric=function)
