"""What the model really does with part of its nodes: ablation, faithfulness, completeness, and their curves.

A run keeps some nodes and sets the others to their baseline: their value in the corrupted run, the mean over a
reference batch, or zero. Features are read again from the stream as it is then, so a kept feature is what the kept ones
before it make of it; nothing is linearised. With `m` the mean metric, `M` all nodes and `C` a circuit

- faithfulness: `(m(C) − m(∅)) / (m(M) − m(∅))`;
- completeness: the same of all nodes but C (small where the circuit holds all that matters);
- CPR and CMD: the area under the curve of faithfulness over the share of nodes kept, and between it and 1 (MIB, Mueller
  et al. 2025).

Inputs (embeddings and input neurons) are the question and not part of the answer: they are never ablated unless one is
named. With zero ablation the token that an adapter puts before a prompt (BOS) is left alone: its norm is huge, and no
model goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs, Site
from circuitlens.circuit import Circuit, Node
from circuitlens.circuit.evidence import Curve, Interval, Point
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation.features import check_tokens, require_same_adapter
from circuitlens.literals import AblationKind, MetricName
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.batch import CUSTOM, PromptBatch, Score
from circuitlens.tracing import Decode, Edit, run_spliced

BATCH = 16
"""Prompts whose runs share a batch."""

ELEMENTS = 2**24
"""Features (active or not) that the runs of one batch hold at a site; more variants go one batch after the other."""

INPUTS = ("input", "embedding")
"""Kinds of sites that are the question."""

TINY = 1e-3
"""The share of the whole metric under which a difference between all nodes and none explains nothing."""


@dataclass(frozen=True)
class Ablation:
    """The metric with nothing changed and with the nodes ablated, and the drop that attribution predicts.

    Means over the prompts of a circuit over many.
    """

    nodes: tuple[Node, ...]
    before: float
    after: float
    predicted: float

    @property
    def measured(self) -> float:
        """How far the metric fell."""
        return self.before - self.after


def ablate(
    adapter: Adapter, circuit: Circuit, node_ids: Iterable[str], metric: MetricName | Score | None = None
) -> Ablation:
    """Switch nodes of a circuit off together in the real model, and compare with the sum of their attributions.

    They are set to where attribution measures from: zero, or their value in the corrupted run. `metric` is needed where
    the circuit's was a function of one's own; the same function is to be given again.

    Raises:
        CircuitError: the circuit was made by another adapter, lacks a node, a node can't be ablated (a logit), or its
            metric is not known.
        PromptError: the circuit's prompts can't be read.
    """
    require_same_adapter(adapter, circuit)
    nodes = tuple(circuit.node(node_id) for node_id in dict.fromkeys(node_ids))
    baseline: AblationKind = "corrupted" if circuit.from_corrupted else "zero"
    with torch.inference_mode(False):
        runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), baseline, nodes, metric)
        after = runs(torch.zeros(1, len(nodes), dtype=torch.bool), others=True).mean().item()
        before = runs.whole.mean().item()
    return Ablation(nodes, before, after, sum((node.attribution for node in nodes), 0.0))


def circuit_prompts(adapter: Adapter, circuit: Circuit) -> PromptSet:
    """The circuit's own prompts, as this adapter reads them.

    Raises:
        CircuitError: it reads them otherwise.
        PromptError: it can't read them.
    """
    if not circuit.pairs:
        check_tokens(circuit, adapter.inputs([circuit.prompt]))
    aligned = align(adapter, circuit.questions, circuit.by or "position", circuit.tokens)
    if aligned.skipped:
        first = aligned.skipped[0]
        raise PromptError(f"The circuit's prompt {first.text!r} can't be used with this adapter: {first.reason}")
    return aligned


def named_metric(circuit: Circuit, metric: MetricName | Score | None) -> MetricName | Score:
    """The metric to evaluate a circuit with: the one given, or its own.

    Raises:
        CircuitError: its own was a function.
    """
    if metric is None and circuit.metric.name == CUSTOM:
        raise CircuitError("The circuit's metric was a function, which no file keeps: give it again as metric=.")
    return metric or cast(MetricName, circuit.metric.name)


def by_site(adapter: Adapter, circuit: Circuit, nodes: Sequence[Node]) -> dict[str, list[int]]:
    """The numbers of `nodes` by the name of their site.

    Raises:
        CircuitError: a node is none of the adapter's (or a logit).
    """
    sites = {site.write: site for site in adapter.sites}
    numbers: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        site = sites.get(node.hook)
        if site is None or not _fits(node, site, len(circuit.tokens)):
            raise CircuitError(f"Node {node.id!r} is no part of a site of {adapter.name!r}, so it can't be changed.")
        numbers.setdefault(site.name, []).append(number)
    return numbers


Places = tuple[Tensor, Tensor, Tensor, Tensor]
"""Where some nodes of a site lie in a batch, as columns: example, pos, index (-1: the vector), the node's number."""


def places(nodes: Sequence[Node], numbers: Sequence[int], table: Int[Tensor, "batch pos"]) -> Places:
    """Where the nodes of these numbers lie; `table` says which group of positions each position belongs to."""
    group = torch.tensor([nodes[number].pos for number in numbers], device=table.device)
    index = torch.tensor([-1 if (i := nodes[number].index) is None else i for number in numbers]).to(group)
    which = torch.tensor(numbers).to(group)
    example, pos, n = (table[..., None] == group).nonzero(as_tuple=True)
    return example, pos, index[n], which[n]


def own_tokens(adapter: Adapter, inputs: Inputs) -> Bool[Tensor, "batch pos"]:
    """Where the prompts' own tokens are, without the one that the adapter puts before each."""
    own = inputs.mask.clone()
    if adapter.bos:
        own[torch.arange(len(own)), inputs.first] = False
    return own


def left_over(features: Tensor | None, whole: Tensor, decode: Decode) -> Tensor:
    """The error that another run's features leave of its whole activation when they are decoded in this run."""
    return whole if features is None else whole - decode(features)


Baseline = tuple[Tensor | None, Tensor]
"""A site's features and whole activation in the run (or mean of runs) that ablated nodes are set to."""


@dataclass(frozen=True)
class _Batch:
    """Prompts that run together: where the circuit's nodes lie in them, and what to set ablated ones to.

    `free[b, p]` is where anything may be ablated.
    """

    question: PromptBatch
    free: Bool[Tensor, "batch pos"]
    baselines: dict[str, Baseline]
    rows: dict[str, Places]
    clean: Float[Tensor, " batch"]


class AblationRuns:
    """Runs of a model on one set of prompts with some of `nodes` kept or ablated.

    Args:
        adapter: the model.
        circuit: whose metric and positions count.
        aligned: the prompts.
        ablation: what ablated nodes are set to.
        nodes: those that can be kept or ablated one by one; in `circuit`'s positions.
        metric: where the circuit's was a function.
        reference: prompts for mean ablation, by default all of `aligned`, clean and corrupted.

    Raises:
        CircuitError: a node is none of the adapter's.
        PromptError: ablation is to the corrupted run and a prompt has none.
    """

    def __init__(
        self,
        adapter: Adapter,
        circuit: Circuit,
        aligned: PromptSet,
        ablation: AblationKind,
        nodes: Sequence[Node],
        metric: MetricName | Score | None = None,
        reference: PromptSet | None = None,
    ):
        self.adapter, self.nodes = adapter, tuple(nodes)
        self.ablation: AblationKind = ablation
        self.metric: MetricName | Score = named_metric(circuit, metric)
        self._count = len(aligned)
        self._of_site = by_site(adapter, circuit, self.nodes)
        if ablation == "corrupted" and any(pair.corrupted is None for pair in aligned.pairs):
            raise PromptError("Ablation to the corrupted run needs corrupted prompts: give them, or use mean or zero.")
        means = _means(adapter, aligned if reference is None else reference) if ablation == "mean" else {}
        self._batches = [self._prepare(batch, means) for batch in aligned.batches(BATCH)]
        self.whole = torch.cat([batch.clean for batch in self._batches])

    @cached_property
    def none(self) -> Float[Tensor, " pair"]:
        """The metric of each prompt with no node kept."""
        return self(torch.zeros(1, len(self.nodes), dtype=torch.bool), others=False)[0]

    def __call__(
        self, keep: Bool[Tensor, "variant node"], others: bool, on_run: Callable[[int], object] = lambda _: None
    ) -> Float[Tensor, "variant pair"]:
        """The metric of each prompt with these nodes kept and the rest of `nodes` ablated; `others`, which are not
        among `nodes`, are all kept or all ablated (but for inputs). `on_run` is told how many variants are done.
        """
        columns = []
        for batch in self._batches:
            positions = batch.question.clean.mask.numel()
            widest = max((s.coder.d_sae for s in self.adapter.sites if s.coder), default=1)
            size = max(1, ELEMENTS // (positions * widest))
            columns.append(torch.cat([self._run(batch, some, others, on_run) for some in keep.split(size)]))
        return torch.cat(columns, 1)

    def faithfulness(self, metric: Float[Tensor, "variant pair"]) -> list[float]:
        """Where the mean metric of each variant lies between no nodes (0) and all (1).

        Raises:
            PromptError: these are the same, so that there is nothing to explain.
        """
        whole, none = self.whole.double().mean(), self.none.double().mean()
        if abs(whole - none) <= TINY * max(abs(whole), abs(none)):
            raise PromptError(
                f"The metric is {whole:+.4f} with every node and {none:+.4f} with none: there is nothing to explain, "
                "so give prompts that differ in what the metric measures, or another ablation."
            )
        return ((metric.double().mean(1) - none) / (whole - none)).tolist()

    def _run(self, batch: _Batch, keep: Tensor, others: bool, on_run: Callable[[int], object]) -> Tensor:
        times = len(keep)
        edits = {}
        for site in self.adapter.sites:
            rows = batch.rows.get(site.name)
            if (others or site.kind in INPUTS) and rows is None:
                continue  # nothing here is ablated
            whole_site_kept = others or site.kind in INPUTS
            edits[site.name] = _edit(batch, site.name, rows, keep.to(batch.free.device), whole_site_kept)
        metric = batch.question.metric.repeated(times)
        with torch.no_grad():
            values = metric(run_spliced(self.adapter, batch.question.clean.repeated(times), edits))
        on_run(times)
        return values.unflatten(0, (times, -1))

    def _prepare(self, aligned: PromptSet, means: dict[str, tuple[Tensor | None, Tensor]]) -> _Batch:
        asked = tokenize_pairs(self.adapter, aligned.pairs, self.metric)
        table = aligned.table(asked.clean)
        free = own_tokens(self.adapter, asked.clean) if self.ablation == "zero" else asked.clean.mask
        baselines: dict[str, Baseline] = {}
        if self.ablation == "corrupted":
            assert asked.corrupted is not None, "every pair has one"
            run_spliced(self.adapter, asked.corrupted, {s.name: _keep(baselines, s.name) for s in self.adapter.sites})
        for name, (features, whole) in means.items():
            at = table.clamp_min(0)
            baselines[name] = None if features is None else features[at].to_sparse(), whole[at]
        rows = {name: places(self.nodes, numbers, table) for name, numbers in self._of_site.items()}
        with torch.no_grad():
            clean = asked.metric(run_spliced(self.adapter, asked.clean, {}))
        return _Batch(asked, free, baselines, rows, clean)


def sub_circuits(runs: AblationRuns, ranked: Sequence[Node], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which of `runs.nodes` the first `counts` of `ranked` are, with their errors and without, `[count, node]` each."""
    place = {node.id: number for number, node in enumerate(runs.nodes)}
    keep = torch.zeros(len(counts), len(runs.nodes), dtype=torch.bool)
    for row, count in zip(keep, counts, strict=True):
        row[[place[node.id] for node in ranked[:count]]] = True
    errors = torch.tensor([node.kind == "error" for node in runs.nodes], dtype=torch.bool)
    return keep, keep & ~errors


def curve(
    runs: AblationRuns,
    ranked: Sequence[Node],
    counts: Sequence[int],
    prompts: str,
    controls: dict[int, Bool[Tensor, "draw node"]] | None = None,
    on_run: Callable[[int], object] = lambda _: None,
) -> Curve:
    """Faithfulness, with errors and without, and completeness of the first `counts` of the `ranked` nodes.

    `controls` are random circuits, by the count that they are set beside.

    Raises:
        PromptError: all nodes and none give the same metric.
    """
    keep, without = sub_circuits(runs, ranked, counts)
    kept, removed = (runs.faithfulness(runs(variants, False, on_run)) for variants in (keep, without))
    left = runs.faithfulness(runs(~keep, True, on_run))
    points = []
    for number, count in enumerate(counts):
        random = None
        if controls and count in controls:
            random = interval(runs.faithfulness(runs(controls[count], False, on_run)))
        points.append(
            Point(
                nodes=count,
                faithfulness=kept[number],
                errors_removed=removed[number],
                completeness=left[number],
                random=random,
            )
        )
    cpr, cmd = areas([0, *counts], [0.0, *kept])
    return Curve(
        prompts=prompts,
        pairs=runs.whole.numel(),
        ablation=runs.ablation,
        whole=runs.whole.mean().item(),
        none=runs.none.mean().item(),
        points=tuple(points),
        cpr=cpr,
        cmd=cmd,
    )


def areas(counts: Sequence[int], faithfulness: Sequence[float]) -> tuple[float, float]:
    """CPR and CMD: the area under the faithfulness and between it and 1, over the share of the largest count."""
    share = np.asarray(counts, float) / max(counts[-1], 1)
    values = np.asarray(faithfulness)
    return float(np.trapezoid(values, share)), float(np.trapezoid(np.abs(1 - values), share))


def interval(values: Sequence[float]) -> Interval:
    """Mean and middle 95 % of some draws."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(mean=float(np.mean(values)), low=float(low), high=float(high))


def node_counts(most: int) -> list[int]:
    """Node counts of a curve, up to all: 1, 2, 3, 5, 10, 20, 50, 100, …"""
    steps = [count * 10**power for power in range(9) for count in ((1, 2, 3, 5) if power == 0 else (1, 2, 5))]
    return [count for count in steps if count < most] + [most]


def _fits(node: Node, site: Site, positions: int) -> bool:
    features = 0 if site.coder is None else site.coder.d_sae
    return node.pos < positions and (node.index is None or 0 <= node.index < features)


def _keep(store: dict[str, Baseline], name: str) -> Edit:
    def keep(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        whole = error if features is None else decode(features) + error
        store[name] = None if features is None else features.to_sparse(), whole
        return features, error

    return keep


def _means(adapter: Adapter, reference: PromptSet) -> dict[str, Baseline]:
    """Mean features and activations of every site by group of positions, over clean and corrupted prompts."""
    sums: dict[str, Baseline] = {}
    counts = torch.zeros(len(reference.labels))
    for batch in reference.batches(BATCH):
        asked = tokenize_pairs(adapter, batch.pairs)
        table = batch.table(asked.clean)
        for inputs in (asked.clean, asked.corrupted):
            if inputs is None:
                continue
            seen: dict[str, Baseline] = {}
            run_spliced(adapter, inputs, {site.name: _keep(seen, site.name) for site in adapter.sites})
            counts = counts.to(table.device).index_add(
                0, table[inputs.mask], torch.ones_like(table[inputs.mask]).float()
            )
            for name, (features, whole) in seen.items():
                groups = table[inputs.mask]
                parts = (None if features is None else features.to_dense()[inputs.mask], whole[inputs.mask])
                old = sums.get(name, (None, None))
                new = [
                    None
                    if part is None
                    else (part.new_zeros(len(counts), *part.shape[1:]) if total is None else total).index_add(
                        0, groups, part
                    )
                    for part, total in zip(parts, old, strict=True)
                ]
                sums[name] = new[0], cast(Tensor, new[1])

    def mean(total: Tensor) -> Tensor:
        return total / counts.clamp_min(1).to(total).view(-1, *[1] * (total.dim() - 1))

    return {name: (None if f is None else mean(f), mean(x)) for name, (f, x) in sums.items()}


def _edit(
    batch: _Batch,
    name: str,
    rows: Places | None,
    keep: Bool[Tensor, "variant node"],
    others: bool,
) -> Edit:
    """An edit of one site in all variants at once: kept nodes stay, the rest goes to the baseline."""
    times, size = len(keep), len(batch.free)
    free = batch.free.repeat(times, 1)
    if rows is None:
        empty = torch.zeros(0, dtype=torch.long, device=keep.device)
        rows = (empty, empty, empty, empty)
    example, pos, index, node = rows
    variant = torch.arange(times, device=keep.device).repeat_interleave(len(node))
    example, pos, index = example.repeat(times) + variant * size, pos.repeat(times), index.repeat(times)
    stays = keep[:, node].flatten() if len(node) else keep.new_zeros(0)
    vector = index < 0

    def edit(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        base: Tensor | None = None
        if name in batch.baselines:
            sparse, whole = batch.baselines[name]
            base = None if sparse is None else sparse.to_dense().repeat(times, 1, 1)
            other_error = left_over(base, whole.repeat(times, *[1] * (whole.dim() - 1)), decode)
        else:
            base, other_error = None if features is None else torch.zeros_like(features), torch.zeros_like(error)
        kept = free.logical_not() if not others else torch.ones_like(free)
        kept = kept.index_put((example[vector], pos[vector]), stays[vector] | ~free[example[vector], pos[vector]])
        error = torch.where(kept.view(*kept.shape, *[1] * (error.dim() - 2)), error, other_error)
        if features is None or base is None:
            return None, error
        at = example[~vector], pos[~vector], index[~vector]
        source = features if others else torch.where(free[..., None], base, features)
        values = torch.where(stays[~vector] | ~free[at[:2]], features[at], base[at])
        return source.index_put(at, values), error

    return edit
