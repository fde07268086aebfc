"""Which edges of one prompt and of many are measured, and that their weights are what interventions do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.node_index import VECTOR
from circuitlens.circuit import ANSWER, Circuit, Edge, Node
from circuitlens.discovery import aggregate
from circuitlens.errors import PromptError
from circuitlens.prompts.alignment import tokenize_pairs
from circuitlens.prompts.batch import PromptBatch
from tests.circuits import PAIRS
from tests.oracles import Place, path_patched
from tests.tiny_transformer import TinyTransformer

FEW: dict[str, Any] = {"method": "ig", "max_nodes": 14, "max_edges": None}


def place(adapter: Adapter, batch: PromptBatch, node: Node) -> Place:
    """A circuit's node in a batch of one prompt."""
    if node.label in ("answer", "distractor"):
        index = int((batch.metric.answers if node.label == ANSWER else batch.metric.distractors)[0, 0])
    else:
        index = VECTOR if node.index is None else node.index
    sites = [site.write for site in adapter.sites]
    return (len(sites) if node.is_logit else sites.index(node.hook)), 0, node.pos, index


def by_hand(adapter: Adapter, batch: PromptBatch, circuit: Circuit, edge: Edge) -> float:
    u, d = (place(adapter, batch, circuit.node(name)) for name in (edge.source, edge.target))
    return path_patched(adapter, batch, True, u, d)


def weights(circuit: Circuit) -> dict[tuple[str, str], float]:
    return {(edge.source, edge.target): edge.weight for edge in circuit.edges}


def test_the_strongest_edges_of_a_prompt_are_measured() -> None:
    adapter, one = TinyTransformer(), PAIRS[1]
    asked = (one.prompt, one.answer, one.distractor, one.corrupted)
    plain = circuitlens.find(adapter, *asked, **FEW, measured_edges=0)
    circuit = circuitlens.find(adapter, *asked, **FEW, measured_edges=10)
    assert not any(edge.measured for edge in plain.edges)
    strongest = list(weights(plain))[:10]
    measured = [edge for edge in circuit.edges if edge.measured]
    assert 5 < len(measured) <= 10
    assert {(edge.source, edge.target) for edge in measured} <= set(strongest)
    batch = tokenize_pairs(adapter, [one], None)
    for edge in measured:
        assert edge.weight == pytest.approx(by_hand(adapter, batch, circuit, edge), abs=1e-9)
    apart = {key: (weights(circuit)[key], weight) for key, weight in weights(plain).items() if key not in strongest}
    assert all(ours == theirs for ours, theirs in apart.values())
    sizes = [abs(edge.weight) for edge in circuit.edges]
    assert sizes == sorted(sizes, reverse=True)
    assert circuit.nodes == plain.nodes
    assert circuit.conservation_residual == plain.conservation_residual < 1e-9


def test_edges_of_many_prompts_are_measured_on_each() -> None:
    adapter = TinyTransformer()
    pairs = [PAIRS[n] for n in (0, 1, 3)]  # of one answer and one distractor
    plain = aggregate(adapter, pairs, **FEW, measured_edges=0)
    circuit = aggregate(adapter, pairs, **FEW, measured_edges=6, batch_size=2)
    chosen = list(weights(plain))[:6]
    edges = {(edge.source, edge.target): edge for edge in circuit.edges}
    batches = [tokenize_pairs(adapter, [one], None) for one in pairs]
    for key in chosen:
        each = np.array([by_hand(adapter, batch, circuit, edges[key]) for batch in batches])
        assert edges[key].measured
        assert edges[key].weight == pytest.approx(each.mean(), abs=1e-9)
        assert edges[key].standard_error == pytest.approx(each.std(ddof=1) / 3**0.5, abs=1e-9)
    assert {key for key, edge in edges.items() if edge.measured} == set(chosen)
    assert {key: w for key, w in weights(circuit).items() if key not in chosen} == pytest.approx(
        {key: w for key, w in weights(plain).items() if key not in chosen}
    )


def test_edges_that_are_small_count_as_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound that nothing reaches only logits are measured, which need no run; with none, all that are chosen."""
    adapter, chosen = TinyTransformer(), 12
    for small in (1e9, 0.0):
        for module in ("weighed_sums", "path_patching"):
            monkeypatch.setattr(f"circuitlens.attribution.{module}.SMALL", small)
        circuit = aggregate(adapter, PAIRS, **FEW, measured_edges=chosen)
        measured = [circuit.node(edge.target).is_logit for edge in circuit.edges if edge.measured]
        assert (0 < len(measured) < chosen and all(measured)) if small else len(measured) == chosen


@pytest.mark.parametrize("by", ["position", "sum"])
def test_batches_change_no_measured_edge(by: Any) -> None:
    adapter = TinyTransformer()
    together, apart = (
        aggregate(adapter, PAIRS[:3], by=by, **FEW, measured_edges=15, batch_size=size) for size in (3, 1)
    )
    assert weights(together) == pytest.approx(weights(apart))
    assert [edge.measured for edge in together.edges] == [edge.measured for edge in apart.edges]
    assert any(edge.measured for edge in together.edges)


def test_what_is_measured_unless_one_says_otherwise() -> None:
    """The default method with a corrupted prompt; every other method where it is asked for."""
    adapter, one = TinyTransformer(), PAIRS[0]
    default = circuitlens.find(adapter, one.prompt, one.answer, one.distractor, one.corrupted, max_nodes=8)
    assert any(edge.measured for edge in default.edges)
    named = circuitlens.find(adapter, one.prompt, one.answer, one.distractor, one.corrupted, "contrastive", max_nodes=8)
    assert not any(edge.measured for edge in named.edges)
    from_zero = circuitlens.find(adapter, one.prompt, one.answer, one.distractor, max_nodes=8)
    assert not any(edge.measured for edge in from_zero.edges)
    asked = circuitlens.find(adapter, one.prompt, one.answer, one.distractor, max_nodes=8, measured_edges=5)
    assert 0 < sum(edge.measured for edge in asked.edges) <= 5
    many = aggregate(adapter, PAIRS[:2], max_nodes=14)
    assert 10 < sum(edge.measured for edge in many.edges) <= 20 < len(many.edges)


def test_where_nothing_is_kept_nothing_is_measured() -> None:
    adapter = TinyTransformer()
    for size in (1, 2):
        sizes: dict[str, Any] = {"measured_edges": 5, "batch_size": size}
        assert aggregate(adapter, PAIRS[:2], max_nodes=0, **sizes).edges == ()
        assert aggregate(adapter, PAIRS[:2], max_edges=0, **sizes).edges == ()


def test_counts_and_frozen_mode_are_refused_in_a_sentence() -> None:
    adapter, one = TinyTransformer(), PAIRS[0]
    with pytest.raises(PromptError, match="measured_edges is -1: give a count of 0 or more"):
        circuitlens.find(adapter, one.prompt, one.answer, measured_edges=-1)
    with pytest.raises(PromptError, match="frozen mode holds parts of it: leave one of them out"):
        circuitlens.find(adapter, one.prompt, one.answer, frozen=True, measured_edges=3)
