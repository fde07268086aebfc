"""The page's header, and the strip below it that tells of work under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import dash_mantine_components as dmc
from dash import html

from circuitlens.viewer.layout.parts import aria, circuit_options

EXPORTS = [
    ("png", "Picture (PNG)"),
    ("svg", "Picture (SVG)"),
    ("json", "Circuit (JSON)"),
    ("nodes", "Nodes (CSV)"),
    ("edges", "Edges (CSV)"),
]

WIDE = cast(Any, {"width": 460, "position": "bottom-start"})
"""A menu in which whole prompts have room."""


def header(names: Sequence[str]) -> Any:
    """The circuits to choose from, the search, and what is done with the whole page."""
    return html.Header(
        [
            html.H1("CircuitLens"),
            dmc.Select(
                id="circuit",
                data=circuit_options(names),
                value="0",
                allowDeselect=False,
                size="sm",
                comboboxProps=WIDE,
                **aria(label="Circuit"),
            ),
            dmc.Select(
                id="other",
                data=circuit_options(names),
                clearable=True,
                placeholder="Compare with …",
                size="sm",
                comboboxProps=WIDE,
                clearButtonProps=cast(Any, aria(label="End the comparison")),
                **aria(label="Compare with"),
            ),
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
            _export(),
            _icon("help", "?", "Introduction and keys"),
            _icon("scheme", "◐", "Light or dark"),
        ]
    )


def _export() -> Any:
    return dmc.Menu(
        [
            # Mantine says of the box around the button, and not of the button, that it has a menu.
            dmc.MenuTarget(
                dmc.Button("Export", id="export", size="sm", variant="default"),
                boxWrapperProps=cast(Any, {"role": "group"}),
            ),
            dmc.MenuDropdown([dmc.MenuItem(text, id=f"export-{what}") for what, text in EXPORTS]),
        ],
        position="bottom-end",
        transitionProps=cast(Any, {"duration": 0}),
    )


def _icon(name: str, sign: str, label: str) -> Any:
    return dmc.ActionIcon(sign, id=name, variant="default", size="lg", attributes={}, **aria(label=label))


def jobs() -> Any:
    """Work under way, whose rows the page's script makes."""
    return html.Div(id="jobs", role="status")
