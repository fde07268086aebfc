"""Batches of prompts: tokens, the corrupted prompts they are compared with, and the metric that scores the decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError
from circuitlens.literals import MetricName
from circuitlens.prompts.metrics import CUSTOM, METRICS
from circuitlens.torch_modes import wide

Score = Callable[[Float[Tensor, "batch output"]], Float[Tensor, " batch"]]
"""A function of the logits at the last position that gives one number an example."""


@dataclass(frozen=True)
class BatchMetric:
    """The number a circuit explains, one an example: never averaged, so that scores don't depend on the batch's size.

    `answers` and `distractors` are output indices, padded with -1. `part_of` is, of examples of a batch, the metric of
    all of it, and which of them these are.
    """

    name: str
    answers: Int[Tensor, "batch answer"]
    distractors: Int[Tensor, "batch distractor"]
    score: Score
    part_of: tuple[BatchMetric, Int[Tensor, " batch"]] | None = None

    def __call__(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, " batch"]:
        """The metric of each example, in the metric's own units."""
        return self.score(wide(logits))

    def repeated(self, times: int) -> BatchMetric:
        """The metric of the batch repeated `times` times."""
        return self.chosen(torch.arange(len(self.answers), device=self.answers.device).repeat(times))

    def chosen(self, example: Int[Tensor, " row"]) -> BatchMetric:
        """The metric of a batch of these examples, each as often as it is named."""
        if self.part_of is not None:
            whole, rows = self.part_of
            return whole.chosen(rows[example])
        size = len(self.answers)
        # The score is of whole batches, and may be the user's: each row is put at its example's place in one of them.
        row = (example[:, None] == example).tril(-1).sum(1) * size + example
        batches = int(row.max()) // size + 1

        def score(logits: Tensor) -> Tensor:
            whole = logits.new_zeros(batches * size, logits.shape[1]).index_copy(0, row, logits)
            return torch.cat([self.score(batch) for batch in whole.split(size)])[row]

        return BatchMetric(self.name, self.answers[example], self.distractors[example], score, (self, example))


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts with their metric and, for contrasts, corrupted prompts of the same lengths."""

    clean: Inputs
    corrupted: Inputs | None
    metric: BatchMetric


Outputs = str | Sequence[str]
"""One answer or distractor, or several that count together."""


def tokenize(
    adapter: Adapter,
    prompts: Sequence[str],
    answers: Sequence[Outputs],
    distractors: Sequence[Outputs] | None = None,
    corrupted: Sequence[str] | None = None,
    metric: MetricName | Score | None = None,
) -> PromptBatch:
    """Read prompts and answers into a `PromptBatch`; all sequences have one entry a prompt.

    Args:
        adapter: the model that reads them.
        prompts: what the model reads.
        answers: the output to explain, or several.
        distractors: what the answers are set against.
        corrupted: prompts that differ in what matters, token by token as long as `prompts`.
        metric: by default `logit_difference` where there are distractors, else `logit`.
            `logit_difference`: mean logit of the answers less that of the distractors.
            `logit`: mean logit of the answers.
            `log_probability`: of any of the answers, in nats.
            `probability_difference`: probability of the answers less that of the distractors, each summed.
            `kl_divergence`: from the corrupted prompt's output distribution to this one's, KL(corrupted ‖ this), nats.
            Or a function of the logits at the last position, `[batch, output]` to `[batch]`.

    Raises:
        PromptError: a prompt, answer or distractor can't be read, an answer is its own distractor, a corrupted prompt
            has another number of tokens than its prompt, or the metric needs what is not there.
    """
    if not prompts:
        raise PromptError("There is no prompt: give at least one.")
    clean = adapter.inputs(prompts)
    ours = _indices(adapter, answers, prompts, clean, "answer")
    theirs = _indices(adapter, distractors or [()] * len(prompts), prompts, clean, "distractor")
    for texts, a, d in zip(distractors or (), ours.tolist(), theirs.tolist(), strict=False):
        if both := {*a} & {*d} - {-1}:
            text = output_texts(texts)[d.index(min(both))]
            raise PromptError(
                f"The distractor {text!r} is the answer itself, so their difference is always 0. "
                "Give another distractor, or none to explain the answer alone."
            )
    other = None
    if corrupted is not None:
        other = adapter.inputs(corrupted)
        for prompt, changed, mine, its in zip(prompts, corrupted, clean.tokens, other.tokens, strict=True):
            if len(mine) != len(its):
                raise PromptError(
                    f"The prompt {prompt!r} has {len(mine)} tokens {list(mine)} and the corrupted prompt {changed!r} "
                    f"has {len(its)} {list(its)}. They are compared token by token: give one of the same length."
                )
    return PromptBatch(clean, other, _batch_metric(adapter, metric, ours, theirs, other))


def _batch_metric(
    adapter: Adapter, metric: MetricName | Score | None, answers: Tensor, distractors: Tensor, corrupted: Inputs | None
) -> BatchMetric:
    """The metric that is named, or the default one; raises PromptError where it needs something that is missing."""
    name = metric or ("logit_difference" if distractors.shape[1] else "logit")
    if not isinstance(name, str):
        return BatchMetric(CUSTOM, answers, distractors, _checked(name))
    if name not in METRICS:
        raise PromptError(f"There is no metric {name!r}: choose one of {', '.join(METRICS)}, or give a function.")
    entry, reference = METRICS[name], None
    if entry.distractors == "required" and not (distractors >= 0).any(1).all():
        raise PromptError(f"The metric {name!r} is a difference: give a distractor, or take 'logit'.")
    if entry.distractors == "refused" and distractors.shape[1]:
        raise PromptError(f"The metric {name!r} takes no distractor: leave it out, or take 'logit_difference'.")
    if entry.needs_corrupted:
        if corrupted is None:
            raise PromptError(f"The metric {name!r} compares with a corrupted prompt: give one.")
        with torch.no_grad():
            reference = wide(adapter.last_logits(corrupted, {})).log_softmax(1)
    return BatchMetric(name, answers, distractors, lambda logits: entry.score(logits, answers, distractors, reference))


def _checked(function: Score) -> Score:
    """The user's function, which has to give one number an example."""

    def score(logits: Tensor) -> Tensor:
        value = function(logits)
        if not isinstance(value, Tensor) or value.shape != logits.shape[:1]:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise PromptError(
                f"The metric has to give one number an example, shape ({len(logits)},), from logits of shape "
                f"{tuple(logits.shape)}, and gave {got}. Leave out means and sums over the batch."
            )
        return value

    return score


def _indices(
    adapter: Adapter, outputs: Sequence[Outputs], prompts: Sequence[str], inputs: Inputs, what: str
) -> Int[Tensor, "batch output"]:
    """Output indices of each prompt's answers or distractors, padded with -1."""
    rows = []
    for texts, prompt in zip(outputs, prompts, strict=True):
        rows.append([adapter.answer_index(text, prompt) for text in output_texts(texts)])
        if what == "answer" and not rows[-1]:
            raise PromptError(f"The prompt {prompt!r} has no answer: give at least one.")
        if len(set(rows[-1])) < len(rows[-1]):
            raise PromptError(f"The {what}s {list(output_texts(texts))} name one output twice: give each once.")
    width = max(map(len, rows))
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=inputs.mask.device).reshape(len(rows), width)


def output_texts(outputs: Outputs) -> tuple[str, ...]:
    """The outputs as texts, also where there is but one."""
    return (outputs,) if isinstance(outputs, str) else tuple(outputs)
