"""A node in words: what it is, its numbers and edges, and what its feature stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.circuit import Circuit, Edge, Node
from circuitlens.circuit.comparison import Comparison, Graph
from circuitlens.report.answer import why_not_off
from circuitlens.report.summary import describe_heads, explained_change
from circuitlens.report.text import count, plain, signed, visible
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.panels.contexts import contexts_panel
from circuitlens.viewer.panels.parts import KINDS, LISTED, error_of, focus_button, message, terms

if TYPE_CHECKING:
    from circuitlens.corpus.reading import FeatureRecord
    from circuitlens.evaluation.features import Feature

Labels = Mapping[str, str]
"""The reader's own labels, by `Node.label_key`."""

ABLATED = {"corrupted": "as in the corrupted prompt", "mean": "at its mean", "zero": "off"}
SPOKEN = 8
"""Outputs listed that a feature promotes, and that it suppresses."""


def node_panel(circuit: Circuit, node: Node, labels: Labels, record: FeatureRecord | None = None) -> list[Any]:
    """What the file knows of a node: what it is, its numbers, and its edges by sign; and what a corpus knows of it."""
    effect = _exact_effect(circuit, node)
    rows = [
        ("Kind", KINDS[node.kind]),
        *([("Meaning", plain(str(meaning)))] if (meaning := circuit.meaning(node)) else []),
        ("Hook", node.hook),
        ("Position", f"{node.pos}: “{visible(circuit.positions[node.pos].name)}”"),
        *([("Index", f"{node.index}, counted from 0")] if node.index is not None else []),
        ("Norm" if node.kind in ("error", "embedding") else "Activation", f"{node.activation:.3f}"),
        ("Attribution", f"{signed(node.attribution)}{error_of(node)} of {_explained(circuit)}"),
        *([("Exact effect", effect)] if effect else []),
    ]
    page = [html.A("Page of this feature", href=node.url, target="_blank", rel="noreferrer")] if node.url else []
    idle = [html.P(why, className="hint")] if (why := why_not_off(circuit, node)) else []
    return [terms(rows), *idle, *page, *contexts_panel(record), *_edge_lists(circuit, node, labels)]


def _explained(circuit: Circuit) -> str:
    """What all attributions are shares of."""
    change = circuit.from_corrupted and circuit.metric.corrupted_value is not None
    return f"{signed(explained_change(circuit))}, {'the change from the corrupted prompt' if change else 'the metric'}"


def compared_panel(comparison: Comparison, node_id: str, labels: Labels) -> list[Any]:
    """A node in two circuits beside each other, and how its edges differ."""
    difference = comparison.difference
    node = _find(difference, node_id)
    if node is None:
        return [message(f"Neither circuit has a node {node_id!r}.")]
    rows = [("Kind", KINDS[node.kind]), ("Hook", node.hook)]
    if comparison.aligned:
        rows.append(("Position", visible(difference.positions[node.pos].name)))
    for name, graph in (("First", comparison.first), ("Second", comparison.second)):
        here = _find(graph, node_id)
        what = "not in this circuit"
        if here is not None:
            what = f"attribution {signed(here.attribution)}{error_of(here)}, activation {here.activation:.3f}"
            what += "" if comparison.aligned else f", at “{visible(graph.positions[here.pos].name)}”"
        rows.append((name, what))
    rows.append(("Difference", f"attribution {signed(node.attribution)}"))
    hint = html.P("Edges below are differences, first less second.", className="hint")
    return [terms(rows), hint, *_edge_lists(difference, node, labels)]


def _find(graph: Graph, node_id: str) -> Node | None:
    return next((node for node in graph.nodes if node.id == node_id), None)


def known_activations(circuit: Circuit, node: Node) -> list[float | None]:
    """The activation of a node's feature at every position, as far as the circuit's own nodes tell."""
    seen: list[float | None] = [None] * len(circuit.tokens)
    for other in circuit.nodes:
        if (other.hook, other.index, other.kind) == (node.hook, node.index, node.kind):
            seen[other.pos] = other.activation
    return seen


def feature_panel(circuit: Circuit, node: Node, told: Feature | None) -> list[Any]:
    """The heat strip over the prompt's tokens and, where the model is loaded, the outputs the feature speaks for."""
    if node.kind not in ("feature", "neuron", "input"):
        return []
    tokens = [position.name for position in circuit.positions] if told is None else told.tokens
    values = known_activations(circuit, node) if told is None else list(told.activations)
    many = "Mean activation" if told is None else "Activation on one of its prompts"
    strip = [html.H3(many if circuit.pairs else "Activation on the prompt"), heat_strip(tokens, values)]
    if told is None:
        hint = "Tokens without a number have no node of this feature in the circuit; load the model to see them all."
        return [*strip, html.P(hint, className="hint")] if None in values else strip
    promoted = [(text, value) for text, value in told.promoted if value > 0]
    suppressed = [(text, value) for text, value in told.suppressed if value < 0]
    return [*strip, *_spoken("Promotes", promoted), *_spoken("Suppresses", suppressed)]


def heat_strip(tokens: Sequence[str], values: Sequence[float | None]) -> Any:
    """The prompt with every token's activation as the depth of its ground, and the number beside it."""
    most = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    cells = [
        html.Li(
            [html.Span(visible(token)), html.Small("–" if value is None else f"{value:.2f}")],
            className="lowers" if (value or 0) < 0 else "raises",
            style={"--share": f"{100 * abs(value or 0) / most:.0f}%"},
        )
        for token, value in zip(tokens, values, strict=True)
    ]
    return html.Ol(cells, className="strip")


def _spoken(title: str, outputs: Sequence[tuple[str, float]]) -> list[Any]:
    if not outputs:
        return []
    words = [
        html.Li([html.Span(visible(text)), html.Small(signed(value, 2))], className="word")
        for text, value in outputs[:SPOKEN]
    ]
    return [html.H3(title), html.Ol(words, className="words")]


def _exact_effect(circuit: Circuit, node: Node) -> str:
    evidence = circuit.own_evidence
    if evidence is None:
        return ""
    measured = next((effect.measured for effect in evidence.effects if effect.node == node.id), None)
    return (
        ""
        if measured is None
        else f"{signed(measured)} (how far the metric falls with it alone {ABLATED[evidence.ablation]})"
    )


def _edge_lists(graph: Graph, node: Node, labels: Labels) -> list[Any]:
    """The edges of a node each way, by sign and strongest first."""
    by_id = {other.id: other for other in graph.nodes}
    strongest = sorted(graph.edges, key=lambda edge: -abs(edge.weight))
    ways = (
        ("In-edges", [(by_id[edge.source], edge) for edge in strongest if edge.target == node.id]),
        ("Out-edges", [(by_id[edge.target], edge) for edge in strongest if edge.source == node.id]),
    )
    lists: list[Any] = []
    for title, edges in ways:
        lists.append(html.H3(title))
        if not edges:
            lists.append(html.P("none", className="hint"))
        for sign, positive in (("Raising the metric", True), ("Lowering it", False)):
            part = [(other, edge) for other, edge in edges if (edge.weight >= 0) == positive]
            if part:
                lists.append(html.H4(f"{sign} ({count(len(part))})"))
                lists.append(_edge_table(graph, part, abs(edges[0][1].weight) or 1.0, labels))
    return lists


def _edge_table(graph: Graph, edges: Sequence[tuple[Node, Edge]], heaviest: float, labels: Labels) -> Any:
    rows = [
        html.Tr(
            [
                html.Td([focus_button(other, shown_name(graph, other, labels)), *_carried(edge)]),
                html.Td(
                    html.Div(className="meter", style={"width": f"{100 * abs(edge.weight) / heaviest:.0f}%"}),
                    className="bar",
                ),
                html.Td(f"{signed(edge.weight)}{error_of(edge)}", className="weight"),
                html.Td(edge.basis, className="hint"),
            ],
            className="positive" if edge.weight >= 0 else "negative",
        )
        for other, edge in edges[:LISTED]
    ]
    more = len(edges) - LISTED
    rest = [html.P(f"and {count(more)} weaker", className="hint")] if more > 0 else []
    return html.Div([html.Table(html.Tbody(rows)), *rest])


def _carried(edge: Edge) -> list[Any]:
    """The attention heads that carry the edge, where they were told apart."""
    return [html.Small(f"by {describe_heads(edge)}", className="hint")] if edge.heads else []
