"""English words that prompts are made of, and their forms: nouns, names and determiners, plurals from a lexicon.

The lexicon (`lemminflect`) takes half a second to load, so it is imported on first use.
"""

from __future__ import annotations

import re

from circuitlens.errors import PromptError


def words(text: str) -> tuple[str, ...]:
    """The words of a text: many of them in a few lines."""
    return tuple(text.split())


NOUNS = words(
    "cat dog bird horse boy girl child man woman baby lady king queen teacher doctor farmer nurse student painter "
    "writer singer dancer driver sailor soldier pilot lawyer judge player runner mouse goose wolf fox bear lion "
    "tiger rabbit monkey pony puppy kitten cow pig duck chicken turkey spider ant bee fly butterfly witch boss "
    "princess actress waitress hero thief wife uncle aunt cousin neighbour friend visitor"
)
"""Nouns of the toy; their order is part of its training."""

PEOPLE = words(
    "athlete author boy girl kid man woman child father mother doctor singer teacher victim architect chef driver "
    "executive guard minister parent manager pilot actor artist lawyer customer farmer officer student king queen "
    "friend brother sister son daughter lady player writer reader worker soldier judge priest prisoner guest visitor "
    "senator leader director editor engineer expert agent boss coach critic dancer detective journalist model "
    "musician nurse owner professor scientist tourist voter winner poet photographer reporter runner scholar surgeon "
    "therapist trader"
)
"""Nouns that GPT-2 and SmolLM2 read, after a space, as one token in both numbers: pairs of them are equally long."""
NAMES = words(
    "Mary John Tom James Dan Martin Amy Paul Sarah Kate Mark Anna Alice Bob David Michael Peter Laura Jack Robert "
    "William Richard Thomas Daniel Matthew Andrew Steven Kevin Brian George Edward Ryan Jason Eric Adam Scott Jessica "
    "Jennifer Lisa Susan Emily Rachel Maria Jane Kelly Elizabeth Victoria Sam Ben Alex Luke Simon Henry Charlie Frank "
    "Max Chris Joe Michelle"
)
"""First names that GPT-2 and SmolLM2 read, after a space, as one token."""
EVENTS = words(
    "war siege trial campaign expedition voyage journey pilgrimage tour trip study plague epidemic dynasty reign "
    "marriage friendship relationship dispute conspiracy invasion insurgency investigation negotiation operation "
    "project program quest treaty contract agreement construction collaboration competition confrontation "
    "consultation custody decline expansion imprisonment captivity outbreak overhaul partnership pursuit raid "
    "rebellion revolution rivalry tradition"
)
"""Nouns of what lasts for years, most of them from Hanna et al. 2023."""

DETERMINERS = ("the", "my", "your", "our", "their", "his", "her")
"""Determiners that go with either number and stand in for one another."""
RELATIVE = {"that", "who", "what"}
"""What the lexicon has among its nouns, and no sentence has there."""
BEFORE_A_NOUN = {*DETERMINERS, "its", "this", "these", "those", "a", "an", "some", "any", "no", "every", "many"}
"""Words after which comes a noun and no verb."""


def plural_of(noun: str) -> str:
    """The plural of a singular noun ("children")."""
    from lemminflect import getAllInflections

    return getAllInflections(noun, upos="NOUN")["NNS"][0]


def forms_of(noun: str) -> tuple[str, str]:
    """The singular and the plural of a singular noun.

    Raises:
        PromptError: it is not in the lexicon.
    """
    try:
        return noun, plural_of(noun)
    except KeyError:
        raise PromptError(f"{noun!r} is not a singular noun of the lexicon: give another one.") from None


def noun_of(one: str, other: str) -> str | None:
    """The singular of the noun that two words are the singular and the plural of, None if they are not."""
    from lemminflect import getAllInflections

    for singular, plural in ((one, other), (other, one)):
        if singular != plural and plural in getAllInflections(singular, upos="NOUN").get("NNS", ()):
            return singular
    return None


def nouns_in(text: str) -> dict[int, str]:
    """The nouns of a text by the number of their word (`word_parts`), each as its singular.

    A word that may be something else is a noun after a determiner ("the run", "my old play"), and no noun elsewhere.
    """
    from lemminflect import getAllLemmas

    found: dict[int, str] = {}
    parts, led = word_parts(text)[1::2], False
    kinds = [getAllLemmas(word.lower()) for word in parts]
    for number, (word, kind) in enumerate(zip(parts, kinds, strict=True)):
        determiner = word.lower() in BEFORE_A_NOUN
        describes = "ADJ" in kind and number + 1 < len(parts) and "NOUN" in kinds[number + 1]
        sure = led or (kind.keys() == {"NOUN"} and not (number and word.istitle()))  # "Tom" is a name
        if "NOUN" in kind and sure and not determiner and not describes:
            found[number] = kind["NOUN"][0]
        led = determiner or (led and describes)
    return {number: noun for number, noun in found.items() if noun not in RELATIVE}


def word_parts(text: str) -> list[str]:
    """A text in parts: words at odd places, what is between them at even ones."""
    return re.split(r"([\w'’-]+)", text)


def is_verb(word: str) -> bool:
    """Whether a word may be a form of a verb."""
    from lemminflect import getAllLemmas

    return bool(getAllLemmas(word, upos="VERB"))


def cased(like: str, word: str) -> str:
    """`word` with the capitals of `like`."""
    if like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
