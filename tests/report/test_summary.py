"""A circuit in words: the rows that the command line prints."""

from __future__ import annotations

import subprocess
import sys

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Edge, HeadShare
from circuitlens.report.summary import check_rows, curve_rows, describe_method, describe_size, summary_rows
from tests.circuit.handmade import LADDER, node


def test_words_need_no_torch() -> None:
    code = (
        "import sys, circuitlens.report.summary; print(sorted({'torch', 'typer', 'rich', 'dash'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_row_has_its_number(cats: Circuit) -> None:
    rows = dict(summary_rows(cats))
    assert list(rows) == ["metric", "method", "active", "size", "strongest path", "conservation"]
    assert rows["metric"] == f"logit 'run' − 'runs' = {cats.metric.value:+.3f}"
    assert rows["method"] == "gradient: change from zero"
    path = cats.strongest_path()
    assert rows["strongest path"] == f"{path} (carries about {path.weight:+.3f} of {cats.metric.value:+.3f})"
    assert rows["conservation"].startswith(f"residual {cats.conservation_residual:.1e} (")


def test_the_heads_of_the_strongest_path_are_named() -> None:
    shares = [
        HeadShare(layer=3, head=n, by_values=value, by_pattern=0.5) for n, value in enumerate([5.5, 1.5, -2.5, 0.0])
    ]
    last = [HeadShare(layer=4, head=1, by_values=by, by_pattern=0.0) for by in (3.0, -1.0)]
    edges = (
        Edge(source="a", target="b", weight=6.0, heads=tuple(shares)),
        Edge(source="b", target="yes", weight=3.0, heads=(last[0],)),
        Edge(source="b", target="no", weight=-1.0, heads=(last[1], last[0].model_copy(update={"head": 0}))),
    )
    nodes = (
        node("a", 0),
        node("b", 1).model_copy(update={"pos": 1}),
        *(node(name, 2, kind="logit").model_copy(update={"pos": 1}) for name in ("yes", "no")),
    )
    fields = {name: getattr(LADDER, name) for name in Circuit.model_fields}
    made = Circuit(**{**fields, "tokens": ("one", " two"), "nodes": nodes, "edges": edges})
    assert dict(summary_rows(made))["heads"] == (
        "L3H0 57%, L3H1 19%, L3H2 -19% of a → b, from 'one' to ' two'; "
        "L4H0 60%, L4H1 40% of b → the metric, from ' two' to ' two'"
    )
    assert "heads" not in dict(summary_rows(LADDER))


@pytest.mark.parametrize(
    ("change", "method"),
    [
        ({"corrupted": "The cat", "method": "contrastive"}, "contrastive: change from 'The cat'"),
        ({"corrupted": "The cat"}, "path: change on one way for all sites from 'The cat'"),
        ({"method": "exact"}, "exact: measured change from zero"),
    ],
)
def test_the_method_says_what_it_measures_from(toy: Adapter, change: dict[str, object], method: str) -> None:
    circuit = circuitlens.find(toy, "The cats", "run", "runs", **change)  # pyright: ignore[reportArgumentType]
    assert describe_method(circuit) == method
    assert ("integration" in dict(summary_rows(circuit))) == bool(circuit.completeness_gaps)
    assert ("corrupted)" in dict(summary_rows(circuit))["metric"]) == ("corrupted" in change)


def test_a_frozen_circuit_says_so(cats: Circuit) -> None:
    words = describe_method(cats.model_copy(update={"frozen": True}))
    assert words == "gradient: change from zero, attention patterns and layer-norm scales held"


def test_the_size_says_of_how_many_the_strongest_were_taken(toy: Adapter, cats: Circuit) -> None:
    assert describe_size(cats) == f"{len(cats.nodes)} nodes, {len(cats.edges)} edges"
    few = circuitlens.find(toy, "The cats", "run", "runs", max_nodes=3, max_edges=4)
    assert cats.found is not None
    assert few.found is not None
    assert describe_size(few).startswith(
        f"5 nodes, 4 edges, the strongest of {cats.found.nodes} and {few.found.edges} ("
    )


def test_the_size_says_how_many_edges_are_measured(cats: Circuit) -> None:
    edges = [edge.model_copy(update={"measured": n < 2}) for n, edge in enumerate(cats.edges)]
    some = cats.model_copy(update={"edges": tuple(edges)})
    assert describe_size(some) == f"{len(cats.nodes)} nodes, {len(cats.edges)} edges (2 measured)"


def test_evidence_is_rows_below_their_heads(toy: Adapter) -> None:
    circuit = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    evidence = circuitlens.verify(toy, circuit, draws=2, top=3, prompts=2).evidence
    assert evidence is not None
    head, *checks = check_rows(evidence)
    assert [row[0] for row in checks] == [check.name for check in evidence.checks]
    assert {row[1] for row in checks} <= {"yes", "weak", "no", "–"}
    assert all(len(row) == len(head) for row in checks)
    head, *points = curve_rows(evidence)
    assert len(points) == sum(len(curve.points) for curve in evidence.curves)
    assert [row[0] for row in points if row[0]] == [f"{curve.prompts} ({curve.pairs})" for curve in evidence.curves]
