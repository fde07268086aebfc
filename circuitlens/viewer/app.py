"""The page as a Dash app: what the server answers to it.

The page's state lives in the browser (`assets/state.js`), which splits it into topics, stores that change only when
what they are about does: `shown` (which circuits), `focused` (which node), `pinned`, `asked` (interventions), `reading`
(table and evidence), `kept` (what a file can keep). Each callback below answers one topic.

Everything is served from this machine. Labels, tokens and prompts come from files and models: they are shown as text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate
from flask import abort, request
from pydantic import ValidationError

from circuitlens.circuit import Annotations, Circuit
from circuitlens.circuit.comparison import Comparison, compare
from circuitlens.errors import CircuitLensError, ViewerError
from circuitlens.viewer import layout, panels, tables
from circuitlens.viewer.elements import axes, elements, largest_of, subgraph, within_budget
from circuitlens.viewer.session import Session

log = logging.getLogger(__name__)

ENDED = ("done", "failed", "cancelled")


def create_app(session: Session) -> Dash:
    """The viewer as a Dash app over the circuits of a session."""
    app = Dash(
        __name__,
        title="CircuitLens",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        enable_mcp=False,
        suppress_callback_exceptions=True,
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    _guard(app)
    # Made anew for each load, so that circuits found meanwhile are there after a reload.
    app.layout = lambda: layout.page(panels.names(session.circuits), _given(session), session.adapter_names())
    drawn = _Drawn(session)
    _answer_reading(app, session, drawn)
    _answer_asking(app, session)
    _answer_keeping(app, session)
    _connect_script(app)
    return app


def _guard(app: Dash) -> None:
    """Answer pages of this machine only."""
    # A page elsewhere that has its name resolve to 127.0.0.1 gets 400.
    app.server.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]

    @app.server.before_request
    def only_this_page() -> None:
        """Refuse what another page in the same browser sends: it could start work or have a file saved."""
        origin = request.headers.get("Origin")
        if request.method != "GET" and origin is not None and origin != request.host_url.rstrip("/"):
            abort(403)


def _given(session: Session) -> dict[str, Any]:
    """What the page's script begins with."""
    return {
        "names": panels.names(session.circuits),
        "circuits": [
            {**panels.summary(circuit), "saves": session.path(number) is not None}
            for number, circuit in enumerate(session.circuits)
        ],
    }


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


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error of a callback with one output as the sentence it is."""

    @wraps(function)
    def told(*values: Any) -> Any:
        try:
            return function(*values)
        except CircuitLensError as error:
            return panels.message(str(error))

    return told


def _answer_reading(app: Dash, session: Session, drawn: _Drawn) -> None:
    @app.callback(
        Output("graph", "elements"),
        Output("graph2", "elements"),
        Output("axes", "data"),
        Output("facts", "data"),
        Output("about", "children"),
        Output("legend", "children"),
        Input("shown", "data"),
    )
    def show(shown: dict[str, Any] | None) -> tuple[Any, ...]:
        if shown is None:
            raise PreventUpdate
        circuit, left_out = drawn.circuit(shown["circuit"])
        difference = shown["other"] is not None and shown["as"] == "difference"
        if shown["other"] is None:
            about, second, titles = panels.circuit_panel(session.circuit(shown["circuit"])), [], ["", ""]
            first, whole = elements(circuit), circuit
        else:
            compared = drawn.comparison(shown["circuit"], shown["other"])
            circuits = [session.circuit(shown[which]) for which in ("circuit", "other")]
            left_out = " ".join(filter(None, (drawn.circuit(shown[which])[1] for which in ("circuit", "other"))))
            about = [*panels.comparison_panel(compared), *panels.circuit_panel(circuits[0])]
            whole = compared.difference
            titles = panels.names(circuits)
            if difference:
                first, second, titles = elements(whole), [], [f"{titles[0]}, less {titles[1]}", ""]
            else:
                pair = compared.first, compared.second
                node, edge = (max(sizes) for sizes in zip(*map(largest_of, pair), strict=True))
                first, second = (elements(each, layout_of=whole, scale=(node, edge)) for each in pair)
        facts = {
            "for": shown,
            "titles": titles,
            "leftOut": left_out,
            "counts": [len(first), len(second)],
            "nodes": [{"value": n.id, "label": f"{panels.full_name(n, whole.tokens)} · {n.id}"} for n in whole.nodes],
        }
        return first, second, axes(whole), facts, about, panels.legend(whole, difference)

    @app.callback(Output("detail", "children"), Input("focused", "data"))
    @_told
    def detail(focused: dict[str, Any] | None) -> Any:
        if focused is None:
            raise PreventUpdate
        if focused["node"] is None:
            return html.P("Click a node to see what feeds it and what it feeds.", className="hint")
        if focused["other"] is not None:
            return panels.compared_panel(drawn.comparison(focused["circuit"], focused["other"]), focused["node"])
        circuit = session.circuit(focused["circuit"])
        return panels.node_panel(circuit, circuit.node(focused["node"]))

    @app.callback(Output("told", "children"), Input("focused", "data"), Input("finished", "data"))
    @_told
    def told(focused: dict[str, Any] | None, _finished: Any) -> Any:
        if focused is None or focused["node"] is None:
            return []
        number = focused["circuit"]
        circuit = session.circuit(number)
        node = next((node for node in circuit.nodes if node.id == focused["node"]), None)
        if node is None:  # of the second of two circuits only
            return []
        describable = node.kind in ("feature", "neuron", "input") and session.asked(number)
        return panels.told_panel(circuit, node, session.describe(number, node.id) if describable else None)

    @app.callback(Output("subgraph", "elements"), Output("sums", "children"), Input("pinned", "data"))
    def pinned(data: dict[str, Any] | None) -> Any:
        if data is None:
            raise PreventUpdate
        groups = [(group["name"], group["nodes"]) for group in data["groups"]]
        parts = subgraph(session.circuit(data["circuit"]), data["pins"], groups, data["labels"])
        return parts, panels.sums_panel(parts)

    @app.callback(
        Output("node-table", "rowData"),
        Output("edge-table", "rowData"),
        Input("reading", "data"),
        prevent_initial_call=True,
    )
    def table(reading: dict[str, Any] | None) -> Any:
        if reading is None or reading["view"] != "table":
            raise PreventUpdate
        circuit = drawn.circuit(reading["circuit"])[0]
        if reading["other"] is not None:
            circuit = drawn.comparison(reading["circuit"], reading["other"]).difference
        edges = tables.edge_rows(circuit, reading["labels"])
        return (
            tables.node_rows(circuit, reading["labels"], reading["notes"]),
            [{**row, "id": f"{row['source']} {row['target']}"} for row in edges],
        )

    @app.callback(
        Output("evidence-told", "children"),
        Output("verify", "style"),
        Input("reading", "data"),
        Input("theme", "data"),
        Input("finished", "data"),
        prevent_initial_call=True,
    )
    def evidence(reading: dict[str, Any] | None, theme: str | None, _finished: Any) -> Any:
        if reading is None or reading["view"] != "evidence":
            raise PreventUpdate
        number = reading["circuit"]
        circuit, path, can_ask = session.circuit(number), session.path(number), session.can_ask(number)
        measured = circuit.evidence is not None and circuit.evidence.digest == circuit.content_digest
        style = {} if can_ask and not measured and not circuit.edited else {"display": "none"}
        return panels.evidence_panel(circuit, theme or "light", path and path.name, can_ask), style


def _answer_asking(app: Dash, session: Session) -> None:
    @app.callback(
        Output("model-told", "children"),
        Output("load", "style"),
        Output("outcome", "children"),
        Input("asked", "data"),
        Input("finished", "data"),
    )
    def outcome(asked: dict[str, Any] | None, _finished: Any) -> Any:
        if asked is None:
            raise PreventUpdate
        number, hide = asked["circuit"], {"display": "none"}
        circuit = session.circuit(number)
        if not session.asked(number):
            if session.can_ask(number):
                told = f"Load the model ({circuit.adapter}) to ask it what happens without a node."
                return html.P(told, className="hint"), {}, []
            told = (
                f"The adapter {circuit.adapter!r} can't be loaded here: to ask the model, open the page with "
                "circuit.view(adapter=adapter)."
            )
            return html.P(told, className="hint"), hide, []
        if not asked["active"]:
            raise PreventUpdate
        try:
            told = "" if asked["settings"] else "Add nodes: focus one and switch it off. Several add up."
            result = panels.outcome_panel(circuit, session.intervene(number, asked["settings"]), asked["settings"])
            return html.P(told, className="hint"), hide, result
        except CircuitLensError as error:
            return panels.message(str(error)), hide, []

    @app.callback(Output("examples", "children"), Input("new-circuit", "opened"))
    def examples(opened: bool | None) -> Any:
        if not opened:
            raise PreventUpdate
        return panels.examples_panel(session.examples(), session.circuits)

    @app.callback(
        Output("watched", "data"),
        Output("new-circuit", "opened"),
        Output("new-fault", "children"),
        Output("tick", "disabled", allow_duplicate=True),
        Input("find", "n_clicks"),
        Input("load", "n_clicks"),
        Input("verify", "n_clicks"),
        State("shown", "data"),
        *(
            State(f"new-{name}", "value")
            for name in ("adapter", "prompt", "answer", "distractor", "corrupted", "method")
        ),
        prevent_initial_call=True,
    )
    def begin(
        _find: int | None,
        _load: int | None,
        _verify: int | None,
        shown: dict[str, Any],
        adapter: str | None,
        *question: str | None,
    ) -> Any:
        number = shown["circuit"]
        if ctx.triggered_id == "load":
            return session.load(number).id, no_update, no_update, False
        if ctx.triggered_id == "verify":
            return session.verify(number).id, no_update, no_update, False
        prompt, answer, distractor, corrupted, method = question
        if not (adapter and prompt and answer):
            fault = panels.message("Give a model, a prompt and an answer.")
            return no_update, True, fault, no_update
        job = session.find(adapter, prompt, answer, distractor, corrupted, method)
        return job.id, False, [], False

    @app.callback(
        Output("job", "hidden"),
        Output("job-title", "children"),
        Output("job-stage", "children"),
        Output("job-progress", "value"),
        Output("job-cancel", "hidden"),
        Output("job-close", "hidden"),
        Output("tick", "disabled"),
        Output("finished", "data"),
        Output("given", "data"),
        Input("tick", "n_intervals"),
        Input("job-close", "n_clicks"),
        State("watched", "data"),
        prevent_initial_call=True,
    )
    def watch(_ticks: int | None, _close: int | None, watched: int | None) -> Any:
        job = None if watched is None else session.job(watched)
        if job is None or ctx.triggered_id == "job-close":
            return True, "", "", 0, True, True, True, no_update, no_update
        ended = job.state in ENDED
        share = 100 if job.state == "done" else 100 * job.done / job.total if job.total else 0
        told = job.message or (job.stage if job.state == "running" else job.state)
        finished = {"id": job.id, "state": job.state, "result": job.result} if ended else no_update
        gone = job.state in ("done", "cancelled")
        return gone, job.title, told, share, ended, not ended, ended, finished, _given(session) if ended else no_update

    @app.callback(Output("job-cancel", "n_clicks"), Input("job-cancel", "n_clicks"), State("watched", "data"))
    def cancel(clicks: int | None, watched: int | None) -> Any:
        if clicks and watched is not None:
            session.cancel(watched)
        raise PreventUpdate


def _answer_keeping(app: Dash, session: Session) -> None:
    @app.callback(
        Output("status", "children"), Input("save", "n_clicks"), State("kept", "data"), prevent_initial_call=True
    )
    def save(_clicks: int | None, kept: dict[str, Any]) -> Any:
        try:
            path = session.save(kept["circuit"], _annotations(kept))
            told, kind = f"Saved to {path.name}.", "done"
        except CircuitLensError as error:
            told, kind = str(error), "fault"
        return html.Div(told, key=str(time.time()), className=kind)

    @app.callback(
        Output("download", "data"),
        Output("status", "children", allow_duplicate=True),
        *(Input(f"export-{what}", "n_clicks") for what in ("json", "nodes", "edges")),
        State("kept", "data"),
        prevent_initial_call=True,
    )
    def export(_json: int | None, _nodes: int | None, _edges: int | None, kept: dict[str, Any]) -> Any:
        try:
            notes = _annotations(kept)
            circuit = session.circuit(kept["circuit"]).annotated(notes)
        except CircuitLensError as error:
            return no_update, html.Div(str(error), key=str(time.time()), className="fault")
        path = session.path(kept["circuit"])
        stem = path.stem if path else "circuit"
        match ctx.triggered_id:
            case "export-json":
                return dcc.send_string(circuit.to_json(), f"{stem}.json"), no_update
            case "export-nodes":
                rows = tables.node_rows(circuit, notes.labels, notes.notes)
            case _:
                rows = tables.edge_rows(circuit, notes.labels)
        what = str(ctx.triggered_id).removeprefix("export-")
        return dcc.send_string(tables.to_csv(rows), f"{stem}-{what}.csv"), no_update


def _annotations(kept: Mapping[str, Any]) -> Annotations:
    """What the page asks to keep, checked like a file's.

    Raises:
        ViewerError: it is not what a circuit file can hold.
    """
    try:
        return Annotations.model_validate_json(kept["annotations"])
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ViewerError(f"This can't be kept in a circuit file: {place}: {fault['msg']}.") from error


def _connect_script(app: Dash) -> None:
    """What the page's script does by itself: most of what a reader does asks the server nothing."""

    def script(function: str, output: Output, *inputs: Input | State, initial: bool = False) -> None:
        app.clientside_callback(
            ClientsideFunction("circuitlens", function), output, *inputs, prevent_initial_call=not initial
        )

    nothing = Output("drawn", "data", allow_duplicate=True)
    script("begin", Output("drawn", "data"), Input("given", "data"), initial=True)
    graphs = (State("graph", "elements"), State("graph2", "elements"))
    script("drawn", nothing, Input("facts", "data"), State("axes", "data"), *graphs)
    script("subgraph", nothing, Input("subgraph", "elements"))
    script("theme", nothing, Input("theme", "data"), State("sheets", "data"))
    script("finished", nothing, Input("finished", "data"))
    for name in ("circuit", "other", "search", "view", "as", "tab", "nodes", "edges", "label", "note"):
        script(f"set_{name}", nothing, Input(name, "value"))
    for name in ("undo", "redo", "new", "help", "scheme", "fit", "export-png", "export-svg"):
        script(f"do_{name.replace('-', '_')}", nothing, Input(name, "n_clicks"))
    for name in ("node", "edge"):
        script(f"row_{name}", nothing, Input(f"{name}-table", "selectedRows"))
