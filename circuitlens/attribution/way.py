"""One way from the corrupted to the clean run that all sites go along together, and the model at points of it.

The way starts at the *roots*, the sites that no other reaches (the embeddings): they move on straight lines from their
corrupted to their clean values, and everything after them is computed, so that each point is a run of the real model.
A site does not go straight then. Over an interval of the way what it does to the metric is, to second order, `∂m/∂x` at
the interval's middle times how far it itself moved in it (conductance: Dhamdhere, Sundararajan and Yan 2019).

Intervals are halved where they miss the metric's change most, until what every site misses in all is a small share of
it: a model often decides in a small part of the way. The middle of an interval is then the end of two, so that no
point is run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.adapter import agree
from circuitlens.attribution.base import Runs
from circuitlens.attribution.nodes import shaped
from circuitlens.cuts import cut_sites, next_sites
from circuitlens.errors import AdapterError
from circuitlens.runs import rows_at_once
from circuitlens.torch_modes import wide
from circuitlens.tracing import Trace, total_gradients, trace

INTERVALS = 4
"""Intervals of the way at first, for each example."""

MOST = 64
"""Intervals that an example may be given, beyond which what is missed stays missed, and is told."""

TOLERANCE = 0.04
"""The share of the metric's change that a site may miss before intervals are halved."""

STILL = 0.02
"""The share of the metric that its change counts as at least: of next to nothing, any share is too fine."""

POSITIONS = 512
"""Points × positions that run together: their graphs are all in memory."""


@dataclass(frozen=True)
class Points:
    """The model at points of the way, a row each: `share[r]` of the way of `example[r]`, 0 corrupted and 1 clean.

    `writes`, `reads` and `gradients` (`∂m/∂x`, 0 where they were not asked for) are a site's. At the roots the first
    two are those of the clean run, which its decoder goes by.
    """

    example: Int[Tensor, " row"]
    share: Float[Tensor, " row"]
    metric: Float[Tensor, " row"]
    logit_gradient: Float[Tensor, "row output"]
    writes: tuple[Float[Tensor, "row pos ..."], ...]
    reads: tuple[Float[Tensor, "row pos ..."], ...]
    gradients: tuple[Float[Tensor, "row pos ..."], ...]

    @staticmethod
    def of(
        traced: Trace, example: Tensor, share: Tensor, *, gradients: bool, links: set[tuple[int, int]] | None = None
    ) -> Points:
        """The points that a run has at these shares of the way, one an example of the run; `links` as for
        `total_gradients`.
        """
        if gradients:
            totals = [total.detach() for total in total_gradients(traced, links)]
            slope = torch.autograd.grad(traced.metric.sum(), traced.logits, retain_graph=True, allow_unused=True)[0]
        else:
            totals, slope = [wide(torch.zeros_like(site.write.detach())) for site in traced.sites], None
        writes = tuple(site.write.detach() for site in traced.sites)
        same = [site.read is site.write for site in traced.sites]
        reads = tuple(w if s else site.read.detach() for w, s, site in zip(writes, same, traced.sites, strict=True))
        return Points(
            example,
            share,
            traced.metric.detach(),
            wide(torch.zeros_like(traced.logits.detach()) if slope is None else slope),
            writes,
            reads,
            tuple(totals),
        )


class AllPoints:
    """The points of several runs by one number each; what they hold is never joined, as it is much of a long prompt."""

    def __init__(self, runs: Sequence[Points]):
        self.runs = tuple(runs)
        self.example, self.share, self.metric = (
            torch.cat([getattr(run, name) for run in runs]) for name in ("example", "share", "metric")
        )
        self._first = [0, *torch.tensor([len(run.share) for run in runs]).cumsum(0).tolist()]

    def __len__(self) -> int:
        return len(self.share)

    def chosen(self, rows: Int[Tensor, " row"]) -> Points:
        """These points, in this order."""
        columns: dict[str, object] = {}
        for field in fields(Points):
            value = getattr(self.runs[0], field.name)
            if isinstance(value, tuple):
                columns[field.name] = tuple(self._rows(field.name, s, rows) for s in range(len(value)))
            else:
                columns[field.name] = torch.cat([getattr(run, field.name) for run in self.runs])[rows]
        return Points(**columns)  # pyright: ignore[reportArgumentType]

    def gradient(self, s: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "row pos ..."]:
        """The gradients of site `s` at these points."""
        return self._rows("gradients", s, rows)

    def written(self, s: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "row pos ..."]:
        """What site `s` writes at these points."""
        return self._rows("writes", s, rows)

    def _rows(self, name: str, s: int, rows: Tensor) -> Tensor:
        like = getattr(self.runs[0], name)[s]
        found = like.new_empty(len(rows), *like.shape[1:])
        for run, first in zip(self.runs, self._first, strict=False):
            here = ((rows >= first) & (rows < first + len(run.share))).nonzero()[:, 0]
            found[here] = getattr(run, name)[s][rows[here] - first]
        return found


@dataclass(frozen=True)
class Intervals:
    """Intervals of the way by the rows of their ends and middles in `Points`; together they cover every example's."""

    left: Int[Tensor, " interval"]
    middle: Int[Tensor, " interval"]
    right: Int[Tensor, " interval"]


class Way:
    """The way of a batch of prompts; `Runs.baseline` is the corrupted run. `on_run` is called between runs."""

    def __init__(self, runs: Runs, on_run: Callable[[], object] = lambda: None):
        assert runs.baseline is not None, "the way leads from the corrupted run"
        self.runs, self.clean, self.corrupted = runs, runs.clean, runs.baseline
        reached = {t for after in next_sites(self.clean) for t in after}
        roots = [s for s in range(len(self.clean.sites)) if s not in reached]
        self._on_run = on_run
        self.change = {
            s: (wide(self.clean.sites[s].write) - wide(self.corrupted.sites[s].write)).detach() for s in roots
        }
        self.roots = [s for s in roots if self.change[s].any()]
        """The roots that change: the others are where they are on the whole way."""
        self._links, self.cuts = set[tuple[int, int]](), list[bool]()

    def run(self, example: Int[Tensor, " row"], share: Float[Tensor, " row"]) -> Trace:
        """The model at these points, with its graph."""
        clean, replaced = self.clean, {}
        for s in self.roots:
            start = self.corrupted.sites[s].write.detach()[example]
            replaced[clean.sites[s].site.name] = start + shaped(share, start) * self.change[s][example]
        inputs, metric = clean.inputs.chosen(example), clean.scored_by.chosen(example)
        return trace(self.runs.adapter, inputs, metric, replaced=replaced, coded=())

    def points(self, example: Int[Tensor, " row"], share: Float[Tensor, " row"]) -> list[Points]:
        """The model at these points, as many at a time as memory allows."""
        size = rows_at_once(self.clean.inputs, POSITIONS)
        found = list[Points]()
        for part in zip(example.split(size), share.split(size), strict=True):
            found.append(Points.of(self.run(*part), *part, gradients=True, links=self._links))
            self._on_run()
        return found

    def moved(self, points: AllPoints, s: int, left: Tensor, right: Tensor) -> Float[Tensor, "interval pos ..."]:
        """How far the activation of site `s` went between these rows."""
        if s in self.roots:
            step = points.share[right] - points.share[left]
            change = self.change[s][points.example[left]]
            return shaped(step, change) * change
        return wide(points.written(s, right)) - wide(points.written(s, left))

    def integrate(self) -> tuple[AllPoints, Intervals, Float[Tensor, "batch site"]]:
        """Points and intervals that miss little, and what each site misses of the metric's change (completeness gap).

        A site that some ways to the metric pass by has no gap of its own: NaN.

        Raises:
            AdapterError: the sites that the way starts from do not carry all that the prompts differ in.
        """
        change = (self.clean.metric - self.corrupted.metric).detach()
        self._require_start()
        points, intervals = self._first()
        end = len(self.clean.sites)
        # Where a root does nothing, nothing shows what its ways are.
        blind = {(s, end) for s in self.roots if not any(run.gradients[s].any() for run in points.runs)}
        self.cuts = cut_sites(self._links | blind, self.roots, end)
        while True:
            misses = self._misses(points, intervals)
            example = points.example[intervals.middle]
            gaps = torch.zeros(len(change), misses.shape[1], dtype=misses.dtype, device=misses.device)
            gaps = gaps.index_add(0, example, misses)
            halved = self._halved(misses, gaps, change, example)
            if not halved.any():
                break
            points, intervals = self._refined(points, intervals, halved)
        told = gaps.new_full((len(change), len(self.clean.sites)), torch.nan)
        cuts = [s for s, cut in enumerate(self.cuts) if cut]
        told[:, cuts] = gaps[:, 1:]
        return points, intervals, told

    def _require_start(self) -> None:
        """Raise AdapterError where the way does not start at the corrupted run."""
        with torch.no_grad():
            replaced = {self.clean.sites[s].site.write: self.corrupted.sites[s].write.detach() for s in self.change}
            hooks = {name: (lambda _, x=x: x.clone()) for name, x in replaced.items()}
            start = self.runs.adapter.last_logits(self.clean.inputs, hooks)
        if not agree(start, self.corrupted.logits.detach()):
            names = ", ".join(self.clean.sites[s].site.name for s in self.change)
            raise AdapterError(
                f"The first sites of adapter {self.runs.adapter.name!r} ({names}) do not carry all that the prompts "
                "differ in: set to the corrupted prompt's values they do not give its answer. Take method='ig', which "
                "goes from site to site, or make the embeddings sites."
            )

    def _first(self) -> tuple[AllPoints, Intervals]:
        """Equal intervals: rows of the corrupted and the clean end, and then of the points between."""
        size, like = len(self.clean.metric), self.clean.metric.detach()
        every = torch.arange(size, device=like.device)
        inner = torch.arange(1, 2 * INTERVALS, device=like.device)
        share = (inner / (2 * INTERVALS)).to(like)
        ends = [
            Points.of(end, every, torch.full_like(like, at), gradients=False)
            for end, at in ((self.corrupted, 0.0), (self.clean, 1.0))
        ]
        between = self.points(every.repeat_interleave(len(share)), share.repeat(size))
        first = 2 * size + every[:, None] * len(share)  # the row before an example's points between
        rows = torch.cat([every[:, None], first + inner - 1, size + every[:, None]], 1)
        intervals = Intervals(*(rows[:, n : n + 2 * INTERVALS - 1 : 2].flatten() for n in range(3)))
        return AllPoints([*ends, *between]), intervals

    def _misses(self, points: AllPoints, intervals: Intervals) -> Float[Tensor, "interval cut"]:
        """What the change over each interval comes to beyond the metric's: of the roots together, and of cut sites."""
        left, right = intervals.left, intervals.right
        change = points.metric[right] - points.metric[left]

        def said(s: int) -> Tensor:
            along = points.gradient(s, intervals.middle) * self.moved(points, s, left, right)
            return along.flatten(1).sum(1)

        roots = sum((said(s) for s in self.roots), torch.zeros_like(change))
        cuts = [said(s) for s, cut in enumerate(self.cuts) if cut]
        return torch.stack([roots, *cuts], 1) - change[:, None]

    def _halved(self, misses: Tensor, gaps: Tensor, change: Tensor, example: Tensor) -> Bool[Tensor, " interval"]:
        """Which intervals are to be halved: of an example that misses too much, those that miss most."""
        size = change.abs().clamp_min(STILL * self.clean.metric.detach().abs())
        count = torch.bincount(example, minlength=len(change))
        unfinished = (gaps.abs() > TOLERANCE * size[:, None]).any(1) & (count < MOST)
        worst = misses.abs().amax(1)
        most = torch.zeros_like(change).scatter_reduce(0, example, worst, "amax")
        return unfinished[example] & (worst >= most[example] / 2) & (worst > 0)

    def _refined(self, points: AllPoints, intervals: Intervals, halved: Tensor) -> tuple[AllPoints, Intervals]:
        """The same with some intervals halved at their middles."""
        left, middle, right = (getattr(intervals, c.name)[halved] for c in fields(Intervals))
        ends = torch.stack([left, middle]), torch.stack([middle, right])
        share = (points.share[ends[0]] + points.share[ends[1]]).flatten() / 2
        new = self.points(points.example[middle].repeat(2), share)
        rows = len(points) + torch.arange(len(share), device=middle.device)
        stay = [getattr(intervals, c.name)[~halved] for c in fields(Intervals)]
        added = [ends[0].flatten(), rows, ends[1].flatten()]
        joined = [torch.cat(both) for both in zip(stay, added, strict=True)]
        return AllPoints([*points.runs, *new]), Intervals(*joined)
