"""Files are written whole or not at all, also when the writer is killed, and read up to a limit."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from circuitlens.errors import PromptError
from circuitlens.files import format_bytes, locked, read_bounded, write_atomically, write_file, writing

ENDLESS_WRITER = """
import sys
from circuitlens.files import write_atomically
letter = 0
while True:
    write_atomically(sys.argv[1], bytes([65 + letter % 26]) * 3_000_000)
    letter += 1
"""


def test_it_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def fail(_fd: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link_and_the_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    target, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(target)
    write_atomically(link, b"data")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert link.is_symlink()
    assert target.read_bytes() == b"data"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_the_mode_of_an_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o600)
    write_atomically(target, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_what_is_no_plain_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a plain file"):
        write_atomically(pipe, b"data")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(OSError, match="not a plain file"):
        write_atomically("/dev/null", b"data")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process as POSIX systems do")
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"A" * 3_000_000)
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, target])
        time.sleep(0.25 + 0.037 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        data = target.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_a_file_up_to_the_limit_is_read(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_file(target, b"12345", PromptError)
    assert read_bounded(target, 5, "a list", PromptError) == b"12345"
    with pytest.raises(PromptError, match="has 0 MB, above the 0 MB that a list may have: give a smaller one"):
        read_bounded(target, 4, "a list", PromptError)
    with pytest.raises(PromptError, match="is not a file: give a list"):
        read_bounded(tmp_path, 5, "a list", PromptError)
    with pytest.raises(PromptError, match=r"Can't read .*No such file or directory\. Give a list"):
        read_bounded(tmp_path / "none", 5, "a list", PromptError)
    with pytest.raises(PromptError, match=r"Can't write .*No such file or directory\. Give another file"):
        write_file(tmp_path / "none" / "file", b"", PromptError)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MB"), (1.6e6, "2 MB"), (9.99e8, "999 MB"), (1e9, "1.0 GB"), (2.35e10, "23.5 GB")]
)
def test_bytes_as_people_read_them(size: int | float, text: str) -> None:
    assert format_bytes(size) == text


def test_a_write_protected_file_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o444)
    with pytest.raises(PromptError, match="it is write-protected"):
        write_file(target, b"new", PromptError)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"old", 0o444)


@pytest.mark.skipif(sys.platform == "win32", reason="links and owners as POSIX systems have them")
def test_other_names_of_a_file_and_its_owner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    (tmp_path / "other").hardlink_to(target)
    if os.getuid() == 0:
        os.chown(target, 12345, 12346)
    owner = target.stat().st_uid, target.stat().st_gid
    write_atomically(target, b"new")
    assert "had 2 names: the others still have what it said before" in caplog.text
    assert (tmp_path / "other").read_bytes() == b"old"
    assert (target.stat().st_uid, target.stat().st_gid) == owner


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="a path to what is printed into is POSIX")
def test_what_is_printed_into_is_added_to_or_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys; from circuitlens.files import write_atomically; write_atomically(sys.argv[1], b'new')"
    for path, redirect in (("/dev/stdout", ">>"), (str(log), ">>"), ("/dev/fd/7", "7>>"), (str(log), "2>>")):
        log.write_text("old\n")
        words = [sys.executable, "-c", code, path]
        done = subprocess.run(["sh", "-c", f'"$@" {redirect} {log}', "sh", *words], capture_output=True, check=False)
        assert done.returncode == 1
        assert log.read_text().startswith("old\n")
        assert b"prints into" in done.stderr + log.read_bytes()
    assert list(tmp_path.iterdir()) == [log]


def test_parts_of_dead_writers_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = tmp_path / f".{'0' * 16}.part"
    dead.write_bytes(b"half")
    (tmp_path / ".notes.part").write_bytes(b"someone else's")
    living, file = writing._new_part(tmp_path)
    with file:
        write_atomically(tmp_path / "file", b"new")
        assert {path.name for path in tmp_path.iterdir()} == {"file", living.name, ".notes.part"}
    write_atomically(tmp_path / "file", b"newer")
    assert {path.name for path in tmp_path.iterdir()} == {"file", ".notes.part"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no lock of a folder")
def test_one_at_a_time_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.1)
    with (
        locked(tmp_path / "file", PromptError),
        pytest.raises(PromptError, match="Another process is at work on"),
        locked(tmp_path / "file", PromptError),
    ):
        pass
    with locked(tmp_path / "file", PromptError):
        write_atomically(tmp_path / "file", b"data")
