"""What `find` makes of a prompt: the toy's circuits, what it refuses, and the strongest nodes and edges."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Hook, Inputs, Site
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import AdapterError, PromptError
from tests.tiny_transformer import TinyTransformer

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


# The strongest nodes and edges


SEARCHES: dict[str, Callable[..., Circuit]] = {
    "contrastive": partial(
        circuitlens.find, TinyTransformer("components"), "a b c", "d", "e", "a b f", measured_edges=0
    ),
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
@given(max_nodes=st.none() | st.integers(0, 500), max_edges=st.none() | st.integers(1, 4000))
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
    no_edges, with_edges = (SEARCHES[method](max_nodes=5, max_edges=count) for count in (0, None))
    assert (len(inner(no_edges)), no_edges.edges) == (5, ())
    assert no_edges.nodes == with_edges.nodes
    assert no_edges.found is not None
    assert no_edges.found.edges == 0  # none are computed where none are asked for, as of many prompts


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
