"""What goes wrong in a request: it ends in a sentence, for the reader in the page, else as the whole answer.

A callback's fault is shown where the page tells what was done. A request that the page does not send is answered with a
status of 4xx and a sentence, which the page's script shows as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from json import loads
from typing import Any

from dash import Dash, set_props
from dash.exceptions import DependencyException
from flask import Response, abort, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound

from circuitlens.errors import CircuitLensError, ViewerError
from circuitlens.viewer.layout.page import TOPICS
from circuitlens.viewer.panels.parts import status
from circuitlens.viewer.topics import check

log = logging.getLogger(__name__)

CALLBACKS = "/_dash-update-component"
UNKNOWN = "This is no request of the page: reload it."


def tell_reader(error: Exception) -> None:
    """Show why a callback has no answer, whatever the reason is."""
    set_props("status", {"children": status(describe(error), "fault")})


def describe(error: Exception) -> str:
    """An error as one sentence; what was not foreseen is logged with where it came from."""
    if isinstance(error, CircuitLensError):
        return str(error)
    log.error("The page met what was not foreseen.", exc_info=error)
    return f"This failed in a way that was not foreseen ({type(error).__name__}: {error}). The terminal says where."


def answer_faults(app: Dash) -> None:
    """Have a sentence as the answer to whatever can't be answered."""

    @app.server.before_request
    def check_callback() -> None:
        if request.path == CALLBACKS and request.method == "POST":
            _check_callback(app, _json())

    @app.server.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        response = error.get_response()
        if error.code is not None and error.code >= 400:
            response.set_data(f"{error.description}\n")
            response.content_type = "text/plain; charset=utf-8"
        return response

    @app.server.errorhandler(DependencyException)
    @app.server.errorhandler(FileNotFoundError)
    def missing(_error: Exception) -> Any:
        return refused(NotFound())

    @app.server.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        return Response(f"{describe(error)}\n", 500, content_type="text/plain; charset=utf-8")


def _json() -> Any:
    try:
        return request.get_json()
    except RecursionError:
        raise BadRequest("This JSON is nested too deeply: reload the page.") from None


def _check_callback(app: Dash, body: Any) -> None:
    """Refuse what is no request of a callback of the page, since Dash and the callbacks read it as if it were."""
    output = body.get("output") if isinstance(body, dict) else None
    known = app.callback_map.get(output) if isinstance(output, str) else None
    if output is None or known is None or "callback" not in known:
        abort(400, UNKNOWN)
    parts = [dict(zip(("id", "property"), one.rsplit(".", 1), strict=True)) for one in output.strip(".").split("...")]
    inputs, state, changed = body.get("inputs", []), body.get("state", []), body.get("changedPropIds")
    names = [f"{one['id']}.{one['property']}" for one in known["inputs"]]
    right = (
        body.get("outputs") == (parts if output.startswith("..") else parts[0])
        and _are(inputs, known["inputs"])
        and _are(state, known["state"])
        and isinstance(changed, list)
        and all(one in names for one in changed)
    )
    # What a callback is asked by may be None, at first; what it only looks at is there by then.
    there = (*TOPICS, "given")
    if not right or any(isinstance(one, dict) and one["id"] in there and one.get("value") is None for one in state):
        abort(400, UNKNOWN)
    try:
        for one in (*inputs, *state):
            if isinstance(one, dict):
                check(f"{one['id']}.{one['property']}", one.get("value"))
    except ViewerError as error:
        abort(400, str(error))


def _are(given: Any, wanted: Sequence[Mapping[str, str]]) -> bool:
    """Whether these are values of the properties that are wanted, in their order."""
    return isinstance(given, list) and len(given) == len(wanted) and all(map(_is, given, wanted))


def _is(given: Any, wanted: Mapping[str, str]) -> bool:
    if not wanted["id"].startswith("{"):
        return isinstance(given, dict) and all(given.get(name) == wanted[name] for name in ("id", "property"))
    pattern = loads(wanted["id"])  # an id that stands for many
    return isinstance(given, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("id"), dict)
        and one["id"].keys() == pattern.keys()
        and all(isinstance(part, str) and pattern[name] in (part, ["ALL"]) for name, part in one["id"].items())
        and one.get("property") == wanted["property"]
        for one in given
    )
