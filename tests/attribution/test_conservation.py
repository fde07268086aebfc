"""Conservation (docs/laws.md): what a node is attributed flows on along its edges, and logits share out the metric."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.scores import EdgeScores, NodeScores, conservation_residual
from circuitlens.testing import example_batch
from circuitlens.tracing import Trace, trace
from tests.helpers import close
from tests.models import Line
from tests.scores import scored_example
from tests.tiny_transformer import TinyTransformer


def test_attribution_is_the_sum_of_outgoing_edges(model: Adapter, contrastive: bool) -> None:
    clean, nodes, edges = scored_example(model, contrastive)
    out = torch.zeros_like(nodes.attribution).index_add(0, edges.source, edges.weight)
    inner = nodes.site < len(clean.sites)
    assert inner.sum() > 5
    close(out[inner], nodes.attribution[inner])
    assert conservation_residual(nodes, edges) < 1e-5 * clean.metric.abs().max()


def test_logit_attributions_sum_to_the_metric(model: Adapter, contrastive: bool) -> None:
    clean, nodes, _ = scored_example(model, contrastive)
    logits = nodes.site == len(clean.sites)
    sums = torch.zeros_like(clean.metric).index_add(0, nodes.example[logits], nodes.attribution[logits])
    expected = clean.metric.detach()
    if contrastive:
        corrupted = example_batch(model).corrupted
        assert corrupted is not None
        expected = expected - trace(model, corrupted, example_batch(model).metric, graph=False).metric
    close(sums, expected)


def test_what_no_node_holds_still_counts() -> None:
    """Where a coder leaves nothing over, and a neuron is exactly 0, their shares of the gradient are not lost."""
    circuit = circuitlens.find(Line(), "1 5", "+", "-")
    assert circuit.conservation_residual == 0
    attribution = {node.id: node.attribution for node in circuit.nodes}
    # m = 6 (b1 + 2 b2), b = a - 1 = (0, 4): the inputs carry 6 and 60; b2 carries 48, b1 is off and holds nothing.
    assert attribution["a:0:0"] == 6
    assert attribution["a:0:1"] == 60
    assert attribution["b:0:1"] == 48
    assert "b:0:0" not in attribution
    weights = {(edge.source, edge.target): edge.weight for edge in circuit.edges}
    assert weights["a:0:0", "b:0:error"] == 6
    assert weights["a:0:1", "b:0:1"] == 60


def test_what_holds_nothing_and_passes_a_share_on_is_counted_as_found() -> None:
    """Inputs of 1 and 5, a neuron that is on, and the error that takes the other's share."""
    circuit = circuitlens.find(Line(), "1 5", "+", "-")
    assert circuit.found is not None
    assert circuit.found.nodes == sum(node.kind != "logit" for node in circuit.nodes) == 4
    assert circuit.found.features == 0  # inputs and neurons are none
    assert circuit.found.edges == len(circuit.edges)


def test_the_residual_in_a_circuit_is_that_of_its_edges(model: Adapter) -> None:
    example = model.examples[0]
    batch = (example.prompt, example.answer, example.distractor, example.corrupted)
    circuit = circuitlens.find(model, *batch, method="contrastive", max_edges=None)
    out = {node.id: 0.0 for node in circuit.nodes}
    for edge in circuit.edges:
        out[edge.source] += edge.weight
    gaps = [abs(node.attribution - out[node.id]) for node in circuit.nodes if node.kind != "logit"]
    assert circuit.conservation_residual == pytest.approx(max(gaps), abs=1e-12)
    assert circuit.conservation_residual > 0  # sums of rounded numbers: a residual of 0 was not computed


def test_a_residual_above_rounding_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    adapter = TinyTransformer()
    circuitlens.find(adapter, "a b c", "d", "e")
    assert not caplog.records

    def lossy(clean: Trace, nodes: NodeScores, *options: Any, **named: Any) -> EdgeScores:
        edges = score_edges(clean, nodes, *options, **named)
        return replace(edges, weight=edges.weight * 1.001)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitlens.attribution.gradient.score_edges", lossy)
        circuitlens.find(adapter, "a b c", "d", "e")
    assert "not conserved" in caplog.text


def test_a_broken_edge_breaks_conservation(model: Adapter) -> None:
    _, nodes, edges = scored_example(model, contrastive=False)
    broken = EdgeScores(edges.source[1:], edges.target[1:], edges.weight[1:], edges.rest)
    lost = edges.weight[0].abs().item()
    assert conservation_residual(nodes, broken) > 0.5 * lost > 0
