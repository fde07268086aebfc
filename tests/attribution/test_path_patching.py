"""Measured edges against path patching done by hand, one edge and one run at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs, Site
from circuitlens.attribution.base import Runs
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.integrated import integrated_edges, integrated_gradients
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.path_patching import SMALL, weighed_edges
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.progress import Progress
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.runs import run_held
from circuitlens.testing import example_batch
from tests.helpers import close, padded
from tests.models import Line, Spelled, by_layout
from tests.oracles import Place, path_patched
from tests.scores import TINY_PROMPTS, several_answers, tiny_batch, traced
from tests.tiny_transformer import Layout, TinyTransformer


def estimated(adapter: Adapter, batch: PromptBatch, contrastive: bool) -> tuple[Runs, NodeScores, EdgeScores]:
    """The runs of a batch, its nodes, and all its edges by integrated gradients of two steps."""
    runs = Runs(adapter, *traced(adapter, batch, contrastive))
    nodes, _ = integrated_gradients(runs, 2)
    return runs, nodes, integrated_edges(runs, nodes, torch.ones_like(nodes.site, dtype=torch.bool))


def place(nodes: NodeScores, row: Tensor) -> Place:
    return tuple(int(column[row]) for column in (nodes.site, nodes.example, nodes.pos, nodes.index))  # type: ignore[return-value]


@pytest.mark.parametrize("layout", ["toy", *get_args(Layout)])
def test_measured_edges_are_path_patching_by_hand(layout: str, contrastive: bool, toy64: Adapter) -> None:
    adapter = by_layout(layout, toy64, toy64)
    batch = example_batch(adapter) if layout == "toy" else several_answers(adapter, "probability_difference")
    runs, nodes, edges = estimated(adapter, batch, contrastive)
    order = edges.weight.abs().argsort(descending=True)
    vector, logit = nodes.index[edges.target] == VECTOR, nodes.is_logit[edges.target]
    off = (nodes.activation[edges.target] == 0) & ~logit
    kinds = [vector & ~logit, ~vector & ~logit, logit & ~vector, logit & vector, off & ~vector]
    kinds.append(nodes.index[edges.source] == VECTOR)
    chosen = torch.cat([order[kind[order]][:6] for kind in kinds]).unique()
    u, d, estimate = edges.source[chosen], edges.target[chosen], edges.weight[chosen]
    weight, measured = weighed_edges(runs, nodes, u, d, estimate, small=0.0)
    assert measured.all()
    ends = [(place(nodes, s), place(nodes, t)) for s, t in zip(u, d, strict=True)]
    told = [path_patched(adapter, batch, contrastive, *both) for both in ends]
    close(weight, torch.tensor(told, dtype=weight.dtype))
    assert weight.abs().max() > 1e-2
    assert (weight - estimate).abs().max() > 1e-3  # what gradients say is another thing
    assert layout == "toy" or {0, 1, 2} <= {n for n, kind in enumerate(kinds) if kind[chosen].any()}
    # What does not go all the way is the target's real change, times its gradient in each run; logits are always true.
    moved, to_the_end = weighed_edges(runs, nodes, u, d, estimate, small=float("inf"))
    assert torch.equal(to_the_end, nodes.is_logit[d])
    told = [path_patched(adapter, batch, contrastive, *both, moved=True) for both in ends]
    assert torch.allclose(moved, torch.tensor(told, dtype=weight.dtype), rtol=1e-5, atol=1e-7)
    close(moved[to_the_end], weight[to_the_end])


def test_in_a_linear_model_measured_edges_are_the_estimates(contrastive: bool) -> None:
    adapter = Line()
    batch = tokenize(adapter, ["3 5", "2 3"], ["+"] * 2, ["-"] * 2, ["0 1", "5 5"])
    runs, nodes, edges = estimated(adapter, batch, contrastive)
    assert (edges.weight != 0).sum() > 6
    for small in (0.0, SMALL, float("inf")):
        weight, _ = weighed_edges(runs, nodes, edges.source, edges.target, edges.weight, small)
        close(weight, edges.weight)


def test_a_feature_that_switches_on_is_a_target() -> None:
    """Off in the clean run, so that no gradient there says a thing of it."""
    adapter = TinyTransformer()
    batch = tiny_batch(adapter)
    runs = Runs(adapter, *traced(adapter, batch, True))
    nodes, _ = integrated_gradients(runs, 2)
    off = ((nodes.site == 1) & (nodes.index != VECTOR) & (nodes.activation == 0)).nonzero()[:, 0]
    on = ((nodes.site == 0) & (nodes.delta != 0)).nonzero()[:, 0]
    pairs = [(u, d) for u in on.tolist() for d in off.tolist() if nodes.example[u] == nodes.example[d]]
    source, target = torch.tensor(pairs).T
    estimate = torch.zeros(len(pairs), dtype=nodes.delta.dtype)
    weight, measured = weighed_edges(runs, nodes, source, target, estimate, small=0.0)
    assert measured.all()
    strongest = int(weight.abs().argmax())
    assert weight[strongest].abs() > 0.1
    ends = place(nodes, source[strongest]), place(nodes, target[strongest])
    assert weight[strongest].item() == pytest.approx(path_patched(adapter, batch, True, *ends), rel=1e-9)
    at_clean = score_edges(runs.clean, nodes)
    assert not ((at_clean.source == source[strongest]) & (at_clean.target == target[strongest])).any()


def test_small_edges_are_not_run_to_their_end(contrastive: bool) -> None:
    """Those whose estimate or real change is a share of the contrast are, and are then what they are if all are."""
    adapter = TinyTransformer("components")
    runs, nodes, edges = estimated(adapter, tiny_batch(adapter), contrastive)
    some = edges.weight.abs().argsort(descending=True)[::40]
    u, d, estimate = edges.source[some], edges.target[some], edges.weight[some]
    every, _ = weighed_edges(runs, nodes, u, d, estimate, small=0.0)
    moved, _ = weighed_edges(runs, nodes, u, d, estimate, small=float("inf"))
    told: list[str] = []
    weight, measured = weighed_edges(
        runs, nodes, u, d, estimate, progress=Progress(callback=lambda *a: told.append(a[0]))
    )
    contrast = runs.clean.metric.detach() - (0 if runs.baseline is None else runs.baseline.metric)
    large = torch.maximum(estimate.abs(), moved.abs()) >= SMALL * contrast.abs()[nodes.example[u]]
    assert torch.equal(measured, large | nodes.is_logit[d])
    assert 3 < measured.sum() < len(some) - 3
    close(weight, torch.where(measured, every, moved))
    assert (every - moved).abs().max() > 1e-2
    assert set(told) == {"path patching"}
    each = torch.full_like(estimate, float("inf")).index_fill(0, torch.arange(5), 0)
    first = weighed_edges(runs, nodes, u, d, estimate, each)[1]
    assert first[:5].all()
    assert torch.equal(first[5:], nodes.is_logit[d][5:])


def test_nothing_at_the_adapters_own_token_is_set_to_zero() -> None:
    adapter = Spelled()
    runs, nodes, edges = estimated(adapter, tokenize(adapter, ["ab c"], ["d"], ["e"], ["ab d"]), False)
    first = nodes.pos[edges.source] == 0
    assert first.any()
    weight, measured = weighed_edges(runs, nodes, edges.source, edges.target, edges.weight, small=0.0)
    assert measured.all()
    assert edges.weight[first].abs().max() > 1e-3
    assert (weight[first] == 0).all()
    assert weight[~first].abs().max() > 1e-3


def test_no_edges_are_none() -> None:
    adapter = TinyTransformer()
    runs, nodes, edges = estimated(adapter, tiny_batch(adapter), True)
    weight, measured = weighed_edges(runs, nodes, edges.source[:0], edges.target[:0], edges.weight[:0])
    assert (len(weight), len(measured)) == (0, 0)


@pytest.mark.parametrize("positions", [1, 60])
def test_how_runs_are_batched_changes_nothing(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = TinyTransformer("normalised")
    runs, nodes, edges = estimated(adapter, tiny_batch(adapter), True)
    some = edges.weight.abs().argsort(descending=True)[:60]
    u, d, estimate = edges.source[some], edges.target[some], edges.weight[some]
    weight, measured = weighed_edges(runs, nodes, u, d, estimate)
    monkeypatch.setattr("circuitlens.attribution.exact.POSITIONS", positions)
    monkeypatch.setattr("circuitlens.attribution.path_patching.ELEMENTS", positions)
    again, once_more = weighed_edges(runs, nodes, u, d, estimate)
    close(again, weight)
    assert torch.equal(measured, once_more)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    close(weighed_edges(runs, nodes, u[order], d[order], estimate[order])[0], weight[order])


def test_neither_other_prompts_nor_padding_change_an_edge() -> None:
    adapter = TinyTransformer("components")

    def weights(batch: PromptBatch, left: int, right: int) -> list[dict[tuple[int, ...], float]]:
        assert batch.corrupted is not None
        wide = PromptBatch(padded(batch.clean, left, right), padded(batch.corrupted, left, right), batch.metric)
        runs = Runs(adapter, *traced(adapter, wide, True))
        nodes = score_nodes(runs.clean, runs.baseline)
        edges = score_edges(runs.clean, nodes)
        chosen = (edges.weight.abs() > 0.2).nonzero()[:, 0]
        u, d = edges.source[chosen], edges.target[chosen]
        weight, _ = weighed_edges(runs, nodes, u, d, edges.weight[chosen])
        found: list[dict[tuple[int, ...], float]] = [{} for _ in wide.metric.answers]
        names = nodes.site, nodes.pos - wide.clean.first[nodes.example], nodes.index
        for s, t, value in zip(u, d, weight.tolist(), strict=True):
            key = tuple(int(column[row]) for row in (s, t) for column in names)
            found[int(nodes.example[s])][key] = value
        return found

    together = weights(tiny_batch(adapter), 0, 0)
    for n, (text, answer, distractor, other) in enumerate(TINY_PROMPTS):
        alone = weights(tokenize(adapter, [text], [answer], [distractor], [other]), 1, 2)[0]
        assert together[n] == pytest.approx(alone, rel=1e-9, abs=1e-9)
        assert max(map(abs, alone.values())) > 0.1


def test_the_source_is_moved_no_further_than_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four layers, one: a source's run ends where its last target reads. Both runs are one batch."""
    adapter = TinyTransformer()
    runs, nodes, edges = estimated(adapter, tiny_batch(adapter), True)
    first = (nodes.site[edges.source] == 0).nonzero()[:5, 0]
    reached: list[str] = []

    def held(
        adapter: Adapter, inputs: Inputs, sites: Sequence[Site], hold: Callable[..., Tensor | None], **seen: Any
    ) -> Tensor | None:
        def told(site: Site, *values: Tensor) -> Tensor | None:
            reached.append(site.name)
            return hold(site, *values)

        return run_held(adapter, inputs, sites, told, **seen)

    monkeypatch.setattr("circuitlens.attribution.path_patching.run_held", held)
    weighed_edges(runs, nodes, edges.source[first], edges.target[first], edges.weight[first])
    assert reached == ["resid0", "resid1"]


def test_what_does_not_change_has_no_effect() -> None:
    adapter = TinyTransformer()
    runs, nodes, edges = estimated(adapter, tiny_batch(adapter), True)
    same = replace(nodes, delta=nodes.delta.index_fill(0, edges.source[:3], 0))
    u, d, estimate = edges.source[:6], edges.target[:6], edges.weight[:6]
    weight, measured = weighed_edges(runs, same, u, d, estimate, 0.0)
    still = torch.isin(u, edges.source[:3])
    assert (weight[still] == 0).all()
    assert measured.all()
