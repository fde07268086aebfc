"""Names of nodes, paths and metrics."""

from __future__ import annotations

from typing import get_args

import pytest

from circuitlens.circuit import MetricRecord, Output, full_name
from circuitlens.circuit.positions import name_positions
from circuitlens.literals import MetricName
from tests.circuit.handmade import circuit, node

OUTPUTS = [Output(text=text, index=i) for i, text in enumerate(("run", "runs", "it's"))]


@pytest.mark.parametrize(
    ("name", "answers", "distractors", "text"),
    [
        ("logit_difference", 1, 1, "logit 'run' − 'runs'"),
        ("logit_difference", 2, 1, "mean logit 'run', 'runs' − \"it's\""),
        ("logit_difference", 1, 2, "mean logit 'run' − 'runs', \"it's\""),
        ("logit", 1, 0, "logit 'run'"),
        ("logit", 2, 0, "mean logit 'run', 'runs'"),
        ("log_probability", 1, 0, "log P('run')"),
        ("log_probability", 3, 0, "log P('run', 'runs', \"it's\")"),
        ("probability_difference", 1, 1, "P('run') − P('runs')"),
        ("probability_difference", 1, 2, "P('run') − P('runs', \"it's\")"),
        ("kl_divergence", 1, 0, "KL from the corrupted prompt's outputs"),
        ("kl_divergence", 1, 1, "KL from the corrupted prompt's outputs"),
        ("custom", 1, 1, "a function of the logits"),
    ],
)
def test_metrics_in_words(name: str, answers: int, distractors: int, text: str) -> None:
    theirs = tuple(OUTPUTS[answers : answers + distractors])
    assert str(MetricRecord(name=name, answers=tuple(OUTPUTS[:answers]), distractors=theirs, value=1.0)) == text


def test_every_metric_has_words_of_its_own() -> None:
    metrics = [
        MetricRecord(name=n, answers=(OUTPUTS[0],), distractors=(OUTPUTS[1],), value=0.0) for n in get_args(MetricName)
    ]
    assert len({str(metric) for metric in metrics} | {"a function of the logits"}) == len(metrics) + 1


@pytest.mark.parametrize(
    ("kind", "index", "alone", "among"),
    [
        ("feature", 0, "a", "a L1 ' cats'"),
        ("error", None, "a", "a L1 ' cats'"),
        ("logit", 0, "a", "'a'"),
        ("logit", None, "a", "a"),
    ],
)
def test_full_names_say_where_a_node_is(kind: str, index: int | None, alone: str, among: str) -> None:
    one = node("a", 1, kind=kind).model_copy(update={"index": index})
    assert full_name(one, name_positions(["The cats"])) == alone
    assert full_name(one.model_copy(update={"pos": 1}), name_positions(["The", " cats"])) == among


def test_paths_say_where_their_nodes_are() -> None:
    nodes = [node("a", 0), node("b", 1).model_copy(update={"pos": 1}), node("yes", 2, kind="logit")]
    edges = {("a", "b"): 2.0, ("b", "yes"): 1.0}
    assert str(circuit(nodes, edges, tokens=("The", " cats")).strongest_path()) == "a L0 'The' → b L1 ' cats' → 'yes'"
    assert str(circuit([n.model_copy(update={"pos": 0}) for n in nodes], edges).strongest_path()) == "a → b → yes"
