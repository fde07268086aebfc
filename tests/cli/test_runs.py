"""`find --run`, `merge` and `runs` on the command line: what they print, write and exit with."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import circuitlens
from circuitlens.prompts.pairs import write_pairs
from tests.circuits import toy_pairs
from tests.cli.running import Here

SBATCH = """
echo "$*" >> asked
while [[ $1 != *.sbatch ]]; do
  [[ $1 != --array=1-* ]] || count=${1##*-}
  shift
done
for number in $(seq "$count"); do
  SLURM_ARRAY_TASK_ID=$number SLURM_ARRAY_TASK_COUNT=$count bash "$@" >&2
done
echo 7
"""
"""Runs an array here, one job after the other."""
FIND = ("find", "toy", "--prompts", "p.jsonl", "--run", "r", "--batch-size", "2")


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs("p.jsonl", toy_pairs(5))


def test_shards_and_merge_give_what_one_call_gives(here: Here) -> None:
    code, printed, _ = here("find", "toy", "--prompts", "p.jsonl", "--batch-size", "2", "-o", "whole.json")
    assert code == 0, printed
    told = "Shard 1/2 has done its part. 1 of 3 batches of stage 'nodes' are missing (1): run their shards, or"
    assert told in here(*FIND, "--shard", "1/2")[1]
    code, _, errors = here("merge", "r")
    assert (code, errors[:29]) == (1, "Error: 1 of 3 batches of stag")
    assert not Path("m.json").exists()
    for shard in ("2/2", "1/2", "2/2", "1/2"):
        assert here(*FIND, "--shard", shard, "-o", f"{shard[0]}.json")[0] == 0
    code, printed, _ = here("merge", "r", "-o", "merged.json")
    assert code == 0
    assert "Wrote merged.json" in printed
    whole = Path("whole.json").read_bytes()
    assert Path("merged.json").read_bytes() == whole
    # What was computed elsewhere is joined here, and not added to.
    record = Path("r") / "run.json"
    record.write_text(record.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    assert here("merge", "r", "-o", "merged.json")[0] == 0
    assert Path("merged.json").read_bytes() == whole
    code, _, errors = here(*FIND)
    assert code == 1
    assert "it has device: 'cuda', and now it is 'cpu'" in errors
    # Each shard that finds all pieces has the circuit: the last one of a stage goes on to the next.
    assert any(Path(f"{n}.json").exists() and Path(f"{n}.json").read_bytes() == whole for n in (1, 2))


def test_runs_says_how_far_it_is(here: Here) -> None:
    here(*FIND, "--shard", "1/2")
    code, printed, _ = here("runs", "r")
    assert code == 0
    assert "5 prompts in 3 batches of 2, method path" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert rows["nodes"][1:6] == ["2", "of", "3", "0", "1"]
    assert float(rows["nodes"][6]) > 0
    assert rows["edges"][1:] == ["0", "of", "3", "0", "0", "–", "–"]
    (Path("r") / "failures" / "nodes-000001.json").write_text(
        json.dumps({"stage": "nodes", "batch": 1, "reason": "It \x1b[31m is not finite."})
    )
    printed = here("runs", "r")[1]
    assert "is not finite." in printed
    assert "\x1b" not in printed
    assert here(*FIND)[0] == 0
    printed = here("runs", "r")[1]
    assert "All is done: `circuitlens merge r -o FILE` writes the circuit." in printed
    assert "not finite" not in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("find", "toy", "The cat", "--answer", "runs", "--run", "r"), "Invalid value for --run: it is for --prompts."),
        (("find", "toy", "--prompts", "p.jsonl", "--shard", "1/2"), "Invalid value for --shard: it is for --run."),
        ((*FIND, "--shard", "3/2"), "'3/2' is none: write its number and how many there are, such as 3/16."),
        ((*FIND, "--batch-size", "0"), "Invalid value for '--batch-size'"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(here: Here, words: tuple[str, ...], told: str) -> None:
    code, _, errors = here(*words)
    assert code == 2
    assert told in " ".join(errors.split())
    assert not Path("r").exists()


def test_a_model_without_a_chat_template_says_so(here: Here) -> None:
    for words in (("The cat", "--answer", "runs"), ("--prompts", "p.jsonl")):
        code, _, errors = here("find", "toy", *words, "--chat")
        assert code == 1
        assert "Error: The model of adapter 'toy' has no chat template" in errors


def test_what_is_no_run_or_another_is_a_sentence(here: Here) -> None:
    assert here("runs", "none")[0] == here("merge", "none")[0] == 1
    assert here(*FIND)[0] == 0
    code, _, errors = here(*FIND, "--method", "ig")
    assert code == 1
    assert errors.startswith("Error: 'r' holds another run: it has method: 'path', and now it is 'ig'.")
    (Path("r") / "pieces" / "edges-000001.safetensors").write_bytes(b"x")
    code, _, errors = here("merge", "r", "-o", "m.json")
    assert code == 1
    assert "A piece of 'r' is damaged, or has only just been written: start the run again" in errors
    assert "computed again" not in errors
    assert not Path("m.json").exists()
    code, printed, _ = here(*FIND, "--shard", "1/2")  # the second's piece it is
    assert code == 0
    assert "Shard 1/2 has done its part. A piece of 'r' is damaged" in printed


def test_evidence_is_kept_in_the_run_too(here: Here) -> None:
    assert here(*FIND, "-o", "c.json")[0] == 0
    few = ("--draws", "3", "--prompts", "4")
    here("verify", "c.json", *few, "-o", "plain.json")
    code, printed, _ = here("verify", "c.json", *few, "--run", "r", "-o", "first.json")
    assert code == 0, printed
    assert list((Path("r") / "evidence").iterdir())
    assert circuitlens.open("plain.json").evidence == circuitlens.open("first.json").evidence


def test_the_job_script_for_slurm_runs_each_shard_once_a_stage(tmp_path: Path) -> None:
    """With a `sbatch` that runs an array here, and a `circuitlens` that notes how it was called."""
    (tmp_path / "bin").mkdir()
    stubs = {"sbatch": SBATCH, "circuitlens": 'echo "$*" >> called'}
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    submit = Path(__file__).parents[2] / "examples" / "slurm" / "submit.sh"
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = ("toy", "--prompts", "p.jsonl", "--run", "a folder")
    subprocess.run([submit, *words], env={**os.environ, "PATH": path, "SHARDS": "2"}, check=True, capture_output=True)
    asked = Path("asked").read_text().splitlines()
    assert ["--dependency=afterok:7" in line for line in asked] == [False, True, True]
    called = Path("called").read_text().splitlines()
    assert called == [f"find toy --prompts p.jsonl --run a folder --shard {n}/2" for n in (1, 2)] * 3


def test_time_and_memory_are_told_first_where_it_takes_a_while(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitlens.cli.runs.FEW_SECONDS", 1e9)
    code, _, errors = here("find", "toy", "--prompts", "p.jsonl", "--batch-size", "2")
    assert (code, "prompts in" in errors) == (0, False), "a few seconds are not worth it"
    monkeypatch.setattr("circuitlens.cli.runs.FEW_SECONDS", 0.0)
    told = r"5 prompts in 3 batches of 2, 3 stages: about \d+ s and [\d.]+ [MG]B of memory here .measured on one prompt"
    for more in ((), ("--run", "r")):
        code, _, errors = here("find", "toy", "--prompts", "p.jsonl", "--batch-size", "2", *more)
        assert code == 0
        assert re.search(told, errors), errors


def test_a_run_keeps_the_batch_size_that_it_was_begun_with(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by what was free then: another process, with more, takes it from the folder."""
    monkeypatch.setattr("circuitlens.pipeline.estimate.Estimate.largest_batch", lambda _: 2)
    ask = ("find", "toy", "--prompts", "p.jsonl", "--run", "r")
    assert here(*ask, "--shard", "1/2")[0] == 0
    assert json.loads(Path("r/run.json").read_text())["batch_size"] == 2
    monkeypatch.setattr("circuitlens.pipeline.estimate.Estimate.largest_batch", lambda _: 4)
    assert here(*ask, "-o", "a.json")[0] == 0
    assert here("find", "toy", "--prompts", "p.jsonl", "--batch-size", "2", "-o", "b.json")[0] == 0
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
    code, _, errors = here(*ask, "--batch-size", "4")
    assert code == 1
    assert "it has batch size: 2, and now it is 4" in errors


def test_a_run_that_another_process_began_meanwhile_is_taken_as_it_is(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards begin together and choose batch sizes by the memory that each sees: the second takes the first's."""
    here_is = Path.cwd()

    def begun_meanwhile(search: Any, given: int | None, folder: Path | None) -> Any:
        monkeypatch.undo()
        monkeypatch.chdir(here_is)
        assert here(*FIND, "--shard", "1/2")[0] == 0
        return search

    monkeypatch.setattr("circuitlens.cli.find.with_batch_size", begun_meanwhile)
    code, printed, errors = here(*FIND[:-2], "--shard", "2/2")
    assert code == 0, errors
    assert "Shard 2/2 has done its part." in printed
