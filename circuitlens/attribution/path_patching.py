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

Runs are batched as in `exact`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Site
from circuitlens.attribution.base import Runs
from circuitlens.attribution.exact import falls, in_runs
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, named_logits, scaled, score_nodes
from circuitlens.attribution.scores import NodeScores, ranks
from circuitlens.edits import ELEMENTS, own_tokens
from circuitlens.progress import Progress
from circuitlens.tracing import Trace, run_held, total_gradients, trace

SMALL = 0.03
"""The share of the contrast (of the metric, from zero) from which on an edge is measured to its end."""

STAGE = "path patching"


@dataclass(frozen=True)
class _End:
    """One of the two runs that a change joins. Its nodes' `delta` is what they lose on the way to the other run, their
    `totals` are the gradients in this one; `sign` is that of the metric's fall here as an attribution counts it.
    """

    run: Trace
    nodes: NodeScores
    sign: int


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
    u, d = source[edges], target[edges]
    ends = _ends(runs, nodes)
    effects, arrived = weight.new_zeros(len(ends), len(edges)), list[dict[int, _Arrived]]()
    for effect, end in zip(effects, ends, strict=True):
        arrived.append(_move_sources(adapter, end, u, d, effect, progress))
    contrast = (runs.clean.metric - (0 if runs.baseline is None else runs.baseline.metric)).detach().abs()
    size = torch.maximum(effects.mean(0).abs(), estimate[edges].abs())
    threshold = (small[edges] if isinstance(small, Tensor) else small) * contrast[nodes.example[u]]
    chosen = (size >= threshold) | nodes.is_logit[d]
    for effect, end, there in zip(effects, ends, arrived, strict=True):
        _move_targets(adapter, end, d, there, chosen, effect, progress)
    weight[edges], measured[edges] = effects.mean(0), chosen
    return weight, measured


def _ends(runs: Runs, nodes: NodeScores) -> list[_End]:
    """The clean run, and the corrupted one with the same nodes seen from there."""
    ends = [_End(runs.clean, replace(nodes, totals=tuple(total_gradients(runs.clean))), 1)]
    if runs.baseline is not None:
        # Features differ by as much in both directions; an error, by what the features leave in its own run.
        run = runs.baseline
        totals = total_gradients(trace(runs.adapter, run.inputs, run.scored_by))
        back = score_nodes(run, runs.clean, totals, nodes.logit_gradient)
        vectors = [(n.index == VECTOR) & ~n.is_logit for n in (nodes, back)]
        delta = (-nodes.delta).masked_scatter(vectors[0], back.delta[vectors[1]])
        there = replace(
            nodes, activation=nodes.activation - nodes.delta, delta=delta, totals=back.totals, units=back.units
        )
        ends.append(_End(run, there, -1))
    return ends


def _move_sources(
    adapter: Adapter, end: _End, source: Tensor, target: Tensor, effects: Tensor, progress: Progress
) -> dict[int, _Arrived]:
    """Move each source by itself, all else held: what arrives at each site, and in `effects` what that does by gradient
    (at the logits, in truth).
    """
    run, nodes = end.run, end.nodes
    parts: dict[int, list[_Arrived]] = {}
    every = source.unique()
    for s in nodes.site[every].unique().tolist():
        here = every[nodes.site[every] == s]
        for now, variant in in_runs(run, nodes.example[here]):
            moving = _MovingSources(end, s, here[now], variant, source, target)
            logits = run_held(adapter, run.inputs.repeated(moving.times), adapter.sites[s:], moving.hold)
            for t, some in moving.arrived.items():
                parts.setdefault(t, []).append(some)
            edges = moving.edges[nodes.is_logit[target[moving.edges]]]
            if logits is not None and len(edges):
                effects[edges] = end.sign * _logit_falls(end, target[edges], logits[moving.row[edges]])
            progress.step(STAGE, 0)
    arrived = {
        t: _Arrived(torch.cat([part.edge for part in some]), torch.cat([part.change for part in some]))
        for t, some in parts.items()
    }
    for t, there in arrived.items():
        at = target[there.edge]
        gradient = nodes.totals[t][nodes.example[at], nodes.pos[at]]
        effects[there.edge] = -end.sign * (there.change * gradient).flatten(1).sum(1)
    return arrived


class _MovingSources:
    """One run in which some sources of site `s` are moved, each in a row of its own: in the repetition of the batch
    that is its `variant`. `edges` are those that start at them, and `row` says for each where its source is moved.
    """

    def __init__(self, end: _End, s: int, moving: Tensor, variant: Tensor, source: Tensor, target: Tensor):
        self.end, self.s, self.target = end, s, target
        nodes, self.times = end.nodes, int(variant.max()) + 1
        rows = variant * len(end.run.metric) + nodes.example[moving]
        self.at = rows, nodes.pos[moving]
        self.change = scaled(directions(end.run, nodes, s, moving), nodes.delta[moving])
        self.edges = torch.isin(source, moving).nonzero()[:, 0]
        self.row = rows[torch.searchsorted(moving, source).clamp_max(len(moving) - 1)]
        self.last = int(nodes.site[target[self.edges]].max())
        self.arrived: dict[int, _Arrived] = {}

    def hold(self, site: Site, read: Tensor, write: Tensor) -> Tensor | None:
        """The site's value in the plain run, but for the sources; None behind the last target. What reaches the site's
        targets is kept.
        """
        seen = self.end.run.sites
        t = next(t for t, each in enumerate(seen) if each.site is site)
        held = seen[t].write.detach().repeat(self.times, *[1] * (write.dim() - 1))
        if t == self.s:
            return held.index_put(self.at, held[self.at] - self.change)
        edges = self.edges[self.end.nodes.site[self.target[self.edges]] == t]
        if len(edges) and t > self.s:
            some = edges.split(max(1, ELEMENTS // (1 if site.coder is None else site.coder.d_sae)))
            written = [_writes_more(self.end, t, self.target[now], self.row[now], read, write) for now in some]
            self.arrived[t] = _Arrived(edges, torch.cat(written))
        return None if t >= self.last else held


def _writes_more(
    end: _End, t: int, target: Tensor, row: Tensor, read: Tensor, write: Tensor
) -> Float[Tensor, "here ..."]:
    """What each target at site `t` writes more than it did, in the row of the run that its source is moved in."""
    seen, nodes = end.run.sites[t], end.nodes
    example, pos, index = nodes.example[target], nodes.pos[target], nodes.index[target]
    coder = seen.site.coder
    if coder is None:
        return write[row, pos] - seen.write.detach()[example, pos]
    cells, cell = torch.stack([row, pos]).unique(dim=1, return_inverse=True)
    f = coder.encode(read[cells[0], cells[1]][:, None])
    coder.decode(f)
    # As everywhere, what a coder carries beside its features (a layer norm's scale) changes with the error.
    coder.encode(seen.read.detach()[cells[0] % len(end.run.metric), cells[1]][:, None])
    error = write[cells[0], cells[1]] - coder.decode(f)[:, 0]
    feature = f[cell, 0, index.clamp_min(0)] - nodes.activation[target]
    change = scaled(directions(end.run, nodes, t, target), feature)
    vector = index == VECTOR
    change[vector] = (error[cell] - seen.error[example, pos])[vector]
    return change


def _logit_falls(end: _End, target: Tensor, logits: Float[Tensor, "here output"]) -> Float[Tensor, " here"]:
    """How far the metric falls where each target's logit alone becomes that of a moved run: of the rest of the logits,
    all that have no node of their own.
    """
    run, example, index = end.run, end.nodes.example[target], end.nodes.index[target]
    mine = ~named_logits(run)[example]
    named = (index != VECTOR).nonzero()[:, 0]
    mine[named] = torch.nn.functional.one_hot(index[named], mine.shape[1]).bool()
    variant = ranks(example)
    times, row = int(variant.max()) + 1, variant * len(run.metric) + example
    before = run.logits.detach()
    changed = before.repeat(times, 1).index_put((row,), torch.where(mine, logits, before[example]))
    with torch.no_grad():
        return run.metric.detach()[example] - run.scored_by.repeated(times)(changed)[row]


def _move_targets(
    adapter: Adapter,
    end: _End,
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
        example, pos = end.nodes.example[target[edges]], end.nodes.pos[target[edges]]
        for now, variant in in_runs(end.run, example):
            fallen = falls(adapter, end.run, t, (example[now], pos[now]), change[now], variant)
            effects[edges[now]] = end.sign * fallen
            progress.step(STAGE, 0)
