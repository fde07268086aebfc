"""Does a model do the task that a circuit is about: log odds of the answer, whatever the circuit's metric measures.

A metric may say by itself whether the answer is right (a logit difference). Another that knows answer and distractor
beside what it measures (a divergence, a function of the user's own) is asked by their logits; and a divergence without
a distractor by whether the answer is likelier on the prompt than on the corrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.literals import MetricName
from circuitlens.pipeline import BATCH
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.prompts.metrics import METRICS
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.variants import other_nouns


@dataclass(frozen=True)
class TaskMeasure:
    """What tells whether an answer is right: a metric that is above 0 where it is, its value as log odds, and its name.

    `own` says that it is the circuit's metric; `rises`, that it is how far the metric is above that of the corrupted
    prompt.
    """

    metric: MetricName | Score
    log_odds: Callable[[float], float]
    name: str
    own: bool = False
    rises: bool = False

    def __call__(self, adapter: Adapter, prompts: PromptSet) -> Float[Tensor, " pair"]:
        """Above 0 where the model's answer is right."""
        batches = [tokenize_pairs(adapter, batch.pairs, self.metric) for batch in prompts.batches(BATCH)]
        values = torch.zeros(0)
        with torch.no_grad():
            for batch in batches:
                value = batch.metric(adapter.last_logits(batch.clean, {}))
                if self.rises and batch.corrupted is not None:
                    value = value - batch.metric(adapter.last_logits(batch.corrupted, {}))
                values = torch.cat([values.to(value), value])
        return values

    def turned(self, adapter: Adapter, prompts: PromptSet) -> Float[Tensor, " pair"]:
        """Minus the same of each corrupted prompt that has a noun in the other number: the distractor is right there.

        1 for prompts that differ in anything else.
        """
        turned = torch.ones(len(prompts))
        flips = [] if self.rises else [n for n, pair in enumerate(prompts.pairs) if other_nouns(pair, 1)]
        for batch in prompts.chosen(flips).batches(BATCH) if flips else ():
            turned = turned.to(first := self._turned(adapter, batch.pairs))
            turned[flips[: len(first)]], flips = first, flips[len(first) :]
        return turned

    def _turned(self, adapter: Adapter, pairs: Sequence[Pair]) -> Float[Tensor, " pair"]:
        batch = tokenize_pairs(adapter, pairs, self.metric)
        assert batch.corrupted is not None, "they differ from one"
        with torch.no_grad():
            return -batch.metric(adapter.last_logits(batch.corrupted, {}))


def task_measure(circuit: Circuit, metric: MetricName | Score) -> TaskMeasure | None:
    """What tells whether a circuit's answers are right; None where nothing does."""
    name = circuit.metric.name
    entry = METRICS.get(name)
    if entry is not None and entry.log_odds is not None:
        return TaskMeasure(metric, entry.log_odds, str(circuit.metric), own=True)
    if all(pair.distractor for pair in circuit.questions):
        return TaskMeasure("logit_difference", lambda value: value, "the logit difference")
    if entry is not None and entry.needs_corrupted and circuit.has_corrupted:
        return TaskMeasure("log_probability", lambda value: value, "the answer's rise in log probability", rises=True)
    return None
