"""The page as it is written, whatever the environment says: Dash and Flask take settings from variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = ("DASH_", "FLASK_", "REACT_VERSION")
"""What the names of their variables begin with, in capitals or not."""


@contextmanager
def without_variables() -> Iterator[None]:
    """Have Dash imported and an app made without them.

    Not everything that they set can be set by an argument instead (the prefixes of paths), and some is read on import.
    """
    hidden = {name: value for name, value in os.environ.items() if name.upper().startswith(SETTINGS)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
