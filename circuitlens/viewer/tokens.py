"""A circuit's prompt token by token: what stands at each position, beside the corrupted prompt, and its attribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

from circuitlens.circuit import Circuit
from circuitlens.circuit.comparison import Graph
from circuitlens.report.text import visible


@dataclass(frozen=True)
class Token:
    """A position: its token, what the corrupted prompt has there ("" where it is the same), and its nodes.

    Of a word of several tokens the first has what the corrupted prompt has for the word. `attribution` is the sum of
    the nodes' attributions, `size` that of their |attribution|.
    """

    pos: int
    text: str
    corrupted: str
    nodes: int
    attribution: float
    size: float


def prompt_tokens(circuit: Circuit) -> list[Token]:
    """The positions of a circuit, left to right; logits are no nodes of their position."""
    inner = [node for node in circuit.nodes if not node.is_logit]
    other = (
        []
        if circuit.pairs or circuit.corrupted is None
        else replaced(circuit.tokens, circuit.prompt, circuit.corrupted)
    )
    tokens = []
    for pos, (text, _) in enumerate(circuit.positions):
        here = [node.attribution for node in inner if node.pos == pos]
        corrupted = other[pos] if other else ""
        tokens.append(Token(pos, text, corrupted, len(here), sum(here, 0.0), sum(map(abs, here), 0.0)))
    return tokens


def replaced(tokens: Sequence[str], prompt: str, corrupted: str) -> list[str]:
    """What a corrupted prompt has in the place of each token, "" where that is the same.

    A circuit has the tokens of its prompt only, so the two are compared word by word: the first token of a word that
    differs has the other word. A token before the prompt (BOS) is in both.
    """
    words, theirs = _words(tokens, prompt), corrupted.split()
    found = [""] * len(tokens)
    ours = ["".join(tokens[pos] for pos in word).strip() for word in words]
    for what, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if what == "replace" and b - a == d - c:
            for word, text in zip(words[a:b], theirs[c:d], strict=True):
                found[word[0]] = text
        elif what != "equal" and words:
            found[words[min(a, len(words) - 1)][0]] = " ".join(theirs[c:d]) or "–"
    return found


def _words(tokens: Sequence[str], prompt: str) -> list[list[int]]:
    """The positions of each word: a token that begins with a space begins one, or each does where none has spaces."""
    spelled = (n for n in range(len(tokens)) if "".join("".join(tokens[n:]).split()) == "".join(prompt.split()))
    first = next(spelled, 0)
    spaced = any(token[:1].isspace() for token in tokens[first + 1 :])
    words: list[list[int]] = []
    for pos in range(first, len(tokens)):
        if words and spaced and not tokens[pos][:1].isspace():
            words[-1].append(pos)
        else:
            words.append([pos])
    return words


def gaps(graph: Graph, used: Sequence[int]) -> list[tuple[int, str]]:
    """Runs of positions without nodes: the first position after each, and its tokens as one text."""
    empty = [pos for pos in range(len(graph.tokens)) if pos not in set(used)]
    runs = [[pos for _, pos in run] for _, run in groupby(enumerate(empty), key=lambda pair: pair[1] - pair[0])]
    return [(run[-1] + 1, " ".join(visible(graph.positions[pos].name) for pos in run)) for run in runs]
