"""Parts that several places of the page have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_cytoscape as cyto
import dash_mantine_components as dmc

from circuitlens.viewer.theme import stylesheet


def circuit_options(names: Sequence[str]) -> list[dict[str, str]]:
    """Circuits as a select's options, by their numbers."""
    return [{"value": str(number), "label": name} for number, name in enumerate(names)]


def aria(**attributes: str) -> dict[str, Any]:
    """ARIA attributes as Dash takes them."""
    return {f"aria-{name}": value for name, value in attributes.items()}


def choice(name: str, label: str, values: Sequence[tuple[str, str]]) -> Any:
    """A choice of a few values, each with its text, of which the first is chosen."""
    data = [{"value": value, "label": text} for value, text in values]
    return dmc.SegmentedControl(id=name, data=data, value=data[0]["value"], size="xs", **aria(label=label))


def graph(name: str, **properties: Any) -> Any:
    """An empty graph, whose nodes the page's script puts in their places."""
    return cyto.Cytoscape(
        id=name,
        elements=[],
        layout={"name": "preset", "fit": False},
        style={},
        stylesheet=stylesheet("light"),
        autoRefreshLayout=False,
        autoungrabify=True,
        autounselectify=True,
        boxSelectionEnabled=False,
        responsive=False,
        **properties,
    )
