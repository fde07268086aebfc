"""The page as a Dash app.

The page's state lives in the browser (`assets/state.js`), which splits it into topics, stores that change only when
what they are about does: `shown` (which circuits), `focused` (which node), `pinned`, `asked` (interventions), `reading`
(table and evidence), `kept` (what a file can keep). Each callback of `reading`, `asking`, `working` and `keeping`
answers one topic or button.

Everything is served from this machine. Labels, tokens and prompts come from files and models: they are shown as text.
"""

from __future__ import annotations

from pathlib import Path

from dash import ClientsideFunction, Dash, Input, State

from circuitlens.viewer import asking, keeping, reading, working
from circuitlens.viewer.faults import answer_faults, tell_reader
from circuitlens.viewer.layout.form import FIELDS
from circuitlens.viewer.layout.page import page
from circuitlens.viewer.panels.circuit import names, page_data
from circuitlens.viewer.session import Session
from circuitlens.viewer.theme import css_variables


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
        on_error=tell_reader,
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">').replace(
        "{%css%}", f"<style>{css_variables()}</style>{{%css%}}"
    )
    answer_faults(app)
    # Made anew for each load, so that circuits found meanwhile are there after a reload.
    app.layout = lambda: page(
        names(session.circuits), page_data(session.circuits), session.model_names(), working.state(session)
    )
    reading.register(app, session)
    asking.register(app, session)
    working.register(app, session)
    keeping.register(app, session)
    _connect_script(app)
    return app


def _connect_script(app: Dash) -> None:
    """Have the page's script told of what a reader does; most of it asks the server nothing."""

    def tell(function: str, *inputs: Input | State, initial: bool = False) -> None:
        app.clientside_callback(ClientsideFunction("circuitlens", function), *inputs, prevent_initial_call=not initial)

    tell("begin", Input("given", "data"), State("schema", "data"), initial=True)
    tell(
        "drawn", Input("facts", "data"), State("axes", "data"), State("graph", "elements"), State("graph2", "elements")
    )
    tell("laid", Input("axes", "data"))
    tell("subgraph", Input("subgraph", "elements"))
    tell("theme", Input("theme", "data"), State("sheets", "data"))
    tell("work", Input("work", "data"), initial=True)
    tell("begun", Input("begun", "data"))
    tell("finished", Input("finished", "data"))
    for name in ("circuit", "other", "search", "view", "as", "tab", "nodes", "edges"):
        tell(f"set_{name}", Input(name, "value"))
    for name in ("undo", "redo", "new", "help", "scheme", "fit", "export-png", "export-svg"):
        tell(f"do_{name.replace('-', '_')}", Input(name, "n_clicks"))
    tell("typed", Input("new-circuit", "opened"), *(Input(f"new-{name}", "value") for name in FIELDS))
    for name in ("node", "edge"):
        tell(f"row_{name}", Input(f"{name}-table", "selectedRows"))
