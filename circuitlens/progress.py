"""Progress of long work: one bar on a terminal or in a notebook, and one shape of callback."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from tqdm.auto import tqdm

ProgressCallback = Callable[[str, int, int], object]
"""Told a stage of the work, how many steps are done, and how many there are; what it raises ends the work."""


class Progress:
    """The steps of one piece of work: a bar where it takes over a second, and a callback after each step.

    Args:
        total: how many steps there are, 0 where it is not known.
        callback: told of each step; what it raises ends the work and comes out.
        unit: what the bar calls a step.
    """

    def __init__(self, total: int = 0, callback: ProgressCallback | None = None, unit: str = "step"):
        self.total, self.done = total, 0
        self._callback, self._unit = callback, unit
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        self._bar = tqdm(total=self.total or None, delay=1, disable=None, leave=False, unit=self._unit)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._bar is not None, "entered before"
        self._bar.close()

    def step(self, stage: str, steps: int = 1) -> None:
        """Tell that some steps of a stage are done; 0 only lets the callback end the work here."""
        self.done += steps
        if self._bar is not None:
            self._bar.set_description_str(stage, refresh=False)
            self._bar.update(steps)
        if self._callback is not None:
            self._callback(stage, self.done, self.total)
