"""Batches of prompts: their outputs and metric, and what is refused and why."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import get_args

import pytest
import torch

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError
from circuitlens.literals import MetricName
from circuitlens.prompts import batch as prompts
from circuitlens.prompts.batch import Outputs, Score, tokenize
from tests.tiny_transformer import TinyTransformer

TINY = TinyTransformer()


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
    unchecked = inspect.unwrap(prompts._batch_metric)  # shape checks would refuse a name first
    monkeypatch.setattr(prompts, "_batch_metric", unchecked)
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
