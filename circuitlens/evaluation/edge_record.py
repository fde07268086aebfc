"""A circuit's edges held against the model again: those that are there, and stronger ones that are not.

The edges of a file are the strongest between its nodes, as many as it has. So what the model gives between the same
nodes has to be in the file if it is stronger than the file's weakest edge, with the weight that the file says. The
strongest edges of some circuits were weighed by path patching, and no longer weigh what gradients say. An edge is right
where it weighs the one or the other, and one that counts as measured has to weigh what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from circuitlens.circuit import Circuit, Edge
from circuitlens.evaluation.rescoring import Rescored
from circuitlens.evaluation.weighing import Ends, Weights

NOISE, ROUNDING = 1e-4, 1e-5
"""The share of the largest weight that does not matter, and that which rounding explains."""

GROSS = 0.3
"""The share of its own weight from which on an edge is another one: a coder's threshold moves it by an eighth."""

LOOSE = 0.2
"""How much a deviation of a standard error counts."""

ENOUGH = 20
"""So many of the strongest edges that are off are weighed first: where one of them is wrong, no more need be."""


class EdgeRecord:
    """A circuit's edges beside those that the model gives; `total` is how many prompts the circuit has."""

    def __init__(self, circuit: Circuit, again: Rescored, total: int):
        assert again.edges is not None, "the circuit has edges"
        self.circuit, self.again, self.edges = circuit, again, again.edges
        self.known, self.sampled = again.edge_means(), again.edges.prompts < total
        self.scale = (total / again.edges.prompts) ** 0.5
        self.said = {(edge.source, edge.target): edge for edge in circuit.edges}
        weights = [*(edge.weight for edge in circuit.edges), *(weight for weight, _ in self.known.values())]
        self.largest = max([1e-12, *map(abs, weights)])
        seen = [error for _, error in self.known.values() if error is not None]
        self.believed = 2 * max(seen, default=0.0)

    def deviations(self) -> Iterator[tuple[float, str]]:
        """How far each edge is off, as a share, and a sentence that names it."""
        doubtful = list[Edge]()
        for edge in self.circuit.edges:
            share, told = self._compared(edge, self.known)
            if (edge.measured or share > NOISE) and not self.circuit.frozen:
                doubtful.append(edge)
            else:
                yield share, told
        doubtful.sort(key=lambda edge: -abs(edge.weight))
        for some in (doubtful[:ENOUGH], doubtful[ENOUGH:]):
            found = list(self._weighed(some))
            yield from found
            if any(share > 0.1 for share, _ in found):
                return
        yield from self._missing()

    def _weighed(self, edges: Sequence[Edge]) -> Iterator[tuple[float, str]]:
        """The same of edges that weigh something else than gradients say, once they are weighed."""
        for measured in (True, False):
            mine = [edge for edge in edges if edge.measured == measured]
            ends = [(edge.source, edge.target) for edge in mine if (edge.source, edge.target) in self.known]
            weighed = self.edges.weigh(ends, self.known, to_the_end=measured) if ends else {}
            for edge in mine:
                found = self._compared(edge, weighed)
                yield found if measured else min(found, self._compared(edge, self.known))

    def _compared(self, edge: Edge, weights: Weights) -> tuple[float, str]:
        ends, weight = (edge.source, edge.target), edge.weight
        value, error = weights.get(ends, (0.0, 0.0))
        off = max(0.0, abs(weight - value) - self._slack(ends, error))
        share, own = off / self.largest, max(abs(weight), abs(value))
        if not self.again.coarse and off > GROSS * own + ROUNDING * self.largest:
            share = max(share, off / own)
        name = f"the {'measured ' if edge.measured else ''}edge {edge.source} → {edge.target}"
        if ends not in self.known and not self.sampled and abs(weight) > 0.1 * ROUNDING * self.largest:
            return 1.0, f"{name} is not there in the model"
        if edge.standard_error is not None and not self.sampled and error is not None:
            far = LOOSE * abs(edge.standard_error - error) / self.largest
            if far > share:
                return min(
                    far, 1.0
                ), f"{name} has a standard error of {edge.standard_error:.2g}, in the model {error:.2g}"
        return min(share, 1.0), f"{name} has weight {weight:+.4g} in the file and {value:+.4g} in the model"

    def _missing(self) -> Iterator[tuple[float, str]]:
        """Edges that are stronger in the model than the file's weakest, and not in the file."""
        weakest = min(abs(edge.weight) for edge in self.circuit.edges)
        least = (1 + GROSS) * weakest + NOISE * self.largest

        def beyond(ends: Ends, weights: Weights) -> float:
            value, error = weights.get(ends, (0.0, 0.0))
            return abs(value) - self._slack(ends, error) - least

        order = sorted(self.known.items(), key=lambda each: -abs(each[1][0]))
        gone = [ends for ends, _ in order if ends not in self.said and beyond(ends, self.known) > 0][:ENOUGH]
        weighed = (
            self.edges.weigh(gone, self.known, to_the_end=False) if gone and not self.circuit.frozen else self.known
        )
        for ends in gone:
            if beyond(ends, weighed) > 0:
                value = self.known[ends][0]
                told = f"the edge {ends[0]} → {ends[1]} of weight {value:+.4g} in the model is not in the file"
                yield min(max(abs(value) / self.largest, 0.1), 1.0), told

    def _slack(self, ends: Ends, error: float | None) -> float:
        """What chance explains of an edge's weight on a sample of the prompts.

        An edge that few prompts have may be in none of the sample, so the file's own standard errors are asked as well,
        but believed up to twice the largest that was seen.
        """
        if not self.sampled:
            return 0.0
        said = self.said[ends].standard_error if ends in self.said else None
        return 5 * max(float("inf") if error is None else error, min((said or 0.0) * self.scale, self.believed))
