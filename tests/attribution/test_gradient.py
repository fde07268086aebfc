"""Laws 3, 4, 6, 7, 8 and 9 of the engine, by hand, by finite difference and by intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cache, partial
from itertools import chain, combinations
from math import isclose
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Adapter, Example, Hook, IdentityCoder, Inputs, Site, SparseCoder
from circuitlens.attribution.gradient import (
    VECTOR,
    EdgeScores,
    NodeScores,
    conservation_residual,
    directions,
    score_edges,
    score_nodes,
)
from circuitlens.errors import AdapterError, PromptError
from circuitlens.literals import MetricName
from circuitlens.prompts.batch import PromptBatch, Score, tokenize
from circuitlens.testing import example_batch, uncut_gradients
from circuitlens.tracing import Decode, Edit, Trace, run_spliced, trace
from tests.helpers import close
from tests.tiny_transformer import LAYERS, D, Layout, TinyTransformer


def scored(adapter: Adapter, contrastive: bool) -> tuple[Trace, NodeScores, EdgeScores]:
    asked = example_batch(adapter)
    assert asked.corrupted is not None
    clean = trace(adapter, asked.clean, asked.metric)
    nodes = score_nodes(clean, trace(adapter, asked.corrupted, asked.metric, graph=False) if contrastive else None)
    return clean, nodes, score_edges(clean, nodes)


@pytest.fixture(params=[False, True], ids=["gradient", "contrastive"])
def contrastive(request: pytest.FixtureRequest) -> bool:
    return request.param


def made(layout: str, toy: Adapter, toy64: Adapter) -> Adapter:
    return {"toy": toy64, "toy32": toy}.get(layout) or TinyTransformer(layout)  # type: ignore[arg-type]


# Law 3


def test_attribution_is_the_sum_of_outgoing_edges(model: Adapter, contrastive: bool) -> None:
    clean, nodes, edges = scored(model, contrastive)
    out = torch.zeros_like(nodes.attribution).index_add(0, edges.source, edges.weight)
    inner = nodes.site < len(clean.sites)
    assert inner.sum() > 5
    close(out[inner], nodes.attribution[inner])
    assert conservation_residual(nodes, edges) < 1e-5 * clean.metric.abs().max()


def test_logit_attributions_sum_to_the_metric(model: Adapter, contrastive: bool) -> None:
    clean, nodes, _ = scored(model, contrastive)
    logits = nodes.site == len(clean.sites)
    sums = torch.zeros_like(clean.metric).index_add(0, nodes.example[logits], nodes.attribution[logits])
    expected = clean.metric.detach()
    if contrastive:
        corrupted = example_batch(model).corrupted
        assert corrupted is not None
        expected = expected - trace(model, corrupted, example_batch(model).metric, graph=False).metric
    close(sums, expected)


class Line(TinyTransformer):
    """Two numbers x, at hooks "a" and "b" one after the other; the logits are ±3 (b1 + 2 b2)."""

    def __init__(self) -> None:
        coder = IdentityCoder(2)
        sites = [Site("a", "input", "a", "a", 0, coder), Site("b", "neuron", "b", "b", 1, coder)]
        Adapter.__init__(self, "line", "", sites, [Example("1 1", "+", "-", "0 0")])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[[float(word) for word in prompt.split()]] for prompt in prompts])
        return Inputs(values, torch.ones(len(prompts), 1).bool(), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        a = hooks["a"](inputs.values) if "a" in hooks else None
        a = inputs.values if a is None else a
        b = a - 1  # exactly 0 at an input of 1
        c = hooks["b"](b) if "b" in hooks else None
        m = 3 * ((b if c is None else c) @ torch.tensor([1.0, 2.0]))
        return torch.stack([m, -m], -1)

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)

    def output_label(self, index: int) -> str:
        return "+-"[index]


def test_what_no_node_holds_still_counts() -> None:
    """Where a coder leaves nothing over, and a neuron is exactly 0, their shares of the gradient are not lost."""
    circuit = circuitlens.find(Line(), "1 5", "+", "-")
    assert circuit.conservation_residual == 0
    attribution = {node.id: node.attribution for node in circuit.nodes}
    # m = 6 (b1 + 2 b2), b = a - 1 = (0, 4): the inputs carry 6 and 60; b2 carries 48, b1 is off and holds nothing.
    assert attribution["a:0:0"] == 6
    assert attribution["a:0:1"] == 60
    assert attribution["b:0:1"] == 48
    assert "b:0:0" not in attribution
    weights = {(edge.source, edge.target): edge.weight for edge in circuit.edges}
    assert weights["a:0:0", "b:0:error"] == 6
    assert weights["a:0:1", "b:0:1"] == 60


def test_what_holds_nothing_and_passes_a_share_on_is_counted_as_found() -> None:
    """Inputs of 1 and 5, a neuron that is on, and the error that takes the other's share."""
    circuit = circuitlens.find(Line(), "1 5", "+", "-")
    assert circuit.found is not None
    assert circuit.found.nodes == sum(node.kind != "logit" for node in circuit.nodes) == 4
    assert circuit.found.features == 0  # inputs and neurons are none
    assert circuit.found.edges == len(circuit.edges)


def test_the_residual_in_a_circuit_is_that_of_its_edges(model: Adapter) -> None:
    example = model.examples[0]
    asked = (example.prompt, example.answer, example.distractor, example.corrupted)
    circuit = circuitlens.find(model, *asked, method="contrastive", max_edges=None)
    out = {node.id: 0.0 for node in circuit.nodes}
    for edge in circuit.edges:
        out[edge.source] += edge.weight
    gaps = [abs(node.attribution - out[node.id]) for node in circuit.nodes if node.kind != "logit"]
    assert circuit.conservation_residual == pytest.approx(max(gaps), abs=1e-12)
    assert circuit.conservation_residual > 0  # sums of rounded numbers: a residual of 0 was not computed


def test_a_residual_above_rounding_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    adapter = TinyTransformer()
    circuitlens.find(adapter, "a b c", "d", "e")
    assert not caplog.records

    def lossy(clean: Trace, nodes: NodeScores, *options: Any, **named: Any) -> EdgeScores:
        edges = score_edges(clean, nodes, *options, **named)
        return replace(edges, weight=edges.weight * 1.001)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitlens.attribution.methods.score_edges", lossy)
        circuitlens.find(adapter, "a b c", "d", "e")
    assert "not conserved" in caplog.text


def test_contrastive_changes_make_up_the_change_of_the_activation(model: Adapter) -> None:
    """`Σ Δ · direction = x_clean − x_corrupted` at every site but for rounding, with whatever state a coder keeps."""
    asked = example_batch(model)
    assert asked.corrupted is not None
    clean, corrupted = (trace(model, inputs, asked.metric) for inputs in (asked.clean, asked.corrupted))
    nodes = score_nodes(clean, corrupted)
    for s, (ours, theirs) in enumerate(zip(clean.sites, corrupted.sites, strict=True)):
        here = nodes.site == s
        delta = nodes.delta[here].view(-1, *[1] * (ours.write.dim() - 2))
        places = (nodes.example[here], nodes.pos[here])
        total = torch.zeros_like(ours.write).index_put(
            places, delta * directions(clean, nodes, s, here.nonzero()[:, 0]), accumulate=True
        )
        close(total.detach(), (ours.write - theirs.write).detach())


def test_a_broken_edge_breaks_conservation(model: Adapter) -> None:
    _, nodes, edges = scored(model, contrastive=False)
    broken = EdgeScores(edges.source[1:], edges.target[1:], edges.weight[1:], edges.rest)
    lost = edges.weight[0].abs().item()
    assert conservation_residual(nodes, broken) > 0.5 * lost > 0


def test_no_edge_skips_a_complete_cut() -> None:
    _, nodes, edges = scored(TinyTransformer("residual"), contrastive=True)
    assert (nodes.site[edges.target] - nodes.site[edges.source] == 1).all()


def test_edges_run_forward_and_stay_in_their_example(model: Adapter) -> None:
    _, nodes, edges = scored(model, contrastive=True)
    assert (nodes.site[edges.target] > nodes.site[edges.source]).all()
    assert (nodes.pos[edges.target] >= nodes.pos[edges.source]).all()
    assert torch.equal(nodes.example[edges.target], nodes.example[edges.source])
    pairs = torch.stack([edges.source, edges.target])
    assert pairs.unique(dim=1).shape == pairs.shape


# Law 4


def test_gradient_times_activation_decomposes_at_every_site(model: Adapter) -> None:
    """`⟨g, x⟩ = Σ f ∂m/∂f + ⟨g, dec(0)⟩ + ⟨g, ε⟩`."""
    clean, nodes, _ = scored(model, contrastive=False)
    checked = 0
    for s, site in enumerate(clean.sites):
        coder = site.site.coder
        if coder is None:
            continue
        bias = coder.decode(torch.zeros_like(coder.encode(site.read.detach())))  # with the coder's state as in this run
        total = nodes.totals[s].flatten(2) * clean.inputs.mask[..., None]
        bias, expected = bias.flatten(2), (total * site.write.detach().flatten(2)).sum()
        here = nodes.site == s
        close(nodes.attribution[here].sum() + (total * bias).sum(), expected)
        checked += 1
    assert checked >= 2


# Law 7


def moved(index: int, example: int, pos: int, by: float, direction: Tensor) -> Edit:
    """An edit that adds `by` to one feature, or `by · direction` to one vector."""

    def edit(features: Tensor | None, error: Tensor, _decode: Decode) -> tuple[Tensor | None, Tensor]:
        error = error.clone()
        if index == VECTOR:
            error[example, pos] += by * direction
        else:
            assert features is not None
            features = features.clone()
            features[example, pos, index] += by
        return features, error

    return edit


@pytest.mark.parametrize("layout", ["toy", "toy32", "residual", "components", "normalised"])
def test_every_node_gradient_by_finite_difference(layout: str, toy: Adapter, toy64: Adapter) -> None:
    adapter = made(layout, toy, toy64)
    asked = example_batch(adapter)
    clean, nodes, _ = scored(adapter, contrastive=False)
    # The toy is piecewise linear: single precision can take a large step.
    step, bound, kinds = (1e-2, 1e-3, set()) if layout == "toy32" else (1e-5, 1e-6, set())
    inner = (nodes.site < len(clean.sites)).nonzero()[:, 0].tolist()
    for n in inner[:: max(1, len(inner) // 70)]:
        s, index = int(nodes.site[n]), int(nodes.index[n])
        direction = directions(clean, nodes, s, torch.tensor([n]))[0]
        metrics = []
        for by in (step, -step):
            edit = moved(index, int(nodes.example[n]), int(nodes.pos[n]), by, direction)
            metrics.append(asked.metric(run_spliced(adapter, asked.clean, {adapter.sites[s].name: edit})))
        measured = ((metrics[0] - metrics[1]) / (2 * step))[int(nodes.example[n])]
        kinds.add((adapter.sites[s].kind, index == VECTOR))
        assert_close(nodes.gradient[n], measured, atol=bound, rtol=10 * bound)
    assert ("feature", True) in kinds
    assert ("feature", False) in kinds
    if layout == "components":
        assert ("embedding", True) in kinds
    if layout.startswith("toy"):
        assert ("input", False) in kinds


# Law 6, for edges: every other site's output held fixed


def direct_effect(adapter: Adapter, clean: Trace, nodes: NodeScores, source: int, target: int, unit: Tensor) -> float:
    """`∂m/∂d · ∂d/∂u|direct · Δu` by a central difference: the slow oracle of `score_edges`."""
    step = 1e-5
    s, t = int(nodes.site[source]), int(nodes.site[target])
    values = []

    def note(x: Tensor, seen: dict[str, Tensor], held: Hook | None) -> Tensor | None:
        y = None if held is None else held(x)
        seen["read"] = x if y is None else y  # what another site writes is read after the write
        return y

    for by in (step, -step):
        seen: dict[str, Tensor] = {}

        def hold(x: Tensor, k: int, by: float = by, seen: dict[str, Tensor] = seen) -> Tensor:
            if k == t:
                seen["write"] = x
            held = clean.sites[k].leaf.detach().clone()
            if k == s:
                held[nodes.example[source], nodes.pos[source]] += by * unit
            return held

        hooks: dict[str, Hook] = {site.write: partial(hold, k=k) for k, site in enumerate(adapter.sites)}
        if t < len(adapter.sites) and adapter.sites[t].read != adapter.sites[t].write:
            read = adapter.sites[t].read
            hooks[read] = partial(note, seen=seen, held=hooks.get(read))
        logits = adapter.run(clean.inputs, hooks)
        example, pos, index = (int(column[target]) for column in (nodes.example, nodes.pos, nodes.index))
        if t == len(adapter.sites):
            values.append(logits[example, pos, index] * nodes.gradient[target])
            continue
        coder = adapter.sites[t].coder
        total = nodes.totals[t][example, pos]
        if coder is None:
            values.append(seen["write"][example, pos] @ total)
            continue
        f = coder.encode(seen.get("read", seen["write"]))
        decoded = coder.decode(f)[example, pos]
        error = seen["write"][example, pos] - decoded
        values.append(error @ total if index == VECTOR else f[example, pos, index] * nodes.gradient[target])
    return float((values[0] - values[1]) / (2 * step) * nodes.delta[source])


@pytest.mark.parametrize("layout", ["toy", "residual", "components", "normalised"])
def test_edges_against_the_slow_oracle(layout: str, contrastive: bool, toy64: Adapter) -> None:
    adapter = made(layout, toy64, toy64)
    clean, nodes, edges = scored(adapter, contrastive)
    found = {(int(u), int(d)): float(w) for u, d, w in zip(edges.source, edges.target, edges.weight, strict=True)}
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(len(edges.weight), generator=generator)[:150].tolist()
    checked = 0
    for e in chosen:
        u, d = int(edges.source[e]), int(edges.target[e])
        stateful = (
            nodes.site[d] < len(clean.sites)
            and nodes.index[d] == VECTOR
            and getattr(adapter.sites[int(nodes.site[d])].coder, "stateful", False)
        )
        if stateful:  # the error takes what a layer norm's state carries, which no frozen error shows
            continue
        s = int(nodes.site[u])
        unit = directions(clean, nodes, s, torch.tensor([u]))[0]
        assert direct_effect(adapter, clean, nodes, u, d, unit) == pytest.approx(found[u, d], rel=1e-4, abs=1e-7)
        checked += 1
    assert checked > 25


# Law 8: the toy's ground truth


def by_hand(adapter: Adapter, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden activations and the output layer's margin weights and bias (run − runs), from the weights alone."""
    network = adapter.model  # pyright: ignore[reportAttributeAccessIssue]
    x = adapter.inputs([prompt]).values[0, 0]
    hidden = (network.hidden.weight @ x + network.hidden.bias).clamp_min(0)
    margin = network.output.weight[1] - network.output.weight[0]
    return hidden, margin, network.output.bias[1] - network.output.bias[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_sixteen_hidden_subsets_of_the_toy(dtype: str) -> None:
    adapter = circuitlens.load("toy", dtype=dtype)
    circuit = circuitlens.find(adapter, "The cats", "run", "runs")
    hidden, margin, bias = by_hand(adapter, "The cats")
    attribution = {node.index: node.attribution for node in circuit.nodes if node.kind == "neuron"}
    inputs = adapter.inputs(["The cats"])
    metric = tokenize(adapter, ["The cats"], ["run"], ["runs"]).metric
    subsets = list(chain.from_iterable(combinations(range(4), n) for n in range(5)))
    assert len(subsets) == 16
    for subset in subsets:
        kept = torch.zeros_like(hidden)
        kept[list(subset)] = 1

        def keep(f: Tensor | None, error: Tensor, _decode: Decode, kept: Tensor = kept) -> tuple[Tensor, Tensor]:
            assert f is not None
            return f * kept, error

        truth = margin @ (hidden * kept) + bias
        measured = metric(run_spliced(adapter, inputs, {"hidden": keep}))[0]
        close(measured, truth)
        # The hidden layer feeds the logits linearly, so attributions have to add up to the truth exactly.
        predicted = bias + sum(attribution.get(j, 0.0) for j in subset)
        close(torch.as_tensor(predicted), truth)


def test_toy_features_by_hand(toy64: Adapter) -> None:
    sae = toy64.sae  # pyright: ignore[reportAttributeAccessIssue]
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    hidden, margin, _ = by_hand(toy64, "The cats")
    f = (sae.encoder.weight @ hidden + sae.encoder.bias).clamp_min(0)
    expected = {i: (f[i] * (margin @ sae.decoder.weight[:, i])).item() for i in range(8) if f[i] > 0}
    found = {node.index: node.attribution for node in circuit.nodes if node.kind == "feature"}
    assert found == pytest.approx(expected, rel=1e-12)
    error = hidden - sae.decoder.weight @ f - sae.decoder.bias
    (node,) = [node for node in circuit.nodes if node.kind == "error"]
    assert node.attribution == pytest.approx((margin @ error).item(), rel=1e-12)
    assert node.activation == pytest.approx(error.norm().item(), rel=1e-12)
    # An edge H → F: margin through the feature, times the encoder weight, times the neuron.
    weights = {(edge.source, edge.target): edge.weight for edge in circuit.edges}
    for j in range(4):
        for i in expected:
            by_rule = (margin @ sae.decoder.weight[:, i] * sae.encoder.weight[i, j] * hidden[j]).item()
            assert weights.get((f"hidden:0:{j}", f"sae:0:{i}"), 0.0) == pytest.approx(by_rule, rel=1e-12)


# Law 9


Table = tuple[dict[Any, float], dict[Any, float]]


def tables(nodes: NodeScores, edges: EdgeScores, first: list[int]) -> list[Table]:
    """Each example's node and edge scores, with positions counted from its first token."""
    rows = list(zip(*(column.tolist() for column in (nodes.example, nodes.site, nodes.pos, nodes.index)), strict=True))
    keys = [(s, p - first[b], i) for b, s, p, i in rows]
    found: list[Table] = [({}, {}) for _ in first]
    for key, row, score in zip(keys, rows, nodes.attribution.tolist(), strict=True):
        found[row[0]][0][key] = score
    for u, d, w in zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True):
        found[rows[u][0]][1][keys[u], keys[d]] = w
    return found


def all_tables(
    adapter: Adapter, prompts: list[tuple[str, str, str, str]], padding: tuple[int, int] = (0, 0)
) -> list[Table]:
    texts, answers, distractors, others = (list(column) for column in zip(*prompts, strict=True))
    asked = tokenize(adapter, texts, answers, distractors, others)
    assert asked.corrupted is not None
    inputs, corrupted = (padded(batch, *padding) for batch in (asked.clean, asked.corrupted))
    clean = trace(adapter, inputs, asked.metric)
    nodes = score_nodes(clean, trace(adapter, corrupted, asked.metric, graph=False))
    return tables(nodes, score_edges(clean, nodes), inputs.first.tolist())


def padded(inputs: Inputs, left: int, right: int) -> Inputs:
    values, mask = inputs.values, inputs.mask
    wide = [0, 0] * (values.dim() - 2) + [left, right]
    return Inputs(torch.nn.functional.pad(values, wide), torch.nn.functional.pad(mask, [left, right]), inputs.tokens)


def assert_same(ours: Table, theirs: Table, layout: str = "") -> None:
    """Equal scores, counting what is missing as 0 (rounding decides whether an effect of 1e-17 is an edge)."""
    rounding = 1e-5 if layout == "toy32" else 1e-9
    for one, other in zip(ours, theirs, strict=True):
        for key in one.keys() | other.keys():
            a, b = one.get(key, 0.0), other.get(key, 0.0)
            assert isclose(a, b, rel_tol=max(1e-6, rounding), abs_tol=rounding), (key, a, b)


LAYOUTS = ["toy", "toy32", "residual", "components", "normalised"]
TOY_PROMPTS = [("The cats", "run", "runs", "The cat"), ("This baby", "runs", "run", "These babies")]
TINY_PROMPTS = [
    ("a b c", "d", "e", "a b f"),
    ("c d e a b", "a", "g", "c d b a b"),
    ("g", "b", "c", "f"),
    ("d d", "a", "b", "d e"),
]


@pytest.mark.parametrize("size", [7, 32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_alone_scores_as_in_any_batch(layout: str, size: int, toy: Adapter, toy64: Adapter) -> None:
    adapter = made(layout, toy, toy64)
    prompts = TOY_PROMPTS if layout.startswith("toy") else TINY_PROMPTS
    alone = [all_tables(adapter, [prompt])[0] for prompt in prompts]
    many = all_tables(adapter, [prompts[k % len(prompts)] for k in range(size)])
    for k, result in enumerate(many):
        assert_same(result, alone[k % len(prompts)], layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [(2, 0), (0, 3), (1, 1)])
def test_padding_changes_nothing(layout: str, padding: tuple[int, int], toy: Adapter, toy64: Adapter) -> None:
    adapter = made(layout, toy, toy64)
    prompts = TOY_PROMPTS if layout.startswith("toy") else TINY_PROMPTS
    for ours, theirs in zip(all_tables(adapter, prompts), all_tables(adapter, prompts, padding), strict=True):
        assert_same(ours, theirs, layout)


def test_padding_side_of_a_mixed_batch_changes_nothing() -> None:
    left, right = TinyTransformer(padding="left"), TinyTransformer(padding="right")
    for ours, theirs in zip(all_tables(left, TINY_PROMPTS), all_tables(right, TINY_PROMPTS), strict=True):
        assert_same(ours, theirs)


@settings(max_examples=8)
@given(order=st.permutations(range(4)), rows=st.integers(1, 70))
def test_order_and_vjp_batching_change_nothing(order: list[int], rows: int) -> None:
    adapter = TinyTransformer("components")
    expected = all_tables(adapter, TINY_PROMPTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitlens.attribution.gradient.ROWS", rows)
        shuffled = all_tables(adapter, [TINY_PROMPTS[k] for k in order])
    for k, result in zip(order, shuffled, strict=True):
        assert_same(result, expected[k])


# Fast rows against the generic path


def test_fast_rows_equal_the_generic_path(toy64: Adapter) -> None:
    x = torch.rand(40, 4, dtype=torch.float64) * 3
    for site in toy64.sites[1:]:
        coder = site.coder
        assert coder is not None
        active = coder.encode(x[:, None])[:, 0].nonzero()
        assert len(active) > 20
        at, index = x[active[:, 0]], active[:, 1]
        for fast, slow in (
            (coder.encoder_rows, SparseCoder.encoder_rows),
            (coder.decoder_rows, SparseCoder.decoder_rows),
        ):
            assert_close(fast(at, index), slow(coder, at, index))


# Metrics beside the logit difference, several answers and distractors, ragged


def mixed(logits: Tensor) -> Tensor:
    """A metric to which every output counts, and not by its logit alone."""
    return logits[:, 2].tanh() * logits[:, 5] + 0.1 * logits.square().mean(1)


METRICS: dict[str, MetricName | Score] = {
    "custom": mixed,
    **{name: name for name in get_args(MetricName)},
}
OF_ALL = ["custom", "log_probability", "probability_difference", "kl_divergence"]


def ragged(adapter: Adapter, name: str) -> PromptBatch:
    """Two prompts of two and one tokens; the first has two answers, the second two distractors (if any)."""
    distractors = None if name in ("logit", "log_probability") else ["e", ["g", "f"]]
    return tokenize(adapter, ["a b", "c"], [["d", "b"], "a"], distractors, ["a f", "e"], METRICS[name])


def scored_on(adapter: Adapter, asked: PromptBatch, contrastive: bool) -> tuple[Trace, NodeScores]:
    clean = trace(adapter, asked.clean, asked.metric)
    assert asked.corrupted is not None
    return clean, score_nodes(
        clean, trace(adapter, asked.corrupted, asked.metric, graph=False) if contrastive else None
    )


def matrix(nodes: NodeScores, edges: EdgeScores) -> Tensor:
    """Weights, `[source, target]`."""
    weights = nodes.delta.new_zeros(len(nodes.site), len(nodes.site))
    return weights.index_put((edges.source, edges.target), edges.weight)


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("name", METRICS)
def test_conservation_and_the_models_gradient_hold_for_every_metric(
    name: str, layout: Layout, contrastive: bool
) -> None:
    adapter = TinyTransformer(layout)
    asked = ragged(adapter, name)
    clean, nodes = scored_on(adapter, asked, contrastive)
    for total, expected in zip(nodes.totals, uncut_gradients(adapter, asked), strict=True):
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
    asked = ragged(adapter, name)
    assert asked.corrupted is not None
    _, nodes = scored_on(adapter, asked, contrastive)
    logits, corrupted = (inputs.at_last(adapter.run(inputs, {})) for inputs in (asked.clean, asked.corrupted))
    leaf = logits.clone().requires_grad_()
    gradient = torch.autograd.grad(asked.metric(leaf).sum(), leaf)[0]
    effect = gradient * (logits - corrupted if contrastive else logits)
    against = [[], []] if name in ("logit", "log_probability") else [[5], [7, 6]]
    for b, ours in enumerate(([4, 2], [1])):
        named = [*ours, *against[b]]
        expected = {index: effect[b, index].item() for index in named}
        if name not in ("logit", "logit_difference"):
            expected[VECTOR] = sum(effect[b, j].item() for j in range(8) if j not in named)
            assert abs(expected[VECTOR]) > 1e-3
        here = (nodes.site == len(adapter.sites)) & (nodes.example == b)
        assert (nodes.pos[here] == asked.clean.last[b]).all()
        found = dict(zip(nodes.index[here].tolist(), nodes.attribution[here].tolist(), strict=True))
        assert len(found) == here.sum()
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("name", OF_ALL)
def test_edges_into_the_rest_of_the_logits_sum_those_into_each(name: str, layout: Layout, contrastive: bool) -> None:
    """Against a circuit of the same metric in which every output has a node, and that against the slow oracle."""
    adapter = TinyTransformer(layout)
    asked = ragged(adapter, name)
    every = replace(asked.metric, answers=torch.arange(8).expand(2, 8), distractors=torch.full((2, 1), -1))
    clean, nodes = scored_on(adapter, asked, contrastive)
    apart, of_each = scored_on(adapter, replace(asked, metric=every), contrastive)
    found, each = matrix(nodes, score_edges(clean, nodes)), matrix(of_each, score_edges(apart, of_each))
    inner, last = nodes.site < len(clean.sites), len(clean.sites)
    for b, named in enumerate((asked.metric.answers[0], asked.metric.answers[1])):
        others = ((nodes.site == last) & (nodes.index == VECTOR) & (nodes.example == b)).nonzero()[:, 0]
        assert len(others) == 1
        unnamed = (of_each.site == last) & (of_each.example == b)
        for index in (*named.tolist(), *asked.metric.distractors[b].tolist()):
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


# Edges between some nodes only


@cache
def whole(layout: Layout, contrastive: bool) -> tuple[Trace, NodeScores, Tensor]:
    """A trace of two prompts, its nodes and all their edges."""
    adapter = TinyTransformer(layout)
    clean, nodes = scored_on(adapter, ragged(adapter, "probability_difference"), contrastive)
    return clean, nodes, matrix(nodes, score_edges(clean, nodes))


def assert_restricted(nodes: NodeScores, every: Tensor, keep: Tensor, edges: EdgeScores) -> None:
    """Edges are those of the full matrix between kept nodes, and the rest is what goes from them to the others."""
    found = matrix(nodes, edges)
    close(found[keep][:, keep], every[keep][:, keep])
    assert (found[~keep] == 0).all()
    assert (found[:, ~keep] == 0).all()
    close(edges.rest[keep], every[keep][:, ~keep].sum(1))
    pairs = torch.stack([edges.source, edges.target])
    assert pairs.unique(dim=1).shape == pairs.shape
    assert conservation_residual(nodes, edges, keep) < 1e-11


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("contrastive", [False, True], ids=["gradient", "contrastive"])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_edges_between_kept_nodes_are_those_of_all(layout: Layout, contrastive: bool, seed: int, share: float) -> None:
    clean, nodes, every = whole(layout, contrastive)
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(seed))
    keep = (chance < share) | (nodes.site == len(clean.sites))
    assert_restricted(nodes, every, keep, score_edges(clean, nodes, keep))


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("site", ["resid1", "resid2"])
def test_a_site_of_which_nothing_is_kept(layout: Layout, site: str) -> None:
    clean, nodes, every = whole(layout, contrastive=True)
    keep = nodes.site != [traced.site.name for traced in clean.sites].index(site)
    edges = score_edges(clean, nodes, keep)
    assert_restricted(nodes, every, keep, edges)
    assert edges.rest.abs().max() > 1e-3


def test_keeping_everything_leaves_no_rest() -> None:
    clean, nodes, every = whole("components", contrastive=True)
    edges = score_edges(clean, nodes, torch.ones_like(nodes.site, dtype=torch.bool))
    assert torch.equal(matrix(nodes, edges), every)
    assert (edges.rest == 0).all()


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize(
    ("limit", "size"), [("ROWS", 1), ("ROWS", 5), ("POSITIONS", 1), ("POSITIONS", 13), ("FEATURES", 3)]
)
def test_small_parts_change_nothing(
    layout: Layout, limit: str, size: int, contrastive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected, every = whole(layout, contrastive)
    monkeypatch.setattr(f"circuitlens.attribution.gradient.{limit}", size)
    adapter = TinyTransformer(layout)
    clean, nodes = scored_on(adapter, ragged(adapter, "probability_difference"), contrastive)
    assert torch.equal(nodes.index, expected.index)
    close(nodes.attribution, expected.attribution)
    close(matrix(nodes, score_edges(clean, nodes)), every)
    keep = (torch.arange(len(nodes.site)) % 3 > 0) | (nodes.site == len(clean.sites))
    assert_restricted(nodes, every, keep, score_edges(clean, nodes, keep))


def test_each_site_is_reported_once() -> None:
    clean, nodes, _ = whole("residual", contrastive=False)
    calls: list[None] = []
    score_edges(clean, nodes, on_site=lambda: calls.append(None))
    assert len(calls) == len(clean.sites)


# Frozen mode


class Freezable(TinyTransformer):
    """A tiny transformer with hooks at attention patterns and layer-norm scales; `held` values take their places."""

    def __init__(self, layout: Layout = "residual") -> None:
        super().__init__(layout)
        generator = torch.Generator().manual_seed(1)
        self.head = torch.randn(D, 8, generator=generator, dtype=torch.float64)
        inner = (f"{n}.{name}" for n in range(LAYERS) for name in ("scale1", "pattern", "scale2"))
        self.frozen = (*inner, "scale")
        self.held: dict[str, Tensor] = {}

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            x = self.held.get(name, x)
            y = hooks[name](x) if name in hooks else None
            return x if y is None else y

        def normed(name: str, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True)
            return x / at(name, (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())

        mask = inputs.mask
        seen = torch.ones(mask.shape[1], mask.shape[1]).tril().bool() & mask[:, None, :]
        places = (mask.long().cumsum(1) - 1).clamp_min(0)
        x = at("embed", self.embed[inputs.values]) + at("position", self.position[places])
        for n, (q, k, v, o, up, down) in enumerate(self.blocks):
            h = normed(f"{n}.scale1", x)
            scores = ((h @ q) @ (h @ k).transpose(1, 2)).masked_fill(~seen, -1e9)
            x = x + at(f"{n}.attn_out", at(f"{n}.pattern", scores.softmax(-1)) @ (h @ v) @ o)
            x = x + at(f"{n}.mlp_out", gelu(at(f"{n}.ln2", normed(f"{n}.scale2", x)) @ up) @ down)
            x = at(f"{n}.resid", x)
        return normed("scale", x) @ self.head


def held(adapter: Freezable, inputs: Inputs) -> Freezable:
    """The same model with the frozen hooks' values in `inputs` for constants."""
    values: dict[str, Tensor] = {}

    def note(name: str) -> Hook:
        return lambda x: values.update({name: x})

    adapter.run(inputs, {name: note(name) for name in adapter.frozen})
    assert len(values) == len(adapter.frozen) == 3 * LAYERS + 1
    constant = copy(adapter)
    constant.held = values
    return constant


@pytest.mark.parametrize("layout", get_args(Layout))
def test_frozen_scores_are_those_of_a_model_with_constant_values(layout: Layout, contrastive: bool) -> None:
    adapter = Freezable(layout)
    asked = ragged(adapter, "log_probability")
    assert asked.corrupted is not None
    constant = held(adapter, asked.clean)
    # What is compared with stays the model's own run.
    other = trace(adapter, asked.corrupted, asked.metric, graph=False) if contrastive else None
    frozen, expected = (
        trace(adapter, asked.clean, asked.metric, frozen=True),
        trace(constant, asked.clean, asked.metric),
    )
    close(frozen.logits.detach(), asked.clean.at_last(adapter.run(asked.clean, {})))
    nodes, by_hand = score_nodes(frozen, other), score_nodes(expected, other)
    edges = score_edges(frozen, nodes)
    close(nodes.attribution, by_hand.attribution)
    close(matrix(nodes, edges), matrix(by_hand, score_edges(expected, by_hand)))
    assert conservation_residual(nodes, edges) < 1e-11
    for total, gradient in zip(nodes.totals, uncut_gradients(constant, asked), strict=True):
        close(total, gradient)
    free = score_nodes(trace(adapter, asked.clean, asked.metric), other)
    assert (free.attribution - nodes.attribution).abs().max() > 0.1


@pytest.mark.parametrize("layout", get_args(Layout))
def test_frozen_gradients_by_finite_difference(layout: Layout) -> None:
    """One node moved for real, while patterns and scales keep the values of the clean run."""
    adapter = Freezable(layout)
    asked = ragged(adapter, "log_probability")
    constant, clean = held(adapter, asked.clean), trace(adapter, asked.clean, asked.metric, frozen=True)
    nodes = score_nodes(clean)
    inner = (nodes.site < len(clean.sites)).nonzero()[:, 0].tolist()
    for n in inner[:: len(inner) // 20]:
        s, b = int(nodes.site[n]), int(nodes.example[n])
        direction = directions(clean, nodes, s, torch.tensor([n]))[0]
        up, down = (
            asked.metric(run_spliced(constant, asked.clean, {adapter.sites[s].name: edit}))[b]
            for by in (1e-5, -1e-5)
            for edit in [moved(int(nodes.index[n]), b, int(nodes.pos[n]), by, direction)]
        )
        assert_close(nodes.gradient[n], (up - down) / 2e-5, atol=1e-7, rtol=1e-5)


def test_frozen_circuits_say_so() -> None:
    adapter = Freezable("components")
    frozen, free = (circuitlens.find(adapter, "a b c", "d", "e", "a b f", frozen=mode) for mode in (True, False))
    assert (frozen.frozen, free.frozen) == (True, False)
    assert frozen.metric == free.metric
    ours, theirs = ({n.id: n.attribution for n in c.nodes} for c in (frozen, free))
    assert max(abs(ours[name] - theirs.get(name, 0.0)) for name in ours) > 0.1
    assert frozen.conservation_residual < 1e-11


def test_an_adapter_without_frozen_hooks_has_no_frozen_mode() -> None:
    with pytest.raises(AdapterError, match="'tiny' names no hooks to freeze, so it has no frozen mode"):
        circuitlens.find(TinyTransformer(), "a b c", "d", "e", frozen=True)
