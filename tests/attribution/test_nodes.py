"""Node scores: decomposition, finite differences and the toy's ground truth (docs/laws.md)."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Adapter, SparseCoder
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, score_nodes
from circuitlens.prompts.batch import tokenize
from circuitlens.runs import Decode, run_spliced
from circuitlens.testing import example_batch
from circuitlens.tracing import trace
from tests.helpers import close
from tests.models import by_layout
from tests.oracles import hidden_by_hand, moved
from tests.scores import scored_example

# Decomposition


def test_gradient_times_activation_decomposes_at_every_site(model: Adapter) -> None:
    """`⟨g, x⟩ = Σ f ∂m/∂f + ⟨g, dec(0)⟩ + ⟨g, ε⟩`."""
    clean, nodes, _ = scored_example(model, contrastive=False)
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


def test_contrastive_changes_make_up_the_change_of_the_activation(model: Adapter) -> None:
    """`Σ Δ · direction = x_clean − x_corrupted` at every site but for rounding, with whatever state a coder keeps."""
    batch = example_batch(model)
    assert batch.corrupted is not None
    clean, corrupted = (trace(model, inputs, batch.metric) for inputs in (batch.clean, batch.corrupted))
    nodes = score_nodes(clean, corrupted)
    for s, (ours, theirs) in enumerate(zip(clean.sites, corrupted.sites, strict=True)):
        here = nodes.site == s
        delta = nodes.delta[here].view(-1, *[1] * (ours.write.dim() - 2))
        places = (nodes.example[here], nodes.pos[here])
        total = torch.zeros_like(ours.write).index_put(
            places, delta * directions(clean, nodes, s, here.nonzero()[:, 0]), accumulate=True
        )
        close(total.detach(), (ours.write - theirs.write).detach())


# Finite differences


@pytest.mark.parametrize("layout", ["toy", "toy32", "residual", "components", "normalised"])
def test_every_node_gradient_by_finite_difference(layout: str, toy: Adapter, toy64: Adapter) -> None:
    adapter = by_layout(layout, toy, toy64)
    batch = example_batch(adapter)
    clean, nodes, _ = scored_example(adapter, contrastive=False)
    # The toy is piecewise linear: single precision can take a large step.
    step, bound, kinds = (1e-2, 1e-3, set()) if layout == "toy32" else (1e-5, 1e-6, set())
    inner = (nodes.site < len(clean.sites)).nonzero()[:, 0].tolist()
    for n in inner[:: max(1, len(inner) // 70)]:
        s, index = int(nodes.site[n]), int(nodes.index[n])
        direction = directions(clean, nodes, s, torch.tensor([n]))[0]
        metrics = []
        for by in (step, -step):
            edit = moved(index, int(nodes.example[n]), int(nodes.pos[n]), by, direction)
            metrics.append(batch.metric(run_spliced(adapter, batch.clean, {adapter.sites[s].name: edit})))
        measured = ((metrics[0] - metrics[1]) / (2 * step))[int(nodes.example[n])]
        kinds.add((adapter.sites[s].kind, index == VECTOR))
        assert_close(nodes.gradient[n], measured, atol=bound, rtol=10 * bound)
    assert ("feature", True) in kinds
    assert ("feature", False) in kinds
    if layout == "components":
        assert ("embedding", True) in kinds
    if layout.startswith("toy"):
        assert ("input", False) in kinds


# The toy's ground truth


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_sixteen_hidden_subsets_of_the_toy(dtype: str) -> None:
    adapter = circuitlens.load("toy", dtype=dtype)
    circuit = circuitlens.find(adapter, "The cats", "run", "runs")
    hidden, margin, bias = hidden_by_hand(adapter, "The cats")
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
    hidden, margin, _ = hidden_by_hand(toy64, "The cats")
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
