"""Circuit files: written and read again, of every version, and bad ones refused in a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import circuitlens
from circuitlens.circuit import Annotations, Circuit, Group, document, open_circuit, schema
from circuitlens.errors import CircuitError
from tests.circuit.handmade import Drawn, built, layered
from tests.tiny_transformer import TinyTransformer


def test_a_file_opens_as_it_was_saved(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    assert circuitlens.open(path) == cats
    assert circuitlens.open(str(path)) == cats
    assert list(tmp_path.iterdir()) == [path]
    jsonschema.validate(json.loads(path.read_text()), schema())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layered(), st.text(), st.text(min_size=1))
def test_any_circuit_survives_its_file(tmp_path: Path, drawn: Drawn, prompt: str, token: str) -> None:
    made = built(drawn, prompt=prompt, tokens=(token,))
    made.save(tmp_path / "c.json")
    assert circuitlens.open(tmp_path / "c.json") == made


def test_a_file_says_of_an_edge_that_it_is_measured_and_else_nothing(cats: Circuit, tmp_path: Path) -> None:
    first, *rest = cats.edges
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    made = Circuit(**{**fields, "edges": (first.model_copy(update={"measured": True}), *rest)})
    made.save(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert [edge.get("measured") for edge in document["edges"]] == [True, *[None] * len(rest)]
    jsonschema.validate(document, schema())
    assert circuitlens.open(tmp_path / "c.json") == made
    assert made.content_digest != cats.content_digest  # evidence is of the one or of the other


def edited(cats: Circuit, **changes: Any) -> bytes:
    return json.dumps({**json.loads(cats.model_dump_json()), **changes}).encode()


BAD_FILES = {
    "truncated": (lambda c: c.model_dump_json().encode()[:-200], "is not JSON or breaks off"),
    "empty": (lambda c: b"", "is not JSON or breaks off"),
    "binary": (lambda c: bytes(range(256)) * 10, "byte 129 is 0x80, which is no UTF-8"),
    "pickle": (lambda c: b"\x80\x04\x95\x10\x00", "byte 1 is 0x80, which is no UTF-8"),
    "foreign": (lambda c: b'{"metadata": {}, "nodes": [], "links": []}', "not a circuit file"),
    "list": (lambda c: b"[1, 2]", "not a circuit file"),
    "deep": (lambda c: b"[" * 100_000, "not JSON or breaks off|nested too deeply"),
    "newer": (lambda c: edited(c, version=8, shape="new"), "circuit format 8 .* reads 7: upgrade"),
    "extra": (lambda c: edited(c, colour="red"), "damaged circuit file: colour"),
    "missing": (lambda c: edited(c, nodes=None), "damaged circuit file: nodes"),
    "nan": (lambda c: c.model_dump_json().replace('"weight":', '"weight":NaN,"was":', 1).encode(), "NaN is no number"),
    "huge number": (
        lambda c: c.model_dump_json().replace('"value":', '"value":1e999,"was":', 1).encode(),
        "1e999 is no number",
    ),
    "no corrupted": (lambda c: edited(c, method="contrastive"), "there is no corrupted prompt"),
    "many faults": (lambda c: edited(c, nodes=[1] * 300_000), r"nodes\.0"),
    "long key": (lambda c: edited(c, **{"k" * 100_000: 1}), "damaged circuit file: kkk"),
    "deep within": (
        lambda c: (
            c.model_dump_json().replace('"by":', '"deep":' + "[" * 100_000 + "]" * 100_000 + ',"by":', 1).encode()
        ),
        "damaged|nested too deeply",
    ),
    "edge": (lambda c: edited(c, nodes=[]), "names a node that is not there"),
    "url": (
        lambda c: c.model_dump_json().replace('"url":null', '"url":"javascript:alert(1)"', 1).encode(),
        r"damaged circuit file: nodes\.0\.url",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_clear_sentence(kind: str, cats: Circuit, tmp_path: Path) -> None:
    make, why = BAD_FILES[kind]
    path = tmp_path / "bad.json"
    path.write_bytes(make(cats))
    with pytest.raises(CircuitError, match=why) as error:
        open_circuit(path)
    message = str(error.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200_000_000)
    with pytest.raises(CircuitError, match="has 200 MB, above the 40 MB"):
        open_circuit(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match="No such file"):
        open_circuit(tmp_path / "none.json")
    with pytest.raises(CircuitError, match="is not a file"):
        open_circuit(tmp_path)
    with pytest.raises(CircuitError, match="null byte"):
        open_circuit("a\0b")


def test_a_file_that_cannot_be_written_is_one_sentence(cats: Circuit, tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"Can't write .*No such file or directory"):
        cats.save(tmp_path / "no folder" / "c.json")
    with pytest.raises(CircuitError, match="Can't write"):
        cats.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_circuit_too_large_to_open_is_not_saved(
    cats: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MAX_BYTES", 1000)
    with pytest.raises(CircuitError, match="prune it first"):
        cats.save(tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []


def as_version_1(circuit: Circuit) -> dict[str, Any]:
    """The document that version 1 had for a circuit."""
    fields = json.loads(circuit.model_dump_json())
    for added in (
        "options",
        "frozen",
        "found",
        "pairs",
        "by",
        "completeness_gaps",
        "digest",
        "evidence",
        "annotations",
    ):
        del fields[added]
    return {**fields, "version": 1}


def test_a_file_of_version_1_opens_as_what_it_meant(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(as_version_1(cats)))
    opened = circuitlens.open(path)
    assert (opened.version, opened.options, opened.frozen, opened.found) == (7, {}, False, None)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    assert opened == Circuit(**{**fields, "found": None})
    opened.save(path)
    saved = json.loads(path.read_text())
    assert saved["version"] == 7
    jsonschema.validate(saved, schema())
    assert circuitlens.open(path) == opened


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layered())
def test_any_circuit_of_version_1_opens(tmp_path: Path, drawn: Drawn) -> None:
    made = built(drawn)
    (tmp_path / "old.json").write_text(json.dumps(as_version_1(made)))
    assert circuitlens.open(tmp_path / "old.json") == made


FILES = Path(__file__).parent / "files"
"""One file of each version, written by the code of its time."""

SAID = {
    1: ("contrastive", "logit 'run' − 'runs'", "singular → H4 → F5 → run"),
    2: ("contrastive", "P('run') − P('runs')", "singular → H4 → F5 → run"),
    3: ("ig", "logit answer − distractor", "plural → H3 → F2 → answer"),
    4: ("ig", "logit 'run' − 'runs'", "plural → H3 → F2 → run"),
    5: ("ig", "logit 'run' − 'runs'", "plural → H3 → F2 → run"),
    6: ("ig", "logit 'run' − 'runs'", "plural → H3 → F2 → run"),
}


@pytest.mark.parametrize("version", SAID)
def test_a_genuine_file_of_each_version_opens(version: int, tmp_path: Path) -> None:
    path = FILES / f"version-{version}.json"
    raw = json.loads(path.read_text())
    opened = circuitlens.open(path)
    assert raw["version"] == version
    assert (opened.version, opened.method, str(opened.metric), str(opened.strongest_path())) == (7, *SAID[version])
    assert (len(opened.nodes), len(opened.edges)) == (10, 12)
    assert [n.model_dump(mode="json") for n in opened.nodes] == raw["nodes"]
    assert [e.model_dump(mode="json") for e in opened.edges] == raw["edges"]
    assert len(opened.pairs) == (4 if version == 3 else 0)
    assert (opened.found is not None) == (version >= 2)
    assert not opened.edited
    assert (opened.evidence is not None) == (version >= 3)
    if opened.evidence is not None:
        assert opened.evidence.verdict == "weak"
        assert opened.evidence.digest == opened.content_digest
    opened.save(tmp_path / "now.json")
    saved = json.loads((tmp_path / "now.json").read_text())
    assert saved["version"] == 7
    jsonschema.validate(saved, schema())
    assert circuitlens.open(tmp_path / "now.json") == opened


def test_page_state_of_version_4_is_dropped_and_what_a_reader_said_is_kept(tmp_path: Path) -> None:
    raw = json.loads((FILES / "version-4.json").read_text())
    assert {key: raw["annotations"][key] for key in document.PAGE_STATE} == {
        "focus": "sae:0:4",
        "nodes": 5,
        "edges": 7,
        "theme": "dark",
    }
    assert circuitlens.open(FILES / "version-4.json").annotations == Annotations(
        pins=("sae:0:4",),
        groups=(Group(name="hidden", nodes=("input:0:1", "hidden:0:0")),),
        labels={"hook_sae/4": "plural verb"},
        notes={"input:0:0": "looked at twice"},
    )
    (tmp_path / "now.json").write_text(json.dumps({**raw, "version": 5}))
    with pytest.raises(CircuitError, match=r"damaged circuit file: annotations\.focus"):
        open_circuit(tmp_path / "now.json")


def test_labels_by_node_of_version_6_become_those_of_their_features(tmp_path: Path) -> None:
    raw = json.loads((FILES / "version-6.json").read_text())
    assert raw["annotations"]["labels"] == {"sae:0:4": "plural verb", "logits:0:1": "the answer"}
    annotations = circuitlens.open(FILES / "version-6.json").annotations
    assert annotations is not None
    assert annotations.labels == {"hook_sae/4": "plural verb", "logits:0:1": "the answer"}
    assert annotations.notes == {"input:0:0": "looked at twice"}


def test_a_feature_that_had_several_labels_keeps_the_first_and_the_others_are_notes(tmp_path: Path) -> None:
    raw = json.loads((FILES / "version-6.json").read_text())
    raw["tokens"] = ["The", "cats", "of"]
    feature = next(node for node in raw["nodes"] if node["id"] == "sae:0:4")
    others = [{**feature, "id": f"sae:{pos}:4", "pos": pos} for pos in (1, 2)]
    raw["nodes"] += others
    said = {"sae:2:4": "third", "sae:0:4": "first", "sae:1:4": "second"}
    raw["annotations"] = {**raw["annotations"], "labels": said, "notes": {"sae:1:4": "a note", "sae:0:4": "kept"}}
    (tmp_path / "old.json").write_text(json.dumps(raw))
    opened = circuitlens.open(tmp_path / "old.json")
    assert opened.annotations is not None
    assert opened.annotations.labels == {"hook_sae/4": "first"}
    assert opened.annotations.notes == {"sae:0:4": "kept", "sae:1:4": "a note\nsecond", "sae:2:4": "third"}
    for wrong in ({"labels": {"nothing": "x"}}, {"labels": 3}, {"labels": {}, "notes": 3}, {"labels": {"sae:0:4": 3}}):
        (tmp_path / "bad.json").write_text(json.dumps({**raw, "annotations": wrong}))
        with pytest.raises(CircuitError, match="damaged circuit file"):
            open_circuit(tmp_path / "bad.json")


def test_an_edit_of_an_old_file_shows(tmp_path: Path) -> None:
    raw = json.loads((FILES / "version-4.json").read_text())
    raw["annotations"]["focus"] = None
    (tmp_path / "old.json").write_text(json.dumps(raw))
    assert circuitlens.open(tmp_path / "old.json").edited
    circuitlens.open(tmp_path / "old.json").save(tmp_path / "new.json")
    assert circuitlens.open(tmp_path / "new.json").edited
    raw["annotations"]["colour"] = "red"
    (tmp_path / "old.json").write_text(json.dumps(raw))
    with pytest.raises(CircuitError, match=r"damaged circuit file: annotations\.colour"):
        open_circuit(tmp_path / "old.json")


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_a_version_that_never_was_is_refused(version: object, cats: Circuit, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(edited(cats, version=version))
    with pytest.raises(CircuitError, match="damaged circuit file: version"):
        open_circuit(tmp_path / "odd.json")


def test_a_file_that_says_no_version_is_refused(cats: Circuit, tmp_path: Path) -> None:
    fields = json.loads(cats.to_json())
    del fields["version"]
    (tmp_path / "odd.json").write_text(json.dumps(fields))
    with pytest.raises(CircuitError, match="damaged circuit file: version"):
        open_circuit(tmp_path / "odd.json")


def test_what_the_adapter_was_loaded_with_is_kept(tmp_path: Path) -> None:
    adapter = TinyTransformer()
    adapter.options = {"layout": "residual", "width": 0, "scale": 0.5, "cut": True, "release": None}
    made = circuitlens.find(adapter, "a b", "d", "e")
    made.save(tmp_path / "c.json")
    assert circuitlens.open(tmp_path / "c.json").options == made.options == adapter.options
