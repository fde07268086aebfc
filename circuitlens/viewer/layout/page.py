"""The whole page: its parts, and the stores between the server, the page's script and Dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from circuitlens.viewer import page_state
from circuitlens.viewer.layout.form import form
from circuitlens.viewer.layout.header import header, jobs
from circuitlens.viewer.layout.parts import aria
from circuitlens.viewer.layout.side import side
from circuitlens.viewer.layout.stage import stage
from circuitlens.viewer.theme import stylesheet

TOPICS = ("shown", "facts", "focused", "pinned", "suggest", "asked", "kept-alone", "reading", "theme", "kept", "typed")
"""Parts of the page's state, which the page's script hands to the callbacks that answer them."""


def page(names: Sequence[str], given: Any, models: Mapping[str, str], work: Mapping[str, Any]) -> Any:
    """The whole page; everything that depends on a circuit is filled in by callbacks.

    Args:
        names: what the circuits are called.
        given: what the page's script has to know of them.
        models: the models that can be asked, by their adapters.
        work: how the work in the background goes, as the page is told it whenever that changes.
    """
    parts = [
        html.P(id="trouble", hidden=True, role="alert"),
        header(names),
        jobs(),
        html.Div([stage(), side()], id="body"),
        form(models),
        *_stores(given, work),
    ]
    return dmc.MantineProvider(html.Div(parts, id="page"), id="provider", defaultColorScheme="auto")


def _stores(given: Any, work: Mapping[str, Any]) -> list[Any]:
    """The page's state by topics, and what the page's script begins with."""
    return [
        dcc.Store(id="given", data=given),
        dcc.Store(id="work", data=work["work"]),
        dcc.Store(id="finished", data=work["finished"]),
        dcc.Store(id="seen", data=work["seen"]),
        dcc.Store(id="schema", data=page_state.schema()),
        dcc.Store(id="sheets", data={scheme: stylesheet(scheme) for scheme in ("light", "dark")}),
        *(dcc.Store(id=name) for name in (*TOPICS, "axes", "begun", "ending", "continuing")),
        dcc.Interval(id="tick", interval=work["interval"]),
        dcc.Download(id="download"),
        html.Div(id="status", role="status", **aria(live="polite")),
    ]
