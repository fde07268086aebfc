"""Sentences of the toy, and the featuriser that turns one into two numbers: singular and plural evidence.

A sentence is a determiner and a noun, and may go on with a verb: "The cat", "These babies run". Its evidence is

- 1 for the number of the noun (1/2 each where its form is both: "sheep"), as the lexicon of `lemminflect` has it;
- 1/2 more where the determiner marks a number ("this", "these").

The verb is what the model has to choose, so it is checked but never counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from lemminflect import getAllInflections, getAllLemmas

from circuitlens.errors import PromptError
from circuitlens.prompts.words import is_verb, plural_of, words

VERBS = words("run walk sing dance sleep eat jump swim laugh cry read write play work smile wait fly rest watch go")
SINGULAR = words("a an this that each every another")
PLURAL = words("these those many few several both all")
NEUTRAL = words("the my your his her its our their some any no which")

ACCEPTED = (
    "The toy reads a determiner, a noun and, if you like, a verb, such as 'The cat', 'These babies' or "
    "'The children run'."
)


@dataclass(frozen=True)
class Sentence:
    """A training sentence: what the model reads, and whether its verb is plural."""

    text: str
    plural: bool


def evidence(sentence: str) -> tuple[float, float]:
    """Singular and plural evidence of a sentence, each 0 to 1.5.

    Raises:
        PromptError: it is not a determiner, a noun and at most a verb, all known.
    """
    found = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\S", sentence.lower())
    if found and found[-1] in {".", "!", "?"}:
        found.pop()
    if not 2 <= len(found) <= 3:
        raise PromptError(f"{sentence!r} is no sentence of two or three words. {ACCEPTED}")
    determiner, noun, *verb = found
    if determiner not in (*SINGULAR, *PLURAL, *NEUTRAL):
        raise PromptError(f"{sentence!r}: {determiner!r} is not a determiner (the, a, these, my, …). {ACCEPTED}")
    singular, plural = noun_number(noun)
    if not (singular or plural):
        raise PromptError(f"{sentence!r}: {noun!r} is not a noun the lexicon knows. {ACCEPTED}")
    if verb and not is_verb(verb[0]):
        raise PromptError(f"{sentence!r}: {verb[0]!r} is not a verb the lexicon knows. {ACCEPTED}")
    return singular + 0.5 * (determiner in SINGULAR), plural + 0.5 * (determiner in PLURAL)


@cache
def noun_number(noun: str) -> tuple[float, float]:
    """(1, 0) for a singular noun, (0, 1) for a plural one, (0.5, 0.5) for both, (0, 0) for no noun."""
    lemmas = getAllLemmas(noun, upos="NOUN").get("NOUN", ())
    forms = [getAllInflections(lemma, upos="NOUN") for lemma in lemmas]
    singular = any(noun in form.get("NN", ()) for form in forms)
    # Only a lemma's first plural makes a singular form plural as well: "walrus" is listed as a rare plural of itself.
    plural = any(noun in form.get("NNS", ())[: 1 if singular else None] for form in forms)
    both = singular + plural
    return (singular / both, plural / both) if both else (0.0, 0.0)


def sentences(nouns: list[str]) -> list[Sentence]:
    """Every noun with every verb in both numbers, the determiners taken in turn."""
    determiners = {False: ["the", "a", "this", "my"], True: ["the", "these", "my", "the", "many"]}
    made = []
    for noun in nouns:
        for verb in VERBS:
            for plural in (False, True):
                choices = determiners[plural]
                determiner = choices[len(made) // 2 % len(choices)]
                subject = plural_of(noun) if plural else noun
                if determiner == "a" and subject[0] in "aeiou":
                    determiner = "an"
                form = verb if plural else getAllInflections(verb, upos="VERB")["VBZ"][0]
                made.append(Sentence(f"{determiner} {subject} {form}".capitalize(), plural))
    return made
