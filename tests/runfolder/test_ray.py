"""Workers of Ray give the circuit of this process to the last bit, whatever dies; what can't be is a sentence."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.cli import main
from circuitlens.discovery import search_many
from circuitlens.errors import AdapterError, RunError
from circuitlens.pipeline import Search
from circuitlens.pipeline.stages import Known
from circuitlens.prompts.pairs import write_pairs
from circuitlens.runfolder import RunFolder, RunRecord, ray_engine, ray_pool, ray_worker, run_in_folder
from circuitlens.runfolder.pieces import digest_of_inputs, from_bytes, known_to_bytes
from circuitlens.runfolder.ray_engine import RayEngine
from circuitlens.runfolder.ray_worker import Task, Worker
from tests.circuits import PAIRS as LETTERS
from tests.circuits import toy_pairs
from tests.ray_kills import worker_processes
from tests.tiny_transformer import TinyTransformer

PAIRS = toy_pairs(14)


@pytest.fixture(scope="module")
def search(toy: Adapter) -> Search:
    return search_many(toy, PAIRS, batch_size=2)


@pytest.fixture(scope="module")
def whole(toy: Adapter) -> str:
    return circuitlens.aggregate(toy, PAIRS, batch_size=2).model_dump_json()


@pytest.fixture(scope="module")
def engine(search: Search) -> Iterator[RayEngine]:
    """Two workers in a cluster of this machine, which has room for a third."""
    if find_spec("ray") is None:  # to import it here would be too early
        pytest.skip("ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 3)
        with RayEngine(search, {}, workers=2) as started:
            yield started
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray kills its processes and does not wait for them
        gc.collect()


def task_of(search: Search, **options: Any) -> Task:
    record, pairs = RunRecord.of(search), search.prompts.pairs
    return Task(record.model_dump_json(), tuple(pair.model_dump_json() for pair in pairs), options, str(Path.cwd()))


def text_of(circuit: Circuit | None) -> str:
    assert circuit is not None
    return circuit.model_dump_json()


def test_two_workers_give_the_circuit_of_this_process(
    engine: RayEngine, search: Search, whole: str, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    circuit = run_in_folder(
        search, tmp_path, engine=engine, callback=lambda _, done, total: steps.append((done, total))
    )
    assert text_of(circuit) == whole
    assert [done for done, _ in steps if done][-1] == steps[0][1] == 21
    workers = {record.worker for record in RunFolder.open(tmp_path).records()}
    assert 1 <= len(workers) <= 2
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)


def test_who_is_on_the_network_or_another_user_reaches_no_cluster_of_ours(engine: RayEngine) -> None:
    """All ports are the loopback's, and who has no secret is refused."""
    listening = [
        connection.laddr.ip
        for each in psutil.Process().children(recursive=True)
        for connection in each.net_connections()
        if connection.status == "LISTEN"
    ]
    assert len(listening) >= 4
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_command_line_joins_a_cluster_by_its_address(
    engine: RayEngine, search: Search, whole: str, tmp_path: Path
) -> None:
    run_in_folder(search, tmp_path / "first", engine=engine)  # which starts the cluster, where no test has before
    assert engine._pool is not None
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    words = ["--prompts", "pairs.jsonl", "--batch-size", "2", "--run", "run", "-o", "circuit.json"]
    words += ["--engine", "ray", "--workers", "1", "--ray-address", engine._pool._head]
    done = subprocess.run(
        [sys.executable, "-m", "circuitlens", "find", "toy", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert re.fullmatch(r"(14 prompts in 7 batches of 2, .*\n)?", done.stderr)  # told where it takes a while
    assert "ray" not in done.stdout.lower()
    assert text_of(circuitlens.open(tmp_path / "circuit.json")) == whole
    assert len({record.worker for record in RunFolder.open(tmp_path / "run").records()}) == 1


def test_a_batch_whose_worker_dies_goes_to_another(
    engine: RayEngine, search: Search, whole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []

    def kill(stage: str, done: int, total: int) -> None:
        if done == 3 and not killed:
            worker = worker_processes()[0]
            killed.append(worker.pid)
            worker.kill()

    assert text_of(run_in_folder(search, tmp_path, engine=engine, callback=kill)) == whole
    assert len(killed) == 1
    assert len([each for each in caplog.records if "is computed again" in each.message]) <= 1


def test_a_lost_head_is_a_sentence_and_what_is_done_stays(
    engine: RayEngine, search: Search, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the module's cluster: who comes after it has another one."""
    monkeypatch.setattr(ray_pool, "PERIOD", 0.1)
    done_at: list[int] = []
    stopped: list[psutil.Process] = []

    def kill(stage: str, done: int, total: int) -> None:
        done_at.append(done)
        if done == 3:
            (head,) = [p for p in psutil.Process().children(recursive=True) if "gcs_server" in p.cmdline()[0]]
            head.kill()
            for worker in worker_processes():  # which would be done before anyone misses the head
                worker.suspend()
                stopped.append(worker)

    try:
        with pytest.raises(RunError, match=r"^Ray's head at 127\.0\.0\.1:\d+ is gone\. What is done stays"):
            run_in_folder(search, tmp_path, engine=engine, callback=kill)
    finally:
        for worker in stopped:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
    assert len(list(RunFolder.open(tmp_path).records())) == done_at[-1] >= 3
    assert text_of(run_in_folder(search, tmp_path)) == whole


# Without a cluster


class OddPool(ray_pool.Pool):
    """One worker in this process, of whose pieces so many are lost, by batch, and one is damaged."""

    def __init__(self, task: Task, *how: object):
        self._worker, self._given = Worker(), list[Any]()
        self._lost, self._damaged = {2: 4, 5: 5}, [3]
        assert self._worker.load(task) == ""

    def close(self) -> None:
        pass

    def send(self, data: bytes) -> bytes:
        return data

    @property
    def has_free(self) -> bool:
        return not self._given

    def give(self, stage: str, batch: int, known: Any) -> None:
        self._given.append((stage, batch, known))

    def finished(self) -> Iterator[tuple[int, bytes | str | ray_pool.Lost]]:
        while self._given:
            stage, batch, known = self._given.pop()
            data = self._worker.compute(stage, batch, known)
            if stage == "nodes" and self._lost.get(batch):
                self._lost[batch] -= 1
                yield batch, ray_pool.Lost("Out of memory.")
            elif batch in self._damaged:
                self._damaged.remove(batch)
                assert isinstance(data, bytes)
                yield batch, data[:-1] + bytes([data[-1] ^ 1])
            else:
                yield batch, data


def test_what_is_lost_or_damaged_is_computed_again_four_times_and_then_a_failure(
    search: Search, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_engine, "Pool", OddPool)
    monkeypatch.setattr(ray_engine, "import_ray", lambda *, alone: None)
    engine, told = RayEngine(search, {}), "It was lost with 5 workers of Ray, the last time as follows. Out of memory."
    with pytest.raises(RunError, match=rf"^1 of 7 batches .* the first, batch 5: {re.escape(told)}"):
        run_in_folder(search, tmp_path, engine=engine)
    run = RunFolder.open(tmp_path)
    assert [(failure.batch, failure.reason) for failure in run.failures()] == [(5, told)]
    assert run.missing("nodes") == [5]
    assert run.claimed() == []
    again = [each.message for each in caplog.records if "is computed again" in each.message]
    assert [sum(f"Batch {batch} of" in each for each in again) for batch in range(7)] == [0, 0, 4, 1, 0, 4, 0]
    assert text_of(run_in_folder(search, tmp_path, engine=engine)) == whole
    assert run.failures() == []


def test_a_worker_computes_the_pieces_of_its_run_only(search: Search) -> None:
    worker, known = Worker(), Known()
    assert worker.load(task_of(search)) == ""
    data = worker.compute("nodes", 3, known_to_bytes(known))
    assert isinstance(data, bytes)
    assert from_bytes(data, "nodes", 3, digest_of_inputs(RunRecord.of(search), known))[1].prompts == 2
    assert "something else: its model is in float32, and now it is in" in Worker().load(
        task_of(search, dtype="float64")
    )
    assert re.match("on .*: The toy has not the option 'layers'", Worker().load(task_of(search, layers=3)))


def test_what_the_model_can_not_compute_is_a_reason_and_no_error(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    assert worker.load(task_of(search)) == ""
    cases = (
        (AdapterError("Not finite."), "Not finite."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    )
    for fault, told in cases:

        def fail(*what: object, fault: Exception = fault) -> bytes:
            raise fault

        monkeypatch.setattr(ray_worker, "computed", fail)
        assert told in str(worker.compute("nodes", 0, known_to_bytes(Known())))


def test_what_no_worker_can_load_is_refused(search: Search) -> None:
    tiny = TinyTransformer(layout="residual")
    other = search_many(tiny, LETTERS, batch_size=1)
    with pytest.raises(RunError, match=r"can't be: it was made with circuitlens\.wrap, or is not installed"):
        RayEngine(other, {})


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "Nothing answers at 127.0.0.1:1"),
        ("127.0.0.1:99999", "Nothing answers at 127.0.0.1:99999"),
        ("nowhere.invalid:6379", "Nothing answers at nowhere"),
        ("ray://127.0.0.1:10001", "is no address of a Ray head"),
        ("auto", "is no address of a Ray head"),
    ],
)
def test_an_address_where_nothing_answers_is_a_sentence(search: Search, address: str, told: str) -> None:
    with pytest.raises(RunError, match=told):
        RayEngine(search, {}, address=address)


def test_without_ray_the_sentence_says_how_to_install_it(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"Ray is not installed: pip install 'circuitlens-sae\[ray\]'"):
        RayEngine(search, {})


@pytest.mark.parametrize(
    ("cores", "gpus", "each", "told", "room"),
    [
        ([2], [0], (1, 0), "1 cores", 2),
        ([8, 4], [0, 0], (4, 0), "4 cores", 3),
        ([3], [0], (2, 0), "2 cores", 1),
        ([8, 8], [2, 4], (1, 1), "a GPU", 6),
        ([8], [0], (1, 1), "a GPU", 0),
    ],
)
def test_by_default_a_worker_has_a_gpu_or_its_threads_cores(
    cores: list[int], gpus: list[int], each: tuple[int, int], told: str, room: int
) -> None:
    nodes: list[Any] = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in zip(cores, gpus, strict=True)]
    nodes.append({"Alive": False, "Resources": {"CPU": 64, "GPU": 64}})
    if room:
        assert ray_pool._how_many(nodes, *each, None) == room
        assert ray_pool._how_many(nodes, *each, 1) == 1
    with pytest.raises(RunError, match=f"room for {room} workers with {told} each, and there should be {room + 1}"):
        ray_pool._how_many(nodes, *each, room + 1)


def test_flags_of_ray_without_ray_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    find = ["find", "toy", "--prompts", str(tmp_path / "pairs.jsonl")]
    for words, told in (
        (["--engine", "ray"], "it is for --run"),
        (["--run", "x", "--workers", "2"], "it is for --engine ray"),
        (["--run", "x", "--ray-address", "h:1"], "it is for --engine ray"),
    ):
        monkeypatch.setattr(sys, "argv", ["circuitlens", *find, *words])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert told in " ".join(capsys.readouterr().err.split())
