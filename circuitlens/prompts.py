"""What is asked of a model: prompts, the pair they are compared with, and the metric that scores the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError


@dataclass(frozen=True)
class Metric:
    """The scalar a circuit explains: `logit[answer] − logit[distractor]`, or the answer's logit alone."""

    answer: Int[Tensor, " batch"]
    distractor: Int[Tensor, " batch"] | None

    def __call__(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, " batch"]:
        """The metric of each example, in logits; never averaged, so that no batch size enters a score."""
        value = logits.gather(1, self.answer[:, None])[:, 0]
        return value if self.distractor is None else value - logits.gather(1, self.distractor[:, None])[:, 0]


@dataclass(frozen=True)
class Question:
    """A batch of prompts with their metric and, for contrasts, corrupted prompts of the same lengths."""

    clean: Inputs
    corrupted: Inputs | None
    metric: Metric


def ask(
    adapter: Adapter,
    prompts: Sequence[str],
    answers: Sequence[str],
    distractors: Sequence[str] | None = None,
    corrupted: Sequence[str] | None = None,
) -> Question:
    """Read prompts and answers into a `Question`; all sequences have one entry a prompt.

    Raises:
        PromptError: a prompt, answer or distractor can't be read, an answer is its own distractor, or a corrupted
            prompt has another number of tokens than its prompt.
    """
    clean = adapter.inputs(prompts)
    answer = [adapter.answer_index(text, prompt) for text, prompt in zip(answers, prompts, strict=True)]
    distractor = None
    if distractors is not None:
        distractor = [adapter.answer_index(text, prompt) for text, prompt in zip(distractors, prompts, strict=True)]
        for text, a, d in zip(distractors, answer, distractor, strict=True):
            if a == d:
                raise PromptError(
                    f"The distractor {text!r} is the answer itself, so their difference is always 0. "
                    "Give another distractor, or none to explain the answer's logit alone."
                )
    other = None
    if corrupted is not None:
        other = adapter.inputs(corrupted)
        for prompt, changed, ours, theirs in zip(prompts, corrupted, clean.tokens, other.tokens, strict=True):
            if len(ours) != len(theirs):
                raise PromptError(
                    f"The prompt {prompt!r} has {len(ours)} tokens {list(ours)} and the corrupted prompt {changed!r} "
                    f"has {len(theirs)} {list(theirs)}. They are compared token by token: give one of the same length."
                )

    def as_tensor(indices: list[int]) -> Int[Tensor, " batch"]:
        return torch.tensor(indices, device=clean.mask.device)

    metric = Metric(as_tensor(answer), None if distractor is None else as_tensor(distractor))
    return Question(clean, other, metric)
