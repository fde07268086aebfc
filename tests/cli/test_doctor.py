"""`circuitlens doctor`: a table whatever is missing, broken or there twice."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import circuitlens
from circuitlens.cli import doctor
from circuitlens.distribution import DISTRIBUTION
from tests.cli.running import Here


def rows(printed: str) -> dict[str, str]:
    """What is said of each thing, by its name: columns are two spaces or more apart."""
    lines = [line.split("  ", 1) for line in printed.splitlines()]
    return {what.strip(): said.strip() for what, said in lines}


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def found(package: str) -> str:
        if package in packages:
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(doctor, "version", found)


def test_a_whole_installation_has_nothing_wrong(here: Here) -> None:
    code, printed, errors = here("doctor")
    told = rows(printed)
    assert (code, errors) == (0, ""), printed
    assert "wrong" not in printed
    assert told["circuitlens"] == f"{circuitlens.__version__} in {Path(circuitlens.__file__).parent}"
    assert told["torch"] == version("torch")
    assert told["adapters"] == "toy, transformerlens"
    assert os.environ["CIRCUITLENS_CACHE"] in told["cache of circuitlens"]


def test_what_is_missing_is_told_with_what_it_is_for(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        doctor, "requires", lambda name: ["dash>=4.4", "torch>=99", "lemminflect<1", "ray; extra == 'ray'"]
    )
    monkeypatch.setenv("CIRCUITLENS_CACHE", str(tmp_path / "none"))
    without(monkeypatch, "lemminflect", "kaleido", "ray", "datasets", "jinja2")
    code, printed, _ = here("doctor")
    told = rows(printed)
    assert code == 1
    assert told["lemminflect"].split() == ["missing", "wrong:", "pip", "install", "'lemminflect<1'"]
    assert told["torch"].startswith(version("torch"))
    assert told["torch"].endswith("wrong: pip install 'torch>=99'")
    assert "wrong" not in told["dash"]
    assert told["pictures of evidence"].endswith(f"pip install '{DISTRIBUTION}[plots]', if you want it")
    assert told["workers of Ray"].endswith(f"pip install '{DISTRIBUTION}[ray]', if you want it")
    assert told["texts of datasets"].startswith("no datasets")
    assert told["chat templates"] == "no jinja2"
    assert told["cache of circuitlens"].endswith("none: not there yet")


def test_pictures_without_a_browser(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nothing/here")
    code, printed, _ = here("doctor")
    assert code == 0
    assert rows(printed)["browser for pictures"].startswith("none ")
    assert "install Chrome or Chromium" in rows(printed)["browser for pictures"]


def test_without_an_installation_it_says_how_to_install(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> str:
        raise PackageNotFoundError(DISTRIBUTION)

    monkeypatch.setattr(doctor, "installed_version", lacking)
    code, printed, _ = here("doctor")
    assert code == 1
    assert rows(printed)["circuitlens"].endswith(f"wrong: pip install {DISTRIBUTION}")


def test_a_torch_that_breaks_a_cache_with_links_and_the_other_circuitlens(tmp_path: Path) -> None:
    """In a process of its own, as a reader of the command would have them."""
    site, cache = tmp_path / "site", tmp_path / "hub"
    (site / "torch").mkdir(parents=True)
    (site / "torch/__init__.py").write_text("raise OSError('libcudart.so.99: cannot open shared object file')")
    for name, script in (("circuitlens", ""), ("lens_of_somebody", "[console_scripts]\ncircuitlens = a:b\n")):
        info = site / f"{name}-9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\nSummary: Electronics\n")
        (info / "entry_points.txt").write_text(script)
    (cache / "models--a/blobs").mkdir(parents=True)
    (cache / "models--a/blobs/x").write_bytes(bytes(3_000_000))
    (cache / "models--a/snapshot").symlink_to(cache / "models--a/blobs/x")
    (cache / "round").symlink_to(cache)
    done = subprocess.run(
        [sys.executable, "-m", "circuitlens", "doctor"],
        env={
            **os.environ,
            "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "HF_HUB_CACHE": str(cache),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = rows(done.stdout)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert "libcudart.so.99" in done.stdout
    assert told["cache of Hugging Face"].startswith(f"{cache}: 3 MB, ")
    assert told["the distribution 'circuitlens'"].startswith("9, another tool, with a command of the same name")
    assert f"pip uninstall circuitlens {DISTRIBUTION}" in told["the distribution 'circuitlens'"]
    assert told["the command `circuitlens`"].startswith("lens_of_somebody has one, too")
    assert "Traceback" not in done.stdout + done.stderr


def test_a_part_that_fails_is_a_row(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def size(folder: Path) -> str:
        raise RuntimeError("a disk that answers nothing")

    monkeypatch.setattr(doctor, "_size", size)
    code, printed, _ = here("doctor")
    assert code == 1
    assert rows(printed)["caches"].startswith("RuntimeError: a disk that answers nothing")
    assert "adapters" in rows(printed)


def test_of_a_huge_cache_it_counts_a_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "ENTRIES", 2)
    for name in "abc":
        (tmp_path / name).mkdir()
    assert ": at least 0 MB, " in doctor._size(tmp_path)
