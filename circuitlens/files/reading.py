"""Files read up to a limit, and JSON that may come from anyone, refused before it fills the memory."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from math import isinf
from pathlib import Path
from typing import Any, NoReturn

from circuitlens.errors import CircuitLensError

MAX_VALUES = 1_500_000
"""Values in a JSON text: 16 million empty objects would fit in 40 MB, and take 2 GB once they are read."""
MAX_LISTS = MAX_OBJECTS = 400_000
"""Lists and objects among them, which cost more, and most where they are nested."""
MAX_KEYS = 10_000
"""Keys of one JSON object; what is many is a list in our files."""
MAX_DIGITS = 1000
"""Digits of a whole number: to read one takes the square of its digits."""


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
        size = status.st_size
        if size <= limit:
            with Path(path).open("rb") as file:
                data = file.read(limit + 1)  # a file may grow, and those of /proc say that they have 0 bytes
            size = len(data)
            if size <= limit:
                return data
    except (OSError, ValueError) as fault:
        raise error(f"Can't read {name!r}: {reason_of(fault)}. Give {what}.") from fault
    raise error(
        f"{name!r} has {format_bytes(size)}, above the {format_bytes(limit)} that {what} may have: give a smaller one."
    )


def parse_json(text: bytes) -> Any:
    """The value of a JSON text (UTF-8), which may hold what a file from anyone does.

    Raises:
        ValueError: it is no JSON, has too many values or keys, a key twice, a number that is none, or is nested too
            deeply; the message says which.
    """
    if told := too_many(text):
        raise ValueError(f"it holds {told}")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as fault:
        raise no_utf8(fault, fault.start) from None
    try:
        return DECODER.decode(decoded)
    except RecursionError:
        raise too_deep() from None


def no_utf8(fault: UnicodeDecodeError, at: int) -> ValueError:
    """What is wrong with byte number `at` of a file."""
    return ValueError(f"byte {at + 1} is {fault.object[fault.start]:#04x}, which is no UTF-8: save it as UTF-8")


def too_deep() -> ValueError:
    """What is wrong with lists in lists in lists."""
    return ValueError("it is nested too deeply")


def too_many(text: bytes) -> str:
    """Of what a JSON text has more than is read, in words, if of anything; without reading it."""
    commas, lists, objects = map(text.count, (b",", b"[", b"{"))
    # There is one value a comma, a list and an object, and the first.
    for count, most, what in (
        (lists, MAX_LISTS, "lists"),
        (objects, MAX_OBJECTS, "objects"),
        (commas + lists + objects, MAX_VALUES, "values"),
    ):
        if count > most:
            return f"more than {most:,} {what}"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object in it has more than {MAX_KEYS:,} keys")
    if len(made) < len(pairs):
        counted = Counter(key for key, _ in pairs)
        twice = counted.most_common(1)[0][0]
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return made


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number in it has {len(digits)} digits")
    return int(digits)


def _real(digits: str) -> float:
    if isinf(value := float(digits)):
        raise ValueError(f"{digits[:40]} is no number that fits")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_refuse)
"""Reads one value of JSON from anyone."""


def format_bytes(size: int | float) -> str:
    """A number of bytes in GB from 1 GB up, else in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def reason_of(fault: OSError | ValueError) -> str:
    """What the system says of a file that can't be read or written."""
    return getattr(fault, "strerror", None) or str(fault)
