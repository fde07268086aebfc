"""Callbacks that keep something: a circuit with its annotations is saved to its file, or exported."""

from __future__ import annotations

import json
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, no_update

from circuitlens.errors import CircuitLensError, ViewerError
from circuitlens.viewer.page_state import read_annotations
from circuitlens.viewer.panels.circuit import page_data
from circuitlens.viewer.panels.parts import status
from circuitlens.viewer.session import Session
from circuitlens.viewer.tables import csv_tables


def register(app: Dash, session: Session) -> None:
    """Add the callbacks."""
    _save(app, session)
    _export(app, session)


def _save(app: Dash, session: Session) -> None:
    @app.callback(
        Output("status", "children"),
        Output("given", "data", allow_duplicate=True),
        Input("save", "n_clicks"),
        State("kept", "data"),
        State("given", "data"),
        prevent_initial_call=True,
    )
    def save(_clicks: int | None, kept: dict[str, Any], given: dict[str, Any]) -> Any:
        number = kept["circuit"]
        try:
            before = session.circuit(number).evidence
            if number >= len(given["circuits"]):
                raise ViewerError("This page does not know the circuit yet: reload it.")
            # What this page began with: another one may have saved since.
            seen = read_annotations(json.dumps(given["circuits"][number]["annotations"] or {}))
            path = session.save(number, read_annotations(kept["state"]), seen)
            circuit = session.circuit(number)
        except CircuitLensError as error:
            return status(str(error), "fault"), no_update
        told = "" if circuit.evidence == before else " The evidence that was written into it meanwhile was kept."
        given["circuits"][number] = page_data([circuit])["circuits"][0]
        return status(f"Saved to {path.name}.{told}", "done"), given


def _export(app: Dash, session: Session) -> None:
    @app.callback(
        Output("download", "data"),
        Output("status", "children", allow_duplicate=True),
        *(Input(f"export-{what}", "n_clicks") for what in ("json", "nodes", "edges")),
        State("kept", "data"),
        prevent_initial_call=True,
    )
    def export(_json: int | None, _nodes: int | None, _edges: int | None, kept: dict[str, Any]) -> Any:
        try:
            notes = read_annotations(kept["state"])
            circuit = session.circuit(kept["circuit"]).annotated(notes)
        except CircuitLensError as error:
            return no_update, status(str(error), "fault")
        path = session.path(kept["circuit"])
        stem = path.stem if path else "circuit"
        match ctx.triggered_id:
            case "export-json":
                return dcc.send_string(circuit.to_json(), f"{stem}.json"), no_update
            case asked:
                table = f"-{str(asked).removeprefix('export-')}"
                return dcc.send_string(csv_tables(circuit)[table], f"{stem}{table}.csv"), no_update
