"""Suggested groups of features, by hand and of random circuits."""

from __future__ import annotations

from hypothesis import given

import circuitlens
from circuitlens.circuit import Annotations, Circuit, Meaning, suggest_groups
from tests.circuit.handmade import Drawn, at, built, circuit, layered, node

SIZES = {"p": 4.0, "q": 3.0, "r": 2.5, "s": 2.0, "alone": 4.5, "tiny": 0.1}
FEATURES = [
    node("a", 0, 2.0, "input"),
    node("b", 0, 1.0, "input").model_copy(update={"index": 1}),
    *(node(name, 1, size).model_copy(update={"index": index}) for index, (name, size) in enumerate(SIZES.items())),
    node("yes", 2, 2, "logit"),
    node("no", 2, 1, "logit"),
]
EDGES = {
    ("a", "p"): 3.0, ("a", "q"): 1.0,  # p and q are fed by a and feed the answer, in other sizes
    ("p", "yes"): 4.0, ("q", "yes"): 0.5,
    ("b", "r"): 1.0, ("b", "s"): 2.0,  # r and s by b
    ("r", "no"): 2.0, ("s", "no"): 1.5, ("s", "yes"): 0.1,
    ("a", "tiny"): 0.1, ("tiny", "yes"): 0.1,  # the same as p and q, too weak to be looked at
    ("a", "alone"): 2.0, ("alone", "yes"): -9.0,  # fed as p and q are, and does the opposite
}  # fmt: skip


def members(of: Circuit) -> list[tuple[str, ...]]:
    return [group.nodes for group in suggest_groups(of)]


def test_groups_by_hand() -> None:
    """The two pairs that are fed alike and feed alike, those that matter most first; the fifth is like neither."""
    found = suggest_groups(circuit(FEATURES, EDGES))
    assert [group.nodes for group in found] == [("p", "q"), ("r", "s")]
    assert [group.name for group in found] == ["p and 1 more", "r and 1 more"]


def test_a_meaning_that_is_shared_brings_together_what_edges_alone_do_not() -> None:
    """Fed by different inputs (cosine 0), and feeding alike (1)."""
    edges = {("a", "p"): 1.0, ("b", "q"): 1.0, ("p", "yes"): 1.0, ("q", "yes"): 1.0}
    apart = circuit([n for n in FEATURES if n.id in {"a", "b", "p", "q", "yes", "no"}], edges)
    assert members(apart) == []  # in-edges 0, out-edges 1: 0.5 on the mean
    told = {index: Meaning(hook="hook1", index=index, text="plural nouns", source="file") for index in (0, 1)}
    assert members(apart.with_meanings(told.values())) == [("p", "q")]  # half of what is missing: 0.75
    (group,) = suggest_groups(apart.with_meanings(told.values()))
    assert group.name == "plural nouns"
    told[1] = told[1].model_copy(update={"text": "singular nouns"})  # one word of three in common: 0.58
    assert members(apart.with_meanings(told.values())) == []


def test_one_feature_at_two_positions_is_one_neighbour() -> None:
    """Two positions of one feature feed two of another, which feed the answer and its distractor: one metric."""
    one, other = node("one", 0), at(1, node("other", 0))
    first, second = node("first", 1), at(1, node("second", 1))
    logits = [at(1, node("yes", 2, kind="logit")), at(1, node("no", 2, kind="logit"))]
    made = circuit(
        [one, other, first, second, *logits],
        {("one", "first"): 1.0, ("other", "second"): 1.0, ("first", "yes"): 1.0, ("second", "no"): 3.0},
        tokens=("x", "y"),
    )
    assert {frozenset(group) for group in members(made)} == {
        frozenset({"one", "other"}),
        frozenset({"first", "second"}),
    }


def test_what_has_no_edges_is_like_nothing() -> None:
    assert members(circuit(FEATURES, {})) == []
    assert members(circuit([node("yes", 0, kind="logit")], {})) == []
    assert members(circuit([node("p", 0), node("yes", 1, kind="logit")], {("p", "yes"): 1.0})) == []


def test_huge_and_tiny_weights_are_compared(cats: Circuit) -> None:
    for factor in (1e-300, 1e90):
        assert members(circuit(FEATURES, {ends: weight * factor for ends, weight in EDGES.items()})) == [
            ("p", "q"), ("r", "s"),
        ]  # fmt: skip


@given(layered())
def test_groups_are_apart_of_two_or_more_and_the_same_again(drawn: Drawn) -> None:
    made = built(drawn)
    found = suggest_groups(made)
    names = [name for group in found for name in group.nodes]
    assert len(set(names)) == len(names)
    assert all(len(group.nodes) >= 2 for group in found)
    assert not {n.id for n in made.nodes if n.is_logit} & set(names)
    assert suggest_groups(built(drawn)) == found
    assert made.annotated(Annotations(groups=found)).annotations is not None  # a file can keep them
    shuffled = built((drawn[0], dict(reversed(drawn[1].items()))))
    assert suggest_groups(shuffled) == found  # the order of edges is no matter


def test_the_toys_groups_are_measured(cats: Circuit) -> None:
    toy = circuitlens.load("toy")
    for group in circuitlens.suggest_groups(cats):
        done = circuitlens.ablate(toy, cats, group.nodes)
        assert {n.id for n in done.nodes} == set(group.nodes)
