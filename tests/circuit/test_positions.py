"""What positions are called, of one prompt and of many, and that all who name a node say the same."""

from __future__ import annotations

import re
from functools import cache

import pytest

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.circuit.comparison import compare
from circuitlens.circuit.positions import name_positions
from circuitlens.report.answer import describe_carriers
from circuitlens.report.summary import describe_path
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.opening import layouts
from circuitlens.viewer.panels.prompt import prompt_strip
from circuitlens.viewer.tables import edge_rows, node_rows
from tests.circuits import pair
from tests.tiny_transformer import TinyTransformer

PLAIN = [pair("a b c"), pair("a d c"), pair("a b e")]
ROLES = ("start", "noun", "end")


@cache
def many(roles: bool = False) -> Circuit:
    pairs = [one.model_copy(update={"roles": ROLES}) for one in PLAIN] if roles else PLAIN
    return circuitlens.aggregate(TinyTransformer(), pairs, "gradient")


def test_a_position_of_many_prompts_says_what_it_has() -> None:
    circuit = many()
    assert circuit.tokens == ("a", "[1]", "[2]")
    assert circuit.positions == (("a", ""), ("b …", "b, d on 3 prompts"), ("c …", "c, e on 3 prompts"))
    by_role = circuitlens.aggregate(
        TinyTransformer(),
        [pair("a b", roles=("first", "last")), pair("c b", roles=("first", "last"))],
        "gradient",
        by="role",
    )
    assert by_role.positions == (("first", ""), ("last", ""))


def test_a_role_that_all_prompts_name_is_its_positions_name() -> None:
    assert many(roles=True).positions == (("a", ""), ("noun", "b, d on 3 prompts"), ("end", "c, e on 3 prompts"))
    (first, *others) = PLAIN
    mixed = [first.model_copy(update={"roles": ROLES}), *others]  # one names its words, the others do not
    circuit = circuitlens.aggregate(TinyTransformer(), mixed, "gradient")
    assert [position.name for position in circuit.positions] == ["a", "b …", "c …"]


def test_a_position_whose_words_are_not_known_has_its_number() -> None:
    told = "differs from prompt to prompt"
    named = name_positions(("a", "[1]", "x", "[3]", "[4]"), PLAIN, "position")  # tokens are not words
    assert named == (("a", ""), ("position 1", told), ("x", ""), ("position 3", told), ("position 4", told))


def test_the_toys_one_position_has_whole_prompts(cats: Circuit) -> None:
    pairs = [pair(f"The {noun}", None, "run", "runs") for noun in ("cats", "dogs")]
    circuit = circuitlens.aggregate(circuitlens.load("toy"), pairs, "gradient")
    assert circuit.positions == (("The cats …", "The cats, The dogs on 2 prompts"),)
    assert cats.positions == (("The cats", ""),)


@pytest.mark.parametrize("roles", [False, True])
def test_axis_lists_tables_and_sentences_say_the_same(roles: bool) -> None:
    circuit = many(roles)
    names = [position.name for position in circuit.positions]
    whole = layouts(circuit, circuit)[-1]
    assert [column["label"] for column in whole["columns"]] == names
    for node in circuit.nodes:
        if node.kind != "logit":
            assert shown_name(circuit, node).endswith(f" L{node.layer} {names[node.pos]!r}")
    assert [row["token"] for row in node_rows(circuit, {}, {})] == [names[node.pos] for node in circuit.nodes]
    said = [
        describe_path(circuit),
        "".join(describe_carriers(circuit)),
        str(prompt_strip(circuit)),
        str(edge_rows(circuit, {})),
        str(circuit.strongest_path()),
    ]
    for text in said:
        assert not re.search(r"\[[12]\]", text), text
    twin = compare(circuit, circuit)
    assert twin.aligned
    assert [position.name for position in twin.difference.positions] == names


def test_circuits_over_other_words_share_their_columns() -> None:
    """The two have one token at each place, and the column says the words of both."""
    other = circuitlens.aggregate(TinyTransformer(), [pair("a f c"), pair("a g c"), pair("a f e")], "gradient")
    compared = compare(many(), other)
    assert compared.aligned
    assert [position.name for position in compared.first.positions] == ["a", "b … / f …", "c …"]
