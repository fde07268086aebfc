"""Edge scores: direct effects (docs/laws.md) against a slow oracle, and edges between some nodes only."""

from __future__ import annotations

from functools import cache
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions
from circuitlens.attribution.scores import EdgeScores, NodeScores, conservation_residual
from circuitlens.tracing import Trace
from tests.helpers import close
from tests.models import by_layout
from tests.oracles import direct_effect
from tests.scores import matrix, scored, scored_example, several_answers
from tests.tiny_transformer import Layout, TinyTransformer


def test_no_edge_skips_a_complete_cut() -> None:
    _, nodes, edges = scored_example(TinyTransformer("residual"), contrastive=True)
    assert (nodes.site[edges.target] - nodes.site[edges.source] == 1).all()


def test_edges_run_forward_and_stay_in_their_example(model: Adapter) -> None:
    _, nodes, edges = scored_example(model, contrastive=True)
    assert (nodes.site[edges.target] > nodes.site[edges.source]).all()
    assert (nodes.pos[edges.target] >= nodes.pos[edges.source]).all()
    assert torch.equal(nodes.example[edges.target], nodes.example[edges.source])
    pairs = torch.stack([edges.source, edges.target])
    assert pairs.unique(dim=1).shape == pairs.shape


@pytest.mark.parametrize("layout", ["toy", "residual", "components", "normalised"])
def test_edges_against_the_slow_oracle(layout: str, contrastive: bool, toy64: Adapter) -> None:
    adapter = by_layout(layout, toy64, toy64)
    clean, nodes, edges = scored_example(adapter, contrastive)
    found = {(int(u), int(d)): float(w) for u, d, w in zip(edges.source, edges.target, edges.weight, strict=True)}
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(len(edges.weight), generator=generator)[:150].tolist()
    checked = 0
    for e in chosen:
        u, d = int(edges.source[e]), int(edges.target[e])
        stateful = (
            nodes.site[d] < len(clean.sites)
            and nodes.index[d] == VECTOR
            and getattr(adapter.sites[int(nodes.site[d])].coder, "stateful", False)
        )
        if stateful:  # the error takes what a layer norm's state carries, which no frozen error shows
            continue
        s = int(nodes.site[u])
        unit = directions(clean, nodes, s, torch.tensor([u]))[0]
        assert direct_effect(adapter, clean, nodes, u, d, unit) == pytest.approx(found[u, d], rel=1e-4, abs=1e-7)
        checked += 1
    assert checked > 25


# Edges between some nodes only


@cache
def whole(layout: Layout, contrastive: bool) -> tuple[Trace, NodeScores, Tensor]:
    """A trace of two prompts, its nodes and all their edges."""
    adapter = TinyTransformer(layout)
    clean, nodes = scored(adapter, several_answers(adapter, "probability_difference"), contrastive)
    return clean, nodes, matrix(nodes, score_edges(clean, nodes))


def assert_restricted(nodes: NodeScores, every: Tensor, keep: Tensor, edges: EdgeScores) -> None:
    """Edges are those of the full matrix between kept nodes, and the rest is what goes from them to the others."""
    found = matrix(nodes, edges)
    close(found[keep][:, keep], every[keep][:, keep])
    assert (found[~keep] == 0).all()
    assert (found[:, ~keep] == 0).all()
    close(edges.rest[keep], every[keep][:, ~keep].sum(1))
    pairs = torch.stack([edges.source, edges.target])
    assert pairs.unique(dim=1).shape == pairs.shape
    assert conservation_residual(nodes, edges, keep) < 1e-11


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("contrastive", [False, True], ids=["gradient", "contrastive"])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_edges_between_kept_nodes_are_those_of_all(layout: Layout, contrastive: bool, seed: int, share: float) -> None:
    clean, nodes, every = whole(layout, contrastive)
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(seed))
    keep = (chance < share) | (nodes.site == len(clean.sites))
    assert_restricted(nodes, every, keep, score_edges(clean, nodes, keep))


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("site", ["resid1", "resid2"])
def test_a_site_of_which_nothing_is_kept(layout: Layout, site: str) -> None:
    clean, nodes, every = whole(layout, contrastive=True)
    keep = nodes.site != [traced.site.name for traced in clean.sites].index(site)
    edges = score_edges(clean, nodes, keep)
    assert_restricted(nodes, every, keep, edges)
    assert edges.rest.abs().max() > 1e-3


def test_keeping_everything_leaves_no_rest() -> None:
    clean, nodes, every = whole("components", contrastive=True)
    edges = score_edges(clean, nodes, torch.ones_like(nodes.site, dtype=torch.bool))
    assert torch.equal(matrix(nodes, edges), every)
    assert (edges.rest == 0).all()


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize(
    ("limit", "size"), [("ROWS", 1), ("ROWS", 5), ("POSITIONS", 1), ("POSITIONS", 13), ("FEATURES", 3)]
)
def test_small_parts_change_nothing(
    layout: Layout, limit: str, size: int, contrastive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected, every = whole(layout, contrastive)
    monkeypatch.setattr(f"circuitlens.attribution.edges.{limit}", size)
    adapter = TinyTransformer(layout)
    clean, nodes = scored(adapter, several_answers(adapter, "probability_difference"), contrastive)
    assert torch.equal(nodes.index, expected.index)
    close(nodes.attribution, expected.attribution)
    close(matrix(nodes, score_edges(clean, nodes)), every)
    keep = (torch.arange(len(nodes.site)) % 3 > 0) | (nodes.site == len(clean.sites))
    assert_restricted(nodes, every, keep, score_edges(clean, nodes, keep))


def test_each_site_is_reported_once() -> None:
    clean, nodes, _ = whole("residual", contrastive=False)
    calls: list[None] = []
    score_edges(clean, nodes, on_site=lambda: calls.append(None))
    assert len(calls) == len(clean.sites)
