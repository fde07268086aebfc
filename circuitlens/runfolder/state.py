"""How far a run is: its stages, their speed, the time that is left, who works on it, and what could not be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from circuitlens.literals import StageName
from circuitlens.runfolder.folder import Failure, RunFolder
from circuitlens.runfolder.pieces import PieceRecord


@dataclass(frozen=True)
class StageState:
    """How far a stage is.

    `speed` is in prompts a second, of all workers together, and `left` in seconds at that speed; both None where no
    piece is done.
    """

    stage: StageName
    done: int
    batches: int
    claimed: int
    speed: float | None
    left: float | None
    workers: tuple[str, ...]


@dataclass(frozen=True)
class RunState:
    """How far a run is; `failures` are batches that could not be done, and have not been since."""

    stages: tuple[StageState, ...]
    failures: tuple[Failure, ...]

    @property
    def done(self) -> bool:
        """Whether every piece is there."""
        return all(each.done == each.batches for each in self.stages)


def state_of(run: RunFolder) -> RunState:
    """How far a run is, from what is in its folder."""
    records, claimed = list(run.records()), run.claimed()
    stages = [
        _stage(run, stage, [r for r in records if r.stage == stage], sum(name == stage for name, _ in claimed))
        for stage in run.record.stages
    ]
    return RunState(tuple(stages), tuple(run.failures()))


def _stage(run: RunFolder, stage: StageName, records: Sequence[PieceRecord], claimed: int) -> StageState:
    batches, speed, left = run.record.batches, None, None
    if records:
        # What was busy counts, so that a night between two sessions does not.
        at_once = _at_once(records)
        speed = sum(r.prompts for r in records) / max(sum(r.seconds for r in records), 1e-9) * at_once
        left = (batches - len(records)) * mean(r.seconds for r in records) / at_once
    workers = tuple(sorted({r.worker for r in records}))
    return StageState(stage, len(records), batches, claimed, speed, left, workers)


def _at_once(records: Sequence[PieceRecord]) -> float:
    """How many pieces were in work together, on average over the time in which any was."""
    spans = sorted((r.ended - r.seconds, r.ended) for r in records)
    busy, end = 0.0, float("-inf")
    for begin, until in spans:
        busy += max(0.0, until - max(begin, end))
        end = max(end, until)
    return max(1.0, sum(r.seconds for r in records) / max(busy, 1e-9))
