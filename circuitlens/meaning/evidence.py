"""Labels made from evidence: the tokens that a feature's contexts share, and the outputs that it promotes.

A label that rests on little is weak: too few contexts, contexts that share no token, and promoted outputs of the first
third of the layers, where a feature hardly writes to the logits by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from circuitlens.circuit import Node
from circuitlens.corpus import Context, FeatureRecord

NAMED = 3
"""Tokens that a label names, at most."""
FEW = 4
"""Contexts that say little: a token that is in all of so few may be chance."""
SHARED = 0.5
"""The share of the contexts that the tokens of a label which is not weak are in, each twice or more."""
MOST_LETTERS, ENDING = 3, 0.8
"""Letters of an ending that is named, at most, and the share of the words that have it."""
PHRASE = 0.8
"""The share of the contexts of one token that have one word before it, so that both are named."""

Said = tuple[str, bool]
"""A label, and whether it is weak."""


def from_contexts(record: FeatureRecord) -> Said | None:
    """What the contexts of a feature have in common: the token at which most are active, else an ending of their words,
    else the tokens that return; where nothing is shared, the strongest words, as weak evidence. None where it was never
    active.
    """
    contexts = record.contexts
    if not contexts:
        return None
    few, wanted = len(contexts) <= FEW, len(contexts) * SHARED
    tokens = [_words(context.token) for context in contexts]
    # Of equally frequent ones the strongest first, as contexts are sorted and counters keep their order.
    counts = Counter(word for each in tokens for word in each)
    returning, shared = list[str](), 0
    for word, count in counts.most_common():
        now = sum(any(one in each for one in (*returning, word)) for each in tokens)
        if count > 1 and now > shared and len(returning) < NAMED:
            returning, shared = [*returning, word], now
    words = list(dict.fromkeys(whole_word(context) for context in contexts))
    if not (returning and counts[returning[0]] >= wanted) and (ending := _common_ending(words)):
        return f"words in -{ending}: {_listed(words)}", few
    if shared >= wanted and returning:
        left = " …" if shared < len(contexts) else ""
        return ", ".join(_quoted(_phrase(word, contexts)) for word in returning) + left, few
    return _listed(words), True


def from_promoted(promoted: Sequence[tuple[str, float]], node: Node, layers: Collection[int]) -> Said | None:
    """The outputs that a feature promotes; weak in the first third of the model's `layers`."""
    outputs = [_quoted(text) for text, logit in promoted if logit > 0][:NAMED]
    first, last = min(layers), max(layers)
    early = node.layer - first < (last - first) / 3
    return (f"→ {', '.join(outputs)}", early) if outputs else None


def _words(token: str) -> dict[str, str]:
    """The words of a token as they are counted (" Cats" and "cats" are one) and as they stand; a token is one word but
    for a toy that reads a sentence as one.
    """
    parts = token.split()
    if len(parts) < 2:
        return {token.strip().lower() or token: token}
    return {part.lower(): part for part in parts}


def _phrase(word: str, contexts: Sequence[Context]) -> str:
    """A word as it mostly stands, with the token before it where that is nearly always the same."""
    here = [(context, words[word]) for context in contexts if word in (words := _words(context.token))]
    spelled = Counter(spelling for _, spelling in here).most_common(1)[0][0]
    before = Counter(context.tokens[context.pos - 1] for context, _ in here if context.pos > 0)
    if len(here) > FEW and before:
        token, count = before.most_common(1)[0]
        if count >= PHRASE * len(here) and token.strip().isalnum():
            return token + spelled
    return spelled


def whole_word(context: Context) -> str:
    """The word that the active token is in, which may be cut into several tokens."""
    start, end, tokens = context.pos, context.pos + 1, context.tokens
    while start > 0 and tokens[start][:1].isalpha() and tokens[start - 1][-1:].isalpha():
        start -= 1
    while end < len(tokens) and tokens[end - 1][-1:].isalpha() and tokens[end][:1].isalpha():
        end += 1
    return "".join(tokens[start:end])


def _common_ending(words: Sequence[str]) -> str:
    """The longest ending that nearly all of some different words have; "" where there is none."""
    plain = [word.strip().lower() for word in words]
    letters = [word for word in plain if word.isalpha() and len(word) > MOST_LETTERS]
    for length in range(MOST_LETTERS, 0, -1):
        counts = Counter(word[-length:] for word in letters)
        if counts and len(plain) > FEW and counts.most_common(1)[0][1] >= ENDING * len(plain):
            return counts.most_common(1)[0][0]
    return ""


def _listed(words: Sequence[str]) -> str:
    return ", ".join(_quoted(word.strip() or word) for word in words[:NAMED]) + (" …" if len(words) > NAMED else "")


def _quoted(text: str) -> str:
    return repr(text.strip("\n") or text)
