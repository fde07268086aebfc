"""The graph of a circuit's nodes and edges: strongest path, pruning, and as networkx has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from circuitlens.circuit.nodes import Edge, Node
from circuitlens.errors import CircuitError

if TYPE_CHECKING:
    import networkx


def strongest_first(edges: Iterable[Edge]) -> list[Edge]:
    """Edges by falling |weight|."""
    return sorted(edges, key=lambda edge: -abs(edge.weight))


def is_acyclic(nodes: Iterable[Node], edges: Iterable[Edge]) -> bool:
    """Whether no path along the edges comes back to its start."""
    try:
        TopologicalSorter(_sources(nodes, edges)).prepare()
    except CycleError:
        return False
    return True


def into_metric(edges: Sequence[Edge], nodes: Mapping[str, Node], end: Node) -> list[Edge]:
    """The edges with all that a node does by any logit as one edge to the logit `end`, which stands for the metric."""
    inner, sums = list[Edge](), dict[str, float]()
    for edge in edges:
        if nodes[edge.target].is_logit:
            sums[edge.source] = sums.get(edge.source, 0.0) + edge.weight
        else:
            inner.append(edge)
    return [*inner, *(Edge(source=source, target=end.id, weight=weight) for source, weight in sums.items())]


def strongest_path(nodes: Mapping[str, Node], edges: Sequence[Edge], end: Node) -> list[Node]:
    """The widest path to `end`; see `Circuit.strongest_path`."""
    sources = _sources(nodes.values(), edges)
    order = list(TopologicalSorter(sources).static_order())
    # In reverse order a node comes before its sources, so that one pass finds all that reach the end.
    reaching = {end.id}
    for name in reversed(order):
        if name in reaching:
            reaching.update(sources[name])
    lowest = min(nodes[name].layer for name in reaching)

    weight = {(edge.source, edge.target): edge.weight for edge in edges}
    width, before = dict[str, float](), dict[str, str]()
    for name in order:
        options = [
            (min(width[source], abs(weight[source, name])), abs(weight[source, name]), source)
            for source in sources[name]
            if source in width
        ]
        if options:
            width[name], _, before[name] = max(options)
        elif nodes[name].layer == lowest:
            width[name] = float("inf")
    chain = [end.id]
    while chain[0] in before:
        chain.insert(0, before[chain[0]])
    return [nodes[name] for name in chain]


def strongest_nodes(nodes: Iterable[Node]) -> list[Node]:
    """The nodes beside the outputs, by |attribution|."""
    return sorted((node for node in nodes if not node.is_logit), key=lambda node: -abs(node.attribution))


def reaching(nodes: Sequence[Node], share: float) -> list[Node]:
    """The fewest first nodes that have this share of the |attribution| of all."""
    wanted, reached, count = share * sum(abs(node.attribution) for node in nodes), 0.0, 0
    while count < len(nodes) and reached < wanted:
        reached += abs(nodes[count].attribution)
        count += 1
    return list(nodes[:count])


def prune(
    nodes: Sequence[Node], edges: Sequence[Edge], max_nodes: int | None, max_edges: int | None, share: float | None
) -> tuple[list[Node], list[Edge]]:
    """The strongest nodes, in their order, and the strongest edges between them; see `Circuit.prune`."""
    for name, count in (("max_nodes", max_nodes), ("max_edges", max_edges)):
        if count is not None and count < 0:
            raise CircuitError(f"{name} is {count}; give a count of 0 or more.")
    if share is not None and not 0 <= share <= 1:
        raise CircuitError(f"share is {share}; give a share between 0 and 1.")
    inner = strongest_nodes(nodes)
    if share is not None:
        inner = reaching(inner, share)
    strongest = {node.id for node in inner[:max_nodes]}
    kept = [node for node in nodes if node.is_logit or node.id in strongest]
    ids = {node.id for node in kept}
    return kept, strongest_first(edge for edge in edges if edge.source in ids and edge.target in ids)[:max_edges]


def as_networkx(
    nodes: Iterable[Node], edges: Iterable[Edge], meanings: Mapping[str, str], about: Mapping[str, str]
) -> networkx.DiGraph:
    """The nodes and edges with their fields as attributes, each node with its meaning or None, and `about`."""
    import networkx

    graph = networkx.DiGraph()
    graph.graph.update(about)
    for node in nodes:
        graph.add_node(node.id, **node.model_dump(exclude={"id"}), meaning=meanings.get(node.id))
    for edge in edges:
        fields = {"measured": edge.measured, **edge.model_dump(exclude={"source", "target"})}
        graph.add_edge(edge.source, edge.target, **fields)
    return graph


def _sources(nodes: Iterable[Node], edges: Iterable[Edge]) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {node.id: [] for node in nodes}
    for edge in edges:
        sources[edge.target].append(edge.source)
    return sources
