"""Features that may be one: suggested groups, from what feeds them, what they feed, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuitlens.circuit.annotations import Group
from circuitlens.circuit.graph import reaching, strongest_nodes
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.circuit.nodes import Node

if TYPE_CHECKING:
    from circuitlens.circuit.circuit import Circuit

ALIKE = 0.7
"""How alike any two of a group are, at least; 1 is the same."""
COMPARED, SHARE = 500, 0.9
"""Features that are compared, each with each: the strongest, so many at most, that have this share of all their
|attribution|.
"""
METRIC = "metric"
"""All outputs as one neighbour: what a feature does to the metric by any of them counts together."""


def suggest_groups(circuit: Circuit) -> tuple[Group, ...]:
    """Groups of features that have similar edges in and out, or stand for the same; those that matter most come first.

    Features are as alike as the cosines of their edges' weights, the mean of in-edges and out-edges, where neighbours
    count by feature, whatever their position. Words that two features' meanings share close up to half of what is
    missing to 1, all of them for one feature at several positions. Clusters are complete-linkage (scipy), so that any
    two of a group are alike by 0.7 or more; each feature is in one group at most, and none is of less than two. Only
    the strongest features are looked at, which have 90 % of all their |attribution|, and 500 at most.

    What a group does is not known from its edges: measure it with `circuitlens.ablate(adapter, circuit, group.nodes)`.
    """
    features = [node for node in strongest_nodes(circuit.nodes) if node.kind in ("feature", "neuron")]
    nodes = reaching(features, SHARE)[:COMPARED]
    if len(nodes) < 2:
        return ()
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    apart = squareform(1 - _likeness(circuit, nodes), checks=False)
    numbers = fcluster(linkage(apart, "complete"), 1 - ALIKE, "distance")
    members: dict[int, list[Node]] = {}
    for node, number in zip(nodes, numbers.tolist(), strict=True):
        members.setdefault(number, []).append(node)
    found = sorted(
        (group for group in members.values() if len(group) > 1),
        key=lambda group: -sum(abs(node.attribution) for node in group),
    )
    names = _names(circuit, found)
    return tuple(Group(name=name, nodes=tuple(n.id for n in group)) for name, group in zip(names, found, strict=True))


def _likeness(circuit: Circuit, nodes: Sequence[Node]) -> Any:
    """How alike each two of some nodes are, 0 to 1, as a square."""
    import numpy as np

    (into, fed), (out, feed) = (_cosines(circuit, nodes, outwards) for outwards in (False, True))
    # What neither has tells nothing of the two: inputs' features have no in-edges.
    by_edges = np.clip((into + out) / np.maximum(fed.astype(int) + feed, 1), 0, 1)
    words = [_words(circuit, node) for node in nodes]
    shared = np.array([[len(ours & theirs) / len(ours | theirs) for theirs in words] for ours in words])
    likeness = by_edges + (1 - by_edges) * shared / 2
    np.fill_diagonal(likeness, 1)
    return likeness.round(12)  # so that the order of sums decides nothing


def _cosines(circuit: Circuit, nodes: Sequence[Node], outwards: bool) -> tuple[Any, Any]:
    """The cosine of each two nodes' edges one way, 0 where one has none; and whether either of the two has any."""
    import numpy as np

    rows = {node.id: row for row, node in enumerate(nodes)}
    keys = {node.id: METRIC if node.is_logit else node.label_key for node in circuit.nodes}
    columns = {key: column for column, key in enumerate(dict.fromkeys(keys.values()))}
    weights = np.zeros((len(nodes), len(columns)))
    for edge in circuit.edges:
        one, other = (edge.source, edge.target) if outwards else (edge.target, edge.source)
        if one in rows:
            weights[rows[one], columns[keys[other]]] += edge.weight
    largest = np.abs(weights).max(1, initial=0, keepdims=True)
    some = largest[:, 0] > 0
    weights = np.divide(weights, largest, out=np.zeros_like(weights), where=largest > 0)  # so that squares are finite
    weights /= np.where(some, np.linalg.norm(weights, axis=1), 1)[:, None]
    return weights @ weights.T, some | some[:, None]


def _words(circuit: Circuit, node: Node) -> frozenset[str]:
    """What a feature stands for as words; one of which nothing is known shares them with itself alone."""
    meaning = circuit.meaning(node)
    words = re.findall(r"\w+", meaning.text.lower()) if meaning else []
    return frozenset(words or [node.label_key])


def _names(circuit: Circuit, groups: Sequence[Sequence[Node]]) -> list[str]:
    """A name for each group, no two alike: what its strongest node stands for, else what that is called."""
    names: list[str] = []
    for group in groups:
        meaning = circuit.meaning(group[0])
        wanted = meaning.text if meaning else f"{group[0].label} and {len(group) - 1} more"
        numbered = (f"{wanted[: MAX_LABEL - 9]} ({n})" for n in range(2, len(groups) + 2))
        names.append(next(name for name in (wanted[:MAX_LABEL], *numbered) if name not in names))
    return names
