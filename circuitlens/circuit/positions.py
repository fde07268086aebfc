"""What the positions of a circuit are called: the one place that axes, lists, tables and sentences ask.

A circuit over many prompts has several words at a position. Where they differ it is called by their role, if all
prompts name one for it, else by the most common of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from circuitlens.literals import PositionGrouping
from circuitlens.prompts.pairs import Pair

LISTED = 12
"""Words that a position of many prompts is said to have, at most."""


class Position(NamedTuple):
    """What a position is called, and what more there is to say of it ("" where that is all)."""

    name: str
    told: str = ""


def name_positions(
    tokens: Sequence[str], pairs: Sequence[Pair] = (), by: PositionGrouping | None = None
) -> tuple[Position, ...]:
    """The positions with these tokens; those of many prompts that do not share one are written [POSITION].

    Args:
        tokens: of one prompt, or what the positions of many have in common.
        pairs: the prompts, of a circuit over many.
        by: how their positions were brought together.
    """
    if by != "position" or not pairs:
        return tuple(map(Position, tokens))
    prompts = [[pair.prompt] if len(tokens) == 1 else pair.prompt.split() for pair in pairs]
    before = len(tokens) - len(prompts[0])
    spelled = before in (0, 1) and all(len(words) == len(prompts[0]) for words in prompts)  # a token is a word

    def position(pos: int, token: str) -> Position:
        if token != f"[{pos}]":
            return Position(token)
        if not spelled or pos < before:
            return Position(f"position {pos}", "differs from prompt to prompt")
        words = [prompt[pos - before] for prompt in prompts]
        roles = {pair.roles[pos - before] if len(pair.roles) == len(prompts[0]) else "" for pair in pairs}
        (role, *others) = roles
        return _several(words, "" if others else role)

    return tuple(position(pos, token) for pos, token in enumerate(tokens))


def _several(words: Sequence[str], role: str) -> Position:
    """Several words by their role, else by the most common with a mark that there are others; and which they are."""
    common = [word for word, _ in Counter(words).most_common()]
    more = f" and {len(common) - LISTED} more" if len(common) > LISTED else ""
    return Position(role or f"{common[0]} …", f"{', '.join(common[:LISTED])}{more} on {len(words)} prompts")
