"""Corpora and labels on the command line: built, shown, and put where features are named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import circuitlens
from circuitlens import corpus, registry
from circuitlens.adapter import Adapter
from circuitlens.circuit import Annotations, Circuit
from circuitlens.cli.inputs import load_once
from tests.cli.running import Here


@pytest.fixture(scope="module")
def folder(toy: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n".join(list(toy.sample() or ())[:200]) + "\nNo sentence that it reads.")
    return corpus.build(toy, text.parent / "made", [text]).folder


def test_build_says_what_was_made_and_goes_on_only_with_the_same(folder: Path, here: Here, tmp_path: Path) -> None:
    text = folder.parent / "text.txt"
    code, printed, errors = here("corpus", "build", "toy", str(text), "-o", str(tmp_path / "c"))
    assert (code, errors) == (0, "")
    told = "14 features on 200 tokens, in windows of at most 64. Parts of the texts that can't be read: 1."
    assert printed == f"{tmp_path / 'c'}: {told}\n"
    assert here("corpus", "build", "toy", str(text), "-o", str(tmp_path / "c"))[:2] == (0, printed)
    code, _, errors = here("corpus", "build", "toy", str(text), "-o", str(tmp_path / "c"), "--dtype", "float64")
    assert code == 1
    assert "holds another corpus: it was begun in float32, and now the model is in float64" in errors
    code, _, errors = here("corpus", "build", "toy", str(text), "-o", str(tmp_path / "c"), "--model", "x")
    assert (code, "the adapter 'toy' does not take it" in errors) == (2, True)
    assert here("corpus", "build", "toy", "missing.txt", "-o", str(tmp_path / "d"))[0] == 1
    assert here("corpus", "build", "nothing", "-o", str(tmp_path / "d"))[0] == 2
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("named", ["hook_sae/4", "sae/4", "L2/4", "2/4"])
def test_show_prints_a_feature(named: str, folder: Path, here: Here) -> None:
    code, printed, errors = here("corpus", "show", str(folder), named)
    assert (code, errors) == (0, "")
    feature = corpus.read(folder).feature("sae", 4)
    assert f"\nhook_sae/4\nactive at {feature.count} of 200 tokens" in printed
    for context in feature.contexts:
        assert f"⟦{context.token}⟧" in printed
    assert printed.count("█") > 40
    assert "strongest  context" in printed


def test_what_a_feature_is_called_wrongly_is_a_sentence(folder: Path, here: Here) -> None:
    for named, told in (("F5", "is no feature: write HOOK/INDEX"), ("nothing/4", "has no feature 4 at 'nothing'")):
        code, printed, errors = here("corpus", "show", str(folder), named)
        assert (code, printed) == (1, "")
        assert told in errors
    assert "has only" not in here("corpus", "show", str(folder), "sae/2")[1]  # never active
    assert here("corpus", "show", str(folder / "no"), "sae/4")[0] == 1


def test_text_from_a_corpus_does_not_steer_a_terminal(folder: Path, here: Here, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    windows = json.loads((tmp_path / "windows-00000.json").read_text())
    (tmp_path / "windows-00000.json").write_text(json.dumps([["\x1b[31m\n\u202e red"] for _ in windows]))
    code, printed, _ = here("corpus", "show", str(tmp_path), "sae/4")
    assert code == 0
    assert "⟦\\x1b[31m⏎\\u202e red⟧" in printed
    assert "\x1b" not in printed


def test_find_prints_and_keeps_what_features_stand_for(folder: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"hook_sae/4": "plural \\u001b"}')
    words = ["find", "toy", "The cats", "--answer", "run", "--distractor", "runs", "-o", str(tmp_path / "c.json")]
    code, printed, _ = here(*words, "--corpus", str(folder), "--labels", str(tmp_path / "l.json"))
    assert code == 0
    assert "meaning         H4: 'These', 'Many' (contexts)\n                F5: plural \\x1b (file)\n" in printed
    meaning = circuitlens.open(tmp_path / "c.json").meaning("sae:0:4")
    assert meaning is not None
    assert (meaning.text, meaning.source) == ("plural \x1b", "file")
    for wrong in (["--corpus", str(tmp_path)], ["--labels", str(tmp_path / "missing.json")]):
        code, printed, errors = here(*words[:-2], *wrong)
        assert (code, printed) == (1, "")
        assert "no corpus" in errors or "Can't read" in errors
    # That a corpus is another model's shows when the circuit is there already: it is kept.
    shutil.copytree(folder, tmp_path / "other")
    record = json.loads((folder / "corpus.json").read_text())
    record["fingerprint"]["sites"][0]["size"] += 1
    (tmp_path / "other" / "corpus.json").write_text(json.dumps(record))
    code, _, errors = here(*words[:-1], str(tmp_path / "kept.json"), "--corpus", str(tmp_path / "other"))
    assert code == 1
    assert "is of another model" in errors
    assert circuitlens.open(tmp_path / "kept.json").nodes


def test_label_writes_into_the_file_and_keeps_what_others_wrote(
    folder: Path, here: Here, cats: Circuit, tmp_path: Path
) -> None:
    notes = Annotations(labels={"hook_sae/4": "mine"}, notes={"sae:0:4": "looked at"})
    cats.annotated(notes).save(tmp_path / "c.json")
    code, printed, _ = here("label", str(tmp_path / "c.json"), "--corpus", str(folder))
    assert code == 0
    assert re.search(r"^F5 +L2 +mine +yours +[\d.]+$", printed, re.MULTILINE)
    assert re.search(r"^H4 +L1 +'These', 'Many' +contexts +[\d.]+$", printed, re.MULTILINE)
    opened = circuitlens.open(tmp_path / "c.json")
    assert opened.annotations == notes
    assert {meaning.source for meaning in opened.meanings} == {"contexts"}
    assert opened.content_digest == cats.content_digest
    (tmp_path / "l.csv").write_text("hook,index,label\nhook_hidden,3,many\n")
    code, printed, _ = here(
        "label", str(tmp_path / "c.json"), "--labels", str(tmp_path / "l.csv"), "--dtype", "float64"
    )
    assert code == 0  # no model is loaded for it
    meaning = circuitlens.open(tmp_path / "c.json").meaning("hidden:0:3")
    assert meaning is not None
    assert (meaning.text, meaning.source) == ("many", "file")
    code, printed, _ = here("label", str(tmp_path / "c.json"))
    assert (code, "Wrote the labels to" in printed) == (0, True)


def test_label_loads_a_model_once_for_circuits_that_follow_each_other(
    here: Here, cats: Circuit, cat: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda name, **options: (loaded.append(name), load(name, **options))[1])
    files = [tmp_path / f"{name}.json" for name in ("one", "two", "three")]
    for file, circuit in zip(files, (cats, cat, cats), strict=True):
        circuit.save(file)
    code, printed, _ = here("label", *map(str, files))
    assert (code, printed.count("Wrote the labels to"), loaded) == (0, 3, ["toy"])
    assert all(circuitlens.open(file).meanings for file in files)
    once = load_once()
    plain = once("toy", {})
    assert once("toy", {}) is plain
    assert once("toy", {"dtype": "float64"}) is not plain  # other options are another model
