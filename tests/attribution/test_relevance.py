"""Relevance propagation: the rules by hand, what they conserve, and that they change no value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

import circuitlens
from circuitlens.adapter import (
    ActivationFunction,
    Adapter,
    Example,
    Hook,
    IdentityCoder,
    Inputs,
    RelevanceRules,
    Site,
)
from circuitlens.attribution.attributions import attribute_edges, attribute_nodes
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import conservation_residual
from circuitlens.errors import AdapterError, PromptError
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.testing import uncut_gradients
from circuitlens.tracing import total_gradients, trace
from tests.helpers import close
from tests.models import Freezable
from tests.scores import matrix, several_answers
from tests.tiny_transformer import LAYERS, Layout, TinyTransformer

ASKED = ("2 -1", "+", "-", "0.5 1")


class GatedBlock(TinyTransformer):
    """Two numbers x; `x + (silu(g) · l) down`, where g and l are linear in x over its root mean square; the logits are
    ± a sum of that. Sites at x and at some of the hooks inside.
    """

    def __init__(self, *inside: str) -> None:
        generator = torch.Generator().manual_seed(3)
        self.gate, self.up, self.down, self.out = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 3), (2, 3), (3, 2), (2,))
        )
        sizes = {"x": 2, "pre": 3, "linear": 3, "post": 3}
        sites = [
            Site(name, "neuron", name, name, n, IdentityCoder(sizes[name])) for n, name in enumerate(("x", *inside))
        ]
        Adapter.__init__(self, "gated", "", sites, [Example(*ASKED)])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[[float(word) for word in prompt.split()]] for prompt in prompts], dtype=torch.float64)
        return Inputs(values, torch.ones(len(prompts), 1).bool(), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            y = hooks[name](x) if name in hooks else None
            return x if y is None else y

        x = at("x", inputs.values)
        h = x / at("scale", x.square().mean(-1, keepdim=True).sqrt())
        pre, linear = at("pre", h @ self.gate), at("linear", h @ self.up)
        m = (x + at("post", silu(pre) * linear) @ self.down) @ self.out
        return torch.stack([m, -m], -1)

    def relevance(self) -> RelevanceRules:
        return RelevanceRules(("scale",), (ActivationFunction("pre", "post", "linear"),))

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)

    def output_label(self, index: int) -> str:
        return "+-"[index]


def slopes(block: GatedBlock, prompt: str) -> Tensor:
    """What the rules say of `∂m/∂x`, in numbers: m is the first logit less the second."""
    x = torch.tensor([float(word) for word in prompt.split()], dtype=torch.float64)
    h = x / x.square().mean().sqrt()
    g, u, back = h @ block.gate, h @ block.up, block.down @ block.out
    inner = block.gate @ (g.sigmoid() * u / 2 * back) + block.up @ (silu(g) / 2 * back)
    return 2 * (block.out + inner / x.square().mean().sqrt())


def test_a_gated_block_by_hand() -> None:
    block = GatedBlock()
    circuit = circuitlens.find(block, *ASKED, "relp")
    expected = torch.tensor([1.5, -2.0]) * (slopes(block, ASKED[0]) + slopes(block, ASKED[3])) / 2
    found = {node.index: node.attribution for node in circuit.nodes if node.kind == "neuron"}
    assert [found[0], found[1]] == pytest.approx(expected.tolist(), rel=1e-12)
    plain = circuitlens.find(block, *ASKED, "contrastive")
    assert max(abs(node.attribution - found[node.index or 0]) for node in plain.nodes if node.kind == "neuron") > 0.1


@pytest.mark.parametrize("inside", [(), ("pre",), ("linear",), ("post",), ("pre", "linear", "post")])
def test_what_flows_in_flows_out_wherever_the_block_is_cut(inside: tuple[str, ...]) -> None:
    """From zero the relevance of x is the metric, as there is no bias; a cut at a hook of a rule changes nothing."""
    block = GatedBlock(*inside)
    batch = tokenize(block, [ASKED[0]], ["+"], ["-"])
    traced = trace(block, batch.clean, batch.metric, rules=block.relevance())
    assert torch.equal(traced.logits, batch.clean.at_last(block.run(batch.clean, {})))
    total = total_gradients(traced)[0]
    close(total[0, 0], slopes(block, ASKED[0]))
    assert (total * batch.clean.values).sum().item() == pytest.approx(traced.metric.item(), rel=1e-12)
    nodes = score_nodes(traced)
    assert conservation_residual(nodes, score_edges(traced, nodes)) < 1e-12


def test_a_neuron_at_zero_has_the_slope_zero() -> None:
    block = GatedBlock()
    block.gate[:, 1] = 0
    batch = tokenize(block, [ASKED[0]], ["+"], ["-"])
    traced = trace(block, batch.clean, batch.metric, rules=block.relevance())
    total = total_gradients(traced)[0]
    assert (total * batch.clean.values).sum().item() == pytest.approx(traced.metric.item(), rel=1e-12)


class Linear(Freezable):
    """The model with its attention patterns, norm scales and the slopes of its activation functions for constants."""

    def __init__(self, model: Freezable, inputs: Inputs) -> None:
        vars(self).update(vars(model))
        values: dict[str, Tensor] = {}
        names = [*model.frozen, *(f"{n}.{name}" for n in range(LAYERS) for name in ("pre", "post"))]
        model.run(inputs, {name: lambda x, name=name: values.update({name: x}) for name in names})
        self.held = {name: values[name] for name in model.frozen}
        self.slopes = [values[f"{n}.post"] / values[f"{n}.pre"] for n in range(LAYERS)]

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        seen: dict[int, Tensor] = {}
        sloped: dict[str, Hook] = {}
        for n in range(LAYERS):
            sloped[f"{n}.pre"] = lambda x, n=n: seen.update({n: x})
            sloped[f"{n}.post"] = lambda _, n=n: self.slopes[n] * seen[n]
        return super().run(inputs, {**sloped, **hooks})


@pytest.mark.parametrize("layout", get_args(Layout))
def test_scores_are_the_mean_of_those_of_two_linear_models(layout: Layout) -> None:
    """Gradients and edges of the model with the slopes of the clean run, and with those of the corrupted one."""
    adapter = Freezable(layout)
    batch = several_answers(adapter, "log_probability")
    assert batch.corrupted is not None
    found = attribute_nodes(adapter, batch, "relp")
    edges, residual = attribute_edges(found, torch.ones_like(found.nodes.site, dtype=torch.bool))
    assert residual < 1e-11
    ends = [
        (Linear(adapter, inputs), PromptBatch(inputs, None, batch.metric)) for inputs in (batch.clean, batch.corrupted)
    ]
    for total, clean, corrupted in zip(found.nodes.totals, *(uncut_gradients(*end) for end in ends), strict=True):
        close(total, (clean + corrupted) / 2)
    if layout == "residual":  # no coder keeps a state, so that the changes of both runs are the same
        halves = [trace(model, end.clean, end.metric) for model, end in ends]
        scores = [score_nodes(halves[0], halves[1]), score_nodes(halves[1], halves[0])]
        each = [matrix(nodes, score_edges(half, nodes)) for half, nodes in zip(halves, scores, strict=True)]
        close(matrix(found.nodes, edges), (each[0] - each[1]) / 2)


def test_what_goes_to_nodes_left_out_is_in_the_sum() -> None:
    adapter = Freezable("normalised")
    found = attribute_nodes(adapter, several_answers(adapter, "log_probability"), "relp")
    keep = found.nodes.is_logit | (torch.arange(len(found.nodes.site)) % 3 == 0)
    edges, residual = attribute_edges(found, keep)
    assert residual < 1e-11
    assert keep[edges.source].all()
    assert keep[edges.target].all()
    assert edges.rest[keep].abs().max() > 0.01


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError, match="'relp' compares with a corrupted prompt: give one"):
        circuitlens.find(TinyTransformer(), "a b c", "d", "e", method="relp")
    with pytest.raises(PromptError, match="'relp' measures the model as it is, and frozen mode holds parts of it"):
        circuitlens.find(Freezable(), "a b c", "d", "e", "a b f", method="relp", frozen=True)
    monkeypatch.setattr(TinyTransformer, "relevance", Adapter.relevance)
    with pytest.raises(
        AdapterError, match="'tiny' names no rules of relevance, so it has no 'relp': use 'contrastive'"
    ):
        circuitlens.find(TinyTransformer(), "a b c", "d", "e", "a b f", method="relp")


def test_rules_that_change_a_value_are_refused() -> None:
    """Of a model that answers otherwise where there is a hook."""

    class Twice(GatedBlock):
        def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Any:
            return super().run(inputs, hooks) * (2 if "post" in hooks else 1)

    with pytest.raises(AdapterError, match="gives other logits than without"):
        circuitlens.find(Twice(), *ASKED, "relp")
