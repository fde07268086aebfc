"""The one identity of a node: site, position and index, as a number that sorts and as the id that people read.

Tensors hold nodes as columns of site, position and index. `NodeIndex` turns a row of them into one integer and back, so
that tables of different prompts can be joined, and into the text that a circuit's file calls the node by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter

VECTOR = -1
"""The `index` of a node that is a whole vector: an error, an embedding, or the logits without nodes of their own."""


@runtime_checkable
class PlainNode(Protocol):
    """What places a node of a circuit: the hook its site writes to, its position, and its index (None: `VECTOR`)."""

    @property
    def hook(self) -> str: ...  # noqa: D102
    @property
    def pos(self) -> int: ...  # noqa: D102
    @property
    def index(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class NodeIndex:
    """Numbers for the nodes of `sites` sites and the logits (site number `sites`).

    Numbers grow by site, then position, then index, a vector before the features beside it. `width` is one more than
    the largest index.
    """

    sites: int
    positions: int
    width: int

    @staticmethod
    def of(adapter: Adapter, positions: int, outputs: int = 2) -> NodeIndex:
        """The numbering of an adapter's nodes at so many positions, with room for so many outputs."""
        widths = [site.coder.d_sae for site in adapter.sites if site.coder is not None]
        return NodeIndex(len(adapter.sites), positions, max([outputs, *widths]))

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return (self.sites + 1) * self.positions * (self.width + 1)

    def number(
        self,
        site: Int[Tensor, " node"],
        pos: Int[Tensor, " node"],
        index: Int[Tensor, " node"],
        example: Int[Tensor, " node"] | int = 0,
    ) -> Int[Tensor, " node"]:
        """The number of each node; nodes of different examples of a batch are apart."""
        place = (example * (self.sites + 1) + site) * self.positions + pos
        return place * (self.width + 1) + index - VECTOR

    def parts(
        self, number: Int[Tensor, " node"]
    ) -> tuple[Int[Tensor, " node"], Int[Tensor, " node"], Int[Tensor, " node"]]:
        """Site, position and index of each number of example 0."""
        place = number // (self.width + 1)
        return place // self.positions, place % self.positions, number % (self.width + 1) + VECTOR

    def is_logit(self, number: Int[Tensor, " node"]) -> Bool[Tensor, " node"]:
        """Marks the numbers of logit nodes."""
        return self.parts(number)[0] == self.sites

    def located(self, adapter: Adapter, nodes: Sequence[PlainNode]) -> Int[Tensor, " node"]:
        """The numbers of a circuit's nodes, which are at the adapter's sites or logits."""
        site = {each.write: s for s, each in enumerate(adapter.sites)} | {LOGITS: self.sites}
        columns = (
            [site[node.hook] for node in nodes],
            [node.pos for node in nodes],
            [VECTOR if node.index is None else node.index for node in nodes],
        )
        return self.number(*(torch.tensor(column, dtype=torch.long) for column in columns))


def node_id(site_name: str, pos: int, which: int | str) -> str:
    """The id of a node in a circuit: its site's name, its position, and its index or what it is instead of one."""
    return f"{site_name}:{pos}:{which}"
