"""Variants of a pair ask the same with other words: another noun, another determiner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.variants import nouns_of, other_nouns, paraphrases
from circuitlens.prompts.words import NOUNS, plural_of

CATS = Pair(
    prompt="The cats", corrupted="The cat", answer=(" are",), distractor=(" is",), case="c", roles=("det", "noun")
)


@given(count=st.integers(0, 80), seed=st.integers())
def test_other_nouns(count: int, seed: int) -> None:
    made = other_nouns(CATS, count, seed, exclude=["dog", "mice"])
    nouns = [pair.corrupted.split()[1] for pair in made if pair.corrupted]
    assert len(set(nouns)) == len(made) == min(count, len(NOUNS) - 3)
    assert {*nouns} <= {*NOUNS} - {"cat", "dog", "mouse"}
    for pair, noun in zip(made, nouns, strict=True):
        assert pair == CATS.model_copy(update={"prompt": f"The {plural_of(noun)}", "corrupted": f"The {noun}"})


@pytest.mark.parametrize(
    ("prompt", "corrupted", "expected"),
    [
        ("The woman near the cars,", "The women near the cars,", "The king near the cars, / The kings near the cars,"),
        (" These  OXEN that the king", " These  OX that the king", None),
        ("Cats near the king", "Cat near the king", None),
        ("Women that", "Woman that", "Kings that / King that"),
        ("The WOMEN", "The WOMAN", "The KINGS / The KING"),
        ("The king", "The kings", None),
        ("The cats", "The dog", None),
        ("The cats", "The  cat", None),
        ("The cats run", "The cat runs", None),
        ("The girl that run", "The girl that runs", None),
        ("The sheep", "The sheep", None),
        ("The cats", None, None),
        ("The cats", "The cat sleeps", None),
        ("", "", None),
        ("The war from 1732", "The war from 1701", None),
    ],
)
def test_only_a_noun_in_both_numbers_is_replaced(prompt: str, corrupted: str | None, expected: str | None) -> None:
    pair = Pair(prompt=prompt, corrupted=corrupted, answer=(" a",))
    made = other_nouns(pair, 9, nouns=["king", "sheep"])
    if expected is None:
        assert [one for one in made if "KING" not in one.prompt] == []
    else:
        assert [f"{one.prompt} / {one.corrupted}" for one in made] == [expected]


def test_nouns_beside_it_are_replaced_as_well() -> None:
    pair = Pair(prompt="The cats near my old dog", corrupted="The cat near my old dog", answer=(" a",))
    made = other_nouns(pair, 9)
    assert len(made) == 9
    for one in made:
        subject, attractor = one.prompt.split()[1], one.prompt.split()[5]
        assert one.prompt == f"The {subject} near my old {attractor}"
        assert one.corrupted in {f"The {noun} near my old {attractor}" for noun in NOUNS if plural_of(noun) == subject}
        assert attractor in {*NOUNS} - {"cat", "dog"}
        assert not nouns_of(one) & nouns_of(pair)


@pytest.mark.parametrize(
    ("prompt", "corrupted", "expected"),
    [
        ("The cats", "The cat", "cat"),
        ("These cats", "This cat", "cat"),
        ("My cats", None, "cat"),
        ("The CHILD near the old keys", "The CHILDREN near the old keys", "child key"),
        ("The girls that the kings like", "The girl that the kings like", "girl king"),
        ("The girl that runs", "The girl that run", ""),
        ("The cats", "The dogs", "cat dog"),
        ("The war lasted from the year 1732", "The war lasted from the year 1701", ""),
        ("Then Mary went to the store, Tom gave a ring to", "Then Mary went to the store, Bob gave a ring to", ""),
    ],
)
def test_nouns_that_a_pair_is_about(prompt: str, corrupted: str | None, expected: str) -> None:
    assert nouns_of(Pair(prompt=prompt, corrupted=corrupted, answer=(" a",))) == {*expected.split()}


def test_paraphrases() -> None:
    made = paraphrases(CATS)
    assert [pair.prompt for pair in made] == [f"{word} cats" for word in ("My", "Your", "Our", "Their", "His", "Her")]
    for pair in made:
        assert pair.corrupted == pair.prompt[:-1]
        assert pair == CATS.model_copy(update={"prompt": pair.prompt, "corrupted": pair.corrupted})
    (first, *_) = paraphrases(Pair(prompt=" my cats near the dog", answer=(" a",)))
    assert first == Pair(prompt=" the cats near the dog", answer=(" a",))


@pytest.mark.parametrize(
    ("prompt", "corrupted"),
    [
        ("Cats", None),
        ("The", None),
        ("", None),
        ("The cats", "My cats"),
        ("The cats", ""),
        ("This cat", "This dog"),
        ("When Mary", None),
    ],
)
def test_without_a_neutral_determiner_there_is_no_paraphrase(prompt: str, corrupted: str | None) -> None:
    assert paraphrases(Pair(prompt=prompt, corrupted=corrupted, answer=(" a",))) == []


@given(prompt=st.text(), corrupted=st.none() | st.text())
def test_no_pair_is_too_odd_for_variants(prompt: str, corrupted: str | None) -> None:
    try:
        pair = Pair(prompt=prompt, corrupted=corrupted, answer=(" a",))
    except ValueError:
        return
    other_nouns(pair, 2)
    paraphrases(pair)
