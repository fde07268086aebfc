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
from circuitlens.evaluation.task import TaskMeasure, task_measure
from circuitlens.literals import AblationKind, MetricName
from circuitlens.prompts.alignment import PromptSet, align
from circuitlens.prompts.batch import Score
from circuitlens.prompts.metrics import METRICS
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.variants import nouns_of, other_nouns, paraphrases
from circuitlens.prompts.words import word_parts
from circuitlens.runfolder.measured import MeasuredRuns

CONTROLLED = (10, 50)
"""Node counts, beside those up to the core's, that have random circuits."""

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
    measured: MeasuredRuns | None = None


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
        self.sharing = 0  # held-out prompts that were left out, as they have a noun of the circuit's
        self._held_out, self._on_run = held_out, on_run
        # One generator for all: random circuits are drawn first, resampled prompts after them.
        self._random = torch.Generator().manual_seed(settings.seed)
        # With zero ablation the adapter's own first token is left alone.
        left_alone = settings.ablation == "zero" and is_bos(adapter, circuit.by, 0)
        self.fixed_group = 0 if left_alone else None

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
        return sorted((n for n in nodes if n.pos != self.fixed_group), key=lambda n: -abs(n.attribution))

    @cached_property
    def strongest(self) -> list[Node]:
        """Those of them that are patched one by one."""
        return self.ranked[: self.settings.top]

    @cached_property
    def rescored(self) -> Rescored:
        """The circuit's prompts, or a sample, scored again."""
        prompts = self.own_prompts.sample(SCORED * self.settings.prompts, self.settings.seed)
        self.stage = "attribution and effects"
        metric, fixed = self.settings.metric, self.fixed_group
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
    def task(self) -> TaskMeasure | None:
        """What tells whether the model's answers are right, whatever the metric measures."""
        return task_measure(self.circuit, self.settings.metric)

    @cached_property
    def answered(self) -> Float[Tensor, " pair"]:
        """Above 0 for each prompt whose answer the model has right."""
        return self.answered_in(self.runs, self.run_prompts)

    def answered_in(self, runs: AblationRuns, prompts: PromptSet) -> Float[Tensor, " pair"]:
        """The same of any prompts, whose runs these are; the metric itself where nothing tells."""
        return runs.full_model if self.task is None or self.task.own else self.task(self.adapter, prompts)

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
        low = 0
        for count in node_counts(len(self.ranked)):
            # Of larger circuits the points of the curve are tried first, which are run anyway.
            if count <= CONTROLLED[0] or self._reaching([count]):
                counts = sorted({int(n) for n in np.linspace(low + 1, count, 16)})
                if (size := self._reaching(counts)) is not None:
                    return size
            low = count
        return len(self.ranked)

    def _reaching(self, counts: Sequence[int]) -> int | None:
        """The first of some node counts that reaches the wanted faithfulness."""
        keep, _ = sub_circuits(self.runs, self.ranked, counts)
        reached = self.runs.faithfulness(self.runs(keep, False))
        goal = self.settings.thresholds["faithfulness"][1]
        return next((n for n, value in zip(counts, reached, strict=True) if closeness(value) >= goal), None)

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
        counts = [n for n in self.counts if n <= self.core_size or n in CONTROLLED]
        return {n: random_circuits(self.nodes, number < n, self.settings.draws, self._random) for n in counts}

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
        controls = {self.core_size: self.controls[self.core_size]}
        given, name = self._held_out, "held out" if self._held_out is not None else "other nouns"
        pairs = self._other_nouns() if given is None else self._without_shared_nouns(given)
        return self._elsewhere(name, pairs, self.counts, controls)

    def _without_shared_nouns(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs that have no noun of the circuit's prompts, in either number."""
        own = {noun for pair in self.circuit.questions for noun in nouns_of(pair)}
        shared = [nouns_of(pair) & own for pair in pairs]
        known = {pair.prompt for pair in self.circuit.questions}
        left = [pair for pair, nouns in zip(pairs, shared, strict=True) if not nouns or pair.prompt in known]
        self.sharing = len(pairs) - len(left)
        if self.sharing and not {pair.prompt for pair in left} - known:
            first = next(n for n, pair in enumerate(pairs) if shared[n] and pair.prompt not in known)
            raise NotTestedError(
                f"every held-out prompt has a noun of the circuit's: {pairs[first].prompt!r} has {min(shared[first])!r}"
            )
        return left

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
        return found, (self.answered_in(runs, aligned) > 0).float().mean().item()

    def _other_nouns(self) -> list[Pair]:
        own = self.run_prompts.pairs
        words = {word for pair in self.circuit.questions for word in (*word_parts(pair.prompt), *nouns_of(pair))}
        each = max(1, -(-min(32, self.settings.prompts) // len(own)))
        seed = self.settings.seed
        return [
            new for n, pair in enumerate(own) for new in other_nouns(pair, each, seed=seed + n, exclude=sorted(words))
        ]

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
        how = {"on_run": self._on_run, "measured": self.settings.measured}
        return AblationRuns(self.adapter, self.circuit, aligned, ablation, nodes, metric, **how)


def _untested(error: PromptError) -> NotTestedError:
    """The same as a reason that stands within a sentence."""
    return NotTestedError(str(error)[:1].lower() + str(error)[1:].rstrip("."))
