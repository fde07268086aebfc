"""Two circuits beside each other: positions aligned by their tokens, nodes matched by id, and the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

from circuitlens.circuit import Circuit, Edge, Meaning, Node
from circuitlens.circuit.meaning import best


@dataclass(frozen=True)
class AlignedGraph:
    """A circuit's graph in columns that it shares with another's; its edges may run in a circle, unlike a circuit's.

    Args:
        tokens: the label of each common column.
        nodes: their `pos` is a column.
        edges: strongest first.
        meanings: what its features are called.
    """

    tokens: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    meanings: tuple[Meaning, ...] = ()

    def meaning(self, node: Node) -> Meaning | None:
        """What a feature stands for, as `Circuit.meaning`."""
        return None if node.is_logit else self._meaning_of.get((node.hook, node.index))

    @cached_property
    def _meaning_of(self) -> dict[tuple[str, int | None], Meaning]:
        return {(meaning.hook, meaning.index): meaning for meaning in self.meanings}


Graph = Circuit | AlignedGraph
"""What is drawn and listed: its tokens, nodes and edges."""


@dataclass(frozen=True)
class Comparison:
    """Two graphs in common columns and under common ids, and their difference, first less second.

    Ids of `first` stay as they are; a node of `second` that matches has the id that it has in `first`.
    """

    first: AlignedGraph
    second: AlignedGraph
    difference: AlignedGraph

    @cached_property
    def shared(self) -> list[tuple[Node, Node]]:
        """The nodes that both have, as they are in each."""
        theirs = {node.id: node for node in self.second.nodes}
        return [(node, theirs[node.id]) for node in self.first.nodes if node.id in theirs]

    @property
    def summary(self) -> str:
        """How much the two have in common, in a sentence."""
        both = len(self.shared)
        told = f"{both} in both, {len(self.first.nodes) - both} only in the first, "
        told += f"{len(self.second.nodes) - both} only in the second"
        inner = [(a.attribution, b.attribution) for a, b in self.shared if not a.is_logit]
        if any(len(set(values)) < 2 for values in zip(*inner, strict=True)) or not inner:
            return told  # fewer than two values, or all alike: there is no correlation
        from scipy.stats import spearmanr

        ranked: Any = spearmanr(inner)
        return f"{told}; attributions of those in both correlate {ranked.statistic:+.2f} (rank)"


def compare(first: Circuit, second: Circuit) -> Comparison:
    """Bring two circuits into common columns, and take one from the other."""
    labels, ours, theirs = _columns(first.tokens, second.tokens)
    mine = _align(first, ours, labels, {node.id: node.id for node in first.nodes})
    known = {_identity(node, node.pos): node.id for node in mine.nodes}
    taken, ids = {node.id for node in mine.nodes}, {}
    for node in second.nodes:
        same = known.pop(_identity(node, theirs[node.pos]), None)
        fresh = node.id
        while same is None and fresh in taken:
            fresh += "′"
        ids[node.id] = same or fresh
        taken.add(ids[node.id])
    other = _align(second, theirs, labels, ids)
    return Comparison(mine, other, _subtract(mine, other))


def _identity(node: Node, column: int) -> tuple[object, ...]:
    """What two nodes have in common that are the same node of two circuits."""
    # Logits of a circuit over many prompts have no index, since the outputs differ from prompt to prompt, but a name.
    index = node.label if node.is_logit and node.index is None else node.index
    return node.hook, node.kind, index, column, node.layer


def _columns(first: Sequence[str], second: Sequence[str]) -> tuple[tuple[str, ...], list[int], list[int]]:
    """Common columns with their labels, and the column of each position of either."""
    labels: list[str] = []
    ours, theirs = [0] * len(first), [0] * len(second)
    for _, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for k in range(max(b - a, d - c)):
            texts = []
            if a + k < b:
                ours[a + k] = len(labels)
                texts.append(first[a + k])
            if c + k < d:
                theirs[c + k] = len(labels)
                texts.append(second[c + k])
            labels.append(" / ".join(dict.fromkeys(texts)))
    return tuple(labels), ours, theirs


def _align(graph: Graph, columns: Sequence[int], labels: tuple[str, ...], ids: Mapping[str, str]) -> AlignedGraph:
    """The graph with its nodes in other columns and under other ids."""
    nodes = (node.model_copy(update={"id": ids[node.id], "pos": columns[node.pos]}) for node in graph.nodes)
    edges = (edge.model_copy(update={"source": ids[edge.source], "target": ids[edge.target]}) for edge in graph.edges)
    # A label of one's own for what is no feature is of one position.
    told = (graph.meaning(node) for node in graph.nodes if node.index is not None and not node.is_logit)
    return AlignedGraph(labels, tuple(nodes), tuple(edges), best(meaning for meaning in told if meaning is not None))


def _subtract(first: AlignedGraph, second: AlignedGraph) -> AlignedGraph:
    theirs, ours = ({node.id: node for node in graph.nodes} for graph in (second, first))
    nodes = [_difference(node, theirs.get(node.id)) for node in first.nodes]
    nodes += [_difference(None, node) for node in second.nodes if node.id not in ours]
    nodes.sort(key=lambda node: node.layer)  # a stable sort: within a layer the order of the first
    weights = {(edge.source, edge.target): edge.weight for edge in first.edges}
    for edge in second.edges:
        weights[edge.source, edge.target] = weights.get((edge.source, edge.target), 0.0) - edge.weight
    estimated = {(edge.source, edge.target) for edge in (*first.edges, *second.edges) if not edge.measured}
    # Not validated: a difference may be twice the largest weight.
    edges = [
        Edge.model_construct(source=ends[0], target=ends[1], weight=weight, measured=ends not in estimated)
        for ends, weight in weights.items()
        if weight
    ]
    edges.sort(key=lambda edge: -abs(edge.weight))
    return AlignedGraph(first.tokens, tuple(nodes), tuple(edges), best((*second.meanings, *first.meanings)))


def _difference(ours: Node | None, theirs: Node | None) -> Node:
    """A node's difference; where only one graph has it, the other's attribution counts as 0."""
    node = ours or theirs
    assert node is not None, "one of them has it"
    values = {
        name: (getattr(ours, name) if ours else 0.0) - (getattr(theirs, name) if theirs else 0.0)
        for name in ("attribution", "activation")
    }
    return node.model_copy(update={**values, "standard_error": None})
