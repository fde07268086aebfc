"""Prompts as turns in a chat: what the model's template makes of them is what is asked."""

from __future__ import annotations

import pytest

from circuitlens.adapter import Adapter
from circuitlens.errors import PromptError
from circuitlens.prompts.chat import chat_pair, chat_prompt
from tests.circuits import pair
from tests.tiny_transformer import TinyTransformer


class Chatting(TinyTransformer):
    """A tiny transformer with a template."""

    def as_chat(self, prompt: str) -> str | None:
        return f"g {prompt} f"


def test_a_pair_becomes_turns_without_roles() -> None:
    made = chat_pair(Chatting(), pair("a b", "a c", roles=["one", "two"]))
    assert made == pair("g a b f", "g a c f")
    assert chat_pair(Chatting(), pair("a b")) == pair("g a b f")


def test_without_a_template_it_is_a_sentence(toy: Adapter) -> None:
    with pytest.raises(PromptError, match="'toy' has no chat template: give the prompts as they are"):
        chat_prompt(toy, "The cats")
