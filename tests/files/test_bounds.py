"""The largest files that are bad in one place are refused at once, whatever the place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from circuitlens.circuit import Circuit
from circuitlens.circuit import document as circuit_document
from circuitlens.errors import PromptError
from circuitlens.files import MAX_KEYS, parse_json, reading
from circuitlens.prompts.pairs import MAX_ROWS, MAX_SKIPPED, read_pairs
from tests.files.worst import FILLS, filled, places

COUNTS, MEGABYTES = 40.0, 500.0
"""Of work in units that a slow machine makes longer too: the worst file has 17; worse than linear has thousands."""
FILE = Path(__file__).parent.parent / "circuit/files/version-3.json"


def full_document() -> dict[str, Any]:
    """A document with something in each of its collections."""
    document = json.loads(FILE.read_text())
    ids, one = [node["id"] for node in document["nodes"]], document["nodes"][0]
    meaning = {"hook": one["hook"], "index": one["index"], "text": "t", "source": "contexts", "weak": True}
    annotations = {
        "pins": ids[:1],
        "groups": [{"name": "g", "nodes": ids[1:2]}],
        "labels": {f"{one['hook']}/{one['index']}": "l"},
        "notes": {},
    }
    return {**document, "version": 7, "annotations": annotations, "meanings": [meaning], "options": {"a": "b"}}


DOCUMENT = full_document()
ALL = [(fill, path) for fill in FILLS for path in places(DOCUMENT)]
"""About 900 files; a test takes one a fill, at places that have a rule of their own. `CIRCUITLENS_FUZZ` takes all."""
FEW = [
    *[(fill, ("tokens",)) for fill in FILLS],
    *[("numbers", path) for path in (("pairs", 0, "answer"), ("annotations", "groups", 0, "nodes"), ("options",))],
    *[("objects", path) for path in (("nodes",), ("edges",), ("evidence", "checks"), ("pairs",))],
    *[("few keys", path) for path in (("options",), ("completeness_gaps",), ("annotations", "labels"), ("nodes", 0))],
]


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured as POSIX systems do")
@pytest.mark.parametrize(("fill", "path"), ALL if "CIRCUITLENS_FUZZ" in os.environ else FEW)
def test_a_huge_bad_file_is_refused_at_once(fill: str, path: tuple[Any, ...], tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(filled(DOCUMENT, path, FILLS[fill]()))
    # A small process of its own starts the other: a child's peak begins at its parent's size.
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'tests.files.worst', sys.argv[1]])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "c.json"], capture_output=True, text=True, check=True)
    counts, megabytes, told = json.loads(done.stdout)
    assert told
    assert len(told) < 600
    assert counts < COUNTS
    assert megabytes < MEGABYTES


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" + "1," * reading.MAX_VALUES + "1]", "more than 1,500,000 values"),
        ("[" + "[]," * reading.MAX_LISTS + "1]", "more than 400,000 lists"),
        ("[" + "{}," * reading.MAX_OBJECTS + "{}]", "more than 400,000 objects"),
        ("{" + ",".join(f'"{n}":1' for n in range(MAX_KEYS + 1)) + "}", "more than 10,000 keys"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "the key 'b' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 100_000, "a number in it has 100000 digits"),
        ("[-Infinity]", "-Infinity is no number"),
    ],
)
def test_json_from_anyone_is_bounded(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text.encode())


def test_json_within_the_bounds_is_read() -> None:
    for value in ([1] * 1000, {"a": [{}, {"b": -0.5e-3}], "é": "😀", "n": 2**63}):
        assert parse_json(json.dumps(value).encode()) == value


def test_a_file_of_pairs_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("1\n" * (MAX_ROWS + 1))
    with pytest.raises(PromptError, match=r"100,001 rows, above the 100,000"):
        read_pairs(path)
    path.write_text("1\n" * (MAX_SKIPPED + 1))
    with pytest.raises(PromptError, match=r"more than 1,000 rows that can't be used\. Line 1: It is JSON but not"):
        read_pairs(path)
    path.write_text(json.dumps({"prompt": "p", "answer": ["a"] * 1001}))
    with pytest.raises(PromptError, match="'answer' is too long"):
        read_pairs(path)


def test_what_is_saved_can_be_read_again(cats: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_VALUES", 100)
    with pytest.raises(circuit_document.CircuitError, match="prune it first"):
        cats.save(tmp_path / "c.json")
    monkeypatch.undo()
    with pytest.raises(circuit_document.CircuitError, match="half of a surrogate pair"):
        cats.model_copy(update={"prompt": "\ud800"}).save(tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []
