"""Circuits over many prompts: mean attributions and edges with their standard errors, batch by batch.

1. Each batch is scored by itself into a `Table` of sums by node; tables are joined by `merged`, which is associative
   and commutative, so batches may run in any order and anywhere.
2. The strongest nodes by |mean| are kept.
3. Each batch is scored again for the edges between those (and, for `exact`, their measured effects). Every prompt gives
   every kept edge what it is there, small or 0, so that a mean has no threshold in it.

Memory is that of one batch and of the tables, whose size is the number of different nodes, not of prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from typing import TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuitlens.adapter import Adapter
from circuitlens.attribution.gradient import VECTOR, EdgeScores, NodeScores
from circuitlens.attribution.methods import Scored, check_method, connect, measured, score
from circuitlens.circuit import ANSWER, DISTRACTOR, Circuit, Edge, FullGraphSize, MetricRecord, Node
from circuitlens.discovery import MAX_EDGES, ProgressCallback, completeness_gaps, node
from circuitlens.errors import PromptError
from circuitlens.literals import MethodName, MetricName, PositionGrouping
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.prompts.pairs import Pair

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 16
"""Prompts to a batch."""

MAX_NODES = 100
"""What is kept unless one asks for more: what carries a decision on many prompts is little."""


@dataclass(frozen=True)
class Table:
    """Sums over prompts, a row a key: `sums[k]` are sums of values and of their squares; rows not there are 0."""

    keys: Int[Tensor, " key"]
    sums: Float[Tensor, "key column"]

    @staticmethod
    def of(example: Tensor, keys: Tensor, values: Float[Tensor, "row value"]) -> Table:
        """Rows of single prompts; rows of one prompt and key are one value, their sum."""
        keys, example, values = keys.cpu(), example.cpu(), values.detach().cpu().double()
        pairs, place = torch.stack([keys, example]).unique(dim=1, return_inverse=True)
        each = values.new_zeros(pairs.shape[1], values.shape[1]).index_add(0, place, values)
        return _summed(pairs[0], torch.cat([each, each.square()], 1))

    def merged(self, other: Table) -> Table:
        """The sums over the prompts of both."""
        return _summed(torch.cat([self.keys, other.keys]), torch.cat([self.sums, other.sums]))

    def at(self, keys: Int[Tensor, " wanted"]) -> Float[Tensor, "wanted column"]:
        """The sums of these keys, 0 where there is none."""
        if not len(self.keys):
            return self.sums.new_zeros(len(keys), self.sums.shape[1])
        at = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return self.sums[at] * (self.keys[at] == keys)[:, None]


def _summed(keys: Tensor, sums: Tensor) -> Table:
    unique, place = keys.unique(return_inverse=True)
    return Table(unique, sums.new_zeros(len(unique), sums.shape[1]).index_add(0, place, sums))


@dataclass(frozen=True)
class Piece:
    """What some of the prompts add up to: nodes (attribution, activation), the metric clean and corrupted, the gaps."""

    prompts: int
    nodes: Table
    metric: Float[Tensor, " two"]
    gaps: Float[Tensor, " site"]

    def merged(self, other: Piece) -> Piece:
        """The sums over the prompts of both; associative and commutative."""
        return Piece(
            self.prompts + other.prompts,
            self.nodes.merged(other.nodes),
            self.metric + other.metric,
            self.gaps + other.gaps,
        )


@dataclass(frozen=True)
class Keys:
    """Nodes of many prompts as numbers: site, group of positions, feature.

    The logits of all answers are one node, those of all distractors another.
    """

    sites: int
    groups: int
    width: int

    @staticmethod
    def of(adapter: Adapter, labels: Sequence[str]) -> Keys:
        """The numbering of an adapter's nodes in prompts with these groups."""
        return Keys(len(adapter.sites), len(labels), max([2, *(s.coder.d_sae for s in adapter.sites if s.coder)]) + 1)

    def __call__(self, nodes: NodeScores, batch: PromptSet, asked: Scored) -> Int[Tensor, " node"]:
        """The number of each node."""
        group = batch.table(asked.question.clean)[nodes.example, nodes.pos]
        index = nodes.index.clone()
        logits = nodes.site == self.sites
        group = group.masked_fill(logits, self.groups - 1)  # one answer, wherever prompts end
        mine = asked.question.metric.answers[nodes.example[logits]] == index[logits, None]
        named = torch.where(mine.any(1), 0, 1)
        index[logits] = torch.where(index[logits] == VECTOR, VECTOR, named)
        return self.number(nodes.site, group, index)

    def number(self, site: Tensor, group: Tensor, index: Tensor) -> Int[Tensor, " node"]:
        """The number of feature `index` (or `VECTOR`) of a site in a group of positions."""
        return (site * self.groups + group) * self.width + index - VECTOR

    def parts(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Site, group and index of each number."""
        place = keys // self.width
        return place // self.groups, place % self.groups, keys % self.width + VECTOR


def pieces(
    adapter: Adapter,
    aligned: PromptSet,
    method: MethodName,
    *,
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    batch_size: int = BATCH,
) -> Iterable[Piece]:
    """The node sums of each batch: independent pieces of work, to be `merged`."""
    keys = Keys.of(adapter, aligned.labels)
    for batch in aligned.batches(batch_size):
        yield node_sums(keys, batch, score(adapter, tokenize_pairs(adapter, batch.pairs, metric), method, frozen))


def node_sums(keys: Keys, batch: PromptSet, scored: Scored) -> Piece:
    """One batch's sums."""
    nodes = scored.nodes
    moved = (nodes.delta != 0) | (nodes.site == keys.sites)
    values = torch.stack([scored.attribution, nodes.activation], 1)[moved]
    table = Table.of(nodes.example[moved], keys(nodes, batch, scored)[moved], values)
    other = scored.clean.metric if scored.corrupted is None else scored.corrupted.metric
    sums = torch.stack([scored.clean.metric.detach().sum(), other.detach().sum()]).cpu().double()
    return Piece(len(batch), table, sums, scored.gaps.sum(0).cpu().double())


def effect_sums(adapter: Adapter, keys: Keys, batch: PromptSet, scored: Scored, kept: Int[Tensor, " kept"]) -> Table:
    """The exact effects (and activations) of one batch's nodes that are among the kept (sorted numbers)."""
    mine, keep, _ = _among(keys, batch, scored, kept)
    values = torch.stack([measured(adapter, scored, keep), scored.nodes.activation], 1)[keep]
    return Table.of(scored.nodes.example[keep], mine[keep.cpu()], values)


def _among(keys: Keys, batch: PromptSet, scored: Scored, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes' numbers, which of them are kept, and their places among those."""
    mine = keys(scored.nodes, batch, scored).cpu()
    place = torch.searchsorted(kept, mine).clamp_max(max(len(kept) - 1, 0))
    keep = kept[place] == mine if len(kept) else torch.zeros_like(mine, dtype=torch.bool)
    return mine, keep.to(scored.nodes.site.device), place


def edge_pieces(
    adapter: Adapter,
    aligned: PromptSet,
    method: MethodName,
    kept: Int[Tensor, " kept"],
    *,
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    batch_size: int = BATCH,
) -> Iterable[tuple[Table, Table, float]]:
    """Of each batch the sums of edges between the kept nodes (sorted numbers), of the nodes' exact effects (`exact`
    only), and the conservation residual. An edge's number is its source's place among `kept` times their count,
    plus its target's.
    """
    keys = Keys.of(adapter, aligned.labels)
    for batch in aligned.batches(batch_size):
        scored = score(adapter, tokenize_pairs(adapter, batch.pairs, metric), method, frozen)
        _, keep, place = _among(keys, batch, scored, kept)
        effects = _summed(kept[:0], torch.zeros(0, 4, dtype=torch.double))
        if method == "exact":
            effects = effect_sums(adapter, keys, batch, scored, kept)
        edges, residual = connect(adapter, scored, method, keep)
        yield _edge_table(edges, scored.nodes, place, len(kept)), effects, residual


def _edge_table(edges: EdgeScores, nodes: NodeScores, place: Tensor, count: int) -> Table:
    source, target = edges.source.cpu(), edges.target.cpu()
    return Table.of(nodes.example[edges.source], place[source] * count + place[target], edges.weight[:, None])


def aggregate(
    adapter: Adapter,
    pairs: Sequence[Pair] | PromptSet,
    method: MethodName | None = None,
    *,
    by: PositionGrouping = "position",
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    max_nodes: int | None = MAX_NODES,
    max_edges: int | None = MAX_EDGES,
    batch_size: int = BATCH,
    progress: ProgressCallback | None = None,
) -> Circuit:
    """Find the circuit that many prompts have in common: mean attributions and mean edges.

    Args:
        adapter: a model with its sparse coders.
        pairs: the prompts (`circuitlens.read_pairs` reads a file); those that can't be used are left out.
        method, metric, frozen, max_nodes, max_edges: as in `find`.
        by: how positions are brought together: "position" counts from the first token, "role" by the names that each
            pair gives its words, "sum" adds up all positions. (Effects of `exact` are of one position at a time.)
        batch_size: prompts that run together; results do not depend on it.
        progress: told the stage, the batches done and the batches in all as each ends; what it raises ends the work and
            comes out.

    Raises:
        PromptError: no prompt can be used, or the method or metric does not fit.
        AdapterError: as `find`.
    """
    for name, count in (("max_nodes", max_nodes), ("max_edges", max_edges)):
        if count is not None and count < 0:
            raise PromptError(f"{name} is {count}: give a count of 0 or more, or None for all.")
    if batch_size < 1:
        raise PromptError(f"batch_size is {batch_size}: give 1 or more.")
    with torch.inference_mode(False), torch.enable_grad():
        if isinstance(pairs, PromptSet):
            aligned = pairs
        else:
            aligned = align(adapter, pairs, by)
            for row in aligned.skipped[:1]:
                log.warning(
                    "%d of %d prompts can't be used and are skipped; the first, %r: %s",
                    *(len(aligned.skipped), len(pairs), row.text, row.reason),
                )
        corrupted = all(pair.corrupted is not None for pair in aligned.pairs)
        method = check_method(method, corrupted, frozen)
        example = tokenize_pairs(adapter, aligned.pairs[:1], metric)
        if metric is None:
            metric = cast(MetricName, example.metric.name)  # one for all: no batch may choose its own
        options = {"metric": metric, "frozen": frozen, "batch_size": batch_size}
        batches = -(-len(aligned) // batch_size)
        connected = max_edges != 0 or method == "exact"
        steps, done = batches * (1 + connected), 0
        with tqdm(total=steps, delay=1, disable=None, leave=False, unit="batch") as bar:

            def tell(name: str) -> None:
                nonlocal done
                done += 1
                bar.update()
                if progress is not None:
                    progress(name, done, steps)

            bar.set_description_str("nodes")
            total = reduce(Piece.merged, _counted(pieces(adapter, aligned, method, **options), lambda: tell("nodes")))
            keys = Keys.of(adapter, aligned.labels)
            logits = keys.parts(total.nodes.keys)[0] == keys.sites
            mean = total.nodes.sums[:, 0] / total.prompts
            order = mean.abs().masked_fill(logits, -1).argsort(descending=True, stable=True)
            chosen = logits.index_fill(
                0, order[: min(int((~logits).sum()), len(order) if max_nodes is None else max_nodes)], True
            )
            kept = total.nodes.keys[chosen]
            edges, effects, residual = _summed(kept[:0], mean.new_zeros(0, 2)), None, 0.0
            if connected:
                bar.set_description_str("edges")
                found = edge_pieces(adapter, aligned, method, kept, **options)
                for more, exact, worst in _counted(found, lambda: tell("edges")):
                    edges, residual = edges.merged(more), max(residual, worst)
                    effects = exact if effects is None else effects.merged(exact)
    table = total.nodes
    if method == "exact" and effects is not None:
        # Activations count where a node changes, as for every method.
        sums, measured_sums = total.nodes.at(kept), effects.at(kept)
        sums[:, [0, 2]] = measured_sums[:, [0, 2]]
        table = Table(kept, sums)
    nodes = _nodes(adapter, aligned, keys, kept, table, total.prompts)
    strongest = edges.sums[:, 0].abs().argsort(descending=True, stable=True)[:max_edges]
    strongest = strongest[edges.sums[strongest, 0] != 0]
    site, _, index = keys.parts(total.nodes.keys)
    coded = torch.tensor([s for s, each in enumerate(adapter.sites) if each.kind == "feature"], dtype=torch.long)
    clean, other = (total.metric / total.prompts).tolist()
    first = aligned.pairs[0].prompt
    return Circuit(
        created_by=f"circuitlens {version('circuitlens')}",
        adapter=adapter.name,
        options=adapter.options,
        prompt=first if total.prompts == 1 else f"{total.prompts} prompts such as {first!r}",
        corrupted=aligned.pairs[0].corrupted,
        pairs=aligned.pairs,
        by=aligned.by,
        tokens=aligned.labels,
        metric=MetricRecord(
            name=example.metric.name,
            answers=(),
            distractors=(),
            value=clean,
            corrupted_value=other if corrupted else None,
        ),
        method=method,
        frozen=frozen,
        found=FullGraphSize(
            nodes=int((~logits).sum()),
            features=int((torch.isin(site, coded) & (index != VECTOR)).sum()),
            attribution=mean[~logits].abs().sum().item(),
            edges=int((edges.sums[:, 0] != 0).sum()),
        ),
        completeness_gaps=completeness_gaps(adapter, method, (total.gaps / total.prompts).tolist()),
        conservation_residual=residual,
        nodes=tuple(nodes),
        edges=tuple(_edges(nodes, edges, strongest, total.prompts)),
    )


def _nodes(adapter: Adapter, aligned: PromptSet, keys: Keys, kept: Tensor, table: Table, prompts: int) -> list[Node]:
    """The kept nodes with their means over all prompts, in the order of their numbers."""
    sums = table.at(kept)
    rows = zip(
        *(part.tolist() for part in keys.parts(kept)), (sums / prompts).tolist(), _errors(sums, 2, prompts), strict=True
    )
    return [
        node(
            adapter,
            s,
            group,
            index,
            activation=means[1],
            attribution=means[0],
            standard_error=error,
            logit=None if index == VECTOR else (ANSWER, DISTRACTOR)[index] if s == keys.sites else None,
        )
        for s, group, index, means, error in rows
    ]


def _edges(nodes: Sequence[Node], edges: Table, chosen: Tensor, prompts: int) -> Iterable[Edge]:
    sums = edges.sums[chosen]
    for key, mean, error in zip(
        edges.keys[chosen].tolist(), (sums[:, 0] / prompts).tolist(), _errors(sums, 1, prompts), strict=True
    ):
        source, target = nodes[key // len(nodes)], nodes[key % len(nodes)]
        yield Edge(source=source.id, target=target.id, weight=mean, standard_error=error)


def _errors(sums: Tensor, columns: int, prompts: int) -> list[float | None]:
    """The standard error of the mean of each row's first value, prompts without the row counting as 0; None of one."""
    if prompts < 2:
        return [None] * len(sums)
    mean = sums[:, 0] / prompts
    variance = (sums[:, columns] / prompts - mean.square()).clamp_min(0) * prompts / (prompts - 1)
    return (variance / prompts).sqrt().tolist()


def _counted(parts: Iterable[T], done: Callable[[], object]) -> Iterable[T]:
    for part in parts:
        yield part
        done()
