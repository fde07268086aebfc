"""Pieces computed by workers of Ray: batches are handed out as workers get free, and again where a worker dies."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from circuitlens.errors import RunError
from circuitlens.literals import StageName
from circuitlens.pipeline import Search
from circuitlens.pipeline.stages import Known
from circuitlens.registry import installed_adapters
from circuitlens.runfolder.folder import RunFolder
from circuitlens.runfolder.pieces import DamagedError, digest_of_inputs, from_bytes, known_to_bytes
from circuitlens.runfolder.ray_pool import ATTEMPTS, Lost, Pool, import_ray, require_answer
from circuitlens.runfolder.ray_worker import Task
from circuitlens.runfolder.record import RunRecord
from circuitlens.runfolder.running import PAUSE, Engine

log = logging.getLogger(__name__)


class RayEngine(Engine):
    """Computes pieces with workers of Ray, which the first batch starts and which live until `close`.

    Args:
        search: what is asked.
        options: those that the search's adapter was loaded with, as `circuitlens.load` takes them.
        address: of a Ray cluster that this machine is part of, as host:port; by default one of this machine alone.
        workers: how many; by default one for each GPU where the run computes on one, else as many as there are cores
            for, each with the run's number of threads.

    Raises:
        RunError: Ray is not installed, no other process can load the adapter, or nothing answers at the address.
    """

    def __init__(
        self, search: Search, options: Mapping[str, Any], address: str | None = None, workers: int | None = None
    ):
        name = search.adapter.name
        if "wrapped" in search.adapter.options or name not in [each.name for each in installed_adapters()]:
            raise RunError(
                f"Workers of Ray load an adapter by its name, which {name!r} can't be: it was made with "
                "circuitlens.wrap, or is not installed. Without the engine this process does the work."
            )
        if address is not None:
            require_answer(address)
        import_ray(alone=address is None)
        self._search, self._options, self._address, self._workers = search, dict(options), address, workers
        self._pool: Pool | None = None

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and the cluster if it was started here; what is asked next starts them anew."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def work(
        self, run: RunFolder, stage: StageName, known: Known, batches: Sequence[int], done: Callable[[], object]
    ) -> None:
        """Have the pieces of these batches computed, and wait for those that another process has in work.

        Raises:
            RunError: Ray can't be started, its head is gone, or its workers can't load the adapter.
        """
        if self._pool is None:
            self._pool = self._started(run.record)
        try:
            _Round(self._pool, run, stage, known, batches, done).run()
        except BaseException:
            self.close()  # what is in work then is of no use to what comes after
            raise

    def _started(self, record: RunRecord) -> Pool:
        pairs = tuple(pair.model_dump_json() for pair in self._search.prompts.pairs)
        task = Task(record.model_dump_json(), pairs, self._options, str(Path.cwd()))
        return Pool(task, record.device, record.threads, self._address, self._workers, record.batches)


class _Round:
    """Some batches at one stage: those that are left, the claims on those in work, and how often each was lost."""

    def __init__(
        self,
        pool: Pool,
        run: RunFolder,
        stage: StageName,
        known: Known,
        batches: Sequence[int],
        done: Callable[[], object],
    ):
        self._pool, self._run, self._done = pool, run, done
        self._stage: StageName = stage
        self._digest, self._known = digest_of_inputs(run.record, known), pool.send(known_to_bytes(known))
        self._left, self._claims, self._lost = deque(batches), dict[int, ExitStack](), Counter[int]()

    def run(self) -> None:
        """Until each batch has its piece, or a failure."""
        try:
            while self._left or self._claims:
                self._hand_out()
                for batch, result in self._pool.finished():
                    self._take(batch, result)
                if not self._claims:
                    time.sleep(PAUSE)  # workers are loading, or all that is left is in work elsewhere
        finally:
            for claim in self._claims.values():
                claim.close()

    def _hand_out(self) -> None:
        for _ in range(len(self._left)):
            if not self._pool.has_free:
                return
            batch, claim = self._left.popleft(), ExitStack()
            if not claim.enter_context(self._run.claim(self._stage, batch)):
                self._left.append(batch)
                claim.close()
            elif self._run.read(self._stage, batch, self._digest) is not None:  # done since it was looked for
                claim.close()
                self._done()
            else:
                self._claims[batch] = claim
                self._pool.give(self._stage, batch, self._known)

    def _take(self, batch: int, result: bytes | str | Lost) -> None:
        self._hand_out()  # so that no worker waits for what is written here
        if isinstance(result, bytes):
            try:
                from_bytes(result, self._stage, batch, self._digest)
            except DamagedError as fault:
                result = Lost(f"What came back is damaged: {fault}.")
        if isinstance(result, Lost):
            self._lost[batch] += 1
            if self._lost[batch] < ATTEMPTS:
                log.warning("Batch %d of stage %r is computed again: %s", batch, self._stage, result.reason)
                self._claims.pop(batch).close()
                self._left.appendleft(batch)
                return
            result = f"It was lost with {ATTEMPTS} workers of Ray, the last time as follows. {result.reason}"
        if isinstance(result, bytes):
            self._run.write(self._stage, batch, result)
        else:
            self._run.fail(self._stage, batch, result)
        self._claims.pop(batch).close()
        self._done()
