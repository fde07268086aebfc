"""Integrated gradients of nodes: completeness (docs/laws.md), finite differences, linear models."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.base import Runs
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.integrated import MOST, STEPS, STILL, TOLERANCE, integrated_edges, integrated_gradients
from circuitlens.attribution.nodes import directions, score_nodes
from circuitlens.attribution.scores import NodeScores, conservation_residual
from circuitlens.prompts.batch import tokenize
from circuitlens.testing import example_batch
from circuitlens.tracing import Trace, trace
from tests.helpers import close
from tests.models import Cubic, Line
from tests.oracles import baselines, metric_with, midpoints
from tests.scores import TWO_PROMPTS, matrix, tiny_batch, traced
from tests.tiny_transformer import Layout, TinyTransformer


def site_sums(clean: Trace, nodes: NodeScores) -> Tensor:
    """Summed attributions of the nodes, errors included, of each example and site."""
    inner = nodes.site < len(clean.sites)
    sums = nodes.delta.new_zeros(len(clean.metric), len(clean.sites))
    return sums.index_put((nodes.example[inner], nodes.site[inner]), nodes.attribution[inner], accumulate=True)


# Completeness


def test_the_gap_is_what_the_nodes_miss_of_a_real_patch(model: Adapter, contrastive: bool) -> None:
    """`Σ nodes + error = m(clean) − m(site at its baseline) + gap`, whatever the number of steps."""
    batch = example_batch(model)
    clean, corrupted = traced(model, batch, contrastive)
    starts = baselines(model, batch, contrastive)
    nodes, gaps = integrated_gradients(Runs(model, clean, corrupted), 2)
    assert gaps.shape == (len(clean.metric), len(model.sites))
    sums = site_sums(clean, nodes)
    for s, (site, start) in enumerate(zip(model.sites, starts, strict=True)):
        change = clean.metric.detach() - metric_with(model, batch, site, start)
        close(sums[:, s], change + gaps[:, s])


@pytest.mark.parametrize("layout", get_args(Layout))
def test_many_steps_leave_no_gap(layout: Layout, contrastive: bool) -> None:
    adapter = TinyTransformer(layout)
    batch = tiny_batch(adapter, TWO_PROMPTS)
    clean, corrupted = traced(adapter, batch, contrastive)
    starts = baselines(adapter, batch, contrastive)
    changes = torch.stack(
        [
            clean.metric.detach() - metric_with(adapter, batch, site, start)
            for site, start in zip(adapter.sites, starts, strict=True)
        ],
        1,
    )
    assert changes.abs().max() > 1
    few, some = (integrated_gradients(Runs(adapter, clean, corrupted), steps)[1] for steps in (1, 20))
    nodes, many = integrated_gradients(Runs(adapter, clean, corrupted), 400)
    assert (site_sums(clean, nodes) - changes).abs().max() < 1e-3
    # The midpoint rule: 20 times the steps leave a 400th of the gap.
    assert many.abs().max() < 1e-2 * some.abs().max() < 1e-3 * few.abs().max()


def test_the_toys_gap_goes_to_nothing(toy64: Adapter, contrastive: bool) -> None:
    """The toy has kinks, each of which spoils at most one step; behind the hidden layer it has none."""
    batch = example_batch(toy64)
    clean, corrupted = traced(toy64, batch, contrastive)
    for steps in (8, 1000):
        _, gaps = integrated_gradients(Runs(toy64, clean, corrupted), steps)
        assert gaps[:, 0].abs().max() < 25 / steps
        assert gaps[:, 1:].abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize(("x", "other"), [(2.0, None), (2.0, 1.0), (-1.0, 3.0)])
def test_midpoints_by_hand(steps: int, x: float, other: float | None) -> None:
    """For x³ on a line of length d the midpoint rule misses d³/4n², and the left ends of the steps far more."""
    adapter = Cubic()
    batch = tokenize(adapter, [str(x)], ["+"], None, None if other is None else [str(other)])
    clean = trace(adapter, batch.clean, batch.metric)
    corrupted = None if batch.corrupted is None else trace(adapter, batch.corrupted, batch.metric, graph=False)
    nodes, gaps = integrated_gradients(Runs(adapter, clean, corrupted), steps)
    start = other or 0.0
    d = x - start
    (found,) = nodes.attribution[(nodes.site == 0) & (nodes.index == 0)].tolist()
    assert found == pytest.approx(x**3 - start**3 - d**3 / (4 * steps**2), rel=1e-12)
    assert gaps.item() == pytest.approx(-(d**3) / (4 * steps**2), rel=1e-9)
    left = sum(3 * (start + k / steps * d) ** 2 * d / steps for k in range(steps))
    assert abs(left - (x**3 - start**3)) > 3 * abs(gaps.item())


def test_an_example_that_misses_much_has_three_times_the_steps() -> None:
    """By hand: of 4 steps the first misses 0.2 % of its contrast, the second 6.2 %; 12 leave a ninth of that."""
    adapter = Cubic()
    batch = tokenize(adapter, ["2.0", "1.0"], ["+", "+"], None, ["1.0", "-0.9"])
    runs = Runs(adapter, *traced(adapter, batch, True))
    nodes, gaps = integrated_gradients(runs)
    assert gaps[:, 0].tolist() == pytest.approx([-(1.0**3) / (4 * 4**2), -(1.9**3) / (4 * 12**2)], rel=1e-9)
    points = nodes.midpoints[0]
    assert points.example.bincount().tolist() == [4, 12]
    mine = points.example == 1
    assert points.share[mine].sort().values.tolist() == pytest.approx([(n + 0.5) / 12 for n in range(12)])
    assert points.weight[mine].tolist() == pytest.approx([1 / 12] * 12)
    close(nodes.attribution[nodes.example == 1], integrated_gradients(runs, 12)[0].attribution[nodes.example == 1])
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    assert conservation_residual(nodes, integrated_edges(runs, nodes, keep)) < 1e-12


@pytest.mark.parametrize("layout", get_args(Layout))
def test_what_a_site_misses_is_a_small_share_of_the_contrast(layout: Layout, contrastive: bool) -> None:
    """Or it has as many steps as there may be."""
    adapter = TinyTransformer(layout)
    clean, corrupted = traced(adapter, tiny_batch(adapter, TWO_PROMPTS), contrastive)
    nodes, gaps = integrated_gradients(Runs(adapter, clean, corrupted))
    contrast = (clean.metric - (0 if corrupted is None else corrupted.metric)).detach().abs()
    size = torch.maximum(contrast, STILL * clean.metric.detach().abs())[:, None]
    steps = torch.stack([points.example.bincount(minlength=len(contrast)) for points in nodes.midpoints], 1)
    assert ((gaps.abs() <= TOLERANCE * size) | (steps == MOST)).all()
    assert contrastive or len(set(steps.flatten().tolist())) > 1


# Where the model is linear


def test_a_linear_model_is_integrated_exactly() -> None:
    line = Line()
    batch = tokenize(line, ["1 5", "2 -3"], ["+", "-"], ["-", "+"], ["0 2", "2 1"])
    clean, corrupted = traced(line, batch, True)
    plain = score_nodes(clean, corrupted)
    nodes, gaps = integrated_gradients(Runs(line, clean, corrupted))
    assert gaps.abs().max() < 1e-4  # single precision
    close(nodes.attribution, plain.attribution)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    # Edges into a neuron that is 0 somewhere on the way are shared out otherwise; what flows is the same.
    ours, theirs = (
        matrix(nodes, integrated_edges(Runs(line, clean, corrupted), nodes, keep)),
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
    nodes, _ = integrated_gradients(Runs(toy64, clean, corrupted), steps)
    above = nodes.site > 0
    close(nodes.attribution[above], plain.attribution[above])
    assert nodes.attribution[above].abs().max() > 1
    if contrastive:
        assert (nodes.attribution - plain.attribution)[~above].abs().max() > 0.1  # inputs pass a ReLU
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    ours = matrix(nodes, integrated_edges(Runs(toy64, clean, corrupted), nodes, keep))
    theirs = matrix(plain, score_edges(clean, plain))
    sae, logits = nodes.site == 2, nodes.site == 3
    close(ours[sae][:, logits], theirs[sae][:, logits])


def test_a_site_that_does_not_change_has_no_effect() -> None:
    """Corrupted in the last word, a prompt's earlier positions hold nothing; not corrupted at all, none does."""
    adapter = TinyTransformer("components")
    batch = tokenize(adapter, ["a b c", "a b"], ["d", "d"], ["e", "e"], ["a b f", "a b"])
    clean, corrupted = traced(adapter, batch, True)
    nodes, gaps = integrated_gradients(Runs(adapter, clean, corrupted))
    inner = nodes.site < len(clean.sites)
    unchanged = inner & ((nodes.example == 1) | (nodes.pos < 2))
    assert (nodes.attribution[unchanged] == 0).all()
    assert (gaps[1] == 0).all()
    position = [site.name for site in adapter.sites].index("position")
    assert (nodes.totals[position] == 0).all()  # never run


# Nodes against the slow oracle


@pytest.mark.parametrize("layout", get_args(Layout))
def test_nodes_against_finite_differences_step_by_step(layout: Layout, contrastive: bool) -> None:
    adapter = TinyTransformer(layout)
    batch = tiny_batch(adapter, TWO_PROMPTS)
    clean, corrupted = traced(adapter, batch, contrastive)
    steps, h = 3, 1e-6
    nodes, _ = integrated_gradients(Runs(adapter, clean, corrupted), steps)
    checked = 0
    for s, site in enumerate(adapter.sites):
        points = midpoints(adapter, batch, contrastive, steps, s)
        here = ((nodes.site == s) & (nodes.delta != 0)).nonzero()[:, 0]
        for n in here[:: max(1, len(here) // 8)]:
            b, p = int(nodes.example[n]), int(nodes.pos[n])
            direction = directions(clean, nodes, s, n[None])[0]
            slopes = []
            for point in points:
                moved = torch.zeros_like(point)
                moved[b, p] = h * direction
                up, down = (metric_with(adapter, batch, site, point + sign * moved)[b] for sign in (1, -1))
                slopes.append((up - down) / (2 * h))
            expected = nodes.delta[n] * torch.stack(slopes).mean()
            assert nodes.attribution[n].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
            checked += 1
    assert checked > 20


# No trace left


def parameters(adapter: Adapter) -> list[torch.nn.Parameter]:
    """The parameters of every module that an adapter or one of its coders holds."""
    holders = [adapter, *(site.coder for site in adapter.sites)]
    modules = [part for holder in holders for part in vars(holder or object).values() if hasattr(part, "parameters")]
    return [p for module in modules if isinstance(module, torch.nn.Module) for p in module.parameters()]


def test_no_trace_is_left(model: Adapter) -> None:
    """Logits to the bit, no gradient, and nothing that fires in a later run."""
    batch = example_batch(model)
    before = model.run(batch.clean, {})
    grads = [(p.requires_grad, p.grad) for p in parameters(model)]
    values = [None if grad is None else grad.clone() for _, grad in grads]
    clean, corrupted = traced(model, batch, True)
    nodes, _ = integrated_gradients(Runs(model, clean, corrupted), 1)
    edges = integrated_edges(Runs(model, clean, corrupted), nodes, torch.arange(len(nodes.site)) % 3 < 2)
    for found in (nodes.attribution, edges.weight, edges.rest):
        assert not found.requires_grad
    assert torch.equal(model.run(batch.clean, {}), before)
    for p, (wanted, grad), value in zip(parameters(model), grads, values, strict=True):
        assert p.requires_grad == wanted
        assert p.grad is grad  # None, or what the toy's training left
        assert grad is None or (value is not None and torch.equal(grad, value))
