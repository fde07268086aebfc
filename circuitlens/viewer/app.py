"""The page: a graph, what was clicked, and the circuit it belongs to.

Everything is served from this machine. Labels, tokens and prompts come from files and models: they are shown as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dash_cytoscape as cyto
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from circuitlens.circuit import ANSWER, Circuit, Edge, Node, full_name
from circuitlens.errors import CircuitError
from circuitlens.viewer.elements import elements, stylesheet, visible

DEFAULT_EDGES = 80
"""Edges shown at first: more than about a hundred are haze."""
LISTED = 20
"""Edges listed each way of a node."""

KINDS = {
    "input": "input",
    "embedding": "embedding",
    "neuron": "neuron",
    "feature": "SAE feature",
    "error": "SAE error",
    "logit": "logit",
}


def create_app(circuits: Sequence[Circuit]) -> Dash:
    """The viewer as a Dash app over circuits to switch between, at least one."""
    app = Dash(
        __name__,
        title="CircuitLens",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        enable_mcp=False,
    )
    # A page elsewhere that has its name resolve to 127.0.0.1 gets 400.
    app.server.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.layout = _layout(circuits)
    _connect(app, circuits)
    return app


def _connect(app: Dash, circuits: Sequence[Circuit]) -> None:
    @app.callback(
        Output("graph", "elements"),
        Output("edges", "max"),
        Output("edges", "value"),
        Output("stops", "data"),
        Output("about", "children"),
        Output("legend", "children"),
        Input("circuit", "value"),
    )
    def show(chosen: str) -> tuple[Any, ...]:
        circuit = circuits[int(chosen)]
        stops = _stops(len(circuit.edges))
        first = min(stops[-1], DEFAULT_EDGES)
        return elements(circuit), len(stops) - 1, first, stops, _about(circuit), _legend(circuit)

    @app.callback(
        Output("detail", "children"),
        Input("graph", "selectedNodeData"),
        Input("circuit", "value"),
    )
    def detail(selected: list[dict[str, Any]] | None, chosen: str) -> Any:
        circuit = circuits[int(chosen)]
        ids = {node.id for node in circuit.nodes}
        nodes = [data["node"] for data in selected or [] if data.get("node") in ids]
        if not nodes:
            return dmc.Text("Click a node to see what feeds it and what it feeds.", c="dimmed", size="sm")
        return _detail(circuit, circuit.node(nodes[-1]))

    here = "circuitlens"
    app.clientside_callback(ClientsideFunction(here, "drawn"), Output("drawn", "data"), Input("graph", "elements"))
    app.clientside_callback(
        ClientsideFunction(here, "threshold"),
        Output("edges-shown", "children"),
        Input("edges", "value"),
        Input("stops", "data"),
    )
    app.clientside_callback(
        ClientsideFunction(here, "stylesheet"),
        Output("graph", "stylesheet"),
        Input("sheets", "data"),
    )


def _layout(circuits: Sequence[Circuit]) -> Any:
    names = [{"value": str(i), "label": name} for i, name in enumerate(_names(circuits))]
    few = len(names) <= 3 and sum(len(name["label"]) for name in names) <= 90
    if few:
        switch = dmc.SegmentedControl(id="circuit", data=names, value="0", **_aria(label="Circuit"))
    else:
        switch = dmc.Select(id="circuit", data=names, value="0", allowDeselect=False, w=420, **_aria(label="Circuit"))
    header = html.Header(
        [
            dmc.Text("CircuitLens", fw=700, size="lg"),
            switch,
            html.Div(className="spacer"),
            dmc.ColorSchemeToggle(
                id="scheme",
                lightIcon="☀",
                darkIcon="☾",
                variant="default",
                size="lg",
                **_aria(label="Light or dark"),
            ),
        ]
    )
    tools = html.Div(
        [
            dmc.Text("Strongest edges", size="sm"),
            dmc.Slider(id="edges", min=0, max=1, value=0, updatemode="drag", label=None, thumbLabel="Edges shown"),
            dmc.Text(id="edges-shown", size="sm", c="dimmed"),
        ],
        id="tools",
    )
    graph = cyto.Cytoscape(
        id="graph",
        elements=[],
        layout={"name": "preset", "fit": False},
        style={},
        stylesheet=stylesheet("light"),
        autoRefreshLayout=False,
        autoungrabify=True,
        minZoom=0.2,
        maxZoom=2.5,
        responsive=False,
    )
    stage = html.Main([tools, graph, html.Div(id="legend")], id="stage")
    side = html.Aside(
        [html.Section(id="detail", **_aria(live="polite")), dmc.Divider(my="md"), html.Section(id="about")],
        id="side",
    )
    stores = [
        dcc.Store(id="sheets", data={scheme: stylesheet(scheme) for scheme in ("light", "dark")}),
        dcc.Store(id="stops", data=[0]),
        dcc.Store(id="drawn"),
    ]
    return dmc.MantineProvider(
        [html.Div([header, html.Div([stage, side], id="body"), *stores], id="page")], defaultColorScheme="auto"
    )


def _names(circuits: Sequence[Circuit]) -> list[str]:
    """What each circuit is called in the switch: its prompt and answer, numbered where two are alike."""
    names: list[str] = []
    for circuit in circuits:
        name = f"{circuit.prompt} → {circuit.metric.answers[0].text if circuit.metric.answers else ANSWER}"
        alike = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({alike + 1})" if alike else name)
    return names


def _stops(count: int) -> list[int]:
    """How many edges each stop of the slider shows: one more each up to 100, 5 % more each from there."""
    stops = list(range(min(count, 100) + 1))
    while stops[-1] < count:
        stops.append(min(stops[-1] * 21 // 20, count))
    return stops


def _about(circuit: Circuit) -> Any:
    metric = circuit.metric
    source = (
        "zero" if not circuit.from_corrupted else "the corrupted prompts" if circuit.pairs else f"“{circuit.corrupted}”"
    )
    frozen = "; attention patterns and layer-norm scales held constant" if circuit.frozen else ""
    options = ", ".join(f"{name}={value}" for name, value in circuit.options.items())
    rows = [
        ("Metric", f"{metric} = {_signed(metric.value)}"),
        *([("Corrupted", _signed(metric.corrupted_value))] if metric.corrupted_value is not None else []),
        ("Method", f"{circuit.method}, change from {source}{frozen}"),
        ("Strongest path", _path(circuit)),
        ("Size", _size(circuit)),
        ("Conservation", f"residual {circuit.conservation_residual:.1e}"),
        ("Evidence", _evidence(circuit)),
        ("Made by", f"{circuit.created_by}, adapter {circuit.adapter}{options and f' ({options})'}"),
    ]
    return [html.H3("This circuit"), _terms(rows)]


def _evidence(circuit: Circuit) -> str:
    """The verdict with its reasons, or why there is none."""
    if circuit.edited:
        return "the file was edited after it was written"
    if circuit.evidence is None:
        return "not measured; circuitlens verify does it"
    if circuit.evidence.digest != circuit.content_digest:
        return "measured of another circuit than this"
    return f"{circuit.evidence.verdict}: {'; '.join(circuit.evidence.reasons)}"


def _size(circuit: Circuit) -> str:
    """How many nodes and edges there are, and how much of what was found they are where more was."""
    nodes, edges = f"{_count(len(circuit.nodes))} nodes", f"{_count(len(circuit.edges))} edges"
    if (found := circuit.found) is not None:
        kept = [abs(node.attribution) for node in circuit.nodes if node.kind != "logit"]
        if len(kept) < found.nodes:
            share = 100 * sum(kept) / (found.attribution or 1)
            nodes = f"{_count(len(kept))} of {_count(found.nodes)} nodes ({share:.0f} % of the attribution)"
        if len(circuit.edges) < found.edges:
            edges = f"{_count(len(circuit.edges))} of {_count(found.edges)} edges"
    return f"{nodes}, {edges}"


def _path(circuit: Circuit) -> str:
    try:
        return str(circuit.strongest_path())
    except CircuitError:  # pruned or edited so that the answer's logit is gone
        return "none: the answer's logit is not in this circuit"


def _detail(circuit: Circuit, node: Node) -> Any:
    error = "" if node.standard_error is None else f" ± {node.standard_error:.3f}"
    rows = [
        ("Kind", KINDS[node.kind]),
        ("Hook", node.hook),
        ("Position", f"{node.pos}: “{visible(circuit.tokens[node.pos])}”"),
        *([("Index", str(node.index))] if node.index is not None else []),
        ("Norm" if node.kind in ("error", "embedding") else "Activation", f"{node.activation:.3f}"),
        ("Attribution", f"{_signed(node.attribution)}{error} of {_signed(circuit.metric.value)}"),
    ]
    page = [html.A("Page of this feature", href=node.url, target="_blank", rel="noreferrer")] if node.url else []
    incoming, outgoing = circuit.in_edges(node.id), circuit.out_edges(node.id)
    return [
        html.H2(node.label),
        _terms(rows),
        *page,
        html.H3("In-edges"),
        _edge_table(circuit, [(circuit.node(edge.source), edge) for edge in incoming]),
        html.H3("Out-edges"),
        _edge_table(circuit, [(circuit.node(edge.target), edge) for edge in outgoing]),
    ]


def _edge_table(circuit: Circuit, edges: list[tuple[Node, Edge]]) -> Any:
    if not edges:
        return dmc.Text("none", c="dimmed", size="sm")
    heaviest = abs(edges[0][1].weight) or 1.0
    rows = [
        html.Tr(
            [
                html.Td(full_name(other, circuit.tokens), title=other.hook),
                html.Td(
                    html.Div(className="meter", style={"width": f"{100 * abs(edge.weight) / heaviest:.0f}%"}),
                    className="bar",
                ),
                html.Td(_signed(edge.weight), className="weight"),
            ],
            className="positive" if edge.weight >= 0 else "negative",
        )
        for other, edge in edges[:LISTED]
    ]
    more = len(edges) - LISTED
    rest = [dmc.Text(f"and {_count(more)} weaker", c="dimmed", size="sm")] if more > 0 else []
    return html.Div([html.Table(html.Tbody(rows)), *rest])


def _legend(circuit: Circuit) -> Any:
    kinds = [kind for kind in KINDS if any(node.kind == kind for node in circuit.nodes)]
    shapes = [html.Span([html.I(className=f"swatch positive {kind}"), KINDS[kind]]) for kind in kinds]
    return [
        *shapes,
        html.Span([html.I(className="stroke positive"), "raises the metric"]),
        html.Span([html.I(className="stroke negative"), "lowers it"]),
    ]


def _terms(rows: list[tuple[str, str]]) -> Any:
    return html.Dl([part for term, text in rows for part in (html.Dt(term), html.Dd(text))])


def _aria(**attributes: str) -> dict[str, Any]:
    return {f"aria-{name}": value for name, value in attributes.items()}


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
