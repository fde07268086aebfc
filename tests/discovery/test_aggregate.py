"""A circuit over many prompts is a circuit like any other; and what can't be aggregated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from circuitlens.adapter import Adapter
from circuitlens.circuit import ANSWER, DISTRACTOR, VERSION, open_circuit
from circuitlens.circuit.evidence import Evidence
from circuitlens.discovery import aggregate
from circuitlens.errors import PromptError
from circuitlens.literals import MethodName
from circuitlens.pipeline import BATCH
from tests.circuits import PAIRS, pair, toy_pairs
from tests.tiny_transformer import TinyTransformer

METHODS: tuple[MethodName, ...] = get_args(MethodName)


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
    assert again.version == VERSION
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


def test_the_strongest_means_are_kept() -> None:
    adapter = TinyTransformer("components")
    every = aggregate(adapter, PAIRS, "ig", max_nodes=None, max_edges=None, measured_edges=0)
    some = aggregate(adapter, PAIRS, max_nodes=7, max_edges=20, measured_edges=0)
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
