"""What a search over many prompts takes, measured by doing it with a few of its longest: seconds and memory.

A batch's time and memory grow by as much with each prompt, so that one prompt and a few together tell of any batch.
The trial changes nothing: what a search finds depends on its batch size and not on how that was chosen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil
import torch

from circuitlens.errors import is_no_memory
from circuitlens.pipeline.search import BATCH, Search
from circuitlens.pipeline.stages import Joined, Scoring

FEW = 4
"""Prompts that are tried together."""

SIZES = tuple(2**n for n in reversed(range(BATCH.bit_length())))
"""The batch sizes to choose from."""

SHORT = 10.0
"""Seconds that a whole search may take, going by its first prompt, without more being tried."""

FREE = 0.8
"""The share of the free memory that a batch may take."""


@dataclass(frozen=True)
class Trial:
    """What a batch of so many prompts took through all stages: seconds, and the most bytes beyond what was held."""

    prompts: int
    seconds: float
    growth: int


@dataclass(frozen=True)
class Estimate:
    """What a search takes, by a trial of one prompt and, where it is long, of a few; `held` is the memory before."""

    one: Trial
    few: Trial | None
    held: int
    free: int

    @property
    def tried(self) -> int:
        """How many prompts it was measured on."""
        return self.one.prompts if self.few is None else self.few.prompts

    def growth(self, prompts: int) -> float:
        """Bytes that a batch of so many prompts takes beyond what is held."""
        return self.one.growth + (prompts - 1) * self._each("growth")

    def seconds(self, search: Search) -> float:
        """How long the search takes."""
        return sum(self.one.seconds + (len(batch) - 1) * self._each("seconds") for batch in search.batches)

    def largest_batch(self) -> int:
        """The largest batch size that fits in what is free; 1 where not even that does."""
        return next((size for size in SIZES if self.growth(size) <= FREE * self.free), 1)

    def _each(self, name: str) -> float:
        """What each further prompt of a batch adds: as much as the first, unless it was seen to be less."""
        first = float(getattr(self.one, name))
        if self.few is None:
            return first
        return min(first, max(0.0, getattr(self.few, name) - first) / (self.few.prompts - 1))


def estimate(search: Search) -> Estimate:
    """Measure a search's longest prompt by itself and, if there is much to do, a few of them together.

    Raises:
        AdapterError: the model's numbers are not finite.
    """
    device = search.example.clean.mask.device
    held, free = _held(device), _free(device)
    one, few = _tried(search, 1, held), None
    if one.seconds * len(search.prompts) > SHORT and len(search.prompts) > 2 * FEW:
        try:
            few = _tried(search, FEW, held)
        except (MemoryError, RuntimeError) as fault:
            if not is_no_memory(fault):
                raise
            return Estimate(one, None, held, 0)
        again = _tried(search, 1, held)  # the first run of all takes longer
        one = replace(one, seconds=min(one.seconds, again.seconds))
    return Estimate(one, few, held, free)


def _tried(search: Search, count: int, held: int) -> Trial:
    """All stages of a search over its longest prompts, in one batch; scored anew for each as of several batches."""
    longest = search.prompts.by_length().chosen(range(len(search.prompts))[-count:])
    some, start = replace(search, prompts=longest, batch_size=count), time.perf_counter()
    with _watched(search.example.clean.mask.device) as peak:
        scoring, joined = Scoring(some), Joined(some)
        for stage in some.stages:
            if len(search.batches) > 1:
                scoring = Scoring(some)
            for number in range(len(some.batches)):
                joined.add(scoring.piece(stage, number, joined.known))
            joined.end(stage)
    return Trial(len(longest), time.perf_counter() - start, max(0, peak[0] - held))


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


@contextmanager
def _watched(device: torch.device) -> Iterator[list[int]]:
    """The most memory that is held meanwhile, known at the end."""
    peak = [_held(device)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device)
        return
    done, process = threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak[0] = max(peak[0], process.memory_info().rss)
