"""What a page works on: circuits and their files, models, and work in the background."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import circuitlens
from circuitlens import corpus
from circuitlens.adapter import Adapter
from circuitlens.circuit import Annotations, Circuit, Group
from circuitlens.errors import AdapterError, CircuitError, ViewerError
from circuitlens.progress import ProgressCallback
from circuitlens.viewer.jobs import Job
from circuitlens.viewer.session import Session


@pytest.fixture
def session(toy: Adapter, cats: Circuit) -> Iterator[Session]:
    made = Session([cats], adapters=[toy])
    yield made
    made.close()


def ended(session: Session, job: Job) -> Job:
    """The job when it is over."""
    waiting = threading.Event()
    for _ in range(3000):
        now = session.jobs.get(job.id)
        assert now is not None
        if now.state not in ("waiting", "running"):
            return now
        waiting.wait(0.02)
    raise AssertionError(f"the job does not end: {session.jobs.get(job.id)}")


NOTES = Annotations(pins=("sae:0:4",), groups=(Group(name="g", nodes=("hidden:0:3",)),), notes={"sae:0:4": "mine"})


def test_a_circuit_is_saved_to_its_own_file_only(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    session = Session([circuitlens.open(path), cats], [path, None])
    assert session.save(0, NOTES) == path
    again = circuitlens.open(path)
    assert again.annotations == NOTES == session.circuit(0).annotations
    assert not again.edited
    with pytest.raises(ViewerError, match="not opened from a file: export it"):
        session.save(1, NOTES)
    with pytest.raises(CircuitError, match="'nothing', which is no node"):
        session.save(0, Annotations(pins=("nothing",)))
    assert circuitlens.open(path).annotations == NOTES
    assert sorted(tmp_path.iterdir()) == [path]


def test_an_unknown_number_is_refused(session: Session) -> None:
    for number in (-1, 1):
        with pytest.raises(ViewerError, match=f"no circuit {number}: 1 are open"):
            session.circuit(number)


def test_a_circuit_is_found_in_the_background(session: Session, cat: Circuit) -> None:
    job = ended(session, session.find("toy", "The cat", "runs", "run", "", ""))
    assert (job.state, job.result) == ("done", 1)
    assert session.circuit(1).nodes == cat.nodes
    assert session.path(1) is None


def test_what_goes_wrong_is_told_as_a_sentence(session: Session) -> None:
    job = ended(session, session.find("toy", "The blorgs", "runs"))
    assert job.state == "failed"
    assert job.message.startswith("'The blorgs': 'blorgs' is not a noun")
    job = ended(session, session.find("nothing", "The cat", "runs"))
    assert "no adapter named 'nothing'" in job.message

    def broken(_: ProgressCallback) -> None:
        raise ZeroDivisionError("oh")

    job = ended(session, session.jobs.start("broken", broken))
    assert job.message == "It failed in a way that was not foreseen (ZeroDivisionError: oh)."
    assert ended(session, session.load(0)).state == "done"


def test_evidence_is_measured_and_annotations_stay(session: Session) -> None:
    job = session.verify(0)
    session.circuits[0] = session.circuits[0].annotated(NOTES)
    assert ended(session, job).state == "done"
    circuit = session.circuit(0)
    assert circuit.evidence is not None
    assert circuit.evidence.digest == circuit.content_digest
    assert circuit.annotations == NOTES


def blocked(session: Session) -> tuple[Job, threading.Event, Callable[[], None]]:
    """A job that reports its progress when it is let go."""
    begun, go = threading.Event(), threading.Event()

    def work(progress: ProgressCallback) -> None:
        begun.set()
        assert go.wait(30)
        progress("on", 1, 2)

    job = session.jobs.start("blocked", work)
    assert begun.wait(30)
    return job, go, go.set


def test_work_is_cancelled_at_once_or_after_its_stage(session: Session) -> None:
    running, _, let_go = blocked(session)
    waiting = session.load(0)
    session.jobs.cancel(waiting.id)
    assert ended(session, waiting).state == "cancelled"
    session.jobs.cancel(running.id)
    now = session.jobs.get(running.id)
    assert now is not None
    assert (now.state, now.stage) == ("running", "cancelling")
    let_go()
    assert ended(session, running).state == "cancelled"
    assert ended(session, session.load(0)).state == "done"  # the worker goes on


def test_a_process_does_not_end_later_for_work_that_goes_on() -> None:
    """Also after a page was closed, what can't be cancelled (a download) is left; what is begun then is no work."""
    code = """
import threading, time
from circuitlens.viewer.jobs import Jobs
jobs, begun = Jobs(), threading.Event()
jobs.start("endless", lambda progress: (begun.set(), time.sleep(600))[0])
assert begun.wait(60)
jobs.close()
late = jobs.start("late", lambda progress: None)
jobs.cancel(late.id)
print([job.state for job in jobs.all()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "['running', 'cancelled']"


def test_a_question_is_answered_between_the_runs_of_a_job(session: Session) -> None:
    before = session.intervene(0, {"sae:0:4": 0.0})
    job = session.verify(0)
    answers = [session.intervene(0, {"sae:0:4": 0.0}) for _ in range(20)]
    assert all(answer == before for answer in answers)
    assert ended(session, job).state == "done"


def test_a_model_is_loaded_when_it_is_wanted(cats: Circuit) -> None:
    session = Session([cats, cats.model_copy(update={"adapter": "elsewhere"})])
    assert session.can_load(0)
    assert not session.is_loaded(0)
    assert not session.can_load(1)
    with pytest.raises(ViewerError, match=r"\(toy\) is not loaded: load it first"):
        session.describe(0, "sae:0:4")
    job = ended(session, session.load(1))
    assert (job.state, "no adapter named 'elsewhere'" in job.message) == ("failed", True)
    assert ended(session, session.load(0)).state == "done"
    assert session.describe(0, "sae:0:4").promoted[0][0] == "run"
    assert {name for name, _ in session.examples()} == {"toy"}
    assert session.is_loaded(1)  # the weights are the same, whatever the file calls them
    session.close()


def test_evidence_that_was_written_meanwhile_stays(cats: Circuit, toy: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    session = Session([circuitlens.open(path)], [path])
    measured = circuitlens.verify(toy, cats, draws=1, top=1, prompts=1)
    measured.save(path)
    session.save(0, NOTES)
    again = circuitlens.open(path)
    assert again.evidence == measured.evidence == session.circuit(0).evidence
    assert again.annotations == NOTES


def test_annotations_of_another_page_are_not_written_over(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    one, two = (Session([circuitlens.open(path)], [path]) for _ in range(2))
    one.save(0, NOTES)
    with pytest.raises(ViewerError, match=r"Other annotations were written into cats\.json meanwhile: nothing was"):
        two.save(0, Annotations(pins=("hidden:0:3",)))
    assert circuitlens.open(path).annotations == NOTES == two.circuit(0).annotations
    two.save(0, Annotations(pins=("hidden:0:3",)))  # after they were shown
    # Of two tabs of one page, the second began with what the file no longer has.
    with pytest.raises(ViewerError, match="meanwhile"):
        two.save(0, NOTES, seen=Annotations())
    assert circuitlens.open(path).annotations == Annotations(pins=("hidden:0:3",))


def test_another_circuit_at_the_path_is_left_alone(cats: Circuit, cat: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    session = Session([circuitlens.open(path)], [path])
    cat.save(path)
    with pytest.raises(CircuitError, match="holds another circuit by now, and was left as it is"):
        session.save(0, NOTES)
    assert circuitlens.open(path) == cat
    path.unlink()
    session.save(0, NOTES)
    assert circuitlens.open(path).annotations == NOTES


def test_what_a_file_says_of_folders_is_not_done(cats: Circuit, tmp_path: Path) -> None:
    folder = tmp_path / "victim"
    named = cats.model_copy(update={"options": {"cache": str(folder)}})
    session = Session([named.model_copy(update={"fingerprint": None}), named])
    for begin in (session.load, session.verify):
        job = ended(session, begin(0))
        assert job.state == "failed"
        assert f"was found with cache {str(folder)!r}, and a file does not choose what is loaded" in job.message
    assert ended(session, session.load(1)).state == "done"  # its fingerprint says that a person's own toy is the same
    assert not folder.exists()
    session.close()


def test_a_model_that_is_another_is_said_so_and_not_kept(cats: Circuit) -> None:
    """Each press would keep one more model in memory; and the sentence says what differs."""
    assert cats.fingerprint is not None
    site = cats.fingerprint.sites[-1]
    other = cats.fingerprint.model_copy(
        update={"sites": (*cats.fingerprint.sites[:-1], site.model_copy(update={"size": 2 * site.size + 1}))}
    )
    session = Session([cats.model_copy(update={"fingerprint": other})])
    for _ in range(2):
        job = ended(session, session.load(0))
        assert (job.state, "made with other weights than this adapter's: at hook_sae" in job.message) == (
            "failed",
            True,
        )
    assert session.examples() == []
    session.close()


def test_a_state_that_passes_is_not_remembered(cats: Circuit, toy: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session([cats], adapters=[toy])

    def refuse(*_: object) -> None:
        raise AdapterError("The model is in training mode.")

    with monkeypatch.context() as patch:
        patch.setattr(toy, "run", refuse)
        assert not session.is_loaded(0)
        assert session.trouble(0) == "The model is in training mode."  # and not that it has to be loaded
    assert session.is_loaded(0)
    assert session.trouble(0) == ""
    session.close()


def test_what_the_terminal_warns_of_stands_with_the_job() -> None:
    """An answer that is a token with a space and without: without it, it continues the prompt's last word."""
    from tests.saelens import wrapped

    session = Session([], adapters=[wrapped("residual")])
    told = "The answer 'run' continues the prompt's last word; a new word is ' run'."
    job = ended(session, session.find("gpt2", "The cats", "run", "runs"))
    assert (job.state, job.warnings[0], job.is_listed) == ("done", told, True)
    session.jobs.dismiss(job.id)
    job = ended(session, job)
    assert not job.is_listed
    job = ended(session, session.find("gpt2", "The cats", " run", " runs"))
    assert (job.state, job.warnings, job.is_listed) == ("done", (), False)
    session.close()
    assert logging.getLogger("circuitlens_saelens").handlers == []


def test_a_corpus_shows_contexts_and_names_the_features_of_new_circuits(
    toy: Adapter, cats: Circuit, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("\n".join(list(toy.sample() or ())[:80]))
    made = corpus.build(toy, tmp_path / "c", [tmp_path / "t.txt"])
    cats.save(tmp_path / "cats.json")
    named, foreign = circuitlens.label(cats, corpus=made), cats.model_copy(update={"adapter": "elsewhere"})
    session = Session([named, foreign], [tmp_path / "cats.json", None], [toy], made)
    assert session.contexts(0, "sae:0:4") == made.feature("sae", 4)
    assert session.contexts(0, "logits:0:1") is session.contexts(1, "sae:0:4") is None
    assert Session([cats]).contexts(0, "sae:0:4") is None
    session.save(0, Annotations(notes={"sae:0:4": "x"}))
    assert circuitlens.open(tmp_path / "cats.json").meanings == named.meanings != ()
    job = ended(session, session.find("toy", "The dogs", "run"))
    assert job.result is not None
    meaning = session.circuit(job.result).meaning("sae:0:4")
    assert meaning == named.meaning("sae:0:4")
    session.close()
