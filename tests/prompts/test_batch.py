"""Questions: what is refused and why, and every metric by hand."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from math import exp, log
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div
from torch.testing import assert_close

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError
from circuitlens.literals import MetricName
from circuitlens.prompts import batch as prompts
from circuitlens.prompts.batch import Outputs, Score, tokenize
from tests.tiny_transformer import VOCABULARY, TinyTransformer

TINY = TinyTransformer()


# Metrics by hand


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


def test_outputs_are_kept_padded() -> None:
    metric = tokenize(TINY, ["a", "b"], [["c", "d"], "e"], ["a", ["f", "a", "g"]]).metric
    assert metric.answers.tolist() == [[3, 4], [5, -1]]
    assert metric.distractors.tolist() == [[1, -1, -1], [6, 1, 7]]


@pytest.mark.parametrize(
    ("distractors", "name", "count"),
    [(None, "logit", 0), ([()], "logit", 0), (["e"], "logit_difference", 1), ([("e", "f")], "logit_difference", 2)],
)
def test_the_metric_goes_by_what_is_given(distractors: Sequence[Outputs] | None, name: str, count: int) -> None:
    metric = tokenize(TINY, ["a b"], ["d"], distractors).metric
    assert (metric.name, metric.distractors.shape) == (name, (1, count))


def test_one_text_is_one_output() -> None:
    logits = torch.randn(1, 8, dtype=torch.float64)
    one, several = tokenize(TINY, ["a b"], ["d"], ["e"]).metric, tokenize(TINY, ["a b"], [["d"]], [("e",)]).metric
    assert torch.equal(one(logits), several(logits))


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


def test_a_function_of_ones_own() -> None:
    asked = tokenize(TINY, ["a b", "c d"], ["d", "e"], ["e", "f"], metric=lambda logits: logits[:, 2] * logits[:, 3])
    assert asked.metric.name == "custom"
    assert asked.metric(torch.arange(16.0).reshape(2, 8)).tolist() == [2 * 3, 10 * 11]
    assert asked.metric.answers.tolist() == [[4], [5]]


def test_values_at_the_last_unpadded_position() -> None:
    mask = torch.tensor([[True, True, False], [False, True, True], [True, False, False]])
    inputs = Inputs(torch.zeros(3, 3), mask, (("a", "b"), ("a", "b"), ("a",)))
    assert inputs.at_last(torch.arange(18.0).reshape(3, 3, 2)).tolist() == [[2, 3], [10, 11], [12, 13]]


# What is refused


def test_an_answer_against_itself_is_refused(toy: Adapter) -> None:
    with pytest.raises(PromptError, match="'run' is the answer itself"):
        tokenize(toy, ["The cats"], ["run"], ["run"])


def test_prompts_of_unequal_length_are_refused() -> None:
    with pytest.raises(PromptError, match=r"'a b c' has 3 tokens .* 'a b' has 2 .* same length"):
        tokenize(TinyTransformer(), ["a b c"], ["d"], ["e"], ["a b"])


@pytest.mark.parametrize(
    ("answers", "distractors", "why"),
    [
        ([["a", "b"], ["c"]], [["d"], ["e", "c", "g"]], "The distractor 'c' is the answer itself"),
        ([["a", "b"], ["c"]], [["d", "b"], ["e"]], "The distractor 'b' is the answer itself"),
        ([["a"], ["c", "d", "c"]], None, r"The answers \['c', 'd', 'c'\] name one output twice"),
        ([["a"], ["c"]], [["d", "d"], ["e"]], r"The distractors \['d', 'd'\] name one output twice"),
        ([["a"], []], None, "The prompt 'c d' has no answer"),
        ([["a"], ["x"]], None, "not 'x'"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    answers: list[list[str]], distractors: list[list[str]] | None, why: str
) -> None:
    with pytest.raises(PromptError, match=why):
        tokenize(TINY, ["a b", "c d"], answers, distractors)


DIFFERENCES = ("logit_difference", "probability_difference")


@pytest.mark.parametrize(
    ("metric", "distractors", "why"),
    [
        *((name, None, f"{name!r} is a difference: give a distractor") for name in DIFFERENCES),
        *((name, [["d"], []], f"{name!r} is a difference: give a distractor") for name in DIFFERENCES),
        (None, [["d"], []], "'logit_difference' is a difference: give a distractor"),
        *((name, ["d", "e"], f"{name!r} takes no distractor") for name in ("logit", "log_probability")),
        ("kl_divergence", None, "'kl_divergence' compares with a corrupted prompt: give one"),
        ("accuracy", None, f"no metric 'accuracy': choose one of {', '.join(get_args(MetricName))}, or give a func"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(
    metric: MetricName | None, distractors: Sequence[Outputs] | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one prompt of a batch lacks what the others have: its difference would be nan."""
    monkeypatch.setattr(prompts, "_score", inspect.unwrap(prompts._score))  # shape checks would refuse a name first
    with pytest.raises(PromptError, match=why):
        inspect.unwrap(tokenize)(TINY, ["a b", "c d"], ["a", "b"], distractors, metric=metric)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda logits: logits[:, 2].mean(), r"shape \(\)"),
        (lambda logits: logits, r"shape \(2, 8\)"),
        (lambda logits: logits[:, :1], r"shape \(2, 1\)"),
        (lambda logits: 1.0, r"1\.0"),
    ],
)
def test_functions_that_give_not_one_number_an_example_are_refused(function: Score, got: str) -> None:
    metric = tokenize(TINY, ["a b", "c d"], ["a", "b"], metric=function).metric
    with pytest.raises(PromptError, match=rf"one number an example, shape \(2,\), from logits of .* gave {got}"):
        metric(torch.randn(2, 8))
