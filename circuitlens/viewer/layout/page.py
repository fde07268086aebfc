"""The whole page: its parts, and the stores between the server, the page's script and Dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from circuitlens.viewer import page_state
from circuitlens.viewer.layout.form import form
from circuitlens.viewer.layout.header import header, job
from circuitlens.viewer.layout.parts import aria
from circuitlens.viewer.layout.side import side
from circuitlens.viewer.layout.stage import stage
from circuitlens.viewer.theme import stylesheet

TOPICS = ("shown", "facts", "focused", "pinned", "asked", "reading", "theme", "kept")
"""Parts of the page's state, which the page's script hands to the callbacks that answer them."""


def page(names: Sequence[str], given: Any, adapters: Sequence[str]) -> Any:
    """The whole page; everything that depends on a circuit is filled in by callbacks."""
    return dmc.MantineProvider(
        html.Div(
            [header(names), job(), html.Div([stage(), side()], id="body"), form(adapters), *_stores(given)], id="page"
        ),
        id="provider",
        defaultColorScheme="auto",
    )


def _stores(given: Any) -> list[Any]:
    """The page's state by topics, and what the page's script begins with."""
    return [
        dcc.Store(id="given", data=given),
        dcc.Store(id="schema", data=page_state.schema()),
        dcc.Store(id="sheets", data={scheme: stylesheet(scheme) for scheme in ("light", "dark")}),
        *(dcc.Store(id=name) for name in (*TOPICS, "axes", "watched", "finished")),
        dcc.Interval(id="tick", interval=300, disabled=True),
        dcc.Download(id="download"),
        html.Div(id="status", role="status", **aria(live="polite")),
    ]
