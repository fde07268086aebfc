"""What all figures have in common: colours, fonts, titles, and foreign text made harmless."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from circuitlens.report.palette import GREY, LIGHT, translucent

if TYPE_CHECKING:
    import plotly.graph_objects

BAND = translucent(GREY, 0.22)
LINE, INK, GROUND = LIGHT["axis"], LIGHT["text"], LIGHT["ground"]


def dress(figure: plotly.graph_objects.Figure, title: str, subtitle: str) -> None:
    """Give a figure its titles, fonts, colours and the legend, which stands below the axes, where it covers nothing."""
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif", "size": 13, "color": INK},
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 13, "color": GREY}},
            "x": 0.02,
            "xanchor": "left",
            "y": 0.97,
            "yanchor": "top",
            "yref": "container",
            "font": {"size": 16},
        },
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin={"l": 70, "r": 24, "t": 84, "b": 60},
        hoverlabel={"align": "left", "bgcolor": GROUND, "font": {"color": INK}},
        hovermode="closest",
    )
    for update_axes in (figure.update_xaxes, figure.update_yaxes):
        update_axes(showline=True, linecolor=LINE, ticks="outside", tickcolor=LINE, title_standoff=8)


def text_of(value: str, most: int = 80) -> str:
    """Foreign text as plotly shows it literally: its labels are a subset of HTML."""
    short = value if len(value) <= most else value[: most - 1] + "…"
    return html.escape(short.encode("utf-8", "replace").decode(), quote=False)
