"""Nodes of a circuit set to values, as edits of a run of its prompts.

A node is set *to* a value, so that several settings mean the same in any order: to a multiple of its own value in the
clean, unedited run (1 holds it there, whatever is set before it), or to its value in the corrupted run. Everything that
is not set is computed anew from the stream as it is then. A multiple leaves the token that an adapter puts before a
prompt (BOS) alone, as in `edits`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.edits import NodeMask, SiteValues, dense_features, in_turn, made_late, own_tokens, set_nodes
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation.circuit_inputs import Places, by_site, circuit_prompts, places
from circuitlens.literals import MetricName
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import PromptBatch, Score
from circuitlens.runs import Edit
from circuitlens.tracing import SiteTrace, Trace, trace

Setting = int | float | Literal["corrupted"]
"""A factor on a node's value in the clean run (0 switches it off, 1 holds it), or its value in the corrupted run."""


def read_settings(circuit: Circuit, settings: Mapping[str, object]) -> tuple[tuple[Node, ...], list[Setting]]:
    """The nodes that are to be set, and to what; raises CircuitError for what is no node here, or no setting."""
    nodes = tuple(circuit.node(node_id) for node_id in settings)
    return nodes, [_checked(node, setting) for node, setting in zip(nodes, settings.values(), strict=True)]


def _checked(node: Node, setting: object) -> Setting:
    if setting == "corrupted":
        return "corrupted"
    # A Python integer may be larger than any float.
    if isinstance(setting, int | float) and abs(setting) <= sys.float_info.max:
        return float(setting)
    raise CircuitError(
        f"Node {node.id!r} is set to {setting!r}: give a finite factor on its own value, or 'corrupted'."
    )


def settable_prompts(
    adapter: Adapter, circuit: Circuit, nodes: Sequence[Node], settings: Sequence[Setting]
) -> PromptSet:
    """The circuit's prompts; raises PromptError where there are no corrupted ones that a setting needs."""
    prompts = circuit_prompts(adapter, circuit)
    if "corrupted" in settings and not prompts.has_corrupted:
        node = nodes[settings.index("corrupted")]
        raise PromptError(
            f"Node {node.id!r} is to have its value in the corrupted run, and the circuit has no corrupted prompt: "
            "give a factor, or find the circuit with one."
        )
    return prompts


def not_finite(metric: float | None = None) -> CircuitError:
    """The error of settings that are too large for the model."""
    told = "" if metric is None else f" (the metric is {metric})"
    return CircuitError(
        f"With these nodes set so, the model's outputs are not finite{told}: "
        "set fewer of them, or by factors nearer to 1."
    )


@dataclass(frozen=True)
class SetBatch:
    """A batch of prompts, its run with nothing set, and the edits by which another run has the nodes set.

    `values[n]` are the clean and the corrupted value of feature node `n`, of a circuit of one prompt whose corrupted
    run is known.
    """

    batch: PromptBatch
    clean: Trace
    edits: Mapping[str, Edit]
    values: Mapping[int, tuple[float, float]]


def set_batch(
    adapter: Adapter,
    circuit: Circuit,
    prompts: PromptSet,
    nodes: Sequence[Node],
    settings: Sequence[Setting],
    metric: MetricName | Score,
) -> SetBatch:
    """Run a batch of a circuit's prompts with nothing set, and make the edits."""
    numbers = by_site(adapter, circuit, nodes)
    batch = tokenize_pairs(adapter, prompts.pairs, metric)
    clean = trace(adapter, batch.clean, batch.metric, graph=False, only=numbers)
    other: dict[str, SiteTrace] = {}
    # What attribution says of one prompt is in proportion to its change from the corrupted run.
    if batch.corrupted is not None and ("corrupted" in settings or (circuit.from_corrupted and not circuit.pairs)):
        there = trace(adapter, batch.corrupted, batch.metric, graph=False, only=numbers)
        other = {seen.site.name: seen for seen in there.sites}
    table, own = prompts.table(batch.clean), own_tokens(adapter, batch.clean)
    edits: dict[str, Edit] = {}
    values: dict[int, tuple[float, float]] = {}
    for seen in clean.sites:
        name = seen.site.name
        where = places(nodes, numbers[name], table)
        edits[name] = _edit(seen, other.get(name), where, settings, own)
        if not circuit.pairs and name in other:
            values |= _feature_values(seen, other[name], where)
    return SetBatch(batch, clean, edits, values)


def _edit(
    clean: SiteTrace,
    other: SiteTrace | None,
    where: Places,
    settings: Sequence[Setting],
    own: Bool[Tensor, "batch pos"],
) -> Edit:
    """An edit of one site that sets its nodes to a factor on their clean value, or to the corrupted run's."""
    example, pos, index, number = where
    corrupted = torch.tensor([setting == "corrupted" for setting in settings], device=own.device)[number]
    factors = [1.0 if setting == "corrupted" else float(setting) for setting in settings]
    factor = torch.tensor(factors, dtype=torch.double).to(clean.write)[number]

    def edit(chosen: Bool[Tensor, " node"], values: Callable[[], SiteValues]) -> Edit:
        mask = partial(NodeMask.at, torch.zeros_like(own), clean.site.coder, (example, pos, index), chosen)
        return made_late(lambda: set_nodes(mask(), values()))

    edits = [edit(~corrupted & own[example, pos], lambda: _scaled(clean, where, factor))]
    if other is not None:
        edits.append(edit(corrupted, lambda: SiteValues.of(other)))
    return in_turn(*edits)


def _scaled(clean: SiteTrace, where: Places, factor: Float[Tensor, " node"]) -> SiteValues:
    """The clean run's values, with those of some nodes times a factor."""
    example, pos, index, _ = where
    vector = index < 0
    at = example[vector], pos[vector]
    error = clean.error.index_put(at, factor[vector].view(-1, *[1] * (clean.error.dim() - 2)) * clean.error[at])
    features = dense_features(clean)
    if features is not None:
        places = example[~vector], pos[~vector], index[~vector]
        features = features.index_put(places, factor[~vector] * features[places])
    return SiteValues(features, error=error)


def _feature_values(clean: SiteTrace, other: SiteTrace, where: Places) -> dict[int, tuple[float, float]]:
    """The clean and the corrupted value of the nodes that are features, by their number."""
    example, pos, index, number = where
    feature, both = index >= 0, (dense_features(clean), dense_features(other))
    at = example[feature], pos[feature], index[feature]
    columns = [[] if values is None else values[at].tolist() for values in both]
    return dict(zip(number[feature].tolist(), zip(*columns, strict=True), strict=True))
