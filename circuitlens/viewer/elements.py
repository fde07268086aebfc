"""A circuit as Cytoscape elements and stylesheets: pure functions, no Dash.

Each hook has a row, from the bottom to the top, and positions run from left to right; a column is as wide as its
fullest cell needs. Places are fractions of the pane (`x`, `y` in 0..1, y downwards), and so are the `room` across and
the `high` of what is fitted to its place: the page's script multiplies them by the pane's size.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil, sqrt
from typing import Any

from circuitlens.circuit import Circuit, Node

ROOMY, ROOMY_ROWS = 12, 10
"""With up to so many slots across and so many rows each node is drawn large, with its label inside."""
LINES, LEGIBLE = 3, 36
"""With more than so many slots across, the nodes of a cell stand in more than one line, up to three."""
CHIP = 3
"""Slots of a chip (an input, embedding or logit), and of a column at least."""
CHIPS = ("input", "embedding", "logit")

Element = dict[str, Any]
Rows = Sequence[Sequence[Node]]


def elements(circuit: Circuit) -> list[Element]:
    """Bands and axis labels, nodes, and edges from strongest to weakest.

    Node data: `node` is its id in the circuit, `size` 0..1 the root of its share of the largest |attribution|. Edge
    data: `strength` likewise of |weight|, and `rank` from 0; each is off until the page's script shows it, as thousands
    take a second to draw. Element ids begin with their kind, so that none collide.
    """
    rows = _rows(circuit)
    layouts = [_slots(rows, lines) for lines in range(1, LINES + 1)]
    slots = next((one for one in layouts if sum(one.values()) <= LEGIBLE), layouts[-1])
    roomy = sum(slots.values()) <= ROOMY and len(rows) <= ROOMY_ROWS
    drawn = []
    for k, row in enumerate(rows):
        y, high = 1 - (k + 0.5) / len(rows), 1 / len(rows)
        drawn.append(_inert("band", f"band {k}", x=0.5, y=y, high=high))
        hooks = " · ".join(dict.fromkeys(node.hook for node in row))
        drawn.append(_inert("axis row", f"axis row {k}", label=hooks, x=0.0, y=y, high=high))
    for pos, (start, width) in _spans(slots).items():
        token = visible(circuit.tokens[pos])
        drawn.append(_inert("axis column", f"axis column {pos}", label=token, x=start + width / 2, y=1.0, room=width))
    return drawn + _nodes(rows, slots, roomy) + _edges(circuit)


def visible(token: str) -> str:
    """A token with spaces at its ends and what can't be printed made visible."""
    if not token.isprintable():
        token = repr(token)[1:-1]
    return re.sub(r"^ +| +$", lambda spaces: "␣" * len(spaces[0]), token)


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
            "selector": ".chip[w]",
            "style": {
                "shape": "round-rectangle",
                "text-outline-width": 0,
                "width": "data(w)",
                "height": "data(h)",
                "font-size": "data(font)",
            },
        },
        {"selector": "node[text]", "style": {"text-max-width": "data(text)", "text-wrap": "ellipsis"}},
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
        {"selector": ".axis.row[font]", "style": {"text-halign": "right", "font-size": "data(font)"}},
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
        {"selector": ".off.revealed", "style": {"display": "element"}},
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


def _rows(circuit: Circuit) -> Rows:
    """Nodes by their rows, bottom to top: one for each hook in the circuit's order, one for embeddings, logits last."""
    rows: dict[str, list[Node]] = {}
    for node in circuit.nodes:
        rows.setdefault(node.kind if node.kind in ("embedding", "logit") else f"hook {node.hook}", []).append(node)
    logits = rows.pop("logit", None)
    return [*rows.values(), *([logits] if logits else [])]


def _cells(row: Sequence[Node]) -> Mapping[int, list[Node]]:
    """A row's nodes by position, errors last and the rest as the circuit has them."""
    cells: dict[int, list[Node]] = defaultdict(list)
    for node in sorted(row, key=lambda node: node.kind == "error"):
        cells[node.pos].append(node)
    return cells


def _slots(rows: Rows, lines: int) -> dict[int, int]:
    """How many slots each position's column needs, left to right; positions without nodes have no column."""
    slots: dict[int, int] = {}
    for row in rows:
        for pos, cell in _cells(row).items():
            needed = CHIP * ceil(len(cell) / min(lines, 2)) if cell[0].kind in CHIPS else ceil(len(cell) / lines)
            slots[pos] = max(needed, slots.get(pos, CHIP))
    return dict(sorted(slots.items()))


def _spans(slots: Mapping[int, int]) -> dict[int, tuple[float, float]]:
    """Start and width of each column as fractions of the pane."""
    ends = list(accumulate(slots.values()))
    return {pos: ((end - n) / ends[-1], n / ends[-1]) for (pos, n), end in zip(slots.items(), ends, strict=True)}


def _nodes(rows: Rows, slots: Mapping[int, int], roomy: bool) -> list[Element]:
    largest = max((abs(node.attribution) for row in rows for node in row if node.kind != "logit"), default=0.0)
    spans = _spans(slots)
    drawn = []
    for k, row in enumerate(rows):
        cells = _cells(row)
        chip = row[0].kind in CHIPS
        stacked = max(ceil(CHIP * len(cell) / slots[pos]) for pos, cell in cells.items())
        for pos, cell in cells.items():
            start, width = spans[pos]
            lines = stacked if chip else ceil(len(cell) / slots[pos])
            across = ceil(len(cell) / lines) if chip else len(cell)
            for i, node in enumerate(cell):
                above = 0.84 / lines * (i % lines - (lines - 1) / 2)  # of the row's height
                data = {
                    "id": f"node {node.id}",
                    "node": node.id,
                    "label": node.label,
                    "size": _share(node.attribution, largest) if node.kind != "logit" else 1.0,
                    "x": start + width * ((i // lines if chip else i) + 0.5) / across,
                    "y": 1 - (k + 0.5 + above) / len(rows),
                    **({"room": width / across, "high": 0.7 / lines / len(rows)} if chip else {}),
                }
                sign = "raises" if node.attribution > 0 else "lowers" if node.attribution < 0 else "neither"
                drawn.append(
                    {
                        "data": data,
                        "classes": f"{node.kind} {'chip' if chip else 'roomy' if roomy else 'crowded'} {sign}",
                        "grabbable": False,
                    }
                )
    return drawn


def _edges(circuit: Circuit) -> list[Element]:
    heaviest = max((abs(edge.weight) for edge in circuit.edges), default=0.0)
    drawn = []
    for rank, edge in enumerate(sorted(circuit.edges, key=lambda edge: -abs(edge.weight))):
        sign = "positive" if edge.weight >= 0 else "negative"
        data = {
            # Cytoscape never moves an edge, so one between other nodes needs another id.
            "id": f"edge {json.dumps([edge.source, edge.target])}",
            "source": f"node {edge.source}",
            "target": f"node {edge.target}",
            "strength": _share(edge.weight, heaviest),
            "rank": rank,
        }
        drawn.append({"data": data, "classes": f"{sign} off", "selectable": False})
    return drawn


def _inert(classes: str, name: str, **data: Any) -> Element:
    """What is only looked at: the ground of a row, or a name on an axis."""
    return {"data": {"id": name, **data}, "classes": classes, "selectable": False, "grabbable": False}


def _share(value: float, largest: float) -> float:
    return sqrt(abs(value) / largest) if largest else 0.0
