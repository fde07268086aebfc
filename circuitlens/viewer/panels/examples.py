"""Examples to begin a new circuit with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.circuit import Circuit
from circuitlens.viewer.panels.parts import doing

if TYPE_CHECKING:
    from circuitlens.adapter import Example

OFFERED = 8
"""Examples, at most."""


def examples_panel(examples: Sequence[tuple[str, Example]], circuits: Sequence[Circuit]) -> list[Any]:
    """A button for each example: those of the loaded models, and the prompts of the circuits that are open."""
    fields = [
        {
            "adapter": adapter,
            "prompt": example.prompt,
            "corrupted": example.corrupted,
            "answer": example.answer,
            "distractor": example.distractor,
        }
        for adapter, example in examples
    ]
    for circuit in circuits:
        pair = circuit.questions[0]
        fields.append(
            {
                "adapter": circuit.adapter,
                "prompt": pair.prompt,
                "corrupted": pair.corrupted or "",
                "answer": pair.answer[0],
                "distractor": pair.distractor[0] if pair.distractor else "",
            }
        )
    different = list({json.dumps(one, sort_keys=True): one for one in fields}.items())[:OFFERED]
    buttons = [html.Button(_told(one), className="do", **doing("example", text)) for text, one in different]
    return [html.P("Examples", className="hint"), *buttons] if buttons else []


def _told(fields: dict[str, str]) -> str:
    against = f", against {fields['corrupted']}" if fields["corrupted"] else ""
    return f"{fields['prompt']} → {fields['answer']}{against}"
