"""Workers of Ray killed at random moments: the circuit is the same to the last bit, and little is computed twice.

`python -m tests.ray_kills 10` kills as many, of two workers on this machine that work on the toy's prompts.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

import circuitlens
from circuitlens.discovery import search_many
from circuitlens.literals import StageName
from circuitlens.pipeline import Search, run
from circuitlens.runfolder import ray_pool, run_in_folder
from circuitlens.runfolder.ray_engine import RayEngine
from circuitlens.runfolder.ray_worker import Worker
from tests.circuits import toy_pairs

LOG = "CIRCUITLENS_RAY_KILLS"
"""The variable that names the file in which workers note what they compute."""

SLOW = 0.3
"""Seconds that a batch takes at least, so that kills come while one is in work."""


class NotedWorker(Worker):
    """A worker that notes what it begins to compute."""

    def compute(self, stage: StageName, batch: int, known: bytes) -> bytes | str:
        with Path(os.environ[LOG]).open("a") as file:  # in one step, so that workers may share it
            file.write(f"{stage} {batch}\n")
        time.sleep(SLOW)
        return super().compute(stage, batch, known)


def worker_processes() -> list[psutil.Process]:
    """The workers of Ray that this process has, and that have loaded the model."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if re.match(r"ray::(Noted)?Worker(\.compute)?$", " ".join(each.cmdline()).strip()):
                found.append(each)
        except psutil.Error:  # gone meanwhile
            continue
    return found


@contextmanager
def killer(rng: random.Random, kills: int) -> Iterator[list[int]]:
    """Kills workers at random moments while the block runs, at most so many; the list is of their process ids.

    It waits until both have loaded: what dies again and again as it loads is no work that goes on.
    """
    killed: list[int] = []
    end = Event()

    def kill() -> None:
        while len(killed) < kills and not end.wait(2 * rng.random()):
            if len(found := worker_processes()) == 2:
                killed.append(rng.choice(found).pid)
                os.kill(killed[-1], signal.SIGKILL)

    thread = Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        end.set()
        thread.join()


def kill_workers(kills: int, folder: Path, search: Search, seed: int = 0) -> tuple[int, int, int, bool]:
    """Kill so many workers over runs in `folder`: the runs, their pieces, how often one was computed, are all equal."""
    whole, rng, runs, dead, equal = run(search), random.Random(seed), 0, 0, True
    log = folder / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_pool, "Worker", NotedWorker)
        patch.setenv(LOG, str(log))
        with RayEngine(search, {}, workers=2) as engine:
            while dead < kills:
                with killer(rng, kills - dead) as killed:
                    circuit = run_in_folder(search, folder / str(runs), engine=engine)
                equal &= circuit is not None and circuit.model_dump_json() == whole.model_dump_json()
                dead, runs = dead + len(killed), runs + 1
    pieces = runs * len(search.stages) * len(search.batches)
    return runs, pieces, len(log.read_text().splitlines()), equal


if __name__ == "__main__":
    kills = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        many = search_many(circuitlens.load("toy"), toy_pairs(60), batch_size=2)
        runs, pieces, computed, equal = kill_workers(kills, Path(name), many)
    sys.stdout.write(
        f"{kills} kills in {runs} runs of 2 workers: {pieces} pieces, {computed - pieces} of them computed twice, "
        f"{'all runs equal to the undisturbed one' if equal else 'NOT EQUAL'}\n"
    )
