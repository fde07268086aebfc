"""What a page shows as printed against what is printed: words have to be equal, and numbers nearly.

Training, threads and processors round differently from machine to machine, so that the last digits are nobody's.
"""

from __future__ import annotations

import re

import pytest

NUMBER = re.compile(r"[+-]\d+\.\d{3,}")


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def words(text: str) -> str:
    return NUMBER.sub("~", text)


def assert_alike(shown: str, printed: str, *, rel: float, abs: float = 0.0) -> None:
    assert words(shown) == words(printed)
    assert numbers(shown) == pytest.approx(numbers(printed), rel=rel, abs=abs)
