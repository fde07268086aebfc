"""A circuit's edges held against the model again: those that are there, and stronger ones that are not.

The edges of a file are the strongest between its nodes, as many as it has. So what the model gives between the same
nodes has to be in the file if it is stronger than the file's weakest edge, with the weight that the file says.
"""

from __future__ import annotations

from collections.abc import Iterator

from circuitlens.circuit import Circuit
from circuitlens.evaluation.rescoring import Rescored

NOISE = 1e-4
"""The share of the largest weight that rounding explains."""

GROSS = 0.3
"""The share of its own weight from which on an edge is another one: a coder's threshold moves it by an eighth."""

LOOSE = 0.2
"""How much a deviation of a standard error counts."""


def edge_deviations(circuit: Circuit, again: Rescored, total: int) -> Iterator[tuple[float, str]]:
    """How far each edge is off, as a share, and a sentence that names it; `total` is how many prompts there are."""
    if again.edges is None:
        return
    known, sampled = again.edge_means(), again.edges.prompts < total
    said = {(edge.source, edge.target): edge.weight for edge in circuit.edges}
    largest = max([1e-12, *map(abs, said.values()), *(abs(weight) for weight, _ in known.values())])
    slack = _slack(circuit, again, total) if sampled else {}
    for edge in circuit.edges:
        ends = edge.source, edge.target
        weight, (value, error) = edge.weight, known.get(ends, (0.0, 0.0))
        off = max(0.0, abs(weight - value) - slack.get(ends, 0.0))
        share = off / largest
        own = max(abs(weight), abs(value))
        if not again.coarse and off > GROSS * own + NOISE * largest:
            share = max(share, off / own)
        what = f"has weight {weight:+.4g} in the file and {value:+.4g} in the model"
        if ends not in known and not sampled and abs(weight) > NOISE**1.5 * largest:
            share, what = 1.0, "is not there in the model"
        yield min(share, 1.0), f"the edge {edge.source} → {edge.target} {what}"
        if edge.standard_error is not None and not sampled:
            far = LOOSE * abs(edge.standard_error - (error or 0.0)) / largest
            yield min(far, 1.0), f"the standard error of the edge {edge.source} → {edge.target} is off"
    weakest = min(map(abs, said.values()))
    for (source, target), (value, _) in known.items():
        beyond = abs(value) - slack.get((source, target), 0.0) - (1 + GROSS) * weakest - NOISE * largest
        if (source, target) not in said and beyond > 0:
            told = f"the edge {source} → {target} of weight {value:+.4g} in the model is not in the file"
            yield min(max(abs(value) / largest, 0.1), 1.0), told


def _slack(circuit: Circuit, again: Rescored, total: int) -> dict[tuple[str, str], float]:
    """What chance explains of each edge's weight on a sample of the prompts.

    An edge that few prompts have may be in none of the sample, so the file's own standard errors are asked as well, but
    believed up to twice the largest that was seen.
    """
    assert again.edges is not None, "there are edges"
    seen = {ends: float("inf") if error is None else error for ends, (_, error) in again.edge_means().items()}
    most, scale = 2 * max(seen.values(), default=0.0), (total / again.edges.prompts) ** 0.5
    for edge in circuit.edges:
        ends = edge.source, edge.target
        seen[ends] = max(seen.get(ends, 0.0), min((edge.standard_error or 0.0) * scale, most))
    return {ends: 5 * error for ends, error in seen.items()}
