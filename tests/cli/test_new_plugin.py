"""`circuitlens new-plugin`: what it writes keeps the contract as it is, and it writes nothing over."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from circuitlens.circuit import open_circuit
from circuitlens.cli import plugin
from tests.cli.running import Here

ROOT = Path(__file__).parent.parent.parent
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]


def test_what_it_writes_installs_keeps_its_contract_and_finds_a_circuit(here: Here, tmp_path: Path) -> None:
    folder, site = tmp_path / "made", tmp_path / "site"
    code, printed, errors = here("new-plugin", "my-model", str(folder))
    assert (code, errors) == (0, "")
    assert f"pip install -e '{folder}[dev]'" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
    written = "\n".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "counter" not in written.lower()

    subprocess.run([*PIP, "--target", site, folder], check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), os.environ.get("PYTHONPATH", "")))}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert " passed" in run("pytest", "-q", "-p", "no:cacheprovider", str(folder))
    assert ["my-model", "circuitlens-my-model", "0.1"] in [
        line.split() for line in run("circuitlens", "adapters").splitlines()
    ]
    run("circuitlens", "find", "my-model", "3 5", "--answer", "second", "--share", "0.5", "-o", "c.json")
    assert open_circuit(tmp_path / "c.json").options == {"share": 0.5}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *(
            (name, "expected up to 40 small letters")
            for name in ("My", "a_b", "-a", "a--b", "1a", "../a", "a" * 41, "", "a b", "é")
        ),
        *((name, "already") for name in ("toy", "gpt2", "transformerlens", "saelens", "sae")),
    ],
)
def test_a_bad_name_is_a_usage_error_and_writes_nothing(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = here("new-plugin", "--", name)
    assert code == 2
    assert told in " ".join(errors.split())
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(here: Here, tmp_path: Path) -> None:
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("mine")
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    for there in (file, folder, link):
        code, _, errors = here("new-plugin", "mine", str(there))
        assert code == 1
        assert errors == f"Error: {str(there)!r} is there already: name a folder that is to be made.\n"
    assert file.read_text() == "mine"
    assert list(folder.iterdir()) == []


def test_a_failure_midway_leaves_nothing(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(text: str, name: str) -> str:
        if "class " in text:
            raise OSError(28, "No space left on device")
        return text

    monkeypatch.setattr(plugin, "_renamed", failing)
    code, _, errors = here("new-plugin", "mine", str(tmp_path / "made"))
    assert code == 1
    assert "No space left on device" in errors
    assert list(tmp_path.iterdir()) == []
    code, _, errors = here("new-plugin", "mine", str(tmp_path / "no/made"))
    assert code == 1
    assert errors.startswith("Error: Can't make the folder")


def test_the_wheel_has_the_example(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as packed:
        inside = {name for name in packed.namelist() if name.startswith("circuitlens/cli/plugin/")}
        texts = {name.removeprefix("circuitlens/cli/plugin/"): packed.read(name) for name in inside}
    example = ROOT / "examples/plugin"
    files = [path for path in example.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert texts == {str(path.relative_to(example)): path.read_bytes() for path in files}
    assert len(texts) == 6
