"""What a first visitor reads: three steps, and the keys."""

from __future__ import annotations

from typing import Any

from dash import html

from circuitlens.viewer.layout.parts import aria

KEYS = [
    ("/", "search"),
    ("arrows", "the strongest neighbour above or below, the next node in the row"),
    ("p", "pin or unpin"),
    ("o", "switch off or on"),
    ("Esc", "leave the focus"),
    ("f", "fit"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
]
STEPS = [
    (
        "Read it upwards",
        "From what the model reads to what it answers, a layer a row. Blue speaks for the answer, dashed orange "
        "against it; a bigger node matters more.",
    ),
    ("Click a node", "See what feeds it and what it feeds. The rest fades."),
    ("Switch it off", "The real model runs again without it: see which answer wins then."),
]


def introduction() -> Any:
    """Three steps to begin with, two of them with a button that does them, and the keys."""
    buttons = [
        None,
        html.Button("Show the feature that matters most", id="intro-show", className="do"),
        html.Button("Switch it off", id="intro-off", className="do"),
    ]
    items = [
        html.Li([html.Strong(title), html.Span([html.Span(text), *([" ", button] if button else [])])])
        for (title, text), button in zip(STEPS, buttons, strict=True)
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
