"""Tasks make pairs by rule: one word differs, numbers are balanced, nouns are split, sentences are right."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlens.errors import PromptError
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.tasks import (
    RELATIVE_VERBS,
    TASKS,
    AgreementKind,
    agreement,
    agreement_split,
    greater_than,
    indirect_object,
    split_nouns,
)
from circuitlens.prompts.words import EVENTS, NAMES, NOUNS, PEOPLE, plural_of

KINDS = get_args(AgreementKind)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_task = pytest.mark.parametrize("task", TASKS)


def different_words(pair: Pair) -> list[tuple[str, str]]:
    assert pair.corrupted is not None
    return [(a, b) for a, b in zip(pair.prompt.split(), pair.corrupted.split(), strict=True) if a != b]


def people_in(pairs: list[Pair]) -> set[str]:
    """The nouns of sentences, singular."""
    singular = {form: noun for noun in PEOPLE for form in (noun, plural_of(noun))}
    return {singular[word] for pair in pairs for word in pair.prompt.split() if word in singular}


# Agreement


@every_task
def test_every_task_keeps_what_tasks_promise(task: str) -> None:
    train, test = TASKS[task](40, 20, 3)
    assert (len(train), len(test)) == (40, 20)
    assert len(set(train + test)) == 60
    for pair in train + test:
        assert len(different_words(pair)) == 1
        assert len(pair.roles) == len(pair.prompt.split())
        assert pair.answer
        assert not {*pair.answer} & {*pair.distractor}
    assert TASKS[task](40, 20, 3) == (train, test)
    assert TASKS[task](40, 20, 4) != (train, test)
    assert TASKS[task](0, 0, 3) == ([], [])
    with pytest.raises(PromptError, match="is -1: give 0 or more"):
        TASKS[task](-1, 1, 0)


@every_kind
@settings(max_examples=20, deadline=None)
@given(train=st.integers(0, 60), test=st.integers(0, 60), seed=st.integers(0, 99))
def test_no_noun_is_in_both_parts(kind: AgreementKind, train: int, test: int, seed: int) -> None:
    ours, theirs = agreement_split(kind, train, test, seed)
    assert not people_in(ours) & people_in(theirs)
    assert (len(ours), len(theirs)) == (train, test)


@every_kind
def test_subjects_and_verbs_agree(kind: AgreementKind) -> None:
    """Read back from the words alone, by the roles."""
    number = {form: n for noun in PEOPLE for n, form in enumerate((noun, plural_of(noun)))}
    of_verb = {" is": 0, " are": 1, " has": 0, " have": 1, " does": 0, " do": 1, " goes": 0, " go": 1}
    for pair in agreement(kind, PEOPLE, 200, 0):
        assert pair.corrupted is not None
        words, changed = (dict(zip(pair.roles, text.split(), strict=True)) for text in (pair.prompt, pair.corrupted))
        assert of_verb[pair.answer[0]] == number[words["subject"]] == 1 - of_verb[pair.distractor[0]]
        assert number[changed["subject"]] == of_verb[pair.distractor[0]]
        names = [("singular", "plural")[number[word]] for word in pair.prompt.split() if word in number]
        assert pair.case == "_".join(names)
        if "relative verb" in words:
            assert (words["attractor"] in PEOPLE) == (words["relative verb"] in dict(RELATIVE_VERBS))


def test_agreement_by_hand() -> None:
    made = agreement("simple", ["child"], 2, 0, verbs=[("runs", "run")])
    roles = ("determiner", "subject")
    assert made == [
        Pair(
            prompt="The child",
            corrupted="The children",
            answer=("runs",),
            distractor=("run",),
            case="singular",
            roles=roles,
        ),
        Pair(
            prompt="The children",
            corrupted="The child",
            answer=("run",),
            distractor=("runs",),
            case="plural",
            roles=roles,
        ),
    ]
    assert agreement("simple", ["child"], 9, 0, verbs=[("runs", "run")]) == made
    sentences = {
        "nounpp": r"The (cat|cats|mouse|mice) (near|behind|beside) the (cat|cats|mouse|mice)",
        "within_rc": r"The (cat|cats|mouse|mice) that the (cat|cats|mouse|mice)",
        "rc": r"The (cat|cats|mouse|mice) that the ((cat|mouse) \w+s|(cats|mice) \w+[^s])",
    }
    for kind in KINDS[1:]:
        for pair in agreement(kind, ["cat", "mouse"], 100, 0):
            assert re.fullmatch(sentences[kind], pair.prompt), pair.prompt
            assert ("cat" in pair.prompt) == ("mouse" in pair.prompt or "mice" in pair.prompt)


@pytest.mark.parametrize(("kind", "sentences"), [("simple", 6), ("nounpp", 72), ("within_rc", 24), ("rc", 120)])
def test_there_are_no_more_than_there_are(kind: AgreementKind, sentences: int) -> None:
    everything = agreement(kind, ["cat", "dog", "mouse", "cat", "sheep"], 10_000, 0)
    assert len(everything) == len(set(everything)) == 4 * sentences
    first = agreement(kind, ["cat", "dog", "mouse"], sentences, 0)
    assert len({pair.prompt for pair in first}) == sentences
    assert Counter(pair.answer for pair in everything).most_common()[-1][1] == sentences / 2
    assert agreement(kind, ["sheep"], 5, 0) == agreement(kind, [], 5, 0) == []


@every_kind
@pytest.mark.parametrize("count", [3, 7, 8, 50])
def test_numbers_are_balanced(kind: AgreementKind, count: int) -> None:
    pairs = agreement(kind, PEOPLE, count, 1)
    cases = Counter(pair.case for pair in pairs)
    assert len(pairs) == count
    assert max(cases.values()) - min(cases.values()) <= 1
    plural = sum(not pair.answer[0].endswith("s") for pair in pairs)
    assert abs(2 * plural - count) <= 1


def test_agreement_says_what_it_needs() -> None:
    with pytest.raises(PromptError, match="no agreement 'across': choose one of simple, nounpp, within_rc, rc"):
        inspect.unwrap(agreement)("across", NOUNS, 1, 0)  # past the type check of test runs
    with pytest.raises(PromptError, match="'xyzzy' is not a singular noun"):
        agreement("simple", ["xyzzy"], 1, 0)


@given(nouns=st.lists(st.sampled_from(NOUNS)), share=st.floats(0, 1), seed=st.integers())
def test_split_nouns(nouns: list[str], share: float, seed: int) -> None:
    train, test = split_nouns(nouns, share, seed)
    assert sorted(train + test) == sorted(set(nouns))
    assert abs(len(test) - share * len(set(nouns))) <= 1
    if 0 < share < 1 and len(set(nouns)) > 1:
        assert train
        assert test


def test_a_share_is_a_share() -> None:
    with pytest.raises(PromptError, match="between 0 and 1"):
        split_nouns(NOUNS, 1.5, 0)


# Indirect objects and years


def test_indirect_objects() -> None:
    pairs = indirect_object(50, 0)
    assert Counter(pair.case for pair in pairs) == {"ABBA": 25, "BABA": 25}
    for pair in pairs:
        words = dict(zip(pair.roles, pair.prompt.split(), strict=True))
        assert (pair.answer, pair.distractor) == ((" " + words["IO"],), (" " + words["S1"],))
        assert words["S1"] == words["S2"] != words["IO"]
        assert words["end"] == "to"
        assert (pair.roles.index("IO") < pair.roles.index("S1")) == (pair.case == "ABBA")
        ((subject, third),) = different_words(pair)
        assert subject == words["S2"]
        assert third in {*NAMES} - {words["IO"], words["S1"]}
    assert any(
        re.fullmatch(r"When (\w+) and (\w+) went to the store, (\1|\2) gave a \w+ to", p.prompt)
        for p in indirect_object(999, 0)
    )


def test_names_are_split() -> None:
    train, test = (
        {word for pair in part for text in (pair.prompt, pair.corrupted or "") for word in re.findall(r"\w+", text)}
        & {*NAMES}
        for part in TASKS["ioi"](60, 20, 0)
    )
    assert train
    assert test
    assert not train & test


def test_three_names_are_needed() -> None:
    assert indirect_object(5, 0, ["Mary", "John"]) == []
    assert len(set(indirect_object(9999, 0, ["Mary", "John", "Tom"]))) == 7 * 8 * 8 * 6 * 2


def test_years() -> None:
    for pair in greater_than(50, 0):
        found = re.fullmatch(r"The (\w+) lasted from the year (\d\d)(\d\d) to the year (\d\d)", pair.prompt)
        assert found
        noun, century, start, again = found.groups()
        assert noun in EVENTS
        assert century == again
        assert different_words(pair) == [(century + start, century + "01")]
        assert all(year > start for year in pair.answer)
        assert all(year <= start for year in pair.distractor)
        assert [*pair.distractor, *pair.answer] == [f"{year:02}" for year in range(100)]
