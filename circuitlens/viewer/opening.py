"""What a circuit opens on, and how few of its nodes are laid out anew: the core first, all of it one click away."""

from __future__ import annotations

from collections.abc import Sequence
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


def layouts(graph: Graph, whole: Circuit | None = None) -> list[Layout]:
    """The layouts of what the page may show: what a circuit opens on, then so many of the strongest nodes, then all.

    Each has `what` it shows where that is not so many of the strongest, the `ids` of its nodes beside the outputs, its
    axes, whether it is `roomy`, and `places`: x, y, the room for a name, and a chip's height, by node.

    Args:
        graph: what is drawn.
        whole: the circuit that it is drawn of; a difference has none, and the layout of all nodes only.
    """
    inner = strongest_nodes(graph.nodes)
    chosen = [(inner, "")]
    if whole is not None:
        first, what = opening(whole)
        first = [node for node in inner if node.id in {one.id for one in first}]
        chosen[:0] = [(inner[:count], "") for count in RUNGS if count < len(inner)]
        chosen[:0] = [(first, what)] if first else []
    return [_layout(graph, nodes, what) for nodes, what in chosen]


def compared_layouts(compared: Comparison) -> list[list[Layout]]:
    """The layouts of two graphs side by side, which open on the strongest nodes of each, then have all.

    Graphs in common columns have one layout, in which the strongest of both stand.
    """
    pair = (compared.first, compared.second)
    first = [{node.id for node in reaching(strongest_nodes(graph.nodes), SHARE)[:LEGIBLE]} for graph in pair]
    graphs, wanted = (list(pair), first) if not compared.aligned else ([compared.difference], [first[0] | first[1]])
    made = []
    for graph, ids in zip(graphs, wanted, strict=True):
        inner = strongest_nodes(graph.nodes)
        chosen = [node for node in inner if node.id in ids]
        opens = [(chosen, "the strongest")] if len(chosen) < len(inner) and len(inner) > LEGIBLE else []
        made.append([_layout(graph, nodes, what) for nodes, what in (*opens, (inner, ""))])
    return made


def _layout(graph: Graph, nodes: Sequence[Node], what: str) -> Layout:
    shown = {node.id for node in nodes}
    placed = place_nodes(graph, [node for node in graph.nodes if node.is_logit or node.id in shown])
    places = {
        name: [round(place.x, 4), round(place.y, 4), round(place.room, 4), round(place.high, 4)]
        for name, place in placed.places.items()
    }
    return {
        "what": what,
        "ids": [node.id for node in nodes],
        "roomy": placed.roomy,
        "places": places,
        **axes(graph, placed),
    }
