"""The metrics that a circuit can explain by name, one entry each; no torch is imported, so that circuits stay light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import atanh
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

CUSTOM = "custom"
"""The name of a metric that is a function of the user's own."""


@dataclass(frozen=True)
class Metric:
    """All that the code asks of a metric.

    Args:
        text: how it is written, with `{answers}`, `{distractors}` and `{logit}` ("mean logit" of several outputs).
        score: the metric of each example, `[batch]`, from the logits at the last position, `[batch, output]`; the
            indices of answers and distractors, padded with -1; and, if it needs the corrupted run, that run's log
            probabilities, `[batch, output]`.
        distractors: whether it needs or refuses distractors.
        needs_corrupted: whether it compares with the corrupted run.
        log_odds: turns a value of the metric into the log odds of the answer against the distractor; a positive value
            means that the answer is right. None if the metric doesn't tell.
        absolute: whether a change counts in the metric's own units (nats), and not as a share of the metric.
    """

    text: str
    score: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    distractors: Literal["required", "refused", "optional"]
    needs_corrupted: bool = False
    log_odds: Callable[[float], float] | None = None
    absolute: bool = False


def _sum(values: Tensor, index: Tensor) -> Tensor:
    return (values.gather(1, index.clamp_min(0)) * (index >= 0)).sum(1)


def _mean(values: Tensor, index: Tensor) -> Tensor:
    return _sum(values, index) / (index >= 0).sum(1)


def _any_of(log_probabilities: Tensor, index: Tensor) -> Tensor:
    chosen = log_probabilities.gather(1, index.clamp_min(0))
    return chosen.masked_fill(index < 0, -float("inf")).logsumexp(1)


def _kl_divergence(logits: Tensor, reference: Tensor | None) -> Tensor:
    assert reference is not None, "the metric needs it"
    return (reference.exp() * (reference - logits.log_softmax(1))).sum(1)


METRICS: Mapping[str, Metric] = {
    "logit_difference": Metric(
        text="{logit} {answers} − {distractors}",
        score=lambda logits, answers, distractors, _: _mean(logits, answers) - _mean(logits, distractors),
        distractors="required",
        log_odds=lambda value: value,
    ),
    "logit": Metric(
        text="{logit} {answers}",
        score=lambda logits, answers, _distractors, _: _mean(logits, answers),
        distractors="refused",
        absolute=True,
    ),
    "log_probability": Metric(
        text="log P({answers})",
        score=lambda logits, answers, _distractors, _: _any_of(logits.log_softmax(1), answers),
        distractors="refused",
        absolute=True,
    ),
    "probability_difference": Metric(
        text="P({answers}) − P({distractors})",
        score=lambda logits, answers, distractors, _: (
            _sum(logits.softmax(1), answers) - _sum(logits.softmax(1), distractors)
        ),
        distractors="required",
        log_odds=lambda value: 2 * atanh(min(max(value, -1 + 1e-9), 1 - 1e-9)),
    ),
    "kl_divergence": Metric(
        text="KL from the corrupted prompt's outputs",
        score=lambda logits, _answers, _distractors, reference: _kl_divergence(logits, reference),
        distractors="optional",
        needs_corrupted=True,
        absolute=True,
    ),
}
"""The entries by `MetricName`."""
