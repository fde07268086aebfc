"""Every metric by hand, and what its entry says of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div
from torch.testing import assert_close

from circuitlens.literals import MetricName
from circuitlens.prompts.batch import tokenize
from circuitlens.prompts.metrics import CUSTOM, METRICS
from tests.tiny_transformer import VOCABULARY, TinyTransformer

TINY = TinyTransformer()


def test_every_name_has_an_entry() -> None:
    assert tuple(METRICS) == get_args(MetricName)
    assert CUSTOM not in METRICS


@given(ours=st.floats(-4, 4), theirs=st.floats(-4, 4))
def test_the_odds_of_an_answer_are_the_same_by_either_difference(ours: float, theirs: float) -> None:
    """Of two outputs alone, the logit difference is the log odds, and the probability difference gives them again."""
    p = 1 / (1 + exp(theirs - ours))
    values = {"logit_difference": ours - theirs, "probability_difference": p - (1 - p)}
    for name, value in values.items():
        log_odds = METRICS[name].log_odds
        assert log_odds is not None
        assert log_odds(value) == pytest.approx(log(p / (1 - p)), rel=1e-6, abs=1e-9)


def test_certainty_has_finite_odds() -> None:
    log_odds = METRICS["probability_difference"].log_odds
    assert log_odds is not None
    assert log_odds(1.0) == pytest.approx(-log_odds(-1.0)) == pytest.approx(log(2e9), rel=1e-6)


def test_what_a_metric_says() -> None:
    """Differences say by their sign which output is preferred; what has no zero of its own changes as it is."""
    assert {name for name, metric in METRICS.items() if metric.log_odds} == {
        "logit_difference",
        "probability_difference",
    }
    assert {name for name, metric in METRICS.items() if metric.absolute} == {
        "logit",
        "log_probability",
        "kl_divergence",
    }


def by_hand(name: str, logits: Sequence[float], ours: Sequence[int], theirs: Sequence[int]) -> float:
    """The metric of one example, in plain Python."""
    total = sum(map(exp, logits))
    probability = [exp(logit) / total for logit in logits]
    if name == "logit_difference":
        return sum(logits[i] for i in ours) / len(ours) - sum(logits[i] for i in theirs) / len(theirs)
    if name == "logit":
        return sum(logits[i] for i in ours) / len(ours)
    if name == "log_probability":
        return log(sum(probability[i] for i in ours))
    assert name == "probability_difference"
    return sum(probability[i] for i in ours) - sum(probability[i] for i in theirs)


def words(indices: Sequence[int]) -> list[str]:
    return [VOCABULARY[i] for i in indices]


def test_metrics_of_round_numbers() -> None:
    """Softmax of the logits log(1), log(2), …, log(8) is 1/36, 2/36, …, 8/36."""
    logits = torch.arange(1, 9, dtype=torch.float64).log()[None]
    values: dict[MetricName, float] = {
        "logit": log(2),
        "logit_difference": log(2) - log(3),
        "log_probability": log(2 / 36),
        "probability_difference": -1 / 36,
    }
    for name, value in values.items():
        theirs = ["b"] if name.endswith("difference") else None
        metric = tokenize(TINY, ["c"], ["a"], theirs, metric=name).metric
        assert metric(logits).item() == pytest.approx(value, rel=1e-12)
    both = tokenize(TINY, ["c"], [["a", "b"]], [["c", "d", "e"]]).metric
    assert both(logits).item() == pytest.approx((log(2) + log(3)) / 2 - (log(4) + log(5) + log(6)) / 3, rel=1e-12)
    both = tokenize(TINY, ["c"], [["a", "b"]], [["c", "d", "e"]], metric="probability_difference").metric
    assert both(logits).item() == pytest.approx((5 - 15) / 36, rel=1e-12)
    either = tokenize(TINY, ["c"], [["a", "b"]], metric="log_probability").metric
    assert either(logits).item() == pytest.approx(log(5 / 36), rel=1e-12)


Case = tuple[list[float], list[int], list[int]]


@st.composite
def cases(draw: st.DrawFn) -> list[Case]:
    """Examples with their logits, answers and distractors: sets of differing sizes, disjoint within an example."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        chosen = draw(st.lists(st.integers(1, 7), min_size=2, max_size=7, unique=True))
        split = draw(st.integers(1, len(chosen) - 1))
        logits = draw(st.lists(st.floats(-9, 9), min_size=8, max_size=8))
        found.append((logits, chosen[:split], chosen[split:]))
    return found


@pytest.mark.parametrize("name", ["logit_difference", "logit", "log_probability", "probability_difference"])
@given(cases())
def test_named_metrics_of_ragged_batches_by_hand(name: MetricName, drawn: list[Case]) -> None:
    logits, ours, theirs = (list(column) for column in zip(*drawn, strict=True))
    against = [words(row) for row in theirs] if name.endswith("difference") else None
    asked = tokenize(TINY, ["a b"] * len(drawn), [words(row) for row in ours], against, metric=name)
    assert asked.metric.name == name
    expected = torch.tensor([by_hand(name, *case) for case in drawn], dtype=torch.float64)
    assert_close(asked.metric(torch.tensor(logits, dtype=torch.float64)), expected, rtol=1e-9, atol=1e-9)


PROMPTS, CORRUPTED = ["a b c", "d", "e f a b"], ["a b f", "g", "e f c d"]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("distractors", [None, ["c", "d", "e"]])
def test_kl_divergence_is_torchs_own(padding: str, distractors: list[str] | None) -> None:
    """KL(corrupted ‖ this), each example at its own last position."""
    adapter = TinyTransformer(padding=padding)
    metric = tokenize(adapter, PROMPTS, ["a", "b", "f"], distractors, CORRUPTED, "kl_divergence").metric
    alone = torch.stack([TINY.run(TINY.inputs([prompt]), {})[0, -1] for prompt in CORRUPTED])
    logits = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    expected = kl_div(logits.log_softmax(1), alone.log_softmax(1), reduction="none", log_target=True).sum(1)
    assert (expected > 0.1).all()
    assert_close(metric(logits), expected, rtol=1e-9, atol=1e-9)


def test_kl_divergence_of_identical_prompts_is_0() -> None:
    asked = tokenize(TINY, PROMPTS, ["a", "b", "c"], None, PROMPTS, "kl_divergence")
    logits = asked.clean.at_last(TINY.run(asked.clean, {}))
    assert_close(asked.metric(logits), torch.zeros_like(logits[:, 0]), rtol=0, atol=1e-14)
