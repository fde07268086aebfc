"""Hostile input is refused in a sentence, and at once; killed writers leave whole files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import fuzz
from tests.kills import kill_writers

CASES = int(os.environ.get("CIRCUITLENS_FUZZ", "160"))
"""More by hand: `python -m tests.fuzz 12000`."""


@pytest.mark.usefixtures("toy")
def test_hostile_input_gives_no_traceback_and_takes_no_time() -> None:
    tally = fuzz(CASES, seed=1)
    assert tally.cases == CASES
    assert tally.tracebacks == []
    assert tally.slow == []


@pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX systems do")
@pytest.mark.usefixtures("toy")
def test_killed_writers_leave_whole_files_and_no_parts(tmp_path: Path) -> None:
    assert kill_writers(5, tmp_path, seed=1) == (0, 0)
