"""Work in the background: job after job in one thread, each with its progress, and cancelled between its steps.

The list of jobs is here and not in a page, so that every page of it shows the same ones. The thread is a daemon, which
an executor's is not: a process that is to end does not wait for what can't be cancelled, such as a download.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from circuitlens.errors import CircuitLensError
from circuitlens.registry import installed_adapters

if TYPE_CHECKING:
    from circuitlens.progress import ProgressCallback

log = logging.getLogger(__name__)

KEPT = 50
"""Jobs that are remembered after they have ended."""

Work = Callable[["ProgressCallback"], int | None]
"""What a job does; it returns the number of the circuit that it made, if any."""


@dataclass(frozen=True)
class Job:
    """Work in the background.

    `message` is why it failed, `warnings` what else its reader has to know, `result` the number of the circuit that it
    made.
    """

    id: int
    title: str
    stage: str = ""
    done: int = 0
    total: int = 0
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    message: str = ""
    warnings: tuple[str, ...] = ()
    result: int | None = None
    dismissed: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state not in ("waiting", "running")

    @property
    def is_listed(self) -> bool:
        """Whether there is something to read of it: it goes on, or says something that nobody has dismissed yet."""
        told = self.state == "failed" or (self.state == "done" and self.warnings)
        return not self.has_ended or bool(told and not self.dismissed)

    @property
    def share(self) -> float:
        """How much of its stage is done, in percent."""
        return 100.0 if self.state == "done" else 100 * self.done / self.total if self.total else 0.0


class _CancelledError(Exception):
    """Raised in the worker where a cancelled job reports its progress."""


class Jobs:
    """The jobs of one server; `revision` is another number after each change."""

    def __init__(self) -> None:
        self.revision = 0
        self._jobs: dict[int, Job] = {}
        self._cancelled: set[int] = set()
        self._lock = threading.RLock()
        self._waiting: SimpleQueue[tuple[int, Work] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="circuitlens-work", daemon=True)
        self._closed = False

    def start(self, title: str, work: Work) -> Job:
        """Have `work` done once the jobs before it have ended."""
        with self._lock:
            for old in [job.id for job in self._jobs.values() if job.has_ended][:-KEPT]:
                del self._jobs[old]
            job = Job(max(self._jobs, default=0) + 1, title, state="cancelled" if self._closed else "waiting")
            self._jobs[job.id] = job
            self.revision += 1
            if not self._closed:
                self._waiting.put((job.id, work))
                if self._worker.ident is None:
                    self._worker.start()
        return job

    def get(self, number: int) -> Job | None:
        """The job of that number as it stands, None where it is not known."""
        with self._lock:
            return self._jobs.get(number)

    def all(self) -> list[Job]:
        """The jobs that are remembered, in their order."""
        with self._lock:
            return list(self._jobs.values())

    def dismiss(self, number: int) -> None:
        """Have a job that has ended listed no more."""
        with self._lock:
            job = self._jobs.get(number)
            if job is not None and job.has_ended:
                self._change(number, dismissed=True)

    def cancel(self, number: int) -> None:
        """End a job: at once where it waits, else when it next reports its progress."""
        with self._lock:
            job = self._jobs.get(number)
            if job is None or job.has_ended:
                return
            if job.state == "waiting":
                self._change(number, state="cancelled")
            else:
                self._cancelled.add(number)
                self._change(number, stage="cancelling")

    def close(self) -> None:
        """Cancel all jobs, and take no more."""
        with self._lock:
            for number in self._jobs:
                self.cancel(number)
            self._closed = True
        self._waiting.put(None)

    def _change(self, number: int, **values: Any) -> None:
        with self._lock:
            self._jobs[number] = replace(self._jobs[number], **values)
            self.revision += 1

    def _warn(self, number: int, warning: str) -> None:
        with self._lock:
            warnings = self._jobs[number].warnings
            if warning not in warnings:
                self._change(number, warnings=(*warnings, warning))

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            number, work = waiting
            with self._lock:
                job = self._jobs.get(number)
                if job is None or job.state != "waiting":  # cancelled meanwhile
                    continue
                self._change(number, state="running")
            self._run(number, work)

    def _run(self, number: int, work: Work) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            with self._lock:
                if number in self._cancelled:
                    raise _CancelledError
                self._change(number, stage=stage, done=done, total=total)

        try:
            with _listening(lambda warning: self._warn(number, warning)):
                result = work(progress)
            self._change(number, state="done", result=result)
        except _CancelledError:
            self._change(number, state="cancelled")
        except CircuitLensError as error:
            self._change(number, state="failed", message=str(error))
        except Exception as error:
            log.exception("A job of the page failed.")
            told = f"It failed in a way that was not foreseen ({type(error).__name__}: {error})."
            self._change(number, state="failed", message=told)
        finally:
            self._cancelled.discard(number)


class _Listener(logging.Handler):
    """Hands on what is logged as a warning in the thread that it is made in."""

    def __init__(self, tell: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self._tell, self._thread = tell, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a message as it would be printed."""
        if record.thread == self._thread:
            self._tell(record.getMessage())


@contextmanager
def _listening(tell: Callable[[str], None]) -> Iterator[None]:
    """Be told the warnings of the engine and of the adapters, which the command line prints."""
    listener = _Listener(tell)
    packages = {adapter.target.split(".")[0].split(":")[0] for adapter in installed_adapters()}
    loggers = [logging.getLogger(name) for name in sorted({"circuitlens", *packages})]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
