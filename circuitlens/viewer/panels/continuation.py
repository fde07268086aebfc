"""How the model's text goes on as it is and with nodes set otherwise, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.circuit import Circuit
from circuitlens.report.text import cut, percent, plain, visible
from circuitlens.viewer.panels.parts import doing

if TYPE_CHECKING:
    from circuitlens.evaluation.continuation import Continuation

PROMPT = 60
"""Characters of a prompt that are shown, its last ones."""


def continuation_panel(circuit: Circuit, known: Continuation | None, continues: bool) -> list[Any]:
    """The two texts, if they are known, and the button that asks for them."""
    head = html.H3("How the text goes on")
    if not continues:
        told = "This model does not continue the text: it answers with one output, or reads no longer text."
        return [head, html.P(told, className="hint")]
    if known is None:
        button = html.Button("Continue the text", className="do", **doing("continue", ""))
        hint = " as it is and with the nodes set so, by the likeliest token each time."
        return [head, html.P([button, hint], className="hint")]
    first = "After the first of the prompts," if circuit.pairs else "After"
    return [
        head,
        html.P(f"{first} “{plain(cut(known.prompt, PROMPT))}”. {_difference(known)}", className="hint"),
        _line("As it is", known.before, known.differs_at),
        *([_line("With the nodes set", known.after, known.differs_at)] if known.nodes else []),
    ]


def _difference(known: Continuation) -> str:
    if not known.nodes:
        return "Set nodes to see what becomes of it."
    at = known.differs_at
    if at is None:
        return "With the nodes set, all tokens are the same."
    ours, theirs = (visible(tokens[at][0]) for tokens in (known.before, known.after))
    return f"The first token that differs is number {at + 1}: “{ours}” becomes “{theirs}”."


def _line(name: str, tokens: Sequence[tuple[str, float]], differs_at: int | None) -> Any:
    cells = [
        html.Li(visible(text), title=percent(share), className="differs" if number == differs_at else "")
        for number, (text, share) in enumerate(tokens)
    ]
    return html.Div([html.Span(name, className="hint"), html.Ol(cells, className="words")], className="continued")
