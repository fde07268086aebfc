"""The side of the page: the node in focus, the pinned nodes, interventions, and the circuit."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import html

from circuitlens.viewer.layout.parts import aria, graph
from circuitlens.viewer.page_state import Tab


def side() -> Any:
    """The side with its tabs."""
    # What this tab is of follows from the focus, which stands on #page.
    node = [
        html.Span(name, className=f"of-{focus}")
        for focus, name in (("none", "Answer"), ("node", "Node"), ("edge", "Edge"))
    ]
    tabs: list[tuple[Tab, Any, Any]] = [
        ("node", node, _node()),
        ("pinned", "Pinned", _pinned()),
        ("ask", "Intervene", _interventions()),
        ("about", "Circuit", html.Section(id="about")),
    ]
    heads = dmc.TabsList([dmc.TabsTab(name, value=value) for value, name, _ in tabs], grow=True)
    panels = [dmc.TabsPanel(content, value=value) for value, _, content in tabs]
    return html.Aside(dmc.Tabs([heads, *panels], id="tab", value="node"), id="side", **aria(label="Details"))


def _node() -> list[Any]:
    tools = [html.Button("Pin", id="pin", className="do"), html.Button("Switch off", id="off", className="do")]
    own = [
        dmc.TextInput(id="label", label="Your label", debounce=True, size="xs"),
        dmc.Textarea(id="note", label="Your note", debounce=True, size="xs", autosize=True, minRows=2),
    ]
    return [
        html.H2(id="node-name", hidden=True),
        html.Div(tools, id="node-tools", hidden=True),
        html.Section(id="detail", **aria(live="polite")),
        html.Section(id="told"),
        html.Div(own, id="own", hidden=True),
    ]


def _pinned() -> list[Any]:
    label = "The pinned nodes and the edges between them, those of groups summed; listed above and below"
    name = dmc.TextInput(id="group-name", placeholder="Name of a group", size="xs", **aria(label="Name of a group"))
    return [
        html.P("Pin nodes (p, or Ctrl-click) to see them by themselves and to group them.", className="hint"),
        html.Section(id="alone", **aria(live="polite")),
        html.Div([name, html.Button("Group the ticked", id="group", className="do")], id="grouping"),
        html.Ul(id="pins"),
        html.Button("Suggest groups", id="suggest-groups", className="do"),
        html.Section(id="suggested", **aria(live="polite")),
        html.Div(
            graph("subgraph", userZoomingEnabled=False, userPanningEnabled=False),
            id="subgraph-pane",
            role="img",
            **aria(label=label),
        ),
        html.Div(id="sums"),
    ]


def _interventions() -> list[Any]:
    return [
        html.Ul(id="settings"),
        html.Div(id="model-told"),
        html.Div(id="load-fault", role="alert"),
        dmc.Button("Load the model", id="load", size="sm", variant="default"),
        html.Section(id="outcome", **aria(live="polite")),
    ]
