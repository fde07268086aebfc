"""Nodes and edges as rows and as CSV."""

from __future__ import annotations

import csv
import io

import pytest

from circuitlens.circuit import Circuit, Meaning
from circuitlens.viewer.tables import edge_rows, node_rows, to_csv


def test_rows_say_what_the_circuit_has(cats: Circuit) -> None:
    rows = node_rows(cats, {"hook_sae/4": "plural verb"}, {"sae:0:4": "looked at twice"})
    assert [row["id"] for row in rows] == [n.id for n in cats.nodes]
    (own,) = [row for row in rows if row["id"] == "sae:0:4"]
    node = cats.node("sae:0:4")
    assert (own["label"], own["note"]) == ("plural verb", "looked at twice")
    assert (own["kind"], own["hook"], own["token"]) == ("feature", "hook_sae", "The cats")
    assert (own["attribution"], own["activation"]) == (node.attribution, node.activation)
    edges = edge_rows(cats, {"hook_sae/4": "plural verb"})
    assert [(row["source"], row["target"], row["weight"]) for row in edges] == [
        (e.source, e.target, e.weight) for e in cats.edges
    ]
    assert {row["basis"] for row in edges} == {"estimated"}
    measured = cats.model_copy(update={"edges": (cats.edges[0].model_copy(update={"measured": True}),)})
    assert [row["basis"] for row in edge_rows(measured, {})] == ["measured"]
    assert {row["source_name"] for row in edges if row["source"] == "sae:0:4"} == {"plural verb"}


def test_csv_can_be_read_again(cats: Circuit) -> None:
    labels = {"hook_sae/4": 'quoted "and, with commas"\nin two lines'}
    rows = list(csv.DictReader(io.StringIO(to_csv(node_rows(cats, labels, {})), newline="")))
    assert [row["id"] for row in rows] == [n.id for n in cats.nodes]
    assert [float(row["attribution"]) for row in rows] == [n.attribution for n in cats.nodes]
    assert labels["hook_sae/4"] in [row["label"] for row in rows]
    assert to_csv([]) == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("https://evil.example")'])
def test_no_text_is_a_formula(cats: Circuit, text: str) -> None:
    rows = list(
        csv.DictReader(io.StringIO(to_csv(node_rows(cats, {"hook_sae/4": text}, {"sae:0:4": text})), newline=""))
    )
    (own,) = [row for row in rows if row["id"] == "sae:0:4"]
    assert own["label"] == own["note"] == f"'{text}"
    assert all(not row["attribution"].startswith("'") for row in rows)


def test_a_row_has_what_its_node_stands_for_and_who_says_so(cats: Circuit) -> None:
    named = cats.with_meanings(
        [
            Meaning(hook="hook_sae", index=4, text="several", source="contexts"),
            Meaning(hook="hook_sae", index=1, text="one", source="promoted tokens", weak=True),
        ]
    )
    said = {row["id"]: (row["label"], row["meaning"], row["source"]) for row in node_rows(named, {}, {})}
    assert said["sae:0:4"] == ("F5", "several", "contexts")
    assert said["logits:0:1"] == ("run", "", "")
    mine = {row["id"]: row for row in node_rows(named, {"hook_sae/4": "mine"}, {})}
    assert (mine["sae:0:4"]["meaning"], mine["sae:0:4"]["source"]) == ("mine", "yours")
    assert {row["source"] for row in node_rows(named, {}, {}) if row["id"] == "sae:0:1"} <= {"promoted tokens (weak)"}
