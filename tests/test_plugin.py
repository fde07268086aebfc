"""An adapter in someone else's package: installed beside circuitlens, it is found and keeps the contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from circuitlens.circuit import open_circuit
from circuitlens.registry import load
from circuitlens.testing import CONTRACT

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example plugin, built and installed into a folder of its own that is put beside circuitlens."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "examples/plugin", folder / "source")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", folder / "site", folder / "source"], check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def circuitlens(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "circuitlens", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_it_is_listed(environment: dict[str, str]) -> None:
    listed = circuitlens(environment, "adapters")
    assert ["counter", "circuitlens-counter", "0.1"] in [line.split() for line in listed.stdout.splitlines()]


def test_it_keeps_the_contract(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(environment["PYTHONPATH"])
    adapter = load("counter")
    for check in CONTRACT:
        check(adapter)


def test_it_finds_a_circuit_from_the_command_line(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    words = ("find", "counter", "3 5", "--answer", "second", "--distractor", "first", "-o", str(file))
    done = circuitlens(environment, *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"number L0 .* → smaller L1 .* → .second.", done.stdout), done.stdout
    assert file.exists()


def test_its_option_is_a_flag_and_a_circuit_keeps_it(environment: dict[str, str], tmp_path: Path) -> None:
    told = circuitlens(environment, "find", "--help").stdout
    assert "--share <float> counter: Share of a number that the SAE reconstructs" in " ".join(told.split())
    file = tmp_path / "c.json"
    words = ("find", "counter", "3 5", "--answer", "second", "--share", "0.5", "-o", str(file))
    assert circuitlens(environment, *words).returncode == 0
    circuit = open_circuit(file)
    assert circuit.options == {"share": 0.5}
    (error,) = [node.activation for node in circuit.nodes if node.kind == "error" and node.pos == 1]
    assert error == pytest.approx(1.0)  # half of the difference of 3 and 5


def test_its_errors_are_sentences(environment: dict[str, str]) -> None:
    done = circuitlens(environment, "find", "counter", "three", "--answer", "first")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: counter reads two whole numbers")
