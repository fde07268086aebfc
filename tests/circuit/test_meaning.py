"""Meanings: one of each feature, of the best source, whatever the position; the reader's own goes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import circuitlens
from circuitlens.circuit import Annotations, Circuit, Meaning
from circuitlens.circuit.comparison import compare
from circuitlens.circuit.meaning import ORDER
from circuitlens.errors import CircuitError
from circuitlens.literals import MeaningSource


def said(text: str, source: MeaningSource = "contexts", index: int = 4) -> Meaning:
    return Meaning(hook="hook_sae", index=index, text=text, source=source)


def test_a_meaning_is_that_of_the_feature_and_is_kept_in_the_file(cats: Circuit, tmp_path: Path) -> None:
    named = cats.with_meanings([said("several"), said("of no node here", index=7_000)])
    named.save(tmp_path / "c.json")
    again = circuitlens.open(tmp_path / "c.json")
    assert again == named
    assert not again.edited
    assert again.content_digest == cats.content_digest
    meaning = again.meaning("sae:0:4")
    assert meaning == again.meaning(again.node("sae:0:4")) == said("several")
    assert again.meanings == (said("several"),)
    assert again.meaning("logits:0:1") is None
    assert again.to_networkx().nodes["sae:0:4"]["meaning"] == "several"
    with pytest.raises(CircuitError, match="no node 'nothing'"):
        again.meaning("nothing")


@pytest.mark.parametrize("worse", ORDER[2:])
def test_the_source_that_comes_first_is_shown(cats: Circuit, worse: MeaningSource) -> None:
    better = ORDER[ORDER.index(worse) - 1]
    for order in ([said("a", better), said("b", worse)], [said("b", worse), said("a", better)]):
        assert [m.text for m in cats.with_meanings(order).meanings] == ["a"]
    named = cats.with_meanings([said("old", worse)])
    assert named.meaning("sae:0:4") == said("old", worse)  # read once before it is changed
    assert named.with_meanings([said("new", worse)]).meaning("sae:0:4") == said("new", worse)
    own = named.annotated(Annotations(labels={"hook_sae/4": "mine", "logits:0:1": "the answer"}))
    assert own.meaning("sae:0:4") == said("mine", "yours")
    answer = own.meaning("logits:0:1")
    assert answer is not None
    assert (answer.text, answer.source, answer.weak) == ("the answer", "yours", False)


def test_a_smaller_circuit_keeps_the_meanings_of_its_features(cats: Circuit) -> None:
    features = [node for node in cats.nodes if node.kind == "feature"]
    named = cats.with_meanings([said(str(node.index), index=node.index or 0) for node in features])
    small = named.prune(max_nodes=1)
    left = {node.index for node in small.nodes if node.kind == "feature"}
    assert {meaning.index for meaning in small.meanings} == left
    assert len(left) < len(features)


def test_a_comparison_says_the_meanings_of_both(cat: Circuit, cats: Circuit) -> None:
    compared = compare(cats.with_meanings([said("first")]), cats.with_meanings([said("second")]))
    node = next(node for node in compared.difference.nodes if node.id == "sae:0:4")
    assert (compared.difference.meaning(node), compared.second.meaning(node)) == (said("first"), said("second"))
    apart = compare(cat, cats.with_meanings([said("of the second alone")])).difference
    assert [meaning.text for meaning in apart.meanings] == ["of the second alone"]


def test_one_feature_has_one_meaning(cats: Circuit) -> None:
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    with pytest.raises(ValidationError, match="one feature has two meanings"):
        Circuit(**{**fields, "meanings": (said("a"), said("b"))})
    for text in ("", "x" * 201):
        with pytest.raises(ValidationError):
            said(text)
