"""What a feature stands for, in a few words, and who says so: the one form that views, files and exports have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from pydantic import Field

from circuitlens.circuit.values import Count, Name, Value
from circuitlens.literals import MeaningSource

MAX_LABEL = 200
"""Characters of a label."""

ORDER: tuple[MeaningSource, ...] = get_args(MeaningSource)
"""The sources of labels; where there are several, the first is shown."""


class Meaning(Value):
    """What a feature (by its hook and index, at any position) is called, by whom, and whether that is weak evidence.

    A label of one's own may be of any node; it has no index then.
    """

    hook: Name
    index: Count | None
    text: str = Field(min_length=1, max_length=MAX_LABEL)
    source: MeaningSource
    weak: bool = Field(default=False, exclude_if=lambda weak: not weak, description="made from weak evidence")

    def __str__(self) -> str:
        return f"{self.text} ({self.source}{', weak' if self.weak else ''})"


def best(meanings: Iterable[Meaning]) -> tuple[Meaning, ...]:
    """One meaning for each feature: of the source that comes first, and of one source the last that is given."""
    found: dict[tuple[str, int | None], Meaning] = {}
    for meaning in meanings:
        key = meaning.hook, meaning.index
        if key not in found or ORDER.index(meaning.source) <= ORDER.index(found[key].source):
            found[key] = meaning
    return tuple(found.values())
