"""The strongest path, pruning and the networkx graph, by hand and of random circuits."""

from __future__ import annotations

from itertools import pairwise

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitError
from tests.circuit.handmade import LADDER, Drawn, built, circuit, layered, node


def test_to_networkx(cats: Circuit) -> None:
    graph = cats.to_networkx()
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_nodes() == len(cats.nodes)
    for edge in cats.edges:
        assert graph.edges[edge.source, edge.target] == {"weight": edge.weight, "measured": False}
    for kept in cats.nodes:
        assert graph.nodes[kept.id]["attribution"] == kept.attribution


def test_what_is_measured_is_known_to_networkx_and_stays_so_when_pruned(cats: Circuit) -> None:
    first, *rest = cats.edges
    circuit = cats.model_copy(update={"edges": (first.model_copy(update={"measured": True}), *rest)})
    assert circuit.to_networkx().edges[first.source, first.target]["measured"]
    assert [edge.measured for edge in circuit.prune(max_edges=3).edges] == [True, False, False]


# Paths


def test_the_strongest_path_by_hand() -> None:
    """To the metric d does −2.5 + 4 and c 1, so that the weakest edges are 1.5 and 1."""
    path = LADDER.strongest_path()
    assert str(path) == "a → d → yes"
    assert (path.weight, path.measured) == (0.0, None)  # 1.5 of d's −4 goes on to the metric: no share of it
    assert str(LADDER.strongest_path("no")) == "a → d → no"
    assert str(LADDER.strongest_path("a")) == "a"
    assert LADDER.strongest_path("a").weight == 0
    assert LADDER.strongest_path("d").weight == -3


def test_a_path_carries_the_share_of_each_node_that_goes_on() -> None:
    chain = circuit(
        [
            node("a", 0, 6.0),
            node("b", 1, 4.0),
            node("c", 2, 3.0),
            node("yes", 3, 5.0, "logit"),
            node("no", 3, kind="logit"),
        ],
        {("a", "b"): 5.0, ("b", "c"): 3.0, ("b", "yes"): 1.0, ("c", "yes"): 4.0, ("c", "no"): -2.0},
    )
    assert str(chain.strongest_path()) == "a → b → c → yes"
    assert chain.strongest_path().weight == pytest.approx(5 * 3 / 4 * 2 / 3)
    assert chain.strongest_path("c").weight == pytest.approx(5 * 3 / 4)
    # All into c is its attribution, as in a linear model: more than all of it goes on to one logit.
    assert chain.strongest_path("yes").weight == pytest.approx(5 * 3 / 4 * 4 / 3)


def test_a_path_starts_in_the_lowest_layer_that_reaches_its_end() -> None:
    shortcut = circuit(
        [node("a", 0), node("b", 1), node("late", 1), node("yes", 2, kind="logit")],
        {("a", "b"): 0.1, ("b", "yes"): 1.0, ("late", "yes"): 9.0},
    )
    assert str(shortcut.strongest_path()) == "a → b → yes"


@given(layered())
def test_the_strongest_path_against_all_paths(drawn: Drawn) -> None:
    made = built(drawn)
    graph = made.to_networkx()
    starts = [n.id for n in made.nodes if n.layer == 0]
    widths = [
        min(abs(graph.edges[pair]["weight"]) for pair in pairwise(path))
        for start in starts
        for path in networkx.all_simple_paths(graph, start, "yes")
    ]
    found = made.strongest_path()
    ids = [n.id for n in found.nodes]
    assert ids[0] in starts
    assert min(abs(graph.edges[pair]["weight"]) for pair in pairwise(ids)) == max(widths)


# Pruning


def test_pruning_by_hand() -> None:
    by_nodes = LADDER.prune(max_nodes=2)
    assert [n.id for n in by_nodes.nodes] == ["a", "d", "yes", "no"]
    assert {(e.source, e.target) for e in by_nodes.edges} == {("a", "d"), ("d", "yes"), ("d", "no")}
    by_edges = LADDER.prune(max_edges=1)
    assert len(by_edges.nodes) == 6
    assert [e.weight for e in by_edges.edges] == [4.0]
    assert [n.id for n in LADDER.prune(share=9 / 13).nodes] == ["a", "d", "yes", "no"]
    assert [n.id for n in LADDER.prune(share=0.0).nodes] == ["yes", "no"]
    assert LADDER.prune(share=1.0) == LADDER.prune()


@given(layered(), st.integers(0, 20), st.integers(0, 40), st.floats(0, 1))
def test_pruning_keeps_the_strongest(drawn: Drawn, max_nodes: int, max_edges: int, share: float) -> None:
    whole_circuit = built(drawn)
    small = whole_circuit.prune(max_nodes=max_nodes, max_edges=max_edges, share=share)
    inner = [n for n in small.nodes if n.kind != "logit"]
    left_out = [n for n in whole_circuit.nodes if n not in small.nodes]
    assert len(inner) <= max_nodes
    assert len(small.edges) <= max_edges
    assert set(small.edges) <= set(whole_circuit.edges)
    if inner and left_out:
        assert min(abs(n.attribution) for n in inner) >= max(abs(n.attribution) for n in left_out)
    if len(inner) < max_nodes:
        kept, whole = (sum(abs(n.attribution) for n in c.nodes if n.kind != "logit") for c in (small, whole_circuit))
        assert kept >= share * whole - 1e-9


def test_impossible_pruning_is_refused() -> None:
    with pytest.raises(CircuitError, match="max_nodes is -1"):
        LADDER.prune(max_nodes=-1)
    with pytest.raises(CircuitError, match=r"share is 1\.5"):
        LADDER.prune(share=1.5)
