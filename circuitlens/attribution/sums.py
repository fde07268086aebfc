"""Sums of scores over prompts, by node or edge: what batches give, and how it is joined.

Joining is associative and commutative but for the last bits of float64, so batches may run anywhere; joined in one
order they give the same to the last bit. A table has as many rows as there
are different nodes, whatever the number of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.attribution.attributions import Attributions, measured_attribution
from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.attribution.scores import EdgeScores
from circuitlens.progress import Progress
from circuitlens.prompts.alignment import PromptSet


@dataclass(frozen=True)
class KeyedSums:
    """Sums over prompts, a row a key: `sums[k]` are sums of values and then of their squares; rows not there are 0."""

    keys: Int[Tensor, " key"]
    sums: Float[Tensor, "key column"]

    @staticmethod
    def empty(values: int) -> KeyedSums:
        """No row, of so many values each."""
        return KeyedSums(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2 * values, dtype=torch.double))

    @staticmethod
    def of(example: Int[Tensor, " row"], keys: Int[Tensor, " row"], values: Float[Tensor, "row value"]) -> KeyedSums:
        """Rows of single prompts; rows of one prompt and key are one value, their sum."""
        example, values = example.cpu(), values.detach().cpu().double()
        unique, place = keys.cpu().unique(return_inverse=True)
        if len(unique) == len(keys) or not example.any():  # a key is of one prompt
            each = _grouped(values, place, len(unique))
            return KeyedSums(unique, torch.cat([each, each.square()], 1))
        # A pair of key and prompt as one number: that sorts many times faster than two columns.
        prompts = int(example.max()) + 1
        pairs, place = (place * prompts + example).unique(return_inverse=True)
        each = _grouped(values, place, len(pairs))
        return KeyedSums(unique, _grouped(torch.cat([each, each.square()], 1), pairs // prompts, len(unique)))

    def merged(self, other: KeyedSums) -> KeyedSums:
        """The sums over the prompts of both."""
        return _summed(torch.cat([self.keys, other.keys]), torch.cat([self.sums, other.sums]))

    def at(self, keys: Int[Tensor, " wanted"]) -> Float[Tensor, "wanted column"]:
        """The sums of these keys, 0 where there is none."""
        if not len(self.keys):
            return self.sums.new_zeros(len(keys), self.sums.shape[1])
        at = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return self.sums[at] * (self.keys[at] == keys)[:, None]

    def errors(self, column: int, prompts: int) -> list[float | None]:
        """The standard error of the mean of each row's value, prompts without the row counting as 0; None of one."""
        if prompts < 2:
            return [None] * len(self.keys)
        values = self.sums.shape[1] // 2
        mean = self.sums[:, column] / prompts
        variance = (self.sums[:, values + column] / prompts - mean.square()).clamp_min(0) * prompts / (prompts - 1)
        return (variance / prompts).sqrt().tolist()


def _summed(keys: Tensor, sums: Tensor) -> KeyedSums:
    unique, place = keys.unique(return_inverse=True)
    return KeyedSums(unique, _grouped(sums, place, len(unique)))


def _grouped(values: Tensor, place: Tensor, count: int) -> Tensor:
    """The sums of the rows that go to each of `count` places."""
    return values.new_zeros(count, values.shape[1]).index_add(0, place, values)


ATTRIBUTION, ACTIVATION, CHANGED = range(3)
"""The values of a node in `BatchSums.nodes`; `CHANGED` is 1 where the node differs from its baseline."""


@dataclass(frozen=True)
class BatchSums:
    """What some of the prompts add up to: nodes by number, the metric clean and corrupted, the completeness gaps."""

    prompts: int
    nodes: KeyedSums
    metric: Float[Tensor, " two"]
    gaps: Float[Tensor, " site"]

    @staticmethod
    def of(index: NodeIndex, prompts: PromptSet, found: Attributions) -> BatchSums:
        """The sums of one batch; `prompts` are those of the batch."""
        nodes = found.nodes
        changed = (nodes.delta != 0) | (nodes.attribution != 0) | nodes.is_logit
        # Of many prompts a row is a node that changes: no other has an attribution, and its activation does not count.
        # Of one prompt all stay, as edges may pass through a node in which two changes cancel.
        rows = torch.ones_like(changed) if prompts.by is None else changed
        values = torch.stack([nodes.attribution, nodes.activation, changed.to(nodes.delta)], 1)[rows]
        table = KeyedSums.of(nodes.example[rows], node_numbers(index, prompts, found)[rows], values)
        other = found.runs.clean.metric if found.corrupted is None else found.corrupted.metric
        metric = torch.stack([found.runs.clean.metric.detach(), other.detach()]).cpu().double().sum(1)
        return BatchSums(len(prompts), table, metric, found.gaps.cpu().double().sum(0))

    def merged(self, other: BatchSums) -> BatchSums:
        """The sums over the prompts of both."""
        return BatchSums(
            self.prompts + other.prompts,
            self.nodes.merged(other.nodes),
            self.metric + other.metric,
            self.gaps + other.gaps,
        )

    @property
    def changed(self) -> Bool[Tensor, " node"]:
        """Marks the nodes that differ from their baseline on a prompt, and logits."""
        return self.nodes.sums[:, CHANGED] > 0


@dataclass(frozen=True)
class EdgeSums:
    """What the kept nodes of some prompts give: edges by key (`edge_sums`), measured effects of nodes where the method
    measures, and the conservation residual.
    """

    edges: KeyedSums
    measured: KeyedSums
    residual: float

    def merged(self, other: EdgeSums) -> EdgeSums:
        """The sums over the prompts of both."""
        residual = max(self.residual, other.residual)
        return EdgeSums(self.edges.merged(other.edges), self.measured.merged(other.measured), residual)


def node_numbers(index: NodeIndex, prompts: PromptSet, found: Attributions) -> Int[Tensor, " node"]:
    """The number of each node of a batch, at the group of its position.

    The logits stand at the last group, wherever prompts end. Of many prompts those of all answers are one node (index
    0) and those of all distractors another (index 1).
    """
    nodes, logit = found.nodes, found.nodes.is_logit
    group = prompts.table(found.batch.clean)[nodes.example, nodes.pos].masked_fill(logit, index.positions - 1)
    which = nodes.index
    if prompts.by is not None:
        named = (logit & (which != VECTOR)).nonzero()[:, 0]
        answers = (found.batch.metric.answers[nodes.example[named]] == which[named, None]).any(1)
        which = which.index_put((named,), (~answers).to(which))
    return index.number(nodes.site, group, which)


def among(
    index: NodeIndex, prompts: PromptSet, found: Attributions, kept: Int[Tensor, " kept"]
) -> tuple[Bool[Tensor, " node"], Int[Tensor, " node"]]:
    """Which nodes of a batch are among the kept (sorted numbers), and each one's place there."""
    mine = node_numbers(index, prompts, found).cpu()
    place = torch.searchsorted(kept, mine).clamp_max(max(len(kept) - 1, 0))
    keep = kept[place] == mine if len(kept) else torch.zeros_like(mine, dtype=torch.bool)
    return keep.to(found.nodes.site.device), place


def measured_sums(
    index: NodeIndex,
    prompts: PromptSet,
    found: Attributions,
    kept: Int[Tensor, " kept"],
    progress: Progress | None = None,
) -> KeyedSums:
    """The attributions, measured where the method measures, of a batch's nodes among the kept (sorted numbers)."""
    keep, place = among(index, prompts, found, kept)
    values = measured_attribution(found, keep, progress)[keep]
    return KeyedSums.of(found.nodes.example[keep], kept[place[keep.cpu()]], values[:, None])


def edge_sums(edges: EdgeScores, found: Attributions, place: Int[Tensor, " node"], count: int) -> KeyedSums:
    """The edges of one batch; an edge's key is its source's place among `count` kept nodes, times their count, plus its
    target's.
    """
    source, target = edges.source.cpu(), edges.target.cpu()
    keys = place[source] * count + place[target]
    return KeyedSums.of(found.nodes.example[edges.source], keys, edges.weight[:, None])
