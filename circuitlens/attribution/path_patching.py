"""Measured edges: what really reaches the metric from one node through another (path patching, Goldowsky-Dill 2023).

A derivative says what the next bit of a source would do to a target; TopK, attention and layer norms make that another
thing than what the source's whole change does. Here that change is made. With every site's output held at its value,

1. in the clean run the source `u` takes its corrupted value (or zero), so that only what flows from it directly reaches
   the target `d`, and `d`'s new value is read there: a feature's from its encoder, an error's as all that its site's
   features do not write, a logit's from the logits;
2. `d` alone is given that value in another run, with everything downstream computed anew, and the metric falls by the
   edge's weight;
3. the same is done in the corrupted run with the clean values, and the weight is the mean of both.

Features that are inactive in one of the runs are sources and targets like any other: they switch on.

The first step costs a run as far as the last target's site for each *source*, whatever the number of its targets. The
second costs a whole run for each *edge*, so it is left to those that are not small: the others get `d`'s real change
times its gradient in that run, which to first order is the same, and do not count as measured. A logit's effect on the
metric needs no run.

Runs are batched as in `exact`, those of the clean and the corrupted run together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs, Site
from circuitlens.attribution.base import Runs
from circuitlens.attribution.exact import POSITIONS, falls
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, named_logits, scaled, score_nodes
from circuitlens.attribution.scores import NodeScores
from circuitlens.edits import ELEMENTS, own_tokens
from circuitlens.progress import Progress
from circuitlens.runs import rows_at_once, run_held
from circuitlens.torch_modes import wide
from circuitlens.tracing import ActiveFeatures, SiteTrace, Trace, total_gradients, trace

SMALL = 0.05
"""The share of the contrast (of the metric, from zero) from which on an edge is measured to its end."""

STAGE = "path patching"


@dataclass(frozen=True)
class _Ends:
    """The two runs that a change joins as one batch, the clean one first, and the nodes of each in the same order: what
    a node's `delta` says it loses on the way to the other run, and `totals` the gradients where it is.
    """

    run: Trace
    nodes: NodeScores


@dataclass(frozen=True)
class _Arrived:
    """What reached the targets at one site: the edges, and what their targets then write more, one row an edge."""

    edge: Int[Tensor, " here"]
    change: Float[Tensor, "here ..."]


def weighed_edges(
    runs: Runs,
    nodes: NodeScores,
    source: Int[Tensor, " edge"],
    target: Int[Tensor, " edge"],
    estimate: Float[Tensor, " edge"],
    small: float | Float[Tensor, " edge"] = SMALL,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, " edge"], Bool[Tensor, " edge"]]:
    """The weights of edges by path patching, in units of the metric, and which of them are measured to their end.

    From zero nothing is done at a token that the adapter puts before a prompt, as in every ablation: the effect is 0.

    Args:
        runs: the runs that `nodes` were scored on; from zero there is no second run, and the first is all.
        nodes: the scores that `source` and `target` are rows of.
        source: where each edge starts.
        target: where it ends: a node of a later site, or a logit.
        estimate: the weights as they were estimated, by which edges are told to be small.
        small: the share of the contrast that an edge's estimate, or the effect of its target's real change by gradient,
            has to reach in size for its target to be moved for real; 0 moves every target.
        progress: told of each run.
    """
    progress, adapter = progress or Progress(), runs.adapter
    free = nodes.delta[source] != 0  # nothing flows from what is the same in both runs
    if runs.baseline is None:
        free &= own_tokens(adapter, runs.clean.inputs)[nodes.example[source], nodes.pos[source]]
    weight, measured = torch.zeros_like(estimate), ~free
    edges = free.nonzero()[:, 0]
    if not len(edges):
        return weight, measured
    ends = _ends(runs, nodes)
    sides = len(ends.nodes.site) // len(nodes.site)
    shift = len(nodes.site) * torch.arange(sides, device=edges.device)[:, None]
    u, d = ((shift + rows[edges]).flatten() for rows in (source, target))
    sign = torch.tensor([1, -1], device=edges.device)[:sides, None]  # of the metric's fall, as an attribution counts it
    effects = weight.new_zeros(len(u))
    arrived = _move_sources(adapter, ends, u, d, effects, progress)
    contrast = (runs.clean.metric - (0 if runs.baseline is None else runs.baseline.metric)).detach().abs()
    estimated = (sign * effects.view(sides, -1)).mean(0)
    size = torch.maximum(estimated.abs(), estimate[edges].abs())
    threshold = (small[edges] if isinstance(small, Tensor) else small) * contrast[nodes.example[source[edges]]]
    chosen = (size >= threshold) | nodes.is_logit[target[edges]]
    _move_targets(adapter, ends, d, arrived, chosen.repeat(sides), effects, progress)
    weight[edges], measured[edges] = (sign * effects.view(sides, -1)).mean(0), chosen
    return weight, measured


def _ends(runs: Runs, nodes: NodeScores) -> _Ends:
    """The clean run, and beside it the corrupted one with the same nodes seen from there."""
    ours = replace(nodes, totals=tuple(total_gradients(runs.clean)))
    if runs.baseline is None:
        return _Ends(runs.clean, ours)
    # Features differ by as much in both directions; an error, by what the features leave in its own run.
    run = runs.baseline
    totals = total_gradients(trace(runs.adapter, run.inputs, run.scored_by, coded=()))
    back = score_nodes(run, runs.clean, totals, nodes.logit_gradient)
    vectors = [(n.index == VECTOR) & ~n.is_logit for n in (nodes, back)]
    delta = (-nodes.delta).masked_scatter(vectors[0], back.delta[vectors[1]])
    theirs = replace(
        nodes,
        example=nodes.example + len(run.metric),
        activation=nodes.activation - nodes.delta,
        delta=delta,
        totals=back.totals,
        units=back.units,
    )
    columns = {}
    for name in (column.name for column in fields(NodeScores)):
        a, b = getattr(ours, name), getattr(theirs, name)
        sites = isinstance(a, tuple)
        columns[name] = tuple(map(torch.cat, zip(a, b, strict=True))) if sites else torch.cat([a, b])
    return _Ends(_beside(runs.clean, run), NodeScores(**columns))


def _beside(run: Trace, other: Trace) -> Trace:
    """The values of two runs with the same sites, metric and shape, as those of one batch: the first run first."""

    def both(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a.detach(), b.detach()])

    sites = []
    for ours, theirs in zip(run.sites, other.sites, strict=True):
        write, (f, g) = both(ours.write, theirs.write), (ours.features, theirs.features)
        read = write if ours.read is ours.write else both(ours.read, theirs.read)
        columns = (f.example, g.example + len(run.metric)), (f.pos, g.pos), (f.index, g.index), (f.value, g.value)
        features = ActiveFeatures(*map(torch.cat, columns))
        sites.append(SiteTrace(ours.site, read, write, write, features, both(ours.error, theirs.error)))
    x, y = run.inputs, other.inputs
    return Trace(
        Inputs(both(x.values, y.values), both(x.mask, y.mask), x.tokens + y.tokens),
        tuple(sites),
        both(run.logits, other.logits),
        run.scored_by.repeated(2),
        both(run.metric, other.metric),
        {name: both(x, other.streams[name]) for name, x in run.streams.items() if name in other.streams},
    )


def _move_sources(
    adapter: Adapter, ends: _Ends, source: Tensor, target: Tensor, effects: Tensor, progress: Progress
) -> dict[int, _Arrived]:
    """Move each source by itself, all else held: what arrives at each site, and in `effects` how far that makes the
    metric fall by gradient (at the logits, in truth).
    """
    run, nodes = ends.run, ends.nodes
    parts: dict[int, list[_Arrived]] = {}
    every = source.unique()
    for s in nodes.site[every].unique().tolist():
        for now in every[nodes.site[every] == s].split(rows_at_once(run.inputs, POSITIONS)):
            moving = _MovingSources(ends, s, now, source, target)
            inputs, example = run.inputs.chosen(moving.example), moving.example
            logits = run_held(adapter, inputs, adapter.sites[s:], moving.hold, seen=run, example=example)
            for t, some in moving.arrived.items():
                parts.setdefault(t, []).append(some)
            edges = moving.edges[nodes.is_logit[target[moving.edges]]]
            if logits is not None and len(edges):
                effects[edges] = _logit_falls(ends, target[edges], logits[moving.row[edges]])
            progress.step(STAGE, 0)
    arrived = {
        t: _Arrived(torch.cat([part.edge for part in some]), torch.cat([part.change for part in some]))
        for t, some in parts.items()
    }
    for t, there in arrived.items():
        at = target[there.edge]
        gradient = nodes.totals[t][nodes.example[at], nodes.pos[at]]
        effects[there.edge] = -(there.change * gradient).flatten(1).sum(1)
    return arrived


class _MovingSources:
    """One run in which some sources of site `s` are moved, each in a row of its own, which is of its `example`. `edges`
    are those that start at them, and `row` says for each where its source is moved.
    """

    def __init__(self, ends: _Ends, s: int, moving: Tensor, source: Tensor, target: Tensor):
        self.ends, self.s, self.target = ends, s, target
        nodes = ends.nodes
        self.example = nodes.example[moving]
        self.at = torch.arange(len(moving), device=moving.device), nodes.pos[moving]
        self.change = scaled(directions(ends.run, nodes, s, moving), nodes.delta[moving])
        self.edges = torch.isin(source, moving).nonzero()[:, 0]
        self.row = torch.searchsorted(moving, source).clamp_max(len(moving) - 1)
        self.last = int(nodes.site[target[self.edges]].max())
        self.arrived: dict[int, _Arrived] = {}

    def hold(self, site: Site, read: Tensor, write: Tensor) -> Tensor | None:
        """The site's value in the plain run, but for the sources; None behind the last target. What reaches the site's
        targets is kept.
        """
        seen = self.ends.run.sites
        t = next(t for t, each in enumerate(seen) if each.site is site)
        edges = self.edges[self.ends.nodes.site[self.target[self.edges]] == t]
        if len(edges) and t > self.s:
            some = edges.split(max(1, ELEMENTS // (1 if site.coder is None else site.coder.d_sae)))
            written = [self._writes_more(t, self.target[now], self.row[now], read, write) for now in some]
            self.arrived[t] = _Arrived(edges, torch.cat(written))
        if t >= self.last:
            return None
        held = seen[t].write.detach()[self.example]
        if t == self.s:
            held = held.index_put(self.at, (held[self.at] - self.change).to(held.dtype))
        return held

    def _writes_more(
        self, t: int, target: Tensor, row: Tensor, read: Tensor, write: Tensor
    ) -> Float[Tensor, "here ..."]:
        """What each target at site `t` writes more than it did, in the row of the run that its source is moved in."""
        seen, nodes = self.ends.run.sites[t], self.ends.nodes
        example, pos, index = nodes.example[target], nodes.pos[target], nodes.index[target]
        coder = seen.site.coder
        if coder is None:
            return wide(write[row, pos]) - wide(seen.write.detach()[example, pos])
        cells, cell = torch.stack([row, pos]).unique(dim=1, return_inverse=True)
        f = coder.encode(read[cells[0], cells[1]][:, None])
        if coder.stateful:
            # As everywhere, what a coder carries beside its features (a layer norm's scale) changes with the error.
            coder.decode(f)
            coder.encode(seen.read.detach()[self.example[cells[0]], cells[1]][:, None])
        error = wide(write[cells[0], cells[1]]) - wide(coder.decode(f)[:, 0])
        feature = f[cell, 0, index.clamp_min(0)] - nodes.activation[target]
        change = scaled(directions(self.ends.run, nodes, t, target), feature)
        vector = index == VECTOR
        change[vector] = (error[cell] - seen.error[example, pos])[vector]
        return change


def _logit_falls(ends: _Ends, target: Tensor, logits: Float[Tensor, "here output"]) -> Float[Tensor, " here"]:
    """How far the metric falls where each target's logit alone becomes that of a moved run: of the rest of the logits,
    all that have no node of their own.
    """
    run, example, index = ends.run, ends.nodes.example[target], ends.nodes.index[target]
    mine = ~named_logits(run)[example]
    named = (index != VECTOR).nonzero()[:, 0]
    mine[named] = torch.nn.functional.one_hot(index[named], mine.shape[1]).bool()
    changed = torch.where(mine, logits, run.logits.detach()[example])
    with torch.no_grad():
        return run.metric.detach()[example] - run.scored_by.chosen(example)(changed)


def _move_targets(
    adapter: Adapter,
    ends: _Ends,
    target: Tensor,
    arrived: dict[int, _Arrived],
    chosen: Bool[Tensor, " edge"],
    effects: Tensor,
    progress: Progress,
) -> None:
    """Put the real effects of the chosen edges' targets in the place of those by gradient."""
    for t, there in arrived.items():
        mine = chosen[there.edge]
        edges, change = there.edge[mine], there.change[mine]
        size = rows_at_once(ends.run.inputs, POSITIONS)
        for some, moved in zip(edges.split(size), change.split(size), strict=True) if len(edges) else ():
            at = ends.nodes.example[target[some]], ends.nodes.pos[target[some]]
            effects[some] = falls(adapter, ends.run, t, at, moved)
            progress.step(STAGE, 0)
