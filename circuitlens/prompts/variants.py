"""Variants of a prompt pair that ask the same of a model: with other nouns, or with another determiner."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.tasks import check_count
from circuitlens.prompts.words import (
    BEFORE_A_NOUN,
    DETERMINERS,
    NOUNS,
    cased,
    forms_of,
    is_verb,
    noun_of,
    nouns_in,
    word_parts,
)


def other_nouns(
    pair: Pair, count: int, seed: int = 0, exclude: Sequence[str] = (), nouns: Sequence[str] = NOUNS
) -> list[Pair]:
    """The same pair with other nouns where its two prompts have the singular and the plural of one noun.

    The nouns that both prompts have ("near the dog") are replaced as well, as far as there are others. Empty where the
    prompts differ in anything else, or where a verb may be what differs ("The girl that runs").

    Args:
        pair: whose answer, distractor, case and roles are kept.
        count: how many at most.
        seed: of the choice.
        exclude: nouns not to take, in either number; none in the prompt is taken anyway.
        nouns: singular, to choose from.

    Raises:
        PromptError: the count is negative.
    """
    check_count(count)
    at = _number_at(pair)
    if at is None:
        return []
    ours, theirs = word_parts(pair.prompt), word_parts(pair.corrupted or "")
    plural = noun_of(ours[at].lower(), theirs[at].lower()) != ours[at].lower()
    taken = {word.lower() for word in (*ours, *theirs, *exclude)}
    forms = [forms_of(noun) for noun in dict.fromkeys(nouns)]
    pool = [form for form in forms if form[0] != form[1] and not taken & {*form}]
    beside = {
        2 * n + 1: noun != ours[2 * n + 1].lower() for n, noun in nouns_in(pair.prompt).items() if 2 * n + 1 != at
    }
    random, made = Random(seed), []
    for form in random.sample(pool, min(count, len(pool))):
        left = [each for each in pool if each != form]
        others = dict(zip(beside, random.sample(left, min(len(beside), len(left))), strict=False))
        texts = []
        for words, number in ((ours, plural), (theirs, not plural)):
            new = [*words]
            new[at] = cased(words[at], form[number])
            for place, other in others.items():
                new[place] = cased(words[place], other[beside[place]])
            texts.append("".join(new))
        made.append(pair.model_copy(update={"prompt": texts[0], "corrupted": texts[1]}))
    return made


def nouns_of(pair: Pair) -> set[str]:
    """The nouns that a pair is about, as singulars: all that it has where its two prompts differ in the number of one,
    or it has one prompt only; else those in which the two differ (the other words are the task's).
    """
    texts = [pair.prompt] if pair.corrupted is None else [pair.prompt, pair.corrupted]
    found = [{(word_parts(text)[2 * n + 1].lower(), noun) for n, noun in nouns_in(text).items()} for text in texts]
    if (at := _number_at(pair)) is not None:
        words = [word_parts(text)[at].lower() for text in texts]
        noun = noun_of(words[0], words[1])
        found = [{*each, (word, str(noun))} for each, word in zip(found, words, strict=True)]
    every = {noun for each in found for _, noun in each}
    if len(found) == 1:
        return every
    mine, theirs = ({noun for _, noun in one - other} for one, other in (found, found[::-1]))
    return every if mine & theirs else mine | theirs


def _number_at(pair: Pair) -> int | None:
    """The place in `word_parts` of the noun whose number is all that a pair's prompts differ in; None if it isn't."""
    ours, theirs = word_parts(pair.prompt), word_parts(pair.corrupted or "")
    different = [at for at in range(1, len(ours), 2) if ours[at : at + 1] != theirs[at : at + 1]]
    if len(ours) != len(theirs) or len(different) != 1 or ours[::2] != theirs[::2]:
        return None
    (at,) = different
    own = noun_of(ours[at].lower(), theirs[at].lower())
    if own is None or (is_verb(own) and (at < 3 or ours[at - 2].lower() not in BEFORE_A_NOUN)):
        return None
    return at


def paraphrases(pair: Pair) -> list[Pair]:
    """The same pair with each other determiner ("My cats") in the place of the one it starts with ("The cats").

    Empty where it starts with none of `DETERMINERS`, or the corrupted prompt with another one.
    """
    prompts = [pair.prompt] if pair.corrupted is None else [pair.prompt, pair.corrupted]
    leads = [re.match(r"(\s*)(\S+)(?=\s)", prompt) for prompt in prompts]
    found = {lead[2] if lead else "" for lead in leads}
    (word,) = found if len(found) == 1 else ("",)
    if word.lower() not in DETERMINERS:
        return []
    made = []
    for other in DETERMINERS:
        if other != word.lower():
            texts = [re.sub(r"\S+", cased(word, other), prompt, count=1) for prompt in prompts]
            made.append(pair.model_copy(update=dict(zip(("prompt", "corrupted"), texts, strict=False))))
    return made
