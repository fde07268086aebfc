"""A prompt token by token: what the corrupted prompt has instead, attribution, and positions of many prompts."""

from __future__ import annotations

import pytest

import circuitlens
from circuitlens.viewer.tokens import gaps, prompt_tokens, replaced
from tests.circuits import inner
from tests.tiny_transformer import TinyTransformer


@pytest.mark.parametrize(
    ("tokens", "prompt", "corrupted", "found"),
    [
        ("The| cats", "The cats", "The cat", {1: "cat"}),
        ("<s>|The| cats| near", "The cats near", "The cat near", {2: "cat"}),
        (" un|believ|able| tales", " unbelievable tales", " unthinkable tales", {0: "unthinkable"}),  # a word at a time
        ("The cats", "The cats", "The cat", {0: "The cat"}),  # a prompt that is one token
        ("a|b|c", "a b c", "a d e", {1: "d", 2: "e"}),
        ("a| b| c", "a b c", "a c", {1: "–"}),
        ("a| c", "a c", "a b c", {1: "b"}),
        ("a| b", "a b", "a b", {}),
    ],
)
def test_what_the_corrupted_prompt_has_stands_beneath(
    tokens: str, prompt: str, corrupted: str, found: dict[int, str]
) -> None:
    below = replaced(tokens.split("|"), prompt, corrupted)
    assert {pos: text for pos, text in enumerate(below) if text} == found


def test_every_token_is_there_with_its_nodes_attribution() -> None:
    circuit = circuitlens.find(TinyTransformer("components"), "a b c d", "d", "e", "a b f d").prune(max_nodes=5)
    tokens = prompt_tokens(circuit)
    assert [token.text for token in tokens] == ["a", "b", "c", "d"]
    assert [token.corrupted for token in tokens] == ["", "", "f", ""]
    for token in tokens:
        here = [node.attribution for node in inner(circuit) if node.pos == token.pos]
        assert (token.nodes, token.attribution) == (len(here), pytest.approx(sum(here)))
        assert token.size == pytest.approx(sum(map(abs, here)))
    empty = [token.pos for token in tokens if not token.nodes]
    assert empty
    named = " ".join(title for _, title in gaps(circuit, [node.pos for node in inner(circuit)]))
    assert named == " ".join(circuit.tokens[pos] for pos in empty)
