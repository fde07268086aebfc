"""Annotations: kept beside what was measured, and of nodes of the circuit only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from circuitlens.circuit import Annotations, Circuit, Group, open_circuit
from circuitlens.errors import CircuitError

NOTES = Annotations(
    pins=("sae:0:4",),
    groups=(Group(name="hidden", nodes=("hidden:0:0", "hidden:0:3")),),
    labels={"hook_sae/4": "plural verb"},
    notes={"sae:0:4": "looked at twice"},
)


def test_annotations_are_kept_and_change_nothing_that_was_measured(cats: Circuit, tmp_path: Path) -> None:
    annotated = cats.annotated(NOTES)
    assert annotated.content_digest == cats.content_digest
    annotated.save(tmp_path / "c.json")
    again = open_circuit(tmp_path / "c.json")
    assert again.annotations == NOTES
    assert again.content_digest == cats.content_digest
    assert not again.edited
    assert again.annotated(None) == cats


def test_annotating_an_edited_file_does_not_hide_the_edit(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    cats.save(path)
    path.write_text(path.read_text().replace('"kind": "error"', '"kind": "feature"'))
    assert open_circuit(path).edited
    open_circuit(path).annotated(NOTES).save(path)
    assert open_circuit(path).edited


def test_annotations_name_nodes_of_the_circuit_once(cats: Circuit) -> None:
    with pytest.raises(CircuitError, match="'nothing', which is no node"):
        cats.annotated(Annotations(labels={"nothing": "x"}))
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    with pytest.raises(ValidationError, match="'nothing', which is no node"):
        Circuit(**{**fields, "annotations": Annotations(pins=("nothing",))})
    group = Group(name="g", nodes=("sae:0:4",))
    wrong: dict[str, Any]
    for wrong in ({"pins": ("a", "a")}, {"pins": ("sae:0:4",), "groups": (group,)}, {"groups": (group, group)}):
        with pytest.raises(ValidationError):
            Annotations(**wrong)
    for wrong in ({"labels": {"a": "x" * 201}}, {"notes": {"a": "x" * 10_001}}, {"theme": "dark"}):
        with pytest.raises(ValidationError):
            Annotations(**wrong)


def test_a_smaller_circuit_keeps_what_is_said_of_its_nodes(cats: Circuit) -> None:
    small = cats.annotated(NOTES.model_copy(update={"labels": {n.label_key: n.label for n in cats.nodes}})).prune(
        max_nodes=1
    )
    assert small.annotations is not None
    assert small.annotations.labels.keys() == {n.label_key for n in small.nodes}
    assert small.annotations.named <= {n.id for n in small.nodes}
