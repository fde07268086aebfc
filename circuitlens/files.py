"""Files read up to a limit, and written whole or not at all."""

import errno
import os
import secrets
import stat
from pathlib import Path

from circuitlens.errors import CircuitLensError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    The bytes go to a new file in the same folder, reach the disk, and take the old file's place, and its mode, in one
    step. A device or a pipe can't be replaced and is refused.

    Raises:
        OSError: the folder is missing or can't be written, or `path` is no plain file; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is there already and is not a plain file", str(target))
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            if mode is not None:
                part.chmod(stat.S_IMODE(mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
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
            f"Can't write {os.fspath(path)!r}: {_reason(fault)}. Give a file in a folder that is there."
        ) from fault


def read_bounded(path: str | os.PathLike[str], limit: int, what: str, error: type[CircuitLensError]) -> bytes:
    """The bytes of a plain file of at most `limit` bytes; `what` it has to be is said in the errors.

    Raises:
        error: it is missing, no plain file, too large, or can't be read; the message is one sentence.
    """
    name = os.fspath(path)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{name!r} is not a file: give {what}.")
        if status.st_size > limit:
            raise error(
                f"{name!r} has {format_bytes(status.st_size)}, above the {format_bytes(limit)} that {what} may have: "
                "give a smaller one."
            )
        return Path(path).read_bytes()
    except (OSError, ValueError) as fault:
        raise error(f"Can't read {name!r}: {_reason(fault)}. Give {what}.") from fault


def format_bytes(size: int | float) -> str:
    """A number of bytes in GB from 1 GB up, else in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _reason(fault: OSError | ValueError) -> str:
    return getattr(fault, "strerror", None) or str(fault)
