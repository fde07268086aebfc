"""What SAEs do on a circuit's prompts: whether their features write what they read, and how much they reconstruct.

A dictionary that nobody trained gives nodes like any other, and with few features some of them carry a decision. These
two tell it: the rows of a shuffled or random one do not belong together, and one that was only initialised, whose rows
do (tied weights), leaves most of the activation to its error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.attributions import Attributions
from circuitlens.attribution.node_index import VECTOR
from circuitlens.edits import own_tokens
from circuitlens.tracing import SiteTrace

COMPARED = 1000
"""How many active features of a site have their encoder and decoder rows compared with each other, at most."""

MASSIVE = 8
"""How many times the median norm an activation may have: beyond is a token of its own kind."""


@dataclass(frozen=True)
class Spread:
    """Sums over tokens of what a site writes, of its square, and of the square of what its features leave over."""

    tokens: int
    written: Float[Tensor, " d"]
    square: float
    left_over: float

    def merged(self, other: Spread) -> Spread:
        """The sums over the tokens of both."""
        return Spread(
            self.tokens + other.tokens,
            self.written + other.written,
            self.square + other.square,
            self.left_over + other.left_over,
        )

    @property
    def explained(self) -> float:
        """The share of the variance (of a single token, of the square) that the features write."""
        about_mean = self.square - (self.written.square().sum().item() / self.tokens if self.tokens > 1 else 0.0)
        return 1 - self.left_over / max(about_mean, 1e-12)


@dataclass(frozen=True)
class Dictionaries:
    """What the SAEs of some prompts add up to.

    Of `compared` active features `own` have their own decoder row nearest to their encoder row; `spreads` are by hook,
    over clean and corrupted prompts, without the token that an adapter puts before each and others as large: SAEs are
    rarely trained on those, and one of them is most of the variance.
    """

    compared: int = 0
    own: int = 0
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    @staticmethod
    def of(adapter: Adapter, found: Attributions) -> Dictionaries:
        """Those of one batch."""
        compared, own = 0, 0
        for rows, mine in _own_rows(adapter, found):
            compared, own = compared + rows, own + mine
        spreads: dict[str, Spread] = {}
        for run in (found.runs.clean, *(() if found.corrupted is None else (found.corrupted,))):
            for seen in run.sites:
                if seen.site.kind == "feature":
                    here = _spread(seen, own_tokens(adapter, run.inputs))
                    before = spreads.get(seen.site.write)
                    spreads[seen.site.write] = here if before is None else before.merged(here)
        return Dictionaries(compared, own, spreads)

    def merged(self, other: Dictionaries) -> Dictionaries:
        """The sums over the prompts of both."""
        both = {**self.spreads, **other.spreads}
        for hook in self.spreads.keys() & other.spreads.keys():
            both[hook] = self.spreads[hook].merged(other.spreads[hook])
        return Dictionaries(self.compared + other.compared, self.own + other.own, both)


def _spread(seen: SiteTrace, tokens: Bool[Tensor, "batch pos"]) -> Spread:
    write, error = (x.detach()[tokens].flatten(1).double() for x in (seen.write, seen.error))
    size = write.norm(dim=1)
    usual = size <= MASSIVE * size.median()
    write, error = write[usual], error[usual]
    return Spread(len(write), write.sum(0).cpu(), write.square().sum().item(), error.square().sum().item())


def _own_rows(adapter: Adapter, found: Attributions) -> Iterator[tuple[int, int]]:
    """How many active features there are at each site that is read where it is written, and of how many the own
    decoder row is the one nearest to their encoder row.
    """
    nodes = found.nodes
    for s, (site, seen) in enumerate(zip(adapter.sites, found.runs.clean.sites, strict=True)):
        if site.kind != "feature" or site.coder is None or site.read != site.write:
            continue
        here = ((nodes.site == s) & (nodes.index != VECTOR) & (nodes.activation != 0)).nonzero()[:, 0]
        # A row each: of many places where a feature is active any will do.
        index, place = nodes.index[here].unique(return_inverse=True)
        row = here.new_zeros(len(index)).scatter(0, place, here)[:COMPARED]
        if not len(row):
            continue
        x = seen.read.detach()[nodes.example[row], nodes.pos[row]]
        encoder, decoder = (
            torch.nn.functional.normalize(rows(x, nodes.index[row]).flatten(1), dim=1)
            for rows in (site.coder.encoder_rows, site.coder.decoder_rows)
        )
        own = (encoder @ decoder.T).argmax(1) == torch.arange(len(row), device=row.device)
        yield len(row), int(own.sum())
