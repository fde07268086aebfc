"""Many prompts side by side: which of them can be used, and which of their positions are one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError
from circuitlens.literals import PositionGrouping
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.prompts.pairs import Pair, Skipped

ALL = "all positions"
"""The label of the one group where positions are summed."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts whose circuit is one; `groups[n]` says of prompt `n` to which of the `labels` each of its tokens belongs.

    `by` is how positions were brought together, None of a single prompt whose outputs keep their names. Prompts of
    different lengths share a batch where they may be `padded`.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    by: PositionGrouping | None = "position"
    padded: bool = True

    @staticmethod
    def of_one(pair: Pair, tokens: tuple[str, ...]) -> PromptSet:
        """A single prompt, each of its tokens by itself."""
        return PromptSet((pair,), (tuple(range(len(tokens))),), tokens, by=None)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def has_corrupted(self) -> bool:
        """Whether every prompt has a corrupted one."""
        return all(pair.corrupted is not None for pair in self.pairs)

    def batches(self, size: int) -> Iterable[PromptSet]:
        """The prompts in their order, at most `size` at a time."""
        start = 0
        for end in range(1, len(self) + 1):
            other = end < len(self) and not self.padded and len(self.groups[end]) != len(self.groups[start])
            if end == len(self) or end - start == size or other:
                yield replace(self, pairs=self.pairs[start:end], groups=self.groups[start:end], skipped=())
                start = end

    def by_length(self) -> PromptSet:
        """The same prompts, the shorter ones first: a batch is as long as its longest."""
        return self.chosen(sorted(range(len(self)), key=lambda number: len(self.groups[number])))

    def sample(self, count: int, seed: int) -> PromptSet:
        """At most `count` of the prompts, in their order."""
        if len(self) <= count:
            return self
        return self.chosen(sorted(np.random.default_rng(seed).choice(len(self), count, replace=False).tolist()))

    def chosen(self, numbers: Sequence[int]) -> PromptSet:
        """The prompts of these numbers."""
        pairs, groups = (tuple(column[n] for n in numbers) for column in (self.pairs, self.groups))
        return replace(self, pairs=pairs, groups=groups)

    def table(self, inputs: Inputs) -> Int[Tensor, "batch pos"]:
        """The group of every position of a padded batch, -1 at padding."""
        table = torch.full_like(inputs.mask, -1, dtype=torch.long)
        for row, first, groups in zip(table, inputs.first.tolist(), self.groups, strict=True):
            row[first : first + len(groups)] = torch.tensor(groups, device=row.device)
        return table


def align(
    adapter: Adapter, pairs: Sequence[Pair], by: PositionGrouping = "position", labels: Sequence[str] | None = None
) -> PromptSet:
    """Bring prompts together by position (counted from the first token), by role, or all positions as one.

    What can't be used is left out and listed in `skipped`: prompts or answers that the adapter can't read, a corrupted
    prompt of another length, prompts of another length than most (by position), words without roles (by role). With
    `labels`, those of a circuit, only prompts that fit them.

    Raises:
        PromptError: nothing can be used; the message says why of the first. Or only some of what can be used have a
            corrupted prompt.
    """
    read: list[tuple[int, Pair, tuple[str, ...]]] = []
    skipped: list[Skipped] = []
    for number, pair in enumerate(pairs, 1):
        try:
            # One at a time, so that each says what is wrong with it; no model runs.
            read.append((number, pair, tokenize_pairs(adapter, [pair]).clean.tokens[0]))
        except PromptError as error:
            skipped.append(Skipped(number, pair.prompt, str(error)))
    lengths = Counter(len(tokens) for _, _, tokens in read)
    length = len(labels) if labels is not None else lengths.most_common(1)[0][0] if lengths else 0
    names: list[str] = list(labels or ())
    used: list[tuple[Pair, tuple[str, ...], list[str]]] = []
    for number, pair, tokens in read:
        match by:
            case "position":
                fits = len(tokens) == length
                others = "most have" if labels is None else "the circuit has"
                why = f"It has {len(tokens)} tokens and {others} {length}: bring prompts together by role or sum."
                mine = [str(pos) for pos in range(length)]
            case "sum":
                fits, why, mine = True, "", [ALL] * len(tokens)
            case "role":
                mine = _roles(pair, tokens) or []
                fits = bool(mine) and (labels is None or set(mine) <= set(labels))
                why = "Its tokens do not spell it, so its words' roles are not theirs."
                if mine:
                    why = "Its roles are not those of the circuit."
                elif not pair.roles:
                    why = "Its words have no roles, one name a word."
        if fits:
            used.append((pair, tokens, mine))
        else:
            skipped.append(Skipped(number, pair.prompt, why))
    if not used:
        first = min(skipped, key=lambda s: s.line, default=None)
        why = f" The first: {first.reason}" if first else " Give at least one."
        raise PromptError(f"None of the {len(pairs)} prompts can be used.{why}")
    _all_or_none([pair for pair, _, _ in used])
    if by == "position":
        columns = zip(*(tokens for _, tokens, _ in used), strict=True)
        # A position is called by its token, if that is the same in all prompts.
        names = names or [each[0] if len(set(each)) == 1 else f"[{pos}]" for pos, each in enumerate(columns)]
        groups = [tuple(range(length))] * len(used)
    else:
        names = names or list(dict.fromkeys(name for _, _, mine in used for name in mine))
        groups = [tuple(names.index(name) for name in mine) for _, _, mine in used]
    return PromptSet(tuple(p for p, _, _ in used), tuple(groups), tuple(names), tuple(skipped), by, adapter.pads)


def tokenize_pairs(adapter: Adapter, pairs: Sequence[Pair], metric: object = None) -> PromptBatch:
    """`tokenize` for pairs; raises PromptError as that does, and where only some have a corrupted prompt."""
    with_corrupted = _all_or_none(pairs)
    return tokenize(
        adapter,
        [pair.prompt for pair in pairs],
        [pair.answer for pair in pairs],
        [pair.distractor for pair in pairs] if any(pair.distractor for pair in pairs) else None,
        [pair.corrupted or "" for pair in pairs] if with_corrupted else None,
        metric,  # pyright: ignore[reportArgumentType]
    )


def _all_or_none(pairs: Sequence[Pair]) -> bool:
    """Whether there are corrupted prompts; raises PromptError where only some of the pairs have one."""
    with_corrupted = {pair.corrupted is not None for pair in pairs}
    if len(with_corrupted) > 1:
        raise PromptError(
            "Some of the prompts have a corrupted prompt and some have none: give all of them one, or none."
        )
    return True in with_corrupted


def _roles(pair: Pair, tokens: Sequence[str]) -> list[str] | None:
    """The role of each token: that of the last word it has a part in; a token before the prompt is its own."""
    words = pair.prompt.split()
    if not pair.roles or len(words) != len(pair.roles):
        return None
    # Spaces count for nothing: adapters print them with their tokens or not.
    letters = [len("".join(token.split())) for token in tokens]
    before = next((n for n in range(len(tokens)) if "".join("".join(tokens[n:]).split()) == "".join(words)), None)
    if before is None:
        return None
    of_letter = [role for role, word in zip(pair.roles, words, strict=True) for _ in word]
    roles, end = list(tokens[:before]), 0
    for count in letters[before:]:
        end += count
        # A token of nothing but space begins the next word.
        roles.append(of_letter[end - 1 if count else min(end, len(of_letter) - 1)])
    return roles
