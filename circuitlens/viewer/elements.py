"""A graph as Cytoscape elements: pure functions, no Dash."""

from __future__ import annotations

import json
from math import sqrt
from typing import Any

from circuitlens.circuit import Circuit, Edge, Node
from circuitlens.circuit.comparison import Graph
from circuitlens.circuit.graph import strongest_nodes
from circuitlens.report.answer import output_role
from circuitlens.report.summary import describe_heads
from circuitlens.report.text import count, plain, signed, visible
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.placement import Place, place_nodes

Element = dict[str, Any]


def elements(
    graph: Graph, *, layout_of: Graph | None = None, scale: tuple[float, float] | None = None
) -> list[Element]:
    """Bands, nodes, and edges from strongest to weakest.

    Node data: `node` is its id in the graph, `key` what its label is kept by, `meaning` what it stands for, `size` 0..1
    the root of its share of the largest |attribution|, `rank` its place by |attribution| from 0 (-1 for logits, which
    always stay). Edge data: `strength` likewise of |weight|, what is `told` of it, and `rank`; each is off until the
    page's script shows it, as thousands take a second to draw. Element ids begin with their kind, so that none collide.

    Args:
        graph: what is drawn.
        layout_of: a graph that has all of its nodes, in whose layout they stand.
        scale: the largest |attribution| and |weight|, by default the graph's own.
    """
    placed = place_nodes(layout_of or graph)
    largest, heaviest = scale or largest_of(graph)
    here = {node.id: node for node in graph.nodes}
    ranks = {node.id: rank for rank, node in enumerate(strongest_nodes(graph.nodes))}
    small = "roomy" if placed.roomy else "crowded"
    says_token = next((node.hook for node in graph.nodes if node.kind == "embedding"), None)
    drawn = [_band(k, len(placed.rows)) for k in range(len(placed.rows))]
    for name, place in placed.places.items():
        if (node := here.get(name)) is not None:  # else it is of the layout's graph only
            token = node.kind == "embedding" and node.hook == says_token
            label = visible(graph.positions[node.pos].name) if token else plain(node.label)
            drawn.append(_node(graph, node, label, place, small, ranks.get(name, -1), largest))
    strongest = sorted(graph.edges, key=lambda edge: -abs(edge.weight))
    roles = {node.id: output_role(graph, node) for node in graph.nodes}
    return drawn + [_edge(edge, rank, heaviest, roles[edge.target]) for rank, edge in enumerate(strongest)]


def largest_of(graph: Graph) -> tuple[float, float]:
    """The largest |attribution| of a node that is no logit, and the largest |weight|: what sizes are relative to."""
    return (
        max((abs(node.attribution) for node in graph.nodes if not node.is_logit), default=0.0),
        max((abs(edge.weight) for edge in graph.edges), default=0.0),
    )


def within_budget(
    circuit: Circuit, nodes: int = 1000, edges: int = 5000, rest: str = "an export has all"
) -> tuple[Circuit, str]:
    """The circuit cut down to what a browser draws fluently, and a sentence on what was left out, with where the `rest`
    is ("" if nothing was).
    """
    inner = sum(not node.is_logit for node in circuit.nodes)
    if inner <= nodes and len(circuit.edges) <= edges:
        return circuit, ""
    drawn = circuit.prune(max_nodes=nodes, max_edges=edges)
    kept = sum(not node.is_logit for node in drawn.nodes)
    parts = [
        f"{count(shown)} of {count(whole)} {what}"
        for what, shown, whole in (("nodes", kept, inner), ("edges", len(drawn.edges), len(circuit.edges)))
        if shown < whole
    ]
    return drawn, f"Drawn are the strongest {' and '.join(parts)}; {rest}."


def share(value: float, largest: float) -> float:
    """The root of a value's share of the largest, so that areas compare."""
    return sqrt(abs(value) / largest) if largest else 0.0


def sign_class(attribution: float) -> str:
    """The class of a node that raises or lowers the metric."""
    return "raises" if attribution > 0 else "lowers" if attribution < 0 else "neither"


def edge_id(source: str, target: str) -> str:
    """An edge's element id, which names its ends: Cytoscape never moves an edge that it knows."""
    return f"edge {json.dumps([source, target])}"


def _band(k: int, rows: int) -> Element:
    """The ground of a row, which is only looked at."""
    data = {"id": f"band {k}", "x": 0.5, "y": 1 - (k + 0.5) / rows, "high": 1 / rows}
    return {"data": data, "classes": "band", "selectable": False, "grabbable": False}


def _node(graph: Graph, node: Node, label: str, place: Place, small: str, rank: int, largest: float) -> Element:
    meaning = graph.meaning(node)
    data = {
        "id": f"node {node.id}",
        "node": node.id,
        "key": node.label_key,
        "pos": node.pos,
        "label": label,
        **({"meaning": plain(meaning.text)} if meaning and meaning.source != "yours" else {}),  # that is its name
        "title": _title(graph, node),
        "rank": rank,
        "size": 1.0 if node.is_logit else share(node.attribution, largest),
        "x": place.x,
        "y": place.y,
        **({"room": place.room, "high": place.high} if place.chip else {}),
    }
    role = output_role(graph, node)
    classes = f"{node.kind} {'chip' if place.chip else small} {sign_class(node.attribution)} {role}".rstrip()
    return {"data": data, "classes": classes, "grabbable": False}


def _title(graph: Graph, node: Node) -> str:
    """What is said of a node under the pointer."""
    role = output_role(graph, node)
    told = f"{shown_name(graph, node)}{f', the {role}' if role else ''}: attribution {signed(node.attribution)}"
    return f"{told}, activation {node.activation:.3f}"


def _edge(edge: Edge, rank: int, heaviest: float, role: str) -> Element:
    data = {
        "id": edge_id(edge.source, edge.target),
        "source": f"node {edge.source}",
        "target": f"node {edge.target}",
        "strength": share(edge.weight, heaviest),
        "rank": rank,
        "told": f"{signed(edge.weight)}, {edge.basis}{f', by {heads}' if (heads := describe_heads(edge)) else ''}",
    }
    sign = "positive" if edge.weight >= 0 else "negative"
    # What raises the metric at the distractor holds it back, as does what lowers it at the answer.
    holds = " holds" if (role == "distractor") == (edge.weight >= 0) and role else ""
    return {"data": data, "classes": f"{sign}{holds} off", "selectable": False}
