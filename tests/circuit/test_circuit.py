"""Circuits as values: consistency, pruning, paths, networkx, and files good and bad."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import jsonschema
import networkx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Hook, Inputs, Site
from circuitlens.circuit import (
    Annotations,
    Circuit,
    Edge,
    Group,
    MetricRecord,
    Node,
    Output,
    full_name,
    open_circuit,
    schema,
)
from circuitlens.circuit import circuit as module
from circuitlens.errors import AdapterError, CircuitError, CircuitLensError, PromptError
from circuitlens.literals import MetricName
from tests.tiny_transformer import TinyTransformer


def node(name: str, layer: int, attribution: float = 1.0, kind: str = "feature") -> Node:
    return Node(
        id=name,
        kind=kind,  # type: ignore[arg-type]
        hook=f"hook{layer}",
        layer=layer,
        pos=0,
        index=1 if name == "no" else 0,
        label=name,
        activation=1.0,
        attribution=attribution,
    )


def circuit(nodes: list[Node], edges: dict[tuple[str, str], float], **changes: Any) -> Circuit:
    fields: dict[str, Any] = {
        "created_by": "a test",
        "adapter": "none",
        "prompt": "p",
        "corrupted": None,
        "tokens": ("p",),
        "metric": MetricRecord(
            name="logit_difference",
            answers=(Output(text="yes", index=0),),
            distractors=(Output(text="no", index=1),),
            value=1.0,
        ),
        "method": "gradient",
        "conservation_residual": 0.0,
        "nodes": tuple(nodes),
        "edges": tuple(Edge(source=s, target=t, weight=w) for (s, t), w in edges.items()),
    }
    return Circuit(**{**fields, **changes})


LADDER = circuit(
    [
        node("a", 0, 5, "input"),
        node("b", 0, -1, "input"),
        node("c", 1, 3),
        node("d", 1, -4),
        node("yes", 2, 2, "logit"),
        node("no", 2, 1, "logit"),
    ],
    {("a", "c"): 2.0, ("a", "d"): -3.0, ("b", "d"): 0.5, ("c", "yes"): 1.0, ("d", "yes"): -2.5, ("d", "no"): 4.0},
)


# The toy's circuits


def test_the_toy_circuits(cat: Circuit, cats: Circuit) -> None:
    for circuit, kinds in ((cat, 1), (cats, 1)):
        found = [node.kind for node in circuit.nodes]
        assert {"input", "neuron", "feature", "error", "logit"} == set(found)
        assert found.count("input") == found.count("error") == kinds
        assert circuit.metric.value > 0
        assert circuit.conservation_residual < 1e-5 * circuit.metric.value
        assert circuit.strongest_path().nodes[-1].label == circuit.metric.answers[0].text
    assert [n.kind for n in cats.strongest_path().nodes] == ["input", "neuron", "feature", "logit"]
    assert str(cats.strongest_path()).startswith("plural → H")
    assert str(cat.strongest_path()).startswith("singular → H")


def test_a_contrastive_circuit_has_both_inputs(toy: Adapter) -> None:
    both = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    assert both.method == "ig"
    assert [n.label for n in both.nodes if n.kind == "input"] == ["singular", "plural"]
    assert both.metric.corrupted_value is not None
    assert both.metric.corrupted_value < 0 < both.metric.value
    logits = sum(n.attribution for n in both.nodes if n.kind == "logit")
    assert logits == pytest.approx(both.metric.value - both.metric.corrupted_value, rel=1e-5)


def test_gradient_beside_a_corrupted_prompt_measures_from_zero(toy: Adapter, cats: Circuit) -> None:
    noted = circuitlens.find(toy, "The cats", "run", "runs", "The cat", method="gradient")
    assert noted.nodes == cats.nodes
    assert noted.edges == cats.edges
    assert noted.metric.corrupted_value is not None


def test_the_answer_alone(toy: Adapter) -> None:
    alone = circuitlens.find(toy, "The cats", "run")
    assert alone.metric.name == "logit"
    assert [n.label for n in alone.nodes if n.kind == "logit"] == ["run"]


def test_methods_that_do_not_fit_are_refused(toy: Adapter) -> None:
    with pytest.raises(PromptError, match="'contrastive' compares with a corrupted prompt"):
        circuitlens.find(toy, "The cats", "run", "runs", method="contrastive")
    with pytest.raises(PromptError, match="no method 'lime': choose one of gradient, contrastive, ig, exact"):
        inspect.unwrap(circuitlens.find)(toy, "The cats", "run", method="lime")


def test_an_adapter_that_names_badly_is_told_so(toy: Adapter) -> None:
    class Unnamed(type(toy)):
        def url(self, site: Site, index: int) -> str:
            return "javascript:alert(1)"

    broken = copy(toy)
    broken.__class__ = Unnamed
    with pytest.raises(AdapterError, match=r"'toy' names parts .* url"):
        circuitlens.find(broken, "The cats", "run", "runs")


def test_logits_that_are_not_finite_are_refused(toy: Adapter) -> None:
    class Overflowing(type(toy)):
        def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
            return super().run(inputs, hooks) * float("inf")

    broken = copy(toy)
    broken.__class__ = Overflowing
    with pytest.raises(AdapterError, match="not finite"):
        circuitlens.find(broken, "The cats", "run", "runs")


# Values


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


def test_to_networkx(cats: Circuit) -> None:
    graph = cats.to_networkx()
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_nodes() == len(cats.nodes)
    for edge in cats.edges:
        assert graph.edges[edge.source, edge.target]["weight"] == edge.weight
    for kept in cats.nodes:
        assert graph.nodes[kept.id]["attribution"] == kept.attribution


# Paths


def test_the_strongest_path_by_hand() -> None:
    path = LADDER.strongest_path()
    assert str(path) == "a → d → yes"  # weakest edge 2.5, against 1.0 by c
    assert path.weight == -2.5
    assert str(LADDER.strongest_path("no")) == "a → d → no"
    assert str(LADDER.strongest_path("a")) == "a"


def test_a_path_starts_in_the_lowest_layer_that_reaches_its_end() -> None:
    shortcut = circuit(
        [node("a", 0), node("b", 1), node("late", 1), node("yes", 2, kind="logit")],
        {("a", "b"): 0.1, ("b", "yes"): 1.0, ("late", "yes"): 9.0},
    )
    assert str(shortcut.strongest_path()) == "a → b → yes"


def test_a_circuit_without_its_answer_says_so() -> None:
    with pytest.raises(CircuitError, match="no logit node for its answer 'yes'"):
        circuit([node("a", 0)], {}).strongest_path()


Drawn = tuple[list[tuple[str, int, float]], dict[tuple[str, str], float]]


@st.composite
def layered(draw: st.DrawFn) -> Drawn:
    """Nodes and edges of a random layered circuit, every edge between adjacent layers, some weights equal."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = [[f"n{layer}.{k}" for k in range(size)] for layer, size in enumerate(sizes)] + [["yes"]]
    weights = st.integers(-9, 9).map(float)
    edges = {(s, t): draw(weights) for below, above in pairwise(names) for s in below for t in above}
    return [(name, layer, draw(weights)) for layer, row in enumerate(names) for name in row], edges


def built(drawn: Drawn, **changes: Any) -> Circuit:
    """The circuit (made here, because shape checks use `random`, which a strategy may not)."""
    nodes, edges = drawn
    return circuit([node(*n, "logit" if n[0] == "yes" else "feature") for n in nodes], edges, **changes)


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
    assert abs(found.weight) == max(widths)
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


# Files


def test_a_file_opens_as_it_was_saved(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    assert circuitlens.open(path) == cats
    assert circuitlens.open(str(path)) == cats
    assert list(tmp_path.iterdir()) == [path]
    jsonschema.validate(json.loads(path.read_text()), schema())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layered(), st.text(), st.text(min_size=1))
def test_any_circuit_survives_its_file(tmp_path: Path, drawn: Drawn, prompt: str, token: str) -> None:
    made = built(drawn, prompt=prompt, tokens=(token,))
    made.save(tmp_path / "c.json")
    assert circuitlens.open(tmp_path / "c.json") == made


def edited(cats: Circuit, **changes: Any) -> bytes:
    return json.dumps({**json.loads(cats.model_dump_json()), **changes}).encode()


BAD_FILES = {
    "truncated": (lambda c: c.model_dump_json().encode()[:-200], "is not JSON or breaks off"),
    "empty": (lambda c: b"", "is not JSON or breaks off"),
    "binary": (lambda c: bytes(range(256)) * 10, "is not JSON or breaks off"),
    "pickle": (lambda c: b"\x80\x04\x95\x10\x00", "is not JSON or breaks off"),
    "foreign": (lambda c: b'{"metadata": {}, "nodes": [], "links": []}', "not a circuit file"),
    "list": (lambda c: b"[1, 2]", "not a circuit file"),
    "deep": (lambda c: b"[" * 100_000, "not JSON or breaks off|nested too deeply"),
    "newer": (lambda c: edited(c, version=5, shape="new"), "circuit format 5 .* reads 4: upgrade"),
    "extra": (lambda c: edited(c, colour="red"), "damaged circuit file: colour"),
    "missing": (lambda c: edited(c, nodes=None), "damaged circuit file: nodes"),
    "nan": (lambda c: c.model_dump_json().replace('"weight":', '"weight":NaN,"was":', 1).encode(), "damaged"),
    "huge number": (lambda c: c.model_dump_json().replace('"value":', '"value":1e999,"was":', 1).encode(), "damaged"),
    "no corrupted": (lambda c: edited(c, method="contrastive"), "there is no corrupted prompt"),
    "many faults": (lambda c: edited(c, nodes=[1] * 300_000), r"nodes\.0"),
    "long key": (lambda c: edited(c, **{"k" * 100_000: 1}), "damaged circuit file: kkk"),
    "edge": (lambda c: edited(c, nodes=[]), "names a node that is not there"),
    "url": (
        lambda c: c.model_dump_json().replace('"url":null', '"url":"javascript:alert(1)"', 1).encode(),
        r"damaged circuit file: nodes\.0\.url",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_clear_sentence(kind: str, cats: Circuit, tmp_path: Path) -> None:
    make, why = BAD_FILES[kind]
    path = tmp_path / "bad.json"
    path.write_bytes(make(cats))
    with pytest.raises(CircuitError, match=why) as error:
        open_circuit(path)
    message = str(error.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200_000_000)
    with pytest.raises(CircuitError, match="has 200 MB, above the 100 MB"):
        open_circuit(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match="No such file"):
        open_circuit(tmp_path / "none.json")
    with pytest.raises(CircuitError, match="is not a file"):
        open_circuit(tmp_path)
    with pytest.raises(CircuitError, match="null byte"):
        open_circuit("a\0b")


def test_a_file_that_cannot_be_written_is_one_sentence(cats: Circuit, tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"Can't write .*No such file or directory"):
        cats.save(tmp_path / "no folder" / "c.json")
    with pytest.raises(CircuitError, match="Can't write"):
        cats.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_circuit_too_large_to_open_is_not_saved(
    cats: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(CircuitError, match="prune it first"):
        cats.save(tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []


def test_every_error_is_of_one_family() -> None:
    assert issubclass(CircuitError, CircuitLensError)
    assert issubclass(PromptError, CircuitLensError)


def as_version_1(circuit: Circuit) -> dict[str, Any]:
    """The document that version 1 had for a circuit."""
    document = json.loads(circuit.model_dump_json())
    for added in (
        "options",
        "frozen",
        "found",
        "pairs",
        "by",
        "completeness_gaps",
        "digest",
        "evidence",
        "annotations",
    ):
        del document[added]
    return {**document, "version": 1}


def test_a_file_of_version_1_opens_as_what_it_meant(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(as_version_1(cats)))
    opened = circuitlens.open(path)
    assert (opened.version, opened.options, opened.frozen, opened.found) == (4, {}, False, None)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    assert opened == Circuit(**{**fields, "found": None})
    opened.save(path)
    document = json.loads(path.read_text())
    assert document["version"] == 4
    jsonschema.validate(document, schema())
    assert circuitlens.open(path) == opened


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layered())
def test_any_circuit_of_version_1_opens(tmp_path: Path, drawn: Drawn) -> None:
    made = built(drawn)
    (tmp_path / "old.json").write_text(json.dumps(as_version_1(made)))
    assert circuitlens.open(tmp_path / "old.json") == made


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_a_version_that_never_was_is_refused(version: object, cats: Circuit, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(edited(cats, version=version))
    with pytest.raises(CircuitError, match="damaged circuit file: version"):
        open_circuit(tmp_path / "odd.json")


def test_what_the_adapter_was_loaded_with_is_kept(tmp_path: Path) -> None:
    adapter = TinyTransformer()
    adapter.options = {"layout": "residual", "width": 0, "scale": 0.5, "cut": True, "release": None}
    made = circuitlens.find(adapter, "a b", "d", "e")
    made.save(tmp_path / "c.json")
    assert circuitlens.open(tmp_path / "c.json").options == made.options == adapter.options


# Names

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
    assert full_name(one, ("The cats",)) == alone
    assert full_name(one.model_copy(update={"pos": 1}), ("The", " cats")) == among


def test_paths_say_where_their_nodes_are() -> None:
    nodes = [node("a", 0), node("b", 1).model_copy(update={"pos": 1}), node("yes", 2, kind="logit")]
    edges = {("a", "b"): 2.0, ("b", "yes"): 1.0}
    assert str(circuit(nodes, edges, tokens=("The", " cats")).strongest_path()) == "a L0 'The' → b L1 ' cats' → 'yes'"
    assert str(circuit([n.model_copy(update={"pos": 0}) for n in nodes], edges).strongest_path()) == "a → b → yes"


# The strongest nodes and edges


SEARCHES: dict[str, Callable[..., Circuit]] = {
    "contrastive": partial(circuitlens.find, TinyTransformer("components"), "a b c", "d", "e", "a b f"),
    "gradient": partial(circuitlens.find, TinyTransformer("normalised"), "a b c", ["d", "b"], metric="log_probability"),
}
either = pytest.mark.parametrize("method", SEARCHES)


@cache
def complete(method: str) -> Circuit:
    return SEARCHES[method](max_nodes=None, max_edges=None)


def inner(circuit: Circuit) -> list[Node]:
    return [node for node in circuit.nodes if node.kind != "logit"]


@either
def test_what_was_found_is_what_a_complete_circuit_has(method: str) -> None:
    whole = complete(method)
    assert whole.found is not None
    assert whole.found.nodes == len(inner(whole)) > 100
    assert whole.found.features == sum(n.kind == "feature" for n in inner(whole))
    assert whole.found.attribution == pytest.approx(sum(abs(n.attribution) for n in inner(whole)), rel=1e-9)
    assert whole.found.edges == len(whole.edges) > 1000
    assert whole.conservation_residual < 1e-11


@either
@given(max_nodes=st.none() | st.integers(0, 500), max_edges=st.none() | st.integers(0, 4000))
@settings(max_examples=12)
def test_the_strongest_are_kept_and_the_rest_is_counted(
    method: str, max_nodes: int | None, max_edges: int | None
) -> None:
    whole, made = complete(method), SEARCHES[method](max_nodes=max_nodes, max_edges=max_edges)
    expected = whole.prune(max_nodes=max_nodes)
    assert made.nodes == expected.nodes
    weights = {(e.source, e.target): e.weight for e in expected.edges}
    kept = {(e.source, e.target): e.weight for e in made.edges}
    assert kept == pytest.approx({pair: weights.get(pair, 0.0) for pair in kept}, rel=1e-9, abs=1e-12)
    assert [abs(w) for w in kept.values()] == sorted((abs(w) for w in kept.values()), reverse=True)
    left_out = [abs(weight) for pair, weight in weights.items() if pair not in kept]
    assert made.found is not None
    assert whole.found is not None
    if max_edges is None or made.found.edges <= max_edges:
        assert max(left_out, default=0.0) < 1e-12
        assert made.found.edges == len(made.edges)
    else:
        assert len(made.edges) == max_edges
        assert max(left_out) <= min(map(abs, kept.values()), default=float("inf")) + 1e-12
    same = {"nodes", "features", "attribution"}
    assert made.found.model_dump(include=same) == whole.found.model_dump(include=same)
    assert made.found.edges == pytest.approx(len(expected.edges), abs=3)  # rounding decides whether 1e-17 is an edge
    assert made.conservation_residual < 1e-11


@either
def test_nothing_but_the_logits(method: str) -> None:
    made = SEARCHES[method](max_nodes=0)
    assert made.nodes == tuple(n for n in complete(method).nodes if n.kind == "logit")
    assert len(made.nodes) >= 2
    assert made.edges == ()
    assert made.found is not None
    assert made.found.edges == 0
    assert made.conservation_residual == 0
    no_edges = SEARCHES[method](max_nodes=5, max_edges=0)
    assert (len(inner(no_edges)), no_edges.edges) == (5, ())
    assert no_edges.found is not None
    assert no_edges.found.edges > 0


@either
def test_limits_there_are_by_default(method: str) -> None:
    signature = inspect.signature(circuitlens.find)
    defaults = {name: signature.parameters[name].default for name in ("max_nodes", "max_edges")}
    assert defaults == {"max_nodes": 500, "max_edges": 10_000}
    assert SEARCHES[method]() == SEARCHES[method](**defaults)


@either
def test_negative_limits_are_refused(method: str) -> None:
    for limit in ("max_nodes", "max_edges"):
        with pytest.raises(PromptError, match=rf"{limit} is -1: give a count of 0 or more, or None for all"):
            SEARCHES[method](**{limit: -1})


NOTES = Annotations(
    pins=("sae:0:4",),
    groups=(Group(name="hidden", nodes=("hidden:0:0", "hidden:0:3")),),
    labels={"sae:0:4": "plural verb"},
    notes={"sae:0:4": "looked at twice"},
    focus="sae:0:4",
    edges=12,
    theme="dark",
)


def test_annotations_are_kept_and_change_nothing_that_was_measured(cats: Circuit, tmp_path: Path) -> None:
    annotated = cats.annotated(NOTES)
    assert annotated.content_digest == cats.content_digest
    annotated.save(tmp_path / "c.json")
    again = open_circuit(tmp_path / "c.json")
    assert again.annotations == NOTES
    assert again.content_digest == cats.content_digest
    assert not again.edited
    assert again.annotated(None) == cats


def test_annotating_an_edited_file_does_not_hide_the_edit(cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    cats.save(path)
    path.write_text(path.read_text().replace('"kind": "error"', '"kind": "feature"'))
    assert open_circuit(path).edited
    open_circuit(path).annotated(NOTES).save(path)
    assert open_circuit(path).edited


def test_annotations_name_nodes_of_the_circuit_once(cats: Circuit) -> None:
    with pytest.raises(CircuitError, match="'nothing', which is no node"):
        cats.annotated(Annotations(labels={"nothing": "x"}))
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    with pytest.raises(ValidationError, match="'nothing', which is no node"):
        Circuit(**{**fields, "annotations": Annotations(focus="nothing")})
    group = Group(name="g", nodes=("sae:0:4",))
    wrong: dict[str, Any]
    for wrong in ({"pins": ("a", "a")}, {"pins": ("sae:0:4",), "groups": (group,)}, {"groups": (group, group)}):
        with pytest.raises(ValidationError):
            Annotations(**wrong)
    for wrong in ({"labels": {"a": "x" * 201}}, {"notes": {"a": "x" * 10_001}}, {"edges": -1}, {"theme": "pink"}):
        with pytest.raises(ValidationError):
            Annotations(**wrong)


def test_a_smaller_circuit_keeps_what_is_said_of_its_nodes(cats: Circuit) -> None:
    strongest = max((n for n in cats.nodes if n.kind != "logit"), key=lambda n: abs(n.attribution))
    notes = NOTES.model_copy(update={"pins": (), "labels": {n.id: n.label for n in cats.nodes}, "focus": strongest.id})
    small = cats.annotated(notes).prune(max_nodes=1)
    assert small.annotations is not None
    assert small.annotations.labels.keys() == {n.id for n in small.nodes}
    assert small.annotations.named <= {n.id for n in small.nodes}
