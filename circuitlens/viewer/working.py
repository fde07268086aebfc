"""Callbacks of work in the background: it is begun, watched, and ended before its time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from circuitlens.errors import ViewerError
from circuitlens.options import AdapterOption
from circuitlens.registry import declared_options
from circuitlens.viewer.jobs import Job
from circuitlens.viewer.layout.form import FIELDS, option_id
from circuitlens.viewer.panels.circuit import page_data
from circuitlens.viewer.panels.parts import message
from circuitlens.viewer.preview import outputs_of
from circuitlens.viewer.session import Session

BUSY, IDLE = 300, 2000
"""Milliseconds after which a page asks again how the work goes, while there is some and while there is none."""


def register(app: Dash, session: Session) -> None:
    """Add the callbacks."""
    _begin_work(app, session)
    _begin_text(app, session)
    _begin_measuring(app, session)
    _watch_work(app, session)


def state(session: Session) -> dict[str, Any]:
    """How the work goes: a row for each job, when to ask again, what has `finished` and the circuits it made, and a
    number by which the page says what it has `seen`.
    """
    seen = session.jobs.revision  # before the jobs are looked at, so that what changes meanwhile is told again
    jobs = session.jobs.all()
    ended = [job.id for job in jobs if job.has_ended]
    made = {str(job.id): job.result for job in jobs if job.result is not None}
    return {
        "work": [_row(job) for job in jobs if job.is_listed],
        "interval": IDLE if len(ended) == len(jobs) else BUSY,
        "finished": {"jobs": ended, "made": made},
        "seen": seen,
    }


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "title": job.title,
        "stage": job.message or (job.stage if job.state == "running" else job.state),
        "share": job.share,
        "warnings": job.warnings,
        "ended": job.has_ended,
    }


def _begin_work(app: Dash, session: Session) -> None:
    @app.callback(
        Output("begun", "data"),
        Output("new-circuit", "opened"),
        Output("new-fault", "children"),
        Input("find", "n_clicks"),
        *(State(f"new-{name}", "value") for name in FIELDS),
        State(option_id("option", ALL, ALL), "value"),
        prevent_initial_call=True,
    )
    def find(_clicks: int | None, *values: Any) -> Any:
        adapter, prompt, answer, distractor, corrupted, method, _texts = values
        try:
            if not (adapter and prompt and answer):
                raise ViewerError("Give a model, a prompt and an answer.")
            options = _read_options(adapter, _typed())
        except ViewerError as error:
            return no_update, True, message(str(error))
        ours, theirs = outputs_of(answer), outputs_of(distractor) if distractor else None
        job = session.find(adapter, prompt, ours, theirs, corrupted, method, options)
        return job.id, False, []

    @app.callback(
        Output("new-fault", "children", allow_duplicate=True),
        Output("begun", "data", allow_duplicate=True),
        Input("new-load", "n_clicks"),
        State("new-adapter", "value"),
        State(option_id("option", ALL, ALL), "value"),
        prevent_initial_call=True,
    )
    def load(_clicks: int | None, adapter: str | None, _texts: object) -> Any:
        try:
            return [], session.load_named(adapter or "", _read_options(adapter or "", _typed())).id
        except ViewerError as error:
            return message(str(error)), no_update

    @app.callback(
        Output("begun", "data", allow_duplicate=True),
        Output("load-fault", "children"),
        Input("load", "n_clicks"),
        Input("verify", "n_clicks"),
        State("shown", "data"),
        State(option_id("claim", ALL, ALL), "value"),
        prevent_initial_call=True,
    )
    def work(_load: int | None, _verify: int | None, shown: dict[str, Any], _texts: object) -> Any:
        begin = {"load": session.load, "verify": session.verify}.get(str(ctx.triggered_id))
        if begin is None:
            raise PreventUpdate
        number = shown["circuit"]
        try:
            options = _read_options(session.circuit(number).adapter, _typed())
        except ViewerError as error:
            return no_update, message(str(error))
        return begin(number, options).id, []


def _begin_text(app: Dash, session: Session) -> None:
    @app.callback(
        Output("begun", "data", allow_duplicate=True),
        Input("continuing", "data"),
        prevent_initial_call=True,
    )
    def continue_text(continuing: dict[str, Any] | None) -> Any:
        if continuing is None:
            raise PreventUpdate
        return session.continue_text(continuing["circuit"], continuing["settings"]).id


def _begin_measuring(app: Dash, session: Session) -> None:
    @app.callback(
        Output("begun", "data", allow_duplicate=True),
        Input("suggest", "data"),
        State("pinned", "data"),
        prevent_initial_call=True,
    )
    def begin(suggest: dict[str, Any] | None, pinned: dict[str, Any] | None) -> Any:
        """What groups do, those that are suggested and the reader's own, wherever it is not known."""
        if suggest is None or not session.is_loaded(number := suggest["circuit"]):
            raise PreventUpdate
        circuit, own = session.circuit(number), pinned["groups"] if pinned and pinned["circuit"] == number else []
        there = {node.id for node in circuit.nodes if not node.is_logit}
        groups = [*(group.nodes for group in session.groups.suggested(circuit)), *(group["nodes"] for group in own)]
        known = session.groups.effect
        unknown = [nodes for nodes in groups if there.issuperset(nodes) and known(circuit, nodes) is None]
        if not unknown:
            raise PreventUpdate
        measure = partial(session.groups.measure, session.adapter(number), circuit, unknown)
        return session.jobs.start("Measure the groups", measure).id


def _typed() -> dict[str, Any]:
    """What stands in the fields of options, by name; a field that was never typed in has no value."""
    return {field["id"]["name"]: field.get("value") for field in ctx.states_list[-1]}


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
        Output("work", "data"),
        Output("tick", "interval"),
        Output("seen", "data"),
        Output("finished", "data"),
        Output("given", "data"),
        Input("tick", "n_intervals"),
        Input("begun", "data"),
        Input("ending", "data"),
        State("seen", "data"),
        State("finished", "data"),
        prevent_initial_call=True,
    )
    def watch(_ticks: int | None, _begun: object, ending: dict[str, Any] | None, seen: object, finished: object) -> Any:
        # Also where the page asks in one request how the work goes and for its end.
        if "ending.data" in ctx.triggered_prop_ids and ending:
            end = session.jobs.cancel if ending["how"] == "cancel" else session.jobs.dismiss
            end(ending["job"])
        now = state(session)
        if seen == now["seen"]:
            raise PreventUpdate
        known = (no_update, no_update)
        new = known if finished == now["finished"] else (now["finished"], page_data(session.circuits))
        return now["work"], now["interval"], now["seen"], *new
