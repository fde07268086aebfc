"""Means of single prompts (docs/laws.md): circuits over many prompts against numpy on those of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.discovery import aggregate
from circuitlens.literals import MethodName, PositionGrouping
from circuitlens.prompts.alignment import ALL, align
from circuitlens.prompts.pairs import Pair
from tests.circuits import PAIRS, pair, toy_pairs
from tests.models import Spelled
from tests.oracles import Scores, of_one_prompt, statistics
from tests.tiny_transformer import Layout, TinyTransformer

METHODS: tuple[MethodName, ...] = get_args(MethodName)


def assert_means(circuit: Circuit, scores: Sequence[tuple[Scores, Scores, Scores]]) -> None:
    attributions, activations, edges = (list(column) for column in zip(*scores, strict=True))
    largest = max(abs(node.attribution) for node in circuit.nodes)
    for node in circuit.nodes:
        mean, error = statistics(attributions, node.id)
        assert node.attribution == pytest.approx(mean, rel=1e-9, abs=1e-10)
        assert node.standard_error == pytest.approx(error, rel=1e-6, abs=1e-7 * largest)
        if mean:  # the activation counts where the node changes
            assert node.activation == pytest.approx(statistics(activations, node.id)[0], rel=1e-9, abs=1e-10)
    for edge in circuit.edges:
        mean, error = statistics(edges, (edge.source, edge.target))
        assert edge.weight == pytest.approx(mean, rel=1e-9, abs=1e-10)
        assert edge.standard_error == pytest.approx(error, rel=1e-6, abs=1e-7 * largest)
    # Nothing is left out: no node of any prompt with an effect, no edge between those.
    kept = {node.id for node in circuit.nodes}
    assert {key for each in attributions for key, value in each.items() if value} <= kept
    found = {(edge.source, edge.target) for edge in circuit.edges}
    for key in {key for each in edges for key in each}:
        if key not in found:
            assert not {*key} <= kept or abs(statistics(edges, key)[0]) < 1e-12


def whole(adapter: Adapter, pairs: Sequence[Pair], method: MethodName, **options: Any) -> Circuit:
    everything: dict[str, Any] = {"max_nodes": None, "max_edges": None, "measured_edges": 0, **options}
    return aggregate(adapter, pairs, method, **everything)


@pytest.mark.parametrize(("layout", "method"), [("components", "contrastive"), *(("normalised", m) for m in METHODS)])
def test_means_and_standard_errors_are_those_of_single_prompts(layout: Layout, method: MethodName) -> None:
    adapter, pairs = TinyTransformer(layout), PAIRS[:3]
    circuit = whole(adapter, pairs, method, batch_size=2)
    scores = [of_one_prompt(adapter, one, method, lambda pos: pos) for one in pairs]
    assert_means(circuit, scores)
    singles = [circuitlens.find(adapter, p.prompt, p.answer, p.distractor, p.corrupted, method) for p in pairs]
    assert circuit.metric.value == pytest.approx(np.mean([c.metric.value for c in singles]), rel=1e-12)
    assert circuit.metric.corrupted_value == pytest.approx(np.mean([c.metric.corrupted_value or 0 for c in singles]))
    for site, gap in circuit.completeness_gaps.items():
        assert gap == pytest.approx(np.mean([c.completeness_gaps[site] for c in singles]), abs=1e-9)
    assert bool(circuit.completeness_gaps) == (method in ("path", "ig", "exact"))
    # What most prompts do not have counts as 0 there.
    rare = [n.id for n in circuit.nodes if sum(n.id in each[0] for each in scores) == 1]
    assert len(rare) > 5
    assert circuit.conservation_residual < 1e-11


@pytest.mark.parametrize("method", METHODS)
def test_means_of_the_toy(method: MethodName, toy64: Adapter) -> None:
    pairs = toy_pairs(6)
    circuit = whole(toy64, pairs, method, batch_size=4)
    assert_means(circuit, [of_one_prompt(toy64, one, method, lambda pos: pos) for one in pairs])


@pytest.mark.parametrize("method", ["contrastive", "exact"])
@pytest.mark.parametrize("by", ["role", "sum"])
def test_groups_are_sums_of_positions(by: PositionGrouping, method: MethodName) -> None:
    """Ragged prompts: in each, what one group of positions holds is added up before means are taken."""
    adapter = Spelled()
    pairs = [
        pair("ab c", "ab d", roles=["noun", "verb"]),
        pair("a bcd", "a bcf", "a", "g", roles=["noun", "verb"]),
        pair("abc d", "gbc d", "b", "f", roles=["noun", "verb"]),
    ]
    circuit = whole(adapter, pairs, method, by=by, batch_size=2)
    aligned = align(adapter, pairs, by)
    assert circuit.tokens == aligned.labels == (("<s>", "noun", "verb") if by == "role" else (ALL,))
    assert_means(
        circuit,
        [
            of_one_prompt(adapter, one, method, groups.__getitem__)
            for one, groups in zip(pairs, aligned.groups, strict=True)
        ],
    )


@pytest.mark.parametrize("method", ["gradient", "ig", "exact"])
def test_without_corrupted_prompts(method: MethodName) -> None:
    adapter = TinyTransformer()
    pairs = [one.model_copy(update={"corrupted": None}) for one in PAIRS[:3]]
    circuit = whole(adapter, pairs, method)
    assert_means(circuit, [of_one_prompt(adapter, one, method, lambda pos: pos) for one in pairs])
    assert circuit.corrupted is None
    assert circuit.metric.corrupted_value is None
    assert not circuit.from_corrupted
    assert aggregate(adapter, pairs).method == "gradient"


@pytest.mark.parametrize("layout", ["toy", "components"])
def test_exact_means_are_ablations(layout: str, toy64: Adapter) -> None:
    adapter, pairs = (toy64, toy_pairs(20)) if layout == "toy" else (TinyTransformer("components"), PAIRS[:3])
    circuit = aggregate(adapter, pairs, "exact", max_nodes=8)
    inner = [node for node in circuit.nodes if node.kind != "logit"]
    assert len(inner) == 8
    for node in inner:
        result = circuitlens.ablate(adapter, circuit, [node.id])
        assert result.measured == pytest.approx(node.attribution, abs=1e-9)
        assert result.before == pytest.approx(circuit.metric.value, abs=1e-9)


def test_a_single_prompt_has_no_standard_error() -> None:
    adapter = TinyTransformer()
    one = PAIRS[0]
    circuit = whole(adapter, [one], "path")
    assert circuit.prompt == one.prompt
    assert circuit.tokens == ("a", "b", "c")
    assert {n.standard_error for n in circuit.nodes} == {e.standard_error for e in circuit.edges} == {None}
    assert circuitlens.ablate(adapter, circuit, [circuit.nodes[0].id]).before == pytest.approx(circuit.metric.value)
    attributions, _, edges = of_one_prompt(adapter, one, "path", lambda pos: pos)
    for node in circuit.nodes:
        assert node.attribution == pytest.approx(attributions[node.id], abs=1e-12)
    for edge in circuit.edges:
        assert edge.weight == pytest.approx(edges[edge.source, edge.target], abs=1e-12)


def test_prompts_all_alike_have_no_spread(toy64: Adapter) -> None:
    circuit = aggregate(toy64, toy_pairs(1) * 5, batch_size=2)
    (single,) = [aggregate(toy64, toy_pairs(1))]
    for node, one in zip(circuit.nodes, single.nodes, strict=True):
        assert node.attribution == pytest.approx(one.attribution, rel=1e-12)
        assert node.standard_error == pytest.approx(0, abs=1e-6)


def margin(logits: Tensor) -> Tensor:
    """A metric of one's own."""
    return logits[:, 4].tanh() * logits[:, 5]


@pytest.mark.parametrize("method", METHODS)
def test_a_function_for_a_metric(method: MethodName) -> None:
    adapter = TinyTransformer()
    pairs = PAIRS[:2]
    circuit = whole(adapter, pairs, method, metric=margin, batch_size=1)
    assert circuit.metric.name == "custom"
    singles = [
        circuitlens.find(
            adapter,
            p.prompt,
            p.answer,
            p.distractor,
            p.corrupted,
            method,
            metric=margin,
            max_nodes=None,
            max_edges=None,
            measured_edges=0,
        )
        for p in pairs
    ]
    tables = [{n.id: n.attribution for n in c.nodes} for c in singles]
    for node in circuit.nodes:
        if node.kind != "logit":
            assert node.attribution == pytest.approx(statistics(tables, node.id)[0], abs=1e-10)
    feature = next(n for n in circuit.nodes if n.kind == "feature")
    assert circuitlens.ablate(adapter, circuit, [feature.id], margin).before == pytest.approx(circuit.metric.value)
