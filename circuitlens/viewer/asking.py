"""Callbacks that ask a model at once: interventions, and what the form for a new circuit offers."""

from __future__ import annotations

from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, html
from dash.exceptions import PreventUpdate

from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitLensError
from circuitlens.registry import declared_options
from circuitlens.report.text import about
from circuitlens.viewer.layout.form import option_field, option_id
from circuitlens.viewer.models import model_name
from circuitlens.viewer.panels.answer import alone_panel, not_loaded
from circuitlens.viewer.panels.continuation import continuation_panel
from circuitlens.viewer.panels.examples import examples_panel
from circuitlens.viewer.panels.outcome import outcome_panel
from circuitlens.viewer.panels.parts import message
from circuitlens.viewer.panels.preview import NOT_LOADED, preview_panel
from circuitlens.viewer.preview import preview, seconds_for
from circuitlens.viewer.session import Session

HIDE = {"display": "none"}


def register(app: Dash, session: Session) -> None:
    """Add the callbacks."""
    _answer_asked(app, session)
    _fill_form(app, session)


def _answer_asked(app: Dash, session: Session) -> None:
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
        number, settings = asked["circuit"], asked["settings"]
        circuit = session.circuit(number)
        if not session.is_loaded(number) and (trouble := session.trouble(number)):
            return message(trouble), HIDE, []
        if not session.is_loaded(number):
            can_load = session.can_load(number)
            told = [html.P(_how_to_load(circuit, can_load), className="hint"), *(_fields(circuit) if can_load else [])]
            return told, {} if can_load else HIDE, []
        if not asked["active"]:
            raise PreventUpdate
        try:
            hint = "" if settings else "Add nodes: focus one and switch it off. Several add up."
            result = [
                *outcome_panel(circuit, session.intervene(number, settings), settings),
                *continuation_panel(circuit, session.continuation(number, settings), session.continues(number)),
            ]
            return html.P(hint, className="hint"), HIDE, html.Div(result, **{"data-answers": asked["key"]})
        except CircuitLensError as error:
            return message(str(error)), HIDE, []

    @app.callback(Output("alone", "children"), Input("kept-alone", "data"), Input("finished", "data"))
    def alone(kept: dict[str, Any] | None, _finished: Any) -> Any:
        if kept is None or not kept["active"]:
            raise PreventUpdate
        number, nodes = kept["circuit"], kept["nodes"]
        if not nodes:
            return []
        told = not_ready(session, number, "to see what they do alone.")
        try:
            told = told or alone_panel(session.circuit(number), session.alone(number, nodes), len(nodes))
        except CircuitLensError as error:
            told = [message(str(error))]
        return html.Div(told, **{"data-answers": kept["key"]})


def not_ready(session: Session, number: int, why: str) -> list[Any]:
    """Why a circuit's model can't be asked now, or how to load it; nothing where it can be asked."""
    if session.is_loaded(number):
        return []
    if trouble := session.trouble(number):
        return [message(trouble)]
    if not session.can_load(number):
        return [html.P(_how_to_load(session.circuit(number), False), className="hint")]
    return not_loaded(why)


def _how_to_load(circuit: Circuit, can_load: bool) -> str:
    if can_load:
        return f"Load the model ({model_name(circuit.adapter, circuit.options)}) to ask it what happens without a node."
    return (
        f"The adapter {circuit.adapter!r} can't be loaded here: to ask the model, open the page with "
        "circuit.view(adapter=adapter)."
    )


def _fields(circuit: Circuit) -> list[Any]:
    """A field for each option of a circuit's adapter, with what the file says that it was: a person decides."""
    declared = declared_options().get(circuit.adapter, ())
    fields = (
        option_field("claim", circuit.adapter, option, None, circuit.options.get(option.name)) for option in declared
    )
    return [html.Div(field, className="claim") for field in fields]


def _fill_form(app: Dash, session: Session) -> None:
    @app.callback(Output("examples", "children"), Input("new-circuit", "opened"))
    def examples(opened: bool | None) -> Any:
        if not opened:
            raise PreventUpdate
        return examples_panel(session.examples(), session.circuits)

    @app.callback(
        Output("new-preview", "children"),
        Output("new-load", "hidden"),
        Input("typed", "data"),
        Input("finished", "data"),
        prevent_initial_call=True,
    )
    def typed(typed: dict[str, str] | None, _finished: object) -> Any:
        if typed is None:
            raise PreventUpdate
        answers = {name: typed[name] for name in ("answer", "distractor")}
        method = typed["method"] or None
        loaded = session.newest(typed["adapter"])
        if loaded is None:
            return html.P(NOT_LOADED, className="hint"), False
        known = preview(loaded, typed["prompt"], typed["corrupted"], answers)
        seconds = seconds_for(known, method, session.pace(loaded, method))
        return preview_panel(known, typed, "" if seconds is None else f"It will take {about(seconds)}."), True

    @app.callback(
        Output("new-options", "children"),
        Input("new-circuit", "opened"),
        Input("new-adapter", "value"),
        State(option_id("option", ALL, ALL), "id"),
    )
    def options(opened: bool | None, adapter: str | None, _fields: object) -> Any:
        if not opened or adapter in {field["id"]["adapter"] for field in ctx.states_list[0]}:
            raise PreventUpdate  # nor is a field made anew that something was typed in
        usual = session.usual_options(adapter or "")
        declared = declared_options().get(adapter or "", ())
        return [option_field("option", adapter or "", option, usual.get(option.name)) for option in declared]
