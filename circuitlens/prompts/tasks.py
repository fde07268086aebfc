"""Tasks that make prompt pairs by rule: agreement, indirect objects, greater-than; no torch and no model.

Every task is split into training and test pairs by noun (or name): no noun of one is in the other, so that what is
found on the first and holds on the second is not about the nouns. Each corrupted prompt differs in one word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from random import Random
from typing import Literal, get_args

from circuitlens.errors import PromptError
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.words import EVENTS, NAMES, NOUNS, PEOPLE, forms_of

AgreementKind = Literal["simple", "nounpp", "within_rc", "rc"]
Split = tuple[list[Pair], list[Pair]]
"""Training and test pairs."""

VERBS = ((" is", " are"), (" has", " have"), (" does", " do"), (" goes", " go"))
"""What a subject may go on with, singular and plural, as in the data of Marks et al. 2024."""
PREPOSITIONS = ("near", "behind", "beside")
RELATIVE_VERBS = (("likes", "like"), ("helps", "help"), ("knows", "know"), ("loves", "love"), ("sees", "see"))
LINKS = {"nounpp": tuple((word, word) for word in PREPOSITIONS), "rc": RELATIVE_VERBS}
"""What stands between subject and attractor, or after both, for a singular and a plural attractor."""
SENTENCES = {
    "simple": "The {subject}",
    "nounpp": "The {subject} {link} the {attractor}",
    "within_rc": "The {attractor} that the {subject}",
    "rc": "The {subject} that the {attractor} {link}",
}
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
    kind: AgreementKind, nouns: Sequence[str], count: int, seed: int, verbs: Sequence[tuple[str, str]] = VERBS
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
    check_count(count)
    forms = [form for form in map(forms_of, dict.fromkeys(nouns)) if form[0] != form[1]]
    verbs = list(dict.fromkeys(verbs))
    rng = Random(seed)
    cases = [(False, False), (True, False)]  # whether the subject and the attractor are plural
    if kind != "simple":
        cases = [(False, False), (True, True), (False, True), (True, False)]
    links = LINKS.get(kind, (("", ""),))
    sizes = (len(forms), len(links)) if kind == "simple" else (len(forms), len(links), len(forms) - 1)
    drawn = []
    for number, (plural, other_plural) in enumerate(cases):
        quota = len(range(number, count, len(cases)))
        sentences = list(_grid(rng, sizes, quota))
        made = []
        for turn in range(len(verbs)):
            for at, (subject, link, *other) in enumerate(sentences[: quota - len(made)]):
                verb = verbs[(number + at + turn) % len(verbs)]
                attractor = forms[other[0] + (other[0] >= subject)][other_plural] if other else ""
                numbers = (plural, other_plural) if other else (plural,)
                filled = partial(SENTENCES[kind].format, attractor=attractor, link=links[link][other_plural])
                made.append(_agreement(kind, filled, forms[subject], numbers, verb))
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
    check_count(count)
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
        case, template = cases[number % 2], TEMPLATES[at[0]]
        first, second = (io, subject) if case == "ABBA" else (subject, io)
        filled = partial(template.format, first=first, second=second, place=PLACES[at[1]], thing=THINGS[at[2]])
        pairs.append(
            Pair(
                prompt=filled(giver=subject),
                corrupted=filled(giver=third),
                answer=(f" {io}",),
                distractor=(f" {subject}",),
                case=case,
                roles=_roles(template, case),
            )
        )
    return pairs


def greater_than(count: int, seed: int, nouns: Sequence[str] = EVENTS) -> list[Pair]:
    """Years that come later (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17".

    The answers are the two-digit years after the start, "33" to "99", the distractors those up to it, "00" to "32";
    their difference is best taken in probability. The corrupted prompt starts in 1701. For models, such as GPT-2, that
    read a year as two tokens of two digits.

    Raises:
        PromptError: the count is negative.
    """
    check_count(count)
    nouns, years = list(dict.fromkeys(nouns)), tuple(f"{year:02}" for year in range(100))
    starts = [(c, yy) for c in CENTURIES for yy in range(2, 99) if f"{c}{yy:02}" not in WHOLE_YEARS]
    pairs = []
    for noun, start in _grid(Random(seed), (len(nouns), len(starts)), count):
        century, yy = starts[start]
        text = f"The {nouns[noun]} lasted from the year {century}%s to the year {century}"
        later, earlier = years[yy + 1 :], years[: yy + 1]
        prompt, corrupted = text % years[yy], text % "01"
        pairs.append(Pair(prompt=prompt, corrupted=corrupted, answer=later, distractor=earlier, roles=YEAR_ROLES))
    return pairs


def _split(
    make: Callable[[list[str], int, int], list[Pair]], nouns: Sequence[str], train: int, test: int, seed: int
) -> Split:
    """Pairs on two parts of the nouns, as large as the numbers of pairs ask for, within 1 to 4 and 4 to 1."""
    check_count(train)
    check_count(test)
    share = test / max(train + test, 1)
    here, there = split_nouns(nouns, min(max(share, 0.2), 0.8), seed)
    return make(here, train, seed), make(there, test, seed)


TASKS: dict[str, Callable[[int, int, int], Split]] = {
    **{f"agreement-{kind.replace('_', '-')}": partial(agreement_split, kind) for kind in get_args(AgreementKind)},
    "agreement-toy": partial(agreement_split, "simple", nouns=NOUNS, verbs=[("runs", "run")]),
    "ioi": partial(_split, lambda names, count, seed: indirect_object(count, seed, names), NAMES),
    "greater-than": partial(_split, lambda nouns, count, seed: greater_than(count, seed, nouns), EVENTS),
}
"""Tasks by name: numbers of training and test pairs and a seed to the pairs, with no noun (or name) in common."""


def _agreement(
    kind: AgreementKind,
    sentence: Callable[..., str],
    subject: tuple[str, str],
    numbers: Sequence[bool],
    verb: tuple[str, str],
) -> Pair:
    """One pair; nouns and verbs are (singular, plural), and `numbers` those of the subject and the attractor."""
    plural = numbers[0]
    names = [("singular", "plural")[number] for number in numbers]
    return Pair(
        prompt=sentence(subject=subject[plural]),
        corrupted=sentence(subject=subject[not plural]),
        answer=(verb[plural],),
        distractor=(verb[not plural],),
        case="_".join(names[::-1] if kind == "within_rc" else names),  # in the order of the words
        roles=AGREEMENT_ROLES[kind],
    )


def _roles(template: str, case: str) -> tuple[str, ...]:
    """The roles of the words of a sentence on indirect objects."""
    words = template.split()
    one, two, giver = (words.index(slot) for slot in ("{first}", "{second}", "{giver}"))
    roles = ["opening"] * one + ["scene"] * (giver - one) + ["action"] * (len(words) - giver - 1) + ["end"]
    roles[one], roles[one + 1], roles[two] = ("IO", "and", "S1") if case == "ABBA" else ("S1", "and", "IO")
    roles[giver] = "S2"
    return tuple(roles)


def _grid(rng: Random, sizes: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Distinct points of a grid in random order, `count` or all there are."""
    total = prod(sizes) if min(sizes) > 0 else 0
    for at in rng.sample(range(total), min(count, total)):
        point = []
        for size in sizes:
            at, place = divmod(at, size)
            point.append(place)
        yield tuple(point)


def check_count(count: int) -> None:
    """Raise PromptError for a negative number of pairs."""
    if count < 0:
        raise PromptError(f"The number of pairs is {count}: give 0 or more.")
