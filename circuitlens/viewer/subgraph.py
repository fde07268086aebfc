"""The subgraph of pinned nodes as Cytoscape elements: each group is one node, its edges are summed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from circuitlens.circuit import Circuit, Node, full_name
from circuitlens.viewer.elements import Element, edge_id, share, sign_class

Members = Mapping[str, Sequence[Node]]


def subgraph(
    circuit: Circuit, pins: Sequence[str], groups: Sequence[tuple[str, Sequence[str]]], labels: Mapping[str, str]
) -> list[Element]:
    """Pinned nodes, each group as one node, and the direct edges between them, those of groups summed."""
    members = _members(circuit, pins, groups)
    sums = _sums(circuit, members)
    heaviest = max(map(abs, sums.values()), default=0.0)
    return [
        *_nodes(circuit, members, labels),
        *(_edge(source, target, weight, heaviest) for (source, target), weight in sums.items()),
    ]


def _members(circuit: Circuit, pins: Sequence[str], groups: Sequence[tuple[str, Sequence[str]]]) -> Members:
    """The nodes behind each node of the subgraph, by a name that begins with "group" or "node"."""
    by_id = {node.id: node for node in circuit.nodes}
    members = {f"group {name}": [by_id[i] for i in ids if i in by_id] for name, ids in groups}
    members |= {f"node {i}": [by_id[i]] for i in pins if i in by_id}
    return {name: nodes for name, nodes in members.items() if nodes}


def _sums(circuit: Circuit, members: Members) -> dict[tuple[str, str], float]:
    part_of = {node.id: name for name, nodes in members.items() for node in nodes}
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for edge in circuit.edges:
        source, target = part_of.get(edge.source), part_of.get(edge.target)
        if source is not None and target is not None and source != target:
            sums[source, target] += edge.weight
    return {ends: weight for ends, weight in sums.items() if weight}


def _nodes(circuit: Circuit, members: Members, labels: Mapping[str, str]) -> list[Element]:
    """A row for each layer, bottom to top; a group stands in the median layer of its nodes."""
    order = {node.id: number for number, node in enumerate(circuit.nodes)}
    rows: dict[int, list[str]] = defaultdict(list)
    for name, nodes in members.items():
        rows[sorted(node.layer for node in nodes)[len(nodes) // 2]].append(name)
    drawn = []
    for k, layer in enumerate(sorted(rows)):
        row = sorted(rows[layer], key=lambda name: min((node.pos, order[node.id]) for node in members[name]))
        for i, name in enumerate(row):
            # Neighbours in a row stand a little apart in height, so that long labels do not meet.
            y = 1 - (k + 0.5 + (0.16 if i % 2 else -0.16) * (len(row) > 1)) / len(rows)
            drawn.append(_node(circuit, name, members[name], labels, (i + 0.5) / len(row), y))
    return drawn


def _node(circuit: Circuit, name: str, nodes: Sequence[Node], labels: Mapping[str, str], x: float, y: float) -> Element:
    first, group = nodes[0], name.startswith("group ")
    label = name.removeprefix("group ") if group else labels.get(first.label_key, full_name(first, circuit.tokens))
    data = {
        "id": f"sub {name}",
        "label": label,
        "w": min(6 * len(label) + 16, 160),
        "x": x,
        "y": y,
        **({} if group else {"node": first.id}),
    }
    sign = sign_class(sum(node.attribution for node in nodes))
    return {"data": data, "classes": f"sub {'group' if group else first.kind} {sign}"}


def _edge(source: str, target: str, weight: float, heaviest: float) -> Element:
    data = {
        "id": edge_id(source, target),
        "source": f"sub {source}",
        "target": f"sub {target}",
        "weight": weight,
        "strength": share(weight, heaviest),
        "text": f"{weight:+.3g}".replace("-", "−"),
    }
    return {"data": data, "classes": "positive" if weight >= 0 else "negative", "selectable": False}
