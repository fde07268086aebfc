"""What the model answers with nodes of a circuit set otherwise: switched off, made stronger, as in the corrupted run.

A node is set *to* a value, so that several settings mean the same in any order: to a multiple of its own value in the
clean, unedited run (1 holds it there, whatever is set before it), or to its value in the corrupted run. An error's is
what the corrupted run's features leave over when they are decoded in this run, as in `evaluation`. Everything that is
not set is computed anew from the stream as it is then.

As in an ablation to zero, a multiple leaves the token that an adapter puts before a prompt (BOS) alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation.faithfulness import (
    BATCH,
    Places,
    by_site,
    circuit_prompts,
    left_over,
    named_metric,
    own_tokens,
    places,
)
from circuitlens.evaluation.features import require_same_adapter
from circuitlens.literals import MetricName
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.tracing import Decode, Edit, SiteTrace, run_spliced, trace

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

    Means over the prompts of a circuit over many. `predicted` is the sum over the nodes of what each does by itself,
    linearly, or None where attribution does not say. `outputs` come by falling probability before.
    """

    nodes: tuple[Node, ...]
    before: float
    after: float
    predicted: float | None
    outputs: tuple[OutputChange, ...]

    @property
    def measured(self) -> float:
        """How far the metric rose."""
        return self.after - self.before


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
    wanted = named_metric(circuit, metric)
    with torch.inference_mode(False), torch.no_grad():
        aligned = circuit_prompts(adapter, circuit)
        if "corrupted" in chosen and any(pair.corrupted is None for pair in aligned.pairs):
            node = nodes[chosen.index("corrupted")]
            raise PromptError(
                f"Node {node.id!r} is to have its value in the corrupted run, and the circuit has no corrupted prompt: "
                "give a factor, or find the circuit with one."
            )
        runs = [_run(adapter, circuit, batch, nodes, chosen, wanted) for batch in aligned.batches(BATCH)]
    before, after = (torch.cat(column).mean().item() for column in ([r.before for r in runs], [r.after for r in runs]))
    asked = torch.stack([run.asked for run in runs]).any(0)
    probabilities = torch.stack([run.probabilities for run in runs]).sum(0) / len(aligned)
    if not (isfinite(after) and probabilities.isfinite().all()):
        raise CircuitError(f"Set so, the model's outputs are not finite (the metric is {after}): give smaller factors.")
    said = [
        _predicted(adapter, circuit, node, setting, runs[0].single.get(number))
        for number, (node, setting) in enumerate(zip(nodes, chosen, strict=True))
    ]
    predicted = None if None in said else sum((change for change in said if change is not None), 0.0)
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


Values = tuple[Float[Tensor, " feature"], Float[Tensor, "vector ..."]]
"""What some nodes of a site are in one run: those that are features, and those that are vectors."""


@dataclass(frozen=True)
class _Run:
    """A batch of prompts with the nodes set, beside the same with nothing set.

    `before` and `after` are the metric; `probabilities` the outputs', summed over the prompts, before and after;
    `asked` marks the answers and distractors of any prompt. `single[n]` are the clean and the corrupted value of node
    `n` of a circuit of one prompt, where it has single values and there are both runs.
    """

    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    probabilities: Float[Tensor, "two output"]
    asked: Bool[Tensor, " output"]
    single: dict[int, tuple[float, float]]


def _run(
    adapter: Adapter,
    circuit: Circuit,
    batch: PromptSet,
    nodes: Sequence[Node],
    settings: Sequence[Setting],
    metric: MetricName | Score,
) -> _Run:
    numbers = by_site(adapter, circuit, nodes)
    asked = tokenize_pairs(adapter, batch.pairs, metric)
    clean = trace(adapter, asked.clean, asked.metric, graph=False, only=numbers)
    other: dict[str, SiteTrace] = {}
    # What attribution says of one prompt is in proportion to its change from the corrupted run.
    if asked.corrupted is not None and ("corrupted" in settings or (circuit.from_corrupted and not circuit.pairs)):
        there = trace(adapter, asked.corrupted, asked.metric, graph=False, only=numbers)
        other = {seen.site.name: seen for seen in there.sites}
    table, own = batch.table(asked.clean), own_tokens(adapter, asked.clean)
    corrupted = torch.tensor([setting == "corrupted" for setting in settings], dtype=torch.bool, device=own.device)
    factors = torch.tensor([1.0 if setting == "corrupted" else setting for setting in settings], dtype=torch.double)
    edits: dict[str, Edit] = {}
    single: dict[int, tuple[float, float]] = {}
    for seen in clean.sites:
        name = seen.site.name
        where = places(nodes, numbers[name], table)
        if not circuit.pairs and name in other:
            ours, theirs = (_values(run, where)[0].tolist() for run in (seen, other[name]))
            single |= dict(zip(where[3][where[2] >= 0].tolist(), zip(ours, theirs, strict=True), strict=True))
        example, pos, index, number = where
        free = corrupted[number] | own[example, pos]
        where = example[free], pos[free], index[free], number[free]
        edits[name] = _edit(seen, other.get(name), where, factors.to(seen.write)[where[3]], corrupted[where[3]])
    logits = run_spliced(adapter, asked.clean, edits) if edits else clean.logits
    probabilities = torch.stack([each.cpu().double().softmax(1).sum(0) for each in (clean.logits, logits)])
    named = torch.cat([asked.metric.answers.flatten(), asked.metric.distractors.flatten()]).cpu()
    marks = torch.zeros(logits.shape[1], dtype=torch.bool).index_fill(0, named[named >= 0], True)
    return _Run(clean.metric, asked.metric(logits), probabilities, marks, single)


def _edit(
    clean: SiteTrace,
    other: SiteTrace | None,
    where: Places,
    factor: Float[Tensor, " node"],
    corrupted: Bool[Tensor, " node"],
) -> Edit:
    """An edit of one site that sets its nodes to a factor on their clean value, or to the corrupted run's."""
    example, pos, index, _ = where
    vector = index < 0
    at = example[~vector], pos[~vector], index[~vector]
    ours, vectors = _values(clean, where)
    values = factor[~vector] * ours
    scaled = factor[vector].view(-1, *[1] * (vectors.dim() - 1)) * vectors
    if other is not None:
        values = torch.where(corrupted[~vector], _values(other, where)[0], values)
    scaled_at = vector & ~corrupted
    left_at = vector & corrupted

    def edit(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        error = error.index_put((example[scaled_at], pos[scaled_at]), scaled[~corrupted[vector]])
        if other is not None and left_at.any():
            left = left_over(None if features is None else _dense(other), other.write, decode)
            error = error.index_put((example[left_at], pos[left_at]), left[example[left_at], pos[left_at]])
        return None if features is None else features.index_put(at, values), error

    return edit


def _values(seen: SiteTrace, where: Places) -> Values:
    example, pos, index, _ = where
    vector = index < 0
    vectors = seen.error[example[vector], pos[vector]]
    if vector.all():  # also where nothing is coded
        return seen.error.new_zeros(0), vectors
    return _dense(seen)[example[~vector], pos[~vector], index[~vector]], vectors


def _dense(seen: SiteTrace) -> Float[Tensor, "batch pos d_sae"]:
    """All features of a site, 0 where they are inactive."""
    assert seen.site.coder is not None, "a site with features has a coder"
    active = seen.features
    dense = seen.error.new_zeros(*seen.error.shape[:2], seen.site.coder.d_sae)
    return dense.index_put((active.example, active.pos, active.index), active.value)


def _predicted(
    adapter: Adapter, circuit: Circuit, node: Node, setting: Setting, single: tuple[float, float] | None
) -> float | None:
    """What attribution says of one node's setting: in proportion to the change it measured, else None."""
    if setting == 1:
        return 0.0
    if setting != "corrupted" and adapter.bos:
        if circuit.by == "sum":
            return None  # of the positions that were summed up, the first is left alone
        if node.pos == 0:
            return 0.0
    if setting == "corrupted" and circuit.from_corrupted:
        return -node.attribution
    if setting != "corrupted" and not circuit.from_corrupted:
        return (setting - 1) * node.attribution
    if single is None:
        return None
    clean, other = single
    value = other if setting == "corrupted" else setting * clean
    baseline = other if circuit.from_corrupted else 0.0
    if value == clean:
        return 0.0
    return None if clean == baseline else node.attribution * (value - clean) / (clean - baseline)


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
