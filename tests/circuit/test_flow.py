"""What flows past chosen nodes and along a chain: by hand, and of random linear networks against all their paths."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import prod

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitError
from tests.circuit.handmade import circuit, node

Jacobian = dict[tuple[int, int], int]


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[int], Jacobian]:
    """A linear network: how far each node that nothing flows into moves, and what a unit of one node moves another.

    Node 0 is moved, and the last is the metric.
    """
    count = draw(st.integers(3, 7))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    steps = {pair: draw(st.integers(-3, 3)) for pair in pairs}
    return [draw(st.integers(-4, 4)) for _ in range(count)], {pair: step for pair, step in steps.items() if step}


def solved(moves: list[int], steps: Jacobian) -> tuple[list[Fraction], list[Fraction]]:
    """How far every node moves, and what a unit of it does to the metric."""
    count = len(moves)
    moved, does = [Fraction(0)] * count, [Fraction(0)] * count
    for j in range(count):
        into = [i for i in range(j) if (i, j) in steps]
        moved[j] = sum((steps[i, j] * moved[i] for i in into), Fraction(0)) if into else Fraction(moves[j])
    does[-1] = Fraction(1)
    for i in reversed(range(count - 1)):
        does[i] = sum((step * does[j] for (k, j), step in steps.items() if k == i), Fraction(0))
    return moved, does


def as_circuit(moves: list[int], steps: Jacobian) -> Circuit:
    """The network's circuit: attributions and edges of a linear model are exact."""
    moved, does = solved(moves, steps)
    assume(all(a and b for a, b in zip(moved, does, strict=True)))  # what does nothing as a whole hides what cancels
    last = len(moves) - 1
    nodes = [
        node("yes" if n == last else str(n), n, float(moved[n] * does[n]), "logit" if n == last else "feature")
        for n in range(len(moves))
    ]
    names = [each.id for each in nodes]
    return circuit(nodes, {(names[i], names[j]): float(does[j] * s * moved[i]) for (i, j), s in steps.items()})


def paths(start: int, end: int, steps: Jacobian, without: set[int]) -> Iterator[list[int]]:
    """All paths that pass none of some nodes."""
    if start == end:
        yield [end]
    for i, j in steps:
        if i == start and j not in without:
            yield from ([start, *rest] for rest in paths(j, end, steps, without))


@given(networks(), st.sets(st.integers(0, 5), min_size=1))
def test_own_parts_are_the_paths_past_the_other_nodes(network: tuple[list[int], Jacobian], chosen: set[int]) -> None:
    moves, steps = network
    last = len(moves) - 1
    chosen = {n for n in chosen if n < last}
    made = as_circuit(moves, steps)
    moved, _ = solved(moves, steps)
    for name, part in made.own_parts(map(str, sorted(chosen))).items():
        by_paths = sum(prod(steps[pair] for pair in pairwise(path)) for path in paths(int(name), last, steps, chosen))
        assert part == pytest.approx(float(moved[int(name)] * by_paths), abs=1e-9)


CHAIN = circuit(
    [node("a", 0, 6.0), node("b", 1, 4.0), node("c", 2, 3.0), node("yes", 3, 5.0, "logit")],
    {("a", "b"): 2.0, ("a", "yes"): 4.0, ("b", "c"): 3.0, ("b", "yes"): 1.0, ("c", "yes"): 3.0},
)


def test_own_parts_by_hand() -> None:
    assert CHAIN.own_parts(["a"]) == {"a": 6.0}
    assert CHAIN.own_parts(["c", "b"]) == {"c": 3.0, "b": 1.0}
    assert CHAIN.own_parts(["a", "b"]) == {"a": 4.0, "b": 4.0}
    assert CHAIN.own_parts(["a", "c"]) == {"a": 6 - 2 * 3 / 4, "c": 3.0}
    assert CHAIN.own_parts([]) == {}
    with pytest.raises(CircuitError, match="no node 'x'"):
        CHAIN.own_parts(["x"])


def test_what_flows_through_edges_that_were_left_out_is_a_nodes_own() -> None:
    assert CHAIN.prune(max_edges=2).own_parts(["a", "c"]) == {"a": 6.0, "c": 3.0}
    assert sum(CHAIN.prune(max_edges=0).own_parts(["a", "b", "c"]).values()) == 13.0


def test_a_share_that_no_linear_model_has_is_held_to_all_there_is() -> None:
    """Of a node that was scored as 0.1, an edge of 3 goes on: that is not thirty times what reaches it."""
    nodes = [node("a", 0, 6.0), node("b", 1, 0.1), node("c", 2, 3.0), node("yes", 3, 5.0, "logit")]
    odd = circuit(nodes, {("a", "b"): 2.0, ("b", "c"): 3.0, ("c", "yes"): 3.0})
    assert odd.own_parts(["a", "c"]) == {"a": 4.0, "c": 3.0}
