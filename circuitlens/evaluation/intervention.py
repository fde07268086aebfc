"""What the real model does with nodes of a circuit set otherwise: switched off, made stronger, as in the corrupted run.

What it means to set a node stands in `settings`. `ablate` is `intervene` at the baseline: where the circuit's
attribution measures from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.edits import is_bos
from circuitlens.errors import CircuitError
from circuitlens.evaluation.circuit_inputs import circuit_metric, require_same_adapter
from circuitlens.evaluation.settings import (
    SetBatch,
    Setting,
    not_finite,
    read_settings,
    set_batch,
    settable_prompts,
)
from circuitlens.literals import MetricName
from circuitlens.pipeline import BATCH
from circuitlens.prompts.batch import Score
from circuitlens.runs import run_spliced
from circuitlens.torch_modes import own_modes


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
    nodes, chosen = read_settings(circuit, settings)
    wanted = circuit_metric(circuit, metric)
    with own_modes(gradients=False):
        prompts = settable_prompts(adapter, circuit, nodes, chosen)
        runs = [
            _run(adapter, set_batch(adapter, circuit, batch, nodes, chosen, wanted)) for batch in prompts.batches(BATCH)
        ]
    before, after = (torch.cat(column).mean().item() for column in ([r.before for r in runs], [r.after for r in runs]))
    asked = torch.stack([run.asked for run in runs]).any(0)
    probabilities = torch.stack([run.probabilities for run in runs]).sum(0) / len(prompts)
    if not (isfinite(after) and probabilities.isfinite().all()):
        raise not_finite(after)
    predicted = _predicted(adapter, circuit, nodes, chosen, runs[0].values)
    return Outcome(nodes, before, after, predicted, _changes(adapter, probabilities, asked, outputs))


@dataclass(frozen=True)
class _Run:
    """A batch of prompts with the nodes set, beside the same with nothing set.

    `before` and `after` are the metric; `probabilities` the outputs', summed over the prompts, before and after;
    `asked` marks the answers and distractors of any prompt. `values` are those of the `SetBatch`.
    """

    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    probabilities: Float[Tensor, "two output"]
    asked: Bool[Tensor, " output"]
    values: Mapping[int, tuple[float, float]]


def _run(adapter: Adapter, at: SetBatch) -> _Run:
    batch, clean = at.batch, at.clean
    logits = run_spliced(adapter, batch.clean, at.edits, seen=clean) if at.edits else clean.logits
    probabilities = torch.stack([each.cpu().double().softmax(1).sum(0) for each in (clean.logits, logits)])
    named = torch.cat([batch.metric.answers.flatten(), batch.metric.distractors.flatten()]).cpu()
    marks = torch.zeros(logits.shape[1], dtype=torch.bool).index_fill(0, named[named >= 0], True)
    return _Run(clean.metric, batch.metric(logits), probabilities, marks, at.values)


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
