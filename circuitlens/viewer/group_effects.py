"""Groups of a circuit's nodes: those that are suggested, and what the model does without any, each found out once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from circuitlens.circuit import Circuit, Group, suggest_groups

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.evaluation.intervention import Ablation
    from circuitlens.progress import ProgressCallback

SUGGESTED = 8
"""Groups that are suggested, at most."""


class GroupEffects:
    """What is known of groups of nodes, of whatever circuit."""

    def __init__(self) -> None:
        self._suggested: tuple[Circuit, tuple[Group, ...]] | None = None
        self._effects: dict[tuple[str, frozenset[str]], Ablation] = {}

    def suggested(self, circuit: Circuit) -> tuple[Group, ...]:
        """Groups that features of a circuit may be, those that matter most first."""
        if self._suggested is None or self._suggested[0] is not circuit:
            self._suggested = circuit, suggest_groups(circuit)[:SUGGESTED]
        return self._suggested[1]

    def effect(self, circuit: Circuit, nodes: Collection[str]) -> Ablation | None:
        """What was measured with these nodes of a circuit switched off together; None where nothing was."""
        return self._effects.get((circuit.content_digest, frozenset(nodes)))

    def measure(
        self, adapter: Adapter, circuit: Circuit, groups: Sequence[Collection[str]], progress: ProgressCallback
    ) -> None:
        """Measure what the model does without each of some groups, wherever that is not known.

        Raises:
            CircuitLensError: what `circuitlens.ablate` raises.
        """
        from circuitlens.evaluation.intervention import ablate

        for done, nodes in enumerate(groups):
            progress("switching groups off", done, len(groups))
            if self.effect(circuit, nodes) is None:
                self._effects[circuit.content_digest, frozenset(nodes)] = ablate(adapter, circuit, nodes)
