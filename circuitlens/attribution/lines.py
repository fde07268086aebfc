"""The straight line of each site from its baseline (the corrupted run, or zero) to the clean run, and points on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.attribution.base import Runs
from circuitlens.attribution.nodes import shaped
from circuitlens.torch_modes import wide


@dataclass(frozen=True)
class Line:
    """The straight line of one site from its baseline to its clean activation, `[batch, pos, *d_out]` at both ends."""

    start: Float[Tensor, "batch pos ..."]
    end: Float[Tensor, "batch pos ..."]

    @property
    def moves(self) -> Bool[Tensor, " batch"]:
        """The examples whose ends differ."""
        return (self.start != self.end).flatten(1).any(1)

    def at(self, example: Int[Tensor, " row"], share: Float[Tensor, " row"]) -> Float[Tensor, "row pos ..."]:
        """The points of these examples at these shares of the way."""
        start = self.start[example]
        return start + shaped(share, start) * (self.end[example] - start)


@dataclass(frozen=True)
class Midpoints:
    """Points of a site's line, a row each: at a `share` of the way of `example`, counting `weight`.

    `gradients` are `∂m/∂x` at the sites that this one reaches directly, where only they stand between it and the
    metric; elsewhere they are not kept.
    """

    example: Int[Tensor, " row"]
    share: Float[Tensor, " row"]
    weight: Float[Tensor, " row"]
    gradients: tuple[Float[Tensor, "row pos ..."], ...] | None

    @staticmethod
    def joined(parts: Sequence[Midpoints]) -> Midpoints:
        """All rows of several, each example's counting alike."""
        example, share = (torch.cat([getattr(part, name) for part in parts]) for name in ("example", "share"))
        kept = [part.gradients for part in parts if part.gradients is not None]
        gradients = tuple(map(torch.cat, zip(*kept, strict=True))) if kept else None
        return Midpoints(example, share, torch.bincount(example).to(share).reciprocal()[example], gradients)

    def of(self, example: Int[Tensor, " some"], size: int) -> Iterator[Midpoints]:
        """The rows of these examples, so many at a time."""
        mine = torch.isin(self.example, example).nonzero()[:, 0]
        for rows in mine.split(size) if len(mine) else ():
            gradients = None if self.gradients is None else tuple(x[rows] for x in self.gradients)
            yield Midpoints(self.example[rows], self.share[rows], self.weight[rows], gradients)


def lines(runs: Runs) -> list[Line]:
    """The line of every site: from the corrupted run, or from zero (features and error 0)."""
    return [Line(wide(_start(runs, s)), wide(site.write.detach())) for s, site in enumerate(runs.clean.sites)]


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
