"""What flows through a circuit from node to node, so that what goes through two nodes counts once.

A node's attribution is all that it does to the metric, also through other nodes; by conservation it is the sum of the
node's outgoing edges. What reaches `d` by an edge goes on from there as all of `d`'s effect does, so that the share
`w(d→k) / a_d` of it takes the edge to `k`. What flows through edges that a circuit does not have flows past its nodes.

In a linear model that is exact, and a share may be negative or above 1, where what `d` does by several ways cancels.
There the edges into `d` sum to its attribution. Where they do not, a share beyond 0 to 1 comes of two numbers that were
measured in different places, and is held to 0 or 1.

Edges that are measured may say more than the attribution of the node they start at, which is an estimate: what flows
through that node is then what flows out of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from math import prod

from circuitlens.circuit.nodes import Edge, Node

LINEAR = 1e-3
"""How far the edges into a node may sum to something else than its attribution, as a share of their sum by size."""


class Flow:
    """The edges of a circuit by their source, and the shares that are taken at each node."""

    def __init__(self, nodes: Mapping[str, Node], edges: Iterable[Edge]):
        self.nodes = nodes
        self.outgoing: dict[str, list[Edge]] = {name: [] for name in nodes}
        into, sizes = defaultdict[str, float](float), defaultdict[str, float](float)
        for edge in edges:
            self.outgoing[edge.source].append(edge)
            into[edge.target] += edge.weight
            sizes[edge.target] += abs(edge.weight)
        self.whole = {name: self._through(node) for name, node in nodes.items()}
        self._linear = {name for name in sizes if abs(into[name] - nodes[name].attribution) <= LINEAR * sizes[name]}

    def _through(self, node: Node) -> float:
        """All that flows through a node: its attribution, or its edges where measured ones are more."""
        out = sum(edge.weight for edge in self.outgoing[node.id])
        more = any(edge.measured for edge in self.outgoing[node.id]) and out * node.attribution > node.attribution**2
        return out if more else node.attribution

    def share(self, name: str, part: float) -> float:
        """Which share of all that a node does `part` of it is, in units of the metric."""
        whole = self.whole[name]
        if not whole:
            return 0.0
        share = part / whole
        return share if name in self._linear else min(max(share, 0.0), 1.0)


def own_parts(nodes: Mapping[str, Node], edges: Sequence[Edge], chosen: Collection[str]) -> dict[str, float]:
    """What each chosen node does without going through another of them, by id; see `Circuit.own_parts`."""
    flow = Flow(nodes, edges)
    own, through = dict[str, float](), dict[str, float]()
    # From the top down: a node comes after all that it has edges to.
    targets = {name: [edge.target for edge in out] for name, out in flow.outgoing.items()}
    for name in TopologicalSorter(targets).static_order():
        part = sum((edge.weight * through[edge.target] for edge in flow.outgoing[name]), 0.0)
        if name in chosen:
            own[name], through[name] = (flow.whole[name] if part else nodes[name].attribution) - part, 1.0
        else:
            through[name] = flow.share(name, part)
    return {name: own[name] for name in chosen}


def carried(nodes: Mapping[str, Node], edges: Sequence[Edge], chain: Sequence[Node]) -> float:
    """What a chain of nodes carries to its end by itself: of its first edge, the share that goes on at every node."""
    flow = Flow(nodes, edges)
    weight = {(edge.source, edge.target): edge.weight for edge in edges}
    steps = [weight[source.id, target.id] for source, target in pairwise(chain)]
    if not steps:
        return 0.0
    return steps[0] * prod(flow.share(node.id, step) for node, step in zip(chain[1:-1], steps[1:], strict=True))
