"""Where a graph's nodes stand: a row for each hook, from the bottom to the top, and a column for each position.

A column is as wide as its fullest cell needs. In a cell the strongest node comes first, so that a strong path runs
straight; an answer comes before its distractor, and errors come last. Places are fractions of the pane (`x`, `y` in
0..1, y downwards), and so are widths and heights: the page's script multiplies them by the pane's size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import Any

from circuitlens.circuit import Node
from circuitlens.circuit.comparison import Graph
from circuitlens.report.answer import output_role
from circuitlens.report.text import visible
from circuitlens.viewer.tokens import gaps

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
ANSWER = 0.24
"""Of the pane's width, for each output where there is the room: they have a row of their own, whatever their column."""

Rows = Sequence[Sequence[Node]]


@dataclass(frozen=True)
class Place:
    """Where a node stands, with the `room` that it and its name have across, and the height of a chip's (`high`)."""

    x: float
    y: float
    chip: bool
    room: float
    high: float


@dataclass(frozen=True)
class Placement:
    """The places of a graph's nodes.

    Args:
        rows: the nodes of each row, bottom to top.
        columns: start and width of the column of each position that has nodes, left to right.
        roomy: whether there is room for large nodes.
        places: by the node's id.
    """

    rows: Rows
    columns: Mapping[int, tuple[float, float]]
    roomy: bool
    places: Mapping[str, Place]


def place_nodes(graph: Graph, nodes: Sequence[Node] | None = None) -> Placement:
    """Find a place for each node of a graph, or for some of them, as if there were no others."""
    order = {id: n for n, id in enumerate(node.id for node in sorted(graph.nodes, key=lambda n: _order(graph, n)))}
    rows = [sorted(row, key=lambda node: order[node.id]) for row in _rows(graph.nodes if nodes is None else nodes)]
    most = max(LINES, LINES_IN_ALL // max(len(rows), 1))
    options = [_slots(rows, lines) for lines in range(1, most + 1)]
    slots = next((one for one in options if sum(one.values()) <= LEGIBLE), options[-1])
    roomy = sum(slots.values()) <= ROOMY and len(rows) <= ROOMY_ROWS
    columns = _columns(slots)
    places = {}
    for k, row in enumerate(rows):
        middle, height = 1 - (k + 0.5) / len(rows), 1 / len(rows)
        if row[0].is_logit:
            places |= _answers(row, middle, height, columns)
        else:
            places |= _places_in_row(row, middle, height, slots, columns, roomy)
    return Placement(rows, columns, roomy, places)


def axes(graph: Graph, placed: Placement) -> dict[str, list[dict[str, Any]]]:
    """What stands along a placement of a graph: hooks with their rows, tokens with their columns, gaps between."""
    named = graph.positions
    ends = {pos: start for pos, (start, _) in placed.columns.items()}
    return {
        "rows": [
            {
                "label": " · ".join(dict.fromkeys(node.hook for node in row)),
                "layer": row[0].layer,
                "y": 1 - (k + 0.5) / len(placed.rows),
                "high": 1 / len(placed.rows),
            }
            for k, row in enumerate(placed.rows)
        ],
        "columns": [
            {
                "label": visible(named[pos].name),
                "title": f"{pos}: {visible(named[pos].name)} {named[pos].told}".rstrip(),
                "pos": pos,
                "x": start + width / 2,
                "width": width,
            }
            for pos, (start, width) in placed.columns.items()
        ],
        "gaps": [
            {"title": f"Without nodes: {text}", "x": ends.get(after, 1.0)} for after, text in gaps(graph, list(ends))
        ],
    }


def _order(graph: Graph, node: Node) -> tuple[object, ...]:
    """By what the nodes of a cell are sorted."""
    role = ("answer", "distractor", "").index(output_role(graph, node))
    return node.kind == "error", role, -abs(node.attribution)


def _rows(nodes: Sequence[Node]) -> Rows:
    """Nodes by their rows, bottom to top: one for each hook in the graph's order, one for embeddings, logits last."""
    rows: dict[str, list[Node]] = {}
    logits = [node for node in nodes if node.is_logit]
    for node in nodes:
        if not node.is_logit:
            rows.setdefault("embedding" if node.kind == "embedding" else f"hook {node.hook}", []).append(node)
    return [*rows.values(), *([logits] if logits else [])]


def _cells(row: Sequence[Node]) -> Mapping[int, list[Node]]:
    """A row's nodes by position."""
    cells: dict[int, list[Node]] = defaultdict(list)
    for node in row:
        cells[node.pos].append(node)
    return cells


def _slots(rows: Rows, lines: int) -> dict[int, int]:
    """How many slots each position's column needs, left to right; positions without nodes have no column."""
    slots: dict[int, int] = {}
    for row in rows:
        for pos, cell in _cells(row).items():
            if row[0].is_logit:
                slots.setdefault(pos, CHIP)
                continue
            needed = CHIP * ceil(len(cell) / min(lines, 2)) if cell[0].kind in CHIPS else ceil(len(cell) / lines)
            slots[pos] = max(needed, slots.get(pos, CHIP))
    return dict(sorted(slots.items()))


def _columns(slots: Mapping[int, int]) -> dict[int, tuple[float, float]]:
    """Start and width of each column as fractions of the pane."""
    ends = list(accumulate(slots.values()))
    return {pos: ((end - n) / ends[-1], n / ends[-1]) for (pos, n), end in zip(slots.items(), ends, strict=True)}


def _answers(
    row: Sequence[Node], middle: float, height: float, columns: Mapping[int, tuple[float, float]]
) -> dict[str, Place]:
    """The places of the outputs, side by side about their columns."""
    nodes = [node for cell in _cells(row).values() for node in cell]
    room = min(ANSWER, 1 / len(nodes))
    about = sum(columns[node.pos][0] + columns[node.pos][1] / 2 for node in nodes) / len(nodes)
    left = min(max(about - room * len(nodes) / 2, 0.0), 1 - room * len(nodes))
    return {node.id: Place(left + room * (i + 0.5), middle, True, room, height * 0.7) for i, node in enumerate(nodes)}


def _places_in_row(
    row: Sequence[Node],
    middle: float,
    height: float,
    slots: Mapping[int, int],
    columns: Mapping[int, tuple[float, float]],
    roomy: bool,
) -> dict[str, Place]:
    """The places in a row whose middle and height these are: a cell's chips column by column, other nodes by line."""
    cells = _cells(row)
    chip = row[0].kind in CHIPS
    stacked = max(ceil(CHIP * len(cell) / slots[pos]) for pos, cell in cells.items())
    gap = 0.0 if roomy or chip else GAP
    places = {}
    for pos, cell in cells.items():
        start, width = columns[pos]
        lines = stacked if chip else ceil(len(cell) / slots[pos])
        across = ceil(len(cell) / lines) if chip else len(cell)
        for i, node in enumerate(cell):
            x = start + width * (gap / 2 + (1 - gap) * ((i // lines if chip else i) + 0.5) / across)
            y = middle - height * 0.84 / lines * (i % lines - (lines - 1) / 2)
            room = width / across if chip else width * (1 - gap) * lines / across
            places[node.id] = Place(x, y, chip, room, height * (0.7 if lines == 1 else 0.6) / lines)
    return places
