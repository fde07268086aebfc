"""Hostile input, made from good input by seeded changes: circuit files, files of pairs, prompts and command lines.

`python -m tests.fuzz 12000` tries as many of each kind in turn, and tells of every traceback and every case above 2
seconds of work. The tests try fewer.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import circuitlens
from circuitlens.circuit import Circuit, open_circuit
from circuitlens.circuit.comparison import compare
from circuitlens.cli import main
from circuitlens.errors import CircuitLensError
from circuitlens.prompts.pairs import read_pairs, write_pairs
from circuitlens.report.summary import summary_rows
from circuitlens.viewer.server import Viewer

SLOW = 2.0
"""Seconds of work above which a case is told of."""

ODD_TEXTS = [
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udcff",
        "😀" * 50,
        "\u202e",
        "\x1b[31m",
        "\n",
        "%s{0}",
        "../..",
        "/",
        "-",
        "--",
    ),
    *(
        "The cats",
        "the sheep",
        "These cats run",
        "The " * 500,
        "é" * 3000,
        "nan",
        "-1",
        "1e999",
        "9" * 5000,
        "toy",
        "run",
    ),
]
ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, -1.7e308, 1e-320, float("nan")),
    *(float("inf"), [], {}, [[]], [None], {"a": 1}, {"": {}}, [1] * 1000, {str(k): k for k in range(300)}),
]
LINES = [
    ["find", "toy", "The cats", "--answer", "run", "--distractor", "runs", "--corrupted", "The cat"],
    ["find", "toy", "The cats", "--answer", "run", "--method", "exact", "--max-nodes", "3", "--max-edges", "2"],
    ["find", "toy", "--prompts", "pairs.jsonl", "-o", "out.json"],
    ["verify", "circuit.json", "--draws", "1", "--top", "1", "--prompts", "1", "--seed", "0", "--dtype", "float64"],
    ["verify", "bad.json", "--held-out", "pairs.jsonl", "--threshold", "faithfulness=0.5", "-o", "out.json"],
    ["prompts", "agreement-toy", "-o", "out.jsonl", "--held-out", "other.jsonl", "--count", "3", "--seed", "1"],
    ["view", "bad.json", "--port", "0", "--no-browser"],
    ["adapters"],
]


@dataclass
class Tally:
    """How many cases there were, and those that went wrong with what was seen."""

    cases: int = 0
    tracebacks: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)

    def add(self, name: str, case: Callable[[], object]) -> None:
        """Try a case: it may be refused in a sentence."""
        self.cases += 1
        begun = time.process_time()
        try:
            case()
        except CircuitLensError as refused:
            if "\n" in str(refused):
                self.tracebacks.append(f"{name}: no sentence: {str(refused)[:500]!r}")
        except Exception:
            self.tracebacks.append(f"{name}\n{traceback.format_exc()}")
        if (seconds := time.process_time() - begun) > SLOW:
            self.slow.append(f"{name}: {seconds:.1f} s")


def odd(rng: random.Random) -> Any:
    """A value or a text that is seldom expected."""
    return copy.deepcopy(rng.choice(ODD_VALUES if rng.random() < 0.5 else ODD_TEXTS))


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one part of it changed: replaced, removed, repeated or moved."""
    value = copy.deepcopy(value)
    place: Any
    key: Any
    place, key, inside = {"": value}, "", value
    while isinstance(inside, (dict, list)) and inside and rng.random() < 0.85:
        place = inside
        key = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
        inside = place[key]
    match rng.randrange(6):
        case 0 if isinstance(place, dict):
            del place[key]
        case 1 if isinstance(place, list):
            place.insert(rng.randrange(len(place) + 1), copy.deepcopy(rng.choice(place)))
        case 2 if isinstance(place, dict):
            place[str(odd(rng))[:200]] = inside
        case 3 if isinstance(place, list):
            del place[key]
        case _:
            place[key] = odd(rng)
    return place.get("", value) if isinstance(place, dict) and place.keys() == {""} else value


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a stretch of them cut, repeated, or overwritten."""
    begin = rng.randrange(len(data) + 1)
    end = min(len(data), begin + rng.choice([1, 2, 8, 200]))
    put = rng.choice(
        [b"", data[begin:end] * 2, rng.randbytes(end - begin), b"\xff", b"[" * 3000, b"{", b'"', b"\\ud800", b"NaN"]
    )
    return data[:begin] + put + data[end:]


def hostile(value: Any, rng: random.Random) -> bytes:
    """A JSON text made from a value by one to three changes."""
    for _ in range(rng.randint(1, 3)):
        value = changed(value, rng)
    with contextlib.suppress(ValueError):
        data = json.dumps(value).encode()
        return changed_bytes(data, rng) if rng.random() < 0.3 else data
    return b"{}"


def try_circuit(data: bytes, folder: Path, good: Circuit) -> None:
    """Open a file, and do with what opens what the program does."""
    (folder / "bad.json").write_bytes(data)
    opened = open_circuit(folder / "bad.json")
    summary_rows(opened)
    compare(good, opened).summary  # noqa: B018 (it is worked out)
    opened.prune(max_nodes=2)
    opened.save(folder / "again.json")
    assert open_circuit(folder / "again.json").content_digest == opened.content_digest


def try_pairs(data: bytes, folder: Path) -> None:
    (folder / "bad.jsonl").write_bytes(data)
    pairs, _ = read_pairs(folder / "bad.jsonl")
    write_pairs(folder / "again.jsonl", pairs)
    assert read_pairs(folder / "again.jsonl")[0] == pairs


def try_prompt(toy: Any, rng: random.Random, folder: Path) -> None:
    texts: list[Any] = ["The cats", "run", "runs", "The cat"]
    for _ in range(rng.randint(1, 2)):
        texts[rng.randrange(4)] = rng.choice(ODD_TEXTS)
    numbers = {"max_nodes": rng.choice([None, 0, 3, 10**30]), "max_edges": rng.choice([None, 0, 3, 10**30])}
    found = circuitlens.find(toy, *texts, **numbers)
    found.save(folder / "found.json")


def try_line(words: list[str]) -> None:
    """Run a command line in this process; what isn't an exit is a traceback."""
    told = io.StringIO()
    before, code = sys.argv, None
    sys.argv = ["circuitlens", *words]
    try:
        # A page that is served is closed at once.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(told),
            mock.patch.object(Viewer, "wait", Viewer.close),
        ):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    assert code in (0, 1, 2, 3), code
    assert "Traceback" not in told.getvalue(), told.getvalue()


def hostile_line(rng: random.Random) -> list[str]:
    words = list(rng.choice(LINES))
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(1, len(words) + 1)
        match rng.randrange(4):
            case 0 if at < len(words):
                del words[at]
            case 1:
                words.insert(at, rng.choice([*ODD_TEXTS, *(word for line in LINES for word in line)]))
            case _:
                words[min(at, len(words) - 1)] = rng.choice(
                    [*ODD_TEXTS, "9" * 20, "99999999", "-1", "/dev/full", "/", "."]
                )
    return words


def fuzz(cases: int, seed: int = 0) -> Tally:
    """Try so many cases of all kinds, seeded."""
    rng, tally, toy = random.Random(seed), Tally(), circuitlens.load("toy")
    good = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    document = {**json.loads(good.to_json()), "annotations": {"pins": [good.nodes[0].id], "labels": {}, "notes": {}}}
    rows = [{"prompt": "The cats", "corrupted": "The cat", "answer": "run", "distractor": ["runs"]} for _ in range(3)]
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        good.save("circuit.json")
        Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        Path("bad.json").write_text("{}")
        for number in range(cases):
            match number % 8:
                case 0 | 1 | 2:
                    data = hostile(document, rng)
                    tally.add(f"circuit {number}", lambda data=data: try_circuit(data, folder, good))
                case 3 | 4:
                    data = b"\n".join(hostile(row, rng) for row in rows)
                    tally.add(f"pairs {number}", lambda data=data: try_pairs(data, folder))
                case 5 | 6:
                    tally.add(f"prompt {number}", lambda: try_prompt(toy, rng, folder))
                case _:
                    words = hostile_line(rng)
                    tally.add(f"line {number}: {words!r:.300}", lambda words=words: try_line(words))
    return tally


if __name__ == "__main__":
    done = fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for problem in [*done.tracebacks[:20], *done.slow[:20]]:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{done.cases} cases, {len(done.tracebacks)} tracebacks, {len(done.slow)} above {SLOW} s\n")
