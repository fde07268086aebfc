"""Files of labels: JSON or CSV, from anyone.

JSON is an object `{"HOOK/INDEX": "label"}` or a list of rows `{"hook": …, "index": …, "label": …}`; CSV has these three
columns.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from circuitlens.circuit import Meaning
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.errors import CorpusError
from circuitlens.files import parse_json, read_bounded

MAX_BYTES = 40_000_000
MAX_ROWS = 400_000
FORM = 'write {"HOOK/INDEX": "label"} as JSON, or rows of hook, index and label as JSON or CSV'

Row = tuple[object, object, object]


def read_labels(path: str | os.PathLike[str]) -> list[Meaning]:
    """The labels of a file, with the source "file"; rows without a label are left out.

    Raises:
        CorpusError: it can't be read, or a row is no label.
    """
    name = os.fspath(path)
    data = read_bounded(path, MAX_BYTES, "a file of labels (.json or .csv)", CorpusError)
    rows = _csv_rows(name, data) if Path(path).suffix.lower() == ".csv" else _json_rows(name, data)
    found: dict[tuple[str, int], Meaning] = {}
    for number, row in enumerate(rows, 1):
        if number > MAX_ROWS:
            raise CorpusError(f"{name!r} has more than {MAX_ROWS:,} labels: give a smaller file.")
        meaning = _meaning(name, number, row)
        if meaning is None:
            continue
        assert meaning.index is not None, "labels of files are of features"
        if found.setdefault((meaning.hook, meaning.index), meaning).text != meaning.text:
            raise CorpusError(
                f"Label {number} of {name!r}: {meaning.hook}/{meaning.index} is there twice, with two labels."
            )
    return list(found.values())


def clean(text: str) -> str:
    """A label in one line, without halves of surrogate pairs, which no file can hold."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _json_rows(name: str, data: bytes) -> Iterable[Row]:
    try:
        value = parse_json(data)
    except ValueError as fault:
        raise CorpusError(f"{name!r} is no JSON that can be read ({fault}): {FORM}.") from fault
    if isinstance(value, dict):
        return [(*_parts(key), label) for key, label in value.items()]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return [_row(row) for row in value]
    raise CorpusError(f"{name!r} holds no labels: {FORM}.")


def _csv_rows(name: str, data: bytes) -> Iterator[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise CorpusError(f"{name!r} is no UTF-8 ({fault.reason}): save it as UTF-8.") from fault
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if not {"hook", "index", "label"} <= set(rows.fieldnames or ()):
            raise CorpusError(
                f"{name!r} has the columns {', '.join(rows.fieldnames or ()):.200}: it needs hook, index, label."
            )
        for row in rows:
            yield _row(row)
    except csv.Error as fault:
        raise CorpusError(f"{name!r} is no CSV that can be read ({fault}): {FORM}.") from fault


def _parts(key: str) -> tuple[str, str]:
    hook, _, index = key.rpartition("/")
    return hook, index


def _row(row: dict[str, Any]) -> Row:
    return row.get("hook"), row.get("index"), row.get("label")


def _is_name(hook: object) -> TypeGuard[str]:
    return isinstance(hook, str) and 0 < len(hook) <= 1000 and hook == hook.encode(errors="replace").decode()


def _meaning(name: str, number: int, row: Row) -> Meaning | None:
    hook, index, label = row
    if isinstance(index, str) and re.fullmatch(r"[0-9]{1,18}", index):
        index = int(index)
    if not _is_name(hook) or type(index) is not int or not 0 <= index < 2**63:
        raise CorpusError(
            f"Label {number} of {name!r} is of no feature (hook {hook!r:.80}, index {index!r:.80}): {FORM}."
        )
    if not isinstance(label, str):
        raise CorpusError(f"Label {number} of {name!r} is {label!r:.80}, which is no text: {FORM}.")
    text = clean(label)
    if len(text) > MAX_LABEL:
        raise CorpusError(f"Label {number} of {name!r} has {len(text)} characters: give at most {MAX_LABEL}.")
    return Meaning(hook=hook, index=index, text=text, source="file") if text else None
