"""The parts of the page and where they stand; what they do is in `app` and in the assets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

import dash_ag_grid as dag
import dash_cytoscape as cyto
import dash_mantine_components as dmc
from dash import dcc, html

from circuitlens.literals import MethodName
from circuitlens.viewer.elements import stylesheet

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
]
EXPORTS = [
    ("png", "Picture (PNG)"),
    ("svg", "Picture (SVG)"),
    ("json", "Circuit (JSON)"),
    ("nodes", "Nodes (CSV)"),
    ("edges", "Edges (CSV)"),
]
KEYS = [
    ("/", "search"),
    ("arrows", "the strongest neighbour above or below, the next node in the row"),
    ("p", "pin or unpin"),
    ("o", "switch off or on"),
    ("Esc", "leave the focus"),
    ("f", "fit"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
]


def page(names: Sequence[str], given: Any, adapters: Sequence[str]) -> Any:
    """The whole page; everything that depends on a circuit is filled in by callbacks."""
    return dmc.MantineProvider(
        html.Div(
            [
                _header(names),
                _job(),
                html.Div([_stage(), _side()], id="body"),
                _new_circuit(adapters),
                *_stores(given),
            ],
            id="page",
        ),
        id="provider",
        defaultColorScheme="auto",
    )


def options(names: Sequence[str]) -> list[dict[str, str]]:
    """Circuits as a select's options, by their numbers."""
    return [{"value": str(number), "label": name} for number, name in enumerate(names)]


def aria(**attributes: str) -> dict[str, Any]:
    """ARIA attributes as Dash takes them."""
    return {f"aria-{name}": value for name, value in attributes.items()}


def _header(names: Sequence[str]) -> Any:
    return html.Header(
        [
            html.H1("CircuitLens"),
            dmc.Select(
                id="circuit", data=options(names), value="0", allowDeselect=False, size="sm", **aria(label="Circuit")
            ),
            dmc.Select(
                id="other",
                data=options(names),
                clearable=True,
                placeholder="Compare with …",
                size="sm",
                clearButtonProps=cast(Any, aria(label="End the comparison")),
                **aria(label="Compare with"),
            ),
            html.Div(className="spacer"),
            dmc.Select(
                id="search",
                data=[],
                searchable=True,
                clearable=False,
                limit=30,
                placeholder="Search  /",
                nothingFoundMessage="No node has this in its label, token or id",
                selectFirstOptionOnChange=True,
                size="sm",
                **aria(label="Search nodes"),
            ),
            _icon("undo", "↶", "Undo (Ctrl+Z)"),
            _icon("redo", "↷", "Redo (Ctrl+Shift+Z)"),
            dmc.Button("New circuit", id="new", size="sm", variant="default"),
            dmc.Button("Save", id="save", size="sm", variant="default"),
            html.Details(
                [
                    html.Summary("Export"),
                    html.Div([html.Button(text, id=f"export-{what}") for what, text in EXPORTS]),
                ],
                id="export",
            ),
            _icon("help", "?", "Introduction and keys"),
            _icon("scheme", "◐", "Light or dark"),
        ]
    )


def _job() -> Any:
    return html.Div(
        [
            html.Strong(id="job-title"),
            html.Span(id="job-stage"),
            dmc.Progress(id="job-progress", value=0, size="sm"),
            html.Button("Cancel", id="job-cancel", className="do"),
            html.Button("Dismiss", id="job-close", className="do"),
        ],
        id="job",
        hidden=True,
        role="status",
    )


def _icon(name: str, sign: str, label: str) -> Any:
    return dmc.ActionIcon(sign, id=name, variant="default", size="lg", attributes={}, **aria(label=label))


def _stage() -> Any:
    tools = html.Div(
        [
            _choice("view", "View", ["graph", "table", "evidence"]),
            html.Div(
                [
                    _slider("nodes", "Nodes"),
                    _slider("edges", "Edges"),
                    dmc.SegmentedControl(
                        id="as",
                        data=[
                            {"value": "side", "label": "Side by side"},
                            {"value": "difference", "label": "Difference"},
                        ],
                        value="side",
                        size="xs",
                        **aria(label="Comparison"),
                    ),
                    dmc.Button("Fit", id="fit", size="compact-sm", variant="default"),
                ],
                id="graph-tools",
            ),
        ],
        id="tools",
    )
    panes = html.Div([_pane("graph", "Circuit graph"), _pane("graph2", "Graph of the second circuit")], id="panes")
    tables = html.Div(
        [
            dmc.Tabs(
                [
                    dmc.TabsList([dmc.TabsTab("Nodes", value="nodes"), dmc.TabsTab("Edges", value="edges")]),
                    dmc.TabsPanel(_grid("node-table", NODE_COLUMNS), value="nodes"),
                    dmc.TabsPanel(_grid("edge-table", EDGE_COLUMNS), value="edges"),
                ],
                value="nodes",
                id="table-tabs",
                keepMounted=False,
            ),
        ],
        id="tables",
    )
    evidence = html.Div(
        [
            html.Div(id="evidence-told"),
            dmc.Button("Measure the evidence", id="verify", size="sm", variant="default"),
        ],
        id="evidence",
        tabIndex=0,
        role="region",
        **aria(label="Evidence"),
    )
    return html.Main(
        [
            _introduction(),
            tools,
            html.P(id="left-out", className="hint", hidden=True),
            panes,
            tables,
            evidence,
            html.Div(id="legend"),
        ],
        id="stage",
    )


def _introduction() -> Any:
    steps = [
        (
            "Read it upwards",
            "From what the model reads to what it answers, a layer a row. Blue speaks for the answer, dashed orange "
            "against it; a bigger node matters more.",
            None,
        ),
        (
            "Click a node",
            "See what feeds it and what it feeds. The rest fades.",
            html.Button("Show the feature that matters most", id="intro-show", className="do"),
        ),
        (
            "Switch it off",
            "The real model runs again without it: see which answer wins then.",
            html.Button("Switch it off", id="intro-off", className="do"),
        ),
    ]
    items = [
        html.Li([html.Strong(title), html.Span([html.Span(text), *([" ", button] if button else [])])])
        for title, text, button in steps
    ]
    keys = [part for key, what in KEYS for part in (html.Kbd(key), f" {what}", " · ")][:-1]
    return html.Section(
        [
            html.Ol(items),
            html.P(keys, className="hint keys"),
            html.Button("✕", id="intro-close", className="close", **aria(label="Dismiss the introduction")),
        ],
        id="intro",
        hidden=True,
        **aria(label="Introduction"),
    )


def _choice(name: str, label: str, values: Sequence[str]) -> Any:
    data = [{"value": value, "label": value.capitalize()} for value in values]
    return dmc.SegmentedControl(id=name, data=data, value=values[0], size="xs", **aria(label=label))


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
    graph = cyto.Cytoscape(
        id=name,
        elements=[],
        layout={"name": "preset", "fit": False},
        style={},
        stylesheet=stylesheet("light"),
        autoRefreshLayout=False,
        autoungrabify=True,
        autounselectify=True,
        boxSelectionEnabled=False,
        minZoom=0.2,
        maxZoom=2.5,
        responsive=False,
    )
    return html.Div(
        [
            html.H2(id=f"{name}-title", className="pane-title", hidden=True),
            html.Div(graph, className="canvas"),
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
        getRowId="params.data.id",
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


def _side() -> Any:
    node = [
        html.H2(id="node-name", hidden=True),
        html.Div(
            [
                html.Button("Pin", id="pin", className="do"),
                html.Button("Switch off", id="off", className="do"),
            ],
            id="node-tools",
            hidden=True,
        ),
        html.Section(id="detail", **aria(live="polite")),
        html.Section(id="told"),
        html.Div(
            [
                dmc.TextInput(id="label", label="Your label", debounce=True, size="xs"),
                dmc.Textarea(id="note", label="Your note", debounce=True, size="xs", autosize=True, minRows=2),
            ],
            id="own",
            hidden=True,
        ),
    ]
    pinned = [
        html.P("Pin nodes (p, or Ctrl-click) to see them by themselves and to group them.", className="hint"),
        html.Ul(id="pins"),
        html.Div(
            [
                dmc.TextInput(
                    id="group-name", placeholder="Name of a group", size="xs", **aria(label="Name of a group")
                ),
                html.Button("Group the ticked", id="group", className="do"),
            ],
            id="grouping",
        ),
        html.Div(
            cyto.Cytoscape(
                id="subgraph",
                elements=[],
                layout={"name": "preset", "fit": False},
                style={},
                stylesheet=stylesheet("light"),
                autoRefreshLayout=False,
                autoungrabify=True,
                autounselectify=True,
                boxSelectionEnabled=False,
                userZoomingEnabled=False,
                userPanningEnabled=False,
                responsive=False,
            ),
            id="subgraph-pane",
            role="img",
            **aria(label="The pinned nodes and the edges between them, those of groups summed; listed above and below"),
        ),
        html.Div(id="sums"),
    ]
    ask = [
        html.Ul(id="settings"),
        html.Div(id="model-told"),
        dmc.Button("Load the model", id="load", size="sm", variant="default"),
        html.Section(id="outcome", **aria(live="polite")),
    ]
    tabs = [("node", "Node", node), ("pinned", "Pinned", pinned), ("ask", "Intervene", ask), ("about", "Circuit", [])]
    return html.Aside(
        dmc.Tabs(
            [
                dmc.TabsList([dmc.TabsTab(name, value=value) for value, name, _ in tabs], grow=True),
                *[
                    dmc.TabsPanel(html.Section(id="about") if value == "about" else content, value=value)
                    for value, _, content in tabs
                ],
            ],
            id="tab",
            value="node",
        ),
        id="side",
        **aria(label="Details"),
    )


def _new_circuit(adapters: Sequence[str]) -> Any:
    return dmc.Modal(
        [
            html.Div(id="examples"),
            dmc.Select(id="new-adapter", label="Model", data=list(adapters), value=next(iter(adapters), None)),
            dmc.TextInput(id="new-prompt", label="Prompt", description="what the model reads"),
            dmc.TextInput(
                id="new-corrupted",
                label="Corrupted prompt",
                description="differs in what matters, token by token as long; may be left out",
            ),
            html.Div(
                [
                    dmc.TextInput(id="new-answer", label="Answer", description="the output to explain"),
                    dmc.TextInput(
                        id="new-distractor", label="Distractor", description="set against it; may be left out"
                    ),
                ],
                className="two",
            ),
            dmc.Select(
                id="new-method",
                label="Method",
                description="how attribution is measured",
                data=[{"value": "", "label": "the default"}, *({"value": m, "label": m} for m in get_args(MethodName))],
                value="",
                allowDeselect=False,
            ),
            html.Div(id="new-fault", role="alert"),
            dmc.Button("Find the circuit", id="find", mt="md", variant="default"),
        ],
        id="new-circuit",
        title="New circuit",
        opened=False,
        closeButtonProps=cast(Any, aria(label="Close")),
        transitionProps=cast(Any, {"duration": 0}),
        returnFocus=True,
    )


def _stores(given: Any) -> list[Any]:
    """Topics of the page's state, which the script in `assets/state.js` fills, and what it needs to begin."""
    topics = ("shown", "facts", "focused", "pinned", "asked", "reading", "theme", "kept")
    return [
        dcc.Store(id="given", data=given),
        *(dcc.Store(id=topic) for topic in topics),
        dcc.Store(id="sheets", data={scheme: stylesheet(scheme) for scheme in ("light", "dark")}),
        dcc.Store(id="axes"),
        dcc.Store(id="watched"),
        dcc.Store(id="finished"),
        dcc.Store(id="drawn"),
        dcc.Interval(id="tick", interval=300, disabled=True),
        dcc.Download(id="download"),
        html.Div(id="status", role="status", **aria(live="polite")),
    ]
