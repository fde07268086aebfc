"""What the README says is so: its Python runs, its commands run, and what it shows as printed is printed."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.cli.app import main
from circuitlens.cli.output import print_path_effects, print_summary
from circuitlens.evaluation.intervention import Ablation
from circuitlens.viewer import server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def test_the_readmes_python_runs(
    toy: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(server, "open_page", lambda url: None)
    code = next(text for language, text in BLOCKS if language == "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    viewer = names["viewer"]
    assert isinstance(viewer, server.Viewer)
    viewer.close()
    result = names["result"]
    assert isinstance(result, Ablation)
    assert result.measured == pytest.approx(result.predicted, rel=1e-4)
    (path,) = re.findall(r"  # (.* → .*)$", code, re.MULTILINE)
    assert path in capsys.readouterr().out.splitlines()


def test_the_readmes_output_is_what_is_printed(cats: circuitlens.Circuit, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(cats)
    print_path_effects(circuitlens.load("toy"), cats)
    shown = next(text for language, text in BLOCKS if text.startswith("The cats\n"))  # the toy's comes first
    printed = capsys.readouterr().out.strip()
    # Training rounds differently from machine to machine: the words have to agree, and the numbers nearly.
    number = re.compile(r"[+-]\d+\.\d{3,}")
    blur = re.compile(r"residual .*|[+-]\d+\.\d{3,}")
    assert blur.sub("~", shown.strip()) == blur.sub("~", printed)
    ours, theirs = ([float(x) for x in number.findall(text)] for text in (shown, printed))
    assert len(ours) == 8
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.filterwarnings(r"ignore:\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning")
def test_the_readmes_notebook_runs(
    gpt2_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(gpt2_cache / "hub"))
    (code,) = [text for language, text in BLOCKS if language == "python"][1:]
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    circuit = names["circuit"]
    assert isinstance(circuit, circuitlens.Circuit)
    assert circuit.conservation_residual < 1e-4
    assert "https://www.neuronpedia.org/gpt2-small/" in capsys.readouterr().out


def test_the_readmes_commands_run(
    toy: Adapter, gpt2_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(gpt2_cache / "hub"))
    commands = [line for _, text in BLOCKS for line in text.splitlines() if line.startswith("circuitlens ")]
    assert len(commands) >= 4
    for command in commands:
        if "view" in command:
            for file in shlex.split(command)[2:]:
                circuitlens.open(file)
            continue
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, command


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"^make (\w+)", document, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_what_the_readme_points_at_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", README)
    assert len(targets) >= 5
    for target in targets:
        assert (ROOT / "".join(target)).exists(), target


def test_the_example_runs(toy: Adapter, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/toy.py"))
    printed = capsys.readouterr().out
    rows = re.findall(r"^(F\d|error)\s+([+-][\d.]+)\s+([+-][\d.]+)$", printed, re.MULTILINE)
    assert len(rows) >= 4
    for label, predicted, measured in rows:
        assert float(predicted) == pytest.approx(float(measured), abs=2e-4), label
