"""Integrated gradients at one site at a time: node and edge scores that saturation does not spoil.

A gradient at the clean run says what the next bit of a feature would do; where the model has saturated that is nothing,
or has the wrong sign. Integrated gradients (Sundararajan et al. 2017; for features Marks et al. 2024) average it on the
way from the baseline (the corrupted run, or zero) to the clean run. At each site by itself

1. features and error move together on the straight line between the two runs, which is the line between the two
   activations, as decoders are affine;
2. `∂m/∂x` is averaged over the midpoints of equal steps (left ends would be many times worse);
3. a node's attribution is `Δ · ⟨mean ∂m/∂x, direction⟩`, and the *completeness gap* is what the site's nodes miss of
   the metric's real change between the two ends of the line;
4. an example that misses more than a small share of its contrast gets three times the steps there. The midpoints of `n`
   steps are among those of `3n`, so that no run is lost; of `2n` steps none is one of `n`.

Edges are the direct effects in the runs at those midpoints, averaged alike, so that a node's outgoing edges sum to its
attribution exactly, as they do for gradients.

Cost: a forward and a backward a midpoint, from the site on, for each site that changes; midpoints are batched. Edges
begin with the gradients that the nodes' runs gave where sites cut the way to the metric: a run then ends at the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import agree
from circuitlens.attribution.base import AttributionMethod, Gaps, Runs, Steps
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.lines import Line, Midpoints, lines
from circuitlens.attribution.node_index import NodeIndex
from circuitlens.attribution.nodes import score_nodes, shaped
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.cuts import next_sites
from circuitlens.progress import Progress
from circuitlens.runs import rows_at_once, run_patched
from circuitlens.torch_modes import wide
from circuitlens.tracing import Trace, total_gradients, trace

STEPS = 4
"""Steps of a line at first: on a real model they rank nodes as well as more do."""

MOST = 36
"""Steps beyond which what is missed stays missed, and is told."""

TOLERANCE = 0.05
"""The share of the contrast (of the metric, from zero) that a site may miss before its steps are made finer."""

STILL = 0.02
"""The share of the metric that the contrast counts as at least: of next to nothing, any share is too fine."""

AT_LOGITS = 8
"""Steps of the logits' own way, which costs no run."""

POSITIONS = 2048
"""Points × positions of one run, if more than one point."""


@dataclass(frozen=True)
class IntegratedScores(NodeScores):
    """Nodes with what their edges need: the points of every site's line."""

    midpoints: tuple[Midpoints, ...]


class IntegratedGradients(AttributionMethod):
    """The change from the corrupted run, or from zero, times the gradient averaged on the way."""

    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, Gaps]:
        """Forwards and backwards from each site that changes."""
        return integrated_gradients(runs, progress=progress)

    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects in the runs at the midpoints."""
        return integrated_edges(runs, nodes, keep, progress=progress)

    def steps(self, sites: int) -> Steps:
        """One a site for the nodes, and one for the edges."""
        return Steps(nodes=sites, measured=0, edges=sites)


# Nodes


def integrated_gradients(
    runs: Runs, steps: int | None = None, progress: Progress | None = None
) -> tuple[IntegratedScores, Gaps]:
    """Every node's integrated gradients, and the completeness gap of each site, in units of the metric.

    Each line has as many steps as leave no large gap, or as many as are given.
    """
    progress, clean, after = progress or Progress(), runs.clean, next_sites(runs.clean)
    ways = lines(runs)
    known, columns = _known_starts(runs, ways, after), []
    for s, line in enumerate(ways):
        columns.append(_integrated(runs, s, line, after[s], _change(runs, s, line, known[s]), steps))
        progress.step("nodes")
    totals, gaps, points = zip(*columns, strict=True)
    scores = score_nodes(clean, runs.baseline, totals, logit_gradient_between(runs, steps or AT_LOGITS))
    given = {column.name: getattr(scores, column.name) for column in fields(NodeScores)}
    return IntegratedScores(**given, midpoints=points), torch.stack(gaps, 1)


def midpoints(runs: Runs, s: int) -> Midpoints:
    """The points of the line of site `s` at which its nodes are scored."""
    line = lines(runs)[s]
    return _integrated(runs, s, line, next_sites(runs.clean)[s], _change(runs, s, line), None)[2]


def _integrated(
    runs: Runs, s: int, line: Line, reached: Sequence[int], change: Float[Tensor, " batch"], steps: int | None
) -> tuple[Tensor, Float[Tensor, " batch"], Midpoints]:
    """One site: the mean gradient on its line, what it misses of the metric's `change` over it, and its points."""
    metric = runs.clean.metric.detach()
    contrast = metric if runs.baseline is None else metric - runs.baseline.metric.detach()
    most = TOLERANCE * torch.maximum(contrast.abs(), STILL * metric.abs())
    sums, gap, count = torch.zeros_like(line.end), torch.zeros_like(metric), torch.ones_like(metric)
    parts, todo, times = list[Midpoints](), line.moves.nonzero()[:, 0], steps or STEPS
    step = torch.arange(times, device=metric.device)
    while len(todo):
        share = (step.to(metric) + 0.5) / times
        size = rows_at_once(runs.clean.inputs, POSITIONS)
        rows = todo.repeat(len(share)), share.repeat_interleave(len(todo))
        for example, at in zip(*(column.split(size) for column in rows), strict=True):
            gradient, kept = _gradients(runs, s, line, reached, example, at)
            sums = sums.index_add(0, example, gradient)
            parts.append(Midpoints(example, at, torch.ones_like(at), kept))
        count[todo] = times
        moved = (sums / shaped(count, sums) * (line.end - line.start)).flatten(1).sum(1)
        gap = torch.where(line.moves, moved - change, gap)
        finer = steps is None and 3 * times <= MOST
        todo, times = todo[(gap.abs() > most)[todo] & finer], 3 * times
        step = torch.arange(times, device=metric.device)
        step = step[step % 3 != 1]  # the middle one of three was a midpoint before
    points = Midpoints.joined(parts) if parts else Midpoints(todo, metric[:0], metric[:0], None)
    return sums / shaped(count, sums), gap, points


def _gradients(
    runs: Runs, s: int, line: Line, reached: Sequence[int], example: Tensor, share: Tensor
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """`∂m/∂x` at points of the line of site `s`, and at the sites that it reaches if nothing else does it reach."""
    clean = runs.clean
    cut = () if len(clean.sites) in reached else reached
    names = [clean.sites[t].site.name for t in (s, *cut)]
    run = trace(
        runs.adapter,
        clean.inputs.chosen(example),
        clean.scored_by.chosen(example),
        replaced={names[0]: line.at(example, share)},
        only=names,
        coded=(),
        seen=clean,
        example=example,
    )
    here, *there = (total.detach() for total in total_gradients(run))
    return here, tuple(there) if cut else None


def _change(runs: Runs, s: int, line: Line, known: bool = False) -> Float[Tensor, " batch"]:
    """How far the metric goes while site `s` alone goes along its line; `known` is that at its start it is that of the
    corrupted run.
    """
    clean = runs.clean
    if not line.moves.any():
        return torch.zeros_like(clean.metric.detach())
    if known:
        assert runs.baseline is not None, "it is the corrupted run's"
        return (clean.metric - runs.baseline.metric).detach()
    with torch.no_grad():
        patch = lambda x: line.start.to(x.dtype, copy=True)  # noqa: E731
        logits = run_patched(runs.adapter, clean.inputs, clean.sites[s].site, patch, seen=clean)
        return clean.metric.detach() - clean.scored_by(logits)


def _known_starts(runs: Runs, ways: Sequence[Line], after: Sequence[Sequence[int]]) -> list[bool]:
    """Whether each site, put at the start of its line by itself, gives the corrupted run's metric.

    Where the sites that a site reaches are reached by nothing else that moves, and are then as in the corrupted run, so
    is all that follows: one run, with every site held there, shows of which sites that is so.
    """
    clean, corrupted = runs.clean, runs.baseline
    if corrupted is None:
        return [False] * len(ways)
    starts = {site.site.name: line.start for site, line in zip(clean.sites, ways, strict=True)}
    held = trace(runs.adapter, clean.inputs, clean.scored_by, graph=False, replaced=starts, coded=())
    arrived = [agree(a.write, b.write) for a, b in zip(held.sites, corrupted.sites, strict=True)]
    arrived, known = [*arrived, agree(held.logits, corrupted.logits)], [False] * len(ways) + [True]
    moving = [s for s, line in enumerate(ways) if line.moves.any()]
    for s in reversed(range(len(ways))):
        others = {t for u in moving if u != s for t in after[u]}
        known[s] = all(arrived[t] and known[t] and t not in others for t in after[s])
    return known[:-1]


def logit_gradient_between(runs: Runs, steps: int = AT_LOGITS) -> Float[Tensor, "batch output"]:
    """The metric's gradient in the logits, averaged on their own way from the corrupted run's (or zero)."""
    end = wide(runs.clean.logits.detach())
    start = torch.zeros_like(end) if runs.baseline is None else wide(runs.baseline.logits.detach())
    total = torch.zeros_like(end)
    for step in range(steps):
        logits = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        gradient = torch.autograd.grad(runs.clean.scored_by(logits).sum(), logits, allow_unused=True)[0]
        total += 0 if gradient is None else gradient / steps
    return total


# Edges


def integrated_edges(
    runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress | None = None
) -> EdgeScores:
    """Direct effects between the kept nodes, averaged along the line of each source's site; as `score_edges`."""
    assert isinstance(nodes, IntegratedScores), "scored by this method"
    progress, clean = progress or Progress(), runs.clean
    count = len(nodes.site)
    rest = torch.zeros_like(nodes.delta)
    keys = [nodes.site.new_zeros(0)]
    weights = [nodes.delta.new_zeros(0)]
    after = next_sites(clean)
    for s, line in enumerate(lines(runs)):
        # Only sites that the sources reach directly are targets; coding the others would be most of the work.
        cuts = torch.tensor(sorted({s, *after[s], len(clean.sites)}), device=nodes.site.device)
        rows = (keep & (nodes.site == s) & (nodes.delta != 0)).nonzero()[:, 0]
        for points in nodes.midpoints[s].of(nodes.example[rows], rows_at_once(clean.inputs, POSITIONS)):
            run, scored = _segment(runs, line, cuts, points)
            there, row_of = _with_sources(scored, nodes, cuts, rows, points.example)
            wanted = (row_of >= 0) & keep[row_of.clamp_min(0)]
            # Outputs that enter the metric on the way alone are no nodes: what goes to them is in the rest.
            found = score_edges(run, there, wanted | there.is_logit)
            share = points.weight[there.example]
            weight = found.weight * share[found.source]
            here = row_of[found.target] >= 0
            rest.index_add_(0, row_of[found.source[~here]], weight[~here])
            pairs = row_of[found.source[here]] * count + row_of[found.target[here]]
            key, place = pairs.unique(return_inverse=True)
            keys.append(key)
            weights.append(nodes.delta.new_zeros(len(key)).index_add(0, place, weight[here]))
            rest.index_add_(0, row_of[wanted], found.rest[wanted] * share[wanted])
        progress.step("edges")
    key, place = torch.cat(keys).unique(return_inverse=True)
    weight = nodes.delta.new_zeros(len(key)).index_add(0, place, torch.cat(weights))
    return EdgeScores(key // count, key % count, weight, rest)


def _segment(runs: Runs, line: Line, cuts: Tensor, points: Midpoints) -> tuple[Trace, NodeScores]:
    """The run of points of the line of the first of the `cuts`, to the last of them, and its nodes."""
    clean, example = runs.clean, points.example
    names = [clean.sites[t].site.name for t in cuts[:-1].tolist()]
    run = trace(
        runs.adapter,
        clean.inputs.chosen(example),
        clean.scored_by.chosen(example),
        replaced={names[0]: line.at(example, points.share)},
        only=names,
        coded=names[1:],
        seen=clean,
        example=example,
        to_metric=points.gradients is None,
    )
    if points.gradients is None:
        return run, score_nodes(run)
    totals = [wide(torch.zeros_like(run.sites[0].leaf)), *points.gradients]
    return run, score_nodes(run, None, totals, wide(torch.zeros_like(run.logits)))


def _with_sources(
    there: NodeScores, nodes: NodeScores, cuts: Tensor, rows: Tensor, example: Tensor
) -> tuple[NodeScores, Tensor]:
    """The nodes after the first of the `cuts` in runs of these examples, with the source nodes `rows` put at it, and
    which row of `nodes` each is (-1: none). The runs' sites are `cuts`, the sites of `nodes` are all.
    """
    run, source = (example[:, None] == nodes.example[rows]).nonzero(as_tuple=True)
    later, rows = (there.site > 0).nonzero()[:, 0], rows[source]
    names = ("site", "example", "pos", "index", "activation", "delta", "gradient", "attribution")
    columns = {name: torch.cat([getattr(nodes, name)[rows], getattr(there, name)[later]]) for name in names}
    columns["site"][: len(rows)] = 0
    columns["example"][: len(rows)] = run
    columns["delta"][len(rows) :] = 0  # only the first site has sources
    of_batch = replace(there, site=cuts[there.site], example=example[there.example])
    row_of = torch.cat([rows, _rows(of_batch, later, nodes)])
    units = (nodes.units[int(cuts[0])][example], *there.units[1:])
    return replace(there, **columns, units=units), row_of


def _rows(there: NodeScores, chosen: Tensor, nodes: NodeScores) -> Tensor:
    """For each chosen node of some runs the row of the same node in `nodes`, or -1."""
    positions = int(torch.cat([nodes.pos, there.pos]).max()) + 1
    width = int(torch.cat([nodes.index, there.index]).max()) + 1
    number = NodeIndex(len(nodes.totals), positions, width)
    ours = number.number(nodes.site, nodes.pos, nodes.index, nodes.example)
    ordered, order = ours.sort()
    theirs = number.number(there.site[chosen], there.pos[chosen], there.index[chosen], there.example[chosen])
    at = torch.searchsorted(ordered, theirs).clamp_max(len(ordered) - 1)
    return torch.where(ordered[at] == theirs, order[at], torch.full_like(at, -1))
