"""Questions: what is refused and why, and the metric."""

from __future__ import annotations

import pytest
import torch

from circuitlens.adapter import Adapter
from circuitlens.errors import PromptError
from circuitlens.prompts import Metric, ask
from tests.tiny_transformer import TinyTransformer


def test_metric_by_hand() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.5, 0.0, -3.0]])
    difference = Metric(torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert difference(logits).tolist() == [3.0, -3.0]
    alone = Metric(torch.tensor([2, 0]), None)
    assert alone(logits).tolist() == [2.0, 0.5]


def test_an_answer_against_itself_is_refused(toy: Adapter) -> None:
    with pytest.raises(PromptError, match="'run' is the answer itself"):
        ask(toy, ["The cats"], ["run"], ["run"])


def test_prompts_of_unequal_length_are_refused() -> None:
    with pytest.raises(PromptError, match=r"'a b c' has 3 tokens .* 'a b' has 2 .* same length"):
        ask(TinyTransformer(), ["a b c"], ["d"], ["e"], ["a b"])
