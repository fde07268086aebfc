"""Circuits as attribution graphs and back: the public schema, and nothing lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Annotations, Circuit, Group
from circuitlens.circuit.nodes import HeadShare
from circuitlens.errors import CircuitError
from circuitlens.interchange.graph_json import to_graph, write_graph
from circuitlens.interchange.graph_reading import read_graph
from tests.circuit.handmade import Drawn, built, chain, layered, measured
from tests.circuits import toy_circuit, toy_pairs
from tests.interchange.graphs import check, links_of, nodes_of, transcoder_graph, written

NOTED = Annotations(
    pins=("sae:0:5", "hidden:0:1"),
    groups=(Group(name="say <run>", nodes=("sae:0:4", "hidden:0:0")),),
    labels={"hook_sae/4": 'mine "</script>'},
    notes={"sae:0:4": "a note"},
)


def same(one: Circuit, other: Circuit) -> bool:
    """Whether two circuits are alike but for what the file said that one was read from."""
    return one.model_copy(update={"imported": ""}) == other.model_copy(update={"imported": ""})


def again(circuit: Circuit, folder: Path) -> Circuit:
    """Written as a graph and read."""
    write_graph(circuit, folder / "graph.json")
    check(json.loads((folder / "graph.json").read_text()))
    return read_graph(folder / "graph.json")


def test_a_circuit_comes_back_whole_with_its_evidence(toy: Adapter, tmp_path: Path) -> None:
    circuit = circuitlens.verify(toy, toy_circuit(toy, "The cats", "path"), draws=1, top=2, prompts=2).annotated(NOTED)
    back = again(circuit, tmp_path)
    assert same(back, circuit)
    assert back.own_evidence == circuit.evidence
    assert circuitlens.ablate(toy, back, ["sae:0:4"]) == circuitlens.ablate(toy, circuit, ["sae:0:4"])
    first = (tmp_path / "graph.json").read_bytes()
    again(back, tmp_path)
    assert (tmp_path / "graph.json").read_bytes() == first


def test_a_circuit_over_many_prompts_comes_back(toy: Adapter, tmp_path: Path) -> None:
    circuit = circuitlens.aggregate(toy, toy_pairs(6))
    assert circuit.nodes[0].standard_error is not None
    assert same(again(circuit, tmp_path), circuit)


def test_what_edges_say_beside_their_weight_comes_back(cats: Circuit, tmp_path: Path) -> None:
    first, *rest = cats.edges
    head = HeadShare(layer=0, head=1, by_values=0.5, by_pattern=-0.25)
    edges = (first.model_copy(update={"measured": True, "heads": (head,)}), *rest)
    assert same(again(cats.model_copy(update={"edges": edges}), tmp_path), cats.model_copy(update={"edges": edges}))


def test_a_circuit_whose_file_was_edited_stays_so(cats: Circuit, tmp_path: Path) -> None:
    assert again(cats.model_copy(update={"digest": "none"}), tmp_path).edited
    assert not again(cats, tmp_path).edited


@settings(max_examples=50, deadline=None)
@given(drawn=layered(), data=st.data())
def test_export_import_export(drawn: Drawn, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    circuit = built(drawn)
    ids = data.draw(st.permutations([node.id for node in circuit.nodes]))
    cut = data.draw(st.integers(0, len(ids)))
    pins, grouped = ids[: cut // 2], ids[cut // 2 : cut]
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
    notes = Annotations(
        pins=tuple(pins),
        groups=(Group(name=data.draw(text), nodes=tuple(grouped)),) if grouped else (),
        labels={data.draw(st.sampled_from([n.label_key for n in circuit.nodes])): data.draw(text)},
    )
    circuit, path = circuit.annotated(notes), tmp_path_factory.getbasetemp() / "drawn.json"
    write_graph(circuit, path)
    first = json.loads(path.read_text())
    check(first)
    back = read_graph(path)
    assert same(back, circuit)
    write_graph(back, path)
    assert json.loads(path.read_text()) == first


def test_a_graph_of_transcoders_loses_nothing(tmp_path: Path) -> None:
    """Pins, supernodes, labels, thresholds, and fields that CircuitLens has no use for."""
    graph = transcoder_graph()
    check(graph)
    circuit = read_graph(written(tmp_path / "rain.json", graph))
    circuit.save(tmp_path / "circuit.json")
    back = to_graph(circuitlens.open(tmp_path / "circuit.json"), slug="another")
    assert back["metadata"] == graph["metadata"]
    assert to_graph(circuit, scan="another")["metadata"] == graph["metadata"] | {"scan": "another"}
    assert back["qParams"] == graph["qParams"]
    assert nodes_of(back) == nodes_of(graph)
    assert links_of(back) == links_of(graph)


def test_nothing_is_said_of_another_tools_weights(tmp_path: Path) -> None:
    """What our own links and outputs mean is not what theirs do."""
    graph = transcoder_graph()
    del graph["metadata"]["info"]
    assert "info" not in to_graph(read_graph(written(tmp_path / "rain.json", graph)))["metadata"]


def test_the_target_is_the_answer_also_where_the_distractor_does_more(cats: Circuit) -> None:
    (answer,) = (output.index for output in cats.metric.answers)
    nodes = tuple(
        node.model_copy(update={"attribution": 0.1 if node.index == answer else -5.0}) if node.is_logit else node
        for node in cats.nodes
    )
    outputs = [n for n in to_graph(cats.model_copy(update={"nodes": nodes}))["nodes"] if n["feature_type"] == "logit"]
    assert len(outputs) == 2
    assert [n["circuitlens"]["index"] for n in outputs if n["is_target_logit"]] == [answer]


def test_what_a_reader_changes_here_is_in_the_graph(tmp_path: Path) -> None:
    circuit = read_graph(written(tmp_path / "rain.json", transcoder_graph()))
    assert circuit.annotations == Annotations(pins=("0_5_1",), groups=(Group(name="place", nodes=("1_7_1", "E_99_1")),))
    assert str(circuit.meaning("1_7_1")) == "<b>Spain</b> (file)"
    feature = circuit.node("0_5_1")
    changed = circuit.annotated(Annotations(pins=("1_-1_1",), labels={feature.label_key: "rain"}))
    graph = to_graph(changed)
    assert graph["qParams"] | {"pinnedIds": ["1_-1_1"], "supernodes": []} == graph["qParams"]
    assert graph["qParams"]["sg_pos"] == "1,2"
    clerps = {name: node["clerp"] for name, node in nodes_of(graph).items()}
    assert (clerps["0_5_1"], clerps["1_7_1"]) == ("rain", "<b>Spain</b>")
    assert clerps["3_11_1"] == 'Output " rain" (p=0.600)'


def test_what_a_reader_changes_there_is_in_the_circuit(cats: Circuit, tmp_path: Path) -> None:
    graph = to_graph(cats.annotated(NOTED))
    ids = {node["circuitlens"]["id"]: node["node_id"] for node in graph["nodes"]}
    graph["qParams"]["pinnedIds"] = [ids["sae:0:0"], ids["sae:0:5"], "gone_0_0"]
    graph["qParams"]["supernodes"] = [["a", ids["sae:0:5"]], ["a", ids["sae:0:5"], ids["sae:0:4"]], ["", "gone"]]
    nodes_of(graph)[ids["sae:0:4"]]["clerp"] = ""
    nodes_of(graph)[ids["sae:0:0"]]["clerp"] = "x" * 300
    said = read_graph(written(tmp_path / "graph.json", graph)).annotations
    assert said == Annotations(
        pins=("sae:0:0",),
        groups=(Group(name="a", nodes=("sae:0:5",)), Group(name="a (2)", nodes=("sae:0:4",))),
        labels={"hook_sae/0": "x" * 200},
        notes={"sae:0:4": "a note"},
    )


def test_ids_layers_and_types_are_those_that_readers_know(toy: Adapter) -> None:
    graph = to_graph(toy_circuit(toy, "The cats"))
    by_our_id = {node["circuitlens"]["id"]: node for node in graph["nodes"]}
    feature = by_our_id["sae:0:4"]
    assert (feature["node_id"], feature["layer"], feature["jsNodeId"]) == ("2_4_0", "2", "2_4-0")
    assert feature["feature"] == (2 + 4) * (2 + 4 + 1) // 2 + 4
    assert feature["feature_type"] == "cross layer transcoder"
    assert by_our_id["sae:0:error"]["node_id"] == "2_-1_0"
    assert by_our_id["sae:0:error"]["feature_type"] == "mlp reconstruction error"
    assert by_our_id["input:0:1"]["node_id"] == "E_1_0"
    assert by_our_id["logits:0:1"]["node_id"] == "3_1_0"
    # Influence is a cumulative share: the strongest has the smallest, and no node is left out at the threshold.
    told = sorted(node["influence"] for node in graph["nodes"] if node["influence"] is not None)
    assert 0 < told[0] < told[-1] == pytest.approx(1)
    assert graph["metadata"]["node_threshold"] == 1


def test_layers_are_the_models_own_where_each_hook_has_one(cats: Circuit) -> None:
    hooks = {"hook_hidden": "blocks.8.hook_resid_pre", "hook_sae": "blocks.15.hook_resid_pre"}

    def moved(to: dict[str, str]) -> list[str]:
        nodes = tuple(node.model_copy(update={"hook": to.get(node.hook, node.hook)}) for node in cats.nodes)
        return list(
            dict.fromkeys(node["layer"] for node in to_graph(cats.model_copy(update={"nodes": nodes}))["nodes"])
        )

    assert moved(hooks) == ["E", "8", "15", "16"]
    assert moved({**hooks, "hook_sae": "blocks.8.hook_mlp_out"}) == ["E", "1", "2", "3"]
    assert moved({"hook_hidden": "blocks.0.hook_resid_pre"}) == ["E", "1", "2", "3"]


def test_pages_of_features_say_the_model_and_its_dictionaries(cats: Circuit) -> None:
    page = "https://www.neuronpedia.org/gpt2-small/8-res-jb/4"
    nodes = tuple(node.model_copy(update={"url": page if node.id == "sae:0:4" else None}) for node in cats.nodes)
    metadata = to_graph(cats.model_copy(update={"nodes": nodes}))["metadata"]
    assert (metadata["scan"], metadata["feature_details"]) == ("gpt2-small", {"neuronpedia_source_set": "res-jb"})
    assert to_graph(cats)["metadata"]["scan"] == "toy"
    assert to_graph(cats.model_copy(update={"options": {"model": "org/gpt 2"}}))["metadata"]["scan"] == "gpt-2"
    assert to_graph(cats.model_copy(update={"options": {"model": "gpt2"}}))["metadata"]["scan"] == "gpt2-small"


def test_names_that_neuronpedia_does_not_take_are_refused(cats: Circuit, tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"The scan is 'a/b': give letters"):
        to_graph(cats, scan="a/b")
    write_graph(cats, tmp_path / "The cats!.json")
    assert json.loads((tmp_path / "The cats!.json").read_text())["metadata"]["slug"] == "The-cats-"
    with pytest.raises(CircuitError, match="Can't write"):
        write_graph(cats, tmp_path / "no" / "graph.json")


def test_nodes_of_one_place_have_ids_of_their_own() -> None:
    circuit: Any = measured(chain())
    twins = tuple(node.model_copy(update={"hook": "h", "pos": 1, "index": 0}) for node in circuit.nodes)
    check(to_graph(circuit.model_copy(update={"nodes": twins})))
