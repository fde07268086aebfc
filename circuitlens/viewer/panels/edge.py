"""An edge in words: its ends, its weight, how that is known, and the attention heads that carry it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import html

from circuitlens.circuit import Circuit, Edge, Node
from circuitlens.circuit.comparison import Graph
from circuitlens.report.answer import output_role
from circuitlens.report.summary import explained_change
from circuitlens.report.text import signed
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.panels.parts import LISTED, error_of, focus_button, message

BASIS = {
    "measured": "measured: what interventions along this one edge did (path patching)",
    "estimated": "estimated from gradients",
}


def edge_panel(graph: Graph, source: str, target: str, labels: Mapping[str, str]) -> list[Any]:
    """All that is known of an edge."""
    by_id = {node.id: node for node in graph.nodes}
    edge = next((one for one in graph.edges if (one.source, one.target) == (source, target)), None)
    if edge is None:
        return [message("There is no such edge in this circuit.")]
    ends = [by_id[source], by_id[target]]
    names = [shown_name(graph, node, labels) for node in ends]
    rows: list[tuple[str, Any]] = [
        *((what, focus_button(node, name)) for what, node, name in zip(("From", "To"), ends, names, strict=True)),
        ("Weight", f"{signed(edge.weight)}{error_of(edge)} {_of_what(graph)}"),
        ("It", edge_effect(graph, edge, by_id[target])),
        ("Basis", BASIS[edge.basis]),
    ]
    return [
        html.H2(f"{names[0]} → {names[1]}"),
        html.Dl([part for term, what in rows for part in (html.Dt(term), html.Dd(what))]),
        *_heads(edge),
    ]


def edge_effect(graph: Graph, edge: Edge, target: Node) -> str:
    """What an edge does to the metric, and by which way to the outputs."""
    does = "raises the metric" if edge.weight >= 0 else "lowers the metric"
    role = output_role(graph, target)
    if not role:
        return does
    promotes = (edge.weight >= 0) == (role == "answer")
    return f"{does}: it {'promotes' if promotes else 'holds back'} the {role}"


def _of_what(graph: Graph) -> str:
    if not isinstance(graph, Circuit):
        return "(difference of the two circuits)"
    change = "the change from the corrupted prompt" if graph.from_corrupted else "the metric"
    return f"of {signed(explained_change(graph))}, {change}"


def _heads(edge: Edge) -> list[Any]:
    if not edge.heads:
        return []
    strongest = sorted(edge.heads, key=lambda head: -abs(head.weight))[:LISTED]
    titles = ("Head", "Carries", "By values", "By pattern")
    rows = [
        html.Tr([html.Th(f"L{h.layer}H{h.head}", scope="row")]
                + [html.Td(signed(value), className="weight") for value in (h.weight, h.by_values, h.by_pattern)])
        for h in strongest
    ]  # fmt: skip
    heads = html.Thead(html.Tr([html.Th(title, scope="col") for title in titles]))
    return [html.H3("Attention heads that carry it"), html.Table([heads, html.Tbody(rows)])]
