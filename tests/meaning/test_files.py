"""Files of labels, also hostile ones: read as text, up to a limit, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from circuitlens.errors import CorpusError
from circuitlens.meaning.files import read_labels

LABELS = {("blocks.8.hook_resid_pre", 7): "plural nouns", ("a/b", 0): "=1+1 \u202e <b>"}


def written(path: Path, form: str) -> Path:
    match form:
        case "object":
            data = json.dumps({f"{hook}/{index}": text for (hook, index), text in LABELS.items()})
        case "rows":
            data = json.dumps([{"hook": h, "index": i, "label": text, "more": 1} for (h, i), text in LABELS.items()])
        case _:
            rows = [f'{hook},{index}," {text}\n"' for (hook, index), text in LABELS.items()]
            data = "\ufeff" + "\r\n".join(["hook,index,label", *rows, "a/b,3,"])
    path = path / f"labels.{'csv' if form == 'csv' else 'json'}"
    path.write_bytes(data.encode())
    return path


@pytest.mark.parametrize("form", ["object", "rows", "csv"])
def test_every_form_says_the_same(form: str, tmp_path: Path) -> None:
    found = read_labels(written(tmp_path, form))
    assert {(m.hook, m.index): m.text for m in found} == LABELS
    assert {(m.source, m.weak) for m in found} == {("file", False)}


def test_what_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"h/1": "half \\ud800 of a\\u0000 pair\\n"}')
    (label,) = read_labels(tmp_path / "l.json")
    assert label.text == "half ? of a\0 pair"


HEAD = "hook,index,label\n"


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("l.json", "{", "is no JSON"),
        ("l.json", "3", "holds no labels"),
        ("l.json", "[3]", "holds no labels"),
        ("l.json", '{"h/1": 3}', "Label 1 .* is 3, which is no text"),
        ("l.json", '{"h": "x"}', "Label 1 .* is of no feature"),
        ("l.json", '{"h/-1": "x"}', "Label 1 .* is of no feature"),
        ("l.json", '{"h/01": "x", "h/1": "y"}', "Label 2 .*is there twice, with two labels"),
        ("l.json", '[{"hook": "h", "index": true, "label": "x"}]', "is of no feature"),
        ("l.json", '[{"hook": "h", "index": 1e300, "label": "x"}]', "is of no feature"),
        ("l.json", '[{"hook": "h", "index": 99999999999999999999, "label": "x"}]', "is of no feature"),
        ("l.json", "[" * 100_000, "is no JSON"),
        ("l.json", "[" + "{}," * 500_000 + "{}]", "more than 400,000 objects"),
        ("l.json", json.dumps({"h/1": "x" * 201}), "has 201 characters"),
        ("l.csv", "hook,label\nh,x\n", "it needs hook, index, label"),
        ("l.csv", "", "it needs hook, index, label"),
        ("l.csv", f"{HEAD}h,1\n", "Label 1 .* is None, which is no text"),
        ("l.csv", f"{HEAD}h,x,y\n", "is of no feature"),
        ("l.csv", f'{HEAD}h,1,"{"x" * 200_000}"\n', "no CSV that can be read"),
    ],
)
def test_what_is_no_label_is_refused(name: str, data: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(data)
    with pytest.raises(CorpusError, match=told):
        read_labels(tmp_path / name)


def test_files_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "l.csv", tmp_path, tmp_path / "missing.json"):
        with pytest.raises(CorpusError):
            read_labels(path)
