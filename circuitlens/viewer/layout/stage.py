"""The middle of the page: the introduction, and a circuit as a graph, as tables, or its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import html

from circuitlens.viewer.layout.introduction import introduction
from circuitlens.viewer.layout.parts import aria, choice, graph
from circuitlens.viewer.page_state import VIEWS

NODE_COLUMNS = [
    {"field": "label", "headerName": "Node", "minWidth": 120, "flex": 2},
    {"field": "kind", "headerName": "Kind", "width": 110},
    {"field": "layer", "headerName": "Layer", "width": 90, "filter": "agNumberColumnFilter"},
    {"field": "token", "headerName": "Token", "width": 120},
    {"field": "position", "headerName": "Position", "width": 100, "filter": "agNumberColumnFilter"},
    {"field": "activation", "headerName": "Activation", "width": 120, "type": "number"},
    {"field": "attribution", "headerName": "Attribution", "width": 130, "type": "number"},
    {"field": "standard_error", "headerName": "± error", "width": 100, "type": "number"},
    {"field": "hook", "headerName": "Hook", "minWidth": 140, "flex": 2},
    {"field": "note", "headerName": "Note", "minWidth": 100, "flex": 1},
]
EDGE_COLUMNS = [
    {"field": "source_name", "headerName": "From", "minWidth": 160, "flex": 2},
    {"field": "target_name", "headerName": "To", "minWidth": 160, "flex": 2},
    {"field": "weight", "headerName": "Weight", "width": 140, "type": "number"},
    {"field": "standard_error", "headerName": "± error", "width": 110, "type": "number"},
    {"field": "basis", "headerName": "Basis", "width": 120},
]


def stage() -> Any:
    """What a circuit is shown in; the page's script hides all but the chosen view."""
    return html.Main(
        [
            introduction(),
            _tools(),
            html.Section(id="prompt", **aria(label="Tokens of the prompt")),
            html.P(id="left-out", className="hint", hidden=True),
            html.Div([_pane("graph", "Circuit graph"), _pane("graph2", "Graph of the second circuit")], id="panes"),
            _tables(),
            _evidence(),
            html.Div(id="legend"),
        ],
        id="stage",
    )


def _tools() -> Any:
    graph_tools = [
        _slider("nodes", "Nodes"),
        _slider("edges", "Edges"),
        choice("as", "Comparison", [("side", "Side by side"), ("difference", "Difference")]),
        html.Button("Show all", id="show-all", className="do", hidden=True),
        dmc.Button("Fit", id="fit", size="compact-sm", variant="default"),
    ]
    views = choice("view", "View", [(view, view.capitalize()) for view in VIEWS])
    return html.Div([views, html.Div(graph_tools, id="graph-tools")], id="tools")


def _tables() -> Any:
    tabs = dmc.Tabs(
        [
            dmc.TabsList([dmc.TabsTab("Nodes", value="nodes"), dmc.TabsTab("Edges", value="edges")]),
            dmc.TabsPanel(_grid("node-table", NODE_COLUMNS), value="nodes"),
            dmc.TabsPanel(_grid("edge-table", EDGE_COLUMNS), value="edges"),
        ],
        value=None,  # the page's script takes one when a table is first looked at: its scripts are large
        id="table-tabs",
        keepMounted=False,
    )
    return html.Div(tabs, id="tables")


def _evidence() -> Any:
    measure = dmc.Button("Measure the evidence", id="verify", size="sm", variant="default")
    children = [html.Div(id="evidence-told"), measure]
    return html.Div(children, id="evidence", tabIndex=0, role="region", **aria(label="Evidence"))


def _slider(name: str, label: str) -> Any:
    return html.Div(
        [
            html.Span(label, className="name"),
            dmc.Slider(
                id=name, min=0, max=1, value=1, updatemode="drag", label=None, size="sm", thumbLabel=f"{label} shown"
            ),
            html.Span(id=f"{name}-shown", className="shown"),
        ],
        className="slider",
    )


def _pane(name: str, label: str) -> Any:
    return html.Div(
        [
            html.H2(id=f"{name}-title", className="pane-title", hidden=True),
            html.Div(graph(name, minZoom=0.2, maxZoom=5), className="canvas"),
            html.Div(className="rows", **aria(hidden="true")),
            html.Div(className="columns", **aria(hidden="true")),
        ],
        id=f"{name}-pane",
        className="pane",
        tabIndex=0,
        role="application",
        **aria(label=f"{label}. Arrow keys follow the strongest edges; the table view lists the same."),
    )


def _grid(name: str, columns: Sequence[dict[str, Any]]) -> Any:
    return dag.AgGrid(
        id=name,
        columnDefs=list(columns),
        rowData=[],
        defaultColDef={"sortable": True, "filter": True, "resizable": True},
        getRowId="'row ' + params.data.id",
        dashGridOptions={
            "columnTypes": {
                "number": {
                    "filter": "agNumberColumnFilter",
                    "valueFormatter": {"function": "params.value == null ? '' : d3.format('+.3f')(params.value)"},
                    "cellClass": "number",
                }
            },
            "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
            "animateRows": False,
        },
        className="",
        style={"height": "100%"},
    )
