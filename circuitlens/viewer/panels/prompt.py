"""The prompt in full above the graph: every token in its place, with what the corrupted prompt has instead."""

from __future__ import annotations

from typing import Any

from dash import html

from circuitlens.circuit import Circuit
from circuitlens.report.text import plain, signed, visible
from circuitlens.viewer.panels.parts import doing
from circuitlens.viewer.tokens import Token, prompt_tokens


def prompt_strip(circuit: Circuit, chosen: bool = True) -> Any:
    """A circuit's prompt; where tokens can be `chosen`, a press on one shows its column alone.

    The ground is as deep as the |attribution| of the token's nodes in all, in the colour of the sign of their sum.
    """
    tokens = prompt_tokens(circuit)
    most = max((token.size for token in tokens), default=0.0) or 1.0
    cells = [
        _cell(token, position.told, most, chosen) for token, position in zip(tokens, circuit.positions, strict=True)
    ]
    spaced = any(token.text[:1].isspace() for token in tokens)  # else the page sets them apart
    return html.Div(
        [html.Ol(cells, className="strip" if spaced else "strip apart"), *_beside(circuit)], className="prompt"
    )


def _cell(token: Token, note: str, most: float, chosen: bool) -> Any:
    told = f"Position {token.pos}: “{visible(token.text)}”{note and f' ({note})'}"
    told += (
        f". Attribution {signed(token.attribution)} in {token.nodes} nodes." if token.nodes else ". No node is here."
    )
    if token.corrupted:
        told += f" The corrupted prompt has “{plain(token.corrupted)}”."
    text = html.Span(visible(token.text) if token.text.isspace() else plain(token.text))
    parts = [text, *([html.Del(plain(token.corrupted))] if token.corrupted else [])]
    sign = "empty" if not token.nodes else "lowers" if token.attribution < 0 else "raises"
    style = {"--share": f"{100 * token.size / most:.0f}%"}
    if chosen and token.nodes:
        parts = [html.Button(parts, title=told, **doing("position", str(token.pos)))]
        return html.Li(parts, className=sign, style=style)
    return html.Li(parts, className=sign, style=style, title=told)


def _beside(circuit: Circuit) -> list[Any]:
    """What the strip is of, where that is not one prompt."""
    if not circuit.pairs:
        return []
    how = {"position": "by position; a token with … stands for others, too", "role": "by role", "sum": "all summed"}
    return [html.P(f"{len(circuit.pairs)} prompts, {how[circuit.by or 'position']}.", className="hint")]
