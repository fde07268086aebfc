"""Replacement and completeness by hand, and against the definition with whole matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from circuitlens.circuit import Circuit
from circuitlens.interchange.graph_reading import read_graph
from circuitlens.interchange.scores import graph_scores
from circuitlens.report.summary import describe_scores
from tests.circuit.handmade import Drawn, built, circuit, layered, measured, node
from tests.interchange.graphs import transcoder_graph, written


def by_matrices(made: Circuit, weights: np.ndarray) -> tuple[float, float]:
    """The scores from the matrix of all links, as Ameisen et al. define them: influence is w (A + A² + …)."""
    ids = [one.id for one in made.nodes]
    matrix = np.zeros((len(ids), len(ids)))
    for edge in made.edges:
        weight = edge.weight if edge.into_target is None else edge.into_target
        matrix[ids.index(edge.target), ids.index(edge.source)] = abs(weight)
    matrix /= np.maximum(matrix.sum(1, keepdims=True), 1e-10)
    influence = weights @ (np.linalg.inv(np.eye(len(ids)) - matrix) - np.eye(len(ids)))
    kinds = np.array([one.kind for one in made.nodes])
    tokens = influence[np.isin(kinds, ["input", "embedding"])].sum()
    errors = influence[kinds == "error"].sum()
    all_of_it = influence + weights
    kept = 1 - matrix[:, kinds == "error"].sum(1)
    return tokens / (tokens + errors), (kept * all_of_it).sum() / all_of_it.sum()


def test_a_graph_by_hand(tmp_path: Path) -> None:
    """Of the 0.6 of "rain" a sixth is the error's, and all else begins at the token, as do the 0.2 of the other."""
    scores = graph_scores(read_graph(written(tmp_path / "rain.json", transcoder_graph())))
    assert scores is not None
    assert scores.replacement == pytest.approx(0.7 / 0.8)
    # Into the outputs 0.8, into 1/7 0.3, into 0/5 0.2 + 0.2 + 0.3 × 6/8; the token and the error have 0.1 + 0.7.
    features = 0.3 + 0.4 + 0.225
    whole = 0.8 + features + 0.1 + 0.7
    assert scores.completeness == pytest.approx(1 - 0.1 / whole)


def test_against_matrices(tmp_path: Path) -> None:
    made = read_graph(written(tmp_path / "rain.json", transcoder_graph()))
    scores = graph_scores(made)
    assert scores is not None
    weights = np.array([{"3_11_1": 0.6, "3_12_1": 0.2}.get(one.id, 0.0) for one in made.nodes])
    assert (scores.replacement, scores.completeness) == pytest.approx(by_matrices(made, weights))


@settings(max_examples=50, deadline=None)
@given(drawn=layered())
def test_random_circuits_against_matrices(drawn: Drawn) -> None:
    made = built(drawn)
    kinds = [
        "error" if number % 3 == 2 else "input" if one.layer == 0 else "feature"
        for number, one in enumerate(made.nodes)
    ]
    nodes = [
        one if one.is_logit else one.model_copy(update={"kind": kind})
        for one, kind in zip(made.nodes, kinds, strict=True)
    ]
    made = made.model_copy(update={"nodes": tuple(nodes)})
    scores = graph_scores(made)
    weights = np.array([float(one.is_logit and one.attribution != 0) for one in nodes])
    if scores is None:
        return
    assert 0 <= scores.replacement <= 1
    if any(one.kind == "input" for one in nodes):
        assert (scores.replacement, scores.completeness) == pytest.approx(by_matrices(made, weights))


def test_without_tokens_a_circuit_begins_at_its_lowest_features() -> None:
    """As SAEs on the residual stream do."""
    nodes = [node("f", 0), node("e", 0, kind="error"), node("yes", 1, kind="logit")]
    scores = graph_scores(circuit(nodes, {("f", "yes"): 3.0, ("e", "yes"): -1.0}))
    assert scores is not None
    assert scores.replacement == pytest.approx(0.75)
    assert graph_scores(circuit(nodes, {})) is None


def test_they_are_told_beside_what_was_measured() -> None:
    nodes = [node("a", 0, kind="input"), node("b", 1, kind="error"), node("yes", 2, kind="logit")]
    made = circuit(nodes, {("a", "yes"): 1.0, ("b", "yes"): 1.0})
    assert describe_scores(made) == "replacement 0.50, completeness 0.75 by the edges alone; nothing measured yet"
    assert describe_scores(measured(made)) == (
        "replacement 0.50, completeness 0.75 by the edges alone; measured with 2 nodes: faithfulness 1.03, "
        "1.00 without their errors"
    )
