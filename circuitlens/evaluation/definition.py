"""What a check is: a question put to a circuit, its thresholds, and how its figure becomes an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from circuitlens.circuit.evidence import Check
from circuitlens.evaluation.measurements import Measurements, NotTestedError
from circuitlens.literals import CheckStatus

Finding = tuple[float, str]
"""What a check found: a figure, the more the better, and a sentence that says what it is."""

Measure = Callable[[Measurements], Finding]


@dataclass(frozen=True)
class CheckDefinition:
    """A check: its function, its thresholds, and what failing it means.

    Args:
        name: as evidence and `--threshold` call it.
        measure: its function; its docstring describes it.
        threshold: from which figure on it is weak, and from which it passes; None where it is a yes (1) or no (0).
        decisive: without it there is no evidence at all.
        optional: not every circuit can be put to it, and one that can't may still be supported.
    """

    name: str
    measure: Measure
    threshold: tuple[float, float] | None
    decisive: bool
    optional: bool

    def run(self, measured: Measurements) -> Check:
        """Put it to a circuit, with the thresholds of its settings."""
        try:
            value, reason = self.measure(measured)
        except NotTestedError as why:
            return Check(name=self.name, status="not tested", reason=f"not tested: {why}")
        if self.threshold is None:
            return Check(name=self.name, status="passed" if value else "failed", reason=reason)
        weak, passes = measured.settings.thresholds[self.name]
        status: CheckStatus = "passed" if value >= passes else "weak" if value >= weak else "failed"
        return Check(name=self.name, status=status, value=value, weak=weak, supported=passes, reason=reason)


def check(
    name: str, threshold: tuple[float, float] | None, *, decisive: bool = False, optional: bool = False
) -> Callable[[Measure], CheckDefinition]:
    """Make a function a check; the arguments are those of `CheckDefinition`."""
    return lambda measure: CheckDefinition(name, measure, threshold, decisive, optional)
