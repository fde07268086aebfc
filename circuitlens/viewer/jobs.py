"""Work in the background: job after job in one thread, each with its progress, and cancelled between its steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from circuitlens.errors import CircuitLensError

if TYPE_CHECKING:
    from circuitlens.progress import ProgressCallback

log = logging.getLogger(__name__)

KEPT = 50
"""Jobs that are remembered after they have ended."""

Work = Callable[["ProgressCallback"], int | None]
"""What a job does; it returns the number of the circuit that it made, if any."""


@dataclass(frozen=True)
class Job:
    """Work in the background; `message` is why it failed, `result` the number of the circuit that it made."""

    id: int
    title: str
    stage: str = ""
    done: int = 0
    total: int = 0
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    message: str = ""
    result: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state not in ("waiting", "running")

    @property
    def share(self) -> float:
        """How much of its stage is done, in percent."""
        return 100.0 if self.state == "done" else 100 * self.done / self.total if self.total else 0.0


class _CancelledError(Exception):
    """Raised in the worker where a cancelled job reports its progress."""


class Jobs:
    """The jobs of one page."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._futures: dict[int, Future[None]] = {}
        self._cancelled: set[int] = set()
        self._lock = threading.RLock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="circuitlens-work")

    def start(self, title: str, work: Work) -> Job:
        """Have `work` done once the jobs before it have ended."""
        with self._lock:
            for old in [job.id for job in self._jobs.values() if job.has_ended][:-KEPT]:
                del self._jobs[old], self._futures[old]
            job = Job(max(self._jobs, default=0) + 1, title)
            self._jobs[job.id] = job
            self._futures[job.id] = self._executor.submit(self._run, job.id, work)
        return job

    def get(self, number: int) -> Job | None:
        """The job of that number as it stands, None where it is not known."""
        with self._lock:
            return self._jobs.get(number)

    def cancel(self, number: int) -> None:
        """End a job: at once where it waits, else when it next reports its progress."""
        with self._lock:
            job = self._jobs.get(number)
            if job is None or job.has_ended:
                return
            if self._futures[number].cancel():
                self._change(number, state="cancelled")
            else:
                self._cancelled.add(number)
                self._change(number, stage="cancelling")

    def close(self) -> None:
        """Cancel all jobs, and take no more."""
        with self._lock:
            for number in self._jobs:
                self.cancel(number)
        self._executor.shutdown(wait=False)

    def _change(self, number: int, **values: Any) -> None:
        with self._lock:
            self._jobs[number] = replace(self._jobs[number], **values)

    def _run(self, number: int, work: Work) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            with self._lock:
                if number in self._cancelled:
                    raise _CancelledError
                self._change(number, stage=stage, done=done, total=total)

        try:
            self._change(number, state="running")
            self._change(number, state="done", result=work(progress))
        except _CancelledError:
            self._change(number, state="cancelled")
        except CircuitLensError as error:
            self._change(number, state="failed", message=str(error))
        except Exception as error:
            log.debug("A job of the page failed.", exc_info=True)
            told = f"It failed in a way that was not foreseen ({type(error).__name__}: {error})."
            self._change(number, state="failed", message=told)
        finally:
            self._cancelled.discard(number)
