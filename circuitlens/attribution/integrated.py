"""Integrated gradients at one site at a time: node and edge scores that saturation does not spoil.

A gradient at the clean run says what the next bit of a feature would do; where the model has saturated that is nothing,
or has the wrong sign. Integrated gradients (Sundararajan et al. 2017; for features Marks et al. 2024) average it on the
way from the baseline (the corrupted run, or zero) to the clean run. At each site by itself

1. features and error move together on the straight line between the two runs, which is the line between the two
   activations, as decoders are affine;
2. `∂m/∂x` is averaged over the midpoints of `steps` equal steps (left ends would be many times worse);
3. a node's attribution is `Δ · ⟨mean ∂m/∂x, direction⟩`, and the *completeness gap* is what the site's nodes miss of
   the metric's real change between the two ends of the line.

Edges are the direct effects in the runs at those midpoints, averaged alike, so that a node's outgoing edges sum to its
attribution exactly, as they do for gradients.

Cost: `steps` times the gradient's, for each site that changes; steps are batched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.attribution.base import AttributionMethod, Gaps, Runs, Steps
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.node_index import NodeIndex
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.progress import Progress
from circuitlens.runs import run_patched
from circuitlens.tracing import Trace, next_sites, trace, unreached

STEPS = 8
"""Midpoints on the way; on a real model 8 leave a few per cent at SAEs, and up to 29 % at the embedding."""

POSITIONS = 2048
"""Steps × examples × positions of one run, if more than one step."""


@dataclass(frozen=True)
class Line:
    """The straight line of one site from its baseline to its clean activation, `[batch, pos, *d_out]` at both ends."""

    start: Float[Tensor, "batch pos ..."]
    end: Float[Tensor, "batch pos ..."]

    def at(self, shares: Float[Tensor, " step"]) -> Float[Tensor, "rows pos ..."]:
        """The points at these shares of the way, one batch after the other."""
        way = self.end - self.start
        return torch.cat([self.start + share * way for share in shares])


class IntegratedGradients(AttributionMethod):
    """The change from the corrupted run, or from zero, times the gradient averaged on the way."""

    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, Gaps]:
        """`STEPS` forwards and backwards a site that changes."""
        return integrated_gradients(runs, progress=progress)

    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects in the runs at the midpoints."""
        return integrated_edges(runs, nodes, keep, progress=progress)

    def steps(self, sites: int) -> Steps:
        """One a site for the nodes, and one for the edges."""
        return Steps(nodes=sites, measured=0, edges=sites)


def lines(runs: Runs) -> list[Line]:
    """The line of every site: from the corrupted run, or from zero (features and error 0)."""
    return [Line(_start(runs, s), site.write.detach()) for s, site in enumerate(runs.clean.sites)]


def integrated_gradients(runs: Runs, steps: int = STEPS, progress: Progress | None = None) -> tuple[NodeScores, Gaps]:
    """Every node's integrated gradients, and the completeness gap of each site, in units of the metric."""
    progress, clean = progress or Progress(), runs.clean
    totals, gaps = [], []
    for site, line in zip(clean.sites, lines(runs), strict=True):
        total = torch.zeros_like(line.end)
        gap = torch.zeros_like(clean.metric.detach())
        if not torch.equal(line.start, line.end):
            for shares in _shares(clean, steps):
                x = line.at(shares).requires_grad_()
                inputs = clean.inputs.repeated(len(shares))
                # The model gets a copy: one that edits its activations in place must not reach the leaf.
                logits = run_patched(runs.adapter, inputs, site.site, lambda _, x=x: x.clone(), seen=clean)
                metric = clean.scored_by.repeated(len(shares))(logits)
                gradient = torch.autograd.grad(metric.sum(), x, allow_unused=True)[0]
                if gradient is None:
                    raise unreached(site.site)
                total = total + gradient.unflatten(0, (len(shares), -1)).sum(0) / steps
            with torch.no_grad():
                patch = lambda _, line=line: line.start.clone()  # noqa: E731
                start = clean.scored_by(run_patched(runs.adapter, clean.inputs, site.site, patch, seen=clean))
            moved = (total * (line.end - line.start)).flatten(1).sum(1)
            gap = moved - (clean.metric.detach() - start)
        totals.append(total)
        gaps.append(gap)
        progress.step("nodes")
    return score_nodes(clean, runs.baseline, totals, logit_gradient_between(runs, steps)), torch.stack(gaps, 1)


def integrated_edges(
    runs: Runs,
    nodes: NodeScores,
    keep: Bool[Tensor, " node"],
    steps: int = STEPS,
    progress: Progress | None = None,
) -> EdgeScores:
    """Direct effects between the kept nodes, averaged along the line of each source's site; as `score_edges`."""
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
        for shares in _shares(clean, steps) if len(rows) else ():
            times = len(shares)
            names = [clean.sites[t].site.name for t in cuts[:-1].tolist()]
            run = trace(
                runs.adapter,
                clean.inputs.repeated(times),
                clean.scored_by.repeated(times),
                replaced={names[0]: line.at(shares)},
                only=names,
                coded=names[1:],
                seen=clean,
            )
            there, row_of = _with_sources(score_nodes(run), nodes, cuts, rows, times)
            wanted = (row_of >= 0) & keep[row_of.clamp_min(0)]
            # Outputs that enter the metric on the way alone are no nodes: what goes to them is in the rest.
            found = score_edges(run, there, wanted | there.is_logit)
            here = row_of[found.target] >= 0
            rest.index_add_(0, row_of[found.source[~here]], found.weight[~here] / steps)
            pairs = row_of[found.source[here]] * count + row_of[found.target[here]]
            key, place = pairs.unique(return_inverse=True)
            keys.append(key)
            weights.append(nodes.delta.new_zeros(len(key)).index_add(0, place, found.weight[here] / steps))
            rest.index_add_(0, row_of[wanted], found.rest[wanted] / steps)
        progress.step("edges")
    key, place = torch.cat(keys).unique(return_inverse=True)
    weight = nodes.delta.new_zeros(len(key)).index_add(0, place, torch.cat(weights))
    return EdgeScores(key // count, key % count, weight, rest)


def logit_gradient_between(runs: Runs, steps: int = STEPS) -> Float[Tensor, "batch output"]:
    """The metric's gradient in the logits, averaged on their own way from the corrupted run's (or zero)."""
    end = runs.clean.logits.detach()
    start = torch.zeros_like(end) if runs.baseline is None else runs.baseline.logits.detach()
    total = torch.zeros_like(end)
    for step in range(steps):
        logits = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        gradient = torch.autograd.grad(runs.clean.scored_by(logits).sum(), logits, allow_unused=True)[0]
        total += 0 if gradient is None else gradient / steps
    return total


def _start(runs: Runs, s: int) -> Tensor:
    site = runs.clean.sites[s]
    if runs.baseline is not None:
        return runs.baseline.sites[s].write.detach()
    coder = site.site.coder
    if coder is None:
        return torch.zeros_like(site.write)
    with torch.no_grad():
        features = coder.encode(site.read.detach())
        return coder.decode(torch.zeros_like(features)).expand_as(site.write)


def _shares(clean: Trace, steps: int) -> Iterator[Tensor]:
    """The midpoints, as many at a time as memory allows."""
    middles = (torch.arange(steps, device=clean.metric.device, dtype=clean.metric.dtype) + 0.5) / steps
    return iter(middles.split(max(1, POSITIONS // clean.inputs.mask.numel())))


def _with_sources(
    there: NodeScores, nodes: NodeScores, cuts: Tensor, rows: Tensor, times: int
) -> tuple[NodeScores, Tensor]:
    """The nodes after the first of the `cuts` in the repeated runs, with the source nodes `rows` put at it, and which
    row of `nodes` each is (-1: none). The runs' sites are `cuts`, the sites of `nodes` are all.
    """
    batch, s = len(nodes.logit_gradient), int(cuts[0])
    later = (there.site > 0).nonzero()[:, 0]
    shift = torch.arange(times, device=rows.device).repeat_interleave(len(rows)) * batch
    names = ("site", "example", "pos", "index", "activation", "delta", "gradient", "attribution")
    columns = {
        name: torch.cat([getattr(nodes, name)[rows].repeat(times), getattr(there, name)[later]]) for name in names
    }
    columns["site"][: len(shift)] = 0
    columns["example"][: len(shift)] += shift
    columns["delta"][len(shift) :] = 0  # only site `s` has sources
    row_of = torch.cat([rows.repeat(times), _rows(replace(there, site=cuts[there.site]), later, nodes, batch)])
    units = list(there.units)
    units[0] = nodes.units[s].repeat(times, *[1] * (nodes.units[s].dim() - 1))
    return replace(there, **columns, units=tuple(units)), row_of


def _rows(there: NodeScores, chosen: Tensor, nodes: NodeScores, batch: int) -> Tensor:
    """For each chosen node of the repeated runs the row of the same node in `nodes`, or -1."""
    positions = int(torch.cat([nodes.pos, there.pos]).max()) + 1
    width = int(torch.cat([nodes.index, there.index]).max()) + 1
    number = NodeIndex(len(nodes.totals), positions, width)
    ours = number.number(nodes.site, nodes.pos, nodes.index, nodes.example)
    ordered, order = ours.sort()
    theirs = number.number(there.site[chosen], there.pos[chosen], there.index[chosen], there.example[chosen] % batch)
    at = torch.searchsorted(ordered, theirs).clamp_max(len(ordered) - 1)
    return torch.where(ordered[at] == theirs, order[at], torch.full_like(at, -1))
