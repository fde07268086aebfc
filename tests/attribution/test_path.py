"""One way for all sites: completeness, nodes by hand, edges that conserve (docs/laws.md)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.base import Runs
from circuitlens.attribution.edges import STEEPEST, _secants
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, score_nodes
from circuitlens.attribution.path import Path, WayScores, middles
from circuitlens.attribution.scores import EdgeScores, NodeScores, conservation_residual
from circuitlens.attribution.way import TOLERANCE, AllPoints, Intervals, Points, Way
from circuitlens.errors import AdapterError
from circuitlens.progress import Progress
from circuitlens.prompts.batch import tokenize
from circuitlens.testing import example_batch
from tests.helpers import close
from tests.models import Line
from tests.scores import TINY_PROMPTS, TWO_PROMPTS, assert_same_tables, matrix, tables, tiny_batch, traced
from tests.tiny_transformer import Layout, TinyTransformer

LAYOUTS = get_args(Layout)


@cache
def found(layout: Layout) -> tuple[Way, AllPoints, Intervals, Tensor, WayScores]:
    """The way of two ragged prompts, what was run of it, and the nodes."""
    adapter = TinyTransformer(layout)
    runs = Runs(adapter, *traced(adapter, tiny_batch(adapter, TWO_PROMPTS), True))
    points, intervals, gaps = Way(runs).integrate()
    nodes, told = Path().nodes(runs, Progress())
    assert torch.equal(told.nan_to_num(), gaps.nan_to_num())
    assert isinstance(nodes, WayScores)
    return Way(runs), points, intervals, gaps, nodes


def edges_of(way: Way, nodes: NodeScores, keep: Tensor | None = None) -> EdgeScores:
    keep = torch.ones_like(nodes.site, dtype=torch.bool) if keep is None else keep
    return Path().edges(way.runs, nodes, keep, Progress())


def site_sums(nodes: NodeScores) -> Tensor:
    """Summed attributions of each example and site, the logits last."""
    sums = nodes.delta.new_zeros(len(nodes.logit_gradient), len(nodes.totals) + 1)
    return sums.index_put((nodes.example, nodes.site), nodes.attribution, accumulate=True)


# The way


@pytest.mark.parametrize("layout", LAYOUTS)
def test_intervals_cover_the_way_and_no_point_is_run_twice(layout: Layout) -> None:
    _, points, intervals, _, _ = found(layout)
    left, middle, right = (points.share[rows] for rows in (intervals.left, intervals.middle, intervals.right))
    close(middle, (left + right) / 2)
    for example in (0, 1):
        mine = points.example[intervals.middle] == example
        assert (points.example[intervals.left] == points.example[intervals.right]).all()
        ends = torch.stack([left[mine], right[mine]], 1).sort(0).values
        assert (ends[0, 0], ends[-1, 1]) == (0, 1)
        assert torch.equal(ends[1:, 0], ends[:-1, 1])
        shares = points.share[points.example == example]
        assert len(shares.unique()) == len(shares)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_points_are_runs_of_the_model(layout: Layout) -> None:
    """Between the ends the first sites are mixed, and all else is computed."""
    way, points, _, _, _ = found(layout)
    (row,) = ((points.example == 0) & (points.share == 0.25)).nonzero()[0].tolist()
    adapter, inputs = way.runs.adapter, way.clean.inputs.chosen(torch.tensor([0]))
    hooks: dict[str, Any] = {}
    for s in way.roots:
        ends = (trace.sites[s].write.detach()[[0]] for trace in (way.corrupted, way.clean))
        start, end = ends
        hooks[adapter.sites[s].write] = lambda _, x=start + 0.25 * (end - start): x
    logits = adapter.run(inputs, hooks)[:, int(inputs.last[0])]
    close(points.metric[[row]], way.clean.scored_by.chosen(torch.tensor([0]))(logits).detach())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaps_are_small_and_are_what_the_nodes_miss(layout: Layout) -> None:
    way, _, _, gaps, nodes = found(layout)
    change = (way.clean.metric - way.corrupted.metric).detach()
    assert change.abs().min() > 0.1
    sums = site_sums(nodes)
    cut = ~gaps[0].isnan()
    close(sums[:, :-1][:, cut], change[:, None] + gaps[:, cut])
    close(sums[:, -1], change)  # the metric is linear in the logits
    assert (gaps[:, cut].abs() <= TOLERANCE * change.abs()[:, None]).all()
    names = {way.runs.adapter.sites[s].name for s in cut.nonzero()[:, 0].tolist()}
    assert {"resid0", "resid1", "resid2"} <= names
    assert not names & {"attn0", "attn1", "attn2", "mlp0", "mlp1", "mlp2", "position"}


def test_a_site_that_ways_lead_around_has_no_gap_in_the_file() -> None:
    circuit = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f")
    assert circuit.method == "path"
    assert circuit.completeness_gaps.keys() == {"embed", "resid0", "resid1", "resid2"}


def test_where_the_decision_is_sudden_intervals_are_halved_there() -> None:
    adapter = TinyTransformer("residual")
    sudden = tokenize(
        adapter, ["a b c"], ["d"], ["e"], ["a b f"], lambda logits: (30 * (logits[:, 4] - logits[:, 5])).tanh()
    )
    runs = Runs(adapter, *traced(adapter, sudden, True))
    points, intervals, gaps = Way(runs).integrate()
    lengths = points.share[intervals.right] - points.share[intervals.left]
    assert lengths.min() <= 1 / 32
    assert lengths.max() >= 1 / 8
    change = (runs.clean.metric.detach() - points.metric[0]).abs()
    assert change > 1
    assert (gaps.abs() <= TOLERANCE * change).all()


def test_a_linear_model_needs_no_halving() -> None:
    line = Line()
    batch = tokenize(line, ["1 5", "2 -3"], ["+", "-"], ["-", "+"], ["0 2", "2 1"])
    runs = Runs(line, *traced(line, batch, True))
    nodes, gaps = Path().nodes(runs, Progress())
    assert gaps.nan_to_num().abs().max() < 1e-4  # single precision
    plain = score_nodes(runs.clean, runs.baseline)
    close(nodes.attribution, plain.attribution)


def test_sites_that_do_not_carry_the_prompts_are_refused() -> None:
    """Without embeddings among its sites, attention and MLP leave a way that no site is on."""
    adapter = TinyTransformer("components")
    adapter.sites = tuple(site for site in adapter.sites if site.name in ("attn0", "mlp1"))
    with pytest.raises(AdapterError, match=r"first sites of adapter 'tiny' \(attn0\) do not carry .* method='ig'"):
        circuitlens.find(adapter, "a b c", "d", "e", "a b f")
    assert circuitlens.find(adapter, "a b c", "d", "e", "a b f", "ig").method == "ig"


def test_a_prompt_that_does_not_change_has_no_effect() -> None:
    adapter = TinyTransformer("components")
    batch = tokenize(adapter, ["a b c", "a b"], ["d", "d"], ["e", "e"], ["a b f", "a b"])
    runs = Runs(adapter, *traced(adapter, batch, True))
    nodes, gaps = Path().nodes(runs, Progress())
    inner = nodes.site < len(adapter.sites)
    assert nodes.attribution[(nodes.example == 1) | (inner & (nodes.pos < 2))].abs().max() < 1e-12
    assert gaps[1].nan_to_num().abs().max() < 1e-12
    edges = Path().edges(runs, nodes, torch.ones_like(inner), Progress())
    assert len(edges.weight)
    assert conservation_residual(nodes, edges) < 1e-11


# Nodes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nodes_by_hand(layout: Layout) -> None:
    """`Δ` times the gradient, weighted by the way along each position's own line, and a share of what the site carries
    beside that.
    """
    way, points, intervals, _, nodes = found(layout)
    example = points.example[intervals.middle].tolist()
    steps = list(zip(*(rows.tolist() for rows in (intervals.left, intervals.middle, intervals.right)), strict=True))
    for s, site in enumerate(way.clean.sites):
        line = (site.write - way.corrupted.sites[s].write).detach()
        for b in (0, 1):
            mean, carried = torch.zeros_like(line[b]), 0.0
            for of, (left, middle, right) in zip(example, steps, strict=True):
                if of != b:
                    continue
                gone = way.moved(points, s, torch.tensor([left]), torch.tensor([right]))[0]
                gradient = points.gradient(s, torch.tensor([middle]))[0]
                carried += (gradient * gone).sum().item()
                for p in range(len(mean)):
                    if line[b, p].any():
                        part = (gone[p] * line[b, p]).sum() / line[b, p].square().sum()
                        mean[p] += part * gradient[p]
            rows = ((nodes.site == s) & (nodes.example == b)).nonzero()[:, 0]
            slope = (directions(way.clean, nodes, s, rows) * mean[nodes.pos[rows]]).sum(1)
            straight = nodes.delta[rows] * slope
            beside = carried - straight.sum()
            expected = straight + beside * straight.abs() / straight.abs().sum().clamp_min(1e-300)
            close(nodes.attribution[rows], expected)
            assert nodes.attribution[rows].sum().item() == pytest.approx(carried, abs=1e-9)


def test_first_sites_go_straight() -> None:
    """A decoder is affine, so features and error of a first site go straight: `Δ` times a mean gradient."""
    way, points, intervals, _, nodes = found("residual")
    assert way.roots == [0]
    width = points.share[intervals.right] - points.share[intervals.left]
    mean = torch.zeros_like(nodes.totals[0]).index_add(
        0, points.example[intervals.middle], points.gradient(0, intervals.middle) * width[:, None, None]
    )
    rows = (nodes.site == 0).nonzero()[:, 0]
    gradient = (directions(way.clean, nodes, 0, rows) * mean[nodes.example[rows], nodes.pos[rows]]).sum(1)
    close(nodes.attribution[rows], nodes.delta[rows] * gradient)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_alone_and_in_a_batch(layout: Layout) -> None:
    adapter = TinyTransformer(layout)
    batch = tiny_batch(adapter)
    runs = Runs(adapter, *traced(adapter, batch, True))
    nodes, gaps = Path().nodes(runs, Progress())
    together = tables(nodes, edges_of(Way(runs), nodes), batch.clean.first.tolist())
    for n, prompt in enumerate(TINY_PROMPTS):
        one = tiny_batch(adapter, [prompt])
        runs = Runs(adapter, *traced(adapter, one, True))
        nodes, gap = Path().nodes(runs, Progress())
        (alone,) = tables(nodes, edges_of(Way(runs), nodes), [0])
        assert_same_tables(together[n], alone)
        close(gaps[n].nan_to_num(), gap[0].nan_to_num())


# Edges


def test_edges_conserve_in_every_layout(model: Adapter) -> None:
    runs = Runs(model, *traced(model, example_batch(model), True))
    nodes, _ = Path().nodes(runs, Progress())
    bound = (1e-11 if nodes.delta.dtype == torch.float64 else 1e-5) * max(1.0, nodes.attribution.abs().max().item())
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(1))
    for keep in (nodes.is_logit | (chance < 0.3), nodes.is_logit | True):
        edges = edges_of(Way(runs), nodes, keep)
        assert conservation_residual(nodes, edges, keep) <= bound
        assert keep[edges.source].all()
        assert keep[edges.target].all()
        assert (nodes.site[edges.target] > nodes.site[edges.source]).all()
        assert torch.equal(nodes.example[edges.target], nodes.example[edges.source])
        pairs = torch.stack([edges.source, edges.target])
        assert pairs.unique(dim=1).shape == pairs.shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_edges_between_kept_nodes_are_those_of_all(layout: Layout) -> None:
    way, _, _, _, nodes = found(layout)
    keep = nodes.is_logit | (torch.arange(len(nodes.site)) % 2 == 0)
    ours, theirs = (matrix(nodes, edges_of(way, nodes, chosen)) for chosen in (keep, None))
    close(ours[keep][:, keep], theirs[keep][:, keep])
    assert (ours[~keep] == 0).all()
    assert (ours[:, ~keep] == 0).all()


def test_edges_are_scaled_to_the_finer_integral(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bound they sum to the attribution by themselves; with one, nothing is more than doubled."""
    way, _, _, _, nodes = found("residual")
    bounded = edges_of(way, nodes)
    monkeypatch.setattr("circuitlens.attribution.path.FACTORS", (0, 1e9))
    free = edges_of(way, nodes)
    monkeypatch.setattr("circuitlens.attribution.path.FACTORS", (1, 1))
    plain = edges_of(way, nodes)
    at = bounded.source * len(nodes.site) + bounded.target
    for other in (free, plain):
        assert torch.equal(other.source * len(nodes.site) + other.target, at)
    factor = bounded.weight / plain.weight
    assert 0.1 <= factor.min() < 0.9
    assert 1.1 < factor.max() <= 2
    inner = nodes.attribution.abs() > 1e-3
    inner &= ~nodes.is_logit & (nodes.delta != 0)
    sums = matrix(nodes, free).sum(1)
    same_sign = matrix(nodes, plain).sum(1) * nodes.attribution > 0
    close(sums[inner & same_sign], nodes.attribution[inner & same_sign])


def test_secants_by_hand() -> None:
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0], [1, 0]])
    moved = torch.tensor([[2.0, 5], [2, 5], [3, 0], [2, 5], [2, 5]])
    change = torch.tensor([2.0, 0.5, 4, 100, -3])
    # Active throughout; switched on a quarter of the way; read nothing; pushed in, and out, by others.
    assert _secants(rows, moved, change).tolist() == [1.0, 0.25, 0.0, STEEPEST, 0.0]


def test_a_feature_that_is_switched_on_takes_its_share() -> None:
    """At the clean run it is off, and gradients there give it no edge at all."""
    way, _, _, _, nodes = found("residual")
    weights = matrix(nodes, edges_of(way, nodes))
    off = (nodes.index != VECTOR) & (nodes.site > 0) & (nodes.activation == 0) & ~nodes.is_logit
    assert weights[:, off].abs().sum(0).max() > 0.05 * nodes.attribution.abs().max()


def test_edges_are_taken_where_half_of_the_decision_is_made() -> None:
    share = torch.linspace(0, 1, 17)
    metric = torch.where(share < 0.5, torch.zeros(17), (share - 0.5) * 10)
    none = torch.zeros(17, 1)
    sudden = Points(torch.zeros(17, dtype=torch.long), share, metric, none, (), (), ())
    assert share[middles(AllPoints([sudden]), 1)].item() == 0.75
    assert share[middles(AllPoints([replace(sudden, metric=torch.zeros(17))]), 1)].item() == 0.5
