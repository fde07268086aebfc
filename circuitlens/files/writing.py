"""Files written whole or not at all, by one process at a time.

The bytes of a file go to a part beside it, which then takes its place. A writer holds its part locked, so that the part
of one that was killed is known by having no lock: the next writer in that folder removes it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from circuitlens.errors import CircuitLensError
from circuitlens.files.reading import reason_of

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

PART = re.compile(r"\.[0-9a-f]{16}\.part")
"""The names of parts."""
PATIENCE = 30.0
"""Seconds that `locked` waits for another process."""


def cache_folder() -> Path:
    """Where what can be made or had again is kept: `$CIRCUITLENS_CACHE`, or the user's cache directory."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("CIRCUITLENS_CACHE") or user_cache_path("circuitlens", appauthor=False))


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    The bytes go to a new file in the same folder, reach the disk, and take the old file's place in one step, with its
    mode and, where that is allowed, its owner and group. A warning says what could not be kept.

    Raises:
        OSError: the folder is missing or can't be written; or `path` is no plain file, is write-protected, or is what
            this process prints into. Nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    old = _replaceable(Path(path), target)
    remove_dead_parts(target.parent)
    part, file = _new_part(target.parent)
    try:
        with file:
            if old is not None:
                _keep(old, part, target)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # Before the lock goes with the file's closing: a part without one is removed by whoever writes next. On
            # Windows an open file can't be moved, nor removed.
            if sys.platform != "win32":
                part.replace(target)
        if sys.platform == "win32":
            part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_file(path: str | os.PathLike[str], data: bytes, error: type[CircuitLensError]) -> None:
    """Write as `write_atomically`; where that fails, raise `error` with a sentence that says why."""
    try:
        write_atomically(path, data)
    except (OSError, ValueError) as fault:
        raise error(
            f"Can't write {os.fspath(path)!r}: {reason_of(fault)}. Give another file, in a folder that is there."
        ) from fault


def remove_dead_parts(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; a living one's part is locked, and stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for part in [Path(entry.path) for entry in entries if PART.fullmatch(entry.name)]:
            with suppress(OSError), part.open("r+b") as file:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()
            if sys.platform == "win32":
                with suppress(OSError):  # of one that is open
                    part.unlink()


@contextmanager
def locked(path: str | os.PathLike[str], error: type[CircuitLensError]) -> Iterator[None]:
    """Have the folder of a file for oneself among processes that ask for it, to read the file and then to write it.

    The lock is the system's and ends with the process. Where a file system has none, nothing is locked.

    Raises:
        error: another process has had it for too long.
    """
    folder = None
    if sys.platform != "win32":
        with suppress(OSError, ValueError):  # what is wrong with the path is told where it is read or written
            folder = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
    try:
        if folder is not None:
            _wait_for(folder, path, error)
        yield
    finally:
        if folder is not None:
            os.close(folder)


def _wait_for(folder: int, path: str | os.PathLike[str], error: type[CircuitLensError]) -> None:
    end = time.monotonic() + PATIENCE
    while sys.platform != "win32":
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise error(f"Another process is at work on {os.fspath(path)!r}: try again when it is done.") from None
            time.sleep(0.02)
        except OSError:
            return  # a file system without locks


def _replaceable(named: Path, target: Path) -> os.stat_result | None:
    """The state of the file that is there already, None where there is none; OSError for one not to be replaced."""
    if not target.exists():
        return None
    old = target.stat()
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "it is there already and is not a plain file", str(target))
    # /dev/stdout and /dev/fd/3 name a file that someone else holds open, and may be adding to.
    if _is_descriptor(named) or any(os.path.samestat(old, stream) for stream in _printed_into()):
        raise OSError(errno.EINVAL, "it is what a program prints into, which can't be replaced", str(target))
    if not old.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, "it is write-protected", str(target))
    return old


def _is_descriptor(path: Path) -> bool:
    """Whether a path leads to its file through a link of /proc, as those in /dev/fd do."""
    for _ in range(40):
        if not path.is_symlink():
            return False
        if os.path.realpath(path.parent).startswith(("/proc/", "/dev/fd")):
            return True
        path = path.parent / path.readlink()
    return True


def _printed_into() -> Iterator[os.stat_result]:
    for descriptor in (1, 2):
        with suppress(OSError):
            yield os.fstat(descriptor)


def _new_part(folder: Path) -> tuple[Path, BinaryIO]:
    """A new part in a folder, open and locked."""
    while True:
        part = folder / f".{secrets.token_hex(8)}.part"
        file = part.open("xb")
        if sys.platform == "win32":
            return part, file
        # Between its making and its locking, another writer may take the part for that of a dead one, and remove it.
        try:
            with suppress(FileNotFoundError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(part.stat(), os.fstat(file.fileno())):
                    return part, file
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks, where no part is taken for dead
            return part, file
        file.close()
        part.unlink(missing_ok=True)


def _keep(old: os.stat_result, part: Path, target: Path) -> None:
    """Give a part the owner, group and mode of the file whose place it takes, and say what can't be kept."""
    made = part.stat()
    if sys.platform != "win32" and (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        for owner, group in ((old.st_uid, old.st_gid), (-1, old.st_gid)):
            with suppress(OSError):
                os.chown(part, owner, group)
                break
        made = part.stat()
        if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
            log.warning("%s had another owner or group, which only they can give it back.", target)
    if old.st_nlink > 1:
        log.warning("%s had %d names: the others still have what it said before.", target, old.st_nlink)
    part.chmod(stat.S_IMODE(old.st_mode))
