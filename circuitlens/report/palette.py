"""The colours of the page and of the figures, light and dark; components of the page bring some of their own."""

from __future__ import annotations

COLOURS = {  # in the light and in the dark scheme
    "ground": ("#ffffff", "#242424"),  # the page, and what labels are outlined with
    "raised": ("#f4f5f7", "#2e2e32"),  # rows of the graph, and what stands out from the page
    "text": ("#212529", "#f1f3f5"),
    "faint": ("#5c636a", "#adb5bd"),  # text of lesser weight
    "line": ("#dee2e6", "#4a4a50"),  # between parts of the page
    "link": ("#1864ab", "#8cc3f5"),
    "good": ("#1f7a33", "#8ce99a"),  # a verdict that a circuit is supported
    "fault": ("#c92a2a", "#ffa8a8"),  # a verdict that it is not, and what could not be done
    "border": ("#495057", "#adb5bd"),  # of nodes
    "input": ("#e7f5ff", "#1b3a57"),  # nodes by their kind
    "error": ("#dee2e6", "#495057"),
    "logit": ("#fff3bf", "#5c4a00"),
    "positive": ("#2166ac", "#74b3ee"),  # what raises the metric
    "positive-fill": ("#d7e6f4", "#23405c"),
    "negative": ("#c2410c", "#f4a582"),  # what lowers it
    "negative-fill": ("#fbe3d6", "#5a3626"),
    "focus": ("#e64980", "#faa2c1"),
    "pin": ("#6741d9", "#b197fc"),
    "axis": ("#adb5bd", "#6c757d"),  # of a figure
    "grid": ("#ebf0f8", "#3a3a3f"),
}

Palette = dict[str, str]
LIGHT: Palette = {name: light for name, (light, _) in COLOURS.items()}
DARK: Palette = {name: dark for name, (_, dark) in COLOURS.items()}
PALETTES = {"light": LIGHT, "dark": DARK}

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00")
"""A figure's curves: told apart by the colour-blind (after Okabe and Ito), dark enough for a line on white."""
GREY = "#6c757d"
"""What a figure has beside its curves: reference lines and random controls."""


def translucent(colour: str, opacity: float) -> str:
    """A colour that what is behind it shows through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
