"""What a loaded model makes of a question before a circuit is found: its tokens, likely answers, and the time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlens.errors import CircuitLensError, PromptError

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter

LIKELY = 5
"""Outputs that are offered as answers."""
SEPARATOR = "|"
"""Between several answers in one field, which may hold spaces and commas."""


RUNS = {"path": 6.5, "gradient": 3.0, "contrastive": 2.5, "relp": 6.0, "ig": 21.0, "exact": 24.0}
"""About how many times as long as one run of the model a circuit takes for each token of its prompt, by method: as
measured with SmolLM2-135M and three SAEs on 3 and 12 tokens.
"""


@dataclass(frozen=True)
class Preview:
    """What a form's texts are to a model.

    Args:
        tokens: of the prompt, and of the corrupted prompt; none where there is none.
        likely: the most likely next outputs after each, with their probabilities.
        faults: why something can't be read, in sentences.
        repairs: answers that can be used in the place of ones that can't or that go on with a word: the field, what is
            typed, and what is meant.
        chat: the two prompts by the model's chat template, where it has one and they are not.
        no_chat: why it has one that can't be used, in a sentence.
        seconds: what one run of the model on the prompt took.
    """

    tokens: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    likely: tuple[tuple[tuple[str, float], ...], ...] = ((), ())
    faults: tuple[str, ...] = ()
    repairs: tuple[tuple[str, str, str], ...] = ()
    chat: tuple[str, str] | None = None
    no_chat: str = ""
    seconds: float = 0.0

    @property
    def aligned(self) -> bool | None:
        """Whether the two prompts have as many tokens; None where there is one."""
        return len(self.tokens[0]) == len(self.tokens[1]) if all(self.tokens) else None


def outputs_of(text: str) -> list[str]:
    """The outputs that a field names; a separator that is all of it or at an end is an output's own."""
    parts = text.split(SEPARATOR)
    return parts if all(parts) else [text]


def preview(adapter: Adapter, prompt: str, corrupted: str, answers: Mapping[str, str]) -> Preview:
    """Read a form's texts with a model; `answers` are by their field."""
    faults: list[str] = []
    tokens: list[tuple[str, ...]] = []
    likely: list[tuple[tuple[str, float], ...]] = []
    begun = time.perf_counter()
    seconds = 0.0
    for text in (prompt, corrupted):
        try:
            read = _likely(adapter, text) if text else ((), ())
        except CircuitLensError as error:
            faults.append(str(error))
            read = ((), ())
        tokens.append(read[0])
        likely.append(read[1])
        seconds = seconds or time.perf_counter() - begun
    fixes = (
        [fix for field, text in answers.items() for fix in _repairs(adapter, prompt, field, text)] if tokens[0] else []
    )
    chat, no_chat = _as_chat(adapter, prompt, corrupted) if tokens[0] else (None, "")
    return Preview((tokens[0], tokens[1]), tuple(likely), tuple(faults), tuple(fixes), chat, no_chat, seconds)


def _likely(adapter: Adapter, prompt: str) -> tuple[tuple[str, ...], tuple[tuple[str, float], ...]]:
    """A prompt's tokens, and the outputs that can be asked for among those that are most likely after it."""
    from circuitlens.torch_modes import own_modes

    with own_modes(gradients=False):
        inputs = adapter.inputs([prompt])
        logits = adapter.last_logits(inputs, {})[0]
        shares = logits.softmax(0).topk(min(LIKELY, len(logits)))
    found = [
        (adapter.output_label(index), share)
        for index, share in zip(shares.indices.tolist(), shares.values.tolist(), strict=True)
    ]
    return inputs.tokens[0], tuple((text, share) for text, share in found if _index(adapter, text, prompt) is not None)


def _as_chat(adapter: Adapter, prompt: str, corrupted: str) -> tuple[tuple[str, str] | None, str]:
    """The prompts as a person's turn in a chat, None where there is no template, or they are that already; and why the
    template can't be used.
    """
    try:
        made = [text and adapter.as_chat(text) for text in (prompt, corrupted)]
        begins = adapter.as_chat("")
    except CircuitLensError as error:
        return None, str(error)
    if made[0] is None or made[1] is None or (begins and prompt.startswith(begins.split("\n", 1)[0])):
        return None, ""
    return (made[0], made[1]), ""


def _index(adapter: Adapter, answer: str, prompt: str) -> int | None:
    try:
        return adapter.answer_index(answer, prompt)
    except PromptError:
        return None


def _repairs(adapter: Adapter, prompt: str, field: str, text: str) -> list[tuple[str, str, str]]:
    """What is offered for a field whose answers lack a space, or have one too many."""
    typed = outputs_of(text) if text else []
    meant = [_repaired(adapter, prompt, answer) for answer in typed]
    return [(field, text, SEPARATOR.join(meant))] if meant != typed else []


def _repaired(adapter: Adapter, prompt: str, answer: str) -> str:
    other = answer.lstrip(" ") if answer.startswith(" ") else f" {answer}"
    joins = answer[:1].isalnum() and prompt[-1:].isalnum()  # then it goes on with the prompt's last word
    if not other.strip() or (not joins and _index(adapter, answer, prompt) is not None):
        return answer
    return answer if _index(adapter, other, prompt) is None else other


def seconds_for(known: Preview, method: str | None, pace: float | None) -> float | None:
    """About how many seconds a circuit takes: as the last one by this method did for each token (its `pace`), else by
    what one run took; None where neither is known.
    """
    tokens = len(known.tokens[0])
    if pace is not None:
        return pace * tokens
    usual = "path" if known.tokens[1] else "gradient"
    runs = RUNS.get(method or usual)
    return None if runs is None or not tokens else runs * tokens * known.seconds
