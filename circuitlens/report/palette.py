"""The colours of the page and of the figures, light and dark; no other file has a colour of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """One scheme's colours, each as "#rrggbb".

    Args:
        ground: the page, and what labels are outlined with.
        raised: bands of the graph and what stands out from the page.
        text: text, and lines that are as strong.
        faint: text of lesser weight.
        line: rules between parts of the page.
        border: borders of nodes.
        link: text that can be followed.
        focus: what is in focus, on the graph and on the page.
        pin: pinned nodes and groups.
        positive: what raises the metric.
        positive_fill: a node that does.
        negative: what lowers the metric.
        negative_fill: a node that does.
        error: an error node.
        input: an input or embedding.
        logit: a logit.
        good: a verdict that a circuit is supported.
        fault: a verdict that it is not, and what could not be done.
        axis: the axes of a figure.
        grid: the grid of a figure.
    """

    ground: str
    raised: str
    text: str
    faint: str
    line: str
    border: str
    link: str
    focus: str
    pin: str
    positive: str
    positive_fill: str
    negative: str
    negative_fill: str
    error: str
    input: str
    logit: str
    good: str
    fault: str
    axis: str
    grid: str


LIGHT = Palette(
    ground="#ffffff",
    raised="#f4f5f7",
    text="#212529",
    faint="#5c636a",
    line="#dee2e6",
    border="#495057",
    link="#1864ab",
    focus="#e64980",
    pin="#6741d9",
    positive="#2166ac",
    positive_fill="#d7e6f4",
    negative="#c2410c",
    negative_fill="#fbe3d6",
    error="#dee2e6",
    input="#e7f5ff",
    logit="#fff3bf",
    good="#1f7a33",
    fault="#c92a2a",
    axis="#adb5bd",
    grid="#ebf0f8",
)
DARK = Palette(
    ground="#242424",
    raised="#2e2e32",
    text="#f1f3f5",
    faint="#adb5bd",
    line="#4a4a50",
    border="#adb5bd",
    link="#8cc3f5",
    focus="#faa2c1",
    pin="#b197fc",
    positive="#74b3ee",
    positive_fill="#23405c",
    negative="#f4a582",
    negative_fill="#5a3626",
    error="#495057",
    input="#1b3a57",
    logit="#5c4a00",
    good="#8ce99a",
    fault="#ffa8a8",
    axis="#6c757d",
    grid="#3a3a3f",
)
PALETTES = {"light": LIGHT, "dark": DARK}

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00")
"""A figure's curves: told apart by the colour-blind (after Okabe and Ito), dark enough for a line on white."""
GREY = "#6c757d"
"""What a figure has beside its curves: reference lines and random controls."""


def translucent(colour: str, opacity: float) -> str:
    """A colour that what is behind it shows through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
