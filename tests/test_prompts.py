"""Questions: what is refused and why, and the metric."""

from __future__ import annotations

import pytest

from circuitlens.adapter import Adapter
from circuitlens.errors import PromptError
from circuitlens.prompts import ask
from tests.tiny_transformer import TinyTransformer


def test_an_answer_against_itself_is_refused(toy: Adapter) -> None:
    with pytest.raises(PromptError, match="'run' is the answer itself"):
        ask(toy, ["The cats"], ["run"], ["run"])


def test_prompts_of_unequal_length_are_refused() -> None:
    with pytest.raises(PromptError, match=r"'a b c' has 3 tokens .* 'a b' has 2 .* same length"):
        ask(TinyTransformer(), ["a b c"], ["d"], ["e"], ["a b"])
