"""Pairs of prompts with their answers, and the JSON Lines files they are kept in; no torch and no model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from circuitlens.errors import PromptError
from circuitlens.files import format_bytes, parse_json, read_bounded, write_file

MAX_BYTES = 40_000_000
"""Largest file of pairs that is written or read."""
MAX_ROWS = 100_000
"""Most rows of a file of pairs, and most that a circuit may be of."""
MAX_SKIPPED = 1000
"""Rows that can't be used, after which a file is taken for something else."""
MAX_TEXT, MAX_TEXTS = 1_000_000, 1000
"""Characters of a text, and outputs that count together."""


def _listed(value: Any, info: Any) -> Any:
    """One answer is a list of one; JSON's arrays are tuples here. A circuit's file always has a list."""
    if isinstance(value, str) and info.mode != "json":
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Text = Annotated[str, Field(max_length=MAX_TEXT)]
Texts = Annotated[tuple[Text, ...], Field(fail_fast=True, max_length=MAX_TEXTS), BeforeValidator(_listed)]
"""One output's text or several that count together."""


class Pair(BaseModel):
    """A prompt and the corrupted prompt it is compared with, with the outputs that tell them apart.

    `roles` names the prompt's words, one name a word; words of one role are scored together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Text
    corrupted: Text | None = None
    answer: Texts = Field(min_length=1)
    distractor: Texts = ()
    case: Text | None = None
    roles: tuple[Text, ...] = Field(default=(), fail_fast=True, max_length=MAX_TEXT)

    @model_validator(mode="after")
    def _one_role_a_word(self) -> Pair:
        words = len(self.prompt.split())
        if self.roles and len(self.roles) != words:
            raise ValueError(f"there are {len(self.roles)} roles for the {words} words of the prompt")
        return self


@dataclass(frozen=True)
class Skipped:
    """A row that can't be used: its line, its prompt (or the start of the line), and why in a sentence."""

    line: int
    text: str
    reason: str


SFC_FIELDS = {
    "clean_prefix": "prompt",
    "patch_prefix": "corrupted",
    "clean_answer": "answer",
    "patch_answer": "distractor",
    "case": "case",
}
"""The fields of the Sparse Feature Circuits data (Marks et al. 2024), each with ours."""
ROW = (
    'A row is one JSON object a line: {"prompt": "The cats", "corrupted": "The cat", "answer": " are", '
    '"distractor": " is"}, or the same as clean_prefix, patch_prefix, clean_answer and patch_answer.'
)
_EXPECTED = {
    "prompt": "a string",
    "corrupted": "a string",
    "answer": "a string or a list of strings",
    "distractor": "a string or a list of strings",
    "case": "a string",
    "roles": "a list of strings, one a word of the prompt",
}


class _RowError(ValueError):
    """A row is no pair; the message is the reason, a sentence."""


def read_pairs(path: str | os.PathLike[str], count: int | None = None) -> tuple[list[Pair], list[Skipped]]:
    """The pairs of a JSON Lines file, and the rows of it that can't be used.

    A row has our fields (those of `Pair`; an answer is a string or a list) or those of the Sparse Feature Circuits data
    (`SFC_FIELDS`; its other fields are ignored).

    Args:
        path: the file, UTF-8.
        count: how many usable rows to take; the rest of the file is not looked at.

    Raises:
        PromptError: the file can't be read, is not JSON Lines, or has no usable row.
    """
    if count is not None and count < 1:
        raise PromptError(f"The number of pairs to read is {count}: give 1 or more, or none to read them all.")
    name = os.fspath(path)
    lines = _lines(name)
    if count is None and len(lines) > MAX_ROWS + 1:  # the last ends the last row
        rows = len(lines) - 1
        raise PromptError(f"{name!r} has {rows:,} rows, above the {MAX_ROWS:,} that are read: give a part of it.")
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text, row = line, None
        try:
            row = _object(line)
            text = next((row[key] for key in ("prompt", "clean_prefix") if isinstance(row.get(key), str)), line)
            pairs.append(_pair(row))
        except _RowError as error:
            skipped.append(Skipped(number, _cut(text.strip(), 80), str(error)))
            if len(skipped) > MAX_SKIPPED:
                raise PromptError(
                    f"{name!r} has more than {MAX_SKIPPED:,} rows that can't be used. {_first(skipped)} {ROW}"
                ) from None
        if len(pairs) == count:
            break
    if not pairs:
        raise PromptError(_why(name, lines, skipped))
    return pairs, skipped


def write_pairs(path: str | os.PathLike[str], pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON Lines in our own layout, whole or not at all; empty fields are left out.

    Raises:
        PromptError: there is no pair, the file can't be written, or would be larger than can be read again.
    """
    try:
        data = "".join(json.dumps(_row(pair), ensure_ascii=False) + "\n" for pair in pairs).encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"A pair holds {error.object[error.start]!r}, half of a surrogate pair and no character: leave it out."
        ) from error
    if not data:
        raise PromptError("There is no pair to write: give at least one.")
    if len(data) > MAX_BYTES:
        raise PromptError(
            f"The pairs need {format_bytes(len(data))}, above {format_bytes(MAX_BYTES)}: write fewer, or several files."
        )
    write_file(path, data, PromptError)


def _lines(name: str) -> list[str]:
    """The file's lines, without its byte order mark."""
    data = read_bounded(name, MAX_BYTES, "a file of pairs (JSON Lines)", PromptError)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{name!r} is not UTF-8 text (byte {error.start + 1} is {data[error.start]:#04x}): save it as UTF-8."
        ) from error
    if text.lstrip().startswith("[") and isinstance(_document(text), list):
        raise PromptError(
            f"{name!r} is a JSON array and not JSON Lines: write one object a line, without brackets around them and "
            "commas between (jq -c '.[]' does it)."
        )
    return text.split("\n")  # and at no other line end: a JSON string may hold U+2028


def _object(line: str) -> dict[str, Any]:
    """The JSON object of a line."""
    try:
        row = parse_json(line.encode())
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _RowError("It holds half of a surrogate pair, which is no character.") from None
    except json.JSONDecodeError as error:
        raise _RowError(f"It is not JSON: {error.msg} at column {error.colno}.") from None
    except ValueError as error:
        raise _RowError(f"It can't be read: {error}.") from None
    if not isinstance(row, dict):
        raise _RowError(f"It is JSON but not an object: {_shown(row)}.")
    return row


def _pair(row: dict[str, Any]) -> Pair:
    """The pair that a row of either layout holds; null is as good as absent."""
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if value is not None}
    names = {field: field for field in Pair.model_fields}
    if "prompt" not in given and given.keys() & (SFC_FIELDS.keys() - {"case"}):
        names |= {ours: theirs for theirs, ours in SFC_FIELDS.items()}
        for theirs in SFC_FIELDS:
            if theirs not in given and theirs != "case":
                raise _RowError(f"{theirs!r} is missing.")
        given = {SFC_FIELDS[key]: value for key, value in given.items() if key in SFC_FIELDS}
    try:
        return Pair.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
    if not fault["loc"]:
        reason = fault["msg"].removeprefix("Value error, ")
        raise _RowError(f"{reason[:1].upper()}{reason[1:]}.")
    field = str(fault["loc"][0])
    match fault["type"]:
        case "missing":
            raise _RowError(f"{names[field]!r} is missing.")
        case "too_long" | "string_too_long":
            raise _RowError(f"{names[field]!r} is too long: {fault['msg']}.")
        case "extra_forbidden":
            raise _RowError(f"{_shown(field)} is no field of a row: the fields are {', '.join(Pair.model_fields)}.")
    raise _RowError(f"{names[field]!r} is {_shown(given[field])} and has to be {_EXPECTED[field]}.")


def _row(pair: Pair) -> dict[str, Any]:
    """The JSON object of a pair, without empty fields."""
    said = {key: value for key, value in pair.model_dump().items() if value is not None and value != ()}
    for key in ("answer", "distractor"):
        if len(said.get(key, ())) == 1:
            (said[key],) = said[key]
    return said


def _why(name: str, lines: list[str], skipped: list[Skipped]) -> str:
    """One message on why a file has no usable row."""
    if not skipped:
        return f"{name!r} is empty. {ROW}"
    if len(skipped) > 1 and isinstance(_document("\n".join(lines)), dict):
        return f"{name!r} is one JSON object over {len(lines)} lines and not JSON Lines. {ROW}"
    return f"{name!r} has no usable row. {_first(skipped)} {ROW}"


def _first(skipped: list[Skipped]) -> str:
    return f"Line {skipped[0].line}: {skipped[0].reason}"


def _document(text: str) -> Any:
    """The whole text read as one JSON document, None if it is none."""
    try:
        return parse_json(text.encode())
    except ValueError:
        return None


def _shown(value: Any) -> str:
    """The start of a value as Python writes it, lists as JSON has them."""
    if isinstance(value, tuple):
        value = list(value)
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of more digits than Python prints
        text = f"a {type(value).__name__}"
    return _cut(text, 60)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
