"""Real processes that save circuits, keep the trained toy and write pairs, killed at random moments.

`python -m tests.kills 200` kills as many; the tests kill fewer. After each kill every file is whole, and after the next
start in the folder no part of a file is left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from circuitlens_toy.training import Config, load_or_train

import circuitlens
from circuitlens.files.writing import PART
from circuitlens.prompts.pairs import read_pairs

BEGIN = """
import sys
from pathlib import Path
from itertools import count
folder = Path(sys.argv[1])
"""
WRITERS = {
    "circuit": """
from circuitlens.circuit import open_circuit
circuit = open_circuit(folder / "circuit.json")
print("begun", flush=True)
for turn in count():
    circuit.model_copy(update={"created_by": str(turn) * 100}).save(folder / "circuit.json")
""",
    "pairs": """
from circuitlens.prompts.pairs import Pair, write_pairs
pairs = [Pair(prompt="The cats " * 20, answer="run") for _ in range(3000)]
print("begun", flush=True)
for turn in count():
    write_pairs(folder / "pairs.jsonl", pairs[: 1000 + turn % 2000])
""",
    "toy": """
from circuitlens_toy import training
trained = training.load_or_train(training.Config(), folder)
training.train = lambda config: trained
print("begun", flush=True)
for turn in count():
    (folder / "toy.json").unlink(missing_ok=True)
    training.load_or_train(training.Config(), folder)
""",
}
KINDS = ("circuit", "pairs", "circuit", "pairs", "toy")
"""The toy is the slowest to start."""


def kill_writers(kills: int, folder: Path, seed: int = 0) -> tuple[int, int]:
    """Kill so many writers; how many files were broken, and how many parts were left after the next start."""
    rng, broken, left = random.Random(seed), 0, 0
    toy = circuitlens.load("toy", cache=folder)
    circuitlens.find(toy, "The cats", "run", "runs").save(folder / "circuit.json")
    for number in range(kills):
        what = KINDS[number % len(KINDS)]
        writer = subprocess.Popen([sys.executable, "-c", BEGIN + WRITERS[what], folder], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rng.random() * 0.1)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        broken += not _whole(folder)
        # A start reads the toy from the folder, and makes it again where it is not there.
        load_or_train(Config(), folder)
        left += sum(bool(PART.fullmatch(path.name)) for path in folder.iterdir())
    return broken, left


def _whole(folder: Path) -> bool:
    """Whether all files that are there are what a writer wrote, and none that was there is gone."""
    try:
        circuit = circuitlens.open(folder / "circuit.json")
        pairs, skipped = read_pairs(folder / "pairs.jsonl") if (folder / "pairs.jsonl").exists() else ([], [])
    except circuitlens.CircuitLensError:
        return False
    return not circuit.edited and not skipped and len(pairs) in {0, *range(1000, 3000)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        kills = int(sys.argv[1])
        broken, left = kill_writers(kills, Path(name))
    sys.stdout.write(f"{kills} kills, {broken} broken files, {left} parts left after the next start\n")
