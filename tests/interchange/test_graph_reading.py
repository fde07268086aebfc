"""Graphs of other tools as circuits: what nodes do by hand and in the model, pruning, and files that are refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitError
from circuitlens.interchange import graph_parsing
from circuitlens.interchange.graph_json import to_graph
from circuitlens.interchange.graph_reading import read_graph
from circuitlens.viewer.elements import elements
from circuitlens.viewer.session import Session
from tests.interchange.graphs import Json, as_circuit_tracer_has_it, made_node, transcoder_graph, written
from tests.pages import Asker


def test_attributions_and_edges_by_hand(tmp_path: Path) -> None:
    """Of the 3 that feature 1/7 (active at 4) does, 6 ÷ 4 are by feature 0/5 and −2 ÷ 4 by the token."""
    circuit = read_graph(written(tmp_path / "rain.json", transcoder_graph()))
    assert str(circuit.metric) == "logit ' rain'"
    assert circuit.metric.value == 3 + 1 - 2
    told = {node.id: node.attribution for node in circuit.nodes}
    through = 3 * 6 / 4
    assert told["0_5_1"] == through - 2
    assert told["1_7_1"] == 3
    assert told["1_-1_1"] == 1
    assert told["E_99_1"] == pytest.approx(3 * -2 / 4 + told["0_5_1"] * 2.5 / 2)
    assert told["3_12_1"] == 0
    weights = {(edge.source, edge.target): (edge.weight, edge.into_target) for edge in circuit.edges}
    assert weights["0_5_1", "1_7_1"] == (through, 6)
    assert weights["0_5_1", "3_11_1"] == (-2, -2)
    assert weights["0_5_1", "3_12_1"] == (0, 0.5)
    kinds = {node.id: (node.kind, node.layer, node.index, node.label) for node in circuit.nodes}
    assert kinds["E_99_1"] == ("embedding", 0, None, "Spain")
    assert kinds["0_5_1"] == ("feature", 1, 5, "F5")
    assert kinds["1_-1_1"] == ("error", 2, None, "error")
    assert kinds["3_12_1"] == ("logit", 3, 12, ' "q"')
    assert circuit.node("0_5_1").url == "https://www.neuronpedia.org/gemma-2-2b/0-gemmascope-transcoder-16k/5"


def test_without_activations_a_feature_is_as_strong_as_the_links_into_it(tmp_path: Path) -> None:
    graph = transcoder_graph()
    for node in graph["nodes"]:
        del node["activation"]
    circuit = read_graph(written(tmp_path / "rain.json", graph))
    assert circuit.node("0_5_1").attribution == 3 * 6 / (6 + 2) - 2


def test_with_its_adapter_a_graph_is_verified(toy: Adapter, tmp_path: Path) -> None:
    """A linear model's circuit as circuit-tracer would write it has the attributions that were found in the model."""
    found = circuitlens.find(toy, "The cats", "run")
    path = written(tmp_path / "toy.json", as_circuit_tracer_has_it(found, to_graph(found)))
    circuit = read_graph(path, toy)
    assert [node.id for node in circuit.nodes] == [node.id for node in found.nodes]
    for node, known in zip(circuit.nodes, found.nodes, strict=True):
        assert node.attribution == pytest.approx(known.attribution, rel=1e-5)
        assert (node.hook, node.label, node.kind) == (known.hook, known.label, known.kind)
    weights = {(edge.source, edge.target): edge.weight for edge in found.edges}
    for edge in circuit.edges:
        assert edge.weight == pytest.approx(weights[edge.source, edge.target], rel=1e-5)
    result = circuitlens.ablate(toy, circuit, ["sae:0:4"])
    assert result.measured_drop == pytest.approx(result.predicted_drop, rel=1e-5)
    evidence = circuitlens.verify(toy, circuit, draws=1, top=2, prompts=2).evidence
    assert evidence is not None
    assert {check.name: check.status for check in evidence.checks if check.name in ("reproduced", "record")} == {
        "reproduced": "passed",
        "record": "passed",
    }


def test_an_adapter_that_does_not_fit_is_refused(toy: Adapter, tmp_path: Path) -> None:
    found = circuitlens.find(toy, "The cats", "run")
    graph = as_circuit_tracer_has_it(found, to_graph(found))

    def refused(change: Callable[[Json], Any]) -> str:
        changed = json.loads(json.dumps(graph))
        change(changed)
        with pytest.raises(CircuitError) as error:
            read_graph(written(tmp_path / "toy.json", changed), toy)
        return str(error.value)

    assert "the adapter 'toy' reads ['The cats']" in refused(lambda g: g["metadata"].update(prompt_tokens=["The dogs"]))
    (feature,) = (n for n, node in enumerate(graph["nodes"]) if node["node_id"] == "2_4_0")
    assert "has no place for its node '9_4_0'" in refused(
        lambda g: (g["nodes"][feature].update(layer="9", node_id="9_4_0"), g.update(links=[]))
    )
    assert "has no place for its node '2_99_0'" in refused(
        lambda g: (g["nodes"][feature].update(node_id="2_99_0"), g.update(links=[]))
    )


def test_an_imported_circuit_opens_in_the_page_and_its_labels_stay_text(tmp_path: Path) -> None:
    graph, hostile = transcoder_graph(), "</script><script>alert(1)</script>"
    graph["nodes"][0]["clerp"] = hostile
    path = tmp_path / "circuit.json"
    read_graph(written(tmp_path / "rain.json", graph)).save(path)
    session = Session([circuitlens.open(path)], [path])
    try:
        page = Asker(session)
        assert page.get("/_dash-layout").status_code == 200
        assert "alert(1)" not in page.get("/").text
    finally:
        session.close()
    drawn = {element["data"].get("node"): element["data"] for element in elements(session.circuit(0))}
    assert {"0_5_1", "1_7_1", "3_11_1"} <= drawn.keys()
    assert drawn["0_5_1"]["meaning"] == hostile


def test_the_most_influential_are_kept_and_all_that_is_pinned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = transcoder_graph()
    graph["qParams"] = {"pinnedIds": ["1_-1_1"]}
    path = written(tmp_path / "rain.json", graph)
    with caplog.at_level(logging.WARNING):
        small = read_graph(path, max_nodes=1, max_edges=2)
    # The token has 0.7 of influence and feature 0/5 0.625: 0.2 by each output and 6/8 of the 0.3 of 1/7.
    assert {node.id for node in small.nodes} == {"E_99_1", "1_-1_1", "3_11_1", "3_12_1"}
    assert [(edge.source, edge.target) for edge in small.edges] == [("1_-1_1", "3_11_1")]
    assert caplog.messages == ["Kept the 4 nodes and 1 edges of most influence, of 7 nodes and 7 links."]
    assert small.found is not None
    assert (small.found.nodes, small.found.edges) == (5, 7)


def test_a_circuit_of_ours_is_pruned_on_the_way_in(cats: Circuit, tmp_path: Path) -> None:
    path = written(tmp_path / "cats.json", to_graph(cats))
    assert read_graph(path, max_edges=3).edges == cats.edges[:3]
    assert [n.id for n in read_graph(path, max_nodes=2).nodes] == [n.id for n in cats.prune(max_nodes=2).nodes]


# Hostile files


def test_a_whole_number_may_be_as_large_as_a_real_one(tmp_path: Path) -> None:
    graph = transcoder_graph()
    graph["nodes"][0]["activation"] = 10**30
    assert read_graph(written(tmp_path / "rain.json", graph)).node("0_5_1").activation == 1e30


TEXTS = ["{", "[]", "{}", '{"node_id": 1}', "[" * 100_000, '{"metadata": {}, "qParams": {"supernodes": [[]]}}']


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_circuit_file_says_of_its_graph_is_checked(text: str, tmp_path: Path) -> None:
    circuit = read_graph(written(tmp_path / "rain.json", transcoder_graph()))
    for part in ("circuit", "node"):
        document = json.loads(circuit.model_dump_json())
        (document if part == "circuit" else document["nodes"][0])["imported"] = text
        with pytest.raises(CircuitError, match=r"damaged circuit file: (nodes\.0\.)?imported: "):
            circuitlens.open(written(tmp_path / "bad.json", document))


def refused(path: Path) -> str:
    """Why a file is refused, in one sentence."""
    with pytest.raises(CircuitError) as error:
        read_graph(path)
    told = str(error.value)
    assert "\n" not in told
    assert len(told) < 500
    return told


def node(**more: Any) -> Callable[[Json], object]:
    return lambda graph: graph["nodes"][0].update(more)


def link(**more: Any) -> Callable[[Json], object]:
    return lambda graph: graph["links"][0].update(more)


FAULTS: dict[str, Callable[[Json], object]] = {
    "it has no 'qParams'": lambda graph: graph.pop("qParams"),
    "slug: Field required": lambda graph: graph["metadata"].pop("slug"),
    "prompt_tokens: Tuple should have at least 1 item": lambda graph: graph["metadata"].update(prompt_tokens=[]),
    "'nodes' is no list": lambda graph: graph.update(nodes={}),
    "feature: Input should be a valid integer": node(feature="5"),
    "ctx_idx: Input should be greater than or equal to 0": node(ctx_idx=-1),
    "node '0_5_1' is at position 7 of 2 tokens": node(ctx_idx=7),
    "layer.": node(layer="../E"),
    "feature_type: Input should be a valid string": node(feature_type=None),
    "clerp: Input should be a valid string": node(clerp={"a": 1}),
    "activation: Input should be less than or equal to 10000": node(activation=1e200),
    "two nodes have the id '1_7_1'": node(node_id="1_7_1"),
    "a link names the node 'nowhere', which is not there": link(source="nowhere"),
    "has no source and target, as text, and weight, as a number": link(weight="1"),
    "a link has the weight 1e+200": link(weight=1e200),
    "two links join '0_5_1' and '1_7_1'": link(source="0_5_1", target="1_7_1"),
    "the links run in a circle": lambda graph: graph["links"].append(
        {"source": "1_7_1", "target": "0_5_1", "weight": 1.0}
    ),
    "goes out of an output": lambda graph: graph["links"].append(
        {"source": "3_11_1", "target": "3_12_1", "weight": 1.0}
    ),
    "it has no node of the type 'logit'": lambda graph: [n.update(feature_type="x") for n in graph["nodes"]],
    "pinnedIds.0: Input should be a valid string": lambda graph: graph["qParams"].update(pinnedIds=[1]),
    "supernodes.0: Tuple should have at least 1 item": lambda graph: graph["qParams"].update(supernodes=[[]]),
    "a field 'circuitlens' holds 1": lambda graph: (
        graph["metadata"].update(circuitlens={}),
        [n.update(circuitlens=1) for n in graph["nodes"]],
    ),
    "that makes a circuit": lambda graph: (
        graph["metadata"].update(circuitlens={}),
        [n.update(circuitlens={"id": n["node_id"]}) for n in graph["nodes"]],
    ),
}


@pytest.mark.parametrize("told", FAULTS)
def test_a_file_that_breaks_the_format_is_refused(told: str, tmp_path: Path) -> None:
    graph = transcoder_graph()
    FAULTS[told](graph)
    assert told in refused(written(tmp_path / "bad.json", graph))


BAD = {
    "it is nested too deeply": b'{"metadata":' + b"[" * 100_000,
    "NaN is no number": b'{"links":[{"source":"a","target":"b","weight":NaN}]}',
    "Infinity is no number": b'{"links":[{"source":"a","target":"b","weight":-Infinity}]}',
    "or a value has over 1,000,000 characters": b'{"metadata":"' + b"x" * 3_000_000 + b'"}',
    "1e999 is no number that fits": b'{"metadata":{"node_threshold":1e999}}',
    "a number in it has 5000 digits": b'{"metadata":' + b"1" * 5000 + b"}",
    "the key 'metadata' is there twice": b'{"metadata":{},"metadata":{}}',
    "byte 14 is 0xff": b'{"metadata":"\xff"}',
    "it breaks off": b'{"links":[{"source":"a","target":"b","weight":1}',
    "it has '[' where '{' should be": b"[]",
    "something follows its end": b"{}{}",
}


@pytest.mark.parametrize("told", BAD)
def test_what_is_no_json_object_is_refused(told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(BAD[told])
    assert told in refused(tmp_path / "bad.json")


def test_reading_ends_at_the_first_node_or_link_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows is not looked at: it is no JSON."""
    monkeypatch.setattr(graph_parsing, "MAX_NODES", 3)
    monkeypatch.setattr(graph_parsing, "MAX_LINKS", 2)
    path = tmp_path / "bad.json"
    nodes = ",".join(json.dumps(made_node("feature", "1", n, 0)) for n in range(4))
    path.write_text(f'{{"nodes":[{nodes}, here it breaks')
    assert "it has more than 3 nodes: prune it where it is made" in refused(path)
    for ends, told in (
        (["ab", "cd"], "it has more than 3 nodes"),
        (["ab", "ac", "bc"], "it has more than 2 links"),
        (["ab", "ab"], "two links join 'a' and 'b'"),
    ):
        links = ",".join(json.dumps({"source": s, "target": t, "weight": 1}) for s, t in ends)
        path.write_text(f'{{"links":[{links}, here it breaks')
        assert told in refused(path)


def test_files_that_are_too_large_or_none_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(100_000_001)
    assert "has 100 MB, above the 100 MB" in refused(tmp_path / "large.json")
    assert "is not a file" in refused(tmp_path)
    assert "Can't read" in refused(tmp_path / "none.json")


def test_a_long_chain_is_refused(tmp_path: Path) -> None:
    nodes = [made_node("feature", str(n), 0, 0) for n in range(1, 1100)] + [made_node("logit", "9999", 0, 0)]
    ids = [node["node_id"] for node in nodes]
    links = [{"source": source, "target": target, "weight": 1.0} for source, target in pairwise(ids)]
    graph = {**transcoder_graph(), "qParams": {}, "nodes": nodes, "links": links}
    assert "a chain of more than 1,000" in refused(written(tmp_path / "chain.json", graph))
