"""The one pipeline from prompts to a circuit, behind `find` and `aggregate`: sums by node, the strongest, their edges.

1. Each batch of prompts is scored by itself into sums by node, which are joined.
2. The strongest nodes by |mean| are kept.
3. Each batch gives the edges between those (and, for a method that measures, their measured effects). Every prompt
   gives every kept edge what it is there, small or 0, so that a mean has no threshold in it.
4. The strongest edges by |mean estimate| are weighed anew by path patching, in each batch (`path_patching`).

Memory is that of one batch and of the sums, whose size is the number of different nodes, not of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Int
from pydantic import ValidationError
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter, Site
from circuitlens.attribution.attributions import Attributions, attribute_edges, attribute_nodes, steps_of_batch
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.node_index import VECTOR, NodeIndex, node_id
from circuitlens.attribution.sums import (
    ACTIVATION,
    ATTRIBUTION,
    BatchSums,
    KeyedSums,
    among,
    edge_sums,
    measured_sums,
)
from circuitlens.attribution.weighed_sums import StrongestEdges, weighed_sums, with_weighed
from circuitlens.circuit import ANSWER, DISTRACTOR, Circuit, Edge, FullGraphSize, MetricRecord, Node, Output
from circuitlens.circuit.nodes import Fingerprint
from circuitlens.errors import AdapterError, PromptError
from circuitlens.fingerprint import fingerprint_of
from circuitlens.literals import MethodName, MetricName
from circuitlens.progress import Progress, ProgressCallback
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import PromptBatch, Score

BATCH = 16
"""Prompts to a batch."""


class _Scores:
    """The scores of the batch that was asked for last; of several batches only one is in memory at a time."""

    def __init__(self, score: Callable[[PromptSet], Attributions]):
        self._score = score
        self._last: tuple[PromptSet, Attributions] | None = None

    def of(self, batch: PromptSet) -> Attributions:
        """The scores of this batch."""
        if self._last is None or self._last[0] is not batch:
            self._last = None  # let go of it before the next one is scored
            self._last = batch, self._score(batch)
        return self._last[1]


@dataclass(frozen=True)
class Search:
    """What is asked: prompts, the first of them as a batch, and how their circuit is to be found."""

    adapter: Adapter
    prompts: PromptSet
    example: PromptBatch
    method: MethodName
    metric: MetricName | Score | None
    frozen: bool
    max_nodes: int | None
    max_edges: int | None
    measured_edges: int
    batch_size: int = BATCH
    index: NodeIndex = field(init=False)

    def __post_init__(self) -> None:
        for name, count in (("max_nodes", self.max_nodes), ("max_edges", self.max_edges)):
            if count is not None and count < 0:
                raise PromptError(f"{name} is {count}: give a count of 0 or more, or None for all.")
        if self.measured_edges < 0:
            raise PromptError(f"measured_edges is {self.measured_edges}: give a count of 0 or more.")
        if self.measured_edges and self.frozen:
            raise PromptError(
                "measured_edges measures the model as it is, and frozen mode holds parts of it: leave one of them out."
            )
        named = torch.cat([self.example.metric.answers, self.example.metric.distractors], 1)
        outputs = max(2, int(named.max()) + 1)
        object.__setattr__(self, "index", NodeIndex.of(self.adapter, len(self.prompts.labels), outputs))

    @property
    def connects(self) -> bool:
        """Whether edges are asked for."""
        return self.max_edges != 0

    def run(self, callback: ProgressCallback | None) -> Circuit:
        """The circuit."""
        batches = list(self.prompts.batches(self.batch_size))
        again = len(batches) > 1  # one batch is scored once; of several none is kept
        second = self.connects or METHODS[self.method].measures
        steps = steps_of_batch(self.adapter, self.method)
        weighs = self.connects and self.measured_edges > 0
        more = (second + weighs) * again * steps.nodes + steps.measured + self.connects * steps.edges + weighs
        total = len(batches) * (steps.nodes + more)
        with Progress(total, callback) as progress:
            scores = _Scores(lambda batch: self._score(batch, progress))
            fingerprint, sums = fingerprint_of(scores.of(batches[0]).runs.clean), None
            for batch in batches:
                more = BatchSums.of(self.index, batch, scores.of(batch))
                sums = more if sums is None else sums.merged(more)
            assert sums is not None, "there is a prompt"
            kept = sums.nodes.keys[_strongest(self.index, sums, self.max_nodes)]
            edges, measured, residual = KeyedSums.empty(1), KeyedSums.empty(1), 0.0
            for batch in batches if second else ():
                if METHODS[self.method].measures:
                    more = measured_sums(self.index, batch, scores.of(batch), kept, progress)
                    measured = measured.merged(more)
                if self.connects:
                    keep, place = among(self.index, batch, scores.of(batch), kept)
                    found, worst = attribute_edges(scores.of(batch), keep, progress)
                    more = edge_sums(found, scores.of(batch), place, len(kept))
                    edges, residual = edges.merged(more), max(residual, worst)
            clean, other = (sums.metric / sums.prompts).tolist()
            contrast = clean - other * (METHODS[self.method].baseline != "zero" and self.prompts.has_corrupted)
            by_sum = self.prompts.by == "sum"
            chosen = StrongestEdges.of(edges, self.measured_edges, sums.prompts, contrast, by_sum)
            weighed = KeyedSums.empty(2)
            for batch in batches if weighs else ():
                more = weighed_sums(self.index, batch, scores.of(batch), kept, chosen, progress)
                weighed = weighed.merged(more)
                progress.step("path patching")
        return self._circuit(sums, kept, with_weighed(edges, chosen.keys, weighed), measured, residual, fingerprint)

    def _score(self, batch: PromptSet, progress: Progress) -> Attributions:
        asked = self.example
        if batch.by is not None:
            asked = tokenize_pairs(self.adapter, batch.pairs, self.metric)
        return attribute_nodes(self.adapter, asked, self.method, self.frozen, progress)

    def _circuit(
        self,
        sums: BatchSums,
        kept: Int[Tensor, " kept"],
        connected: tuple[KeyedSums, Bool[Tensor, " edge"]],
        measured: KeyedSums,
        residual: float,
        fingerprint: Fingerprint,
    ) -> Circuit:
        """The sums as plain values, without nodes that do not change and have no edge."""
        count, table = sums.prompts, sums.nodes
        if METHODS[self.method].measures:
            table = _with_measured(table, kept, measured)
        edges, real = connected
        alive = sums.changed
        ends = kept[torch.cat([edges.keys // max(len(kept), 1), edges.keys % max(len(kept), 1)])]
        alive[torch.searchsorted(table.keys, ends)] = True
        inner = alive & ~self.index.is_logit(table.keys)
        site, _, index = self.index.parts(table.keys)
        coded = torch.tensor([s for s, each in enumerate(self.adapter.sites) if each.kind == "feature"]).long()
        clean, other = (sums.metric / count).tolist()
        gaps = zip(self.adapter.sites, (sums.gaps / count).tolist(), strict=True)
        try:
            nodes = self._nodes(table, alive, kept, count)
            return Circuit(
                created_by=f"circuitlens {version('circuitlens')}",
                adapter=self.adapter.name,
                options=self.adapter.options,
                **self._prompt_fields(),
                tokens=self.prompts.labels,
                metric=MetricRecord(
                    **self._output_fields(),
                    name=self.example.metric.name,
                    value=clean,
                    corrupted_value=None if self.example.corrupted is None else other,
                ),
                fingerprint=fingerprint,
                method=self.method,
                frozen=self.frozen,
                found=FullGraphSize(
                    nodes=int(inner.sum()),
                    features=int((inner & torch.isin(site, coded) & (index != VECTOR)).sum()),
                    attribution=(table.sums[inner, ATTRIBUTION] / count).abs().sum().item(),
                    edges=len(edges.keys),
                ),
                completeness_gaps={s.name: gap for s, gap in gaps if isfinite(gap)}
                if METHODS[self.method].has_gaps
                else {},
                conservation_residual=residual,
                nodes=tuple(nodes.values()),
                edges=_edges(kept, nodes, edges, real, self.max_edges, count),
            )
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise AdapterError(
                f"Adapter {self.adapter.name!r} names parts of its model so that they make no circuit: "
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}."
            ) from error

    def _prompt_fields(self) -> Mapping[str, Any]:
        """What the circuit says of its prompts."""
        pairs, first = self.prompts.pairs, self.prompts.pairs[0]
        if self.prompts.by is None:
            return {"prompt": first.prompt, "corrupted": first.corrupted}
        told = first.prompt if len(pairs) == 1 else f"{len(pairs)} prompts such as {first.prompt!r}"
        return {"prompt": told, "corrupted": first.corrupted, "pairs": pairs, "by": self.prompts.by}

    def _output_fields(self) -> Mapping[str, tuple[Output, ...]]:
        """The answers and distractors of a single prompt; of many each pair says its own."""
        if self.prompts.by is not None:
            return {"answers": (), "distractors": ()}
        (pair,), metric = self.prompts.pairs, self.example.metric
        both = {"answers": (pair.answer, metric.answers), "distractors": (pair.distractor, metric.distractors)}
        return {
            name: tuple(Output(text=text, index=i) for text, i in zip(texts, index[0].tolist(), strict=True))
            for name, (texts, index) in both.items()
        }

    def _nodes(self, table: KeyedSums, alive: Tensor, kept: Tensor, count: int) -> dict[int, Node]:
        """The kept nodes that are alive, by number, with their means."""
        numbers = kept[alive[torch.searchsorted(table.keys, kept)]]
        rows = KeyedSums(numbers, table.at(numbers))
        columns = (*self.index.parts(numbers), *(rows.sums[:, [ACTIVATION, ATTRIBUTION]] / count).T)
        values = zip(*(column.tolist() for column in columns), rows.errors(ATTRIBUTION, count), strict=True)
        many = self.prompts.by is not None
        return {
            number: make_node(self.adapter, *each, many=many)
            for number, each in zip(numbers.tolist(), values, strict=True)
        }


def make_node(
    adapter: Adapter,
    s: int,
    pos: int,
    index: int,
    activation: float,
    attribution: float,
    standard_error: float | None = None,
    *,
    many: bool = False,
) -> Node:
    """A plain node by its site's number, position and index (or `VECTOR`); of `many` prompts, whose outputs differ, a
    logit's index is 0 for their answers and 1 for their distractors.
    """
    number = None if index == VECTOR else index
    url = None
    if s == len(adapter.sites):
        name, hook, kind = LOGITS, LOGITS, "logit"
        layer = max(site.layer for site in adapter.sites) + 1
        if many and number is not None:
            label = which = (ANSWER, DISTRACTOR)[number]
            number = None
        else:
            label = "all other outputs" if number is None else adapter.output_label(number)
            which = "other" if number is None else number
    else:
        site = adapter.sites[s]
        name, hook, layer = site.name, site.write, site.layer
        if number is not None:
            kind, label, url, which = site.kind, adapter.label(site, number), adapter.url(site, number), number
        elif site.coder is None:
            kind = which = "embedding"
            label = name
        else:
            kind = which = "error"
            label = _error_label(adapter, site)
    return Node(
        id=node_id(name, pos, which),
        kind=kind,
        hook=hook,
        layer=layer,
        pos=pos,
        index=number,
        label=label,
        activation=activation,
        attribution=attribution,
        standard_error=standard_error,
        url=url,
    )


def _error_label(adapter: Adapter, site: Site) -> str:
    """ "error", or where its layer has several coders whose error it is."""
    if not any(other.layer == site.layer and other.coder for other in adapter.sites if other is not site):
        return "error"
    return f"{site.write.rsplit('.', 1)[-1].removeprefix('hook_')} error"


def _edges(
    kept: Tensor, nodes: Mapping[int, Node], edges: KeyedSums, measured: Tensor, most: int | None, count: int
) -> tuple[Edge, ...]:
    """The strongest edges, with their means."""
    chosen = edges.sums[:, 0].abs().argsort(descending=True, stable=True)[:most]
    rows = KeyedSums(edges.keys[chosen], edges.sums[chosen])
    columns = (kept[rows.keys // max(len(kept), 1)], kept[rows.keys % max(len(kept), 1)], rows.sums[:, 0] / count)
    return tuple(
        Edge(source=nodes[u].id, target=nodes[d].id, weight=weight, standard_error=error, measured=real)
        for u, d, weight, real, error in zip(
            *(c.tolist() for c in (*columns, measured[chosen])), rows.errors(0, count), strict=True
        )
    )


def _strongest(index: NodeIndex, sums: BatchSums, count: int | None) -> Bool[Tensor, " node"]:
    """Marks the `count` nodes of largest |mean attribution|, and all logit nodes; every node for None."""
    logits = index.is_logit(sums.nodes.keys)
    if count is None or count >= int((~logits).sum()):
        return torch.ones_like(logits)
    strength = sums.nodes.sums[:, ATTRIBUTION].abs().masked_fill(logits, -1)
    return logits.index_fill(0, strength.argsort(descending=True, stable=True)[:count], True)


def _with_measured(table: KeyedSums, kept: Tensor, measured: KeyedSums) -> KeyedSums:
    """The sums with the kept nodes' attributions replaced by their measured effects."""
    sums, at = table.sums.clone(), torch.searchsorted(table.keys, kept)
    square = sums.shape[1] // 2 + ATTRIBUTION
    sums[at[:, None], torch.tensor([ATTRIBUTION, square])] = measured.at(kept)
    return KeyedSums(table.keys, sums)
