"""Circuits over many prompts against numpy on single-prompt circuits, whatever the batches, order and padding."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from circuitlens_toy.grammar import VERBS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.aggregation import BATCH, Keys, Piece, Table, aggregate, pieces
from circuitlens.attribution.gradient import VECTOR
from circuitlens.circuit import ANSWER, DISTRACTOR, Circuit, open_circuit
from circuitlens.circuit.evidence import Evidence
from circuitlens.errors import PromptError
from circuitlens.literals import MethodName, PositionGrouping
from circuitlens.prompts.alignment import ALL, align
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.words import NOUNS, plural_of
from tests.prompts.test_alignment import Spelled
from tests.tiny_transformer import Layout, TinyTransformer

METHODS: tuple[MethodName, ...] = get_args(MethodName)


def pair(prompt: str, corrupted: str | None, answer: Any = "d", distractor: Any = "e", roles: Any = ()) -> Pair:
    return Pair.model_validate(
        {"prompt": prompt, "corrupted": corrupted, "answer": answer, "distractor": distractor, "roles": tuple(roles)}
    )


PAIRS = [
    pair("a b c", "a b f"),
    pair("c d e", "c d b", "a", "g"),
    pair("g a b", "f a b", ["b", "c"], "d"),
    pair("d d a", "d c a"),
    pair("b c d", "b c e", "g", ["a", "f"]),
]


def toy_pairs(count: int) -> list[Pair]:
    """Singular and plural sentences in turn, each against its other number."""
    made = []
    for noun, verb in product(sorted(NOUNS), sorted(VERBS)):
        one, many = f"The {noun} {verb}", f"The {plural_of(noun)} {verb}"
        made += [pair(one, many, "runs", "run"), pair(many, one, "run", "runs")]
    random.Random(0).shuffle(made)
    return made[:count]


# Against numpy

Scores = dict[Any, float]


def alone(
    adapter: Adapter, one: Pair, method: MethodName, names: Callable[[int], int]
) -> tuple[Scores, Scores, Scores]:
    """One prompt's attributions, activations and edges by site, position (as `names` calls it) and index."""
    circuit = circuitlens.find(
        adapter, one.prompt, one.answer, one.distractor, one.corrupted, method, max_nodes=None, max_edges=None
    )
    answers = {output.index for output in circuit.metric.answers}

    def key(node_id: str) -> str:
        node = circuit.node(node_id)
        site, _, index = node.id.split(":")
        if node.kind == "logit":
            index = "other" if node.index is None else ANSWER if node.index in answers else DISTRACTOR
        return f"{site}:{names(node.pos)}:{index}"

    found: tuple[Scores, Scores, Scores] = ({}, {}, {})
    for node in circuit.nodes:
        for scores, value in zip(found, (node.attribution, node.activation), strict=False):
            scores[key(node.id)] = scores.get(key(node.id), 0.0) + value
    for edge in circuit.edges:
        pair_of = key(edge.source), key(edge.target)
        found[2][pair_of] = found[2].get(pair_of, 0.0) + edge.weight
    return found


def statistics(many: Sequence[Scores], key: Any) -> tuple[float, float]:
    """Mean and standard error; a prompt without the key counts as 0."""
    values = np.array([scores.get(key, 0.0) for scores in many])
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


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
    everything: dict[str, Any] = {"max_nodes": None, "max_edges": None, **options}
    return aggregate(adapter, pairs, method, **everything)


@pytest.mark.parametrize(("layout", "method"), [("components", "contrastive"), *(("normalised", m) for m in METHODS)])
def test_means_and_standard_errors_are_those_of_single_prompts(layout: Layout, method: MethodName) -> None:
    adapter, pairs = TinyTransformer(layout), PAIRS[:3]
    circuit = whole(adapter, pairs, method, batch_size=2)
    scores = [alone(adapter, one, method, lambda pos: pos) for one in pairs]
    assert_means(circuit, scores)
    singles = [circuitlens.find(adapter, p.prompt, p.answer, p.distractor, p.corrupted, method) for p in pairs]
    assert circuit.metric.value == pytest.approx(np.mean([c.metric.value for c in singles]), rel=1e-12)
    assert circuit.metric.corrupted_value == pytest.approx(np.mean([c.metric.corrupted_value or 0 for c in singles]))
    for site, gap in circuit.completeness_gaps.items():
        assert gap == pytest.approx(np.mean([c.completeness_gaps[site] for c in singles]), abs=1e-9)
    assert bool(circuit.completeness_gaps) == (method in ("ig", "exact"))
    # What most prompts do not have counts as 0 there.
    rare = [n.id for n in circuit.nodes if sum(n.id in each[0] for each in scores) == 1]
    assert len(rare) > 5
    assert circuit.conservation_residual < 1e-11


@pytest.mark.parametrize("method", METHODS)
def test_means_of_the_toy(method: MethodName, toy64: Adapter) -> None:
    pairs = toy_pairs(6)
    circuit = whole(toy64, pairs, method, batch_size=4)
    assert_means(circuit, [alone(toy64, one, method, lambda pos: pos) for one in pairs])


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
        [alone(adapter, one, method, groups.__getitem__) for one, groups in zip(pairs, aligned.groups, strict=True)],
    )


@pytest.mark.parametrize("method", ["gradient", "ig", "exact"])
def test_without_corrupted_prompts(method: MethodName) -> None:
    adapter = TinyTransformer()
    pairs = [one.model_copy(update={"corrupted": None}) for one in PAIRS[:3]]
    circuit = whole(adapter, pairs, method)
    assert_means(circuit, [alone(adapter, one, method, lambda pos: pos) for one in pairs])
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


def test_the_strongest_means_are_kept() -> None:
    adapter = TinyTransformer("components")
    every = whole(adapter, PAIRS, "ig")
    some = aggregate(adapter, PAIRS, max_nodes=7, max_edges=20)
    assert some.method == "ig"  # with corrupted prompts
    order = sorted((n for n in every.nodes if n.kind != "logit"), key=lambda n: -abs(n.attribution))
    assert {n.id for n in some.nodes if n.kind != "logit"} == {n.id for n in order[:7]}
    assert [n.id for n in some.nodes] == [n.id for n in every.nodes if n.id in {m.id for m in some.nodes}]
    kept = {n.id for n in some.nodes}
    between = [e for e in every.edges if {e.source, e.target} <= kept]
    assert [(e.source, e.target) for e in some.edges] == [(e.source, e.target) for e in between[:20]]
    assert [e.weight for e in some.edges] == pytest.approx([e.weight for e in between[:20]], abs=1e-12)
    assert some.conservation_residual < 1e-11
    assert some.found is not None
    assert every.found is not None
    assert some.found.nodes == every.found.nodes == sum(n.kind != "logit" for n in every.nodes)
    assert some.found.features == sum(n.kind == "feature" for n in every.nodes)
    assert some.found.attribution == pytest.approx(sum(abs(n.attribution) for n in order))
    assert some.found.edges == len(between)


# Batches, order, padding


def assert_same(ours: Circuit, theirs: Circuit, bound: float = 1e-6) -> None:
    """Equal nodes and edges, counting what is missing as 0."""
    nodes, edges = (
        [{n.id: (n.attribution, n.activation, n.standard_error) for n in c.nodes} for c in (ours, theirs)],
        [{(e.source, e.target): (e.weight, e.standard_error) for e in c.edges} for c in (ours, theirs)],
    )
    both: list[list[dict[Any, Any]]] = [[*nodes], [*edges]]
    for one, other in both:
        for key in one.keys() | other.keys():
            width = len(one.get(key) or other[key])
            assert one.get(key, (0,) * width) == pytest.approx(other.get(key, (0,) * width), rel=bound, abs=bound)
    assert ours.metric.value == pytest.approx(theirs.metric.value, abs=bound)
    assert ours.completeness_gaps == pytest.approx(theirs.completeness_gaps, abs=bound)
    assert ours.found is not None
    assert theirs.found is not None
    assert ours.found.model_dump() == pytest.approx(theirs.found.model_dump(), rel=bound)


RAGGED = [
    pair("ab c", "ab d", roles=["noun", "verb"]),
    pair("a b", "a f", "a", "g", roles=["noun", "verb"]),
    pair("b acd", "b acf", ["b", "c"], "d", roles=["noun", "verb"]),
]


FEW: dict[str, Any] = {"max_nodes": 12, "max_edges": None}


def some_pairs(by: PositionGrouping) -> list[Pair]:
    return PAIRS[:3] if by == "position" else RAGGED


@cache
def expected(method: MethodName, by: PositionGrouping) -> Circuit:
    return aggregate(Spelled(), some_pairs(by), method, by=by, **FEW)


BATCHES = {
    "by": st.sampled_from(get_args(PositionGrouping)),
    "size": st.integers(1, 4),
    "order": st.permutations(range(3)),
    "padding": st.sampled_from(["left", "right"]),
    "width": st.integers(0, 7),
}


def shuffled(
    method: MethodName, by: PositionGrouping, size: int, order: list[int], padding: str, width: int
) -> Circuit:
    adapter = Spelled(padding=padding)
    adapter.width = width
    pairs = some_pairs(by)
    return aggregate(adapter, [pairs[k] for k in order], method, by=by, batch_size=size, **FEW)


@settings(max_examples=8)
@given(**BATCHES)
def test_batches_order_and_padding_change_nothing(**drawn: Any) -> None:
    # Roles are numbered as they are met: the same in any order, as every prompt has them in one.
    assert_same(shuffled("contrastive", **drawn), expected("contrastive", drawn["by"]))


@pytest.mark.parametrize("method", ["ig", "exact"])
@settings(max_examples=2)
@given(**BATCHES)
def test_batches_order_and_padding_change_nothing_that_is_measured(method: MethodName, **drawn: Any) -> None:
    assert_same(shuffled(method, **drawn), expected(method, drawn["by"]))


values = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(-50, 50)), max_size=30)


def table(rows: list[tuple[int, int, int]]) -> Table:
    example, keys, value = (torch.tensor([row[k] for row in rows], dtype=torch.long) for k in range(3))
    return Table.of(example, keys, value[:, None].double())


def same(one: Table, other: Table) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.sums, other.sums)


@given(a=values, b=values, c=values)
def test_tables_join_in_any_order(a: list, b: list, c: list) -> None:
    """Sums of whole numbers are exact, so nothing hides behind rounding."""
    x, y, z = (table(rows) for rows in (a, b, c))
    assert same(x.merged(y), y.merged(x))
    assert same(x.merged(y).merged(z), x.merged(y.merged(z)))
    assert same(x.merged(table([])), x)
    # The prompts of three tables are different ones: squares are of each prompt's sum.
    every = [(n, *row) for n, rows in enumerate((a, b, c)) for row in rows]
    sums = {(n, e, k): 0 for n, e, k, _ in every}
    for n, e, k, value in every:
        sums[n, e, k] += value
    keys = sorted({k for _, _, k in sums})
    joined = x.merged(y).merged(z)
    assert joined.keys.tolist() == keys
    by_hand = [[v for (_, _, k), v in sums.items() if k == key] for key in keys]
    assert joined.sums.tolist() == [[sum(each), sum(v * v for v in each)] for each in by_hand]
    wanted = torch.tensor([11, 3, 0, 12, 3])
    for key, row in zip(wanted.tolist(), joined.at(wanted).tolist(), strict=True):
        assert row == (joined.sums[keys.index(key)].tolist() if key in keys else [0, 0])


@given(rows=st.lists(values, min_size=3, max_size=3), numbers=st.lists(st.integers(-9, 9), min_size=9, max_size=9))
def test_pieces_join_in_any_order(rows: list, numbers: list[int]) -> None:
    def piece(k: int) -> Piece:
        part = torch.tensor(numbers[3 * k : 3 * k + 3], dtype=torch.double)
        return Piece(k + 1, table(rows[k]), part[:2], part)

    def plain(made: Piece) -> Any:
        return (
            made.prompts,
            made.nodes.keys.tolist(),
            made.nodes.sums.tolist(),
            made.metric.tolist(),
            made.gaps.tolist(),
        )

    x, y, z = (piece(k) for k in range(3))
    assert plain(x.merged(y)) == plain(y.merged(x))
    assert plain(x.merged(y).merged(z)) == plain(x.merged(y.merged(z)))
    assert x.merged(y).merged(z).prompts == 6


def test_every_node_has_a_number_of_its_own_that_says_what_it_is() -> None:
    adapter = TinyTransformer("components")
    keys = Keys.of(adapter, ("x", "y", "z"))
    rows = [
        (s, g, i)
        for s in range(len(adapter.sites) + 1)
        for g in range(3)
        for i in (range(-1, 2) if s == len(adapter.sites) else (VECTOR, 0, 1, 29))
    ]
    site, group, index = (torch.tensor(column) for column in zip(*rows, strict=True))
    numbers = keys.number(site, group, index)
    assert len(numbers.unique()) == len(rows)
    assert torch.equal(numbers, numbers.sort().values)  # as they are drawn, bottom to top
    for found, put in zip(keys.parts(numbers), (site, group, index), strict=True):
        assert torch.equal(found, put)


# Memory


def test_tables_are_as_large_as_there_are_different_nodes(toy: Adapter) -> None:
    """Eight times the prompts make no more rows."""
    sums = {}
    for count in (50, 400):
        aligned = align(toy, toy_pairs(count))
        assert len(aligned) == count
        parts = list(pieces(toy, aligned, "contrastive", batch_size=50))
        assert len(parts) == count // 50
        sums[count] = reduce(Piece.merged, parts)
        assert sums[count].prompts == count
    few, many = sums[50].nodes, sums[400].nodes
    # 2 inputs, 4 neurons, 8 features, the coder's error, answer and distractor: no more there can be, here.
    assert len(few.keys) <= len(many.keys) <= 17
    assert torch.equal(few.keys, many.keys)
    assert few.sums.shape == many.sums.shape


def test_pieces_are_made_one_at_a_time(toy: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is merged is let go: never are two batches' scores asked for at once."""
    sizes: list[int] = []

    def counted(adapter: Adapter, pairs: Sequence[Pair], metric: Any = None) -> Any:
        sizes.append(len(pairs))
        return ask_many(adapter, pairs, metric)

    from circuitlens.aggregation import tokenize_pairs as ask_many

    aligned = align(toy, toy_pairs(20))
    monkeypatch.setattr("circuitlens.aggregation.tokenize_pairs", counted)
    made = iter(pieces(toy, aligned, "contrastive", batch_size=8))
    next(made)
    assert sizes == [8]
    assert [piece.prompts for piece in made] == [8, 4]
    assert sizes == [8, 8, 4]


# The circuit


def test_it_is_a_circuit_like_any_other(tmp_path: Path, toy64: Adapter) -> None:
    pairs = toy_pairs(30)
    circuit = aggregate(toy64, pairs)
    assert circuit.prompt == f"30 prompts such as {pairs[0].prompt!r}"
    assert circuit.pairs == circuit.questions == tuple(pairs)
    assert (circuit.by, circuit.method, circuit.from_corrupted) == ("position", "ig", True)
    assert circuit.answer().label == ANSWER
    assert {n.label for n in circuit.nodes if n.kind == "logit"} == {ANSWER, DISTRACTOR}
    path = circuit.strongest_path()
    assert path.nodes[-1] is circuit.answer()
    assert path.nodes[0].layer == 0
    assert abs(path.weight) > 0.1
    assert str(path)
    assert str(circuit.metric) == "logit answer − distractor"

    file = tmp_path / "many.json"
    circuit.save(file)
    again = open_circuit(file)
    assert again.nodes == circuit.nodes
    assert again.edges == circuit.edges
    assert again.pairs == circuit.pairs
    assert again.content_digest == circuit.content_digest
    assert not again.edited
    assert again.version == 4
    assert min(n.standard_error or 0 for n in again.nodes) >= 0
    assert any(e.standard_error for e in again.edges)

    document = json.loads(file.read_text())
    document["nodes"][0]["attribution"] += 1
    file.write_text(json.dumps(document))
    changed = open_circuit(file)
    assert changed.edited
    changed.save(file)  # saved again, it still says so
    assert open_circuit(file).edited
    assert open_circuit(file).prune(max_nodes=3).edited


def test_pruning_keeps_no_evidence(toy64: Adapter) -> None:
    circuit = aggregate(toy64, toy_pairs(6))
    evidence = Evidence(
        verdict="weak",
        reasons=(),
        digest=circuit.content_digest,
        created_by="",
        ablation="corrupted",
        core=(),
        checks=(),
        curves=(),
        effects=(),
        seed=0,
        draws=1,
    )
    proven = circuit.model_copy(update={"evidence": evidence})
    smaller = proven.prune(max_nodes=3)
    assert smaller.evidence is None
    assert smaller.pairs == circuit.pairs
    assert len([n for n in smaller.nodes if n.kind != "logit"]) == 3
    assert smaller.nodes[0].standard_error is not None


def test_a_single_prompt_has_no_standard_error() -> None:
    adapter = TinyTransformer()
    one = PAIRS[0]
    circuit = aggregate(adapter, [one], max_nodes=None, max_edges=None)
    assert circuit.prompt == one.prompt
    assert circuit.tokens == ("a", "b", "c")
    assert {n.standard_error for n in circuit.nodes} == {e.standard_error for e in circuit.edges} == {None}
    assert circuitlens.ablate(adapter, circuit, [circuit.nodes[0].id]).before == pytest.approx(circuit.metric.value)
    attributions, _, edges = alone(adapter, one, "ig", lambda pos: pos)
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


@pytest.mark.parametrize("method", METHODS)
def test_no_nodes_at_all(method: MethodName) -> None:
    circuit = aggregate(TinyTransformer(), PAIRS[:2], method, max_nodes=0)
    assert {n.kind for n in circuit.nodes} == {"logit"}
    assert circuit.edges == ()
    assert circuit.conservation_residual == 0


@pytest.mark.parametrize("method", ["contrastive", "exact"])
def test_no_edges_at_all(method: MethodName) -> None:
    circuit, other = (
        aggregate(TinyTransformer(), PAIRS[:2], method, max_nodes=5, max_edges=count) for count in (0, None)
    )
    assert circuit.edges == ()
    assert len(other.edges) > 0
    assert [n.attribution for n in circuit.nodes] == [n.attribution for n in other.nodes]


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
        )
        for p in pairs
    ]
    tables = [{n.id: n.attribution for n in c.nodes} for c in singles]
    for node in circuit.nodes:
        if node.kind != "logit":
            assert node.attribution == pytest.approx(statistics(tables, node.id)[0], abs=1e-10)
    feature = next(n for n in circuit.nodes if n.kind == "feature")
    assert circuitlens.ablate(adapter, circuit, [feature.id], margin).before == pytest.approx(circuit.metric.value)


def test_what_is_skipped_is_in_no_mean() -> None:
    bad = [pair("x y z", "a b c"), pair("a b", "a c"), pair("a b c", "a b")]
    ours = aggregate(TinyTransformer(), [bad[0], *PAIRS, *bad[1:]])
    theirs = aggregate(TinyTransformer(), PAIRS)
    assert ours.pairs == theirs.pairs
    assert ours.nodes == theirs.nodes
    assert ours.edges == theirs.edges


# Malformed


@pytest.mark.parametrize("option", ["max_nodes", "max_edges"])
def test_negative_counts_are_refused(option: str) -> None:
    options: dict[str, Any] = {option: -1}
    with pytest.raises(PromptError, match=f"{option} is -1: give a count of 0 or more, or None for all."):
        aggregate(TinyTransformer(), PAIRS, **options)


@pytest.mark.parametrize("size", [0, -3])
def test_batches_of_nothing_are_refused(size: int) -> None:
    with pytest.raises(PromptError, match=f"batch_size is {size}: give 1 or more."):
        aggregate(TinyTransformer(), PAIRS, batch_size=size)


def test_nothing_to_use_and_methods_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PromptError, match="None of the 0 prompts can be used"):
        aggregate(TinyTransformer(), [])
    with pytest.raises(PromptError, match=r"None of the 1 prompts can be used\. The first: give prompts of the words"):
        aggregate(TinyTransformer(), [pair("zzz", None)])
    with pytest.raises(PromptError, match="'contrastive' compares with a corrupted prompt"):
        aggregate(TinyTransformer(), [pair("a b", None)], "contrastive")
    with pytest.raises(PromptError, match="'ig' measures the model as it is"):
        aggregate(TinyTransformer(), PAIRS, "ig", frozen=True)


@pytest.mark.parametrize("size", [1, 2, BATCH])
def test_prompts_that_do_not_ask_the_same_are_refused_in_any_batches(size: int) -> None:
    """Batch by batch, each would have had a metric or a baseline of its own."""
    plain = [pair("a b c", None), pair("b b c", None)]
    with pytest.raises(PromptError, match="Some of the prompts have a corrupted prompt and some have none"):
        aggregate(TinyTransformer(), [*PAIRS[:2], *plain], batch_size=size)
    alone = [pair("a b c", "a b f", distractor=()), pair("b b c", "b b f", distractor=())]
    for pairs in ([*PAIRS[:2], *alone], [*alone, *PAIRS[:2]]):
        with pytest.raises(PromptError, match="distractor"):
            aggregate(TinyTransformer(), pairs, batch_size=size)
