"""Sums over prompts of the edges that are weighed by path patching, and which edges count as measured.

Edges are chosen by their mean over all prompts, and each of them is then weighed on every prompt. Those whose mean is
not small are measured to their end everywhere; of the others a prompt measures what is not small there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.attribution.attributions import Attributions
from circuitlens.attribution.node_index import NodeIndex
from circuitlens.attribution.path_patching import SMALL, weighed_edges
from circuitlens.attribution.sums import KeyedSums, among
from circuitlens.progress import Progress
from circuitlens.prompts.alignment import PromptSet

WEIGHT, ESTIMATED = range(2)
"""The values of an edge on a prompt; `ESTIMATED` is 1 where its weight is not measured to its end."""


@dataclass(frozen=True)
class StrongestEdges:
    """The edges to be weighed: their keys, as in `edge_sums`, sorted; their mean estimates; and `small`, the share of a
    prompt's contrast from which on each is measured there.
    """

    keys: Int[Tensor, " edge"]
    estimate: Float[Tensor, " edge"]
    small: Float[Tensor, " edge"]

    @staticmethod
    def of(edges: KeyedSums, most: int, prompts: int, contrast: float, summed: bool) -> StrongestEdges:
        """The `most` strongest by |mean estimate|, where the metric's mean change is `contrast`.

        Of `summed` positions each pair is judged by itself: most pairs of an edge have nothing in it.
        """
        chosen = edges.sums[:, 0].abs().argsort(descending=True, stable=True)[:most].sort().values
        estimate = edges.sums[chosen, 0] / prompts
        everywhere = (estimate.abs() >= SMALL * abs(contrast)) & (not summed)
        return StrongestEdges(edges.keys[chosen], estimate, SMALL * ~everywhere)


def weighed_sums(
    index: NodeIndex,
    prompts: PromptSet,
    found: Attributions,
    kept: Int[Tensor, " kept"],
    edges: StrongestEdges,
    progress: Progress | None = None,
) -> KeyedSums:
    """The weights by path patching that edges between the kept nodes have in a batch."""
    keep, place = among(index, prompts, found, kept)
    rows = keep.cpu().nonzero()[:, 0]
    rows = rows[place[rows].argsort(stable=True)]
    places, sizes = place[rows].unique_consecutive(return_counts=True)
    at_place = dict(zip(places.tolist(), rows.split(sizes.tolist()), strict=True))
    none, example = rows[:0], found.nodes.example.cpu()
    parts = [(none, none, none)]
    for n, key in enumerate(edges.keys.tolist()):
        u, d = at_place.get(key // len(kept), none), at_place.get(key % len(kept), none)
        one, other = (example[u][:, None] == example[d]).nonzero(as_tuple=True)
        parts.append((u[one], d[other], torch.full_like(one, n)))
    source, target, edge = (torch.cat(column) for column in zip(*parts, strict=True))
    like, device = found.nodes.delta, found.nodes.site.device
    weight, measured = weighed_edges(
        found.runs,
        found.nodes,
        source.to(device),
        target.to(device),
        edges.estimate[edge].to(like),
        edges.small[edge].to(like),
        progress,
    )
    values = torch.stack([weight, (~measured & (weight != 0)).to(weight)], 1)
    return KeyedSums.of(example[source], edges.keys[edge], values)


def with_weighed(
    edges: KeyedSums, chosen: Int[Tensor, " chosen"], weighed: KeyedSums
) -> tuple[KeyedSums, Bool[Tensor, " edge"]]:
    """The sums of all edges with those of the chosen ones weighed, without edges that are 0 on every prompt; and which
    edges are measured on every prompt that has them.
    """
    sums, at, found = edges.sums.clone(), torch.searchsorted(edges.keys, chosen), weighed.at(chosen)
    sums[at] = found[:, [WEIGHT, 2 + WEIGHT]]
    measured = torch.zeros_like(edges.keys, dtype=torch.bool).index_put((at,), found[:, ESTIMATED] == 0)
    there = sums[:, 0] != 0
    return KeyedSums(edges.keys[there], sums[there]), measured[there]
