"""Exact effects against interventions done another way, and against the toy's ground truth (docs/laws.md)."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations
from typing import get_args

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.base import Runs
from circuitlens.attribution.exact import Exact, exact_effects
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import NodeScores
from circuitlens.literals import MethodName
from circuitlens.progress import Progress
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.testing import example_batch
from circuitlens.tracing import Trace, trace
from tests.helpers import close, padded
from tests.models import Spelled
from tests.oracles import hidden_by_hand
from tests.scores import TINY_PROMPTS, tiny_batch, traced
from tests.tiny_transformer import Layout, RandomSAE, TinyTransformer


def with_baseline(adapter: Adapter, batch: PromptBatch, contrastive: bool) -> tuple[Trace, Trace | None, NodeScores]:
    """The clean run, the corrupted one if scores are to be contrastive, and the nodes' scores."""
    clean, baseline = traced(adapter, batch, contrastive)
    return clean, baseline, score_nodes(clean, baseline)


def every(nodes: NodeScores) -> Tensor:
    return torch.arange(len(nodes.site))


# Against `ablate`, which splices: features are encoded, set and decoded anew


@pytest.mark.parametrize("prompt", ["The cats", "This baby"])
def test_exact_attributions_are_ablations_of_every_node_of_the_toy(
    prompt: str, contrastive: bool, toy64: Adapter
) -> None:
    answer, distractor, other = ("run", "runs", "A cat") if prompt == "The cats" else ("runs", "run", "These babies")
    circuit = circuitlens.find(
        toy64, prompt, answer, distractor, other if contrastive else None, "exact", max_nodes=None
    )
    inner = [node for node in circuit.nodes if node.kind != "logit"]
    assert {node.kind for node in inner} == {"input", "neuron", "feature", "error"}
    for node in inner:
        result = circuitlens.ablate(toy64, circuit, [node.id])
        assert result.measured == pytest.approx(node.attribution, abs=1e-9)
        assert result.predicted == node.attribution
    assert max(abs(node.attribution) for node in inner) > 1


def test_exact_effects_are_ablations_in_every_layout(model: Adapter, contrastive: bool) -> None:
    example = model.examples[0]
    batch = tokenize(model, [example.prompt], [example.answer], [example.distractor], [example.corrupted])
    clean, baseline, nodes = with_baseline(model, batch, contrastive)
    # The circuit says which nodes there are and what they are set back to.
    other = example.corrupted if contrastive else None
    circuit = circuitlens.find(model, example.prompt, example.answer, example.distractor, other, _method(contrastive))
    inner = [node for node in circuit.nodes if node.kind != "logit"]
    names = [site.write for site in model.sites]
    rows = {
        key: n for n, key in enumerate(zip(*(c.tolist() for c in (nodes.site, nodes.pos, nodes.index)), strict=True))
    }
    chosen = [*inner[:: len(inner) // 4 + 1], max(inner, key=lambda node: abs(node.attribution))]
    where = [rows[names.index(n.hook), n.pos, VECTOR if n.index is None else n.index] for n in chosen]
    bound = 1e-9 if nodes.delta.dtype == torch.float64 else 2e-5
    keep = torch.zeros_like(nodes.is_logit).index_fill(0, torch.tensor(where), True)
    effects = Exact().measured(Runs(model, clean, baseline), nodes, keep, Progress())[where].tolist()
    for node, effect in zip(chosen, effects, strict=True):
        assert effect == pytest.approx(circuitlens.ablate(model, circuit, [node.id]).measured, rel=bound, abs=bound)
    assert abs(effects[-1]) > 1e-3


def _method(contrastive: bool) -> MethodName:
    return "contrastive" if contrastive else "gradient"


# The toy's ground truth


@pytest.mark.parametrize("prompt", ["The cats", "The cat", "These sheep"])
def test_exact_effects_agree_with_all_sixteen_hidden_subsets(prompt: str, toy64: Adapter) -> None:
    """The truth of each subset by hand; a neuron's effect is what any subset with it loses without it."""
    batch = tokenize(toy64, [prompt], ["run"], ["runs"])
    clean = trace(toy64, batch.clean, batch.metric)
    nodes = score_nodes(clean)
    hidden, margin, bias = hidden_by_hand(toy64, prompt)
    here = ((nodes.site == 1) & (nodes.index != VECTOR)).nonzero()[:, 0]
    exact = exact_effects(Runs(toy64, clean, None), nodes, here)
    effect = torch.zeros_like(hidden).index_put((nodes.index[here],), exact)
    subsets = list(chain.from_iterable(combinations(range(4), n) for n in range(5)))
    assert len(subsets) == 16
    truth = {subset: (margin @ hidden.index_fill(0, _others(subset), 0) + bias).item() for subset in subsets}
    assert clean.metric.item() == pytest.approx(truth[0, 1, 2, 3], abs=1e-6)
    for subset in subsets:
        for j in subset:
            without = tuple(k for k in subset if k != j)
            assert effect[j].item() == pytest.approx(truth[subset] - truth[without], abs=1e-6)
        lost = sum(effect[j].item() for j in range(4) if j not in subset)
        assert clean.metric.item() - lost == pytest.approx(truth[subset], abs=1e-6)


def _others(subset: tuple[int, ...]) -> Tensor:
    return torch.tensor([j for j in range(4) if j not in subset], dtype=torch.long)


@pytest.mark.parametrize("contrast", [None, "The cat", "These sheep"])
def test_exact_effects_of_inputs_and_neurons_by_hand(contrast: str | None, toy64: Adapter) -> None:
    """Inputs pass a ReLU, which gradients miss: each is put back through the network's own weights."""
    batch = tokenize(toy64, ["The cats"], ["run"], ["runs"], None if contrast is None else [contrast])
    clean = trace(toy64, batch.clean, batch.metric)
    other = None if batch.corrupted is None else trace(toy64, batch.corrupted, batch.metric, graph=False)
    nodes = score_nodes(clean, other)
    exact = exact_effects(Runs(toy64, clean, other), nodes, every(nodes))
    network = toy64.model  # pyright: ignore[reportAttributeAccessIssue]
    x = batch.clean.values[0, 0]
    base = torch.zeros_like(x) if batch.corrupted is None else batch.corrupted.values[0, 0]
    hidden, margin, _ = hidden_by_hand(toy64, "The cats")
    before = torch.zeros_like(hidden) if contrast is None else hidden_by_hand(toy64, contrast)[0]
    missed = 0.0
    for n in every(nodes).tolist():
        site, index = int(nodes.site[n]), int(nodes.index[n])
        if index == VECTOR or site > 1:
            continue
        if site == 0:
            changed = x.clone()
            changed[index] = base[index]
            after = (network.hidden.weight @ changed + network.hidden.bias).clamp_min(0)
        else:
            after = hidden.clone()
            after[index] = before[index]
        assert exact[n].item() == pytest.approx((margin @ (hidden - after)).item(), abs=1e-6)
        missed = max(missed, abs(exact[n] - nodes.attribution[n]).item())
    assert missed > 0.5


# Batches


@pytest.mark.parametrize("layout", ["residual", "normalised"])
@pytest.mark.parametrize("positions", [1, 60])
def test_how_runs_are_batched_changes_nothing(
    layout: Layout, positions: int, contrastive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = TinyTransformer(layout)
    clean, baseline, nodes = with_baseline(adapter, tiny_batch(adapter), contrastive)
    rows = every(nodes)[torch.randperm(len(nodes.site), generator=torch.Generator().manual_seed(3))[:80]]
    told: list[str] = []
    progress = Progress(callback=lambda stage, _done, _total: told.append(stage))
    expected = exact_effects(Runs(adapter, clean, baseline), nodes, rows, progress)
    few = len(told)
    monkeypatch.setattr("circuitlens.attribution.exact.POSITIONS", positions)
    close(exact_effects(Runs(adapter, clean, baseline), nodes, rows, progress), expected)
    assert len(told) - few > few > 0  # each run may be the last


def test_effects_come_in_the_order_asked_for(contrastive: bool) -> None:
    adapter = TinyTransformer("components")
    clean, baseline, nodes = with_baseline(adapter, tiny_batch(adapter), contrastive)
    rows = every(nodes)[::9]
    close(
        exact_effects(Runs(adapter, clean, baseline), nodes, rows.flip(0)).flip(0),
        exact_effects(Runs(adapter, clean, baseline), nodes, rows),
    )
    assert len(exact_effects(Runs(adapter, clean, baseline), nodes, rows[:0])) == 0


@pytest.mark.parametrize("layout", get_args(Layout))
def test_neither_other_prompts_nor_padding_change_an_effect(layout: Layout) -> None:
    adapter = TinyTransformer(layout)

    def effects(batch: PromptBatch, left: int, right: int) -> list[dict[tuple[int, ...], float]]:
        assert batch.corrupted is not None
        wide = PromptBatch(padded(batch.clean, left, right), padded(batch.corrupted, left, right), batch.metric)
        clean, baseline, nodes = with_baseline(adapter, wide, True)
        chosen = ((nodes.delta != 0) & (nodes.index % 5 != 2)).nonzero()[:, 0]
        found: list[dict[tuple[int, ...], float]] = [{} for _ in clean.metric]
        columns = (nodes.example, nodes.site, nodes.pos - wide.clean.first[nodes.example], nodes.index)
        exact = exact_effects(Runs(adapter, clean, baseline), nodes, chosen).tolist()
        for b, *key, value in zip(*(column[chosen].tolist() for column in columns), exact, strict=True):
            found[b][tuple(key)] = value
        return found

    together = effects(tiny_batch(adapter), 0, 0)
    apart = [
        effects(tokenize(adapter, [text], [answer], [distractor], [other]), 1, 2)[0]
        for text, answer, distractor, other in TINY_PROMPTS
    ]
    for ours, theirs in zip(together, apart, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
        assert max(map(abs, ours.values())) > 0.1


def test_logits_keep_their_attribution_and_nothing_is_left(model: Adapter, contrastive: bool) -> None:
    batch = example_batch(model)
    before = model.run(batch.clean, {})
    clean, baseline, nodes = with_baseline(model, batch, contrastive)
    rows = torch.cat([every(nodes)[:10], every(nodes)[-2:]])
    exact = exact_effects(Runs(model, clean, baseline), nodes, rows)
    assert not exact.requires_grad
    logits = nodes.site[rows] == len(model.sites)
    assert logits.any()
    assert torch.equal(exact[logits], nodes.attribution[rows][logits])
    assert torch.equal(model.run(batch.clean, {}), before)


def test_nothing_at_the_adapters_own_token_is_set_to_zero() -> None:
    """The one rule for BOS, as in every ablation; to its corrupted value it is set like any other."""
    adapter = Spelled()
    assert adapter.bos
    batch = tokenize(adapter, ["ab c"], ["d"], ["e"], ["ab d"])
    clean, _, nodes = with_baseline(adapter, batch, False)
    first = (nodes.pos == clean.inputs.first[nodes.example]) & ~nodes.is_logit
    assert first.sum() > 3
    everywhere, progress, runs = torch.ones_like(first), Progress(), Runs(adapter, clean, None)
    assert exact_effects(runs, nodes, first.nonzero()[:, 0]).abs().max() > 1e-3
    from_zero = Exact().measured(runs, nodes, everywhere, progress)
    assert not from_zero[first].any()
    assert from_zero[~first].abs().max() > 1e-3
    # What is not asked for keeps its attribution, there as elsewhere.
    assert torch.equal(Exact().measured(runs, nodes, ~first, progress)[first], nodes.attribution[first])

    assert batch.corrupted is not None
    elsewhere = batch.corrupted.values.clone()
    elsewhere[:, 0] = 1  # another token before the prompt, which no adapter has
    corrupted = trace(adapter, replace(batch.corrupted, values=elsewhere), batch.metric, graph=False)
    nodes = score_nodes(clean, corrupted)
    first = (nodes.pos == clean.inputs.first[nodes.example]) & ~nodes.is_logit
    effects = Exact().measured(Runs(adapter, clean, corrupted), nodes, torch.ones_like(first), progress)
    assert effects[first].abs().max() > 1e-3


def test_measuring_runs_no_coder(contrastive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of wide SAEs are many times a model's own work: one node's effect is a run of the bare model."""
    adapter = TinyTransformer("components")
    clean, baseline, nodes = with_baseline(adapter, tiny_batch(adapter), contrastive)
    chosen = ((nodes.index != VECTOR) & (nodes.delta != 0) & ~nodes.is_logit).nonzero()[:, 0]
    coded: list[Tensor] = []
    encode = RandomSAE.encode
    monkeypatch.setattr(RandomSAE, "encode", lambda coder, x: (coded.append(x), encode(coder, x))[1])
    trace(adapter, clean.inputs, clean.scored_by)
    positions = clean.inputs.mask.numel()
    assert sum(x.shape[:2].numel() for x in coded) == positions * sum(site.coder is not None for site in adapter.sites)
    coded.clear()
    exact_effects(Runs(adapter, clean, baseline), nodes, chosen)
    # The generic rows of a decoder take one position a node.
    assert sum(x.shape[:2].numel() for x in coded) == len(chosen)
