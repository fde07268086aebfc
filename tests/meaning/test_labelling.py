"""A circuit's labels come from the best source there is, and never from a corpus of another model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import circuitlens
from circuitlens import corpus
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Meaning
from circuitlens.errors import CircuitError, CorpusError
from circuitlens.meaning import labelling
from tests.models import by_layout
from tests.tiny_transformer import TinyTransformer


@pytest.fixture(scope="module")
def made(toy: Adapter, tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("\n".join(list(toy.sample() or ())[:200]))
    return corpus.build(toy, folder / "made", [folder / "text.txt"])


def test_labels_come_in_their_order(
    cats: Circuit, toy: Adapter, made: corpus.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted = circuitlens.label(cats, toy)
    meaning = promoted.meaning("sae:0:4")
    assert meaning == Meaning(hook="hook_sae", index=4, text="→ 'run'", source="promoted tokens")
    assert {node.kind for node in cats.nodes if promoted.meaning(node)} == {"feature", "neuron"}
    of_contexts = circuitlens.label(cats, toy, corpus=made)
    meaning = of_contexts.meaning("sae:0:4")
    assert meaning is not None
    assert (meaning.text, meaning.source, meaning.weak) == ("'These', 'Many'", "contexts", False)
    assert circuitlens.label(promoted, toy, corpus=made).meanings == of_contexts.meanings
    assert circuitlens.label(of_contexts, toy).meanings == of_contexts.meanings
    (tmp_path / "l.csv").write_text("hook,index,label\nhook_sae,4,plural\nhook_sae,1,singular\nhook_other,1,x\n")
    of_file = circuitlens.label(cats, toy, corpus=made.folder, labels=tmp_path / "l.csv")
    assert next((m.text, m.source) for m in of_file.meanings if m.index == 4) == ("plural", "file")
    assert {m.source for m in of_file.meanings} == {"file", "contexts"}
    asked: list[int] = []

    def explanations(nodes: list[object]) -> list[Meaning]:
        asked.append(len(nodes))
        return [Meaning(hook="hook_sae", index=4, text="many", source="neuronpedia")]

    monkeypatch.setattr(labelling, "explanations", explanations)
    of_all = circuitlens.label(of_file, labels=["neuronpedia", tmp_path / "l.csv"])
    meaning = of_all.meaning("sae:0:4")
    assert meaning is not None
    assert (meaning.text, meaning.source, len(asked)) == ("many", "neuronpedia", 1)
    assert of_all.content_digest == cats.content_digest


@pytest.mark.parametrize("layout", ["residual", "components", "normalised"])
def test_every_feature_gets_a_label_of_what_there_is(layout: str, toy: Adapter, toy64: Adapter, tmp_path: Path) -> None:
    adapter = by_layout(layout, toy, toy64)
    circuit = circuitlens.find(adapter, "a b c", "d", "e", "a b f")
    assert circuitlens.label(circuit, adapter).meanings == ()  # it can't tell what a feature promotes
    (tmp_path / "t.txt").write_text("a b c\n\na b f a c d\n" * 30)
    made = corpus.build(adapter, tmp_path / "c", [tmp_path / "t.txt"], context=8)
    named = circuitlens.label(circuit, adapter, corpus=made)
    features = {(node.hook, node.index) for node in circuit.nodes if node.kind == "feature"}
    active = {(hook, i) for hook, i in features if i is not None and made.feature(hook, i).count}
    assert {(m.hook, m.index) for m in named.meanings} == active
    assert len(active) > 5


class Other(TinyTransformer):
    """The same sites with other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[0][0] = self.blocks[0][0] * 1.5


def test_a_corpus_of_another_model_is_refused(cats: Circuit, toy: Adapter, made: corpus.Corpus, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a b c d e f")
    tiny, other = TinyTransformer(), Other()
    foreign = corpus.build(other, tmp_path / "c", [tmp_path / "t.txt"], context=8)
    with pytest.raises(CorpusError, match="it is of 'tiny', and the circuit of 'toy'"):
        circuitlens.label(cats, corpus=foreign)
    circuit = circuitlens.find(tiny, "a b c", "d")
    with pytest.raises(CorpusError, match=r"is of another model: at 0\.resid the activation had norm"):
        circuitlens.label(circuit, tiny, corpus=foreign)
    with pytest.raises(CircuitError, match="The circuit was made with"):
        circuitlens.label(circuit, other, corpus=foreign)
    narrow = made.record.model_copy(update={"sites": made.record.sites[:2]})
    with pytest.raises(CorpusError, match=r"it has no feature \d at hook_sae"):
        circuitlens.label(cats, corpus=corpus.Corpus(made.folder, narrow))


def test_without_a_model_options_are_compared_and_with_it_weights(
    cats: Circuit, toy: Adapter, made: corpus.Corpus
) -> None:
    elsewhere = cats.model_copy(update={"options": {"model": "elsewhere", "dtype": "float64", "layers": "1"}})
    with pytest.raises(CorpusError, match="it was built with model None, and the circuit was found with 'elsewhere'"):
        circuitlens.label(elsewhere, corpus=made)
    assert circuitlens.label(elsewhere, toy, corpus=made).meaning("sae:0:4") is not None
    exact = cats.model_copy(update={"options": {"dtype": "float64"}})
    assert circuitlens.label(exact, corpus=made).meaning("sae:0:4") is not None


def test_labels_without_a_model_need_no_torch(cats: Circuit, made: corpus.Corpus, tmp_path: Path) -> None:
    cats.save(tmp_path / "c.json")
    code = (
        "import sys, circuitlens; c = circuitlens.label(circuitlens.open(sys.argv[1]), corpus=sys.argv[2]); "
        "print(c.meaning('sae:0:4').text); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "c.json", made.folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["'These', 'Many'", "False"]
