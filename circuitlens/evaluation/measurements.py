"""What the checks of a circuit have in common, each measured when it is first asked for and then kept.

That is: the prompts, the circuit's nodes by strength, runs with some nodes ablated, the core, random circuits, and the
curves of faithfulness on the circuit's own prompts and on others. The figures' meaning is left to `checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.circuit.evidence import Curve, Effect, Point
from circuitlens.edits import is_bos
from circuitlens.errors import PromptError
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.curves import curve, node_counts, random_circuits, sub_circuits
from circuitlens.evaluation.faithfulness import INPUTS, AblationRuns
from circuitlens.evaluation.rescoring import Rescored, rescore
from circuitlens.literals import AblationKind, MetricName
from circuitlens.pipeline import BATCH
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.prompts.metrics import METRICS
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.variants import other_nouns, paraphrases

CONTROLLED = (10, 50)
"""Node counts, beside the core's, at which other prompts have random circuits too."""

SCORED = 4
"""How many times the prompts that are run are scored: a score costs less than all the runs."""


class NotTestedError(Exception):
    """A check can't be put to this circuit; the message says why."""


@dataclass(frozen=True)
class VerificationSettings:
    """What a verification may choose; `circuitlens.verify` describes each."""

    ablation: AblationKind
    thresholds: Mapping[str, tuple[float, float]]
    draws: int
    top: int
    prompts: int
    seed: int
    metric: MetricName | Score


def closeness(faithfulness: float) -> float:
    """Faithfulness as evidence: a circuit that overshoots by half is as far from the model as one that lacks half."""
    return min(faithfulness, 2 - faithfulness)


class Measurements:
    """What was measured of one circuit.

    `held_out` are prompts that it was not found on; None makes some of its own with other nouns. `on_run` is called
    after runs of the model, and `stage` says what they are for. What is about the core, or other prompts, raises
    NotTestedError where there is no decision to explain.
    """

    def __init__(
        self,
        adapter: Adapter,
        circuit: Circuit,
        settings: VerificationSettings,
        held_out: Sequence[Pair] | None,
        on_run: Callable[[], object],
    ):
        self.adapter, self.circuit, self.settings = adapter, circuit, settings
        self.stage, self.curves = "the file", list[Curve]()
        self._held_out, self._on_run = held_out, on_run
        # One generator for all: random circuits are drawn first, resampled prompts after them.
        self._random = torch.Generator().manual_seed(settings.seed)
        # With zero ablation the adapter's own first token is left alone.
        left_alone = settings.ablation == "zero" and is_bos(adapter, circuit.by, 0)
        self._fixed_group = 0 if left_alone else None

    # The circuit on its own prompts

    @cached_property
    def own_prompts(self) -> PromptSet:
        """All prompts that the circuit was found on."""
        return circuit_prompts(self.adapter, self.circuit)

    @cached_property
    def run_prompts(self) -> PromptSet:
        """Those of them that are run with nodes ablated."""
        return self.own_prompts.sample(self.settings.prompts, self.settings.seed)

    @cached_property
    def ranked(self) -> list[Node]:
        """The circuit's nodes that can be ablated, by falling |attribution|."""
        kinds = {site.write: site.kind for site in self.adapter.sites}
        nodes = [n for n in self.circuit.nodes if not n.is_logit and kinds.get(n.hook) not in INPUTS]
        return sorted((n for n in nodes if n.pos != self._fixed_group), key=lambda n: -abs(n.attribution))

    @cached_property
    def strongest(self) -> list[Node]:
        """Those of them that are patched one by one."""
        return self.ranked[: self.settings.top]

    @cached_property
    def rescored(self) -> Rescored:
        """The circuit's prompts, or a sample, scored again."""
        prompts = self.own_prompts.sample(SCORED * self.settings.prompts, self.settings.seed)
        self.stage = "attribution and effects"
        metric, fixed = self.settings.metric, self._fixed_group
        return rescore(self.adapter, self.circuit, prompts, self.strongest, metric, fixed, self._on_run)

    @cached_property
    def nodes(self) -> list[Node]:
        """The ranked nodes, and after them all others that are active on the prompts."""
        return [*self.ranked, *self.rescored.other_nodes()]

    @cached_property
    def runs(self) -> AblationRuns:
        """Runs on the circuit's own prompts with some of the nodes ablated."""
        nodes = self.nodes
        self.stage = "sub-circuits"
        return self._runs(self.run_prompts, nodes)

    # Is there a decision to explain?

    @cached_property
    def metric(self) -> float:
        """The mean metric with nothing ablated."""
        return self.runs.full_model.mean().item()

    @cached_property
    def ablated_metric(self) -> float:
        """The mean metric with every node ablated."""
        return self.runs.empty_circuit.mean().item()

    @cached_property
    def turned(self) -> Float[Tensor, " pair"]:
        """Minus the metric of each corrupted prompt that has a noun in the other number: the distractor is right.

        1 for prompts that differ in anything else.
        """
        turned, pairs = torch.ones_like(self.runs.full_model), self.run_prompts.pairs
        if flips := [n for n, pair in enumerate(pairs) if other_nouns(pair, 1)]:
            turned[flips] = torch.cat([self._turned(b.pairs) for b in self.run_prompts.chosen(flips).batches(BATCH)])
        return turned

    def _turned(self, pairs: Sequence[Pair]) -> Float[Tensor, " pair"]:
        batch = tokenize_pairs(self.adapter, pairs, self.settings.metric)
        assert batch.corrupted is not None, "they differ from one"
        with torch.no_grad():
            return -batch.metric(self.adapter.last_logits(batch.corrupted, {}))

    @cached_property
    def contrast(self) -> float:
        """How much of the metric goes when every node is ablated."""
        change = self.metric - self.ablated_metric
        entry = METRICS.get(self.circuit.metric.name)
        return change if entry is not None and entry.absolute else change / max(abs(self.metric), 1e-12)

    @cached_property
    def decides(self) -> bool:
        """Whether what is ablated matters to the metric, so that there is a decision to explain."""
        return self.contrast >= self.settings.thresholds["contrast"][0]

    def require_decision(self) -> None:
        """Raise NotTestedError where there is no decision to explain, or no node to explain it by."""
        if not self.decides:
            raise NotTestedError("there is no decision to explain")
        if not self.ranked:
            raise NotTestedError("there is no node")

    # The core

    @cached_property
    def core_size(self) -> int:
        """How many of the strongest nodes reach the wanted faithfulness: the fewest that do, or all."""
        self.require_decision()
        goal, low = self.settings.thresholds["faithfulness"][1], 0
        for count in node_counts(len(self.ranked)):
            counts = sorted({int(n) for n in np.linspace(low + 1, count, 16)})
            keep, _ = sub_circuits(self.runs, self.ranked, counts)
            found = self.runs.faithfulness(self.runs(keep, False))
            for size, reached in zip(counts, found, strict=True):
                if closeness(reached) >= goal:
                    return size
            low = count
        return len(self.ranked)

    @property
    def core(self) -> tuple[str, ...]:
        """The ids of the core's nodes; empty where there is no decision to explain."""
        return tuple(node.id for node in self.ranked[: self.core_size]) if self.decides and self.ranked else ()

    @cached_property
    def counts(self) -> list[int]:
        """The node counts of the curves."""
        return sorted({*node_counts(len(self.ranked)), self.core_size})

    @cached_property
    def controls(self) -> dict[int, Bool[Tensor, "draw node"]]:
        """Random circuits by node count, as many nodes of each site and kind as the strongest ones have."""
        number = torch.arange(len(self.nodes))  # the ranked ones come first
        return {n: random_circuits(self.nodes, number < n, self.settings.draws, self._random) for n in self.counts}

    @cached_property
    def found_on(self) -> Curve:
        """Faithfulness on the circuit's own prompts by node count."""
        found = curve(self.runs, self.ranked, self.counts, "found on", self.controls)
        self.curves.append(found)
        return found

    def at_core(self, found: Curve) -> Point:
        """The curve's point of the core."""
        return next(point for point in found.points if point.nodes == self.core_size)

    # The circuit on other prompts

    def on_held_out(self) -> tuple[Curve, float]:
        """Faithfulness on held-out prompts, and on which share of them the model is right."""
        controls = {n: drawn for n, drawn in self.controls.items() if n in (self.core_size, *CONTROLLED)}
        if self._held_out is not None:
            return self._elsewhere("held out", self._held_out, self.counts, controls)
        return self._elsewhere("other nouns", self._other_nouns(), self.counts, controls)

    def on_paraphrases(self) -> tuple[Curve, float]:
        """The same on the circuit's own prompts with another determiner, at the core's size only."""
        pairs = [each for pair in self.run_prompts.pairs for each in paraphrases(pair)[:1]]
        return self._elsewhere("paraphrase", pairs, [self.core_size], {})

    def _elsewhere(
        self, name: str, pairs: Sequence[Pair], counts: Sequence[int], controls: dict[int, Tensor]
    ) -> tuple[Curve, float]:
        if not pairs:
            raise NotTestedError("no such prompts were given, and none can be made of the circuit's own")
        known = {pair.prompt for pair in self.circuit.questions}
        pairs = [pair for pair in pairs if pair.prompt not in known]
        if not pairs:
            raise NotTestedError("the circuit was found on these prompts")
        try:
            aligned = align(self.adapter, pairs, self.circuit.by or "position", self.circuit.tokens)
            aligned = aligned.sample(self.settings.prompts, self.settings.seed)
            self.stage = name
            runs = self._runs(aligned, self.nodes)
        except PromptError as error:
            raise _untested(error) from error
        _ = runs.empty_circuit  # run here, where what `on_run` raises is not taken for an error of the prompts
        try:
            runs.faithfulness(runs.full_model[None])  # raises where there is nothing to explain
        except PromptError as error:
            raise _untested(error) from error
        found = curve(runs, self.ranked, counts, name, controls)
        self.curves.append(found)
        return found, (runs.full_model > 0).float().mean().item()

    def _other_nouns(self) -> list[Pair]:
        own = self.run_prompts.pairs
        words = [word for pair in own for word in pair.prompt.split()]
        each = max(1, -(-min(32, self.settings.prompts) // len(own)))
        seed = self.settings.seed
        return [new for n, pair in enumerate(own) for new in other_nouns(pair, each, seed=seed + n, exclude=words)]

    # Attributions

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """Attribution and exact effect of each of the strongest nodes; none where there is no decision to explain."""
        if not self.decides:
            return ()
        both = zip(self.strongest, self.rescored.effects(self.strongest), strict=True)
        return tuple(Effect(node=node.id, predicted=node.attribution, measured=real) for node, real in both)

    def overlaps(self) -> list[float]:
        """Which share of the core each resampling of the prompts gives again."""
        _ = self.controls  # drawn first
        return self.rescored.overlaps(self.core_size, self.settings.draws, self._random)

    def _runs(self, aligned: PromptSet, nodes: Sequence[Node]) -> AblationRuns:
        ablation, metric = self.settings.ablation, self.settings.metric
        return AblationRuns(self.adapter, self.circuit, aligned, ablation, nodes, metric, on_run=self._on_run)


def _untested(error: PromptError) -> NotTestedError:
    """The same as a reason that stands within a sentence."""
    return NotTestedError(str(error)[:1].lower() + str(error)[1:].rstrip("."))
