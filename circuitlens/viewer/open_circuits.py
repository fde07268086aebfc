"""The circuits that are open, with the files they were read from and are saved to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from circuitlens.circuit import Annotations, Circuit, update_file
from circuitlens.errors import ViewerError


class OpenCircuits:
    """Circuits by their number, which is their place.

    Args:
        circuits: those that are open.
        paths: the files they were read from and may be saved to; None for one that has none.
    """

    def __init__(self, circuits: Sequence[Circuit], paths: Sequence[Path | None] | None = None):
        self.circuits = list(circuits)
        self._paths = list(paths) if paths is not None else [None] * len(self.circuits)
        assert len(self._paths) == len(self.circuits), "a path or None for each circuit"
        self._as_read = list(self.circuits)
        self._lock = threading.Lock()

    def circuit(self, number: int) -> Circuit:
        """The circuit of that number.

        Raises:
            ViewerError: there is none.
        """
        if not 0 <= number < len(self.circuits):
            raise ViewerError(f"There is no circuit {number}: {len(self.circuits)} are open, counted from 0.")
        return self.circuits[number]

    def path(self, number: int) -> Path | None:
        """The file that a circuit was opened from, and is saved to."""
        self.circuit(number)
        return self._paths[number]

    def add(self, circuit: Circuit) -> int:
        """Open one more circuit and return its number."""
        with self._lock:
            self.circuits.append(circuit)
            self._as_read.append(circuit)
            self._paths.append(None)
            return len(self.circuits) - 1

    def save(self, number: int, annotations: Annotations, seen: Annotations | None = None) -> Path:
        """Write a circuit's annotations, and evidence that was measured here, into the file it was opened from.

        Evidence that someone else wrote into the file meanwhile stays.

        Args:
            number: the circuit's number.
            annotations: those to write.
            seen: those that they were made from, by default the ones that the file had when it was last read here.

        Raises:
            ViewerError: it was opened from none, or other annotations were written into it meanwhile.
            CircuitError: the annotations do not fit it, or the file holds another circuit or can't be written.
        """
        path = self.path(number)
        if path is None:
            raise ViewerError("This circuit was not opened from a file: export it as JSON instead.")
        with self._lock:
            ours, as_read = self.circuits[number], self._as_read[number]
            began_with = seen or as_read.annotations or Annotations()

            def change(now: Circuit) -> Circuit:
                measured = ours.evidence if now.evidence == as_read.evidence else now.evidence
                if (now.annotations or Annotations()) not in (began_with, annotations):
                    # So that a page that is loaded again has them.
                    self.circuits[number], self._as_read[number] = now.model_copy(update={"evidence": measured}), now
                    raise ViewerError(
                        f"Other annotations were written into {path.name} meanwhile: nothing was saved. Reload the "
                        "page to see them with your own changes, and save again."
                    )
                changed = now.annotated(annotations).with_meanings((*ours.meanings, *now.meanings))
                return changed.model_copy(update={"evidence": measured})

            self.circuits[number] = self._as_read[number] = update_file(path, ours, change)
        return path
