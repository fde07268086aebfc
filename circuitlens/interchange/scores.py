"""Influence along a graph's links, and the replacement and completeness scores that attribution graphs are judged by.

Ameisen et al., "Circuit Tracing" (2025), as circuit-tracer computes them: each node's links in are made shares of their
summed size, and what an output weighs is handed down along them. The scores are of the graph's links alone: nothing is
run. What the model does with the nodes is what `circuitlens verify` measures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

LONGEST = 1000
"""Links of a chain."""


@dataclass(frozen=True)
class GraphScores:
    """Two shares, 0 to 1.

    Args:
        replacement: of what reaches the outputs, the share that begins at tokens and not at errors.
        completeness: of what comes into the nodes, weighed by their influence, the share that is not from errors.
    """

    replacement: float
    completeness: float


@dataclass(frozen=True)
class Links:
    """The links of a graph as columns: numbers of their sources and targets, and weights."""

    count: int
    sources: Int[ndarray, " link"]
    targets: Int[ndarray, " link"]
    weights: Float[ndarray, " link"]

    def shares(self) -> Float[ndarray, " link"]:
        """Each link's share of the summed size of those into its target."""
        import numpy as np

        sizes = np.abs(self.weights)
        into = np.bincount(self.targets, sizes, self.count)
        return sizes / np.maximum(into, 1e-10)[self.targets]

    def handed_down(self, factors: Float[ndarray, " link"], start: Float[ndarray, " node"]) -> Float[ndarray, " node"]:
        """What reaches each node from above of what starts there, each link handing on its factor, over all paths.

        Raises:
            CircuitError: a path has more than a thousand links, or comes back to its start.
        """
        from scipy.sparse import csr_array

        down = csr_array((factors, (self.sources, self.targets)), shape=(self.count, self.count))
        now = down @ start
        total = now.copy()
        for _ in range(LONGEST):
            if not now.any():
                return total
            now = down @ now
            total += now
        raise CircuitError(
            f"the links run in a circle, or in a chain of more than {LONGEST:,}: give a graph of layers."
        )


def graph_scores(circuit: Circuit) -> GraphScores | None:
    """The scores of a circuit's graph, None where no edge reaches an output.

    An output weighs what the imported graph gives as its probability, else its |attribution|. Where a circuit has no
    tokens (the SAEs of its lowest site read the residual stream), it begins at the features of its lowest layer.
    """
    links, weights = circuit_links(circuit), output_weights(circuit.nodes)
    if not weights.any() or not len(links.weights):
        return None
    import numpy as np

    shares = links.shares()
    influence = links.handed_down(shares, weights)
    errors = np.array([node.kind == "error" for node in circuit.nodes])
    first = [node.kind in ("input", "embedding") for node in circuit.nodes]
    if not any(first):
        lowest = min((node.layer for node in circuit.nodes if node.kind != "error"), default=0)
        first = [node.layer == lowest and node.kind not in ("error", "logit") for node in circuit.nodes]
    begins, lost = influence[np.array(first)].sum(), influence[errors].sum()
    if not begins + lost:
        return None
    from_errors = np.bincount(links.targets, shares * errors[links.sources], links.count)
    counts = influence + weights
    return GraphScores(float(begins / (begins + lost)), float(((1 - from_errors) * counts).sum() / counts.sum()))


def cumulative_influence(circuit: Circuit) -> list[float | None]:
    """By node the share of all influence that it and all stronger ones have: small is important; None of outputs."""
    import numpy as np

    links, weights = circuit_links(circuit), output_weights(circuit.nodes)
    influence = links.handed_down(links.shares(), weights)
    order = np.argsort(-influence, kind="stable")
    reached = np.empty(len(order))
    reached[order] = np.minimum(np.cumsum(influence[order]) / max(influence.sum(), 1e-10), 1.0)
    return [None if node.is_logit else value for node, value in zip(circuit.nodes, reached.tolist(), strict=True)]


def circuit_links(circuit: Circuit) -> Links:
    """A circuit's edges as columns, of an imported graph with its own weights."""
    import numpy as np

    number = {node.id: n for n, node in enumerate(circuit.nodes)}
    ends = [(number[edge.source], number[edge.target]) for edge in circuit.edges]
    weights = [edge.weight if edge.into_target is None else edge.into_target for edge in circuit.edges]
    sources, targets = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    return Links(len(circuit.nodes), sources, targets, np.array(weights, dtype=float))


def output_weights(nodes: Sequence[Node]) -> Float[ndarray, " node"]:
    """What each output counts for: its probability in an imported graph, else its share of all |attribution|."""
    import numpy as np

    told = np.array([_probability(node) if node.is_logit else 0.0 for node in nodes])
    if not told.any():
        told = np.array([abs(node.attribution) if node.is_logit else 0.0 for node in nodes])
        told /= max(told.sum(), 1e-10)
    return told


def _probability(node: Node) -> float:
    said: Any = json.loads(node.imported).get("token_prob") if node.imported else None
    return float(said) if isinstance(said, (int, float)) and 0 <= said <= 1 else 0.0
