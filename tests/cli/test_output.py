"""Tables as they are printed: literally, whole, and safe for a terminal."""

from __future__ import annotations

import sys

import pytest

from circuitlens.cli.output import print_table

LONG = "as many of each site and kind, " * 40


def test_rows_are_whole_lines_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("name", "what"), ("random", LONG), ("  indented", "")])
    assert capsys.readouterr().out == f"name        what\nrandom      {LONG.rstrip()}\n  indented\n"


@pytest.mark.parametrize("width", [20, 60])
def test_a_terminal_wraps_the_widest_column_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    print_table([("random", LONG), ("held out", "0.5")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "".join(line[8:] for line in lines[:-1]).replace(" ", "") == LONG.replace(" ", "")
    assert lines[-1] == "held out  0.5"


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("[bold]a[/bold]", ":smile: https://x.y \x1b[31mred\x07"), ("猫", "cat")])
    assert capsys.readouterr().out.splitlines() == [
        r"[bold]a[/bold]  :smile: https://x.y \x1b[31mred\x07",
        "猫              cat",
    ]
