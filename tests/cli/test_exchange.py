"""`circuitlens export` and `circuitlens import`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import networkx
import pytest

import circuitlens
from circuitlens.circuit import Circuit
from tests.cli.running import Here
from tests.interchange.graphs import check, transcoder_graph, written


def test_a_circuit_is_exported_in_each_format(here: Here, cats: Circuit, tmp_path: Path) -> None:
    file = tmp_path / "cats.json"
    cats.save(file)
    for to in ("neuronpedia", "graphml", "gexf", "dot", "csv"):
        code, printed, errors = here("export", str(file), "--to", to)
        assert (code, errors) == (0, ""), errors
        assert "Wrote " in printed
    check(json.loads((tmp_path / "cats-graph.json").read_text()))
    assert networkx.read_graphml(tmp_path / "cats.graphml").number_of_nodes() == len(cats.nodes)
    assert networkx.read_gexf(tmp_path / "cats.gexf").number_of_edges() == len(cats.edges)
    assert (tmp_path / "cats.dot").read_text().startswith("digraph circuit {")
    with (tmp_path / "cats-nodes.csv").open(newline="") as table:
        assert [row["id"] for row in csv.DictReader(table)] == [node.id for node in cats.nodes]
    with (tmp_path / "cats-edges.csv").open(newline="") as table:
        assert [float(row["weight"]) for row in csv.DictReader(table)] == [edge.weight for edge in cats.edges]


def test_an_exported_circuit_is_imported_and_verified(here: Here, cats: Circuit, tmp_path: Path) -> None:
    file, graph, back = (str(tmp_path / name) for name in ("cats.json", "graph.json", "back.json"))
    cats.save(file)
    assert here("export", file, "--to", "neuronpedia", "--scan", "toy-model", "-o", graph)[0] == 0
    assert json.loads(Path(graph).read_text())["metadata"]["scan"] == "toy-model"
    code, printed, _ = here("import", graph, "-o", back)
    assert code == 0
    assert "replacement" in printed
    assert circuitlens.open(back).content_digest == cats.content_digest
    assert here("verify", back, "--draws", "1", "--top", "1", "--prompts", "1")[0] == 0


def test_a_graph_of_another_tool_is_imported_and_exported(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "rain.json", transcoder_graph())
    code, printed, _ = here("import", "rain.json", "--max-edges", "3")
    assert code == 0
    assert "Wrote rain-circuit.json." in printed
    assert len(circuitlens.open("rain-circuit.json").edges) == 3
    assert here("export", "rain-circuit.json", "--to", "neuronpedia", "-o", "again.json")[0] == 0
    assert json.loads(Path("again.json").read_text())["metadata"] == transcoder_graph()["metadata"]


def test_what_can_not_be_done_is_told_in_a_sentence(here: Here, cats: Circuit, tmp_path: Path) -> None:
    file = tmp_path / "cats.json"
    cats.save(file)
    code, _, errors = here("import", str(file))
    assert (code, errors.count("\n")) == (1, 1)
    assert "is not an attribution graph (JSON): node_id: Field required" in errors
    assert here("export", str(file), "--to", "pdf")[0] == 2
    assert here("export", str(file), "--to", "dot", "--scan", "x")[0] == 2
    assert here("export", str(file), "--to", "dot", "-o", str(file))[0] == 2
    written(tmp_path / "rain.json", transcoder_graph())
    code, _, errors = here("import", str(tmp_path / "rain.json"), "--adapter", "toy")
    assert (code, errors.count("\n")) == (1, 1)
    assert here("import", str(tmp_path / "rain.json"), "--adapter", "none")[0] == 2
    for command in (["export", "--to", "dot"], ["import"], ["share"]):
        for folder in (".", "/"):
            code, _, errors = here(*command, folder)
            assert (code, errors.count("\n")) == (1, 1)
            assert "is not a file" in errors
    assert not [*tmp_path.glob("*.part"), *tmp_path.glob("*-circuit.json")]
