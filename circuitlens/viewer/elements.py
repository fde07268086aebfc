"""A circuit as Cytoscape elements and stylesheets: pure functions, no Dash.

Layers run from the bottom to the top and positions from left to right; a column is as wide as its fullest cell.
Places are fractions of the pane (`x`, `y` in 0..1, y downwards): the page's script multiplies them by the pane's size.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import accumulate
from math import sqrt
from typing import Any

from circuitlens.circuit import Circuit, Node

ROOMY = 12
"""Up to so many nodes in the fullest layer each is drawn large, with its label inside."""

Element = dict[str, Any]


def elements(circuit: Circuit) -> list[Element]:
    """Bands and axis labels, nodes, and edges from strongest to weakest.

    Node data: `node` is its id in the circuit, `size` 0..1 the root of its share of the largest |attribution|. Edge
    data: `strength` likewise of |weight|, and `rank` from 0. Element ids begin with their kind, so that none collide.
    """
    layers = sorted({node.layer for node in circuit.nodes})
    height = {layer: 1 - (row + 0.5) / len(layers) for row, layer in enumerate(layers)}
    spans = _column_spans(circuit)
    drawn = [_band(layer, height[layer], len(layers)) for layer in layers]
    drawn += [_axis(f"layer {layer}", _hooks_of(layer, circuit), 0.0, height[layer], "layer") for layer in layers]
    for pos, (start, width) in spans.items():
        drawn.append(_axis(f"column {pos}", circuit.tokens[pos], start + width / 2, 1.0, "column"))
    return drawn + _nodes(circuit, height, spans) + _edges(circuit)


def stylesheet(scheme: str) -> list[dict[str, Any]]:
    """The Cytoscape stylesheet for the "light" or the "dark" page."""
    c = COLOURS[scheme]
    return [
        {
            "selector": "node",
            "style": {
                "font-family": "system-ui, sans-serif",
                "font-size": 12,
                "color": c["text"],
                "border-width": 1.5,
                "border-color": c["border"],
                "background-color": c["ground"],
            },
        },
        {
            "selector": "node[label]",
            "style": {
                "label": "data(label)",
                "text-valign": "center",
                "text-outline-width": 2,
                "text-outline-color": c["ground"],
            },
        },
        {"selector": "node[size]", "style": {"width": "mapData(size,0,1,8,22)", "height": "mapData(size,0,1,8,22)"}},
        {"selector": ".crowded", "style": {"text-valign": "top", "text-margin-y": -2, "text-opacity": 0}},
        {"selector": ".crowded:selected, .crowded.near, .crowded.hovered", "style": {"text-opacity": 1}},
        {
            "selector": "node[size].roomy",
            "style": {"width": "mapData(size,0,1,34,56)", "height": "mapData(size,0,1,34,56)"},
        },
        {
            "selector": ".feature, .neuron",
            "style": {"text-outline-width": 0, "border-color": c["faint"]},
        },
        {"selector": ".feature", "style": {"shape": "ellipse"}},
        {"selector": ".neuron", "style": {"shape": "hexagon"}},
        {
            "selector": ".feature.raises, .neuron.raises",
            "style": {"background-color": c["positive fill"], "border-color": c["positive"]},
        },
        {
            "selector": ".feature.lowers, .neuron.lowers",
            "style": {"background-color": c["negative fill"], "border-color": c["negative"]},
        },
        {
            "selector": ".error",
            "style": {"shape": "diamond", "background-color": c["error"], "text-outline-width": 0},
        },
        {
            "selector": ".input, .embedding, .logit",
            "style": {
                "shape": "round-rectangle",
                "text-outline-width": 0,
                "width": 84,
                "height": 30,
                "text-valign": "center",
                "text-margin-y": 0,
                "text-opacity": 1,
                "text-max-width": "78px",
                "text-wrap": "ellipsis",
            },
        },
        {"selector": ".input, .embedding", "style": {"background-color": c["input"]}},
        {"selector": ".logit", "style": {"background-color": c["logit"], "font-weight": "bold"}},
        {
            "selector": ".band, .axis",
            "style": {"events": "no", "border-width": 0, "z-compound-depth": "bottom", "text-outline-width": 0},
        },
        {
            "selector": ".band[w]",
            "style": {"shape": "rectangle", "background-color": c["band"], "width": "data(w)", "height": "data(h)"},
        },
        {"selector": ".axis", "style": {"width": 1, "height": 1, "background-opacity": 0, "color": c["faint"]}},
        {"selector": ".axis.layer", "style": {"text-halign": "right", "font-size": 11}},
        {"selector": ".axis.column", "style": {"text-halign": "center", "font-weight": "bold"}},
        {
            "selector": "edge",
            "style": {
                "curve-style": "bezier",
                "line-color": c["positive"],
                "target-arrow-color": c["positive"],
                "target-arrow-shape": "triangle",
                "arrow-scale": 0.8,
                "width": "mapData(strength,0,1,0.6,6)",
                "opacity": "mapData(strength,0,1,0.2,0.9)",
            },
        },
        {
            "selector": "edge.negative",
            "style": {"line-color": c["negative"], "target-arrow-color": c["negative"], "line-style": "dashed"},
        },
        {"selector": ".off", "style": {"display": "none"}},
        {"selector": ".faded", "style": {"opacity": 0.15}},
        {"selector": ".input.faded, .embedding.faded, .logit.faded", "style": {"opacity": 0.6}},
        {"selector": "node:selected", "style": {"border-width": 4, "border-color": c["focus"]}},
    ]


COLOURS = {
    "light": {
        "ground": "#ffffff",
        "text": "#212529",
        "faint": "#5c636a",
        "border": "#495057",
        "band": "#f4f5f7",
        "positive": "#2166ac",
        "positive fill": "#d7e6f4",
        "negative": "#c2410c",
        "negative fill": "#fbe3d6",
        "error": "#dee2e6",
        "input": "#e7f5ff",
        "logit": "#fff3bf",
        "focus": "#e64980",
    },
    "dark": {
        "ground": "#242424",
        "text": "#f1f3f5",
        "faint": "#adb5bd",
        "border": "#adb5bd",
        "band": "#2e2e32",
        "positive": "#74b3ee",
        "positive fill": "#23405c",
        "negative": "#f4a582",
        "negative fill": "#5a3626",
        "error": "#495057",
        "input": "#1b3a57",
        "logit": "#5c4a00",
        "focus": "#faa2c1",
    },
}


def _nodes(circuit: Circuit, height: dict[int, float], spans: dict[int, tuple[float, float]]) -> list[Element]:
    largest = max((abs(node.attribution) for node in circuit.nodes if node.kind != "logit"), default=0.0)
    fullest = max(Counter(node.layer for node in circuit.nodes).values(), default=0)
    room = "roomy" if fullest <= ROOMY else "crowded"
    cells: dict[tuple[int, int], list[Node]] = defaultdict(list)
    for node in circuit.nodes:
        cells[node.pos, node.layer].append(node)
    drawn = []
    for (pos, layer), cell in cells.items():
        start, width = spans[pos]
        cell.sort(key=lambda node: node.kind == "error")  # errors last, the rest as the circuit has them
        for k, node in enumerate(cell):
            data = {
                "id": f"node {node.id}",
                "node": node.id,
                "label": node.label,
                "size": _share(node.attribution, largest) if node.kind != "logit" else 1.0,
                "x": start + width * (k + 0.5) / len(cell),
                "y": height[layer],
            }
            sign = "raises" if node.attribution > 0 else "lowers" if node.attribution < 0 else "neither"
            drawn.append({"data": data, "classes": f"{node.kind} {room} {sign}", "grabbable": False})
    return drawn


def _edges(circuit: Circuit) -> list[Element]:
    heaviest = max((abs(edge.weight) for edge in circuit.edges), default=0.0)
    drawn = []
    for rank, edge in enumerate(sorted(circuit.edges, key=lambda edge: -abs(edge.weight))):
        data = {
            # Cytoscape never moves an edge, so one between other nodes needs another id.
            "id": f"edge {json.dumps([edge.source, edge.target])}",
            "source": f"node {edge.source}",
            "target": f"node {edge.target}",
            "strength": _share(edge.weight, heaviest),
            "rank": rank,
        }
        drawn.append({"data": data, "classes": "positive" if edge.weight >= 0 else "negative", "selectable": False})
    return drawn


def _column_spans(circuit: Circuit) -> dict[int, tuple[float, float]]:
    """Start and width of each position's column as fractions of the pane; positions without nodes have none."""
    cells = Counter((node.pos, node.layer) for node in circuit.nodes)
    fullest: dict[int, int] = {}
    for (pos, _layer), count in sorted(cells.items()):
        fullest[pos] = max(count, fullest.get(pos, 0))
    ends = list(accumulate(fullest.values()))
    return {
        pos: ((end - size) / ends[-1], size / ends[-1]) for (pos, size), end in zip(fullest.items(), ends, strict=True)
    }


def _band(layer: int, y: float, layers: int) -> Element:
    """The ground of a layer: as wide as the pane, and a share of its height."""
    return {"data": {"id": f"band {layer}", "x": 0.5, "y": y, "high": 1 / layers}, "classes": "band", **_INERT}


def _axis(name: str, text: str, x: float, y: float, which: str) -> Element:
    return {"data": {"id": f"axis {name}", "label": text, "x": x, "y": y}, "classes": f"axis {which}", **_INERT}


_INERT = {"selectable": False, "grabbable": False}


def _hooks_of(layer: int, circuit: Circuit) -> str:
    return " · ".join(dict.fromkeys(node.hook for node in circuit.nodes if node.layer == layer))


def _share(value: float, largest: float) -> float:
    return sqrt(abs(value) / largest) if largest else 0.0
