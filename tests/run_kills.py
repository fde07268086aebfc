"""Real processes that work on one run's folder, killed at random moments.

`python -m tests.run_kills 20` kills as many; the tests kill fewer. In the end the circuit is that of an undisturbed
process, byte by byte, and a kill has cost at most the batch that was in work.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from circuitlens.runfolder import RunFolder

WORK = """
import sys, time, circuitlens
from circuitlens.runfolder import running
from tests.circuits import toy_pairs
folder, log, slow = sys.argv[1], sys.argv[2], float(sys.argv[3])
plain = running.computed
def noted(search, scoring, stage, batch, *rest):
    with open(log, "a") as file:  # appended in one step, so that processes may share it
        file.write(f"{stage} {batch}\\n")
    print("at work", flush=True)
    time.sleep(slow)
    return plain(search, scoring, stage, batch, *rest)
running.computed = noted
toy = circuitlens.load("toy")
circuit = circuitlens.aggregate(toy, toy_pairs(int(sys.argv[5])), batch_size=2, run_folder=folder)
circuit.save(sys.argv[4])
"""


@dataclass(frozen=True)
class Outcome:
    """What came of the kills: how many there were, the pieces, those computed again, and the circuit's bytes."""

    kills: int
    pieces: int
    again: int
    circuit: bytes


def start(folder: Path, name: str, slow: float, prompts: int) -> subprocess.Popen[bytes]:
    """A process that works on the run in `folder` and then saves the circuit under a name."""
    args = [folder / "run", folder / "log", str(slow), folder / name, str(prompts)]
    return subprocess.Popen([sys.executable, "-c", WORK, *args], stdout=subprocess.PIPE)


def kill_workers(kills: int, folder: Path, prompts: int, at_once: int = 1, slow: float = 0.2, seed: int = 0) -> Outcome:
    """Kill so many processes at work, `at_once` of them on the folder together, and let a last one end."""
    rng, killed = random.Random(seed), 0
    while killed < kills:
        working = [start(folder, f"{n}.json", slow, prompts) for n in range(at_once)]
        for process in working:
            assert process.stdout is not None
            process.stdout.readline()  # of the first batch, or of none where all is done
        time.sleep(rng.random() * 3 * slow)
        for process in working:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.communicate()
        if all(process.returncode == 0 for process in working):
            break  # all is done before it could be killed
    last = start(folder, "circuit.json", 0.0, prompts)
    last.communicate()
    assert last.returncode == 0
    computed = (folder / "log").read_text().splitlines()
    run = RunFolder.open(folder / "run")
    pieces = len(run.record.stages) * run.record.batches
    return Outcome(killed, pieces, len(computed) - pieces, (folder / "circuit.json").read_bytes())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        undisturbed = kill_workers(0, Path(one), 60)
        disturbed = kill_workers(int(sys.argv[1]), Path(other), 60)
    same = "the same circuit" if undisturbed.circuit == disturbed.circuit else "ANOTHER circuit"
    sys.stdout.write(
        f"{disturbed.kills} kills: {disturbed.again} of {disturbed.pieces} pieces computed twice, {same}\n"
    )
