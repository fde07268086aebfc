"""Runs of the real model with part of its nodes: what a circuit does by itself, and what is left without it.

A run keeps some nodes and sets the others to their baseline: their value in the corrupted run, the mean over a
reference batch, or zero. Features are read again from the stream as it is then, so a kept feature is what the kept ones
before it make of it; nothing is linearised. With `m` the mean metric, `M` all nodes and `C` a circuit

- faithfulness: `(m(C) − m(∅)) / (m(M) − m(∅))`;
- completeness: the same of all nodes but C (small where the circuit holds all that matters).

Inputs (embeddings and input neurons) are the question and not part of the answer: they are never ablated unless one is
named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter, Site
from circuitlens.circuit import Circuit, Node
from circuitlens.edits import NodeMask, SiteValues, made_late, own_tokens, set_nodes, variants_at_once
from circuitlens.errors import PromptError
from circuitlens.evaluation.circuit_inputs import Places, by_site, circuit_metric, places
from circuitlens.literals import AblationKind, MetricName
from circuitlens.pipeline import BATCH
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import PromptBatch, Score
from circuitlens.prompts.pairs import Pair
from circuitlens.runfolder.measured import MeasuredRuns
from circuitlens.runfolder.record import digest_of
from circuitlens.runs import Decode, Edit, run_spliced
from circuitlens.tracing import Trace, trace

INPUTS = ("input", "embedding")
"""Kinds of sites that are the question."""

TINY = 1e-3
"""The share of the whole metric under which a difference between all nodes and none explains nothing."""


@dataclass(frozen=True)
class _Batch:
    """Prompts that run together: where the circuit's nodes lie in them, and what to set ablated ones to.

    `free[b, p]` is where anything may be ablated; `baselines`, whose features are sparse, have no site that goes to 0;
    `clean` is the run with nothing ablated, cut where ablations begin.
    """

    pairs: tuple[Pair, ...]
    batch: PromptBatch
    free: Bool[Tensor, "batch pos"]
    baselines: dict[str, SiteValues]
    places: dict[str, Places]
    clean: Trace


class AblationRuns:
    """Runs of a model on one set of prompts with some of `nodes`, which have `circuit`'s positions, kept or ablated.

    `metric` is needed where the circuit's was a function. A mean is that of all `prompts`, clean and corrupted.
    `on_run` is called after each run. What runs give is kept in `measured`, and taken from there.

    Raises:
        CircuitError: a node is none of the adapter's.
        PromptError: ablation is to the corrupted run and a prompt has none.
    """

    def __init__(
        self,
        adapter: Adapter,
        circuit: Circuit,
        prompts: PromptSet,
        ablation: AblationKind,
        nodes: Sequence[Node],
        metric: MetricName | Score | None = None,
        on_run: Callable[[], object] = lambda: None,
        measured: MeasuredRuns | None = None,
    ):
        self.adapter, self.nodes, self._on_run, self._measured = adapter, tuple(nodes), on_run, measured
        self._known: dict[tuple[bool, bytes], Tensor] = {}  # the metric by what was kept
        self.ablation: AblationKind = ablation
        self.metric: MetricName | Score = circuit_metric(circuit, metric)
        self._prompts = prompts.pairs  # those that a mean is over
        self._of_site = by_site(adapter, circuit, self.nodes)
        if ablation == "corrupted" and not prompts.has_corrupted:
            raise PromptError("Ablation to the corrupted run needs corrupted prompts: give them, or use mean or zero.")
        means = _means(adapter, prompts) if ablation == "mean" else {}
        self._batches = [self._prepare(batch, means) for batch in prompts.batches(BATCH)]
        self.full_model = torch.cat([batch.clean.metric for batch in self._batches])

    @cached_property
    def empty_circuit(self) -> Float[Tensor, " pair"]:
        """The metric of each prompt with no node kept."""
        return self(torch.zeros(1, len(self.nodes), dtype=torch.bool), others=False)[0]

    def __call__(self, keep: Bool[Tensor, "variant node"], others: bool) -> Float[Tensor, "variant pair"]:
        """The metric of each prompt with these nodes kept and the rest of `nodes` ablated; `others`, which are not
        among `nodes`, are all kept or all ablated (but for inputs). What was run before is not run again.
        """
        keys = [(others, row.numpy().tobytes()) for row in keep.cpu()]
        new = {key: n for n, key in enumerate(keys) if key not in self._known}
        if new:
            chosen, columns = keep[list(new.values())], []
            for batch in self._batches:
                size = variants_at_once(self.adapter, batch.batch.clean)
                columns.append(torch.cat([self._run(batch, some, others) for some in chosen.split(size)]))
            self._known.update(zip(new, torch.cat(columns, 1), strict=True))
        return torch.stack([self._known[key] for key in keys])

    def faithfulness(self, metric: Float[Tensor, "variant pair"]) -> list[float]:
        """Where the mean metric of each variant lies between no nodes (0) and all (1); raises PromptError where these
        are the same, so that there is nothing to explain.
        """
        full, empty = self.full_model.double().mean(), self.empty_circuit.double().mean()
        if abs(full - empty) <= TINY * max(abs(full), abs(empty)):
            raise PromptError(
                f"The metric is {full:+.4f} with every node and {empty:+.4f} with none: there is nothing to explain, "
                "so give prompts that differ in what the metric measures, or another ablation."
            )
        return ((metric.double().mean(1) - empty) / (full - empty)).tolist()

    def _run(self, batch: _Batch, keep: Tensor, others: bool) -> Tensor:
        """The metric of each variant and prompt of a batch, measured now or before."""
        if self._measured is None:
            values = self._run_now(batch, keep, others)
            self._on_run()
            return values
        rows = (digest_of(self._prompts), digest_of(batch.pairs), ",".join(node.id for node in self.nodes))
        asked = (*rows, self.ablation, str(others), str(tuple(keep.shape)), keep.cpu().numpy().tobytes())
        if (values := self._measured.find(*asked)) is None:
            values = self._run_now(batch, keep, others)
            self._measured.keep(values, *asked)
            self._on_run()
        return values.to(batch.clean.metric)

    def _run_now(self, batch: _Batch, keep: Tensor, others: bool) -> Tensor:
        edits = {}
        for site in self.adapter.sites:
            whole_site_kept = others or site.kind in INPUTS
            if site.name in batch.places or not whole_site_kept:
                edits[site.name] = made_late(partial(_edit, batch, site, keep.to(batch.free.device), whole_site_kept))
        metric = batch.batch.metric.repeated(len(keep))
        with torch.no_grad():
            inputs = batch.batch.clean.repeated(len(keep))
            values = metric(run_spliced(self.adapter, inputs, edits, seen=batch.clean))
        return values.unflatten(0, (len(keep), -1))

    def _prepare(self, prompts: PromptSet, means: dict[str, SiteValues]) -> _Batch:
        batch = tokenize_pairs(self.adapter, prompts.pairs, self.metric)
        table = prompts.table(batch.clean)
        free = own_tokens(self.adapter, batch.clean) if self.ablation == "zero" else batch.clean.mask
        baselines: dict[str, SiteValues] = {}
        if self.ablation == "corrupted":
            assert batch.corrupted is not None, "every pair has one"
            run_spliced(self.adapter, batch.corrupted, {s.name: _record(baselines, s) for s in self.adapter.sites})
        for name, mean in means.items():
            assert mean.whole is not None, "that is how it is made"
            at = table.clamp_min(0)
            features = None if mean.features is None else mean.features[0][at].to_sparse()
            baselines[name] = SiteValues(features, mean.whole[0][at])
        where = {name: places(self.nodes, numbers, table) for name, numbers in self._of_site.items()}
        first = [site.name for site in self.adapter.sites if site.kind not in INPUTS][:1]
        clean = trace(self.adapter, batch.clean, batch.metric, graph=False, only=first, coded=())
        return _Batch(prompts.pairs, batch, free, baselines, where, clean)


def _edit(batch: _Batch, site: Site, keep: Bool[Tensor, "variant node"], whole_site_kept: bool) -> Edit:
    """An edit of one site in all variants at once: kept nodes stay, the rest goes to the baseline."""
    times, size = len(keep), len(batch.free)
    free = batch.free.repeat(times, 1)
    none = torch.zeros(0, dtype=torch.long, device=keep.device)
    example, pos, index, node = batch.places.get(site.name, (none, none, none, none))
    variant = torch.arange(times, device=keep.device).repeat_interleave(len(node))
    example, pos, index = example.repeat(times) + variant * size, pos.repeat(times), index.repeat(times)
    ablated = free[example, pos] & ~keep[:, node].flatten()
    rest = torch.zeros_like(free) if whole_site_kept else free
    mask = NodeMask.at(rest, site.coder, (example, pos, index), ablated)
    values = batch.baselines.get(site.name)
    if values is not None and values.features is not None:
        values = replace(values, features=values.features.to_dense())
    return set_nodes(mask, values and values.repeated(times))


def _record(store: dict[str, SiteValues], site: Site) -> Edit:
    """An edit that changes nothing and notes a site's values."""

    def record(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        whole = error if features is None else decode(features) + error
        known = None if site.coder is None or site.coder.stateful else error
        store[site.name] = SiteValues(None if features is None else features.to_sparse(), whole, known)
        return features, error

    return record


def _means(adapter: Adapter, every: PromptSet) -> dict[str, SiteValues]:
    """Mean values of every site over clean and corrupted prompts: one example whose positions are the groups."""
    sums: dict[tuple[str, str], Tensor] = {}
    counts = torch.zeros(len(every.labels))
    for prompts in every.batches(BATCH):
        batch = tokenize_pairs(adapter, prompts.pairs)
        table = prompts.table(batch.clean)
        for inputs in (batch.clean, batch.corrupted):
            if inputs is None:
                continue
            groups = table[inputs.mask]
            counts = counts.to(groups.device).index_add(0, groups, torch.ones_like(groups).float())
            seen: dict[str, SiteValues] = {}
            run_spliced(adapter, inputs, {site.name: _record(seen, site) for site in adapter.sites})
            for name, values in seen.items():
                for part, value in (("features", values.features), ("whole", values.whole)):
                    if value is not None:
                        rows = value.to_dense()[inputs.mask]
                        total = sums.get((name, part), rows.new_zeros(len(counts), *rows.shape[1:]))
                        sums[name, part] = total.index_add(0, groups, rows)

    def mean(name: str, part: str) -> Tensor | None:
        if (total := sums.get((name, part))) is None:
            return None
        return (total / counts.clamp_min(1).to(total).view(-1, *[1] * (total.dim() - 1)))[None]

    return {site.name: SiteValues(mean(site.name, "features"), mean(site.name, "whole")) for site in adapter.sites}
