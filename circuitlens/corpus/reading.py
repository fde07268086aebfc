"""A corpus read: what one feature did on its texts, without reading what the others did."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from circuitlens.corpus.folder import (
    BINS,
    SEGMENT,
    CorpusRecord,
    CorpusSite,
    edges_of_bins,
    open_statistics,
    read_record,
    read_segment,
)
from circuitlens.errors import CorpusError

LOWER = (0.5, 0.25, 0.125)
"""Of how much of its largest value a feature's weaker contexts are, about."""


@dataclass(frozen=True)
class Context:
    """A window of text in which a feature is active, most at `tokens[pos]`."""

    tokens: tuple[str, ...]
    pos: int
    value: float

    @property
    def token(self) -> str:
        """The token at which it is most active."""
        return self.tokens[self.pos]


@dataclass(frozen=True)
class FeatureRecord:
    """What a feature did on a corpus of so many `tokens`.

    It was active at `count` of them. `histogram` has the number of those by size |value|, from `low` to `high`;
    `contexts` are the windows in which it was strongest, and `weaker` ones in which it had about a half, a quarter and
    an eighth of that.
    """

    hook: str
    index: int
    count: int
    tokens: int
    histogram: tuple[tuple[float, float, int], ...]
    contexts: tuple[Context, ...]
    weaker: tuple[Context, ...]

    @property
    def density(self) -> float:
        """The share of tokens at which it is active."""
        return self.count / self.tokens if self.tokens else 0.0


class Corpus:
    """A corpus in its folder; features are read one by one."""

    def __init__(self, folder: Path, record: CorpusRecord):
        self.folder, self.record = folder, record
        self._segment = lru_cache(16)(lambda number: read_segment(folder, number))
        self._files: dict[int, Any] = {}

    def site(self, hook: str) -> CorpusSite | None:
        """The site that writes at a hook, or that has this name; None where there is none."""
        return next((site for site in self.record.sites if hook in (site.hook, site.name)), None)

    def feature(self, hook: str, index: int) -> FeatureRecord:
        """What feature `index` of the site at a hook (or of this name) did.

        Raises:
            CorpusError: there is no such feature, or the folder is damaged.
        """
        site = self.site(hook)
        if site is None or not 0 <= index < site.features:
            known = ", ".join(f"{each.hook} (0 to {each.features - 1})" for each in self.record.sites)
            raise CorpusError(f"The corpus has no feature {index} at {hook!r:.200}; it has {known}.")
        row = self._row(self.record.sites.index(site), index)
        edges = edges_of_bins()
        histogram = [(edges[i], edges[i + 1], int(row["histogram"][i])) for i in range(BINS)]
        contexts = [self._context(row, "top", place) for place in range(self.record.top)]
        strongest = [context for context in contexts if context is not None]
        return FeatureRecord(
            hook=site.hook,
            index=index,
            count=int(row["count"]),
            tokens=self.record.tokens,
            histogram=tuple(each for each in histogram if each[2]),
            contexts=tuple(strongest),
            weaker=self._weaker(row, abs(strongest[0].value)) if strongest else (),
        )

    def _row(self, site: int, index: int) -> dict[str, Any]:
        if not self.record.pieces:
            raise CorpusError(
                f"The corpus in {str(self.folder)!r} has only been begun: build it again with the same call."
            )
        if site not in self._files:
            self._files[site] = open_statistics(self.folder, self.record, site, "np")
        file = self._files[site]
        return {name: file.get_slice(name)[index : index + 1][0] for name in file.keys()}  # noqa: SIM118 (it is no dict)

    def _context(self, row: dict[str, Any], name: str, place: int) -> Context | None:
        window, pos = int(row[f"{name}_window"][place]), int(row[f"{name}_pos"][place])
        if window < 0:
            return None
        here = self._segment(window // SEGMENT) if window < self.record.windows else []
        number = window % SEGMENT
        if number >= len(here) or not 0 <= pos < len(here[number]):
            raise CorpusError(
                f"The corpus in {str(self.folder)!r} is damaged: it has no window {window} with a token {pos}. "
                "Make it again."
            )
        return Context(tuple(here[number]), pos, float(row[f"{name}_value"][place]))

    def _weaker(self, row: dict[str, Any], most: float) -> tuple[Context, ...]:
        """Contexts of about these shares of the largest value, each from the octave in which that lies."""
        places: dict[int, Context] = {}
        for place in range(BINS // 2):
            context = self._context(row, "octave", place)
            if context is not None and 0 < abs(context.value) < most * 0.75:
                places[place] = context
        found: list[Context] = []
        for share in LOWER:
            left = [context for context in places.values() if context not in found]
            near = min(left, key=lambda context: max(r := abs(context.value) / (share * most), 1 / r), default=None)
            if near is not None and 0.5 <= abs(near.value) / (share * most) <= 2:
                found.append(near)
        return tuple(found)


def read(folder: str | os.PathLike[str]) -> Corpus:
    """Open a corpus, whole or as far as it was built.

    Raises:
        CorpusError: the folder is no corpus.
    """
    return Corpus(Path(folder), read_record(Path(folder)))
