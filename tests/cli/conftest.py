"""The command line in this process, where torch is imported already."""

from __future__ import annotations

import sys

import pytest

from circuitlens.cli import main
from tests.cli.running import Here


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs `circuitlens` with some words: exit code, stdout, stderr."""

    def run_here(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["circuitlens", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        printed, errors = capsys.readouterr()
        return int(stop.value.code or 0), printed, errors

    return run_here
