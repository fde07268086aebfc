"""Parts that several panels have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import html

from circuitlens.circuit import Edge, Node

LISTED = 20
"""Edges or nodes that a list has at most; it says how many more there are."""

KINDS = {
    "input": "input",
    "embedding": "embedding",
    "neuron": "neuron",
    "feature": "SAE feature",
    "error": "SAE error",
    "logit": "logit",
}


def terms(rows: Sequence[tuple[str, str]]) -> Any:
    """Terms, each with what there is to say of it."""
    return html.Dl([part for term, text in rows for part in (html.Dt(term), html.Dd(text))])


def message(text: str, kind: str = "red") -> Any:
    """A sentence that something could not be done."""
    return dmc.Alert(text, color=kind, variant="light", p="xs")


def status(text: str, kind: str) -> Any:
    """A sentence that is shown for a while, again also where it is the same as before."""
    return html.Div(text, key=str(time.time()), className=kind)


def focus_button(node: Node, text: str) -> Any:
    """A button that puts a node in focus; the page's script listens for it."""
    return html.Button(text, className="link", title=node.hook, **doing("focus", node.id))


def doing(what: str, on: str) -> dict[str, Any]:
    """What the page's script is to do when a button is pressed, and on what."""
    return {"data-do": what, "data-on": on}


def error_of(value: Node | Edge) -> str:
    """A value's standard error, where it is a mean over prompts."""
    return "" if value.standard_error is None else f" ± {value.standard_error:.3f}"
