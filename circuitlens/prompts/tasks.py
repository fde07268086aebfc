"""Prompt pairs made to order: agreement, indirect objects, greater-than, and variants of a pair; no torch and no model.

Every task is split into training and test pairs by noun (or name): no noun of one is in the other, so that what is
found on the first and holds on the second is not about the nouns. Each corrupted prompt differs in one word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from random import Random
from typing import Literal, get_args

from circuitlens.errors import PromptError
from circuitlens.prompts.pairs import Pair

AgreementKind = Literal["simple", "nounpp", "within_rc", "rc"]
Split = tuple[list[Pair], list[Pair]]
"""Training and test pairs."""


def _words(text: str) -> tuple[str, ...]:
    """Many words in a few lines."""
    return tuple(text.split())


NOUNS = [
    "cat",
    "dog",
    "bird",
    "horse",
    "boy",
    "girl",
    "child",
    "man",
    "woman",
    "baby",
    "lady",
    "king",
    "queen",
    "teacher",
    "doctor",
    "farmer",
    "nurse",
    "student",
    "painter",
    "writer",
    "singer",
    "dancer",
    "driver",
    "sailor",
    "soldier",
    "pilot",
    "lawyer",
    "judge",
    "player",
    "runner",
    "mouse",
    "goose",
    "wolf",
    "fox",
    "bear",
    "lion",
    "tiger",
    "rabbit",
    "monkey",
    "pony",
    "puppy",
    "kitten",
    "cow",
    "pig",
    "duck",
    "chicken",
    "turkey",
    "spider",
    "ant",
    "bee",
    "fly",
    "butterfly",
    "witch",
    "boss",
    "princess",
    "actress",
    "waitress",
    "hero",
    "thief",
    "wife",
    "uncle",
    "aunt",
    "cousin",
    "neighbour",
    "friend",
    "visitor",
]
"""Nouns of the toy; their order is part of its training."""

PEOPLE = _words(
    "athlete author boy girl kid man woman child father mother doctor singer teacher victim architect chef driver "
    "executive guard minister parent manager pilot actor artist lawyer customer farmer officer student king queen "
    "friend brother sister son daughter lady player writer reader worker soldier judge priest prisoner guest visitor "
    "senator leader director editor engineer expert agent boss coach critic dancer detective journalist model "
    "musician nurse owner professor scientist tourist voter winner poet photographer reporter runner scholar surgeon "
    "therapist trader"
)
"""Nouns that GPT-2 and SmolLM2 read, after a space, as one token in both numbers: pairs of them are equally long."""
NAMES = _words(
    "Mary John Tom James Dan Martin Amy Paul Sarah Kate Mark Anna Alice Bob David Michael Peter Laura Jack Robert "
    "William Richard Thomas Daniel Matthew Andrew Steven Kevin Brian George Edward Ryan Jason Eric Adam Scott Jessica "
    "Jennifer Lisa Susan Emily Rachel Maria Jane Kelly Elizabeth Victoria Sam Ben Alex Luke Simon Henry Charlie Frank "
    "Max Chris Joe Michelle"
)
"""First names that GPT-2 and SmolLM2 read, after a space, as one token."""
EVENTS = _words(
    "war siege trial campaign expedition voyage journey pilgrimage tour trip study plague epidemic dynasty reign "
    "marriage friendship relationship dispute conspiracy invasion insurgency investigation negotiation operation "
    "project program quest treaty contract agreement construction collaboration competition confrontation "
    "consultation custody decline expansion imprisonment captivity outbreak overhaul partnership pursuit raid "
    "rebellion revolution rivalry tradition"
)
"""Nouns of what lasts for years, most of them from Hanna et al. 2023."""

VERBS = ((" is", " are"), (" has", " have"), (" does", " do"), (" goes", " go"))
"""What a subject may go on with, singular and plural, as in the data of Marks et al. 2024."""
PREPOSITIONS = ("near", "behind", "beside")
RELATIVE_VERBS = (("likes", "like"), ("helps", "help"), ("knows", "know"), ("loves", "love"), ("sees", "see"))
AGREEMENT_ROLES = {
    "simple": ("determiner", "subject"),
    "nounpp": ("determiner", "subject", "preposition", "determiner2", "attractor"),
    "within_rc": ("determiner", "attractor", "relativiser", "determiner2", "subject"),
    "rc": ("determiner", "subject", "relativiser", "determiner2", "attractor", "relative verb"),
}
"""The words of each kind of agreement: the subject decides the number, the attractor must not."""

PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
THINGS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack")
TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "Then, {first} and {second} went to the {place}. {giver} gave a {thing} to",
    "After {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "Then, {first} and {second} had a lot of fun at the {place}. {giver} gave a {thing} to",
    "Then, {first} and {second} were working at the {place}. {giver} decided to give a {thing} to",
    "While {first} and {second} were working at the {place}, {giver} gave a {thing} to",
    "When {first} and {second} got a {thing} at the {place}, {giver} decided to give it to",
)
"""Of Wang et al. 2023; the indirect object and the subject come first in either order."""

CENTURIES = ("12", "14", "16", "17")
WHOLE_YEARS = frozenset({"1280", "1440"})
"""Years of those centuries that GPT-2 reads as one token; the others are the century and two digits, a token each."""
YEAR_ROLES = (
    *("determiner", "noun", "verb", "from", "determiner2", "year", "start"),
    *("to", "determiner3", "year2", "century"),
)

DETERMINERS = ("the", "my", "your", "our", "their", "his", "her")
"""Determiners that go with either number and stand in for one another."""
_BEFORE_A_NOUN = {*DETERMINERS, "its", "this", "these", "those", "a", "an", "some", "any", "no", "every", "many"}


def plural_of(noun: str) -> str:
    """The plural of a singular noun ("children")."""
    from lemminflect import getAllInflections  # takes half a second

    return getAllInflections(noun, upos="NOUN")["NNS"][0]


def split_nouns(nouns: Sequence[str], test_share: float, seed: int) -> tuple[list[str], list[str]]:
    """Nouns (or names) in two, without one in common: those to find a circuit on and those to test it on.

    Where the share is neither 0 nor 1 and there are two nouns or more, neither part is empty.

    Raises:
        PromptError: the share is not between 0 and 1.
    """
    if not 0 <= test_share <= 1:
        raise PromptError(f"The test share is {test_share}: give a share between 0 and 1.")
    shuffled = list(dict.fromkeys(nouns))
    Random(seed).shuffle(shuffled)
    held_out = round(test_share * len(shuffled))
    if 0 < test_share < 1 and len(shuffled) > 1:
        held_out = min(max(held_out, 1), len(shuffled) - 1)
    return shuffled[held_out:], shuffled[:held_out]


def agreement(
    kind: AgreementKind,
    nouns: Sequence[str],
    count: int,
    seed: int,
    verbs: Sequence[tuple[str, str]] = VERBS,
) -> list[Pair]:
    """Subject-verb agreement: the corrupted prompt has the subject in the other number (Linzen et al. 2016; the kinds
    and cases are those of Marks et al. 2024).

    - simple: "The cats";
    - nounpp: "The cats near the dog", across a prepositional phrase;
    - within_rc: "The cat that the dogs", where the verb is that of the relative clause;
    - rc: "The cats that the dog likes", across an object relative clause.

    No pair comes twice, no sentence does before all have come once, and each number, of subject and attractor, has as
    many pairs as the other. There are fewer than `count` where the nouns give no more.

    Args:
        kind: which sentences.
        nouns: singular, for subjects and attractors; those with only one form are left out.
        count: how many pairs.
        seed: of the choice.
        verbs: what is chosen between, singular and plural, as the model is to say it.

    Raises:
        PromptError: there is no such kind, a noun is not in the lexicon, or the count is negative.
    """
    if kind not in get_args(AgreementKind):
        raise PromptError(f"There is no agreement {kind!r}: choose one of {', '.join(get_args(AgreementKind))}.")
    _check_count(count)
    forms = [form for form in map(_forms, dict.fromkeys(nouns)) if form[0] != form[1]]
    verbs = list(dict.fromkeys(verbs))
    rng = Random(seed)
    cases = [(False, False), (True, False)]  # whether the subject and the attractor are plural
    if kind != "simple":
        cases = [(False, False), (True, True), (False, True), (True, False)]
    links = {"simple": 1, "nounpp": len(PREPOSITIONS), "within_rc": 1, "rc": len(RELATIVE_VERBS)}[kind]
    sizes = (len(forms), links) if kind == "simple" else (len(forms), links, len(forms) - 1)
    drawn = []
    for number, (plural, other_plural) in enumerate(cases):
        quota = len(range(number, count, len(cases)))
        sentences = list(_grid(rng, sizes, quota))
        made = []
        for turn in range(len(verbs)):
            for at, (subject, link, *other) in enumerate(sentences[: quota - len(made)]):
                verb = verbs[(number + at + turn) % len(verbs)]
                attractor = forms[other[0] + (other[0] >= subject)] if other else None
                made.append(_agreement(kind, forms[subject], plural, attractor, other_plural, link, verb))
        drawn.append(made)
    return [made[at] for at in range(max(map(len, drawn))) for made in drawn if at < len(made)]


def agreement_split(
    kind: AgreementKind,
    train: int,
    test: int,
    seed: int,
    nouns: Sequence[str] = PEOPLE,
    verbs: Sequence[tuple[str, str]] = VERBS,
) -> Split:
    """`agreement` on two parts of the nouns: no subject or attractor of the training pairs is in a test pair."""
    return _split(lambda part, count, seed: agreement(kind, part, count, seed, verbs), nouns, train, test, seed)


def indirect_object(count: int, seed: int, names: Sequence[str] = NAMES) -> list[Pair]:
    """Indirect object identification (Wang et al. 2023): "When Mary and John went to the store, John gave a drink to".

    The answer is the name that came once, the distractor the one that came twice; in the corrupted prompt a third name
    is in the place of its second mention. Half the pairs name the indirect object first (case "ABBA"), half the subject
    ("BABA"). The roles are those of the paper (IO, S1, S2, end) and the words between them.

    Raises:
        PromptError: the count is negative.
    """
    _check_count(count)
    names = list(dict.fromkeys(names))
    rng = Random(seed)
    sizes = (len(TEMPLATES), len(PLACES), len(THINGS), len(names), len(names) - 1, len(names) - 2)
    cases = ("ABBA", "BABA")
    drawn = [_grid(rng, sizes, len(range(number, count, 2))) for number in range(2)]
    pairs = []
    for number in range(count):
        at = next(drawn[number % 2], None)
        if at is None:
            break
        left = list(names)
        io, subject, third = (left.pop(n) for n in at[3:])
        pairs.append(
            _indirect_object(TEMPLATES[at[0]], PLACES[at[1]], THINGS[at[2]], io, subject, third, cases[number % 2])
        )
    return pairs


def indirect_object_split(train: int, test: int, seed: int, names: Sequence[str] = NAMES) -> Split:
    """`indirect_object` on two parts of the names."""
    return _split(lambda part, count, seed: indirect_object(count, seed, part), names, train, test, seed)


def greater_than(count: int, seed: int, nouns: Sequence[str] = EVENTS) -> list[Pair]:
    """Years that come later (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17".

    The answers are the two-digit years after the start, "33" to "99", the distractors those up to it, "00" to "32";
    their difference is best taken in probability. The corrupted prompt starts in 1701. For models, such as GPT-2, that
    read a year as two tokens of two digits.

    Raises:
        PromptError: the count is negative.
    """
    _check_count(count)
    nouns = list(dict.fromkeys(nouns))
    starts = [(c, yy) for c in CENTURIES for yy in range(2, 99) if f"{c}{yy:02}" not in WHOLE_YEARS]
    pairs = []
    for noun, start in _grid(Random(seed), (len(nouns), len(starts)), count):
        century, yy = starts[start]
        prompt = f"The {nouns[noun]} lasted from the year {century}%s to the year {century}"
        years = [f"{year:02}" for year in range(100)]
        pairs.append(
            Pair(
                prompt=prompt % f"{yy:02}",
                corrupted=prompt % "01",
                answer=tuple(years[yy + 1 :]),
                distractor=tuple(years[: yy + 1]),
                roles=YEAR_ROLES,
            )
        )
    return pairs


def greater_than_split(train: int, test: int, seed: int, nouns: Sequence[str] = EVENTS) -> Split:
    """`greater_than` on two parts of the nouns."""
    return _split(lambda part, count, seed: greater_than(count, seed, part), nouns, train, test, seed)


TASKS: dict[str, Callable[[int, int, int], Split]] = {
    **{f"agreement-{kind.replace('_', '-')}": partial(agreement_split, kind) for kind in get_args(AgreementKind)},
    "agreement-toy": partial(agreement_split, "simple", nouns=NOUNS, verbs=[("runs", "run")]),
    "ioi": indirect_object_split,
    "greater-than": greater_than_split,
}
"""Tasks by name: numbers of training and test pairs and a seed to the pairs, with no noun (or name) in common."""


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
    _check_count(count)
    # Words at odd places, what is between them at even ones.
    ours, theirs = re.split(r"([\w'’-]+)", pair.prompt), re.split(r"([\w'’-]+)", pair.corrupted or "")
    different = [at for at in range(1, len(ours), 2) if ours[at : at + 1] != theirs[at : at + 1]]
    if len(ours) != len(theirs) or len(different) != 1 or ours[::2] != theirs[::2]:
        return []
    (at,) = different
    own = _noun_of(ours[at].lower(), theirs[at].lower())
    if own is None or (_is_verb(own) and (at < 3 or ours[at - 2].lower() not in _BEFORE_A_NOUN)):
        return []
    plural = own != ours[at].lower()
    taken = {word.lower() for word in (*ours, *theirs, *exclude)}
    forms = [_forms(noun) for noun in dict.fromkeys(nouns)]
    pool = [form for form in forms if form[0] != form[1] and not taken & {*form}]
    made = []
    for form in Random(seed).sample(pool, min(count, len(pool))):
        mine, its = (
            "".join([*words[:at], _cased(words[at], form[number]), *words[at + 1 :]])
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
            texts = [re.sub(r"\S+", _cased(word, other), prompt, count=1) for prompt in prompts]
            made.append(pair.model_copy(update=dict(zip(("prompt", "corrupted"), texts, strict=False))))
    return made


def _agreement(
    kind: AgreementKind,
    subject: tuple[str, str],
    plural: bool,
    attractor: tuple[str, str] | None,
    attractor_plural: bool,
    link: int,
    verb: tuple[str, str],
) -> Pair:
    """One pair; nouns and verbs are (singular, plural)."""
    other = attractor[attractor_plural] if attractor else ""

    def sentence(noun: str) -> str:
        match kind:
            case "simple":
                return f"The {noun}"
            case "nounpp":
                return f"The {noun} {PREPOSITIONS[link]} the {other}"
            case "within_rc":
                return f"The {other} that the {noun}"
            case "rc":
                return f"The {noun} that the {other} {RELATIVE_VERBS[link][attractor_plural]}"

    numbers = [("singular", "plural")[n] for n in ([plural, attractor_plural] if attractor else [plural])]
    return Pair(
        prompt=sentence(subject[plural]),
        corrupted=sentence(subject[not plural]),
        answer=(verb[plural],),
        distractor=(verb[not plural],),
        case="_".join(numbers[::-1] if kind == "within_rc" else numbers),  # in the order of the words
        roles=AGREEMENT_ROLES[kind],
    )


def _indirect_object(
    template: str, place: str, thing: str, io: str, subject: str, third: str, case: Literal["ABBA", "BABA"]
) -> Pair:
    """One pair."""
    first, second = (io, subject) if case == "ABBA" else (subject, io)
    words = template.split()
    one, two, giver = (words.index(slot) for slot in ("{first}", "{second}", "{giver}"))
    roles = ["opening"] * one + ["scene"] * (giver - one) + ["action"] * (len(words) - giver - 1) + ["end"]
    roles[one], roles[one + 1], roles[two] = ("IO", "and", "S1") if case == "ABBA" else ("S1", "and", "IO")
    roles[giver] = "S2"
    filled = partial(template.format, first=first, second=second, place=place, thing=thing)
    return Pair(
        prompt=filled(giver=subject),
        corrupted=filled(giver=third),
        answer=(f" {io}",),
        distractor=(f" {subject}",),
        case=case,
        roles=tuple(roles),
    )


def _split(
    make: Callable[[list[str], int, int], list[Pair]], nouns: Sequence[str], train: int, test: int, seed: int
) -> Split:
    """Pairs on two parts of the nouns, as large as the numbers of pairs ask for, within 1 to 4 and 4 to 1."""
    _check_count(train)
    _check_count(test)
    share = test / max(train + test, 1)
    here, there = split_nouns(nouns, min(max(share, 0.2), 0.8), seed)
    return make(here, train, seed), make(there, test, seed)


def _grid(rng: Random, sizes: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Distinct points of a grid in random order, `count` or all there are."""
    total = prod(sizes) if min(sizes) > 0 else 0
    for at in rng.sample(range(total), min(count, total)):
        point = []
        for size in sizes:
            at, place = divmod(at, size)
            point.append(place)
        yield tuple(point)


def _forms(noun: str) -> tuple[str, str]:
    """Singular and plural."""
    try:
        return noun, plural_of(noun)
    except KeyError:
        raise PromptError(f"{noun!r} is not a singular noun of the lexicon: give another one.") from None


def _noun_of(one: str, other: str) -> str | None:
    """The singular of the noun that two words are the singular and the plural of, None if they are not."""
    from lemminflect import getAllInflections

    for singular, plural in ((one, other), (other, one)):
        if singular != plural and plural in getAllInflections(singular, upos="NOUN").get("NNS", ()):
            return singular
    return None


def _is_verb(word: str) -> bool:
    from lemminflect import getAllLemmas

    return bool(getAllLemmas(word, upos="VERB"))


def _cased(like: str, word: str) -> str:
    """`word` with the capitals of `like`."""
    if like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _check_count(count: int) -> None:
    if count < 0:
        raise PromptError(f"The number of pairs is {count}: give 0 or more.")
