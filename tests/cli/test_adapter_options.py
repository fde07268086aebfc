"""Flags from what adapters declare: those of a throw-away plugin, in a real process and in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.options import AdapterOption
from circuitlens.registry import declared_options
from tests.cli.running import Here

LAMP = """
import torch
from circuitlens.adapter import Adapter
from circuitlens.errors import AdapterError

class Lamp(Adapter):
    @classmethod
    def load(cls, **options):
        raise AdapterError(f"loaded with {sorted(options.items())}")
"""
OPTIONS = """
from circuitlens.options import AdapterOption

OPTIONS = (
    AdapterOption("brightness", "How bright it is.", type=int),
    AdapterOption("colours", "What it shines in.", several=True, flag="--colour"),
    AdapterOption("blink", "Whether it goes off and on.", type=bool),
    AdapterOption("dtype", "Numbers to compute in.", choices=("float8",)),
    AdapterOption("device", "Where to shine."),
    AdapterOption("model", "Whether there is one.", type=bool),
    AdapterOption("output", "Taken by the command."),
)
"""
FIND = ("find", "lamp", "x", "--answer", "y")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed plugin, and another one whose declaration is broken."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "lamp").mkdir()
    (folder / "lamp/__init__.py").write_text("")
    (folder / "lamp/adapter.py").write_text(LAMP)
    (folder / "lamp/options.py").write_text(OPTIONS)
    points = {
        "lamp": "[circuitlens.adapters]\nlamp=lamp.adapter:Lamp\n[circuitlens.options]\nlamp=lamp.options:OPTIONS\n",
        "broken": "[circuitlens.options]\nbroken = json:loads\ngone = no_such_module:OPTIONS\n",
    }
    for name, text in points.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(text)
    return folder


@pytest.fixture
def lamp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is installed in this process."""
    monkeypatch.syspath_prepend(str(folder))


def process(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_a_declared_option_is_a_flag_without_its_adapter_being_imported(folder: Path) -> None:
    code = (
        "import sys; from circuitlens.cli import main; sys.argv = ['circuitlens', 'find', '--help']\n"
        "try: main()\nexcept SystemExit: print(sorted({'torch', 'sae_lens', 'lamp.adapter'} & set(sys.modules)))"
    )
    done = process(folder, sys.executable, "-c", code)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr
    flags = " ".join(done.stdout.split())
    assert "--brightness <int> lamp: How bright it is." in flags
    assert "--colour <str> lamp: What it shines in." in flags
    assert "--blink / --no-blink lamp: Whether it goes off and on." in flags
    shared = "lamp, toy, transformerlens: Numbers to compute in."
    assert f"--dtype <float8|float32|float64|bfloat16|float16> {shared}" in flags, flags
    assert "--device <str> lamp: Where to shine. transformerlens: Where to compute." in flags
    assert "--model / --no-model lamp: " in flags
    told = done.stderr.splitlines()
    assert any("'broken' can't be read from json:loads" in line for line in told)
    assert any("'gone' can't be read from no_such_module:OPTIONS" in line for line in told)
    assert "--output of the adapter 'lamp' is left out: the command itself has another --output." in told
    assert "--model of the adapter 'transformerlens' is left out: lamp has another --model." in told


def test_values_reach_load_as_declared(folder: Path) -> None:
    words = ("--brightness", "3", "--colour", "red", "--colour", "blue", "--no-blink", "--dtype", "float8")
    done = process(folder, sys.executable, "-m", "circuitlens", *FIND, *words)
    assert done.returncode == 1
    loaded = [("blink", False), ("brightness", 3), ("colours", ["red", "blue"]), ("dtype", "float8")]
    assert f"Error: loaded with {loaded}" in done.stderr.splitlines()


@pytest.mark.usefixtures("lamp")
def test_what_is_not_given_is_left_to_load(here: Here) -> None:
    assert here(*FIND)[2].endswith("Error: loaded with []\n")
    assert here(*FIND, "--brightness", "1", "--brightness", "2")[2].endswith("Error: loaded with [('brightness', 2)]\n")


@pytest.mark.usefixtures("lamp")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((*FIND, "--layers", "2"), "--layers: the adapter 'lamp' does not take it; 'transformerlens' does."),
        (
            ("find", "counterfeit", "x", "--answer", "y", "--brightness", "2"),
            "ADAPTER: there is no 'counterfeit'; installed: ",
        ),
        (
            ("find", "toy", "The cats", "--answer", "run", "--device", "cpu"),
            "--device: the adapter 'toy' does not take it; 'lamp' and 'transformerlens' do.",
        ),
        ((*FIND, "--brightness", "much"), "--brightness: 'much' is not a whole number."),
        ((*FIND, "--dtype", "float32"), "--dtype: 'float32' is not one of float8."),
        (
            ("find", "transformerlens", "x", "--answer", "y", "--dtype", "float8"),
            "--dtype: 'float8' is not one of float32, ",
        ),
        ((*FIND, "--shade", "2"), "No such option: --shade"),
    ],
)
def test_what_an_adapter_does_not_take_is_a_usage_error(here: Here, words: tuple[str, ...], why: str) -> None:
    code, _, errors = here(*words)
    assert code == 2
    assert why in errors


@pytest.mark.usefixtures("lamp")
def test_verify_puts_flags_in_the_place_of_the_circuits_own_options(here: Here, cats: Circuit, tmp_path: Path) -> None:
    path = str(tmp_path / "c.json")
    cats.model_copy(update={"adapter": "lamp", "options": {"brightness": 1, "blink": True}}).save(path)
    code, _, errors = here("verify", path, "--brightness", "2")
    assert code == 1
    assert "Error: loaded with [('blink', True), ('brightness', 2)]" in errors
    code, _, errors = here("verify", path, "--bos")
    assert code == 2
    assert "--bos: the adapter 'lamp' does not take it; 'transformerlens' does." in errors


def test_bundled_adapters_declare_what_their_load_takes() -> None:
    for name, keywords in (
        ("transformerlens", ["saes", "layers", "model", "device", "dtype", "prepend_bos"]),
        ("toy", ["cache", "dtype"]),
    ):
        assert [option.name for option in declared_options()[name]] == keywords


@pytest.mark.parametrize(
    ("name", "flag", "why"),
    [("a-b", "", "is no keyword"), ("a", "-a", "spell it --like-this"), ("a", "--a,--b", "spell it"), ("A", "", "--A")],
)
def test_an_option_that_can_not_be_a_flag_is_refused(name: str, flag: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        AdapterOption(name, "Does nothing.", flag=flag)


def test_texts_are_read_as_what_they_are() -> None:
    assert AdapterOption("a_b", "").flag == "--a-b"
    assert AdapterOption("a", "", type=float).parse("0.5") == 0.5
    assert AdapterOption("a", "", type=int).parse("7") == 7
    assert AdapterOption("a", "").parse("7") == "7"
    with pytest.raises(ValueError, match="'x' is not a number"):
        AdapterOption("a", "", type=float).parse("x")


def test_verify_neither_makes_nor_downloads_what_a_file_names(here: Here, cats: Circuit, tmp_path: Path) -> None:
    path, victim = tmp_path / "c.json", tmp_path / "victim"
    named = cats.model_copy(update={"options": {"cache": str(victim)}})
    named.save(path)
    assert here("verify", str(path))[0] == 0  # by its fingerprint it is that of the toy which is here
    named.model_copy(update={"fingerprint": None}).save(path)
    code, _, errors = here("verify", str(path))
    assert (code, victim.exists()) == (1, False)
    assert f"found with cache {str(victim)!r}, and a file does not choose what is loaded" in errors
    assert circuitlens.open(path).evidence is None
    cats.model_copy(update={"adapter": "gpt2", "options": {"model": "org/name", "saes": "evil; rm -rf /"}}).save(path)
    code, _, errors = here("verify", str(path))
    assert code == 1
    assert errors.endswith("if you trust it, add --sae 'evil; rm -rf /' --model org/name\n")


def test_verify_says_what_it_cannot_load_alike(here: Here, cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    cats.model_copy(update={"adapter": "gpt2", "options": {"wrapped": "blocks.8.hook_resid_pre (standard, 24)"}}).save(
        path
    )
    code, _, errors = here("verify", str(path))
    assert (code, "made with circuitlens.wrap, whose model no command loads" in errors) == (1, True)
    assert cats.fingerprint is not None
    *below, site = cats.fingerprint.sites
    sites = (*below, site.model_copy(update={"size": 2 * site.size + 1}))
    other = cats.fingerprint.model_copy(update={"sites": sites})
    cats.model_copy(update={"fingerprint": other}).save(path)
    code, _, errors = here("verify", str(path))
    assert (code, "made with other weights than this adapter's: at hook_sae" in errors) == (1, True)
    assert circuitlens.open(path).evidence is None
