"""Node and edge scores of a batch of prompts, as tensors: what every attribution method gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class NodeScores:
    """Every node of a batch of prompts, one row a node: by site, example, position, index (vectors first).

    `site` counts the trace's sites, and is their number at logit nodes. `delta` is `Δ`, `gradient` is `∂m/∂node`; of
    vectors both are taken along the vector, whose norm is the `activation` (of the rest of the logits: along their
    gradient). `attribution`, in units of the metric, is `Δ · gradient` where nodes go straight. `totals[s]` is `∂m/∂x`
    at site `s`, `logit_gradient` at the logits; `units[s]` are the unit vectors along which site `s`'s vector nodes
    change.
    """

    site: Int[Tensor, " node"]
    example: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    delta: Float[Tensor, " node"]
    gradient: Float[Tensor, " node"]
    attribution: Float[Tensor, " node"]
    totals: tuple[Float[Tensor, "batch pos ..."], ...]
    units: tuple[Float[Tensor, "batch pos ..."], ...]
    logit_gradient: Float[Tensor, "batch output"]

    @property
    def is_logit(self) -> Bool[Tensor, " node"]:
        """Marks the logit nodes."""
        return self.site == len(self.totals)


@dataclass(frozen=True)
class EdgeScores:
    """Direct effects between rows of `NodeScores`, in units of the metric; edges of weight 0 are left out.

    `rest[n]` is what node `n` does through targets that were not asked for.
    """

    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    rest: Float[Tensor, " node"]


def conservation_residual(nodes: NodeScores, edges: EdgeScores, keep: Bool[Tensor, " node"] | None = None) -> float:
    """The largest gap between a (kept) node's attribution and what flows out of it, in units of the metric.

    0 to rounding in every circuit whose edges are complete: the engine's check of itself.
    """
    inner = ~nodes.is_logit
    inner = (inner if keep is None else inner & keep).cpu()
    gap = nodes.attribution.cpu().double() - edges.rest.cpu().double()
    gap = gap.index_add(0, edges.source.cpu(), -edges.weight.cpu().double())
    return gap[inner].abs().max().item() if inner.any() else 0.0


def ranks(example: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """How many rows of the same example stand before each row: which of several repeated batches carries it."""
    rank = torch.zeros_like(example)
    for b in example.unique():
        mine = example == b
        rank[mine] = torch.arange(int(mine.sum()), device=rank.device)
    return rank
