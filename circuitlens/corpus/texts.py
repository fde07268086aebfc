"""Texts in pieces, streamed: files of plain text and of JSON Lines, cached datasets, the sample that comes along."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from circuitlens.adapter import Adapter
from circuitlens.errors import CorpusError
from circuitlens.files import parse_json, reason_of

PIECE = 4000
"""Characters that are read by a model's tokenizer at a time; a piece ends with a paragraph, a sentence or a word."""
CHUNK = 2**16
MAX_ROW = 10_000_000
"""Bytes of a line of JSON Lines."""
ENDS = ("\n\n", "\n", ". ", " ")
"""Where a piece is cut, the first that there is in its second half."""
SAMPLE = Path(__file__).parent / "sample"
SAMPLES = ("sentences.txt", "moby-dick.txt", "union.txt")


@dataclass(frozen=True)
class Text:
    """A text by its name: the SHA-256 of what is in it (or what stands for that), its size in bytes (0 where it is not
    known), and its pieces, which are read anew at each call.
    """

    name: str
    digest: str
    size: int
    pieces: Callable[[], Iterator[str]]


def open_texts(adapter: Adapter, names: Sequence[str | os.PathLike[str]]) -> list[Text]:
    """The texts of these names, each a file or a dataset in the Hugging Face cache; without a name, the sample.

    Raises:
        CorpusError: one can't be read.
    """
    if names:
        return [_named(os.fspath(name)) for name in names]
    own = adapter.sample()
    return [_file(str(SAMPLE / name), name) for name in SAMPLES] if own is None else [_own(adapter.name, list(own))]


def _own(name: str, texts: Sequence[str]) -> Text:
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return Text(f"the sample of {name}", digest, sum(map(len, texts)), lambda: _pieces(texts))


def _named(name: str) -> Text:
    if not os.path.lexists(name) and find_spec("datasets") and not Path(name).suffix:
        return _dataset(name)
    return _file(name, name)


def _file(path: str, name: str) -> Text:
    digest = hashlib.sha256()
    try:
        if not Path(path).is_file():
            raise CorpusError(f"There is no file {name!r}: give a file of plain text, or of JSON Lines (.jsonl).")
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
            size = file.tell()
    except (OSError, ValueError) as fault:
        raise CorpusError(f"Can't read {name!r}: {reason_of(fault)}. Give a file of text.") from fault
    read = _rows if Path(path).suffix == ".jsonl" else _characters
    return Text(name, digest.hexdigest(), size, lambda: read(path))


def _characters(path: str) -> Iterator[str]:
    """The pieces of a file of plain text."""

    def chunks() -> Iterator[str]:
        with Path(path).open(encoding="utf-8") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    try:
        yield from _cut(chunks())
    except UnicodeDecodeError as fault:
        raise CorpusError(f"{path!r} is no UTF-8 ({fault.reason}): save it as UTF-8.") from fault
    except OSError as fault:
        raise CorpusError(f"Can't read {path!r}: {reason_of(fault)}.") from fault


def _rows(path: str) -> Iterator[str]:
    """The pieces of the texts in a file of JSON Lines: of each row the text in its field "text"."""
    try:
        with Path(path).open("rb") as file:
            number = 0
            while line := file.readline(MAX_ROW + 1):
                number += 1
                if line.strip():
                    yield from _cut([_row_text(path, number, line)])
    except OSError as fault:
        raise CorpusError(f"Can't read {path!r}: {reason_of(fault)}.") from fault


def _row_text(path: str, number: int, line: bytes) -> str:
    wanted = 'write each row as {"text": "…"}'
    if len(line) > MAX_ROW:
        raise CorpusError(f"Row {number} of {path!r} has more than {MAX_ROW:,} bytes: cut it into several.")
    try:
        row = parse_json(line)
    except ValueError as fault:
        told = "it is not JSON" if isinstance(fault, json.JSONDecodeError) else str(fault)
        raise CorpusError(f"Row {number} of {path!r} can't be read ({told}): {wanted}.") from fault
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise CorpusError(f"Row {number} of {path!r} has no text: {wanted}.")
    return row["text"].encode(errors="replace").decode()  # JSON may hold half a surrogate, which no file can


def _dataset(name: str) -> Text:
    """A dataset of the Hugging Face cache, its split "train" and column "text"; nothing is downloaded."""
    datasets: Any = import_module("datasets")
    before = datasets.config.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = True  # what the library heeds; a DownloadConfig it does not
        data = datasets.load_dataset(name, split="train").select_columns("text")
    except Exception as fault:  # the library has no error of its own for what is not there
        raise CorpusError(
            f"There is no file {name!r}, and no such dataset with a column 'text' is in the Hugging Face cache "
            f"({type(fault).__name__}): give a file of text."
        ) from fault
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    return Text(name, str(data._fingerprint), 0, lambda: _pieces(row["text"] for row in data))


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _cut([text])


def _cut(chunks: Iterable[str]) -> Iterator[str]:
    """A text, given in chunks of any size, in pieces; those of white space alone are left out."""
    buffer, start = "", 0
    for chunk in chunks:
        buffer, start = buffer[start:] + chunk, 0
        while len(buffer) - start > PIECE:
            end = _end_of(buffer, start)
            if piece := buffer[start:end].strip():
                yield piece
            start = end
    if piece := buffer[start:].strip():
        yield piece


def _end_of(text: str, start: int) -> int:
    """Where the piece of a text ends that begins at `start`, and is not its last."""
    for mark in ENDS:
        at = text.rfind(mark, start + PIECE // 2, start + PIECE)
        if at >= 0:
            return at + len(mark)
    return start + PIECE
