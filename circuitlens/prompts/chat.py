"""Prompts as turns in a chat, by the model's own template."""

from __future__ import annotations

from circuitlens.adapter import Adapter
from circuitlens.errors import PromptError
from circuitlens.prompts.pairs import Pair


def chat_prompt(adapter: Adapter, prompt: str) -> str:
    """A prompt as a person's turn, up to where the model answers.

    Raises:
        PromptError: the model has no chat template, or it can't be used on this.
    """
    made = adapter.as_chat(prompt)
    if made is None:
        raise PromptError(f"The model of adapter {adapter.name!r} has no chat template: give the prompts as they are.")
    return made


def chat_pair(adapter: Adapter, pair: Pair) -> Pair:
    """A pair whose prompts are turns, whose words have no roles: a template has words of its own.

    Raises:
        PromptError: as `chat_prompt`.
    """
    texts = {
        name: text and chat_prompt(adapter, text)
        for name, text in (("prompt", pair.prompt), ("corrupted", pair.corrupted))
    }
    return Pair.model_validate({**pair.model_dump(), **texts, "roles": ()})
