"""A corpus is what counting by hand gives, and the same to the last bit however often its making was cut off."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from circuitlens_toy.grammar import noun_number

from circuitlens import corpus
from circuitlens.adapter import Adapter
from circuitlens.corpus import building, folder, statistics, windows
from circuitlens.corpus.folder import DOCUMENT, SEGMENT
from circuitlens.errors import CorpusError
from circuitlens.files import write_file
from tests.models import by_layout
from tests.tiny_transformer import VOCABULARY, TinyTransformer


def letters(count: int, seed: int = 0) -> str:
    """Lines of words that the tiny transformer reads."""
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(VOCABULARY[1:], k=rng.randint(2, 9))) for _ in range(count))


def note(seen: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    seen[name] = x.detach().clone()


def by_hand(adapter: Adapter, windows: list[str]) -> dict[str, list[tuple[int, int, int, float]]]:
    """By site the active features of windows that run one by one: window, position, index and value."""
    found: dict[str, list[tuple[int, int, int, float]]] = {}
    for number, window in enumerate(windows):
        inputs = adapter.inputs([window])
        seen: dict[str, torch.Tensor] = {}
        adapter.run(inputs, {site.read: partial(note, seen, site.read) for site in adapter.sites})
        for site in adapter.sites:
            if site.coder is not None:
                f = site.coder.encode(seen[site.read])
                site.coder.decode(f)
                for pos, index in f[0].nonzero().tolist():
                    found.setdefault(site.write, []).append((number, pos, index, f[0, pos, index].item()))
    return found


def assert_as_by_hand(adapter: Adapter, made: corpus.Corpus, windows: list[str]) -> None:
    tokens = sum(len(adapter.inputs([window]).tokens[0]) for window in windows)
    assert (made.record.tokens, made.record.windows) == (tokens, len(windows))
    expected = by_hand(adapter, windows)
    seen = 0
    for site in made.record.sites:
        for index in range(site.features):
            active = [each for each in expected.get(site.hook, []) if each[2] == index]
            feature = made.feature(site.hook, index)
            assert (feature.count, feature.density) == (len(active), len(active) / tokens)
            assert sum(count for _, _, count in feature.histogram) == len(active)
            for low, high, count in feature.histogram:
                if low > 2**folder.LOWEST:
                    assert count == sum(low <= abs(value) < high for *_, value in active)
            best: dict[int, tuple[float, int]] = {}
            for window, pos, _, value in active:
                if window not in best or abs(value) > abs(best[window][0]) + 1e-9:
                    best[window] = value, pos
            strongest = sorted(best.items(), key=lambda item: -abs(item[1][0]))[: made.record.top]
            assert [c.value for c in feature.contexts] == pytest.approx([v for _, (v, _) in strongest], rel=1e-5)
            for context, (window, (_, pos)) in zip(feature.contexts, strongest, strict=True):
                ties = [w for w, (v, _) in best.items() if abs(v) == pytest.approx(abs(context.value), rel=1e-5)]
                assert context.tokens in [adapter.inputs([windows[w]]).tokens[0] for w in ties]
                assert len(ties) > 1 or (windows[window], context.pos) == (" ".join(context.tokens), pos)
            seen += bool(active)
    assert seen > 5


@pytest.mark.parametrize("layout", ["toy float32", "residual", "components", "normalised"])
def test_density_histogram_and_contexts_are_those_that_counting_gives(
    layout: str, toy: Adapter, toy64: Adapter, tmp_path: Path
) -> None:
    adapter = toy if layout.startswith("toy") else by_layout(layout, toy, toy64)
    lines = list(toy.sample() or ())[:70] if adapter is toy else letters(40).split("\n")
    rows = "\n".join(f'{{"text": "{line}"}}' for line in lines)
    (tmp_path / "text.jsonl").write_text(rows)
    made = corpus.build(adapter, tmp_path / "made", [tmp_path / "text.jsonl"], context=16, top=4)
    assert_as_by_hand(adapter, made, lines)


def test_text_is_cut_into_windows_of_so_many_tokens(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(f"{letters(1)} a b c d e f g a b c\n\nA sentence that it can't read.")
    made = corpus.build(TinyTransformer(padding="left", width=9), tmp_path / "made", [tmp_path / "text.txt"], context=5)
    cut = folder.read_segment(made.folder, 0)
    assert [len(window) for window in cut] == [5] * (len(cut) - 1) + [made.record.tokens % 5 or 5]
    assert (" ".join(token for window in cut for token in window)).endswith("a b c d e f g a b c")
    assert made.record.unread == 1


def files_of(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


class Killed(BaseException):
    """Ends a build as a kill would: nothing of it runs any more."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": letters(36, seed).replace("\n", " ")}) for seed in range(3)))
    return path


def build(path: Path, text: Path, **how: Any) -> corpus.Corpus:
    return corpus.build(TinyTransformer(), path, [text], **{"seconds": 0.0, "context": 2, **how})


def test_it_is_the_same_to_the_last_bit_wherever_it_was_cut_off(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a file is in turn the one that does not come about."""
    for module in (building, windows):
        monkeypatch.setattr(module, "BATCH", 100)
    whole = build(tmp_path / "whole", text, seconds=1e9)
    assert whole.record.windows > SEGMENT
    writes: list[str] = []
    last = 10**9

    def write(path: Path, *rest: Any) -> None:
        if len(writes) == last:
            raise Killed
        writes.append(path.name)
        write_file(path, *rest)

    for module in (folder, statistics):
        monkeypatch.setattr(module, "write_file", write)
    build(tmp_path / "often", text)
    assert files_of(tmp_path / "often") == files_of(whole.folder)
    for last in range(len(writes)):
        writes.clear()
        with pytest.raises(Killed):
            build(tmp_path / str(last), text)
        left = last
        last, read_so_far = 10**9, None
        if (tmp_path / str(left) / DOCUMENT).exists():
            read_so_far = corpus.read(tmp_path / str(left)).record
        again = build(tmp_path / str(left), text)
        assert files_of(again.folder) == files_of(whole.folder)
        assert read_so_far is None or read_so_far.tokens <= again.record.tokens


def test_work_that_is_ended_by_its_callback_goes_on_where_it_was(text: Path, tmp_path: Path) -> None:
    done: list[int] = []

    def stop(_stage: str, now: int, total: int) -> None:
        done.append(now)
        assert now <= total == text.stat().st_size
        if len(done) == 3:
            raise Killed

    with pytest.raises(Killed):
        build(tmp_path / "c", text, progress=stop)
    assert not corpus.read(tmp_path / "c").record.done
    before, done = done, []
    build(tmp_path / "c", text, progress=lambda _stage, now, _total: done.append(now))
    assert done[0] >= before[-2] > 0
    again: list[int] = []
    build(tmp_path / "c", text, progress=lambda _stage, now, _total: again.append(now))
    assert again == []  # it is done


@pytest.fixture(scope="module")
def sample(toy: Adapter, tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    return corpus.build(toy, tmp_path_factory.mktemp("sample") / "c")


def test_real_processes_that_are_killed_leave_what_an_undisturbed_one_makes(
    toy: Adapter, sample: corpus.Corpus, tmp_path: Path
) -> None:
    code = (
        "import sys, circuitlens; from circuitlens import corpus; toy = circuitlens.load('toy'); "
        "print('begun', flush=True); corpus.build(toy, sys.argv[1], seconds=0)"
    )
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "killed"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.4)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    if (tmp_path / "killed" / DOCUMENT).exists():
        assert not corpus.read(tmp_path / "killed").record.done
    corpus.build(toy, tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(sample.folder)


class Other(TinyTransformer):
    """The same sites with other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[0][0] = self.blocks[0][0] * 1.5


def test_another_corpus_is_refused_with_the_difference(text: Path, tmp_path: Path) -> None:
    made = build(tmp_path / "c", text, max_tokens=250)
    assert 250 <= made.record.tokens < 500
    before = files_of(made.folder)
    other = tmp_path / "other.txt"
    other.write_text("a b c")
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: build(tmp_path / "c", text), "its max_tokens is 250, and now it is 10000000"),
        (lambda: build(tmp_path / "c", text, max_tokens=250, top=3), "its top is 10, and now it is 3"),
        (lambda: build(tmp_path / "c", other, max_tokens=250), "its texts is"),
        (lambda: corpus.build(Other(), tmp_path / "c", [text], context=2, max_tokens=250), "the activation had norm"),
        (lambda: corpus.build(TinyTransformer("normalised"), tmp_path / "c", [text]), "its sites is"),
        (lambda: build(tmp_path, text), "holds 'c' and no corpus: give a new folder"),
    ]
    for call, told in cases:
        with pytest.raises(CorpusError, match=told):
            call()
    assert files_of(made.folder) == before
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(text.read_bytes())
    build(tmp_path / "c", moved, max_tokens=250)  # what it is called is no difference


@pytest.mark.parametrize("how", [{"context": 1}, {"context": 5000}, {"top": 0}, {"top": 101}, {"max_tokens": 0}])
def test_sizes_out_of_range_are_refused(how: dict[str, int], text: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="give 2 to 2048 tokens"):
        corpus.build(TinyTransformer(), tmp_path / "c", [text], **how)  # pyright: ignore[reportArgumentType]


def test_texts_that_the_model_can_not_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("nothing that it knows")
    with pytest.raises(CorpusError, match="can't read any of the texts"):
        corpus.build(TinyTransformer(), tmp_path / "c", [tmp_path / "x.txt"])


def test_a_toys_own_sample_shows_what_its_features_do(sample: corpus.Corpus) -> None:
    feature = sample.feature("sae", 4)  # plural
    assert feature.density == pytest.approx(0.5)
    subjects = {context.token.split()[1] for context in feature.contexts}
    assert len(subjects) > 5
    assert all(noun_number(noun) == (0, 1) for noun in subjects)
