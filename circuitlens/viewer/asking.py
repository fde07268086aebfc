"""Callbacks that ask a model: interventions, new circuits, and work in the background with its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, html, no_update
from dash.exceptions import PreventUpdate

from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitLensError, ViewerError
from circuitlens.options import AdapterOption
from circuitlens.registry import declared_options
from circuitlens.viewer.layout.form import FIELDS, option_field, option_id
from circuitlens.viewer.panels.circuit import page_data
from circuitlens.viewer.panels.examples import examples_panel
from circuitlens.viewer.panels.outcome import outcome_panel
from circuitlens.viewer.panels.parts import message
from circuitlens.viewer.session import Session

HIDE = {"display": "none"}


def register(app: Dash, session: Session) -> None:
    """Add the callbacks."""
    _answer_asked(app, session)
    _fill_form(app, session)
    _begin_work(app, session)
    _watch_work(app, session)


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
        if not session.is_loaded(number):
            can_load = session.can_load(number)
            told = [html.P(_how_to_load(circuit, can_load), className="hint"), *(_fields(circuit) if can_load else [])]
            return told, {} if can_load else HIDE, []
        if not asked["active"]:
            raise PreventUpdate
        try:
            hint = "" if settings else "Add nodes: focus one and switch it off. Several add up."
            result = outcome_panel(circuit, session.intervene(number, settings), settings)
            return html.P(hint, className="hint"), HIDE, result
        except CircuitLensError as error:
            return message(str(error)), HIDE, []


def _how_to_load(circuit: Circuit, can_load: bool) -> str:
    if can_load:
        return f"Load the model ({circuit.adapter}) to ask it what happens without a node."
    return (
        f"The adapter {circuit.adapter!r} can't be loaded here: to ask the model, open the page with "
        "circuit.view(adapter=adapter)."
    )


def _fields(circuit: Circuit) -> list[Any]:
    """A field for each option of a circuit's adapter, with what the file says that it was: a person decides."""
    declared = declared_options().get(circuit.adapter, ())
    return [
        option_field("claim", circuit.adapter, option, None, circuit.options.get(option.name)) for option in declared
    ]


def _fill_form(app: Dash, session: Session) -> None:
    @app.callback(Output("examples", "children"), Input("new-circuit", "opened"))
    def examples(opened: bool | None) -> Any:
        if not opened:
            raise PreventUpdate
        return examples_panel(session.examples(), session.circuits)

    @app.callback(
        Output("new-options", "children"),
        Input("new-circuit", "opened"),
        Input("new-adapter", "value"),
        State(option_id("option", ALL, ALL), "id"),
    )
    def options(opened: bool | None, adapter: str | None, fields: Sequence[Mapping[str, str]]) -> Any:
        if not opened or adapter in {field["adapter"] for field in fields}:
            raise PreventUpdate  # nor is a field made anew that something was typed in
        usual = session.usual_options(adapter or "")
        declared = declared_options().get(adapter or "", ())
        return [option_field("option", adapter or "", option, usual.get(option.name)) for option in declared]


def _begin_work(app: Dash, session: Session) -> None:
    @app.callback(
        Output("watched", "data"),
        Output("new-circuit", "opened"),
        Output("new-fault", "children"),
        Output("tick", "disabled", allow_duplicate=True),
        Input("find", "n_clicks"),
        *(State(f"new-{name}", "value") for name in FIELDS),
        State(option_id("option", ALL, ALL), "id"),
        State(option_id("option", ALL, ALL), "value"),
        prevent_initial_call=True,
    )
    def find(_clicks: int | None, *values: Any) -> Any:
        adapter, prompt, answer, distractor, corrupted, method, fields, texts = values
        try:
            if not (adapter and prompt and answer):
                raise ViewerError("Give a model, a prompt and an answer.")
            options = _read_options(adapter, {f["name"]: text for f, text in zip(fields, texts, strict=True)})
        except ViewerError as error:
            return no_update, True, message(str(error)), no_update
        job = session.find(adapter, prompt, answer, distractor, corrupted, method, options)
        return job.id, False, [], False

    @app.callback(
        Output("watched", "data", allow_duplicate=True),
        Output("tick", "disabled", allow_duplicate=True),
        Output("load-fault", "children"),
        Input("load", "n_clicks"),
        Input("verify", "n_clicks"),
        State("shown", "data"),
        State(option_id("claim", ALL, ALL), "id"),
        State(option_id("claim", ALL, ALL), "value"),
        prevent_initial_call=True,
    )
    def work(_load: int | None, _verify: int | None, shown: dict[str, Any], fields: Any, texts: Any) -> Any:
        begin = session.load if ctx.triggered_id == "load" else session.verify
        number = shown["circuit"]
        given = {f["name"]: text for f, text in zip(fields, texts, strict=True)}
        try:
            options = _read_options(session.circuit(number).adapter, given)
        except ViewerError as error:
            return no_update, no_update, message(str(error))
        return begin(number, options).id, False, []


def _read_options(adapter: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given in the form, as `load` takes them.

    Raises:
        ViewerError: a value is not what the option can be.
    """
    texts = {name: "" if value is None else str(value).strip() for name, value in given.items()}
    declared = declared_options().get(adapter, ())
    return {option.name: _read_option(option, texts[option.name]) for option in declared if texts.get(option.name)}


def _read_option(option: AdapterOption, text: str) -> Any:
    if option.type is bool:
        return text == "yes"
    try:
        if option.several:
            return [option.parse(part.strip()) for part in text.split(",") if part.strip()]
        return option.parse(text)
    except ValueError as error:
        raise ViewerError(f"{option.name}: {error}") from error


def _watch_work(app: Dash, session: Session) -> None:
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
        job = None if watched is None else session.jobs.get(watched)
        if job is None or ctx.triggered_id == "job-close":
            return True, "", "", 0, True, True, True, no_update, no_update
        ended = job.has_ended
        stage = job.message or (job.stage if job.state == "running" else job.state)
        finished = {"id": job.id, "state": job.state, "result": job.result} if ended else no_update
        data = page_data(session.circuits) if ended else no_update
        hidden = job.state in ("done", "cancelled")
        return hidden, job.title, stage, job.share, ended, not ended, ended, finished, data

    @app.callback(Input("job-cancel", "n_clicks"), State("watched", "data"), prevent_initial_call=True)
    def cancel(_clicks: int | None, watched: int | None) -> None:
        if watched is not None:
            session.jobs.cancel(watched)
