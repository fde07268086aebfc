"""Variants of a prompt pair that ask the same of a model: with other nouns, or with another determiner."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.tasks import check_count
from circuitlens.prompts.words import DETERMINERS, NOUNS, cased, forms_of, is_verb, noun_of

BEFORE_A_NOUN = {*DETERMINERS, "its", "this", "these", "those", "a", "an", "some", "any", "no", "every", "many"}
"""Words after which comes a noun and no verb."""


def other_nouns(
    pair: Pair, count: int, seed: int = 0, exclude: Sequence[str] = (), nouns: Sequence[str] = NOUNS
) -> list[Pair]:
    """The same pair with other nouns where its two prompts have the singular and the plural of one noun.

    Empty where they differ in anything else, or where a verb may be what differs ("The girl that runs").

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
    # Words at odd places, what is between them at even ones.
    ours, theirs = re.split(r"([\w'’-]+)", pair.prompt), re.split(r"([\w'’-]+)", pair.corrupted or "")
    different = [at for at in range(1, len(ours), 2) if ours[at : at + 1] != theirs[at : at + 1]]
    if len(ours) != len(theirs) or len(different) != 1 or ours[::2] != theirs[::2]:
        return []
    (at,) = different
    own = noun_of(ours[at].lower(), theirs[at].lower())
    if own is None or (is_verb(own) and (at < 3 or ours[at - 2].lower() not in BEFORE_A_NOUN)):
        return []
    plural = own != ours[at].lower()
    taken = {word.lower() for word in (*ours, *theirs, *exclude)}
    forms = [forms_of(noun) for noun in dict.fromkeys(nouns)]
    pool = [form for form in forms if form[0] != form[1] and not taken & {*form}]
    made = []
    for form in Random(seed).sample(pool, min(count, len(pool))):
        mine, its = (
            "".join([*words[:at], cased(words[at], form[number]), *words[at + 1 :]])
            for words, number in ((ours, plural), (theirs, not plural))
        )
        made.append(pair.model_copy(update={"prompt": mine, "corrupted": its}))
    return made


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
