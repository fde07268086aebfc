"""A run done: stage by stage, what is missing is worked on, and all pieces are joined in the order of the batches."""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitLensError, RunError, is_no_memory
from circuitlens.fingerprint import difference
from circuitlens.literals import StageName
from circuitlens.pipeline import Search
from circuitlens.pipeline.stages import Joined, Known, Scoring
from circuitlens.progress import Progress, ProgressCallback
from circuitlens.runfolder.folder import RunFolder
from circuitlens.runfolder.pieces import PieceRecord, digest_of_inputs, to_bytes
from circuitlens.runfolder.record import RunRecord

PAUSE = 0.2
"""Seconds between looks at what another process has in work."""


@dataclass(frozen=True)
class Shard:
    """Share `number` (from 1) of `of`: every batch of which that is the place, counted in turns."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise RunError(f"There is no shard {self.number} of {self.of}: give a number from 1 to {self.of}.")

    def has(self, batch: int) -> bool:
        """Whether a batch is this shard's."""
        return batch % self.of == self.number - 1


class Engine(ABC):
    """What computes pieces: this process, or workers elsewhere."""

    @abstractmethod
    def work(
        self, run: RunFolder, stage: StageName, known: Known, batches: Sequence[int], done: Callable[[], object]
    ) -> None:
        """Write the pieces of these batches into the folder, or why one could not be; `done` is told of each."""


class Alone(Engine):
    """Pieces computed in this process, beside others that may work on the same folder."""

    def __init__(self, search: Search):
        self._scoring = Scoring(search)
        self._search = search

    def work(
        self, run: RunFolder, stage: StageName, known: Known, batches: Sequence[int], done: Callable[[], object]
    ) -> None:
        """Compute the pieces of these batches, and wait for those that another process has in work."""
        digest, left = digest_of_inputs(run.record, known), list(batches)
        while left:
            others: list[int] = []
            for batch in left:
                with run.claim(stage, batch) as mine:
                    if not mine:
                        others.append(batch)
                        continue
                    if run.read(stage, batch, digest) is None:  # and not done since it was looked for
                        self._compute(run, stage, batch, known, digest)
                done()
            if len(others) == len(left):
                time.sleep(PAUSE)
            left = others

    def _compute(self, run: RunFolder, stage: StageName, batch: int, known: Known, digest: str) -> None:
        try:
            run.write(stage, batch, computed(self._search, self._scoring, stage, batch, known, digest))
        except RunError:
            raise
        except (CircuitLensError, MemoryError, RuntimeError) as fault:
            run.fail(stage, batch, failure_reason(fault))


def failure_reason(fault: Exception) -> str:
    """Why something could not be computed; what is a fault of the program is raised again."""
    if isinstance(fault, CircuitLensError):
        return str(fault)
    if is_no_memory(fault):
        return "There is not enough memory for it."
    raise fault


def computed(search: Search, scoring: Scoring, stage: StageName, batch: int, known: Known, digest: str) -> bytes:
    """The file of a piece, computed here and now."""
    start = time.perf_counter()
    piece = scoring.piece(stage, batch, known)
    record = PieceRecord(
        stage=stage,
        batch=batch,
        inputs=digest,
        seconds=time.perf_counter() - start,
        prompts=len(search.batches[batch]),
        ended=time.time(),
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )
    return to_bytes(piece, record)


def run_in_folder(
    search: Search,
    path: Path,
    *,
    shard: Shard | None = None,
    engine: Engine | None = None,
    callback: ProgressCallback | None = None,
) -> Circuit | None:
    """The circuit of a search over many prompts, whose pieces are in a folder; what is there already is not done again.

    Args:
        search: what is asked.
        path: the folder; a new one, or one in which the same was begun.
        shard: the share of the batches to do. Those of others are not waited for.
        engine: what computes the pieces; by default this process.
        callback: told the stage, the pieces done and the pieces in all; what it raises ends the work.

    Returns:
        The circuit; None if pieces of other shards are missing, without which nothing more can be done.

    Raises:
        RunError: the folder holds another run, or can't be written, or batches could not be done.
    """
    run = RunFolder.begin(path, RunRecord.of(search), search.prompts.pairs, search.adapter)
    engine = engine or Alone(search)
    with _threads(run.record.threads), Progress(len(search.stages) * len(search.batches), callback, "batch") as steps:
        return _joined(search, run, shard, engine, steps)


def join(search: Search, run: RunFolder, callback: ProgressCallback | None = None) -> Circuit | None:
    """The circuit of a run of which all pieces are there; None if some are missing or damaged.

    No piece is computed, so that any machine will do; but names are the adapter's, so its weights have to be the run's.

    Raises:
        RunError: they are others.
    """
    if told := difference(search.adapter, run.record.fingerprint, search.prompts.pairs[0]):
        raise RunError(f"{str(run.path)!r} is a run of another model: {told}.")
    with Progress(len(search.stages) * len(search.batches), callback, "batch") as steps:
        return _joined(search, run, None, None, steps)


def _joined(
    search: Search, run: RunFolder, shard: Shard | None, engine: Engine | None, steps: Progress
) -> Circuit | None:
    joined = Joined(search)
    for stage in search.stages:
        known = joined.known
        digest, missing = digest_of_inputs(run.record, known), run.missing(stage)
        steps.step(stage, len(search.batches) - len(missing))

        def work(batches: Sequence[int], stage: StageName = stage, known: Known = known) -> None:
            mine = [n for n in batches if shard is None or shard.has(n)]
            if engine is not None and mine:
                engine.work(run, stage, known, mine, lambda: steps.step(stage))
                _require_no_failure(run, stage, mine)

        work(missing)
        if run.missing(stage):
            return None
        for batch in range(len(search.batches)):
            if (found := run.read(stage, batch, digest)) is None:
                work([batch])
                if (found := run.read(stage, batch, digest)) is None:
                    return None
            joined.add(found[0])
        joined.end(stage)
    return joined.circuit(run.record.fingerprint)


def _require_no_failure(run: RunFolder, stage: StageName, batches: Sequence[int]) -> None:
    failed = [each for each in run.failures() if each.stage == stage and each.batch in batches]
    if failed:
        first = failed[0]
        raise RunError(
            f"{len(failed)} of {run.record.batches} batches could not be done at stage {stage!r}; the first, batch "
            f"{first.batch}: {first.reason} The others are kept: start again to try these again."
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads, which decide in which order torch sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
