"""Processes of Ray that each hold the model and its SAEs: started, handed work, replaced where they die.

Ray gives processes on this or other machines, and carries bytes. What is tried again, and how often, is not left to it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuitlens.distribution import installing
from circuitlens.errors import RunError
from circuitlens.runfolder.ray_worker import Task, Worker

ATTEMPTS = 5
"""How often a batch is computed where its worker dies, and how many workers in a row may die as they load."""

LOOKS = 3
"""How often in a row the head has to be missing. Without one Ray would end this process itself, after a minute."""

PERIOD = 1.0
"""Seconds between looks for the head."""

PATIENCE = 5.0
"""Seconds in which a machine has to answer."""


@dataclass(frozen=True)
class Lost:
    """Work whose worker died, or could not be reached any more, and why."""

    reason: str


class Pool:
    """The workers of one run.

    Args:
        task: what each of them is to load.
        device: the kind of device that a run computes on: on "cuda" a worker has a GPU of its own.
        threads: how many threads a worker computes with.
        address: of a cluster that this machine is part of, as host:port; None starts one of this machine alone, on its
            loopback and with a secret of its own.
        workers: how many, None for one a GPU, or as many as the cores are enough for.
        most: more would have nothing to do.

    Raises:
        RunError: the cluster can't be reached or started, or has no room for so many.
    """

    def __init__(self, task: Task, device: str, threads: int, address: str | None, workers: int | None, most: int):
        self._ray = import_ray(alone=address is None)
        self._free: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._looked, self._died_loading = time.monotonic(), 0
        gpus = int(device == "cuda")
        needs = {"num_cpus": 1 if gpus else threads, "num_gpus": gpus}
        try:
            nodes = self._joined(address, (workers or 0) * needs["num_cpus"])
            count = min(_how_many(nodes, **needs, asked=workers), most)
            # None of Ray's own restarts and retries: a batch whose worker died goes to another one that has its model.
            self._worker = self._ray.remote(max_restarts=0, max_task_retries=0, **needs)(Worker)
            self._task = self._ray.put(task)
            for _ in range(count):
                self._begin()
        except BaseException:
            self.close()
            raise

    def _joined(self, address: str | None, cores: int) -> list[dict[str, Any]]:
        """The machines of the cluster at an address, or of one that is started here, with so many cores or more."""
        where: dict[str, Any] = {"address": address}
        if address is None:
            where = {"address": "local", "num_cpus": max(os.cpu_count() or 1, cores), "include_dashboard": False}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            self._head: str = self._ray.get_runtime_context().gcs_address
            return self._ray.nodes()
        except Exception as fault:  # Ray has no one error for what it can't do here
            raise RunError(f"Ray can't be {'started' if address is None else 'used'}: {_first_line(fault)}") from fault

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        self._ray.shutdown()

    def send(self, data: bytes) -> Any:
        """Bytes that many calls need, carried to each machine once; what comes back stands for them."""
        return self._ray.put(data)

    @property
    def has_free(self) -> bool:
        """Whether a worker has loaded and nothing to do."""
        return bool(self._free)

    def give(self, stage: str, batch: int, known: Any) -> None:
        """Have a free worker compute a piece."""
        worker = self._free.pop()
        self._busy[worker.compute.remote(stage, batch, known)] = worker, batch

    def finished(self) -> Iterator[tuple[int, bytes | str | Lost]]:
        """The batches that are done by now or within a second, each with its piece's file, or why there is none.

        Raises:
            RunError: the head is gone, or workers can't load the adapter.
        """
        if time.monotonic() - self._looked > PERIOD:
            self._require_head()
        ready, _ = self._ray.wait(list(self._busy), timeout=PERIOD) if self._busy else ([], [])
        for each in ready:
            worker, batch = self._busy.pop(each)
            result = self._result(each, worker)
            if batch is not None:
                yield batch, result
            elif isinstance(result, Lost):
                self._died_loading += 1
                if self._died_loading >= ATTEMPTS:
                    raise RunError(f"{ATTEMPTS} workers of Ray in a row died as they loaded the model: {result.reason}")
            elif result:
                raise RunError(f"A worker of Ray can't take part: {result}")
            else:
                self._died_loading = 0

    def _begin(self) -> None:
        worker = self._worker.remote()
        self._busy[worker.load.remote(self._task)] = worker, None

    def _result(self, call: Any, worker: Any) -> Any:
        """What a call came to; its worker is free, or gone and replaced."""
        errors = self._ray.exceptions
        try:
            result = self._ray.get(call)
        except errors.RayTaskError:
            raise  # a fault of ours
        except errors.RayError as fault:
            self._require_head()
            self._ray.kill(worker)  # which may only be out of reach
            self._begin()
            return Lost(_first_line(fault))
        self._free.append(worker)
        return result

    def _require_head(self) -> None:
        for _ in range(LOOKS):
            self._looked = time.monotonic()
            if _answers(self._head) and self._is_member():
                return
            time.sleep(PERIOD)
        raise RunError(
            f"Ray's head at {self._head} is gone. What is done stays: start Ray again, and then this; or go on without "
            "--engine ray."
        )

    def _is_member(self) -> bool:
        """Whether the cluster still knows this machine."""
        mine = self._ray.get_runtime_context().get_node_id()
        return any(node["NodeID"] == mine and node["Alive"] for node in self._ray.nodes())


def import_ray(*, alone: bool) -> Any:
    """The module, told to be quiet; `alone` keeps a cluster that it starts to this machine and user.

    Raises:
        RunError: it is not installed, or was imported by someone else, and so not told.
    """
    asked = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # all that it would print among our output, as of a worker that dies
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if alone:
        # Ray's name for what keeps it to the loopback, on every system.
        asked["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_MODE" not in os.environ:
            if sys.modules.get("ray") is not None:
                raise RunError("Ray was imported before it was told to keep to this machine: use a new process.")
            asked |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in asked.items():
        os.environ.setdefault(name, value)  # Ray reads no other settings; its processes have the same environment
    try:
        import ray
    except ImportError as fault:
        raise RunError(f"Ray is not installed: {installing('ray')}, or leave out --engine ray.") from fault
    return ray


def require_answer(address: str) -> None:
    """Refuse an address that is none, or at which nothing answers: Ray would try for minutes.

    Raises:
        RunError: it is none, or nothing answers.
    """
    if not re.fullmatch(r"[^:/\s]+:[0-9]{1,5}", address):
        raise RunError(
            f"{address!r} is no address of a Ray head: give host:port, such as 10.0.0.5:6379, as `ray start` prints it."
        )
    if not _answers(address):
        raise RunError(
            f"Nothing answers at {address}: start Ray there with `ray start --head`, or leave out --ray-address for "
            "workers on this machine."
        )


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError, UnicodeError):
        return False
    return True


def _how_many(nodes: Sequence[Mapping[str, Any]], num_cpus: int, num_gpus: int, asked: int | None) -> int:
    """So many workers as are asked for, or as there is room for, each with so many cores and GPUs.

    Raises:
        RunError: there is not room for so many.
    """
    room = 0
    for has in (node["Resources"] for node in nodes if node["Alive"]):
        cores = int(has.get("CPU", 0) // num_cpus)
        room += min(cores, int(has.get("GPU", 0))) if num_gpus else cores
    if room < (asked or 1):
        each = "a GPU" if num_gpus else f"{num_cpus} cores"
        raise RunError(
            f"Ray's machines have room for {room} workers with {each} each, and there should be {asked or 'at least 1'}"
            ": ask for fewer with --workers, add machines, or begin another run with fewer threads (OMP_NUM_THREADS)."
        )
    return asked or room


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]
