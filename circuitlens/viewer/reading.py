"""Callbacks that show what is known of circuits: graphs, details, the subgraph, tables and evidence."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from dash import Dash, Input, Output, html
from dash.exceptions import PreventUpdate

from circuitlens.circuit import Circuit, full_name
from circuitlens.circuit.comparison import Comparison, Graph, compare
from circuitlens.errors import CircuitLensError
from circuitlens.viewer.elements import Element, elements, largest_of, within_budget
from circuitlens.viewer.panels.circuit import circuit_panel, comparison_panel, legend, names, sums_panel
from circuitlens.viewer.panels.evidence import evidence_panel
from circuitlens.viewer.panels.node import compared_panel, feature_panel, node_panel
from circuitlens.viewer.panels.parts import message
from circuitlens.viewer.placement import axes
from circuitlens.viewer.session import Session
from circuitlens.viewer.subgraph import subgraph
from circuitlens.viewer.tables import edge_rows, node_rows

Topic = dict[str, Any]


def register(app: Dash, session: Session) -> None:
    """Add the callbacks."""
    drawn = _Drawn(session)
    _answer_shown(app, session, drawn)
    _answer_focused(app, session, drawn)
    _answer_pinned(app, session)
    _answer_table(app, drawn)
    _answer_evidence(app, session)


class _Drawn:
    """Circuits and comparisons as they are drawn, each made once."""

    def __init__(self, session: Session):
        self._session = session
        self._pruned: dict[int, tuple[Circuit, Circuit, str]] = {}
        self._compared: dict[tuple[int, int], tuple[Circuit, Circuit, Comparison]] = {}

    def circuit(self, number: int) -> tuple[Circuit, str]:
        """A circuit within the browser's budget, and a sentence on what was left out of it."""
        whole = self._session.circuit(number)
        known = self._pruned.get(number)
        if known is None or known[0] is not whole:
            known = self._pruned[number] = (whole, *within_budget(whole))
        return known[1], known[2]

    def comparison(self, first: int, second: int) -> Comparison:
        """Two circuits, each within the budget, side by side."""
        ours, theirs = self.circuit(first)[0], self.circuit(second)[0]
        known = self._compared.get((first, second))
        if known is None or known[0] is not ours or known[1] is not theirs:
            known = self._compared[first, second] = (ours, theirs, compare(ours, theirs))
        return known[2]


def _with_message(function: Callable[..., Any]) -> Callable[..., Any]:
    """A callback with one output that shows the message of an error in it."""

    @wraps(function)
    def answer(*values: Any) -> Any:
        try:
            return function(*values)
        except CircuitLensError as error:
            return message(str(error))

    return answer


def _answer_shown(app: Dash, session: Session, drawn: _Drawn) -> None:
    @app.callback(
        Output("graph", "elements"),
        Output("graph2", "elements"),
        Output("axes", "data"),
        Output("facts", "data"),
        Output("about", "children"),
        Output("legend", "children"),
        Input("shown", "data"),
    )
    def show(shown: Topic | None) -> tuple[Any, ...]:
        if shown is None:
            raise PreventUpdate
        chosen = [shown["circuit"]] if shown["other"] is None else [shown["circuit"], shown["other"]]
        circuits = [session.circuit(number) for number in chosen]
        difference = len(chosen) == 2 and shown["as"] == "difference"
        about = circuit_panel(circuits[0])
        if len(chosen) == 1:
            whole: Graph = drawn.circuit(chosen[0])[0]
            graphs, titles = (elements(whole), []), ["", ""]
        else:
            compared = drawn.comparison(chosen[0], chosen[1])
            whole = compared.difference
            about = [*comparison_panel(circuits[0], circuits[1], compared), *about]
            graphs, titles = _draw_comparison(compared, names(circuits), difference)
        facts = {
            "titles": titles,
            "leftOut": " ".join(filter(None, (drawn.circuit(number)[1] for number in chosen))),
            "nodes": [
                {"value": n.id, "key": n.label_key, "label": f"{full_name(n, whole.tokens)} · {n.id}"}
                for n in whole.nodes
            ],
            "turn": shown,  # so that the page's script is told also where all else is as before
        }
        return *graphs, axes(whole), facts, about, legend(whole, difference)


def _draw_comparison(
    compared: Comparison, titles: list[str], difference: bool
) -> tuple[tuple[list[Element], list[Element]], list[str]]:
    """The two graphs and their titles: side by side on one scale, or the difference in the first."""
    whole = compared.difference
    if difference:
        return (elements(whole), []), [f"{titles[0]}, less {titles[1]}", ""]
    pair = compared.first, compared.second
    node, edge = (max(sizes) for sizes in zip(*map(largest_of, pair), strict=True))
    first, second = (elements(each, layout_of=whole, scale=(node, edge)) for each in pair)
    return (first, second), titles


def _answer_focused(app: Dash, session: Session, drawn: _Drawn) -> None:
    @app.callback(Output("detail", "children"), Input("focused", "data"))
    @_with_message
    def detail(focused: Topic | None) -> Any:
        if focused is None:
            raise PreventUpdate
        if focused["node"] is None:
            return html.P("Click a node to see what feeds it and what it feeds.", className="hint")
        if focused["other"] is not None:
            return compared_panel(drawn.comparison(focused["circuit"], focused["other"]), focused["node"])
        circuit = session.circuit(focused["circuit"])
        return node_panel(circuit, circuit.node(focused["node"]))

    @app.callback(Output("told", "children"), Input("focused", "data"), Input("finished", "data"))
    @_with_message
    def feature(focused: Topic | None, _finished: Any) -> Any:
        if focused is None or focused["node"] is None:
            return []
        number = focused["circuit"]
        circuit = session.circuit(number)
        node = next((node for node in circuit.nodes if node.id == focused["node"]), None)
        if node is None:  # of the second of two circuits only
            return []
        describable = node.kind in ("feature", "neuron", "input") and session.is_loaded(number)
        return feature_panel(circuit, node, session.describe(number, node.id) if describable else None)


def _answer_pinned(app: Dash, session: Session) -> None:
    @app.callback(Output("subgraph", "elements"), Output("sums", "children"), Input("pinned", "data"))
    def draw_pinned(pinned: Topic | None) -> Any:
        if pinned is None:
            raise PreventUpdate
        groups = [(group["name"], group["nodes"]) for group in pinned["groups"]]
        parts = subgraph(session.circuit(pinned["circuit"]), pinned["pins"], groups, pinned["labels"])
        return parts, sums_panel(parts)


def _answer_table(app: Dash, drawn: _Drawn) -> None:
    @app.callback(
        Output("node-table", "rowData"),
        Output("edge-table", "rowData"),
        Input("reading", "data"),
        prevent_initial_call=True,
    )
    def table(reading: Topic | None) -> Any:
        if reading is None or reading["view"] != "table":
            raise PreventUpdate
        graph: Graph = drawn.circuit(reading["circuit"])[0]
        if reading["other"] is not None:
            graph = drawn.comparison(reading["circuit"], reading["other"]).difference
        edges = edge_rows(graph, reading["labels"])
        return (
            node_rows(graph, reading["labels"], reading["notes"]),
            [{**row, "id": f"{row['source']} {row['target']}"} for row in edges],
        )


def _answer_evidence(app: Dash, session: Session) -> None:
    @app.callback(
        Output("evidence-told", "children"),
        Output("verify", "style"),
        Input("reading", "data"),
        Input("theme", "data"),
        Input("finished", "data"),
        prevent_initial_call=True,
    )
    def evidence(reading: Topic | None, theme: str | None, _finished: Any) -> Any:
        if reading is None or reading["view"] != "evidence":
            raise PreventUpdate
        number = reading["circuit"]
        circuit, path, can_load = session.circuit(number), session.path(number), session.can_load(number)
        measured = circuit.evidence is not None and circuit.evidence.digest == circuit.content_digest
        style = {} if can_load and not measured and not circuit.edited else {"display": "none"}
        return evidence_panel(circuit, theme or "light", path and path.name, can_load), style
