"""What the real model does with nodes of a circuit set otherwise: switched off, made stronger, as in the corrupted run.

A node is set *to* a value, so that several settings mean the same in any order: to a multiple of its own value in the
clean, unedited run (1 holds it there, whatever is set before it), or to its value in the corrupted run. Everything that
is not set is computed anew from the stream as it is then. A multiple leaves the token that an adapter puts before a
prompt (BOS) alone, as in `edits`.

`ablate` is `intervene` at the baseline: where the circuit's attribution measures from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.edits import NodeMask, SiteValues, dense_features, in_turn, is_bos, made_late, own_tokens, set_nodes
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation.circuit_inputs import (
    Places,
    by_site,
    circuit_metric,
    circuit_prompts,
    places,
    require_same_adapter,
)
from circuitlens.literals import MetricName
from circuitlens.pipeline import BATCH
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.runs import Edit, run_spliced
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import SiteTrace, trace

Setting = int | float | Literal["corrupted"]
"""A factor on a node's value in the clean run (0 switches it off, 1 holds it), or its value in the corrupted run."""


@dataclass(frozen=True)
class OutputChange:
    """An output's probability with nothing set and with the nodes set; `asked` of answers and distractors."""

    label: str
    before: float
    after: float
    asked: bool


@dataclass(frozen=True)
class Outcome:
    """The metric with nothing set and with the nodes set, the change that attribution predicts, and the outputs.

    Changes count upwards: a positive one raised the metric. Means over the prompts of a circuit over many.
    `predicted_change` is what the nodes do together, linearly, in the circuit's own metric (also where another is
    measured): the sum of their own parts (`Circuit.own_parts`), so that what one does through another counts once; or
    None where attribution does not say. `outputs` come by falling probability before.
    """

    nodes: tuple[Node, ...]
    before: float
    after: float
    predicted_change: float | None
    outputs: tuple[OutputChange, ...]

    @property
    def measured_change(self) -> float:
        """How far the metric rose."""
        return self.after - self.before


@dataclass(frozen=True)
class Ablation:
    """The metric with nothing changed and with the nodes ablated, and the drop that attribution predicts.

    Drops count downwards: a positive one lowered the metric. Means over the prompts of a circuit over many.
    """

    nodes: tuple[Node, ...]
    before: float
    after: float
    predicted_drop: float

    @property
    def measured_drop(self) -> float:
        """How far the metric fell."""
        return self.before - self.after

    @property
    def predicted(self) -> float:
        """The same as `predicted_drop`."""
        return self.predicted_drop

    measured = measured_drop


def ablate(
    adapter: Adapter, circuit: Circuit, node_ids: Iterable[str], metric: MetricName | Score | None = None
) -> Ablation:
    """Switch nodes of a circuit off together in the real model, and compare with what their attributions predict.

    They are set to where attribution measures from: zero, or their value in the corrupted run. `metric` is needed where
    the circuit's was a function of one's own; the same function is to be given again.

    Raises:
        CircuitError: the circuit was made by another adapter, lacks a node, a node can't be ablated (a logit), or its
            metric is not known.
        PromptError: the circuit's prompts can't be read.
    """
    away: Setting = "corrupted" if circuit.from_corrupted else 0
    outcome = intervene(adapter, circuit, dict.fromkeys(node_ids, away), metric, outputs=0)
    if outcome.predicted_change is not None:
        return Ablation(outcome.nodes, outcome.before, outcome.after, 0.0 - outcome.predicted_change)
    predicted = sum(circuit.own_parts(node.id for node in outcome.nodes).values(), 0.0)
    return Ablation(outcome.nodes, outcome.before, outcome.after, predicted)


def intervene(
    adapter: Adapter,
    circuit: Circuit,
    settings: Mapping[str, Setting],
    metric: MetricName | Score | None = None,
    outputs: int = 8,
) -> Outcome:
    """Set nodes of a circuit together in the real model, and see what it answers then.

    Args:
        adapter: the model that the circuit was found in.
        circuit: the circuit.
        settings: by a node's id, a factor on its value in the clean run, or "corrupted" for that in the corrupted run.
        metric: where the circuit's was a function, the same again; or another one to measure.
        outputs: how many of the most probable outputs to tell, of those before and of those after; the answers and
            distractors always are.

    Raises:
        CircuitError: the circuit was made by another adapter, lacks a node, a node can't be set (a logit), a setting is
            not one or too large for the model, or the metric is not known.
        PromptError: the circuit's prompts can't be read, or have no corrupted prompts to take values from.
    """
    require_same_adapter(adapter, circuit)
    if outputs < 0:
        raise CircuitError(f"outputs is {outputs}: give a count of 0 or more.")
    nodes = tuple(circuit.node(node_id) for node_id in settings)
    chosen: list[Setting] = [_checked(node, setting) for node, setting in zip(nodes, settings.values(), strict=True)]
    wanted = circuit_metric(circuit, metric)
    with own_modes(gradients=False):
        prompts = circuit_prompts(adapter, circuit)
        if "corrupted" in chosen and not prompts.has_corrupted:
            node = nodes[chosen.index("corrupted")]
            raise PromptError(
                f"Node {node.id!r} is to have its value in the corrupted run, and the circuit has no corrupted prompt: "
                "give a factor, or find the circuit with one."
            )
        runs = [_run(adapter, circuit, batch, nodes, chosen, wanted) for batch in prompts.batches(BATCH)]
    before, after = (torch.cat(column).mean().item() for column in ([r.before for r in runs], [r.after for r in runs]))
    asked = torch.stack([run.asked for run in runs]).any(0)
    probabilities = torch.stack([run.probabilities for run in runs]).sum(0) / len(prompts)
    if not (isfinite(after) and probabilities.isfinite().all()):
        raise CircuitError(
            f"With these nodes set so, the model's outputs are not finite (the metric is {after}): "
            "set fewer of them, or by factors nearer to 1."
        )
    predicted = _predicted(adapter, circuit, nodes, chosen, runs[0].values)
    return Outcome(nodes, before, after, predicted, _changes(adapter, probabilities, asked, outputs))


def _checked(node: Node, setting: object) -> Setting:
    if setting == "corrupted":
        return "corrupted"
    # A Python integer may be larger than any float.
    if isinstance(setting, int | float) and abs(setting) <= sys.float_info.max:
        return float(setting)
    raise CircuitError(
        f"Node {node.id!r} is set to {setting!r}: give a finite factor on its own value, or 'corrupted'."
    )


@dataclass(frozen=True)
class _Run:
    """A batch of prompts with the nodes set, beside the same with nothing set.

    `before` and `after` are the metric; `probabilities` the outputs', summed over the prompts, before and after;
    `asked` marks the answers and distractors of any prompt. `values[n]` are the clean and the corrupted value of
    feature node `n`, of a circuit of one prompt whose corrupted run is known.
    """

    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    probabilities: Float[Tensor, "two output"]
    asked: Bool[Tensor, " output"]
    values: dict[int, tuple[float, float]]


def _run(
    adapter: Adapter,
    circuit: Circuit,
    prompts: PromptSet,
    nodes: Sequence[Node],
    settings: Sequence[Setting],
    metric: MetricName | Score,
) -> _Run:
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
    logits = run_spliced(adapter, batch.clean, edits, seen=clean) if edits else clean.logits
    probabilities = torch.stack([each.cpu().double().softmax(1).sum(0) for each in (clean.logits, logits)])
    named = torch.cat([batch.metric.answers.flatten(), batch.metric.distractors.flatten()]).cpu()
    marks = torch.zeros(logits.shape[1], dtype=torch.bool).index_fill(0, named[named >= 0], True)
    return _Run(clean.metric, batch.metric(logits), probabilities, marks, values)


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


def _predicted(
    adapter: Adapter,
    circuit: Circuit,
    nodes: Sequence[Node],
    settings: Sequence[Setting],
    values: Mapping[int, tuple[float, float]],
) -> float | None:
    """What attribution says of all settings together, or None where it does not say.

    Each node does its own part in proportion to its setting: what it does through another node that is set does not
    happen, as that one is held at its value.
    """
    if adapter.bos and circuit.by == "sum" and any(setting not in ("corrupted", 1) for setting in settings):
        return None  # of the positions that were summed up, the first is left alone
    left_alone = {
        node.id
        for node, setting in zip(nodes, settings, strict=True)
        if setting != "corrupted" and is_bos(adapter, circuit.by, node.pos)
    }
    own = circuit.own_parts(node.id for node in nodes if node.id not in left_alone)
    total = 0.0
    for number, (node, setting) in enumerate(zip(nodes, settings, strict=True)):
        if node.id in left_alone:
            continue
        share = _share(circuit.from_corrupted, setting, values.get(number))
        if share is None:
            return None
        total += share * own[node.id]
    return total


def _share(from_corrupted: bool, setting: Setting, values: tuple[float, float] | None) -> float | None:
    """Of the change that attribution measured, from its baseline up to the clean run, how much a setting adds; None
    where that is not known. `values` are the node's in the clean and in the corrupted run.
    """
    if setting == 1:
        return 0.0
    if setting == "corrupted" and from_corrupted:
        return -1.0
    if setting != "corrupted" and not from_corrupted:
        return setting - 1
    if values is None:
        return None
    clean, other = values
    value = other if setting == "corrupted" else setting * clean
    baseline = other if from_corrupted else 0.0
    if value == clean:
        return 0.0
    return None if clean == baseline else (value - clean) / (clean - baseline)


def _changes(
    adapter: Adapter, probabilities: Float[Tensor, "two output"], asked: Bool[Tensor, " output"], count: int
) -> tuple[OutputChange, ...]:
    """The most probable outputs before and after, and those that were asked for."""
    shown = asked.clone()
    for row in probabilities:
        shown[row.topk(min(count, len(row))).indices] = True
    chosen = shown.nonzero()[:, 0]
    chosen = chosen[probabilities[0, chosen].argsort(descending=True, stable=True)]
    rows = zip(chosen.tolist(), *probabilities[:, chosen].tolist(), asked[chosen].tolist(), strict=True)
    return tuple(OutputChange(adapter.output_label(index), *rest) for index, *rest in rows)
