"""A run's folder: `run.json`, the prompts, a file for each piece, claims of pieces that are in work, and failures.

Every file is written in one step, and a piece that is there is done: whatever kills a process, and however many work
here, nothing else has to be known. A claim is the system's lock on a file, which ends with the process that has it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from circuitlens.adapter import Adapter
from circuitlens.errors import RunError
from circuitlens.files import locked, parse_json, read_bounded, reason_of
from circuitlens.files.writing import PART
from circuitlens.fingerprint import difference
from circuitlens.literals import StageName
from circuitlens.pipeline.stages import Piece
from circuitlens.prompts.pairs import Pair, read_pairs, write_pairs
from circuitlens.runfolder.pieces import PieceRecord, from_bytes, read_piece_record
from circuitlens.runfolder.record import DOCUMENT, RunRecord, digest_of, read_record, write_record
from circuitlens.runfolder.sealed import DamagedError, keep

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

PROMPTS = "prompts.jsonl"
FOLDERS = ("pieces", "claims", "failures")
MAX_PIECE = 4_000_000_000
MAX_REASON = 2000
NAME = re.compile(r"(nodes|edges|weighing)-(\d{6})\.safetensors")


@dataclass(frozen=True)
class Failure:
    """A piece that could not be computed, and why."""

    stage: StageName
    batch: int
    reason: str


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run that has begun."""

    path: Path
    record: RunRecord

    @staticmethod
    def begin(path: Path, asked: RunRecord, pairs: Sequence[Pair], adapter: Adapter) -> RunFolder:
        """The folder of the run that is asked for: a new one, or what was begun.

        Raises:
            RunError: it can't be written, holds another run, or files that are no run's.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            with locked(path / DOCUMENT, RunError):
                begun = (path / DOCUMENT).exists()
                if not begun:
                    _require_new(path)
                    for folder in FOLDERS:
                        (path / folder).mkdir(exist_ok=True)
                    write_pairs(path / PROMPTS, pairs)
                    write_record(path, asked)
        except OSError as fault:
            raise RunError(f"Can't make the folder {str(path)!r}: {fault.strerror}. Give another.") from fault
        if not begun:
            return RunFolder(path, asked)
        # Not under the lock: it runs the model, and many shards may start together.
        known = read_record(path)
        if told := known.difference(asked) or difference(adapter, known.fingerprint, pairs[0]):
            raise RunError(f"{str(path)!r} holds another run: {told}. Give another folder, or remove this one.")
        with suppress(OSError):  # copies often lack empty folders; a read-only one has all that is needed, or is told
            for folder in FOLDERS:
                (path / folder).mkdir(exist_ok=True)
        return RunFolder(path, known)

    @staticmethod
    def open(path: Path) -> RunFolder:
        """A run that was begun.

        Raises:
            RunError: there is none.
        """
        return RunFolder(path, read_record(path))

    def pairs(self) -> list[Pair]:
        """The run's prompts.

        Raises:
            RunError: they are not those that it was begun with.
        """
        pairs, skipped = read_pairs(self.path / PROMPTS)
        if skipped or digest_of(pairs) != self.record.digest:
            raise RunError(f"{str(self.path / PROMPTS)!r} is not what the run was begun with: begin another run.")
        return pairs

    # Pieces

    def file(self, stage: StageName, batch: int) -> Path:
        """Where a piece is, once it is done."""
        return self.path / "pieces" / f"{stage}-{batch:06}.safetensors"

    def missing(self, stage: StageName) -> list[int]:
        """The batches that have no piece of a stage, in their order."""
        names = {path.name for path in self._pieces()}
        return [n for n in range(self.record.batches) if self.file(stage, n).name not in names]

    def _pieces(self) -> list[Path]:
        try:
            return sorted((self.path / "pieces").iterdir())
        except FileNotFoundError:
            return []
        except OSError as fault:
            raise RunError(f"Can't read {str(self.path / 'pieces')!r}: {reason_of(fault)}.") from fault

    def write(self, stage: StageName, batch: int, data: bytes) -> None:
        """Keep a piece, for good.

        Raises:
            RunError: it can't be written.
        """
        keep(self.file(stage, batch), data)
        with suppress(OSError):
            self._failure(stage, batch).unlink(missing_ok=True)

    def read(self, stage: StageName, batch: int, inputs: str) -> tuple[Piece, PieceRecord] | None:
        """A piece, None where it is missing or damaged; `inputs` is the digest of what it is computed from."""
        path = self.file(stage, batch)
        try:
            return from_bytes(self._bytes(path), stage, batch, inputs)
        except FileNotFoundError:
            return None
        except DamagedError as fault:
            log.warning("%s is damaged (%s) and counts as missing.", path, fault)
            return None

    def records(self) -> Iterator[PieceRecord]:
        """How each piece that is there was made; what is damaged is left out."""
        for path in self._pieces():
            if NAME.fullmatch(path.name):
                with suppress(DamagedError, FileNotFoundError):
                    yield read_piece_record(self._bytes(path))

    def _bytes(self, path: Path) -> bytes:
        with suppress(PermissionError):  # which is told of by what reads
            path.stat()
        return read_bounded(path, MAX_PIECE, "a piece of a run", RunError)

    # Who works on what

    @contextmanager
    def claim(self, stage: StageName, batch: int) -> Iterator[bool]:
        """Have a piece for oneself among the processes on this folder; False where another one has it.

        Where the file system has no locks, nothing is claimed: two processes may do the same, and neither is wrong.
        """
        path = self.path / "claims" / f"{stage}-{batch:06}"
        file = None
        if sys.platform != "win32":
            with suppress(OSError):
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if file is None or sys.platform == "win32":
            yield True
            return
        try:
            mine = _lock(file) and _is_still(path, file)
            yield mine
            if mine:
                with suppress(OSError):
                    path.unlink()
        finally:
            os.close(file)

    def claimed(self) -> list[tuple[str, int]]:
        """The pieces that living processes have claimed."""
        found: list[tuple[str, int]] = []
        for path in sorted((self.path / "claims").glob("*-*")):
            with suppress(OSError, ValueError):
                file = os.open(path, os.O_RDONLY)
                try:
                    if not _lock(file):
                        stage, batch = path.name.rsplit("-", 1)
                        found.append((stage, int(batch)))
                finally:
                    os.close(file)
        return found

    # Failures

    def fail(self, stage: StageName, batch: int, reason: str) -> None:
        """Note why a piece could not be computed."""
        told = {"stage": stage, "batch": batch, "reason": reason[:MAX_REASON]}
        keep(self._failure(stage, batch), json.dumps(told).encode())

    def failures(self) -> list[Failure]:
        """What could not be computed, and has not been since."""
        found: list[Failure] = []
        for path in sorted((self.path / "failures").glob("*.json")):
            with suppress(RunError, ValueError, KeyError, TypeError):
                told = parse_json(read_bounded(path, 100_000, "a failure", RunError))
                found.append(Failure(told["stage"], int(told["batch"]), str(told["reason"])))
        return found

    def _failure(self, stage: str, batch: int) -> Path:
        return self.path / "failures" / f"{stage}-{batch:06}.json"


def _require_new(path: Path) -> None:
    """Refuse to begin a run among other files, or among pieces of which nothing says any more what they are of."""
    ours = {*FOLDERS, "evidence", PROMPTS}
    if other := [each.name for each in path.iterdir() if each.name not in ours and not PART.fullmatch(each.name)]:
        raise RunError(f"{str(path)!r} holds {min(other)!r} and no run: give a new folder.")
    if any((path / "pieces").glob("*.safetensors")):
        raise RunError(
            f"{str(path)!r} holds pieces of a run and no {DOCUMENT}, which says what they are of: give a new folder."
        )


def _lock(file: int) -> bool:
    """Lock an open file; False where another process has it locked."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_still(path: Path, file: int) -> bool:
    """Whether an open file is what its name stands for: who had the claim before may have removed it since."""
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False
