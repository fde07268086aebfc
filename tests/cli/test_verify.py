"""The command line of evidence and of many prompts: what it prints, writes and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import circuitlens
from circuitlens.circuit import Annotations, Circuit
from circuitlens.cli.app import app
from circuitlens.errors import CircuitLensError
from circuitlens.prompts.pairs import read_pairs

CATS = ("find", "toy", "The cats", "--answer", "run", "--distractor", "runs", "--corrupted", "The cat")
WRONG = ("find", "toy", "The cats", "--answer", "runs", "--distractor", "run", "--corrupted", "The cat")
FEW = ("--draws", "3", "--prompts", "4")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_find_verifies_what_it_found(there: Path) -> None:
    done = run(*CATS, "--verify", "-o", "c.json", "--require", "supported")
    assert done.exit_code == 0, done.output
    assert "\nVerdict: supported\n" in done.output
    for name in ("intact", "task", "faithfulness", "random", "held out", "found on (1)", "other nouns (32)"):
        assert f"\n{name}" in done.output
    evidence = circuitlens.open("c.json").evidence
    assert evidence is not None
    assert evidence.verdict == "supported"


def test_the_exit_code_is_0_whatever_the_verdict_unless_one_is_required(there: Path) -> None:
    assert run(*WRONG, "-o", "c.json").exit_code == 0
    assert circuitlens.open("c.json").evidence is None
    for words, code in (((), 0), (("--require", "weak"), 3), (("--require", "supported"), 3)):
        done = run("verify", "c.json", *FEW, *words)
        assert done.exit_code == code, done.output
        assert "Verdict: not supported\n  the model fails the task" in done.output
    evidence = circuitlens.open("c.json").evidence
    assert evidence is not None
    assert evidence.verdict == "not supported"


def test_verify_writes_elsewhere_if_asked_and_plots(there: Path) -> None:
    run(*CATS, "-o", "c.json")
    before = Path("c.json").read_bytes()
    done = run("verify", "c.json", *FEW, "-o", "d.json", "--plot", "p.html")
    assert done.exit_code == 0, done.output
    assert Path("c.json").read_bytes() == before
    assert circuitlens.open("d.json").evidence is not None
    assert {path.name for path in there.iterdir()} == {"c.json", "d.json", "p.html", "p-effects.html"}


def test_an_edited_file_is_not_supported(there: Path) -> None:
    run(*CATS, "-o", "c.json")
    document = json.loads(Path("c.json").read_text())
    document["nodes"][3]["attribution"] += 1
    Path("c.json").write_text(json.dumps(document))
    done = run("verify", "c.json", *FEW, "--require", "weak")
    assert done.exit_code == 3
    assert "the file was edited after it was written" in done.output


@pytest.mark.parametrize(
    ("threshold", "verdict"),
    [("faithfulness=0.8", "supported"), ("necessity=1.5:2", "weak"), ("features=1.5:2", "not supported")],
)
def test_thresholds_decide(there: Path, threshold: str, verdict: str) -> None:
    run(*CATS, "-o", "c.json")
    assert f"Verdict: {verdict}\n" in run("verify", "c.json", "--threshold", threshold).output


@pytest.mark.parametrize("threshold", ["charm=1", "faithfulness", "faithfulness=x", "faithfulness=nan", "random=1:2:3"])
def test_a_threshold_that_is_none_is_a_usage_error(there: Path, threshold: str) -> None:
    run(*CATS, "-o", "c.json")
    done = run("verify", "c.json", "--threshold", threshold)
    assert done.exit_code == 2
    assert "CHECK=WEAK:PASSES" in done.output


def test_a_file_of_prompts_from_making_it_to_its_verdict(there: Path) -> None:
    made = run("prompts", "agreement-toy", "-o", "a.jsonl", "--held-out", "b.jsonl", "--count", "12")
    assert made.exit_code == 0, made.output
    ours, theirs = (
        {word for pair in read_pairs(f"{name}.jsonl")[0] for word in pair.prompt.split()} for name in ("a", "b")
    )
    assert ours & theirs == {"The"}
    done = run("find", "toy", "--prompts", "a.jsonl", "--verify", "--held-out", "b.jsonl", "-o", "c.json")
    assert done.exit_code == 0, done.output
    assert "12 prompts such as" in done.output
    assert "held out (12)" in done.output
    assert "Verdict: supported" in done.output
    assert len(circuitlens.open("c.json").pairs) == 12


def test_rows_that_cannot_be_used_are_counted_and_listed(there: Path) -> None:
    rows = [
        {"prompt": "The cats", "corrupted": "The cat", "answer": "run", "distractor": "runs"},
        {"prompt": "The cats", "corrupted": "The cat", "answer": "jump", "distractor": "runs"},
        {"clean_prefix": "The dog", "patch_prefix": "The dogs", "clean_answer": "runs", "patch_answer": "run"},
        {"prompt": "The cats"},
    ]
    Path("p.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    done = run("find", "toy", "--prompts", "p.jsonl", "-o", "c.json")
    assert done.exit_code == 0, done.output
    assert "p.jsonl: 1 of 4 rows can't be used and are skipped:\n  row 4" in done.stderr
    assert (
        "p.jsonl: 1 of 3 prompts can't be used and are skipped:\n  prompt 2, 'The cats': The toy can't" in done.stderr
    )
    assert len(circuitlens.open("c.json").pairs) == 2


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"prompt": "The cats"}'])
def test_a_file_without_a_prompt_is_one_sentence(there: Path, text: str) -> None:
    Path("p.jsonl").write_text(text)
    done = run("find", "toy", "--prompts", "p.jsonl", "-o", "c.json")
    assert isinstance(done.exception, CircuitLensError)  # main() prints it and exits with 1
    assert "\n" not in str(done.exception)
    assert not Path("c.json").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("find", "toy"), "give a prompt"),
        (("find", "toy", "The cats", "--prompts", "p.jsonl"), "give a prompt"),
        (("find", "toy", "--prompts", "p.jsonl", "--answer", "run"), "the file has these itself"),
        (("find", "toy", "--prompts", "p.jsonl", "--heads"), "it is for one prompt"),
        ((*CATS, "--require", "supported"), "it is for --verify"),
        ((*CATS, "--by", "sum"), "it is for --prompts"),
        ((*CATS, "--held-out", "b.jsonl"), "it is for --verify"),
        (("prompts", "chess", "-o", "p.jsonl"), "there is no 'chess'"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(there: Path, words: tuple[str, ...], why: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert why in done.output


def test_a_circuit_of_a_wrapped_model_is_verified_from_python(there: Path) -> None:
    run(*CATS, "-o", "c.json")
    circuitlens.open("c.json").model_copy(update={"adapter": "mine"}).save("c.json")
    done = run("verify", "c.json")
    assert isinstance(done.exception, CircuitLensError)
    assert "circuitlens.verify(adapter, circuit)" in str(done.exception)


def test_a_digest_taken_out_is_an_edit(there: Path) -> None:
    run(*CATS, "-o", "c.json")
    document = json.loads(Path("c.json").read_text())
    del document["digest"]
    Path("c.json").write_text(json.dumps(document))
    assert circuitlens.open("c.json").edited


def test_held_out_prompts_that_the_model_fails_are_no_evidence(there: Path) -> None:
    run(*CATS, "-o", "c.json")
    rows = [{"prompt": "The dogs", "corrupted": "The dog", "answer": "runs", "distractor": "run"}]
    Path("b.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    done = run("verify", "c.json", "--held-out", "b.jsonl", *FEW)
    assert "Verdict: not supported\n  the model fails the task on 1 prompt (held out): 0% right" in done.output


def test_what_is_written_while_it_is_measured_stays(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*CATS, "-o", "c.json")
    real = circuitlens.verify
    notes = Annotations(notes={circuitlens.open("c.json").nodes[0].id: "mine"})

    def slow(*values: Any, **more: Any) -> Circuit:
        circuitlens.open("c.json").annotated(notes).save("c.json")
        return real(*values, **more)

    monkeypatch.setattr(circuitlens, "verify", slow)
    assert run("verify", "c.json", *FEW).exit_code == 0
    assert circuitlens.open("c.json").annotations == notes
    assert circuitlens.open("c.json").evidence is not None


def test_evidence_is_not_written_into_another_circuit(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*CATS, "-o", "c.json")
    run(*WRONG, "-o", "d.json")
    other = Path("d.json").read_bytes()
    real = circuitlens.verify

    def slow(*values: Any, **more: Any) -> Circuit:
        Path("c.json").write_bytes(other)
        return real(*values, **more)

    monkeypatch.setattr(circuitlens, "verify", slow)
    done = run("verify", "c.json", *FEW)
    assert "holds another circuit by now, and was left as it is. The evidence above was not written" in str(
        done.exception
    )
    assert Path("c.json").read_bytes() == other


def test_two_processes_verify_one_file_at_once(there: Path) -> None:
    run(*CATS, "-o", "c.json")
    words = [sys.executable, "-m", "circuitlens", "verify", "c.json", *FEW]
    started = [subprocess.Popen([*words, "--seed", seed], stdout=subprocess.DEVNULL) for seed in ("1", "2")]
    assert [process.wait(120) for process in started] == [0, 0]
    circuit = circuitlens.open("c.json")
    assert circuit.evidence is not None
    assert circuit.evidence.seed in (1, 2)
    assert not circuit.edited
    assert [path.name for path in there.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "words",
    [
        ("find", "toy", "--prompts", "p.jsonl", "-o", "./p.jsonl"),
        ("find", "toy", "--prompts", "p.jsonl", "--verify", "--held-out", "p.jsonl"),
        ("verify", "p.jsonl", "--held-out", "p.jsonl"),
        ("prompts", "agreement-toy", "-o", "p.jsonl", "--held-out", "p.jsonl"),
    ],
)
def test_one_file_in_two_places_is_a_usage_error(there: Path, words: tuple[str, ...]) -> None:
    Path("p.jsonl").write_text("{}")
    done = run(*words)
    assert done.exit_code == 2
    assert "is there twice: give two files" in " ".join(done.output.split())
    assert Path("p.jsonl").read_text() == "{}"
