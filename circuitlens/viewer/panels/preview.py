"""The part of the form for a new circuit that answers while one types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dash import html

from circuitlens.report.text import percent, visible
from circuitlens.viewer.panels.parts import doing, message
from circuitlens.viewer.preview import Preview

NOT_LOADED = "Its tokens and likely answers stand here while you type, once the model is loaded."


def preview_panel(known: Preview, typed: dict[str, str], duration: str) -> list[Any]:
    """The tokens of both prompts and how they align, likely answers, what is to be mended, and how long it takes."""
    prompt, corrupted = known.tokens
    parts = [message(fault, "orange") for fault in known.faults]
    if prompt:
        parts.append(_tokens("Tokens", prompt, corrupted))
    if corrupted:
        parts.append(_tokens("Corrupted", corrupted, prompt))
    parts.extend(_alignment(known))
    for number, (name, field) in enumerate(
        (("Likely next", "answer"), ("Likely after the corrupted one", "distractor"))
    ):
        if known.likely[number]:
            parts.append(_likely(name, field, known.likely[number]))
    for field, before, after in known.repairs:
        told = f"Use “{visible(after)}” for “{visible(before)}”"
        parts.append(html.P(["Spaces count: ", _fill(told, {field: after})], className="hint"))
    if known.chat is not None:
        told = {"prompt": known.chat[0], **({"corrupted": known.chat[1]} if typed["corrupted"] else {})}
        parts.append(
            html.P(["The model is made for chats: ", _fill("Write it as a chat's turn", told)], className="hint")
        )
    if known.no_chat:
        parts.append(html.P(visible(known.no_chat), className="hint"))
    return [*parts, *([html.P(duration, className="hint")] if duration and prompt else [])]


def _fill(text: str, fields: dict[str, str], title: str = "") -> Any:
    """A button that writes into fields of the form."""
    return html.Button(text, className="do", title=title, type="button", **doing("example", json.dumps(fields)))


def _tokens(name: str, tokens: Sequence[str], others: Sequence[str]) -> Any:
    differ = [bool(others) and (pos >= len(others) or others[pos] != token) for pos, token in enumerate(tokens)]
    cells = [
        html.Li(visible(token), className="differs" if other else "")
        for token, other in zip(tokens, differ, strict=True)
    ]
    return html.Div([html.Span(f"{name} ({len(tokens)})", className="hint"), html.Ol(cells, className="words")])


def _alignment(known: Preview) -> list[Any]:
    prompt, corrupted = known.tokens
    if known.aligned is None:
        return []
    if not known.aligned:
        told = f"The prompt has {len(prompt)} tokens and the corrupted one {len(corrupted)}: make them as long."
        return [message(told, "orange")]
    differing = sum(a != b for a, b in zip(prompt, corrupted, strict=True))
    told = f"As long as each other; {differing} of {len(prompt)} tokens differ."
    return [html.P(told, className="hint")] if differing else [message("The two prompts are the same.", "orange")]


def _likely(name: str, field: str, likely: Sequence[tuple[str, float]]) -> Any:
    buttons = [
        _fill(f"{visible(text)} {percent(share)}", {field: text}, f"Take it as the {field}") for text, share in likely
    ]
    return html.Div([html.Span(name, className="hint"), *buttons], className="likely")
