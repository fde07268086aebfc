"""Labels made from contexts and promoted outputs say what is shared, and whether that is little."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from circuitlens.circuit import Circuit
from circuitlens.corpus import Context, FeatureRecord
from circuitlens.meaning.evidence import from_contexts, from_promoted


def record(*texts: str) -> FeatureRecord:
    """A feature that is most active at the token between | |, in texts whose tokens are parted by _."""
    contexts = []
    for number, text in enumerate(texts):
        tokens = text.split("_")
        pos = next(n for n, token in enumerate(tokens) if token.startswith("|"))
        tokens[pos] = tokens[pos].strip("|")
        contexts.append(Context(tuple(tokens), pos, 10.0 - number))
    return FeatureRecord("hook", 0, len(texts), 1000, (), tuple(contexts), ())


@pytest.mark.parametrize(
    ("texts", "label", "weak"),
    [
        (["The_| cats|_ run"] * 6, "'The cats'", False),
        (["a_| Cat|"] * 3 + ["b_| cat|"] * 4, "' cat'", False),
        (["a_| cat|"] * 4 + ["b_| dog|"] * 4 + ["c_| fox|", "c_| hen|"], "' cat', ' dog' …", False),
        (["x_ United_| States|"] * 6, "' United States'", False),
        (["a_| x|"] * 6 + ["a_| end|"], "'a x' …", False),  # chance does not get a name
        (
            ["a_| gle|_ams", "_ sp_|outs|", "_| tig|_ers", "_| owls|", "_| hens|"],
            "words in -s: 'gleams', 'spouts', 'tigers' …",
            False,
        ),
        (
            ["_| running|", "_| s|_inging", "_| eating|", "_| flying|", "_| seeing|"],
            "words in -ing: 'running', 'singing', 'eating' …",
            False,
        ),
        (["_| one|", "_| word|", "_| never|", "_| again|", "_| there|"], "'one', 'word', 'never' …", True),
        (["The_| cats|_ run"] * 4, "' cats'", True),  # few
        (
            ["|These cats run|", "|Many dogs sit|", "|These men eat|", "|Many bees fly|", "|Those are|"],
            "'These', 'Many' …",
            False,
        ),
        (["<s>_|\n|_a"] * 5, "'\\n'", False),
        (["_|\u202e|_a"] * 5, "'\\u202e'", False),
    ],
)
def test_contexts_say_what_they_share(texts: list[str], label: str, weak: bool) -> None:
    assert from_contexts(record(*texts)) == (label, weak)


def test_a_feature_that_was_never_active_has_no_label() -> None:
    assert from_contexts(record()) is None


@pytest.mark.parametrize(("layer", "weak"), [(0, True), (3, True), (4, False), (12, False)])
def test_promoted_outputs_are_weak_in_the_first_third_of_the_layers(layer: int, weak: bool, cats: Circuit) -> None:
    node = cats.node("sae:0:4").model_copy(update={"layer": layer})
    outputs: Sequence[tuple[str, float]] = [(" are", 2.0), (" were", 1.0), (" is", 0.5), (" be", 0.4)]
    assert from_promoted(outputs, node, range(13)) == ("→ ' are', ' were', ' is'", weak)
    assert from_promoted([(" is", -0.5)], node, range(13)) is None
