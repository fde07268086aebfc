"""What a page works on: the circuits that are open, the models that can be asked, and the work under way.

Long work (loading a model, finding a circuit, measuring its evidence) is done by one thread, job after job, and can be
cancelled between its stages. A model is used by one thread at a time. No torch is imported before a model is needed.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from circuitlens.circuit import Annotations, Circuit
from circuitlens.errors import CircuitLensError, ViewerError
from circuitlens.registry import installed_adapters
from circuitlens.registry import load as load_adapter

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter, Example
    from circuitlens.evaluation.features import Feature
    from circuitlens.evaluation.intervention import Outcome, Setting

log = logging.getLogger(__name__)

KEPT = 50
"""Jobs that are remembered after they have ended."""
PATIENCE = 5.0
"""Seconds that a question waits for a model that is at work."""

Progress = Callable[[str, int, int], object]
Work = Callable[[Progress], int | None]


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


class _CancelledError(Exception):
    """Raised in the worker where a cancelled job reports its progress."""


class Session:
    """Circuits and models behind a page.

    Args:
        circuits: those that are open; a circuit's number is its place.
        paths: the files they were read from and may be saved to; None for one that has none.
        adapters: models that are loaded.
    """

    def __init__(
        self,
        circuits: Sequence[Circuit],
        paths: Sequence[Path | None] | None = None,
        adapters: Sequence[Adapter] = (),
    ):
        self.circuits = list(circuits)
        self._paths = list(paths) if paths is not None else [None] * len(self.circuits)
        assert len(self._paths) == len(self.circuits), "a path or None for each circuit"
        self._adapters = list(adapters)
        self._jobs: dict[int, Job] = {}
        self._cancelled: set[int] = set()
        self._lock = threading.RLock()
        self._model = threading.Lock()
        self._at_work = ""
        self._queue: queue.Queue[tuple[int, Work] | None] = queue.Queue()
        self._worker: threading.Thread | None = None

    # Circuits

    def circuit(self, number: int) -> Circuit:
        """The circuit of that number.

        Raises:
            ViewerError: there is none.
        """
        if not 0 <= number < len(self.circuits):
            raise ViewerError(f"There is no circuit {number}: {len(self.circuits)} are open, counted from 0.")
        return self.circuits[number]

    def path(self, number: int) -> Path | None:
        """The file that a circuit was opened from, and is saved to."""
        self.circuit(number)
        return self._paths[number]

    def add(self, circuit: Circuit) -> int:
        """Open one more circuit and return its number."""
        with self._lock:
            self.circuits.append(circuit)
            self._paths.append(None)
            return len(self.circuits) - 1

    def save(self, number: int, annotations: Annotations) -> Path:
        """Write a circuit with annotations to the file it was opened from.

        Raises:
            ViewerError: it was opened from none.
            CircuitError: the annotations do not fit it, or the file can't be written.
        """
        path = self.path(number)
        if path is None:
            raise ViewerError("This circuit was not opened from a file: export it as JSON instead.")
        with self._lock:
            annotated = self.circuit(number).annotated(annotations)
            annotated.save(path)
            self.circuits[number] = annotated
        return path

    # Models

    def adapter_names(self) -> list[str]:
        """The models that can be asked, loaded ones first."""
        installed = (adapter.name for adapter in installed_adapters())
        return list(dict.fromkeys([*(adapter.name for adapter in self._adapters), *installed]))

    def asked(self, number: int) -> bool:
        """Whether the model that a circuit was found in is loaded."""
        return self._fitting(number) is not None

    def can_ask(self, number: int) -> bool:
        """Whether the model that a circuit was found in is loaded, or can be by its name."""
        name = self.circuit(number).adapter
        return self.asked(number) or any(adapter.name == name for adapter in installed_adapters())

    def adapter(self, number: int) -> Adapter:
        """The loaded model that a circuit was found in.

        Raises:
            ViewerError: it is not loaded.
        """
        adapter = self._fitting(number)
        if adapter is None:
            raise ViewerError(
                f"The model of this circuit ({self.circuit(number).adapter}) is not loaded: load it first."
            )
        return adapter

    def _fitting(self, number: int) -> Adapter | None:
        circuit = self.circuit(number)
        named = [adapter for adapter in self._adapters if adapter.name == circuit.adapter]
        if not named:
            return None
        from circuitlens.evaluation.features import require_same_adapter

        for adapter in named:
            try:
                require_same_adapter(adapter, circuit)
            except CircuitLensError:
                continue
            return adapter
        return None

    def examples(self) -> list[tuple[str, Example]]:
        """What the loaded models offer to be asked."""
        return [(adapter.name, example) for adapter in self._adapters for example in adapter.examples]

    def intervene(self, number: int, settings: Mapping[str, Setting]) -> Outcome:
        """What the model answers with nodes of a circuit set otherwise.

        Raises:
            ViewerError: the model is not loaded, or at work.
            CircuitLensError: what `circuitlens.intervene` raises.
        """
        from circuitlens.evaluation.intervention import intervene

        adapter = self.adapter(number)
        with self._using():
            return intervene(adapter, self.circuit(number), settings)

    def describe(self, number: int, node_id: str) -> Feature:
        """What a feature stands for, and where on the prompt it is active.

        Raises:
            ViewerError: the model is not loaded, or at work.
            CircuitLensError: what `circuitlens.describe` raises.
        """
        from circuitlens.evaluation.features import describe

        adapter = self.adapter(number)
        with self._using():
            return describe(adapter, self.circuit(number), node_id)

    @contextmanager
    def _using(self, what: str = "a question") -> Iterator[None]:
        """Have the model for oneself; a job waits as long as it takes, a question of the page does not."""
        if not self._model.acquire(timeout=-1 if what != "a question" else PATIENCE):
            raise ViewerError(f"The model is at work ({self._at_work}): wait until it is done, or cancel that.")
        self._at_work = what
        try:
            yield
        finally:
            self._model.release()

    # Work in the background

    def load(self, number: int) -> Job:
        """Begin to load the model that a circuit was found in."""
        circuit = self.circuit(number)

        def work(progress: Progress) -> None:
            progress(f"loading {circuit.adapter}", 0, 0)
            if self._fitting(number) is None:
                self._load(circuit.adapter, circuit.options)
                self.adapter(number)  # it fits, or says that it does not

        return self._start(f"Load the model {circuit.adapter}", work)

    def find(
        self,
        adapter: str,
        prompt: str,
        answer: str,
        distractor: str | None = None,
        corrupted: str | None = None,
        method: str | None = None,
    ) -> Job:
        """Begin to find a circuit; empty texts count as not given."""

        def work(progress: Progress) -> int:
            from circuitlens.discovery import find

            loaded = next((one for one in self._adapters if one.name == adapter), None)
            if loaded is None:
                progress(f"loading {adapter}", 0, 0)
                options = next((circuit.options for circuit in self.circuits if circuit.adapter == adapter), {})
                loaded = self._load(adapter, options)
            with self._using(f"finding the circuit of {prompt!r}"):
                found = find(
                    loaded,
                    prompt,
                    answer,
                    distractor or None,
                    corrupted or None,
                    method or None,  # pyright: ignore[reportArgumentType] # `find` says what is no method
                    progress=progress,
                )
            return self.add(found)

        return self._start(f"Find the circuit of “{prompt}”", work)

    def verify(self, number: int) -> Job:
        """Begin to measure a circuit's evidence; the circuit with it takes its place, and is not saved by that."""
        self.circuit(number)

        def work(progress: Progress) -> None:
            from circuitlens.evaluation.verification import verify

            progress("loading the model", 0, 0)
            circuit = self.circuit(number)
            if self._fitting(number) is None:
                self._load(circuit.adapter, circuit.options)
            with self._using("measuring the evidence"):
                evidence = verify(self.adapter(number), circuit, progress=progress).evidence
            with self._lock:
                # The circuit may have been annotated meanwhile.
                self.circuits[number] = self.circuits[number].model_copy(update={"evidence": evidence})

        return self._start("Measure the evidence", work)

    def job(self, number: int) -> Job | None:
        """The job of that number as it stands, None where it is not known."""
        with self._lock:
            return self._jobs.get(number)

    def cancel(self, number: int) -> None:
        """End a job: at once where it waits, else after the stage that it is in."""
        with self._lock:
            job = self._jobs.get(number)
            if job is not None and job.state in ("waiting", "running"):
                self._cancelled.add(number)
                change: dict[str, Any] = {"state": "cancelled"} if job.state == "waiting" else {"stage": "cancelling"}
                self._jobs[number] = replace(job, **change)

    def close(self) -> None:
        """End the work under way, and take no more."""
        with self._lock:
            for number in self._jobs:
                self.cancel(number)
            worker, self._worker = self._worker, None
        if worker is not None:
            self._queue.put(None)

    def _load(self, name: str, options: Mapping[str, Any]) -> Adapter:
        loaded = load_adapter(name, **options)
        with self._lock:
            self._adapters.append(loaded)
        return loaded

    def _start(self, title: str, work: Work) -> Job:
        with self._lock:
            for old in [job.id for job in self._jobs.values() if job.state not in ("waiting", "running")][:-KEPT]:
                del self._jobs[old]
            job = Job(max(self._jobs, default=0) + 1, title)
            self._jobs[job.id] = job
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="circuitlens-work", daemon=True)
                self._worker.start()
        self._queue.put((job.id, work))
        return job

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            self._do(*taken)

    def _do(self, number: int, work: Work) -> None:
        def change(**values: Any) -> None:
            with self._lock:
                self._jobs[number] = replace(self._jobs[number], **values)

        def progress(stage: str, done: int, total: int) -> None:
            with self._lock:
                if number in self._cancelled:
                    raise _CancelledError
                change(stage=stage, done=done, total=total)

        try:
            with self._lock:
                if number in self._cancelled:
                    return
                change(state="running")
            change(state="done", result=work(progress))
        except _CancelledError:
            change(state="cancelled")
        except CircuitLensError as error:
            change(state="failed", message=str(error))
        except Exception as error:
            log.debug("A job of the page failed.", exc_info=True)
            change(
                state="failed", message=f"It failed in a way that was not foreseen ({type(error).__name__}: {error})."
            )
        finally:
            with self._lock:
                self._cancelled.discard(number)
