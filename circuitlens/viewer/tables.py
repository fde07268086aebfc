"""Nodes and edges as rows: for the page's tables, which say what the canvas shows, and for CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from circuitlens.circuit import Annotations, Circuit, Node
from circuitlens.circuit.comparison import Graph
from circuitlens.report.text import visible
from circuitlens.viewer.names import given_name

Row = dict[str, Any]


def node_rows(graph: Graph, labels: Mapping[str, str], notes: Mapping[str, str]) -> list[Row]:
    """A row for each node, with the reader's own labels, by feature, and notes, by node."""
    return [
        {
            "id": node.id,
            "kind": node.kind,
            "label": labels.get(node.label_key) or node.label,
            **_meaning(graph, node, labels),
            "layer": node.layer,
            "hook": node.hook,
            "position": node.pos,
            "token": visible(graph.positions[node.pos].name),
            "index": node.index,
            "activation": node.activation,
            "attribution": node.attribution,
            "standard_error": node.standard_error,
            "note": notes.get(node.id, ""),
            "url": node.url or "",
        }
        for node in graph.nodes
    ]


def _meaning(graph: Graph, node: Node, labels: Mapping[str, str]) -> Row:
    """What a node stands for and who says so; the reader's labels may be newer than the graph's."""
    if own := labels.get(node.label_key):
        return {"meaning": own, "source": "yours"}
    meaning = graph.meaning(node)
    if meaning is None:
        return {"meaning": "", "source": ""}
    return {"meaning": meaning.text, "source": f"{meaning.source}{' (weak)' if meaning.weak else ''}"}


def edge_rows(graph: Graph, labels: Mapping[str, str]) -> list[Row]:
    """A row for each edge, strongest first as in the graph."""
    names = {node.id: given_name(graph, node, labels) for node in graph.nodes}
    return [
        {
            "source": edge.source,
            "source_name": names[edge.source],
            "target": edge.target,
            "target_name": names[edge.target],
            "weight": edge.weight,
            "standard_error": edge.standard_error,
            "basis": edge.basis,
        }
        for edge in graph.edges
    ]


def csv_tables(circuit: Circuit) -> dict[str, str]:
    """A circuit's nodes and edges as CSV, by what is added to a file's name."""
    notes = circuit.annotations or Annotations()
    rows = {"-nodes": node_rows(circuit, notes.labels, notes.notes), "-edges": edge_rows(circuit, notes.labels)}
    return {name: to_csv(table) for name, table in rows.items()}


def to_csv(rows: Sequence[Row]) -> str:
    """The rows with a header line; text that a spreadsheet would run as a formula begins with an apostrophe."""
    written = io.StringIO(newline="")
    if rows:
        table = csv.DictWriter(written, list(rows[0]))
        table.writeheader()
        table.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return written.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
