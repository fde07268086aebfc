"""Integrated gradients of edges: conservation, direct effects, batch independence (docs/laws.md)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.base import Runs
from circuitlens.attribution.integrated import integrated_edges, integrated_gradients
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, score_nodes
from circuitlens.attribution.scores import NodeScores, conservation_residual
from circuitlens.progress import Progress
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.testing import example_batch
from circuitlens.tracing import Trace, trace
from tests.helpers import close, padded
from tests.oracles import direct_effect, midpoints
from tests.scores import TWO_PROMPTS, assert_same_tables, matrix, tables, tiny_batch, traced
from tests.tiny_transformer import Layout, TinyTransformer


@cache
def whole(layout: Layout, contrastive: bool) -> tuple[TinyTransformer, Trace, Trace | None, NodeScores, Tensor]:
    """A trace of two ragged prompts, the integrated gradients of its nodes, and all their edges."""
    adapter = TinyTransformer(layout)
    clean, corrupted = traced(adapter, tiny_batch(adapter, TWO_PROMPTS), contrastive)
    nodes, _ = integrated_gradients(Runs(adapter, clean, corrupted), 3)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    edges = integrated_edges(Runs(adapter, clean, corrupted), nodes, keep)
    assert conservation_residual(nodes, edges) < 1e-11
    return adapter, clean, corrupted, nodes, matrix(nodes, edges)


def scale(nodes: NodeScores) -> float:
    """What rounding is relative to."""
    return max(1.0, nodes.attribution.abs().max().item())


def test_edges_conserve_in_every_layout(model: Adapter, contrastive: bool) -> None:
    clean, corrupted = traced(model, example_batch(model), contrastive)
    nodes, _ = integrated_gradients(Runs(model, clean, corrupted), 2)
    bound = (1e-11 if nodes.delta.dtype == torch.float64 else 1e-5) * scale(nodes)
    logits = nodes.site == len(clean.sites)
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(1))
    for keep in (logits | (chance < 0.3),) if contrastive else (logits | True,):
        edges = integrated_edges(Runs(model, clean, corrupted), nodes, keep)
        assert conservation_residual(nodes, edges, keep) <= bound
        assert keep[edges.source].all()
        assert keep[edges.target].all()
        assert (nodes.delta[edges.source] != 0).all()
        assert (nodes.site[edges.target] > nodes.site[edges.source]).all()
        assert torch.equal(nodes.example[edges.target], nodes.example[edges.source])
        pairs = torch.stack([edges.source, edges.target])
        assert pairs.unique(dim=1).shape == pairs.shape


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("contrastive", [False, True])
@settings(max_examples=2)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_edges_between_kept_nodes_are_those_of_all(layout: Layout, contrastive: bool, seed: int, share: float) -> None:
    adapter, clean, corrupted, nodes, every = whole(layout, contrastive)
    chance = torch.rand(len(nodes.site), generator=torch.Generator().manual_seed(seed))
    keep = (chance < share) | (nodes.site == len(clean.sites))
    edges = integrated_edges(Runs(adapter, clean, corrupted), nodes, keep)
    found = matrix(nodes, edges)
    close(found[keep][:, keep], every[keep][:, keep])
    assert (found[~keep] == 0).all()
    assert (found[:, ~keep] == 0).all()
    # What is not kept takes its share, and so does what is active on the way alone and no node at all.
    out = found.sum(1) + edges.rest
    inner = keep & (nodes.site < len(clean.sites))
    close(out[inner], nodes.attribution[inner])
    assert (edges.rest[~keep] == 0).all()


def test_a_broken_edge_breaks_conservation() -> None:
    adapter, clean, corrupted, nodes, _ = whole("residual", True)
    edges = integrated_edges(Runs(adapter, clean, corrupted), nodes, torch.ones_like(nodes.site, dtype=torch.bool))
    strongest = int(edges.weight.abs().argmax())
    broken = replace(edges, weight=edges.weight.index_fill(0, torch.tensor([strongest]), 0.0))
    assert conservation_residual(nodes, broken) > 0.99 * edges.weight[strongest].abs()


@pytest.mark.parametrize("layout", get_args(Layout))
def test_edges_against_the_slow_oracle_step_by_step(layout: Layout, contrastive: bool) -> None:
    """The mean, over the runs at the midpoints, of direct effects by finite difference."""
    adapter, clean, _, nodes, every = whole(layout, contrastive)
    batch = tiny_batch(adapter, TWO_PROMPTS)
    pairs = (every != 0).nonzero()
    chosen = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(2))[:40]].tolist()
    strongest = every.abs().flatten().argsort(descending=True)[:5]
    chosen += [[int(k) // len(every), int(k) % len(every)] for k in strongest]
    names = ("site", "example", "pos", "index")
    checked = 0
    for s, site in enumerate(adapter.sites):
        mine = [(u, d) for u, d in chosen if nodes.site[u] == s]
        runs = [
            trace(adapter, batch.clean, batch.metric, replaced={site.name: point})
            for point in (midpoints(adapter, batch, contrastive, 3, s) if mine else ())
        ]
        theres = [score_nodes(run) for run in runs]
        for u, d in mine:
            coder = adapter.sites[int(nodes.site[d])].coder if nodes.site[d] < len(adapter.sites) else None
            if nodes.index[d] == VECTOR and getattr(coder, "stateful", False):
                continue  # the error takes what a layer norm's state carries, which no frozen error shows
            unit = directions(clean, nodes, s, torch.tensor([u]))[0]
            total = 0.0
            for run, there in zip(runs, theres, strict=True):
                same = torch.stack([getattr(there, name) == getattr(nodes, name)[d] for name in names]).all(0)
                if not same.any():
                    continue  # a feature that is off in this run passes nothing on
                columns = {
                    name: torch.cat([getattr(there, name), getattr(nodes, name)[[u]]])
                    for name in (*names, "activation", "delta", "gradient", "attribution")
                }
                both = replace(there, **columns)
                target = int(same.nonzero()[0, 0])
                total += direct_effect(adapter, run, both, len(both.site) - 1, target, unit)
            assert every[u, d].item() == pytest.approx(total / 3, rel=1e-4, abs=1e-7)
            checked += 1
    assert checked > 20


def test_what_is_active_on_the_way_alone_takes_its_share() -> None:
    """Far from both runs other features are on: the edges into them are in no circuit, and in the rest."""
    adapter, clean, corrupted, nodes, every = whole("components", True)
    inner = nodes.site < len(clean.sites)
    lost = (nodes.attribution - every.sum(1))[inner]
    assert lost.abs().max() > 0.1
    edges = integrated_edges(Runs(adapter, clean, corrupted), nodes, torch.ones_like(inner))
    close(edges.rest[inner], lost)


def saturated(logits: Tensor) -> Tensor:
    """A margin that counts up to 0.1: at the clean run it has no gradient at all."""
    return (logits[:, 4] - logits[:, 5] + 0.1 * logits[:, 1]).clamp(max=0.1)


def test_a_metric_that_is_flat_at_the_clean_run_is_integrated() -> None:
    """Its gradients are 0 where one would look first; on the way other outputs count, that were no node there."""
    adapter = TinyTransformer()
    batch = tokenize(adapter, ["a b c"], ["d"], ["e"], ["a b f"], saturated)
    assert batch.corrupted is not None
    clean, corrupted = traced(adapter, batch, True)
    if saturated(clean.logits).item() < 0.1:  # the other way round, then
        batch = tokenize(adapter, ["a b f"], ["d"], ["e"], ["a b c"], saturated)
        clean, corrupted = traced(adapter, batch, True)
    assert corrupted is not None
    assert corrupted.metric.item() < 0 < clean.metric.item()
    assert (score_nodes(clean, corrupted).attribution == 0).all()
    nodes, _ = integrated_gradients(Runs(adapter, clean, corrupted))
    assert nodes.attribution.abs().max() > 0.1
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    assert conservation_residual(nodes, integrated_edges(Runs(adapter, clean, corrupted), nodes, keep)) < 1e-11


# Batches and padding


@pytest.mark.parametrize("layout", ["residual", "normalised"])
@pytest.mark.parametrize("positions", [1, 12])
def test_how_steps_are_batched_changes_nothing(
    layout: Layout, positions: int, contrastive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, _, expected, every = whole(layout, contrastive)
    monkeypatch.setattr("circuitlens.attribution.integrated.POSITIONS", positions)
    adapter = TinyTransformer(layout)
    clean, corrupted = traced(adapter, tiny_batch(adapter, TWO_PROMPTS), contrastive)
    nodes, _ = integrated_gradients(Runs(adapter, clean, corrupted), 3)
    close(nodes.attribution, expected.attribution)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    close(matrix(nodes, integrated_edges(Runs(adapter, clean, corrupted), nodes, keep)), every)


def ig_tables(adapter: Adapter, batch: PromptBatch, padding: tuple[int, int] = (0, 0)) -> list[Any]:
    assert batch.corrupted is not None
    batch = replace(batch, clean=padded(batch.clean, *padding), corrupted=padded(batch.corrupted, *padding))
    clean, corrupted = traced(adapter, batch, True)
    nodes, _ = integrated_gradients(Runs(adapter, clean, corrupted), 3)
    keep = torch.ones_like(nodes.site, dtype=torch.bool)
    return tables(nodes, integrated_edges(Runs(adapter, clean, corrupted), nodes, keep), batch.clean.first.tolist())


@pytest.mark.parametrize("layout", ["residual", "normalised"])
def test_neither_other_prompts_nor_padding_change_a_prompts_scores(layout: Layout) -> None:
    adapter = TinyTransformer(layout)
    alone = []
    for text, answer, distractor, other in TWO_PROMPTS:
        alone += ig_tables(adapter, tokenize(adapter, [text], [answer], [distractor], [other]))
    for padding in ((0, 0), (2, 1)):
        for ours, theirs in zip(ig_tables(adapter, tiny_batch(adapter, TWO_PROMPTS), padding), alone, strict=True):
            assert_same_tables(ours, theirs)


def test_each_site_is_reported_once_by_each_part() -> None:
    adapter, clean, corrupted, nodes, _ = whole("components", True)
    calls: list[str] = []
    progress = Progress(callback=lambda stage, _done, _total: calls.append(stage))
    integrated_gradients(Runs(adapter, clean, corrupted), 1, progress)
    keep = nodes.site == len(adapter.sites)
    edges = integrated_edges(Runs(adapter, clean, corrupted), nodes, keep, progress)
    assert calls == ["nodes"] * len(adapter.sites) + ["edges"] * len(adapter.sites)
    assert len(edges.weight) == 0  # logits have no edges among themselves
