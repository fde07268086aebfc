"""Batch independence (docs/laws.md): neither other prompts, nor padding, nor order change a prompt's scores."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlens.adapter import Adapter
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.nodes import score_nodes
from circuitlens.tracing import trace
from tests.helpers import padded
from tests.models import by_layout
from tests.scores import TINY_PROMPTS, Table, assert_same_tables, tables, tiny_batch
from tests.tiny_transformer import TinyTransformer

LAYOUTS = ["toy", "toy32", "residual", "components", "normalised"]


TOY_PROMPTS = [("The cats", "run", "runs", "The cat"), ("This baby", "runs", "run", "These babies")]


def all_tables(
    adapter: Adapter, prompts: list[tuple[str, str, str, str]], padding: tuple[int, int] = (0, 0)
) -> list[Table]:
    batch = tiny_batch(adapter, prompts)
    assert batch.corrupted is not None
    inputs, corrupted = (padded(each, *padding) for each in (batch.clean, batch.corrupted))
    clean = trace(adapter, inputs, batch.metric)
    nodes = score_nodes(clean, trace(adapter, corrupted, batch.metric, graph=False))
    return tables(nodes, score_edges(clean, nodes), inputs.first.tolist())


@pytest.mark.parametrize("size", [7, 32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_alone_scores_as_in_any_batch(layout: str, size: int, toy: Adapter, toy64: Adapter) -> None:
    adapter = by_layout(layout, toy, toy64)
    prompts = TOY_PROMPTS if layout.startswith("toy") else TINY_PROMPTS
    alone = [all_tables(adapter, [prompt])[0] for prompt in prompts]
    many = all_tables(adapter, [prompts[k % len(prompts)] for k in range(size)])
    for k, result in enumerate(many):
        assert_same_tables(result, alone[k % len(prompts)], layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [(2, 0), (0, 3), (1, 1)])
def test_padding_changes_nothing(layout: str, padding: tuple[int, int], toy: Adapter, toy64: Adapter) -> None:
    adapter = by_layout(layout, toy, toy64)
    prompts = TOY_PROMPTS if layout.startswith("toy") else TINY_PROMPTS
    for ours, theirs in zip(all_tables(adapter, prompts), all_tables(adapter, prompts, padding), strict=True):
        assert_same_tables(ours, theirs, layout)


def test_padding_side_of_a_mixed_batch_changes_nothing() -> None:
    left, right = TinyTransformer(padding="left"), TinyTransformer(padding="right")
    for ours, theirs in zip(all_tables(left, TINY_PROMPTS), all_tables(right, TINY_PROMPTS), strict=True):
        assert_same_tables(ours, theirs)


@settings(max_examples=8)
@given(order=st.permutations(range(4)), rows=st.integers(1, 70))
def test_order_and_vjp_batching_change_nothing(order: list[int], rows: int) -> None:
    adapter = TinyTransformer("components")
    expected = all_tables(adapter, TINY_PROMPTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitlens.attribution.edges.ROWS", rows)
        shuffled = all_tables(adapter, [TINY_PROMPTS[k] for k in order])
    for k, result in zip(order, shuffled, strict=True):
        assert_same_tables(result, expected[k])
