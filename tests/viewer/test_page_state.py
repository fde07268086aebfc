"""The state of the page: its schema, and what of it a circuit's file keeps."""

from __future__ import annotations

import json

import pytest

from circuitlens.circuit import Annotations
from circuitlens.errors import ViewerError
from circuitlens.viewer.page_state import CircuitState, read_annotations, schema
from tests.page_types import declarations


def test_every_field_has_a_default_so_that_an_empty_address_is_a_state() -> None:
    root = schema()
    for form in (root, root["$defs"]["CircuitState"]):
        assert "required" not in form
        assert all("default" in field for field in form["properties"].values())


def test_a_file_keeps_annotations_and_not_how_the_page_was_left() -> None:
    state = {"pins": ["a"], "notes": {"b": "mine"}, "focus": "a", "nodes": 3, "edges": 22, "settings": [["a", 0.5]]}
    kept = read_annotations(json.dumps(state))
    assert kept == Annotations(pins=("a",), notes={"b": "mine"})
    assert set(CircuitState.model_fields) - set(Annotations.model_fields) == {
        "focus", "edge", "position", "nodes", "edges", "settings",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"pins": ["a", "a"]}, "a node is pinned or grouped twice"),
        ({"notes": {"a": "x" * 10_001}}, "notes.a: String should have at most 10000 characters"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_what_a_file_can_not_hold_is_refused(state: dict[str, object], fault: str) -> None:
    with pytest.raises(ViewerError, match=f"can't be kept in a circuit file: .*{fault}"):
        read_annotations(json.dumps(state))


def test_the_scripts_types_follow_the_schema() -> None:
    types = declarations(schema())
    assert 'settings: ([string, (number | "corrupted")])[];' in types
    assert "by: Record<string, CircuitState>;" in types
