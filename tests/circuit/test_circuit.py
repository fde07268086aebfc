"""Circuits as values: what is refused, and the edges of a node."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError, CircuitLensError, PromptError
from tests.circuit.handmade import LADDER, circuit, node


def test_values_are_frozen(cats: Circuit) -> None:
    with pytest.raises(ValidationError):
        cats.prompt = "other"
    with pytest.raises(ValidationError):
        cats.nodes[0].attribution = 0.0


@pytest.mark.parametrize(
    ("nodes", "edges", "why"),
    [
        ([node("a", 0), node("a", 1)], {}, "two nodes have one id"),
        ([node("a", 0)], {("a", "b"): 1.0}, "names a node that is not there"),
        ([node("a", 0), node("b", 1)], {("a", "b"): 1.0, ("b", "a"): 1.0}, "circle"),
        ([node("a", 0)], {("a", "a"): 1.0}, "circle"),
        ([node("a", 0), node("b", 1)], {("a", "b"): float("nan")}, "finite"),
        ([node("a", 0), node("b", 1)], {("a", "b"): -1.7e308}, "greater than or equal to -1"),
    ],
)
def test_inconsistent_circuits_are_refused(nodes: list[Node], edges: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        circuit(nodes, edges)


def test_edges_of_a_node() -> None:
    assert [(e.source, e.weight) for e in LADDER.in_edges("d")] == [("a", -3.0), ("b", 0.5)]
    assert [(e.target, e.weight) for e in LADDER.out_edges("d")] == [("no", 4.0), ("yes", -2.5)]
    with pytest.raises(CircuitError, match="no node 'x'"):
        LADDER.in_edges("x")


def test_a_circuit_without_its_answer_says_so() -> None:
    with pytest.raises(CircuitError, match="no logit node for its answer 'yes'"):
        circuit([node("a", 0)], {}).strongest_path()


def test_every_error_is_of_one_family() -> None:
    assert issubclass(CircuitError, CircuitLensError)
    assert issubclass(PromptError, CircuitLensError)
