"""Integrated gradients by hand, by finite difference and by what patching a whole site really does; the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Example, Hook, IdentityCoder, Inputs, Site
from circuitlens.attribution.gradient import (
    VECTOR,
    EdgeScores,
    NodeScores,
    conservation_residual,
    directions,
    score_edges,
    score_nodes,
)
from circuitlens.attribution.integrated import STEPS, integrated_edges, integrated_gradients
from circuitlens.attribution.methods import check_method
from circuitlens.errors import PromptError
from circuitlens.literals import MethodName, MetricName
from circuitlens.prompts.batch import PromptBatch, Score, tokenize
from circuitlens.testing import example_batch
from circuitlens.tracing import Trace, trace
from tests.attribution.test_gradient import (
    TINY_PROMPTS,
    Freezable,
    Line,
    assert_same,
    direct_effect,
    matrix,
    padded,
    tables,
)
from tests.helpers import close
from tests.tiny_transformer import Layout, TinyTransformer

PROMPTS = TINY_PROMPTS[::2]


@pytest.fixture(params=[False, True], ids=["from zero", "from corrupted"])
def contrastive(request: pytest.FixtureRequest) -> bool:
    return request.param


def ragged(adapter: Adapter, metric: MetricName | Score | None = None) -> PromptBatch:
    """Two prompts, of three tokens and of one."""
    texts, answers, distractors, others = (list(column) for column in zip(*PROMPTS, strict=True))
    return tokenize(adapter, texts, answers, distractors, others, metric)


def traced(adapter: Adapter, asked: PromptBatch, contrastive: bool) -> tuple[Trace, Trace | None]:
    assert asked.corrupted is not None
    clean = trace(adapter, asked.clean, asked.metric)
    return clean, trace(adapter, asked.corrupted, asked.metric, graph=False) if contrastive else None


def activations(adapter: Adapter, inputs: Inputs) -> dict[str, Tensor]:
    """What flows through every hook of the plain model that a site reads or writes."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Hook:
        return lambda x: seen.update({name: x.detach().clone()})

    adapter.run(inputs, {name: note(name) for site in adapter.sites for name in (site.read, site.write)})
    return seen


def baselines(adapter: Adapter, asked: PromptBatch, contrastive: bool) -> list[Tensor]:
    """Every site's activation where integration starts: in the corrupted run, or with features and error 0."""
    assert asked.corrupted is not None
    clean = activations(adapter, asked.clean)
    other = activations(adapter, asked.corrupted)
    starts = []
    for site in adapter.sites:
        if contrastive:
            starts.append(other[site.write])
        elif site.coder is None:
            starts.append(torch.zeros_like(clean[site.write]))
        else:
            features = site.coder.encode(clean[site.read])  # and its state, where the coder keeps one
            starts.append(site.coder.decode(torch.zeros_like(features)).detach().expand_as(clean[site.write]))
    return starts


def metric_with(adapter: Adapter, asked: PromptBatch, site: Site, value: Tensor) -> Tensor:
    """The metric of the model with one site's activation put in by hand."""
    with torch.no_grad():
        return asked.metric(asked.clean.at_last(adapter.run(asked.clean, {site.write: lambda _: value.clone()})))


def site_sums(clean: Trace, nodes: NodeScores) -> Tensor:
    """Summed attributions of the nodes, errors included, of each example and site."""
    inner = nodes.site < len(clean.sites)
    sums = nodes.delta.new_zeros(len(clean.metric), len(clean.sites))
    return sums.index_put((nodes.example[inner], nodes.site[inner]), nodes.attribution[inner], accumulate=True)


# Completeness


def test_the_gap_is_what_the_nodes_miss_of_a_real_patch(model: Adapter, contrastive: bool) -> None:
    """`Σ nodes + error = m(clean) − m(site at its baseline) + gap`, whatever the number of steps."""
    asked = example_batch(model)
    clean, corrupted = traced(model, asked, contrastive)
    starts = baselines(model, asked, contrastive)
    nodes, gaps = integrated_gradients(model, clean, corrupted, 2)
    assert gaps.shape == (len(clean.metric), len(model.sites))
    sums = site_sums(clean, nodes)
    for s, (site, start) in enumerate(zip(model.sites, starts, strict=True)):
        change = clean.metric.detach() - metric_with(model, asked, site, start)
        close(sums[:, s], change + gaps[:, s])


@pytest.mark.parametrize("layout", get_args(Layout))
def test_many_steps_leave_no_gap(layout: Layout, contrastive: bool) -> None:
    adapter = TinyTransformer(layout)
    asked = ragged(adapter)
    clean, corrupted = traced(adapter, asked, contrastive)
    starts = baselines(adapter, asked, contrastive)
    changes = torch.stack(
        [
            clean.metric.detach() - metric_with(adapter, asked, site, start)
            for site, start in zip(adapter.sites, starts, strict=True)
        ],
        1,
    )
    assert changes.abs().max() > 1
    few, some = (integrated_gradients(adapter, clean, corrupted, steps)[1] for steps in (1, 20))
    nodes, many = integrated_gradients(adapter, clean, corrupted, 400)
    assert (site_sums(clean, nodes) - changes).abs().max() < 1e-3
    # The midpoint rule: 20 times the steps leave a 400th of the gap.
    assert many.abs().max() < 1e-2 * some.abs().max() < 1e-3 * few.abs().max()


def test_the_toys_gap_goes_to_nothing(toy64: Adapter, contrastive: bool) -> None:
    """The toy has kinks, each of which spoils at most one step; behind the hidden layer it has none."""
    asked = example_batch(toy64)
    clean, corrupted = traced(toy64, asked, contrastive)
    for steps in (8, 1000):
        _, gaps = integrated_gradients(toy64, clean, corrupted, steps)
        assert gaps[:, 0].abs().max() < 25 / steps
        assert gaps[:, 1:].abs().max() < 1e-12


class Cubic(TinyTransformer):
    """A number x at hook "x"; the logits are x³ and −x³."""

    def __init__(self) -> None:
        sites = [Site("x", "feature", "x", "x", 0, IdentityCoder(1))]
        Adapter.__init__(self, "cubic", "", sites, [Example("2", "+", "-", "1")])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[[float(prompt)]] for prompt in prompts], dtype=torch.float64)
        return Inputs(values, torch.ones(len(prompts), 1).bool(), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        x = hooks["x"](inputs.values) if "x" in hooks else None
        x = inputs.values if x is None else x
        return torch.cat([x**3, -(x**3)], -1)

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize(("x", "other"), [(2.0, None), (2.0, 1.0), (-1.0, 3.0)])
def test_midpoints_by_hand(steps: int, x: float, other: float | None) -> None:
    """For x³ on a line of length d the midpoint rule misses d³/4n², and the left ends of the steps far more."""
    adapter = Cubic()
    asked = tokenize(adapter, [str(x)], ["+"], None, None if other is None else [str(other)])
    clean = trace(adapter, asked.clean, asked.metric)
    corrupted = None if asked.corrupted is None else trace(adapter, asked.corrupted, asked.metric, graph=False)
    nodes, gaps = integrated_gradients(adapter, clean, corrupted, steps)
    start = other or 0.0
    d = x - start
    (found,) = nodes.attribution[(nodes.site == 0) & (nodes.index == 0)].tolist()
    assert found == pytest.approx(x**3 - start**3 - d**3 / (4 * steps**2), rel=1e-12)
    assert gaps.item() == pytest.approx(-(d**3) / (4 * steps**2), rel=1e-9)
    left = sum(3 * (start + k / steps * d) ** 2 * d / steps for k in range(steps))
    assert abs(left - (x**3 - start**3)) > 3 * abs(gaps.item())


# Where the model is linear


def test_a_linear_model_is_integrated_exactly() -> None:
    line = Line()
    asked = tokenize(line, ["1 5", "2 -3"], ["+", "-"], ["-", "+"], ["0 2", "2 1"])
    clean, corrupted = traced(line, asked, True)
    plain = score_nodes(clean, corrupted)
    nodes, gaps = integrated_gradients(line, clean, corrupted)
    assert gaps.abs().max() < 1e-4  # single precision
    close(nodes.attribution, plain.attribution)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    # Edges into a neuron that is 0 somewhere on the way are shared out otherwise; what flows is the same.
    ours, theirs = (
        matrix(nodes, integrated_edges(line, clean, corrupted, nodes, keep)),
        matrix(plain, score_edges(clean, plain)),
    )
    close(ours.sum(1), theirs.sum(1))
    logits = nodes.site == 2
    close(ours[:, logits], theirs[:, logits])


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_behind_the_toys_hidden_layer_ig_is_contrastive(toy64: Adapter, steps: int, contrastive: bool) -> None:
    """Hidden neurons, features and errors feed the logits linearly, but for the features' own kinks."""
    clean, corrupted = traced(toy64, example_batch(toy64), contrastive)
    plain = score_nodes(clean, corrupted)
    nodes, _ = integrated_gradients(toy64, clean, corrupted, steps)
    above = nodes.site > 0
    close(nodes.attribution[above], plain.attribution[above])
    assert nodes.attribution[above].abs().max() > 1
    if contrastive:
        assert (nodes.attribution - plain.attribution)[~above].abs().max() > 0.1  # inputs pass a ReLU
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    ours = matrix(nodes, integrated_edges(toy64, clean, corrupted, nodes, keep, steps))
    theirs = matrix(plain, score_edges(clean, plain))
    sae, logits = nodes.site == 2, nodes.site == 3
    close(ours[sae][:, logits], theirs[sae][:, logits])


def test_a_site_that_does_not_change_has_no_effect() -> None:
    """Corrupted in the last word, a prompt's earlier positions hold nothing; not corrupted at all, none does."""
    adapter = TinyTransformer("components")
    asked = tokenize(adapter, ["a b c", "a b"], ["d", "d"], ["e", "e"], ["a b f", "a b"])
    clean, corrupted = traced(adapter, asked, True)
    nodes, gaps = integrated_gradients(adapter, clean, corrupted)
    inner = nodes.site < len(clean.sites)
    unchanged = inner & ((nodes.example == 1) | (nodes.pos < 2))
    assert (nodes.attribution[unchanged] == 0).all()
    assert (gaps[1] == 0).all()
    position = [site.name for site in adapter.sites].index("position")
    assert (nodes.totals[position] == 0).all()  # never run


# Nodes against the slow oracle


def on_the_way(adapter: Adapter, asked: PromptBatch, contrastive: bool, steps: int, s: int) -> list[Tensor]:
    """The midpoints of one site's line."""
    start = baselines(adapter, asked, contrastive)[s]
    end = activations(adapter, asked.clean)[adapter.sites[s].write]
    return [start + (k + 0.5) / steps * (end - start) for k in range(steps)]


@pytest.mark.parametrize("layout", get_args(Layout))
def test_nodes_against_finite_differences_step_by_step(layout: Layout, contrastive: bool) -> None:
    adapter = TinyTransformer(layout)
    asked = ragged(adapter)
    clean, corrupted = traced(adapter, asked, contrastive)
    steps, h = 3, 1e-6
    nodes, _ = integrated_gradients(adapter, clean, corrupted, steps)
    checked = 0
    for s, site in enumerate(adapter.sites):
        points = on_the_way(adapter, asked, contrastive, steps, s)
        here = ((nodes.site == s) & (nodes.delta != 0)).nonzero()[:, 0]
        for n in here[:: max(1, len(here) // 8)]:
            b, p = int(nodes.example[n]), int(nodes.pos[n])
            direction = directions(clean, nodes, s, n[None])[0]
            slopes = []
            for point in points:
                moved = torch.zeros_like(point)
                moved[b, p] = h * direction
                up, down = (metric_with(adapter, asked, site, point + sign * moved)[b] for sign in (1, -1))
                slopes.append((up - down) / (2 * h))
            expected = nodes.delta[n] * torch.stack(slopes).mean()
            assert nodes.attribution[n].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
            checked += 1
    assert checked > 20


# Edges


@cache
def whole(layout: Layout, contrastive: bool) -> tuple[TinyTransformer, Trace, Trace | None, NodeScores, Tensor]:
    """A trace of two ragged prompts, the integrated gradients of its nodes, and all their edges."""
    adapter = TinyTransformer(layout)
    clean, corrupted = traced(adapter, ragged(adapter), contrastive)
    nodes, _ = integrated_gradients(adapter, clean, corrupted, 3)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    edges = integrated_edges(adapter, clean, corrupted, nodes, keep, 3)
    assert conservation_residual(nodes, edges) < 1e-11
    return adapter, clean, corrupted, nodes, matrix(nodes, edges)


def scale(nodes: NodeScores) -> float:
    """What rounding is relative to."""
    return max(1.0, nodes.attribution.abs().max().item())


def test_edges_conserve_in_every_layout(model: Adapter, contrastive: bool) -> None:
    clean, corrupted = traced(model, example_batch(model), contrastive)
    nodes, _ = integrated_gradients(model, clean, corrupted, 2)
    bound = (1e-11 if nodes.delta.dtype == torch.float64 else 1e-5) * scale(nodes)
    logits = nodes.site == len(clean.sites)
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(1))
    for keep in (logits | (chance < 0.3),) if contrastive else (logits | True,):
        edges = integrated_edges(model, clean, corrupted, nodes, keep, 2)
        assert conservation_residual(nodes, edges, keep) <= bound
        assert keep[edges.source].all()
        assert keep[edges.target].all()
        assert (nodes.delta[edges.source] != 0).all()
        assert (nodes.site[edges.target] > nodes.site[edges.source]).all()
        assert torch.equal(nodes.example[edges.target], nodes.example[edges.source])
        pairs = torch.stack([edges.source, edges.target])
        assert pairs.unique(dim=1).shape == pairs.shape


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("contrastive", [False, True])
@settings(max_examples=2)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_edges_between_kept_nodes_are_those_of_all(layout: Layout, contrastive: bool, seed: int, share: float) -> None:
    adapter, clean, corrupted, nodes, every = whole(layout, contrastive)
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(seed))
    keep = (chance < share) | (nodes.site == len(clean.sites))
    edges = integrated_edges(adapter, clean, corrupted, nodes, keep, 3)
    found = matrix(nodes, edges)
    close(found[keep][:, keep], every[keep][:, keep])
    assert (found[~keep] == 0).all()
    assert (found[:, ~keep] == 0).all()
    # What is not kept takes its share, and so does what is active on the way alone and no node at all.
    out = found.sum(1) + edges.rest
    inner = keep & (nodes.site < len(clean.sites))
    close(out[inner], nodes.attribution[inner])
    assert (edges.rest[~keep] == 0).all()


def test_a_broken_edge_breaks_conservation() -> None:
    adapter, clean, corrupted, nodes, _ = whole("residual", True)
    edges = integrated_edges(adapter, clean, corrupted, nodes, torch.ones_like(nodes.site, dtype=torch.bool), 3)
    strongest = int(edges.weight.abs().argmax())
    broken = replace(edges, weight=edges.weight.index_fill(0, torch.tensor([strongest]), 0.0))
    assert conservation_residual(nodes, broken) > 0.99 * edges.weight[strongest].abs()


@pytest.mark.parametrize("layout", get_args(Layout))
def test_edges_against_the_slow_oracle_step_by_step(layout: Layout, contrastive: bool) -> None:
    """The mean, over the runs at the midpoints, of direct effects by finite difference."""
    adapter, clean, _, nodes, every = whole(layout, contrastive)
    asked = ragged(adapter)
    pairs = (every != 0).nonzero()
    chosen = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(2))[:40]].tolist()
    strongest = every.abs().flatten().argsort(descending=True)[:5]
    chosen += [[int(k) // len(every), int(k) % len(every)] for k in strongest]
    names = ("site", "example", "pos", "index")
    checked = 0
    for s, site in enumerate(adapter.sites):
        mine = [(u, d) for u, d in chosen if nodes.site[u] == s]
        runs = [
            trace(adapter, asked.clean, asked.metric, replaced={site.name: point})
            for point in (on_the_way(adapter, asked, contrastive, 3, s) if mine else ())
        ]
        theres = [score_nodes(run) for run in runs]
        for u, d in mine:
            coder = adapter.sites[int(nodes.site[d])].coder if nodes.site[d] < len(adapter.sites) else None
            if nodes.index[d] == VECTOR and getattr(coder, "stateful", False):
                continue  # the error takes what a layer norm's state carries, which no frozen error shows
            unit = directions(clean, nodes, s, torch.tensor([u]))[0]
            total = 0.0
            for run, there in zip(runs, theres, strict=True):
                same = torch.stack([getattr(there, name) == getattr(nodes, name)[d] for name in names]).all(0)
                if not same.any():
                    continue  # a feature that is off in this run passes nothing on
                columns = {
                    name: torch.cat([getattr(there, name), getattr(nodes, name)[[u]]])
                    for name in (*names, "activation", "delta", "gradient")
                }
                both = replace(there, **columns)
                target = int(same.nonzero()[0, 0])
                total += direct_effect(adapter, run, both, len(both.site) - 1, target, unit)
            assert every[u, d].item() == pytest.approx(total / 3, rel=1e-4, abs=1e-7)
            checked += 1
    assert checked > 20


def test_what_is_active_on_the_way_alone_takes_its_share() -> None:
    """Far from both runs other features are on: the edges into them are in no circuit, and in the rest."""
    adapter, clean, corrupted, nodes, every = whole("components", True)
    inner = nodes.site < len(clean.sites)
    lost = (nodes.attribution - every.sum(1))[inner]
    assert lost.abs().max() > 0.1
    edges = integrated_edges(adapter, clean, corrupted, nodes, torch.ones_like(inner), 3)
    close(edges.rest[inner], lost)


def saturated(logits: Tensor) -> Tensor:
    """A margin that counts up to 0.1: at the clean run it has no gradient at all."""
    return (logits[:, 4] - logits[:, 5] + 0.1 * logits[:, 1]).clamp(max=0.1)


def test_a_metric_that_is_flat_at_the_clean_run_is_integrated() -> None:
    """Its gradients are 0 where one would look first; on the way other outputs count, that were no node there."""
    adapter = TinyTransformer()
    asked = tokenize(adapter, ["a b c"], ["d"], ["e"], ["a b f"], saturated)
    assert asked.corrupted is not None
    clean, corrupted = traced(adapter, asked, True)
    if saturated(clean.logits).item() < 0.1:  # the other way round, then
        asked = tokenize(adapter, ["a b f"], ["d"], ["e"], ["a b c"], saturated)
        clean, corrupted = traced(adapter, asked, True)
    assert corrupted is not None
    assert corrupted.metric.item() < 0 < clean.metric.item()
    assert (score_nodes(clean, corrupted).attribution == 0).all()
    nodes, _ = integrated_gradients(adapter, clean, corrupted)
    assert nodes.attribution.abs().max() > 0.1
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    assert conservation_residual(nodes, integrated_edges(adapter, clean, corrupted, nodes, keep)) < 1e-11


# Batches, padding, and traces


@pytest.mark.parametrize("layout", ["residual", "normalised"])
@pytest.mark.parametrize("positions", [1, 12])
def test_how_steps_are_batched_changes_nothing(
    layout: Layout, positions: int, contrastive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, _, expected, every = whole(layout, contrastive)
    monkeypatch.setattr("circuitlens.attribution.integrated.POSITIONS", positions)
    adapter = TinyTransformer(layout)
    clean, corrupted = traced(adapter, ragged(adapter), contrastive)
    nodes, _ = integrated_gradients(adapter, clean, corrupted, 3)
    close(nodes.attribution, expected.attribution)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    close(matrix(nodes, integrated_edges(adapter, clean, corrupted, nodes, keep, 3)), every)


def ig_tables(adapter: Adapter, asked: PromptBatch, padding: tuple[int, int] = (0, 0)) -> list[Any]:
    assert asked.corrupted is not None
    asked = replace(asked, clean=padded(asked.clean, *padding), corrupted=padded(asked.corrupted, *padding))
    clean, corrupted = traced(adapter, asked, True)
    nodes, _ = integrated_gradients(adapter, clean, corrupted, 3)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    return tables(nodes, integrated_edges(adapter, clean, corrupted, nodes, keep, 3), asked.clean.first.tolist())


@pytest.mark.parametrize("layout", ["residual", "normalised"])
def test_neither_other_prompts_nor_padding_change_a_prompts_scores(layout: Layout) -> None:
    adapter = TinyTransformer(layout)
    alone = []
    for text, answer, distractor, other in PROMPTS:
        alone += ig_tables(adapter, tokenize(adapter, [text], [answer], [distractor], [other]))
    for padding in ((0, 0), (2, 1)):
        for ours, theirs in zip(ig_tables(adapter, ragged(adapter), padding), alone, strict=True):
            assert_same(ours, theirs)


def parameters(adapter: Adapter) -> list[torch.nn.Parameter]:
    """The parameters of every module that an adapter or one of its coders holds."""
    holders = [adapter, *(site.coder for site in adapter.sites)]
    modules = [part for holder in holders for part in vars(holder or object).values() if hasattr(part, "parameters")]
    return [p for module in modules if isinstance(module, torch.nn.Module) for p in module.parameters()]


def test_no_trace_is_left(model: Adapter) -> None:
    """Law 10: logits to the bit, no gradient, and nothing that fires in a later run."""
    asked = example_batch(model)
    before = model.run(asked.clean, {})
    grads = [(p.requires_grad, p.grad) for p in parameters(model)]
    values = [None if grad is None else grad.clone() for _, grad in grads]
    clean, corrupted = traced(model, asked, True)
    nodes, _ = integrated_gradients(model, clean, corrupted, 1)
    edges = integrated_edges(model, clean, corrupted, nodes, torch.arange(len(nodes.site)) % 3 < 2, 1)
    for found in (nodes.attribution, edges.weight, edges.rest):
        assert not found.requires_grad
    assert torch.equal(model.run(asked.clean, {}), before)
    for p, (wanted, grad), value in zip(parameters(model), grads, values, strict=True):
        assert p.requires_grad == wanted
        assert p.grad is grad  # None, or what the toy's training left
        assert grad is None or (value is not None and torch.equal(grad, value))


def test_each_site_is_reported_once_by_each_part() -> None:
    adapter, clean, corrupted, nodes, _ = whole("components", True)
    calls: list[str] = []
    integrated_gradients(adapter, clean, corrupted, 1, on_site=lambda: calls.append("nodes"))
    keep = nodes.site == len(adapter.sites)
    edges = integrated_edges(adapter, clean, corrupted, nodes, keep, 1, on_site=lambda: calls.append("edges"))
    assert calls == ["nodes"] * len(adapter.sites) + ["edges"] * len(adapter.sites)
    assert len(edges.weight) == 0  # logits have no edges among themselves


# The methods, through `find`

ASKED = ("a b c", "d", "e", "a b f")


@pytest.mark.parametrize("method", get_args(MethodName))
def test_a_circuit_says_its_method(method: MethodName) -> None:
    circuit = circuitlens.find(TinyTransformer("components"), *ASKED, method)
    assert circuit.method == method
    assert bool(circuit.completeness_gaps) == (method in ("ig", "exact"))
    assert circuit.from_corrupted == (method != "gradient")
    assert circuit.conservation_residual < 1e-11


@pytest.mark.parametrize(
    ("corrupted", "frozen", "expected"),
    [("a b f", False, "ig"), (None, False, "gradient"), ("a b f", True, "contrastive"), (None, True, "gradient")],
)
def test_the_default_method(corrupted: str | None, frozen: bool, expected: str) -> None:
    circuit = circuitlens.find(Freezable("residual"), "a b c", "d", "e", corrupted, frozen=frozen)
    assert (circuit.method, circuit.frozen) == (expected, frozen)


@pytest.mark.parametrize("method", ["ig", "exact"])
def test_measuring_methods_go_from_zero_where_nothing_is_corrupted(method: MethodName) -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, "a b c", "d", "e", method=method, max_nodes=None)
    assert circuit.corrupted is None
    assert not circuit.from_corrupted
    asked = tokenize(adapter, ["a b c"], ["d"], ["e"], ["a b f"])
    starts = baselines(adapter, asked, contrastive=False)
    assert circuit.completeness_gaps.keys() == {site.name for site in adapter.sites}
    if method == "ig":
        for site, start in zip(adapter.sites, starts, strict=True):
            nodes = [n.attribution for n in circuit.nodes if n.hook == site.write]
            change = circuit.metric.value - metric_with(adapter, asked, site, start).item()
            assert sum(nodes) == pytest.approx(change + circuit.completeness_gaps[site.name], abs=1e-9)


@pytest.mark.parametrize("method", ["ig", "exact"])
def test_frozen_mode_is_refused_by_what_measures(method: MethodName) -> None:
    with pytest.raises(PromptError, match=f"The method '{method}' measures the model as it is") as error:
        circuitlens.find(Freezable("residual"), *ASKED, method, frozen=True)
    assert "leave frozen out, or use 'gradient' or 'contrastive'" in str(error.value)


def test_methods_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PromptError, match="no method 'magic': choose one of gradient, contrastive, ig, exact"):
        check_method("magic", corrupted=True)
    with pytest.raises(PromptError, match="'contrastive' compares with a corrupted prompt: give one"):
        circuitlens.find(TinyTransformer(), "a b c", "d", "e", method="contrastive")


def test_edges_of_exact_are_those_of_ig() -> None:
    ig, exact = (circuitlens.find(TinyTransformer(), *ASKED, method) for method in ("ig", "exact"))
    assert exact.edges == ig.edges
    assert exact.completeness_gaps == ig.completeness_gaps
    assert [n.id for n in exact.nodes] == [n.id for n in ig.nodes]
    assert max(abs(a.attribution - b.attribution) for a, b in zip(exact.nodes, ig.nodes, strict=True)) > 0.1


@pytest.mark.parametrize("method", get_args(MethodName))
def test_every_method_takes_a_function_for_a_metric_and_no_nodes_at_all(method: MethodName) -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, *ASKED, method, metric=lambda logits: logits[:, 4].tanh(), max_nodes=0)
    assert circuit.metric.name == "custom"
    assert {n.kind for n in circuit.nodes} == {"logit"}
    assert circuit.edges == ()
    assert circuit.found is not None
    assert circuit.found.nodes > 20
    assert circuit.conservation_residual == 0


@pytest.mark.parametrize("method", ["ig", "exact"])
def test_edges_that_do_not_add_up_are_a_warning(
    method: MethodName, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuitlens.find(TinyTransformer(), *ASKED, method)
    assert not caplog.records

    def lossy(*options: Any, **named: Any) -> EdgeScores:
        edges = integrated_edges(*options, **named)
        return replace(edges, weight=edges.weight * 1.001)

    monkeypatch.setattr("circuitlens.attribution.methods.integrated_edges", lossy)
    circuitlens.find(TinyTransformer(), *ASKED, method)
    assert "not conserved" in caplog.text
