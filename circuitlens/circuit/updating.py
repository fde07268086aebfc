"""A circuit's file changed in part: what others wrote into it meanwhile stays."""

from __future__ import annotations

import os
from collections.abc import Callable

from circuitlens.circuit.circuit import Circuit
from circuitlens.errors import CircuitError
from circuitlens.files import locked


def update_file(path: str | os.PathLike[str], circuit: Circuit, change: Callable[[Circuit], Circuit]) -> Circuit:
    """Change a circuit's file as it is now, and return the circuit that is written.

    Args:
        path: the file; where it is gone, it is made anew.
        circuit: the circuit that it is taken to hold, whatever its evidence and annotations are by now.
        change: from the circuit that the file holds to the one that it shall hold.

    Raises:
        CircuitError: the file holds another circuit by now, or can't be read or written; it is as it was.
    """
    with locked(path, CircuitError):
        now = Circuit.read(path) if os.path.lexists(path) else circuit
        if now.content_digest != circuit.content_digest:
            raise CircuitError(f"{os.fspath(path)!r} holds another circuit by now, and was left as it is.")
        changed = change(now)
        changed.save(path)
    return changed
