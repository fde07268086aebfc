"""Texts are streamed in pieces that end where words do; what can't be read is refused in a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from circuitlens.adapter import Adapter
from circuitlens.corpus import texts
from circuitlens.corpus.texts import PIECE, open_texts
from circuitlens.errors import CorpusError
from tests.tiny_transformer import TinyTransformer


@pytest.mark.parametrize("chunk", [7, 1000, 2**16])
def test_pieces_are_the_text_cut_between_words(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "CHUNK", chunk)
    words = [f"word{n}" for n in range(3000)]
    ends = (" ", " ", "\n", ". ", "\n\n")
    whole = "".join(word + ends[n % 5] for n, word in enumerate(words)) + "x" * 3 * PIECE
    (tmp_path / "t.txt").write_text(whole)
    (text,) = open_texts(TinyTransformer(), [tmp_path / "t.txt"])
    pieces = list(text.pieces())
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(whole.split())
    assert all(piece[0] == "w" for piece in pieces[:5])  # none begins within a word
    assert list(text.pieces()) == pieces
    assert text.size == len(whole)


def test_rows_are_texts_of_their_own(tmp_path: Path) -> None:
    rows = [{"text": "a b", "other": 1}, {"text": "  "}, {"text": "c\nd"}]
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    (text,) = open_texts(TinyTransformer(), [tmp_path / "t.jsonl"])
    assert list(text.pieces()) == ["a b", "c\nd"]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("t.txt", b"\xff\xfe a b c", "no UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}', "Row 2 .* has no text"),
        ("t.jsonl", b'{"text": "a"', "Row 1 .*it is not JSON"),
        ("t.jsonl", b'{"text": "a", "text": "b"}', "Row 1 .*is there twice"),
        ("t.jsonl", b"[" * 3000, "Row 1 .*can't be read"),
        ("t.jsonl", b'{"text": "' + b"x" * 10_000_001 + b'"}', "Row 1 .* more than 10,000,000 bytes"),
    ],
)
def test_what_is_no_text_is_refused(name: str, data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    (text,) = open_texts(TinyTransformer(), [tmp_path / name])
    with pytest.raises(CorpusError, match=told):
        list(text.pieces())


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "missing.txt", "\0.txt"):
        with pytest.raises(CorpusError, match=r"There is no file|Can't read"):
            open_texts(TinyTransformer(), [name])


def test_the_sample_is_plain_english_or_the_adapters_own(toy: Adapter) -> None:
    parts = open_texts(TinyTransformer(), [])
    sample = "\n".join(piece for part in parts for piece in part.pieces())
    assert 60_000 < len(sample.encode()) < 150_000
    assert len(sample.encode()) == pytest.approx(sum(part.size for part in parts), rel=0.01)
    for word in (" cats ", " tigers ", " Nation", " whale"):
        assert word in sample
    (own,) = open_texts(toy, [])
    assert next(own.pieces()).count(" ") == 2


class Rows(list[dict[str, str]]):
    _fingerprint = "f1"

    def select_columns(self, column: str) -> Rows:
        assert column == "text"
        return self


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A stand-in for the library, which is asked for cached data only."""

    config = SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(name: str, *, split: str) -> Rows:
        assert (split, config.HF_HUB_OFFLINE) == ("train", True)
        if name != "some/data":
            raise ConnectionError("offline")
        return Rows([{"text": "a b"}, {"text": "c"}])

    module = ModuleType("datasets")
    vars(module).update(load_dataset=load_dataset, config=config)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(texts, "find_spec", lambda name: name == "datasets")
    return load_dataset


@pytest.mark.usefixtures("datasets")
def test_a_cached_dataset_is_a_text_and_none_is_downloaded() -> None:
    (text,) = open_texts(TinyTransformer(), ["some/data"])
    assert (list(text.pieces()), text.digest, text.size) == (["a b", "c"], "f1", 0)
    with pytest.raises(CorpusError, match=r"no file 'other/data', and no such dataset .* \(ConnectionError\)"):
        open_texts(TinyTransformer(), ["other/data"])
