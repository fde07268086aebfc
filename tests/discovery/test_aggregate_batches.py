"""Batch independence (docs/laws.md): batches, order and padding change no circuit of many prompts; sums stay small."""

from __future__ import annotations

import gc
import weakref
from functools import cache, reduce
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from circuitlens.adapter import Adapter
from circuitlens.attribution.attributions import Attributions, attribute_nodes
from circuitlens.attribution.methods import DEFAULT
from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.attribution.sums import BatchSums, KeyedSums, node_numbers
from circuitlens.circuit import Circuit
from circuitlens.discovery import aggregate
from circuitlens.literals import MethodName, PositionGrouping
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.pairs import Pair
from tests.circuits import PAIRS, pair, toy_pairs
from tests.models import Spelled
from tests.tiny_transformer import VOCABULARY, TinyTransformer


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


# Sums


values = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(-50, 50)), max_size=30)


def table(rows: list[tuple[int, int, int]]) -> KeyedSums:
    example, keys, value = (torch.tensor([row[k] for row in rows], dtype=torch.long) for k in range(3))
    return KeyedSums.of(example, keys, value[:, None].double())


def test_one_prompt_or_one_row_a_key_are_what_many_are() -> None:
    rows = [(3, 7, 2), (3, 1, 5), (3, 7, -4)]
    assert table(rows).keys.tolist() == [1, 7]
    assert table(rows).sums.tolist() == [[5, 25], [-2, 4]]
    assert same(table([(0, key, value) for _, key, value in rows]), table(rows))
    single = [(4, 9, 3), (0, 2, 1), (1, 5, -6)]
    assert table(single).keys.tolist() == [2, 5, 9]
    assert table(single).sums.tolist() == [[1, 1], [-6, 36], [3, 9]]


def same(one: KeyedSums, other: KeyedSums) -> bool:
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
    def piece(k: int) -> BatchSums:
        part = torch.tensor(numbers[3 * k : 3 * k + 3], dtype=torch.double)
        return BatchSums(k + 1, table(rows[k]), part[:2], part)

    def plain(made: BatchSums) -> Any:
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
    keys = NodeIndex.of(adapter, 3)
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
        index = NodeIndex.of(toy, len(aligned.labels))
        parts = [
            BatchSums.of(index, batch, attribute_nodes(toy, tokenize_pairs(toy, batch.pairs), "contrastive"))
            for batch in aligned.batches(50)
        ]
        sums[count] = reduce(BatchSums.merged, parts)
        assert sums[count].prompts == count
    few, many = sums[50].nodes, sums[400].nodes
    # 2 inputs, 4 neurons, 8 features, the coder's error, answer and distractor: no more there can be, here.
    assert len(few.keys) <= len(many.keys) <= 17
    assert torch.equal(few.keys, many.keys)
    assert few.sums.shape == many.sums.shape


@pytest.mark.parametrize("by", get_args(PositionGrouping))
def test_nodes_that_change_on_no_prompt_are_no_rows_of_many(by: PositionGrouping) -> None:
    """They would be targets of edges, each with a product to compute, and their edges have no weight."""
    adapter = TinyTransformer("components")
    pairs = [
        Pair(prompt=f"a {w} c", corrupted=f"a {w} f", answer=("d",), distractor=("e",), roles=("one", "two", "three"))
        for w in "abcdg"
    ]
    many = align(adapter, pairs, by)
    found = attribute_nodes(adapter, tokenize_pairs(adapter, many.pairs), "contrastive")
    index = NodeIndex.of(adapter, len(many.labels))
    sums, changed = BatchSums.of(index, many, found), (found.nodes.delta != 0) | found.nodes.is_logit
    assert 0 < changed.sum() < len(changed) / 2
    assert sums.changed.all()
    assert torch.equal(sums.nodes.keys, node_numbers(index, many, found)[changed].unique())
    # Of one prompt all stay: an effect may pass through a node in which two changes cancel.
    one = PromptSet.of_one(pairs[0], adapter.inputs([pairs[0].prompt]).tokens[0])
    found = attribute_nodes(adapter, tokenize_pairs(adapter, one.pairs), "contrastive")
    sums = BatchSums.of(NodeIndex.of(adapter, len(one.labels), len(VOCABULARY)), one, found)
    assert not sums.changed.all()


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        self.most = max([self.most, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


def test_numbering_nodes_compares_logits_alone_with_the_answers() -> None:
    adapter = TinyTransformer("components")
    pairs = [Pair(prompt=f"a {w} c", answer=tuple("abcdf"), distractor=("e",)) for w in "abcdg"]
    many = align(adapter, pairs)
    found = attribute_nodes(adapter, tokenize_pairs(adapter, many.pairs), "gradient")
    index = NodeIndex.of(adapter, len(many.labels))
    with Largest() as seen:
        numbers = node_numbers(index, many, found)
    assert len(numbers) == len(found.nodes.site) == seen.most
    logits = found.nodes.is_logit & (found.nodes.index != VECTOR)
    which = index.parts(numbers)[2][logits]
    assert which.tolist() == [int(VOCABULARY[i] == "e") for i in found.nodes.index[logits].tolist()]
    assert which.sum() == len(pairs)


@pytest.mark.parametrize("method", [DEFAULT, "exact"])
def test_a_batch_is_let_go_before_the_next_is_scored(
    method: MethodName, toy: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[weakref.ref[Attributions]] = []

    def watched(*given: Any) -> Attributions:
        gc.collect()
        assert not [each for each in scored if each() is not None]
        found = attribute_nodes(*given)
        scored.append(weakref.ref(found))
        return found

    monkeypatch.setattr("circuitlens.pipeline.stages.attribute_nodes", watched)
    aggregate(toy, toy_pairs(20), method, max_nodes=4, batch_size=8)
    # Three batches, for the nodes, again for the edges, and where those are measured once more.
    assert len(scored) == (9 if method == DEFAULT else 6)
    scored.clear()
    aggregate(toy, toy_pairs(8), method, max_nodes=4, batch_size=8)
    assert len(scored) == 1  # a single batch is scored once
