"""Callbacks that show what is known of circuits: graphs, details, the subgraph, tables and evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, html, no_update
from dash.exceptions import PreventUpdate

from circuitlens.circuit import Circuit, Group
from circuitlens.circuit.comparison import Comparison, Graph, compare, differing
from circuitlens.errors import CircuitLensError, ViewerError
from circuitlens.report.answer import without_what
from circuitlens.report.text import plain
from circuitlens.viewer.asking import not_ready
from circuitlens.viewer.elements import Element, elements, largest_of, within_budget
from circuitlens.viewer.layout.stage import EDGE_COLUMNS, NODE_COLUMNS
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.opening import Layout, compared_layouts, layouts
from circuitlens.viewer.panels.answer import HINT, answer_panel, answers_panel, without_panel
from circuitlens.viewer.panels.circuit import carriers, circuit_panel, comparison_panel, legend, names, sums_panel
from circuitlens.viewer.panels.edge import edge_panel
from circuitlens.viewer.panels.evidence import evidence_panel
from circuitlens.viewer.panels.groups import groups_panel
from circuitlens.viewer.panels.node import compared_panel, feature_panel, node_panel
from circuitlens.viewer.panels.parts import message, status
from circuitlens.viewer.panels.prompt import prompt_strip
from circuitlens.viewer.session import Session
from circuitlens.viewer.subgraph import subgraph
from circuitlens.viewer.tables import edge_rows, node_rows

if TYPE_CHECKING:
    from circuitlens.evaluation.intervention import Outcome

Topic = dict[str, Any]


def register(app: Dash, session: Session) -> None:
    """Add the callbacks."""
    drawn = _Drawn(session)
    _answer_shown(app, session, drawn)
    _answer_measured(app, session, drawn)
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
        self._outcomes: dict[int, tuple[Circuit, Outcome]] = {}

    def circuit(self, number: int) -> tuple[Circuit, str]:
        """A circuit within the browser's budget, and a sentence on what was left out of it."""
        whole = self._session.circuit(number)
        known = self._pruned.get(number)
        if known is None or known[0] is not whole:
            known = self._pruned[number] = (whole, *within_budget(whole))
        return known[1], known[2]

    def comparison(self, first: int, second: int) -> Comparison:
        """Two circuits, each within the budget, side by side.

        Raises:
            ViewerError: they are of different models.
        """
        ours, theirs = self.circuit(first)[0], self.circuit(second)[0]
        if why := differing(self._session.circuit(first), self._session.circuit(second)):
            raise ViewerError(f"These two circuits can't be compared: they are of different models or SAEs ({why}).")
        known = self._compared.get((first, second))
        if known is None or known[0] is not ours or known[1] is not theirs:
            known = self._compared[first, second] = (ours, theirs, compare(ours, theirs))
        return known[2]

    def outcome(self, number: int, circuit: Circuit, settings: Mapping[str, float]) -> Outcome:
        """What the model said with the nodes set that the answer of a circuit names."""
        known = self._outcomes.get(number)
        if known is None or known[0] is not circuit:
            known = self._outcomes[number] = (circuit, self._session.intervene(number, settings))
        return known[1]


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
        Output("prompt", "children"),
        Output("legend", "children"),
        Output("status", "children", allow_duplicate=True),
        Input("shown", "data"),
        prevent_initial_call="initial_duplicate",
    )
    def show(shown: Topic | None) -> tuple[Any, ...]:
        if shown is None:
            raise PreventUpdate
        numbers = [shown["circuit"]] if shown["other"] is None else [shown["circuit"], shown["other"]]
        circuits = [session.circuit(number) for number in numbers]
        compared, refused = None, ""
        try:
            compared = drawn.comparison(*numbers) if len(numbers) == 2 else None
        except ViewerError as error:
            refused = str(error)
        difference = compared is not None and shown["as"] == "difference"
        about = circuit_panel(circuits[0])
        if compared is None:
            numbers = numbers[:1]
            whole: Graph = drawn.circuit(numbers[0])[0]
            graphs, along, titles = [elements(whole), []], [layouts(whole, circuits[0])], ["", ""]
        else:
            whole = compared.difference
            about = [*comparison_panel(circuits[0], circuits[1], compared), *about]
            graphs, along, titles = _draw_comparison(compared, names(circuits), difference)
        facts = {
            "titles": titles,
            "leftOut": " ".join(dict.fromkeys(filter(None, (drawn.circuit(number)[1] for number in numbers)))),
            "nodes": [
                {"value": n.id, "key": n.label_key, "label": f"{shown_name(whole, n)} · {n.id}"} for n in whole.nodes
            ],
            "refused": bool(refused),
            "turn": shown,  # so that the page's script is told also where all else is as before
        }
        strips = [prompt_strip(circuits[k], chosen=len(numbers) == 1) for k in range(len(numbers))]
        keyed = whole if compared is None or difference else compared.first
        told = status(refused, "fault") if refused else no_update
        return *graphs, along, facts, about, strips, legend(keyed, difference), told


def _answer_measured(app: Dash, session: Session, drawn: _Drawn) -> None:
    @app.callback(
        Output("axes", "data", allow_duplicate=True),
        Input("finished", "data"),
        State("shown", "data"),
        prevent_initial_call=True,
    )
    def measured(_finished: Any, shown: Topic | None) -> Any:
        """Evidence tells a core, on which the page opens then."""
        if shown is None or shown["other"] is not None:
            raise PreventUpdate
        number = shown["circuit"]
        return [layouts(drawn.circuit(number)[0], session.circuit(number))]


def _draw_comparison(
    compared: Comparison, titles: list[str], difference: bool
) -> tuple[list[list[Element]], list[list[Layout]], list[str]]:
    """The two graphs, their layouts, and their titles: side by side on one scale, or the difference alone."""
    whole = compared.difference
    if difference:
        return [elements(whole), []], compared_layouts(compared, difference), [f"{titles[0]}, less {titles[1]}", ""]
    pair = compared.first, compared.second
    scale = tuple(max(sizes) for sizes in zip(*map(largest_of, pair), strict=True))
    standing = [whole, whole] if compared.aligned else list(pair)
    graphs = [elements(one, layout_of=layout, scale=scale) for one, layout in zip(pair, standing, strict=True)]
    return graphs, compared_layouts(compared), titles


def _answer_focused(app: Dash, session: Session, drawn: _Drawn) -> None:
    @app.callback(Output("detail", "children"), Input("focused", "data"), Input("finished", "data"))
    @_with_message
    def detail(focused: Topic | None, _finished: Any) -> Any:
        if focused is None:
            raise PreventUpdate
        number, other, labels = focused["circuit"], focused["other"], focused["labels"]
        circuit = session.circuit(number)
        if focused["edge"] is not None:
            graph = circuit if other is None else drawn.comparison(number, other).difference
            source, target = focused["edge"]
            return edge_panel(graph, source, target, labels)
        if focused["node"] is not None and other is not None:
            return compared_panel(drawn.comparison(number, other), focused["node"], labels)
        if focused["node"] is not None:
            node = circuit.node(focused["node"])
            return node_panel(circuit, node, labels, session.contexts(number, node.id))
        if other is not None:
            pair = [circuit, session.circuit(other)]
            told = carriers(drawn.comparison(number, other))
            return [*answers_panel(pair, names(pair)), *([html.P(told, className="answer")] if told else [])]
        return answer_panel(circuit, labels, session.can_load(number))

    @app.callback(Output("told", "children"), Input("focused", "data"), Input("finished", "data"))
    @_with_message
    def feature(focused: Topic | None, _finished: Any) -> Any:
        if focused is None or focused["edge"] is not None:
            return []
        number = focused["circuit"]
        circuit = session.circuit(number)
        if focused["node"] is None:
            return [] if focused["other"] is not None else _without(session, drawn, number)
        node = next((node for node in circuit.nodes if node.id == focused["node"]), None)
        if node is None:  # of the second of two circuits only
            return []
        describable = node.kind in ("feature", "neuron", "input") and session.is_loaded(number)
        return feature_panel(circuit, node, session.describe(number, node.id) if describable else None)


def _without(session: Session, drawn: _Drawn, number: int) -> list[Any]:
    """What the model says without the nodes that the answer names, where it can be asked at once."""
    circuit = session.circuit(number)
    settings = {node.id: 0.0 for node in without_what(circuit)[0]}
    hint = html.P(HINT, className="hint")
    if not settings or circuit.pairs:
        return [hint]
    if told := not_ready(session, number, "to see what it says then."):
        return [*told, hint]
    return [*without_panel(circuit, drawn.outcome(number, circuit, settings), settings), hint]


def _answer_pinned(app: Dash, session: Session) -> None:
    @app.callback(Output("subgraph", "elements"), Output("sums", "children"), Input("pinned", "data"))
    def draw_pinned(pinned: Topic | None) -> Any:
        if pinned is None:
            raise PreventUpdate
        groups = [(group["name"], group["nodes"]) for group in pinned["groups"]]
        parts = subgraph(session.circuit(pinned["circuit"]), pinned["pins"], groups, pinned["labels"])
        return parts, sums_panel(parts)

    @app.callback(
        Output("suggested", "children"),
        Input("suggest", "data"),
        Input("pinned", "data"),
        Input("finished", "data"),
        prevent_initial_call=True,
    )
    @_with_message
    def suggested(suggest: Topic | None, pinned: Topic | None, _finished: Any) -> Any:
        if pinned is None:
            raise PreventUpdate
        number, own = (
            pinned["circuit"],
            [Group(name=one["name"], nodes=tuple(one["nodes"])) for one in pinned["groups"]],
        )
        circuit, known = session.circuit(number), session.groups
        taken = {node for group in own for node in group.nodes}
        asked = suggest is not None and suggest["circuit"] == number
        free = [group for group in known.suggested(circuit) if taken.isdisjoint(group.nodes)] if asked else []
        told = not_ready(session, number, "and suggest groups again to measure what they do.") if asked else []
        effect = partial(known.effect, circuit)
        return [*told, *groups_panel(circuit, own, free if asked else None, effect, pinned["labels"])]


def _answer_table(app: Dash, drawn: _Drawn) -> None:
    @app.callback(
        Output("node-table", "rowData"),
        Output("edge-table", "rowData"),
        Output("node-table", "columnDefs"),
        Output("edge-table", "columnDefs"),
        Input("reading", "data"),
        prevent_initial_call=True,
    )
    def table(reading: Topic | None) -> Any:
        if reading is None or reading["view"] != "table":
            raise PreventUpdate
        graph: Graph = drawn.circuit(reading["circuit"])[0]
        if reading["other"] is not None:
            graph = drawn.comparison(reading["circuit"], reading["other"]).difference
        nodes = node_rows(graph, reading["labels"], reading["notes"])
        nodes.sort(key=lambda row: -abs(row["attribution"]))
        edges = edge_rows(graph, reading["labels"])
        for row in (*nodes, *edges):
            row |= {name: plain(row[name]) for name in ("label", "source_name", "target_name") if name in row}
        return (
            nodes,
            [{**row, "id": f"{row['source']} {row['target']}"} for row in edges],
            _columns(NODE_COLUMNS, nodes),
            _columns(EDGE_COLUMNS, edges),
        )


def _columns(columns: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns of a table, without that of standard errors where there is none."""
    hidden = all(row["standard_error"] is None for row in rows)
    return [{**column, "hide": hidden} if column["field"] == "standard_error" else column for column in columns]


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
        style = {} if can_load and circuit.own_evidence is None and not circuit.edited else {"display": "none"}
        return evidence_panel(circuit, theme or "light", path and path.name, can_load), style
