"""Circuits as networkx graphs and files of graph tools, and graphs as circuits."""

from __future__ import annotations

import io
import math
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitlens
from circuitlens.circuit import Annotations, Circuit, Edge
from circuitlens.circuit.nodes import HeadShare
from circuitlens.errors import CircuitError
from circuitlens.interchange.graph_reading import read_graph
from circuitlens.interchange.networks import from_networkx, to_dot, to_gexf, to_graphml
from tests.circuit.handmade import Drawn, built, layered
from tests.interchange.graphs import transcoder_graph, written

HARD = 'a "label" \\N <b>&amp;</b> é 😀'


def ends(edge: Edge) -> tuple[str, str]:
    return edge.source, edge.target


def labelled(cats: Circuit) -> Circuit:
    notes = Annotations(pins=("sae:0:5",), labels={"hook_sae/4": HARD + "\x01"}, notes={"sae:0:4": "n"})
    first, *rest = cats.edges
    head = HeadShare(layer=0, head=1, by_values=0.5, by_pattern=-0.25)
    edges = (first.model_copy(update={"measured": True, "heads": (head,), "standard_error": 0.5}), *rest)
    return cats.model_copy(update={"edges": edges}).annotated(notes)


def test_networkx_and_graphml_give_the_same_circuit(cats: Circuit) -> None:
    circuit = labelled(cats)
    assert circuitlens.from_networkx(circuit.to_networkx()) == circuit
    assert from_networkx(networkx.parse_graphml(to_graphml(circuit))) == circuit


@settings(max_examples=50, deadline=None)
@given(drawn=layered())
def test_random_circuits_lose_nothing(drawn: Drawn) -> None:
    circuit = built(drawn)
    for back in (
        from_networkx(circuit.to_networkx()),
        from_networkx(networkx.parse_graphml(to_graphml(circuit))),
    ):
        assert back.nodes == circuit.nodes
        assert sorted(back.edges, key=ends) == sorted(circuit.edges, key=ends)
        assert back.about == circuit.about


def test_gexf_has_nodes_and_edges(cats: Circuit) -> None:
    graph = networkx.read_gexf(io.BytesIO(to_gexf(labelled(cats)).encode()))
    assert {*graph} == {node.id for node in cats.nodes}
    assert graph.number_of_edges() == len(cats.edges)
    assert graph.nodes["sae:0:4"]["attribution"] == cats.node("sae:0:4").attribution


def test_dot_keeps_labels_text(cats: Circuit) -> None:
    written = to_dot(labelled(cats))
    assert 'label="F5: a \\"label\\" \\\\N <b>&amp;</b> é 😀\\\\x01"' in written
    edge = cats.edges[0]
    assert f'"{edge.source}" -> "{edge.target}" [weight="{abs(edge.weight):.6g}"' in written
    assert written.count(" -> ") == len(cats.edges)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_any_label_makes_files_that_can_be_read(text: str) -> None:
    circuit = built(([("n", 0, 1.0), ("yes", 1, 1.0)], {("n", "yes"): 1.0}))
    nodes = tuple(node.model_copy(update={"label": text}) for node in circuit.nodes)
    circuit = circuit.model_copy(update={"nodes": nodes})
    assert networkx.parse_graphml(to_graphml(circuit)).number_of_nodes() == 2
    assert networkx.read_gexf(io.BytesIO(to_gexf(circuit).encode())).number_of_nodes() == 2
    assert "\x00" not in to_dot(circuit)


def test_a_plain_graph_is_a_circuit() -> None:
    graph = networkx.DiGraph()
    graph.add_edge("a", "b", weight=2.0)
    graph.add_edge("b", 3)
    graph.add_edge("a", 3, weight=-0.5)
    circuit = from_networkx(graph)
    assert [(node.id, node.layer, node.attribution) for node in circuit.nodes] == [
        ("a", 0, 1.5),
        ("b", 1, 1),
        ("3", 2, 0),
    ]
    assert (circuit.edges[0].source, circuit.edges[0].target, circuit.edges[0].weight) == ("a", "b", 2.0)
    assert from_networkx(circuit.to_networkx()) == circuit


def test_an_imported_graph_with_equal_weights_gives_the_same_circuit(tmp_path: Path) -> None:
    graph = transcoder_graph()
    for link in graph["links"]:
        link["weight"] = 1.0
    for node in graph["nodes"]:
        node["activation"] = 1.0
    circuit = read_graph(written(tmp_path / "rain.json", graph))
    assert len({abs(edge.weight) for edge in circuit.edges}) < len(circuit.edges)
    assert from_networkx(circuit.to_networkx()) == circuit


def test_graphs_that_are_no_circuits_are_refused() -> None:
    with pytest.raises(CircuitError, match="undirected"):
        from_networkx(networkx.Graph([("a", "b")]))  # type: ignore[arg-type]
    with pytest.raises(CircuitError, match="no graph"):
        from_networkx(None)  # type: ignore[arg-type]
    with pytest.raises(CircuitError, match="no file can hold"):
        from_networkx(networkx.DiGraph([("a", "b", {"weight": 10**400})]))
    with pytest.raises(CircuitError, match="in a circle"):
        from_networkx(networkx.DiGraph([("a", "b"), ("b", "a")]))
    for field, value, told in (
        ("layer", "top", "layer"),
        ("kind", "x", "kind"),
        ("activation", math.nan, "activation"),
    ):
        graph = networkx.DiGraph([("a", "b")])
        graph.nodes["a"][field] = value
        with pytest.raises(CircuitError, match=told):
            from_networkx(graph)
    graph = networkx.DiGraph([("a", "b")])
    graph.nodes["a"]["label"] = object()
    with pytest.raises(CircuitError, match="no file can hold"):
        from_networkx(graph)
    for about in ("{", "1", '{"adapter": 1}'):
        graph.graph["circuit"] = about
        with pytest.raises(CircuitError):
            from_networkx(graph)


def test_numbers_of_numpy_are_numbers() -> None:
    graph = networkx.DiGraph()
    graph.add_edge("a", "b", weight=np.float32(0.5))
    graph.nodes["a"]["activation"] = torch.tensor(2.0)
    circuit = from_networkx(graph)
    assert (circuit.edges[0].weight, circuit.node("a").activation, circuit.node("a").attribution) == (0.5, 2.0, 0.5)
    graph.nodes["a"]["activation"] = np.zeros(2)
    with pytest.raises(CircuitError, match="an attribute that no file can hold"):
        from_networkx(graph)
