"""Nodes and edges by conductance on one way from the corrupted to the clean run (`way`): the default method.

A gradient at the clean run says what the next bit of a feature would do, which is nothing where the model has
saturated; integrated gradients, site by site, cost as many times a gradient as there are sites. On one way for all
sites each run serves every site, and a site's values are those that it takes together with all others. A node's
attribution is its conductance: the sum over intervals of `∂m/∂node` at the middle times how far the node moved. At a
site that every way to the metric passes they add up to the metric's change, but for a gap that is told.

Features that are active on the way alone are nodes too: what passes through them passes through no other.

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
from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.attribution.nodes import FEATURES, added, features_of_either, named_logits, scaled, score_nodes, shaped
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.attribution.way import Intervals, Points, Way, entries_of
from circuitlens.progress import Progress

ROUNDING = 100
"""Units of rounding, of the example's largest attribution, below which what does not change has none."""

FACTORS = 0.1, 2.0
"""Between which a node's edges are scaled to sum to its attribution: where the decision is sudden, gradients at its
middle say several times too much."""

STRETCHES = 1
"""Intervals over which edges are taken; two cost twice as much, and order the strongest edges hardly better."""


@dataclass(frozen=True)
class WayScores(NodeScores):
    """Nodes with what their edges need: the points at the ends of the stretches, and between them at their middles."""

    points: Points
    stretches: Intervals


class Path(AttributionMethod):
    """The change from the corrupted run, by conductance on the one way between the two."""

    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, Gaps]:
        """Some forwards and backwards, whatever the number of sites."""
        way = Way(runs, lambda: progress.step("nodes", 0))
        points, intervals, gaps = way.integrate()
        scores = _scores(way, points, intervals)
        over = stretches(points, len(gaps))
        used = torch.cat([over.left, over.middle, over.right]).unique()
        kept = Intervals(*(torch.searchsorted(used, getattr(over, c.name)) for c in fields(Intervals)))
        columns = {c.name: getattr(scores, c.name) for c in fields(NodeScores)}
        progress.step("nodes")
        return WayScores(**columns, points=points.chosen(used), stretches=kept), gaps

    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects at the middles of the stretches."""
        assert isinstance(nodes, WayScores), "scored by this method"
        return _edges(Way(runs), nodes, keep, progress)

    def steps(self, sites: int) -> Steps:
        """The nodes are one, the edges one a site."""
        return Steps(nodes=1, measured=0, edges=sites)


# Nodes


@dataclass(frozen=True)
class Changes:
    """How far the nodes of a site went over intervals, and `∂m/∂node` at their middles: features, a row each, with
    their decoder rows left out of the vectors `[interval, pos, ...]`.
    """

    interval: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    index: Int[Tensor, " row"]
    moved: Float[Tensor, " row"]
    gradient: Float[Tensor, " row"]
    vector: Float[Tensor, "interval pos ..."]


def changes(way: Way, points: Points, s: int, intervals: Intervals) -> Changes:
    """What the nodes of site `s` did over some intervals."""
    coder = way.clean.sites[s].site.coder
    vector = way.moved(points, s, intervals.left, intervals.right)
    interval, pos, index, moved = _features_moved(way, points, s, intervals)
    gradient = torch.zeros_like(moved)
    for start in range(0, len(index) if coder is not None else 0, FEATURES):
        now = slice(start, start + FEATURES)
        at = intervals.middle[interval[now]], pos[now]
        rows = coder.decoder_rows(points.reads[s][at], index[now])  # pyright: ignore[reportOptionalMemberAccess]
        gradient[now] = (points.gradients[s][at] * rows).flatten(1).sum(1)
        vector = added(vector, (interval[now], pos[now]), scaled(rows, -moved[now]))
    return Changes(interval, pos, index, moved, gradient, vector)


def _features_moved(way: Way, points: Points, s: int, intervals: Intervals) -> tuple[Tensor, ...]:
    """Interval, pos, index and change of the features of a site that changed over an interval, sorted."""
    if s in way.roots:  # straight lines
        example, pos, index, value, other = features_of_either(way.clean.sites[s], way.corrupted.sites[s])
        at, interval = entries_of(example, points.example[intervals.left])
        share = points.share[intervals.right] - points.share[intervals.left]
        return interval, pos[at], index[at], (value - other)[at] * share[interval]
    active, width = points.features[s], max(1, getattr(way.clean.sites[s].site.coder, "d_sae", 1))
    positions = way.clean.inputs.mask.shape[1]
    keys, values = [], []
    for rows, sign in ((intervals.left, -1), (intervals.right, 1)):
        at, interval = entries_of(active.example, rows)
        keys.append((interval * positions + active.pos[at]) * width + active.index[at])
        values.append(sign * active.value[at])
    key, place = torch.cat(keys).unique(return_inverse=True)
    moved = points.metric.new_zeros(len(key)).index_add(0, place, torch.cat(values))
    key, moved = key[moved != 0], moved[moved != 0]
    return key // width // positions, key // width % positions, key % width, moved


def _scores(way: Way, points: Points, intervals: Intervals) -> NodeScores:
    """All nodes: those of the clean and the corrupted run, and those that are active on the way alone."""
    example, middle = points.example[intervals.middle], intervals.middle
    width = points.share[intervals.right] - points.share[intervals.left]

    def averaged(gradient: Tensor) -> Tensor:
        total = gradient.new_zeros(len(way.clean.metric), *gradient.shape[1:])
        return total.index_add(0, example, scaled(gradient[middle], width))

    totals = [averaged(gradient) for gradient in points.gradients]
    base = score_nodes(way.clean, way.corrupted, totals, averaged(points.logit_gradient))
    tables = [_logits_table(way, points, intervals, example)]
    for s in range(len(way.clean.sites)):
        found = changes(way, points, s, intervals)
        along = (points.gradients[s][middle] * found.vector).flatten(2).sum(2)
        along = along.new_zeros(way.clean.inputs.mask.shape).index_add(0, example, along)
        b, p = way.clean.inputs.mask.nonzero(as_tuple=True)
        tables.append((torch.full_like(b, s), b, p, torch.full_like(b, VECTOR), along[b, p]))
        at = example[found.interval]
        tables.append((torch.full_like(at, s), at, found.pos, found.index, found.moved * found.gradient))
    return _merged(way, base, *(torch.cat(column) for column in zip(*tables, strict=True)))


def _logits_table(way: Way, points: Points, intervals: Intervals, example: Tensor) -> tuple[Tensor, ...]:
    """Site, example, pos, index and attribution of each logit node, an interval's rows after the other's."""
    along = points.logit_gradient[intervals.middle] * (points.logits[intervals.right] - points.logits[intervals.left])
    along = torch.zeros_like(way.clean.logits.detach()).index_add(0, example, along)
    named = named_logits(way.clean)
    every = torch.arange(len(along), device=along.device)
    b, index = named.nonzero(as_tuple=True)
    b, index = torch.cat([every, b]), torch.cat([torch.full_like(every, VECTOR), index])
    value = torch.cat([along.masked_fill(named, 0).sum(1), along[named]])
    return torch.full_like(b, len(way.clean.sites)), b, way.clean.inputs.last[b], index, value


def _merged(
    way: Way, base: NodeScores, site: Tensor, example: Tensor, pos: Tensor, index: Tensor, part: Tensor
) -> NodeScores:
    """The scores with attributions that are the sums of some parts, and nodes that have a part and are not there."""
    width = int(torch.cat([base.index, index]).max()) + 1
    number = NodeIndex(len(base.totals), way.clean.inputs.mask.shape[1], width)
    # By site first, as the rows of scores are; an example is a block of positions.
    size, positions = len(way.clean.metric), number.positions
    number = NodeIndex(len(base.totals), positions * size, width)
    known = number.number(base.site, base.example * positions + base.pos, base.index)
    key, place = torch.cat([known, number.number(site, example * positions + pos, index)]).unique(return_inverse=True)
    start = len(known)
    attribution = part.new_zeros(len(key)).index_add(0, place[start:], part)
    there = torch.zeros_like(key, dtype=torch.bool).index_fill(0, place[:start], True)
    column = dict[str, Tensor]()
    column["site"], block, column["index"] = number.parts(key)
    column["example"], column["pos"] = block // positions, block % positions
    for name in ("activation", "delta", "gradient"):
        column[name] = part.new_zeros(len(key)).index_copy(0, place[:start], getattr(base, name))
    # Where nothing changes, runs of other batches still differ by rounding.
    largest = part.new_zeros(size).scatter_reduce(0, column["example"], attribution.abs(), "amax")
    rounding = ROUNDING * torch.finfo(part.dtype).eps * largest[column["example"]]
    attribution = attribution.masked_fill((column["delta"] == 0) & (attribution.abs() <= rounding), 0)
    there |= (attribution != 0) & (column["index"] != VECTOR)
    return replace(base, **{name: values[there] for name, values in column.items()}, attribution=attribution[there])


# Edges


def stretches(points: Points, examples: int, count: int = STRETCHES) -> Intervals:
    """For each example, `count` intervals between points over which the metric goes equally far, up and down."""
    rows = []
    for example in range(examples):
        mine = (points.example == example).nonzero()[:, 0]
        mine = mine[points.share[mine].argsort()]
        gone = points.metric[mine].diff().abs().cumsum(0)
        gone = torch.cat([gone.new_zeros(1), gone]) / gone[-1].clamp_min(torch.finfo(gone.dtype).tiny)
        gone = gone + 1e-3 * points.share[mine]  # where the metric stands still, equal shares of the way
        goals = gone[-1] * torch.arange(2 * count + 1, device=gone.device) / (2 * count)
        at = (gone[:, None] - goals).abs().argmin(0)
        # Each point once, in their order: an interval has a middle of its own.
        for n in range(1, len(at)):
            at[n] = at[n].clamp(int(at[n - 1]) + 1, len(mine) - len(at) + n)
        rows.append(mine[at])
    ends = torch.stack(rows)
    return Intervals(*(ends[:, n : n + 2 * count - 1 : 2].T.flatten().contiguous() for n in range(3)))


def _edges(way: Way, nodes: WayScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
    points, over = nodes.points, nodes.stretches
    run = way.run(points.example[over.middle], points.share[over.middle])
    there, row_of = _in_run(way, nodes)
    known = row_of >= 0
    read = [reads[over.right] - reads[over.left] for reads in points.reads]
    wanted = (known & keep[row_of.clamp_min(0)]) | there.is_logit
    found = score_edges(run, there, wanted, lambda: progress.step("edges"), read)
    rest, coarse = torch.zeros_like(nodes.delta), torch.zeros_like(nodes.delta)
    # Outputs that enter the metric at a middle alone are no nodes: what goes to them is in the rest.
    here = known[found.target]
    rest.index_add_(0, row_of[found.source[~here]], found.weight[~here])
    rest.index_add_(0, row_of[known], found.rest[known])
    coarse.index_add_(0, row_of[known], there.attribution[known])
    count = len(nodes.site)
    key, place = (row_of[found.source[here]] * count + row_of[found.target[here]]).unique(return_inverse=True)
    weight = nodes.delta.new_zeros(len(key)).index_add(0, place, found.weight[here])
    factor = nodes.attribution / torch.where(coarse == 0, nodes.attribution, coarse)
    factor = factor.nan_to_num(1.0).clamp(*FACTORS)
    missing = (nodes.attribution - factor * coarse).masked_fill(~keep | nodes.is_logit, 0)
    source = key // count
    return EdgeScores(source, key % count, factor[source] * weight, factor * rest + missing)


def _in_run(way: Way, nodes: WayScores) -> tuple[NodeScores, Int[Tensor, " row"]]:
    """The nodes as they are in the run at the middles of the stretches, whose rows are its examples, and which row of
    `nodes` each is (-1: none).
    """
    points, over = nodes.points, nodes.stretches
    clean, middle = way.clean, over.middle
    example, mask = points.example[middle], clean.inputs.mask[points.example[middle]]
    tables, units, totals = [], [], []
    for s in range(len(clean.sites)):
        found, total = changes(way, points, s, over), points.gradients[s][middle]
        size = found.vector.flatten(2).norm(dim=2)
        unit = found.vector / shaped(size.clamp_min(torch.finfo(size.dtype).tiny), found.vector)
        r, p = mask.nonzero(as_tuple=True)
        along = (total * unit).flatten(2).sum(2)
        tables.append((torch.full_like(r, s), r, p, torch.full_like(r, VECTOR), size[r, p], along[r, p]))
        at = torch.full_like(found.index, s)
        tables.append((at, found.interval, found.pos, found.index, found.moved, found.gradient))
        units.append(unit)
        totals.append(total)
    slope, named = points.logit_gradient[middle], named_logits(clean)[example]
    others = slope.masked_fill(named, 0).norm(dim=1)
    for r, index, gradient in (
        (others.nonzero()[:, 0], None, others[others != 0]),
        (*named.nonzero(as_tuple=True), slope[named]),
    ):
        index = torch.full_like(r, VECTOR) if index is None else index
        last = clean.inputs.last[example][r]
        tables.append((torch.full_like(r, len(clean.sites)), r, last, index, torch.zeros_like(gradient), gradient))
    site, row, pos, index, moved, gradient = (torch.cat(column) for column in zip(*tables, strict=True))
    number = NodeIndex(len(units), mask.shape[1] * len(mask), int(torch.cat([index, nodes.index]).max()) + 1)
    order = number.number(site, row * mask.shape[1] + pos, index).argsort()
    site, row, pos, index, moved, gradient = (c[order] for c in (site, row, pos, index, moved, gradient))
    ours = number.number(nodes.site, nodes.example * mask.shape[1] + nodes.pos, nodes.index)  # sorted
    theirs = number.number(site, example[row] * mask.shape[1] + pos, index)
    at = torch.searchsorted(ours, theirs).clamp_max(len(ours) - 1)
    row_of = torch.where(ours[at] == theirs, at, torch.full_like(at, -1))
    columns = (site, row, pos, index, moved, moved, gradient, moved * gradient)
    return NodeScores(*columns, totals=tuple(totals), units=tuple(units), logit_gradient=slope), row_of
