"""Evidence goes on where it was: what sub-circuits gave is read from the run's folder and not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.errors import RunError
from circuitlens.evaluation.faithfulness import AblationRuns

FEW: dict[str, Any] = {"draws": 4, "prompts": 4}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many variants each run of sub-circuits has, as they are run."""
    made: list[int] = []
    plain = AblationRuns._run_now

    def noted(self: AblationRuns, batch: Any, keep: Any, others: bool) -> Any:
        made.append(len(keep))
        return plain(self, batch, keep, others)

    monkeypatch.setattr(AblationRuns, "_run_now", noted)
    return made


class EndedError(Exception):
    """Ends a verification from its progress."""


def test_what_was_measured_is_not_measured_again(
    toy: Adapter, cats: Circuit, tmp_path: Path, runs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    plain = circuitlens.verify(toy, cats, **FEW).evidence
    whole, done = len(runs), [0]
    assert whole > 5

    def ends(stage: str, steps: int, total: int) -> None:
        done[0] += 1
        if done[0] == 14:
            raise EndedError

    del runs[:]
    with pytest.raises(EndedError):
        circuitlens.verify(toy, cats, run_folder=tmp_path, progress=ends, **FEW)
    before = len(runs)
    assert 0 < before < whole
    assert circuitlens.verify(toy, cats, run_folder=tmp_path, **FEW).evidence == plain
    assert len(runs) == whole
    assert circuitlens.verify(toy, cats, run_folder=tmp_path, **FEW).evidence == plain
    assert len(runs) == whole
    damaged = sorted((tmp_path / "evidence").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert circuitlens.verify(toy, cats, run_folder=tmp_path, **FEW).evidence == plain
    assert len(runs) == whole + 1
    assert "is damaged (it is not whole) and is measured again" in caplog.text


def test_another_question_is_measured(
    toy: Adapter, cats: Circuit, cat: Circuit, tmp_path: Path, runs: list[int]
) -> None:
    circuitlens.verify(toy, cats, run_folder=tmp_path, **FEW)
    first = len(runs)
    questions: list[tuple[Circuit, dict[str, Any]]] = [(cats, {"ablation": "mean"}), (cat, {})]
    for circuit, how in questions:
        plain = circuitlens.verify(toy, circuit, **FEW, **how).evidence
        alone = len(runs) - first
        assert circuitlens.verify(toy, circuit, run_folder=tmp_path, **FEW, **how).evidence == plain
        assert len(runs) - first == 2 * alone > 0
        first = len(runs)


def test_what_has_no_fingerprint_can_not_be_kept(toy: Adapter, cats: Circuit, tmp_path: Path) -> None:
    old = cats.model_copy(update={"fingerprint": None})
    with pytest.raises(RunError, match="find the circuit again"):
        circuitlens.verify(toy, old, run_folder=tmp_path, **FEW)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Can't make the folder"):
        circuitlens.verify(toy, cats, run_folder=tmp_path / "file", **FEW)
