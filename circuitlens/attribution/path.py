"""Nodes and edges on one way from the corrupted to the clean run (`way`): the default method.

A gradient at the clean run says what the next bit of a feature would do, which is nothing where the model has
saturated; integrated gradients, site by site, cost as many times a gradient as there are sites. On one way for all
sites each run serves every site.

A node's attribution is `Δ` times `∂m/∂node` averaged over the way, weighted by how far the activation came along its
own straight line there. Sites also leave that line and come back: features that are active on the way alone are
switched on and off against their error, which no node of either run does. What that is worth in all, so that a site
which every way to the metric passes has the metric's change but for a gap that is told, is shared among the site's
nodes by size.

Edges are direct effects in the run at the middle of the decision, over the whole way. A target's derivative there is
its secant, how far the feature went over how far what it reads would have taken it, so that a feature that is switched
on in between is a target as well; what features do not take goes to their error. A node's edges are scaled by what its
attribution is to what it is by this run alone; what that leaves over goes to the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.attribution.base import AttributionMethod, Gaps, Runs, Steps
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.integrated import logit_gradient_between
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import FEATURES, added, named_logits, scaled, score_nodes, shaped
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.attribution.way import AllPoints, Intervals, Points, Way
from circuitlens.progress import Progress
from circuitlens.torch_modes import wide

FACTORS = 0.1, 2.0
"""Between which a node's edges are scaled to sum to its attribution: where the decision is sudden, gradients at its
middle say several times too much."""


@dataclass(frozen=True)
class WayScores(NodeScores):
    """Nodes with what their edges need: the model at the middle of each example's decision."""

    middle: Points


class Path(AttributionMethod):
    """The change from the corrupted run, on the one way between the two."""

    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, Gaps]:
        """Some forwards and backwards, whatever the number of sites."""
        way = Way(runs, lambda: progress.step("nodes", 0))
        points, intervals, gaps = way.integrate()
        scores = _scores(way, points, intervals)
        columns = {c.name: getattr(scores, c.name) for c in fields(NodeScores)}
        progress.step("nodes")
        return WayScores(**columns, middle=points.chosen(middles(points, len(gaps)))), gaps

    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects at the middle of the decision."""
        assert isinstance(nodes, WayScores), "scored by this method"
        return _edges(Way(runs), nodes, keep, progress)

    def steps(self, sites: int) -> Steps:
        """The nodes are one, the edges one a site."""
        return Steps(nodes=1, measured=0, edges=sites)


# Nodes


def _scores(way: Way, points: AllPoints, intervals: Intervals) -> NodeScores:
    """All nodes of the clean and the corrupted run."""
    clean, example = way.clean, points.example[intervals.middle]
    totals, carried = [], []
    for s, site in enumerate(clean.sites):
        gradient = points.gradient(s, intervals.middle)
        moved = way.moved(points, s, intervals.left, intervals.right)
        line = (wide(site.write) - wide(way.corrupted.sites[s].write)).detach()
        length = line.square().flatten(2).sum(2).clamp_min(torch.finfo(line.dtype).tiny)
        along = (moved * line[example]).flatten(2).sum(2) / length[example]
        totals.append(torch.zeros_like(line).index_add(0, example, gradient * shaped(along, gradient)))
        done = (gradient * moved).flatten(1).sum(1)
        carried.append(torch.zeros_like(clean.metric.detach()).index_add(0, example, done))
    scores = score_nodes(clean, way.corrupted, totals, logit_gradient_between(way.runs))
    return _completed(scores, torch.stack(carried))


def _completed(scores: NodeScores, carried: Float[Tensor, "site batch"]) -> NodeScores:
    """The scores with what each site carries beyond their sum shared among its nodes, by size."""
    inner = ~scores.is_logit
    at = scores.site[inner], scores.example[inner]
    straight = scores.attribution[inner]
    sums, sizes = (torch.zeros_like(carried).index_put(at, x, accumulate=True) for x in (straight, straight.abs()))
    share = (carried - sums) / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    completed = straight + share.masked_fill(sizes == 0, 0)[at] * straight.abs()
    return replace(scores, attribution=scores.attribution.masked_scatter(inner, completed))


# Edges


def middles(points: AllPoints, examples: int) -> Int[Tensor, " example"]:
    """The row by which each example's metric has gone half of what it goes on the way, up and down."""
    rows = []
    for example in range(examples):
        mine = (points.example == example).nonzero()[:, 0]
        mine = mine[points.share[mine].argsort()]
        gone = points.metric[mine].diff().abs().cumsum(0)
        gone = torch.cat([gone.new_zeros(1), gone])
        # Where the metric stands still, half of the way.
        gone = gone / gone[-1].clamp_min(torch.finfo(gone.dtype).tiny) + 1e-3 * points.share[mine]
        rows.append(mine[1:-1][(gone[1:-1] - gone[-1] / 2).abs().argmin()])
    return torch.stack(rows)


def _edges(way: Way, nodes: WayScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
    count, there = len(nodes.site), _in_run(way, nodes)
    # Outputs that enter the metric at the middle alone are no nodes: what goes to them is in the rest.
    more = torch.ones_like(there.site[count:], dtype=torch.bool)
    read = [(wide(a.read) - wide(b.read)).detach() for a, b in zip(way.clean.sites, way.corrupted.sites, strict=True)]
    run = way.run(nodes.middle.example, nodes.middle.share)
    found = score_edges(run, there, torch.cat([keep, more]), lambda: progress.step("edges"), read)
    known = found.target < count
    rest = found.rest[:count].index_add(0, found.source[~known], found.weight[~known])
    source, target, weight = found.source[known], found.target[known], found.weight[known]
    here = there.attribution[:count]
    factor = nodes.attribution / torch.where(here == 0, nodes.attribution, here)
    factor = factor.nan_to_num(1.0).clamp(*FACTORS)
    missing = (nodes.attribution - factor * here).masked_fill(~keep | nodes.is_logit, 0)
    return EdgeScores(source, target, factor[source] * weight, factor * rest + missing)


def _in_run(way: Way, nodes: WayScores) -> NodeScores:
    """The nodes as they are in the run at the middles, and after them outputs that enter the metric there alone."""
    middle, clean = nodes.middle, way.clean
    delta, gradient, units = nodes.delta.clone(), torch.zeros_like(nodes.gradient), []
    for s, site in enumerate(clean.sites):
        here = nodes.site == s
        vectors = (here & (nodes.index == VECTOR)).nonzero()[:, 0]
        left = (wide(site.write) - wide(way.corrupted.sites[s].write)).detach()
        features = (here & (nodes.index != VECTOR)).nonzero()[:, 0]
        for some in features.split(FEATURES) if len(features) else ():
            at, coder = (nodes.example[some], nodes.pos[some]), site.site.coder
            assert coder is not None, "it has features"
            rows = wide(coder.decoder_rows(middle.reads[s][at], nodes.index[some]))
            gradient[some] = (middle.gradients[s][at] * rows).flatten(1).sum(1)
            left = added(left, at, scaled(rows, -nodes.delta[some]))
        size, at = left.flatten(2).norm(dim=2), (nodes.example[vectors], nodes.pos[vectors])
        units.append(left / shaped(size.clamp_min(torch.finfo(size.dtype).tiny), left))
        delta[vectors] = size[at]
        gradient[vectors] = (middle.gradients[s] * units[s]).flatten(2).sum(2)[at]
    slope = middle.logit_gradient
    others = slope.masked_fill(named_logits(clean), 0).norm(dim=1)
    logits = nodes.is_logit.nonzero()[:, 0]
    b, index = nodes.example[logits], nodes.index[logits]
    gradient[logits] = torch.where(index == VECTOR, others[b], slope[b, index.clamp_min(0)])
    more = others.index_fill(0, b[index == VECTOR], 0).nonzero()[:, 0]
    # Live is what changes: where it does not, nothing arrives.
    activation = torch.where(nodes.index == VECTOR, nodes.activation, delta)
    new = (
        *(torch.full_like(more, len(units)), more, clean.inputs.last[more], torch.full_like(more, VECTOR)),
        *(torch.zeros_like(others[more]), torch.zeros_like(others[more]), others[more]),
    )
    old = nodes.site, nodes.example, nodes.pos, nodes.index, activation, delta, gradient
    *columns, delta, gradient = (torch.cat(both) for both in zip(old, new, strict=True))
    columns = [*columns, delta, gradient, delta * gradient]
    return NodeScores(*columns, totals=middle.gradients, units=tuple(units), logit_gradient=slope)
