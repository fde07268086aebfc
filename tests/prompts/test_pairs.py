"""Pairs and their files: what is read, what is skipped and why, and what is refused in one message."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from circuitlens.errors import PromptError
from circuitlens.prompts import pairs as module
from circuitlens.prompts.pairs import Pair, Skipped, read_pairs, write_pairs

OURS = {"prompt": "The cats", "corrupted": "The cat", "answer": " are", "distractor": " is"}
CATS = Pair(prompt="The cats", corrupted="The cat", answer=(" are",), distractor=(" is",))
SFC = """\
{"clean_prefix": "The men", "patch_prefix": "The man", "clean_answer": " are", "patch_answer": " is", \
"case": "plural", "kind": "simple"}
{"clean_prefix": "The girl that the driver", "patch_prefix": "The girl that the drivers", "clean_answer": " is", \
"patch_answer": " are", "case": "singular_singular", "kind": "within_rc"}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs.jsonl"


def row(**changes: Any) -> str:
    return json.dumps({key: value for key, value in (OURS | changes).items() if value is not ...})


def test_the_layout_of_the_sparse_feature_circuits_data(path: Path) -> None:
    path.write_text(SFC)
    assert read_pairs(path) == (
        [
            Pair(prompt="The men", corrupted="The man", answer=(" are",), distractor=(" is",), case="plural"),
            Pair(
                prompt="The girl that the driver",
                corrupted="The girl that the drivers",
                answer=(" is",),
                distractor=(" are",),
                case="singular_singular",
            ),
        ],
        [],
    )


def test_our_own_layout(path: Path) -> None:
    full = row(answer=[" are", " were"], case="plural", roles=["determiner", "subject"])
    path.write_text(f'{row()}\n{full}\n{{"prompt": "So", "answer": " it"}}\n{row(corrupted=None, case=None)}')
    pairs, skipped = read_pairs(path)
    assert pairs == [
        CATS,
        CATS.model_copy(update={"answer": (" are", " were"), "case": "plural", "roles": ("determiner", "subject")}),
        Pair(prompt="So", answer=(" it",)),
        CATS.model_copy(update={"corrupted": None}),
    ]
    assert skipped == []


def test_byte_order_marks_line_ends_and_blank_lines(path: Path) -> None:
    odd = "a\u2028b\u0085c"
    lines = ["", row(), "  ", json.dumps({**OURS, "prompt": odd}, ensure_ascii=False), ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    pairs, skipped = read_pairs(path)
    assert [pair.prompt for pair in pairs] == ["The cats", odd]
    assert skipped == []


@pytest.mark.parametrize(
    ("line", "text", "reason"),
    [
        ("The cats", "The cats", "It is not JSON: Expecting value at column 1."),
        ('{"prompt": "The', '{"prompt": "The', "It is not JSON: Unterminated string starting at at column 12."),
        ("[1]", "[1]", "It is JSON but not an object: [1]."),
        ("NaN", "NaN", "It can't be read: NaN is no number."),
        ("9" * 5000, "9" * 79 + "…", "It can't be read: a number in it has 5000 digits."),
        ("[" * 100_000, "[" * 79 + "…", "It can't be read: it is nested too deeply."),
        ("{}", "{}", "'prompt' is missing."),
        (row(answer=...), "The cats", "'answer' is missing."),
        (row(answer=None), "The cats", "'answer' is missing."),
        (row(answer=[]), "The cats", "'answer' is [] and has to be a string or a list of strings."),
        (row(answer=float("nan")), None, "It can't be read: NaN is no number."),
        ('{"prompt": "The cats", "prompt": "The"}', None, "It can't be read: the key 'prompt' is there twice."),
        (row(answer=[" are", 3]), "The cats", "'answer' is [' are', 3] and has to be a string or a list of strings."),
        (row(prompt=7), None, "'prompt' is 7 and has to be a string."),
        (row(prompt="\ud800"), None, "It holds half of a surrogate pair, which is no character."),
        (row(kind="x"), "The cats", "'kind' is no field of a row: the fields are prompt, corrupted, answer, "),
        (row(roles=["one"]), "The cats", "There are 1 roles for the 2 words of the prompt."),
        (row(roles="two words"), "The cats", "'roles' is 'two words' and has to be a list of strings, one a word"),
        (SFC.splitlines()[0].replace("clean_answer", "x"), "The men", "'clean_answer' is missing."),
        (SFC.splitlines()[0].replace("clean_prefix", "x"), None, "'clean_prefix' is missing."),
        (SFC.splitlines()[0].replace('" is"', "{}"), "The men", "'patch_answer' is {} and has to be a string or"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(path: Path, line: str, text: str | None, reason: str) -> None:
    path.write_text(f"{row()}\n{line}\n{row()}\n")
    pairs, (skipped,) = read_pairs(path)
    assert pairs == [CATS, CATS]
    assert skipped.line == 2
    assert skipped.text == (text or skipped.text)
    assert skipped.reason.startswith(reason)
    assert skipped.reason.endswith(".")
    assert len(skipped.text) <= 80


def test_a_count_takes_the_first_usable_rows(path: Path) -> None:
    path.write_text(f"bad\n{row()}\n{row(prompt='The dogs')}\nworse\n")
    assert read_pairs(path, count=1) == ([CATS], [Skipped(1, "bad", "It is not JSON: Expecting value at column 1.")])
    assert len(read_pairs(path, count=2)[1]) == 1
    pairs, skipped = read_pairs(path, count=3)
    assert (len(pairs), [one.line for one in skipped]) == (2, [1, 4])
    with pytest.raises(PromptError, match="is 0: give 1 or more"):
        read_pairs(path, count=0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", r"is empty\. A row is one JSON object a line: "),
        (b"\xef\xbb\xbf\r\n \n", "is empty"),
        (b"\n\nhello\n" * 9, r"has no usable row\. Line 3: It is not JSON: Expecting value at column 1\. A row is"),
        (b"\xff\xfe{\x00}\x00", r"is not UTF-8 text \(byte 1 is 0xff\): save it as UTF-8"),
        (f"[{row()},\n{row()}\n]".encode(), "is a JSON array and not JSON Lines: write one object a line"),
        (json.dumps(OURS, indent=1).encode(), "is one JSON object over 6 lines and not JSON Lines"),
    ],
)
def test_a_file_without_pairs_is_one_clear_message(path: Path, data: bytes, why: str) -> None:
    path.write_bytes(data)
    with pytest.raises(PromptError, match=why) as error:
        read_pairs(path)
    assert repr(str(path)) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"No such file or directory\. Give a file of pairs"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(PromptError, match="is not a file"):
        read_pairs(tmp_path)
    with pytest.raises(PromptError, match="null byte"):
        read_pairs("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PromptError, match="is not a file"):
        read_pairs(path)


def test_a_huge_file_is_refused_unread(path: Path) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200_000_000)
    with pytest.raises(PromptError, match="has 200 MB, above the 40 MB"):
        read_pairs(path)


words = st.text(st.characters(codec="utf-8"), max_size=12)
texts = st.lists(words, min_size=1, max_size=3).map(tuple)


@st.composite
def any_pair(draw: st.DrawFn) -> Pair:
    prompt, count = draw(words), 0
    roles = tuple(draw(words) for _ in prompt.split()) if draw(st.booleans()) else ()
    count = draw(st.integers(0, 2))
    return Pair(
        prompt=prompt,
        corrupted=draw(st.none() | words),
        answer=draw(texts),
        distractor=draw(texts)[:count],
        case=draw(st.none() | words),
        roles=roles,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(any_pair(), min_size=1, max_size=4))
def test_what_is_written_is_read_again(path: Path, pairs: list[Pair]) -> None:
    write_pairs(path, pairs)
    assert read_pairs(path) == (pairs, [])


FIELDS = [*Pair.model_fields, *module.SFC_FIELDS, "kind", "\ud800"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
rows = st.dictionaries(st.sampled_from(FIELDS), words | anything).map(lambda value: json.dumps(value).encode())
garbage = st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="replace")) | rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(lines=st.lists(garbage, max_size=5), mark=st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_no_file_ends_in_a_traceback_and_no_row_is_dropped(path: Path, lines: list[bytes], mark: bytes) -> None:
    data = mark + b"\n".join(lines)
    path.write_bytes(data)
    try:
        pairs, skipped = read_pairs(path)
    except PromptError:
        return
    assert pairs
    present = [line for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    assert len(pairs) + len(skipped) == len(present)


def test_rows_are_plain(path: Path) -> None:
    write_pairs(path, [CATS, Pair(prompt="Später", answer=("a", "b"), roles=("adverb",))])
    assert path.read_text(encoding="utf-8") == (
        '{"prompt": "The cats", "corrupted": "The cat", "answer": " are", "distractor": " is"}\n'
        '{"prompt": "Später", "answer": ["a", "b"], "roles": ["adverb"]}\n'
    )


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError, match=r"Can't write .*No such file or directory"):
        write_pairs(tmp_path / "no folder" / "p.jsonl", [CATS])
    with pytest.raises(PromptError, match="Can't write"):
        write_pairs(tmp_path, [CATS])
    with pytest.raises(PromptError, match="null byte"):
        write_pairs("a\0b", [CATS])
    with pytest.raises(PromptError, match="no pair to write: give at least one"):
        write_pairs(tmp_path / "p.jsonl", [])
    with pytest.raises(PromptError, match=r"holds '\\ud800', half of a surrogate pair"):
        write_pairs(tmp_path / "p.jsonl", [CATS.model_copy(update={"prompt": "\ud800"})])
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(PromptError, match="above 0 MB: write fewer"):
        write_pairs(tmp_path / "p.jsonl", [CATS])
    assert list(tmp_path.iterdir()) == []


def test_a_pair_has_one_role_a_word() -> None:
    with pytest.raises(ValidationError, match="1 roles for the 2 words"):
        Pair(prompt="The cats", answer=(" are",), roles=("subject",))
