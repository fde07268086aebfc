"""The type checker of test runs: beartype, which reads each signature once.

jaxtyping's import hook decorates every function, and an inner one anew at each call of the outer one. beartype takes a
millisecond for that, which was half the time of many tests, so what it made the first time is used again. What it is
given is never the function itself but jaxtyping's stub of its signature, which does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype

_checked: dict[tuple[object, ...], Callable[..., Any]] = {}


def checker(stub: Callable[..., Any]) -> Callable[..., Any]:
    """The stub with its annotations checked."""
    key = stub.__module__, stub.__qualname__, stub.__code__.co_varnames, repr(stub.__annotations__)
    if key not in _checked:
        _checked[key] = beartype(stub)
    return _checked[key]
