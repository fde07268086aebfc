"""What a site's features did on a text: how often, how strongly, where most; tensors whose size no text changes.

For each feature there are its number of active tokens, a histogram of its sizes |value| in half octaves, the places of
its largest values (one a window at most), and of every octave the first place that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from circuitlens.corpus.folder import BINS, LOWEST, CorpusRecord, open_statistics, shapes_of
from circuitlens.errors import CorpusError
from circuitlens.files import write_file

NONE = -1
"""The window of a place that there is none of."""


@dataclass
class Active:
    """Active features of some windows, by window's number, position, index and value."""

    window: Int[Tensor, " active"]
    pos: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    value: Float[Tensor, " active"]


@dataclass
class SiteStatistics:
    """The tensors of one site, by their names, as a file keeps them."""

    tensors: dict[str, Tensor]

    @staticmethod
    def empty(features: int, top: int) -> SiteStatistics:
        """Those of features that were never seen."""
        tensors = {
            "count": torch.zeros(features, dtype=torch.int64),
            "histogram": torch.zeros(features, BINS, dtype=torch.int32),
        }
        for name, places in (("top", top), ("octave", BINS // 2)):
            tensors |= {
                f"{name}_value": torch.zeros(features, places),
                f"{name}_window": torch.full((features, places), NONE, dtype=torch.int32),
                f"{name}_pos": torch.zeros(features, places, dtype=torch.int16),
            }
        return SiteStatistics(tensors)

    def add(self, active: Active) -> None:
        """Take in what was active in windows that come after all earlier ones, in the order of window and position."""
        if not len(active.index):
            return
        histogram, features = self.tensors["histogram"], len(self.tensors["count"])
        value = active.value.float()
        half = ((value.abs().log2() - LOWEST) * 2).floor().clamp(0, BINS - 1).long()
        self.tensors["count"] += torch.bincount(active.index, minlength=features)
        flat = histogram.view(-1)
        flat.index_add_(0, active.index * BINS + half, torch.ones_like(half, dtype=histogram.dtype))
        self._add_first(active, value, half // 2)
        self._add_top(active, value)

    def _add_first(self, active: Active, value: Tensor, octave: Tensor) -> None:
        """The first place of each feature in each octave, where there was none yet."""
        width = self.tensors["octave_window"].shape[1]
        key = active.index * width + octave
        key, order = key.sort(stable=True)
        first = order[_starts(key)]
        new = (active.index * width + octave)[first]
        first = first[self.tensors["octave_window"].view(-1)[new] == NONE]
        at = (active.index * width + octave)[first]
        self._put("octave", at, value[first], active.window[first], active.pos[first])

    def _add_top(self, active: Active, value: Tensor) -> None:
        """The strongest place of each feature in each window, among the strongest so far; earlier ones win ties."""
        size = value.abs()
        order = size.argsort(descending=True, stable=True)
        order = order[active.window[order].argsort(stable=True)]
        order = order[active.index[order].argsort(stable=True)]
        pair = torch.stack([active.index[order], active.window[order]])
        first = torch.ones(len(order), dtype=torch.bool)
        first[1:] = (pair[:, 1:] != pair[:, :-1]).any(0)
        order = order[first]  # by feature, then window
        order = order[size[order].argsort(descending=True, stable=True)]
        order = order[active.index[order].argsort(stable=True)]  # by feature, strongest first
        index = active.index[order]
        start = _starts(index)
        which = torch.cumsum(start, 0) - 1
        rank = torch.arange(len(index)) - torch.arange(len(index))[start][which]
        seen, top = index[start], self.tensors["top_value"].shape[1]
        order, which, rank = (each[rank < top] for each in (order, which, rank))
        new = SiteStatistics.empty(len(seen), top)
        new._put("top", which * top + rank, value[order], active.window[order], active.pos[order])
        both = {
            n: torch.cat([self.tensors[n][seen], new.tensors[n]], 1) for n in ("top_value", "top_window", "top_pos")
        }
        best = both["top_value"].abs().argsort(dim=1, descending=True, stable=True)[:, :top]
        for name, values in both.items():
            self.tensors[name][seen] = values.gather(1, best)

    def _put(self, name: str, at: Tensor, value: Tensor, window: Tensor, pos: Tensor) -> None:
        for part, values in (("value", value), ("window", window), ("pos", pos)):
            flat = self.tensors[f"{name}_{part}"].view(-1)
            flat[at] = values.to(flat.dtype)


def _starts(key: Int[Tensor, " n"]) -> Tensor:
    """Marks the first of each run of equal keys."""
    start = torch.ones(len(key), dtype=torch.bool)
    start[1:] = key[1:] != key[:-1]
    return start


def write_statistics(folder: Path, record: CorpusRecord, statistics: Sequence[SiteStatistics]) -> None:
    """Write the statistics that a record, which is written next, is to have."""
    for site, each in enumerate(statistics):
        write_file(folder / record.statistics_file(site), save(each.tensors), CorpusError)


def read_statistics(folder: Path, record: CorpusRecord) -> list[SiteStatistics]:
    """The statistics of all sites, whole."""
    if not record.pieces:
        return [SiteStatistics.empty(site.features, record.top) for site in record.sites]
    found = []
    for number in range(len(record.sites)):
        file = open_statistics(folder, record, number, "pt")
        # Copies: what is mapped from a file must not change with it.
        found.append(SiteStatistics({name: file.get_tensor(name).clone() for name in shapes_of(record, number)}))
    return found
