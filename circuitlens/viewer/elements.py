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

from circuitlens.circuit import Circuit, Node, full_name

ROOMY, ROOMY_ROWS = 12, 10
"""With up to so many slots across and so many rows each node is drawn large, with its label inside."""
LINES, LINES_IN_ALL, LEGIBLE = 3, 20, 36
"""With more than so many slots across, the nodes of a cell stand in more than one line: up to three, or where there are
few rows in more, so many in all.
"""
GAP = 0.1
"""Of a column's width, between its small nodes and the next column's."""
CHIP = 3
"""Slots of a chip (an input, embedding or logit), and of a column at least."""
CHIPS = ("input", "embedding", "logit")

Element = dict[str, Any]
Rows = Sequence[Sequence[Node]]


def elements(
    circuit: Circuit, *, layout_of: Circuit | None = None, scale: tuple[float, float] | None = None
) -> list[Element]:
    """Bands, nodes, and edges from strongest to weakest.

    Node data: `node` is its id in the circuit, `size` 0..1 the root of its share of the largest |attribution|, `rank`
    its place by |attribution| from 0 (-1 for logits, which always stay). Edge data: `strength` likewise of |weight|,
    and `rank`; each is off until the page's script shows it, as thousands take a second to draw. Element ids begin
    with their kind, so that none collide.

    Args:
        circuit: what is drawn.
        layout_of: a circuit that has all of its nodes, in whose layout they stand.
        scale: the largest |attribution| and |weight|, by default the circuit's own.
    """
    rows, slots, roomy = _layout(layout_of or circuit)
    drawn = [
        _inert("band", f"band {k}", x=0.5, y=1 - (k + 0.5) / len(rows), high=1 / len(rows)) for k in range(len(rows))
    ]
    largest, heaviest = scale or largest_of(circuit)
    return drawn + _nodes(circuit, rows, slots, roomy, largest) + _edges(circuit, heaviest)


def axes(circuit: Circuit) -> dict[str, list[dict[str, Any]]]:
    """What stands along the layout: hooks with their rows, tokens with their columns, in fractions of the pane."""
    rows, slots, _ = _layout(circuit)
    return {
        "rows": [
            {
                "label": " · ".join(dict.fromkeys(node.hook for node in row)),
                "layer": row[0].layer,
                "y": 1 - (k + 0.5) / len(rows),
                "high": 1 / len(rows),
            }
            for k, row in enumerate(rows)
        ],
        "columns": [
            {"label": visible(circuit.tokens[pos]), "pos": pos, "x": start + width / 2, "width": width}
            for pos, (start, width) in _spans(slots).items()
        ],
    }


def largest_of(circuit: Circuit) -> tuple[float, float]:
    """The largest |attribution| of a node that is no logit, and the largest |weight|: what sizes are relative to."""
    return (
        max((abs(node.attribution) for node in circuit.nodes if node.kind != "logit"), default=0.0),
        max((abs(edge.weight) for edge in circuit.edges), default=0.0),
    )


def within_budget(circuit: Circuit, nodes: int = 1000, edges: int = 5000) -> tuple[Circuit, str]:
    """The circuit cut down to what a browser draws fluently, and a sentence on what was left out ("" if nothing)."""
    inner = sum(node.kind != "logit" for node in circuit.nodes)
    if inner <= nodes and len(circuit.edges) <= edges:
        return circuit, ""
    drawn = circuit.prune(max_nodes=nodes, max_edges=edges)
    kept = sum(node.kind != "logit" for node in drawn.nodes)
    parts = [
        f"{count(shown)} of {count(whole)} {what}"
        for what, shown, whole in (("nodes", kept, inner), ("edges", len(drawn.edges), len(circuit.edges)))
        if shown < whole
    ]
    return drawn, f"Drawn are the strongest {' and '.join(parts)}; an export has all."


def count(number: int) -> str:
    """A whole number in groups of three digits."""
    return f"{number:,}".replace(",", "\u202f")


def _layout(circuit: Circuit) -> tuple[Rows, Mapping[int, int], bool]:
    """The rows, the slots that each column needs, and whether there is room for large nodes."""
    rows = _rows(circuit)
    most = max(LINES, LINES_IN_ALL // max(len(rows), 1))
    layouts = [_slots(rows, lines) for lines in range(1, most + 1)]
    slots = next((one for one in layouts if sum(one.values()) <= LEGIBLE), layouts[-1])
    return rows, slots, sum(slots.values()) <= ROOMY and len(rows) <= ROOMY_ROWS


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
        {"selector": ".crowded[rank >= 0][rank < 5]", "style": {"text-opacity": 1, "z-index": 1}},
        {
            "selector": ".crowded.focused, .crowded.near, .crowded.hovered, .crowded.pinned",
            "style": {"text-opacity": 1, "z-index": 2},
        },
        {"selector": "node[name]", "style": {"label": "data(name)"}},
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
            "selector": ".band",
            "style": {"events": "no", "border-width": 0, "z-compound-depth": "bottom"},
        },
        {
            "selector": ".band[w]",
            "style": {"shape": "rectangle", "background-color": c["band"], "width": "data(w)", "height": "data(h)"},
        },
        {
            "selector": ".group",
            "style": {
                "shape": "round-rectangle",
                "border-width": 3,
                "border-style": "double",
                "border-color": c["pin"],
            },
        },
        {
            "selector": ".sub[w]",
            "style": {"width": "data(w)", "height": 24, "shape": "round-rectangle", "font-size": 11},
        },
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
        {
            "selector": "edge[text]",
            "style": {
                "label": "data(text)",
                "font-size": 10,
                "color": c["text"],
                "text-background-color": c["ground"],
                "text-background-opacity": 0.85,
            },
        },
        {"selector": ".off, .away", "style": {"display": "none"}},
        {"selector": ".off.revealed, .away.revealed", "style": {"display": "element"}},
        {"selector": ".faded", "style": {"opacity": 0.15}},
        {"selector": "edge.faded", "style": {"line-style": "solid"}},  # a dash costs a browser far more to draw
        {"selector": ".input.faded, .embedding.faded, .logit.faded", "style": {"opacity": 0.6}},
        {"selector": ".pinned", "style": {"border-width": 3, "border-color": c["pin"]}},
        {"selector": ".intervened", "style": {"border-style": "dashed", "background-opacity": 0.35}},
        {"selector": ".focused", "style": {"border-width": 4, "border-color": c["focus"]}},
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
        "pin": "#6741d9",
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
        "pin": "#b197fc",
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


def _nodes(circuit: Circuit, rows: Rows, slots: Mapping[int, int], roomy: bool, largest: float) -> list[Element]:
    spans = _spans(slots)
    here = {node.id: node for node in circuit.nodes}
    ranked = sorted((node for node in circuit.nodes if node.kind != "logit"), key=lambda node: -abs(node.attribution))
    ranks = {node.id: rank for rank, node in enumerate(ranked)}
    drawn = []
    for k, row in enumerate(rows):
        cells = _cells(row)
        chip = row[0].kind in CHIPS
        stacked = max(ceil(CHIP * len(cell) / slots[pos]) for pos, cell in cells.items())
        for pos, cell in cells.items():
            start, width = spans[pos]
            lines = stacked if chip else ceil(len(cell) / slots[pos])
            across = ceil(len(cell) / lines) if chip else len(cell)
            gap = 0.0 if roomy or chip else GAP
            for i, placed in enumerate(cell):
                node = here.get(placed.id)
                if node is None:
                    continue  # of the layout's circuit only
                above = 0.84 / lines * (i % lines - (lines - 1) / 2)  # of the row's height
                data = {
                    "id": f"node {node.id}",
                    "node": node.id,
                    "label": node.label,
                    "title": f"{full_name(node, circuit.tokens)}: attribution {node.attribution:+.3f}, "
                    f"activation {node.activation:.3f}",
                    "rank": ranks.get(node.id, -1),
                    "size": _share(node.attribution, largest) if node.kind != "logit" else 1.0,
                    "x": start + width * (gap / 2 + (1 - gap) * ((i // lines if chip else i) + 0.5) / across),
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


def _edges(circuit: Circuit, heaviest: float) -> list[Element]:
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


def subgraph(
    circuit: Circuit,
    pins: Sequence[str],
    groups: Sequence[tuple[str, Sequence[str]]],
    labels: Mapping[str, str],
) -> list[Element]:
    """Pinned nodes, each group as one node, and the direct edges between them, those of groups summed."""
    by_id = {node.id: node for node in circuit.nodes}
    members = {f"group {name}": [by_id[i] for i in ids if i in by_id] for name, ids in groups}
    members |= {f"node {i}": [by_id[i]] for i in pins if i in by_id}
    members = {name: nodes for name, nodes in members.items() if nodes}
    part_of = {node.id: name for name, nodes in members.items() for node in nodes}
    order = {node.id: number for number, node in enumerate(circuit.nodes)}
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for edge in circuit.edges:
        source, target = part_of.get(edge.source), part_of.get(edge.target)
        if source is not None and target is not None and source != target:
            sums[source, target] += edge.weight
    sums = {ends: weight for ends, weight in sums.items() if weight}

    def level(name: str) -> int:
        layers = sorted(node.layer for node in members[name])
        return layers[len(layers) // 2]

    levels = sorted({level(name) for name in members})
    drawn = []
    for k, layer in enumerate(levels):
        row = sorted(
            (name for name in members if level(name) == layer),
            key=lambda name: min((node.pos, order[node.id]) for node in members[name]),
        )
        for i, name in enumerate(row):
            first, attribution = members[name][0], sum(node.attribution for node in members[name])
            group = name.startswith("group ")
            label = name.removeprefix("group ") if group else labels.get(first.id, full_name(first, circuit.tokens))
            data = {
                "id": f"sub {name}",
                "label": label,
                "w": min(6 * len(label) + 16, 160),
                "x": (i + 0.5) / len(row),
                # Neighbours in a row stand a little apart in height, so that long labels do not meet.
                "y": 1 - (k + 0.5 + (0.16 if i % 2 else -0.16) * (len(row) > 1)) / len(levels),
                **({} if group else {"node": first.id}),
            }
            sign = "raises" if attribution > 0 else "lowers" if attribution < 0 else "neither"
            drawn.append({"data": data, "classes": f"sub {'group' if group else first.kind} {sign}"})
    heaviest = max(map(abs, sums.values()), default=0.0)
    for (source, target), weight in sums.items():
        data = {
            "id": f"edge {json.dumps([source, target])}",
            "source": f"sub {source}",
            "target": f"sub {target}",
            "weight": weight,
            "strength": _share(weight, heaviest),
            "text": f"{weight:+.3g}".replace("-", "−"),
        }
        drawn.append({"data": data, "classes": "positive" if weight >= 0 else "negative", "selectable": False})
    return drawn


def _inert(classes: str, name: str, **data: Any) -> Element:
    """What is only looked at: the ground of a row."""
    return {"data": {"id": name, **data}, "classes": classes, "selectable": False, "grabbable": False}


def _share(value: float, largest: float) -> float:
    return sqrt(abs(value) / largest) if largest else 0.0
