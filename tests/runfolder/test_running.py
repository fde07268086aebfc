"""A run's folder gives the circuit of one undisturbed process to the last bit, whatever worked on it and was lost."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.discovery import search_many
from circuitlens.errors import AdapterError, CircuitLensError, PromptError, RunError
from circuitlens.files import writing
from circuitlens.fingerprint import difference
from circuitlens.pipeline import BATCH
from circuitlens.runfolder import RunFolder, Shard, folder, run_in_folder, running
from circuitlens.runfolder.state import state_of
from circuitlens.torch_modes import own_modes
from tests.circuits import PAIRS as LETTERS
from tests.circuits import toy_pairs
from tests.run_kills import kill_workers
from tests.tiny_transformer import TinyTransformer

PAIRS = toy_pairs(7)
HOW: dict[str, Any] = {"batch_size": 2}
PIECES = 12


class EndedError(Exception):
    """Ends a run from its progress."""


@pytest.fixture(scope="module")
def whole(toy: Adapter) -> bytes:
    return text_of(circuitlens.aggregate(toy, PAIRS, **HOW))


def text_of(circuit: Circuit | None) -> bytes:
    assert circuit is not None
    return circuit.model_dump_json().encode()


def search(adapter: Adapter, **how: Any) -> Any:
    with own_modes(gradients=True):
        return search_many(adapter, PAIRS, **{**HOW, **how})


def share(adapter: Adapter, path: Path, *shard: int) -> Circuit | None:
    with own_modes(gradients=True):
        return run_in_folder(search(adapter), path, shard=Shard(*shard))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The pieces that are computed, as they are."""
    made: list[tuple[str, int]] = []
    plain = running.computed

    def noted(search: Any, scoring: Any, stage: Any, batch: int, *rest: Any) -> bytes:
        made.append((stage, batch))
        return plain(search, scoring, stage, batch, *rest)

    monkeypatch.setattr(running, "computed", noted)
    return made


def test_wherever_it_ends_it_goes_on_and_the_circuit_is_the_same(
    toy: Adapter, whole: bytes, tmp_path: Path, computed: list[tuple[str, int]]
) -> None:
    """EndedError after each step in turn, no piece is computed twice; done, nothing is computed any more."""

    def ends_at(last: int) -> Callable[[str, int, int], object]:
        def callback(stage: str, done: int, total: int) -> None:
            assert total == PIECES
            if done >= last:
                raise EndedError

        return callback

    for last in range(1, PIECES + 1, 2):
        with pytest.raises(EndedError):
            circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, progress=ends_at(last), **HOW)
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole
    assert len(computed) == len(set(computed)) == PIECES
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole
    assert len(computed) == PIECES
    assert not list((tmp_path / "claims").iterdir())


def test_shards_do_their_share_and_no_more(
    toy: Adapter, whole: bytes, tmp_path: Path, computed: list[tuple[str, int]]
) -> None:
    found: list[Circuit | None] = []
    for _ in range(3):
        for number in range(1, 4):
            del computed[:]
            found.append(share(toy, tmp_path, number, 3))
            assert {batch % 3 for _, batch in computed} <= {number - 1}
    assert text_of(found[-1]) == whole
    assert found[0] is found[1] is None


def test_one_shard_of_one_is_all(toy: Adapter, whole: bytes, tmp_path: Path) -> None:
    assert text_of(share(toy, tmp_path, 1, 1)) == whole
    for number, of in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(RunError, match=f"There is no shard {number} of {of}"):
            Shard(number, of)


def test_a_damaged_piece_is_computed_again(
    toy: Adapter, whole: bytes, tmp_path: Path, computed: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Cut, flipped, emptied, or another piece: each is found by its checksum or by what it says that it is."""
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    run = RunFolder.open(tmp_path)
    ways: list[tuple[str, Callable[[bytes], bytes], str]] = [
        ("nodes", lambda data: data[:-1], "not whole"),
        ("nodes", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "checksum"),
        ("edges", lambda _: b"", "not whole"),
        ("edges", lambda _: run.file("edges", 2).read_bytes(), "it is batch 2 of stage 'edges'"),
        ("weighing", lambda data: data.replace(b'"batch\\":1', b'"batch\\":3'), "not whole|checksum|batch 3"),
    ]
    for stage, change, told in ways:
        del computed[:]
        caplog.clear()
        file = run.file(stage, 1)  # pyright: ignore[reportArgumentType]
        before = file.read_bytes()
        file.write_bytes(change(before))
        assert file.read_bytes() != before
        assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole
        assert computed == [(stage, 1)]
        assert caplog.messages
        assert re.search(told, caplog.text)


def test_a_piece_of_other_sums_is_computed_again(
    toy: Adapter, whole: bytes, tmp_path: Path, computed: list[tuple[str, int]]
) -> None:
    """What a later stage computed from other sums, as of a piece that was damaged and not seen to be, is not taken."""
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path / "a", **HOW)
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path / "b", max_nodes=5, **HOW)
    for name in ("edges-000000", "weighing-000001"):
        there, here = (tmp_path / folder / "pieces" / f"{name}.safetensors" for folder in "ab")
        there.write_bytes(here.read_bytes())
    del computed[:]
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path / "a", **HOW)) == whole
    assert computed == [("edges", 0), ("weighing", 1)]


class Another(TinyTransformer):
    """The same sites with other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[0][0] = self.blocks[0][0] * 1.5


def test_another_run_is_refused_with_the_difference(toy: Adapter, tmp_path: Path) -> None:
    def again(*given: Any, path: Path = tmp_path / "r", **how: Any) -> Callable[[], object]:
        return lambda: circuitlens.aggregate(*given, run_folder=path, **{**HOW, **how})

    again(toy, PAIRS)()
    again(TinyTransformer(), LETTERS, path=tmp_path / "t")()
    cases = [
        (again(toy, PAIRS, batch_size=BATCH), f"it has batch size: 2, and now it is {BATCH}"),
        (again(toy, PAIRS[:6]), "it has prompts: 7, and now it is 6"),
        (again(toy, PAIRS[::-1]), "its prompts are others, or in another order"),
        (again(toy, PAIRS, "ig"), "it has method: 'path', and now it is 'ig'"),
        (again(toy, PAIRS, max_nodes=3), "it has max nodes: 100, and now it is 3"),
        (again(Another(), LETTERS, path=tmp_path / "t"), "the activation had norm"),
        (again(toy, PAIRS, path=tmp_path), "holds 'r' and no run: give a new folder"),
    ]
    for call, told in cases:
        with pytest.raises(RunError, match=told):
            call()


def test_a_folder_of_something_else_is_left_as_it_is(toy: Adapter, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds 'notes\.txt' and no run"):
        circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_pieces_whose_record_is_gone_are_taken_for_no_other_run_s(toy: Adapter, whole: bytes, tmp_path: Path) -> None:
    """Of the first stage nothing in a piece says the method, or how large the batches were."""
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    record = (tmp_path / "run.json").read_bytes()
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match=r"holds pieces of a run and no run\.json, .*: give a new folder"):
        circuitlens.aggregate(toy, PAIRS, "ig", run_folder=tmp_path, **HOW)
    (tmp_path / "run.json").write_bytes(record)
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole


def test_no_model_is_run_while_others_wait_to_begin(
    toy: Adapter, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many shards begin together, and each waits for the folder for half a minute at most."""
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    monkeypatch.setattr(writing, "PATIENCE", 0.0)
    looked: list[str] = []

    def looks(*asked: Any) -> str:
        with writing.locked(tmp_path / "run.json", RunError):
            looked.append(difference(*asked))
        return looked[-1]

    monkeypatch.setattr(folder, "difference", looks)
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole
    assert looked == [""]


def test_a_copy_without_its_empty_folders_goes_on(toy: Adapter, whole: bytes, tmp_path: Path) -> None:
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    for name in ("claims", "failures"):
        (tmp_path / name).rmdir()
    (tmp_path / "pieces" / "edges-000001.safetensors").unlink()
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole


def test_a_function_is_no_metric_of_a_run(toy: Adapter, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this one is a function: name one"):
        circuitlens.aggregate(toy, PAIRS, metric=lambda logits: logits[:, 0], run_folder=tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_what_is_done_stays(
    toy: Adapter, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The disk is full, or the folder read-only, from the sixth piece on."""
    made, plain = [0], writing._new_part

    def part(folder: Path) -> Any:
        made[0] += folder.name == "pieces"
        if made[0] > 5:
            raise OSError(code, "said the system")
        return plain(folder)

    monkeypatch.setattr(writing, "_new_part", part)
    with pytest.raises(RunError, match=r"Can't write into .*: said the system\. What is done stays: mend it"):
        circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    monkeypatch.undo()
    run = RunFolder.open(tmp_path)
    assert len(list(run.records())) == 5
    assert not run.failures()
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole


def test_a_folder_that_can_not_be_made_is_a_sentence(toy: Adapter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Can't make the folder .* Give another"):
        circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path / "file" / "r", **HOW)


def no_memory() -> Exception:
    """What torch raises on a CPU."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    return raised.value


def test_a_batch_that_fails_is_told_and_tried_again(
    toy: Adapter, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = running.computed

    def fails(search: Any, scoring: Any, stage: Any, batch: int, *rest: Any) -> bytes:
        if stage == "nodes" and batch in (1, 3):
            raise AdapterError("The model's gradients are not finite.") if batch == 1 else no_memory()
        return plain(search, scoring, stage, batch, *rest)

    monkeypatch.setattr(running, "computed", fails)
    with pytest.raises(
        RunError, match="2 of 4 batches could not be done at stage 'nodes'; the first, batch 1: The mod"
    ):
        circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    state = state_of(RunFolder.open(tmp_path))
    assert [(f.stage, f.batch, f.reason) for f in state.failures] == [
        ("nodes", 1, "The model's gradients are not finite."),
        ("nodes", 3, "There is not enough memory for it."),
    ]
    assert [(each.stage, each.done) for each in state.stages] == [("nodes", 2), ("edges", 0), ("weighing", 0)]
    monkeypatch.undo()
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)) == whole
    state = state_of(RunFolder.open(tmp_path))
    assert (state.done, state.failures) == (True, ())


def test_prompts_that_were_changed_are_not_taken_for_the_run_s(toy: Adapter, tmp_path: Path) -> None:
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    run = RunFolder.open(tmp_path)
    assert run.pairs() == PAIRS
    file = tmp_path / "prompts.jsonl"
    file.write_text(file.read_text().replace("The", "A", 1))
    with pytest.raises(RunError, match="is not what the run was begun with"):
        run.pairs()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "it does not say 'format'"),
        ("[", "is damaged"),
        ('{"format": "circuitlens.run", "version": 2}', "has run format 2 and this circuitlens reads 1"),
        ('{"format": "circuitlens.run", "version": 1, "threads": -1}', "is damaged"),
    ],
)
def test_a_folder_that_is_no_run_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RunError, match="is no run"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CircuitLensError, match=told):
        RunFolder.open(tmp_path)


def test_a_prompt_that_can_not_be_used_is_said_before_the_folder_is_made(toy: Adapter, tmp_path: Path) -> None:
    with pytest.raises(PromptError):
        circuitlens.aggregate(toy, [], run_folder=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_killed_processes_cost_at_most_what_they_had_in_work(toy: Adapter, tmp_path: Path) -> None:
    """Two processes share a folder and are killed; in the end it is as if one had done all by itself."""
    disturbed = kill_workers(2, tmp_path, 12, at_once=2)
    assert disturbed.kills == 2
    assert 1 <= disturbed.again <= disturbed.kills
    circuitlens.aggregate(toy, toy_pairs(12), batch_size=2).save(tmp_path / "undisturbed.json")
    assert (tmp_path / "undisturbed.json").read_bytes() == disturbed.circuit


def test_a_piece_of_another_run_is_computed_again(toy: Adapter, whole: bytes, tmp_path: Path) -> None:
    """As of two shards that began one folder at one moment, without locks, with batches of their own size."""
    for name, size in (("a", 2), ("b", BATCH)):
        circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path / name, **{**HOW, "batch_size": size})
    alike = "pieces/nodes-000000.safetensors"
    (tmp_path / "a" / alike).write_bytes((tmp_path / "b" / alike).read_bytes())
    assert text_of(circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path / "a", **HOW)) == whole


def test_pieces_that_can_not_be_read_are_no_missing_ones(toy: Adapter, tmp_path: Path) -> None:
    circuitlens.aggregate(toy, PAIRS, run_folder=tmp_path, **HOW)
    (tmp_path / "pieces").rename(tmp_path / "elsewhere")
    (tmp_path / "pieces").write_text("")
    with pytest.raises(RunError, match=r"Can't read '.*pieces': Not a directory"):
        RunFolder.open(tmp_path).missing("nodes")
