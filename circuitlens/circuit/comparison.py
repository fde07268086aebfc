"""Two circuits beside each other: nodes matched by position, then by feature wherever it stands, and the difference.

Positions are aligned by their tokens. The two stand in common columns where they have as many tokens, or one has all of
the other's; else each in its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

from circuitlens.circuit import Circuit, Edge, Meaning, Node
from circuitlens.circuit.meaning import best
from circuitlens.circuit.positions import Position, name_positions


@dataclass(frozen=True)
class AlignedGraph:
    """A circuit's graph in columns that it shares with another's; its edges may run in a circle, unlike a circuit's.

    Args:
        tokens: the label of each common column.
        nodes: their `pos` is a column.
        edges: strongest first.
        of: the circuit that it is; a difference is of none.
        meanings: what its features are called.
    """

    tokens: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    of: Circuit | None = None
    meanings: tuple[Meaning, ...] = ()

    def meaning(self, node: Node) -> Meaning | None:
        """What a feature stands for, as `Circuit.meaning`."""
        return None if node.is_logit else self._meaning_of.get((node.hook, node.index))

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """What each column is called."""
        return name_positions(self.tokens)

    @cached_property
    def _meaning_of(self) -> dict[tuple[str, int | None], Meaning]:
        return {(meaning.hook, meaning.index): meaning for meaning in self.meanings}


STRONGEST = 5
"""Features of each circuit that are looked at for those that carry both."""
SIZES = 0.2
"""The share of its size by which what a site showed may differ between runs of the same weights, if one was in less
than float32.
"""

Graph = Circuit | AlignedGraph
"""What is drawn and listed: its tokens, nodes and edges."""


@dataclass(frozen=True)
class Comparison:
    """Two graphs under common ids, and their difference in common columns, first less second.

    Ids of `first` stay as they are; a node of `second` that matches has the id that it has in `first`. The two are in
    common columns where they are `aligned`, else each in its own. `moved` are the ids of features that both have at
    positions that are not one.
    """

    first: AlignedGraph
    second: AlignedGraph
    difference: AlignedGraph
    aligned: bool
    moved: frozenset[str]

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
        if self.moved:
            told += f"; {len(self.moved)} of those in both are one feature at two positions"
        inner = [(a.attribution, b.attribution) for a, b in self.shared if not a.is_logit]
        if any(len(set(values)) < 2 for values in zip(*inner, strict=True)) or not inner:
            return told  # fewer than two values, or all alike: there is no correlation
        from scipy.stats import spearmanr

        ranked: Any = spearmanr(inner)
        return f"{told}; attributions of those in both correlate {ranked.statistic:+.2f} (rank)"

    @cached_property
    def carriers(self) -> list[tuple[str, str, str]]:
        """The features that are among the strongest of both, wherever they stand: their label, and a token of each.

        A feature is as strong as the |attribution| of its nodes in all, and its token that of the strongest of them.
        """
        ours, theirs = (_features(graph) for graph in (self.first, self.second))
        strongest = [sorted(one, key=lambda key: -_strength(one[key]))[:STRONGEST] for one in (ours, theirs)]
        both = [key for key in strongest[0] if key in strongest[1]]
        return [(ours[k][0].label, _token(self.first, ours[k]), _token(self.second, theirs[k])) for k in both]


def differing(first: Circuit, second: Circuit) -> str:
    """By what two circuits' files show that they are of different models or SAEs, or "" where they may be of one.

    What sites showed can be compared on one prompt only; on others it is where the sites are, and outputs' numbers.
    """
    ours, theirs = ({site.hook: site for site in c.fingerprint.sites} if c.fingerprint else {} for c in (first, second))
    if ours and theirs and not ours.keys() & theirs.keys():
        return f"one has its sites at {', '.join(ours)}, the other at {', '.join(theirs)}"
    outputs = [{n.label: n.index for n in c.nodes if n.is_logit and n.index is not None} for c in (first, second)]
    for text in sorted(outputs[0].keys() & outputs[1].keys()):
        if outputs[0][text] != outputs[1][text]:
            return f"the output {text!r} is number {outputs[0][text]} of one and number {outputs[1][text]} of the other"
    if first.questions[0].prompt == second.questions[0].prompt:
        for hook in sorted(ours.keys() & theirs.keys()):
            for what in ("size", "error"):
                a, b = getattr(ours[hook], what), getattr(theirs[hook], what)
                if abs(a - b) > SIZES * max(ours[hook].size, theirs[hook].size):
                    return f"on one prompt the {what} at {hook} was {a:.4g} in one and {b:.4g} in the other"
    return ""


def compare(first: Circuit, second: Circuit) -> Comparison:
    """Match the nodes of two circuits, bring them into common columns, and take one circuit from the other."""
    ours, theirs = _columns(first.tokens, second.tokens)
    labels = _labels((ours, _names(first)), (theirs, _names(second)))
    mine = _align(first, ours, labels, {node.id: node.id for node in first.nodes})
    matched = _match(mine, second, theirs)
    moved = frozenset(matched.values())
    known = {_identity(node, node.pos): node.id for node in mine.nodes if node.id not in moved}
    taken, ids = {node.id for node in mine.nodes}, {}
    for node in second.nodes:
        same = matched.get(node.id) or known.pop(_identity(node, theirs[node.pos]), None)
        fresh = node.id
        while same is None and fresh in taken:
            fresh += "′"
        ids[node.id] = same or fresh
        taken.add(ids[node.id])
    other = _align(second, theirs, labels, ids)
    difference = _subtract(mine, other)
    shorter, at = sorted([(first.tokens, ours), (second.tokens, theirs)], key=lambda one: len(one[0]))[0]
    texts = _labels((ours, first.tokens), (theirs, second.tokens))
    contained = all(texts[column] == token for token, column in zip(shorter, at, strict=True))
    aligned = len(labels) == len(first.tokens) == len(second.tokens) or contained
    if not aligned:
        mine = AlignedGraph(_names(first), first.nodes, first.edges, first)
        other = _align(second, range(len(second.tokens)), _names(second), ids)
    return Comparison(mine, other, difference, aligned, moved)


def _match(mine: AlignedGraph, second: Circuit, columns: Sequence[int]) -> dict[str, str]:
    """The features that stand at other positions, by their ids in the second: the strongest with the strongest."""
    here = {_identity(node, node.pos) for node in mine.nodes}
    there = {_identity(node, columns[node.pos]) for node in second.nodes}
    left = _features(mine, [node for node in mine.nodes if _identity(node, node.pos) not in there])
    for_them = _features(second, [node for node in second.nodes if _identity(node, columns[node.pos]) not in here])
    pairs: dict[str, str] = {}
    for key in left.keys() & for_them.keys():
        ranked = [sorted(one[key], key=lambda node: -abs(node.attribution)) for one in (left, for_them)]
        pairs |= {b.id: a.id for a, b in zip(*ranked, strict=False)}
    return pairs


def _features(graph: Graph, nodes: Sequence[Node] | None = None) -> Mapping[tuple[object, ...], list[Node]]:
    """A graph's nodes that are a feature's, by their feature, and not by their position."""
    found: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in graph.nodes if nodes is None else nodes:
        if node.kind in ("feature", "neuron"):
            found[_identity(node, 0)].append(node)
    return found


def _token(graph: Graph, nodes: Sequence[Node]) -> str:
    """The token at which the strongest of some nodes stands."""
    return graph.positions[max(nodes, key=lambda node: abs(node.attribution)).pos].name


def _strength(nodes: Sequence[Node]) -> float:
    return sum(abs(node.attribution) for node in nodes)


def _identity(node: Node, column: int) -> tuple[object, ...]:
    """What two nodes have in common that are the same node of two circuits."""
    # Logits of a circuit over many prompts have no index, since the outputs differ from prompt to prompt, but a name.
    index = node.label if node.is_logit and node.index is None else node.index
    return node.hook, node.kind, index, None if node.is_logit else column, node.layer


def _columns(first: Sequence[str], second: Sequence[str]) -> tuple[list[int], list[int]]:
    """The common column of each position of either."""
    ours, theirs, count = [0] * len(first), [0] * len(second), 0
    for _, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        ours[a:b], theirs[c:d] = range(count, count + b - a), range(count, count + d - c)
        count += max(b - a, d - c)
    return ours, theirs


def _labels(*sides: tuple[Sequence[int], Sequence[str]]) -> tuple[str, ...]:
    """What stands at each column, of the columns of either side and what is there."""
    found: dict[int, list[str]] = defaultdict(list)
    for columns, texts in sides:
        for column, text in zip(columns, texts, strict=True):
            found[column].append(text)
    return tuple(" / ".join(dict.fromkeys(found[column])) for column in sorted(found))


def _names(circuit: Circuit) -> tuple[str, ...]:
    return tuple(position.name for position in circuit.positions)


def _align(graph: Circuit, columns: Sequence[int], labels: tuple[str, ...], ids: Mapping[str, str]) -> AlignedGraph:
    """The graph with its nodes in other columns and under other ids."""
    nodes = (node.model_copy(update={"id": ids[node.id], "pos": columns[node.pos]}) for node in graph.nodes)
    edges = (edge.model_copy(update={"source": ids[edge.source], "target": ids[edge.target]}) for edge in graph.edges)
    # A label of one's own for what is no feature is of one position.
    told = (graph.meaning(node) for node in graph.nodes if node.index is not None and not node.is_logit)
    meanings = best(meaning for meaning in told if meaning is not None)
    return AlignedGraph(labels, tuple(nodes), tuple(edges), graph, meanings)


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
    return AlignedGraph(first.tokens, tuple(nodes), tuple(edges), None, best((*second.meanings, *first.meanings)))


def _difference(ours: Node | None, theirs: Node | None) -> Node:
    """A node's difference; where only one graph has it, the other's attribution counts as 0."""
    node = ours or theirs
    assert node is not None, "one of them has it"
    values = {
        name: (getattr(ours, name) if ours else 0.0) - (getattr(theirs, name) if theirs else 0.0)
        for name in ("attribution", "activation")
    }
    return node.model_copy(update={**values, "standard_error": None})
