"""Which prompts can be used together, and which of their positions are one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError
from circuitlens.prompts.alignment import ALL, PromptSet, align, tokenize_pairs
from circuitlens.prompts.pairs import Pair
from tests.circuits import pair
from tests.models import Spelled
from tests.tiny_transformer import TinyTransformer


def labels_of(aligned: PromptSet) -> list[list[str]]:
    """The label of every token of every prompt."""
    return [[aligned.labels[group] for group in groups] for groups in aligned.groups]


# By position


def test_positions_are_counted_from_the_first_token() -> None:
    pairs = [pair("a b c", "a b f"), pair("a d c", "a d f"), pair("a b e", "a b f")]
    aligned = align(TinyTransformer(), pairs)
    assert aligned.labels == ("a", "[1]", "[2]")  # a token that all have names its position
    assert aligned.groups == ((0, 1, 2),) * 3
    assert aligned.pairs == tuple(pairs)
    assert aligned.skipped == ()
    assert len(aligned) == 3


def test_other_lengths_are_skipped_and_told() -> None:
    pairs = [pair("a b c"), pair("a"), pair("b b c"), pair("a b c d"), pair("d b c")]
    aligned = align(TinyTransformer(), pairs)
    assert [p.prompt for p in aligned.pairs] == ["a b c", "b b c", "d b c"]
    assert aligned.labels == ("[0]", "b", "c")
    assert [(s.line, s.text) for s in aligned.skipped] == [(2, "a"), (4, "a b c d")]
    assert aligned.skipped[0].reason == "It has 1 tokens and most have 3: bring prompts together by role or sum."


def test_what_cannot_be_read_is_skipped_with_the_reason() -> None:
    pairs = [pair("a b c"), pair("a x c"), pair("a b c", "a b"), pair("a b", answer="zzz"), pair("a b e", "a b f")]
    aligned = align(TinyTransformer(), [pairs[0], *pairs[1:4]])
    assert aligned.pairs == (pairs[0],)
    reasons = {s.line: s.reason for s in aligned.skipped}
    assert "give prompts of the words" in reasons[2]
    assert "They are compared token by token" in reasons[3]
    assert "answer with one of" in reasons[4]


def test_labels_of_a_circuit_decide_what_fits() -> None:
    aligned = align(TinyTransformer(), [pair("a b c"), pair("d d d"), pair("a b")], labels=("a", "[1]"))
    assert [p.prompt for p in aligned.pairs] == ["a b"]
    assert aligned.labels == ("a", "[1]")
    assert [s.reason for s in aligned.skipped] == [
        "It has 3 tokens and the circuit has 2: bring prompts together by role or sum."
    ] * 2


# By role


def test_roles_of_words_of_several_tokens() -> None:
    pairs = [pair("ab c", roles=["noun", "verb"]), pair("a bcd", roles=["noun", "verb"])]
    aligned = align(Spelled(), pairs, "role")
    assert Spelled().inputs(["ab c"]).tokens == (("<s>", "a", "b", " c"),)
    assert aligned.labels == ("<s>", "noun", "verb")
    assert labels_of(aligned) == [["<s>", "noun", "noun", "verb"], ["<s>", "noun", "verb", "verb", "verb"]]


def test_without_a_token_before_the_prompt() -> None:
    aligned = align(Spelled(bos=False), [pair("ab c", roles=["noun", "verb"])], "role")
    assert labels_of(aligned) == [["noun", "noun", "verb"]]


def test_words_of_one_role_are_one_group() -> None:
    aligned = align(Spelled(), [pair("a b c", roles=["other", "noun", "other"])], "role")
    assert aligned.labels == ("<s>", "other", "noun")
    assert aligned.groups == ((0, 1, 2, 1),)


def test_a_token_of_nothing_but_space_goes_with_the_word_after_it() -> None:
    """A double space is a token of its own to many models, and so is the space before a word they do not know."""
    adapter = Spelled()
    assert adapter.inputs(["a b  c"]).tokens == (("<s>", "a", " b", " ", " c"),)
    aligned = align(adapter, [pair("a b  c", roles=["one", "two", "three"])], "role")
    assert labels_of(aligned) == [["<s>", "one", "two", "three", "three"]]

    last = align(adapter, [pair("a b ", roles=["one", "two"])], "role")
    assert labels_of(last) == [["<s>", "one", "two", "two"]]


def test_tokens_without_the_spaces_between_them_have_roles_too() -> None:
    """An adapter prints its tokens as it likes."""
    aligned = align(TinyTransformer(), [pair("a b c", roles=["one", "two", "two"])], "role")
    assert labels_of(aligned) == [["one", "two", "two"]]


def test_a_prompt_that_is_one_token_has_the_role_of_its_last_word(toy: Adapter) -> None:
    pairs = [
        Pair(prompt="The cats", corrupted="The cat", answer=("run",), distractor=("runs",), roles=("other", "noun")),
        Pair(prompt="The baby", corrupted="The babies", answer=("runs",), distractor=("run",), roles=("other", "noun")),
    ]
    aligned = align(toy, pairs, "role")
    assert (aligned.labels, aligned.groups) == (("noun",), ((0,), (0,)))
    assert align(toy, pairs).labels == ("[0]",)


def test_roles_of_a_real_tokenizer() -> None:
    from tests.saelens import wrapped

    adapter = wrapped("residual")
    one = Pair(prompt="The cats", answer=(" run",), roles=("the", "noun"))
    two = Pair(prompt="The qux runs", answer=(" run",), roles=("the", "noun", "verb"))
    aligned = align(adapter, [one, two], "role")
    tokens = adapter.inputs([p.prompt for p in (one, two)]).tokens
    assert adapter.bos
    assert aligned.labels == (tokens[0][0], "the", "noun", "verb")
    assert labels_of(aligned)[0] == [tokens[0][0], "the", "noun"]
    assert len(tokens[1]) > 4
    assert labels_of(aligned)[1] == [tokens[1][0], "the", *["noun"] * (len(tokens[1]) - 3), "verb"]


def test_words_without_roles_are_skipped() -> None:
    pairs = [pair("a b", roles=["one", "two"]), pair("a b"), pair("a b c")]
    aligned = align(Spelled(), pairs, "role")
    assert [s.line for s in aligned.skipped] == [2, 3]
    assert {s.reason for s in aligned.skipped} == {"Its words have no roles, one name a word."}


class Silent(TinyTransformer):
    """Tokens that do not spell the prompt."""

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        read = super().inputs(prompts)
        return Inputs(read.values, read.mask, tuple(("?",) * len(tokens) for tokens in read.tokens))


def test_tokens_that_do_not_spell_the_prompt_are_no_roles_of_it() -> None:
    with pytest.raises(PromptError, match="Its tokens do not spell it"):
        align(Silent(), [pair("a b", roles=["one", "two"])], "role")


def test_roles_that_a_circuit_does_not_know_are_skipped() -> None:
    pairs = [pair("a b", roles=["one", "two"]), pair("a b", roles=["one", "three"])]
    aligned = align(Spelled(), pairs, "role", ("<s>", "one", "two"))
    assert aligned.labels == ("<s>", "one", "two")
    assert [(s.line, s.reason) for s in aligned.skipped] == [(2, "Its roles are not those of the circuit.")]


# All positions as one


def test_sum_takes_every_prompt() -> None:
    aligned = align(TinyTransformer(), [pair("a b c"), pair("a"), pair("x")], "sum")
    assert aligned.labels == (ALL,)
    assert aligned.groups == ((0, 0, 0), (0,))
    assert [s.line for s in aligned.skipped] == [3]


# Malformed


@pytest.mark.parametrize("by", ["position", "role", "sum"])
def test_nothing_usable_is_an_error_that_says_why_of_the_first(by: str) -> None:
    pairs = [pair("x y", roles=["one", "two"]), pair("z", roles=["one"])]
    with pytest.raises(PromptError, match=r"None of the 2 prompts can be used\. The first: give prompts") as error:
        align(TinyTransformer(), pairs, by)  # type: ignore[arg-type]
    assert "['x y']" in str(error.value)
    with pytest.raises(PromptError, match=r"None of the 0 prompts can be used\. Give at least one\."):
        align(TinyTransformer(), [], by)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["position", "sum"])
def test_some_with_a_corrupted_prompt_and_some_without_are_refused(by: str) -> None:
    pairs = [pair("a b", "a c"), pair("a d")]
    with pytest.raises(PromptError, match="Some of the prompts have a corrupted prompt and some have none"):
        align(TinyTransformer(), pairs, by)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="Some of the prompts have a corrupted prompt and some have none"):
        tokenize_pairs(TinyTransformer(), pairs)
    # Not where those without one can't be used anyway.
    assert len(align(TinyTransformer(), [*pairs[:1], pair("x")], by)) == 1  # type: ignore[arg-type]


# Batches


@pytest.mark.parametrize("padding", ["left", "right"])
def test_groups_of_a_padded_batch(padding: str) -> None:
    adapter = Spelled(padding=padding)
    pairs = [pair("a", roles=["noun"]), pair("bc d", roles=["noun", "verb"])]
    aligned = align(adapter, pairs, "role")
    table = aligned.table(tokenize_pairs(adapter, pairs).clean)
    short = [0, 1]
    assert table.tolist() == [[-1, -1, *short] if padding == "left" else [*short, -1, -1], [0, 1, 1, 2]]


@given(count=st.integers(1, 20), size=st.integers(1, 25))
def test_batches_hold_every_prompt_once_and_in_order(count: int, size: int) -> None:
    words = "abcdefg"
    aligned = align(TinyTransformer(), [pair(f"{words[k % 7]} {words[k // 7]}") for k in range(count)])
    batches = list(aligned.batches(size))
    assert sum((b.pairs for b in batches), ()) == aligned.pairs
    assert sum((b.groups for b in batches), ()) == aligned.groups
    assert all(b.labels == aligned.labels and len(b) <= size for b in batches)
