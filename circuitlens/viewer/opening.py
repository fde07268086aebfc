"""What a circuit opens on, and how few of its nodes are laid out anew: the core first, all of it one click away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from circuitlens.circuit import Circuit, Node
from circuitlens.circuit.comparison import Comparison, Graph
from circuitlens.circuit.graph import reaching, strongest_nodes
from circuitlens.report.answer import answer_path, core_nodes
from circuitlens.viewer.placement import axes, place_nodes

LEGIBLE, SHARE = 30, 0.9
"""Nodes that are shown at first, at most, and of all |attribution| the share that they are to have."""
RUNGS = (4, 8, 15, 30, 60, 120, 250, 500)
"""Numbers of strongest nodes that have a layout of their own: that of the next larger one serves between two."""

Layout = dict[str, Any]


def opening(circuit: Circuit) -> tuple[list[Node], str]:
    """The nodes beside the outputs that are shown at first, and what they are; none and "" where all are.

    These are the core that the evidence found; where there is none, the strongest nodes that have the wanted share of
    all |attribution|; at most so many, and the strongest path with them.
    """
    inner = strongest_nodes(circuit.nodes)
    if core := core_nodes(circuit):
        chosen = strongest_nodes(core)[:LEGIBLE]
        what = "the core" if len(chosen) == len(core) else f"the strongest of the core's {len(core)}"
    elif len(inner) > LEGIBLE:
        chosen, what = reaching(inner, SHARE)[:LEGIBLE], "the strongest"
    else:
        return [], ""
    path = answer_path(circuit)
    wanted = {node.id for node in (*chosen, *(path.nodes if path else ())) if not node.is_logit}
    return ([node for node in inner if node.id in wanted], what) if len(wanted) < len(inner) else ([], "")


def layouts(graph: Graph, whole: Circuit) -> list[Layout]:
    """The layouts of what the page may show: what a circuit opens on, then so many of the strongest nodes, then all.

    Each has `what` it shows where that is not so many of the strongest, their `count`, the `ids` of its nodes beside
    the outputs, its axes, whether it is `roomy`, and `places`: x, y, the room for a name, and a chip's height, by node.

    Args:
        graph: what is drawn.
        whole: the circuit that it is drawn of.
    """
    inner = strongest_nodes(graph.nodes)
    first, what = opening(whole)
    first = [node for node in inner if node.id in {one.id for one in first}]
    chosen = [*((inner[:count], "") for count in RUNGS if count < len(inner)), (inner, "")]
    chosen[:0] = [(first, what)] if first else []
    return [_layout(graph, nodes, what, len(nodes)) for nodes, what in chosen]


def compared_layouts(compared: Comparison, difference: bool = False) -> list[list[Layout]]:
    """The layouts of two graphs side by side, or of their `difference`: what each opens on, so many of its strongest
    nodes, and all.

    Graphs in common columns have one list of layouts, in which the strongest of both stand.
    """
    if difference:
        return [_shared_layouts(compared.difference, [strongest_nodes(compared.difference.nodes)])]
    ranked = [strongest_nodes(graph.nodes) for graph in (compared.first, compared.second)]
    if compared.aligned:
        return [_shared_layouts(compared.difference, ranked)]
    return [_shared_layouts(graph, [one]) for graph, one in zip((compared.first, compared.second), ranked, strict=True)]


def _shared_layouts(graph: Graph, ranked: Sequence[Sequence[Node]]) -> list[Layout]:
    """The layouts of a graph in which the nodes of one or two stand, each strongest first."""
    inner = strongest_nodes(graph.nodes)

    def of(parts: Iterable[Sequence[Node]]) -> list[Node]:
        ids = {node.id for part in parts for node in part}
        return [node for node in inner if node.id in ids]

    most = max(map(len, ranked))
    chosen = [(of(one[:count] for one in ranked), "", count) for count in RUNGS if count < most]
    first = of(reaching(one, SHARE)[:LEGIBLE] for one in ranked)
    opens = [(first, "the strongest", len(first))] if len(first) < len(inner) and len(inner) > LEGIBLE else []
    return [_layout(graph, *one) for one in (*opens, *chosen, (inner, "", most))]


def _layout(graph: Graph, nodes: Sequence[Node], what: str, count: int) -> Layout:
    shown = {node.id for node in nodes}
    placed = place_nodes(graph, [node for node in graph.nodes if node.is_logit or node.id in shown])
    places = {
        name: [round(place.x, 4), round(place.y, 4), round(place.room, 4), round(place.high, 4)]
        for name, place in placed.places.items()
    }
    return {
        "what": what,
        "count": count,
        "ids": [node.id for node in nodes],
        "roomy": placed.roomy,
        "places": places,
        **axes(graph, placed),
    }
