"""The sums of a search as a circuit's plain values."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Int
from pydantic import ValidationError
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter, Site
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.node_index import VECTOR, NodeIndex, node_id
from circuitlens.attribution.sums import ACTIVATION, ATTRIBUTION, BatchSums, KeyedSums
from circuitlens.circuit import ANSWER, DISTRACTOR, Circuit, Edge, FullGraphSize, MetricRecord, Node, Output
from circuitlens.circuit.nodes import Fingerprint
from circuitlens.distribution import created_by
from circuitlens.errors import AdapterError
from circuitlens.pipeline.search import Search


def make_circuit(
    search: Search,
    sums: BatchSums,
    kept: Int[Tensor, " kept"],
    connected: tuple[KeyedSums, Bool[Tensor, " edge"]],
    measured: KeyedSums,
    residual: float,
    fingerprint: Fingerprint,
) -> Circuit:
    """The sums as plain values, without nodes that do not change and have no edge."""
    count, table = sums.prompts, sums.nodes
    if METHODS[search.method].measures:
        table = _with_measured(table, kept, measured)
    edges, real = connected
    alive = sums.changed
    ends = kept[torch.cat([edges.keys // max(len(kept), 1), edges.keys % max(len(kept), 1)])]
    alive[torch.searchsorted(table.keys, ends)] = True
    inner = alive & ~search.index.is_logit(table.keys)
    site, _, index = search.index.parts(table.keys)
    coded = torch.tensor([s for s, each in enumerate(search.adapter.sites) if each.kind == "feature"]).long()
    clean, other = (sums.metric / count).tolist()
    gaps = zip(search.adapter.sites, (sums.gaps / count).tolist(), strict=True)
    try:
        nodes = _nodes(search, table, alive, kept, count)
        return Circuit(
            created_by=created_by(),
            adapter=search.adapter.name,
            options=search.adapter.options,
            **_prompt_fields(search),
            tokens=search.prompts.labels,
            metric=MetricRecord(
                **_output_fields(search),
                name=search.example.metric.name,
                value=clean,
                corrupted_value=None if search.example.corrupted is None else other,
            ),
            fingerprint=fingerprint,
            method=search.method,
            frozen=search.frozen,
            found=FullGraphSize(
                nodes=int(inner.sum()),
                features=int((inner & torch.isin(site, coded) & (index != VECTOR)).sum()),
                attribution=(table.sums[inner, ATTRIBUTION] / count).abs().sum().item(),
                edges=len(edges.keys),
            ),
            completeness_gaps={s.name: gap for s, gap in gaps if isfinite(gap)}
            if METHODS[search.method].has_gaps
            else {},
            conservation_residual=residual,
            nodes=tuple(nodes.values()),
            edges=_edges(kept, nodes, edges, real, search.max_edges, count),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise AdapterError(
            f"Adapter {search.adapter.name!r} names parts of its model so that they make no circuit: "
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}."
        ) from error


def _prompt_fields(search: Search) -> Mapping[str, Any]:
    """What the circuit says of its prompts."""
    pairs, first = search.prompts.pairs, search.prompts.pairs[0]
    if search.prompts.by is None:
        return {"prompt": first.prompt, "corrupted": first.corrupted}
    told = first.prompt if len(pairs) == 1 else f"{len(pairs)} prompts such as {first.prompt!r}"
    return {"prompt": told, "corrupted": first.corrupted, "pairs": pairs, "by": search.prompts.by}


def _output_fields(search: Search) -> Mapping[str, tuple[Output, ...]]:
    """The answers and distractors of a single prompt; of many each pair says its own."""
    if search.prompts.by is not None:
        return {"answers": (), "distractors": ()}
    (pair,), metric = search.prompts.pairs, search.example.metric
    both = {"answers": (pair.answer, metric.answers), "distractors": (pair.distractor, metric.distractors)}
    return {
        name: tuple(Output(text=text, index=i) for text, i in zip(texts, index[0].tolist(), strict=True))
        for name, (texts, index) in both.items()
    }


def _nodes(search: Search, table: KeyedSums, alive: Tensor, kept: Tensor, count: int) -> dict[int, Node]:
    """The kept nodes that are alive, by number, with their means."""
    numbers = kept[alive[torch.searchsorted(table.keys, kept)]]
    rows = KeyedSums(numbers, table.at(numbers))
    columns = (*search.index.parts(numbers), *(rows.sums[:, [ACTIVATION, ATTRIBUTION]] / count).T)
    values = zip(*(column.tolist() for column in columns), rows.errors(ATTRIBUTION, count), strict=True)
    many = search.prompts.by is not None
    return {
        number: make_node(search.adapter, *each, many=many)
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


def strongest(index: NodeIndex, sums: BatchSums, count: int | None) -> Bool[Tensor, " node"]:
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
