"""Whatever a file says is held against the model: one whose digest was computed anew is given away by every field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from circuitlens_toy import ToyAdapter

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.record import deviations, worst
from circuitlens.evaluation.rescoring import rescore
from circuitlens.literals import MethodName
from tests.evidence import (
    CATS,
    TRAIN,
    Change,
    check,
    edge_invented,
    edges_flipped,
    edges_gone,
    edges_scaled,
    edges_shuffled,
    edited,
    evidence_of,
    failing,
    other_found,
    set_of,
    strongest_edges_gone,
    twice,
    weak_edge_flipped,
)
from tests.tiny_transformer import Layout, TinyTransformer


def off(adapter: circuitlens.Adapter, circuit: Circuit, prompts: int = 128) -> tuple[float, str]:
    """The largest deviation of a circuit's file, and what it is told by."""
    own = circuit_prompts(adapter, circuit)
    again = rescore(adapter, circuit, own.sample(prompts, 0), [], circuit.metric.name, None, lambda: None)  # pyright: ignore[reportArgumentType]
    found = worst(list(deviations(circuit, again, len(own))))
    return found.share, found.told


FAKES: dict[str, tuple[Change, str]] = {
    "label": (
        set_of("feature", label="plural"),
        r"the label of sae:0:\d is 'plural' in the file and 'F\d' in the model",
    ),
    "activation": (set_of("feature", activation=lambda x: x + 1), r"the activation of sae:0:\d is"),
    "layer": (set_of("feature", layer=lambda x: x + 3), r"the layer of sae:0:\d is 5 in the file and 2 in the model"),
    "address": (set_of("feature", url="https://example.org"), r"the address of sae:0:\d is 'https://example.org' in"),
    "output": (set_of("logit", label="runs"), r"the label of logits:0:\d is"),
    "a logit's attribution": (set_of("logit", attribution=9.9), r"the attribution of logits:0:\d is \+9.9 in the file"),
    "a node twice": (twice, r"another is the same node as sae:0:\d"),
    "gaps": (lambda d: d["completeness_gaps"].update(sae=2.0), "the completeness gap of sae is"),
    "gaps of no site": (lambda d: d["completeness_gaps"].update(more=0.0), "the sites with completeness gaps"),
    "residual": (lambda d: d.update(conservation_residual=0.5), "the conservation residual is 0.5 in the file and"),
    "found nodes": (other_found(nodes=lambda n: n + 40), "nodes were found, says the file, and the model has"),
    "found features": (other_found(features=lambda n: n + 40), "features were found, says the file, and the model has"),
    "found attribution": (other_found(attribution=lambda x: 3 * x), "the summed |attribution| is"),
    "found edges": (other_found(edges=lambda n: 2 * n), "edges were found, says the file, and the model has"),
    "corrupted value": (lambda d: d["metric"].update(corrupted_value=-1.0), "the corrupted prompt's metric is -1 in"),
    "outputs": (lambda d: d["metric"]["answers"][0].update(index=7), "the outputs' indices is"),
    "edges scaled": (edges_scaled, r"edge \S+ → \S+ has weight"),
    "edges flipped": (edges_flipped, r"edge \S+ → \S+ has weight"),
    "edges shuffled": (edges_shuffled, r"edge \S+ → \S+ has weight"),
    "a weak edge flipped": (weak_edge_flipped, r"edge \S+ → \S+ has weight"),
    "strongest edges gone": (strongest_edges_gone, r"the edge \S+ → \S+ of weight \S+ in the model is not in the file"),
    "an edge invented": (edge_invented, r"the edge input:0:1 → logits:0:1 is not there in the model"),
}
"""An edit of a file, and what gives it away."""


@pytest.mark.parametrize("name", FAKES)
def test_an_edit_is_named(name: str, toy: ToyAdapter, contrast: Circuit, tmp_path: Path) -> None:
    change, told = FAKES[name]
    share, sentence = off(toy, edited(contrast, tmp_path / "c.json", change, forge=True))
    assert share > 0.01, sentence
    assert re.search(told, sentence)


def test_an_edit_is_not_supported(toy: ToyAdapter, contrast: Circuit, tmp_path: Path) -> None:
    forged = edited(contrast, tmp_path / "c.json", FAKES["edges flipped"][0], forge=True)
    evidence = evidence_of(toy, forged)
    assert (evidence.verdict, failing(evidence)) == ("not supported", ["record", "edges"])
    assert evidence.reasons == (check(evidence, "record").reason,)


@pytest.mark.parametrize("name", [name for name in FAKES if "edge" in name])
def test_edges_by_gradients_alone_are_held_against_the_model_too(name: str, toy: ToyAdapter, tmp_path: Path) -> None:
    change, told = FAKES[name]
    circuit = circuitlens.find(toy, *CATS, "contrastive")
    assert not any(edge.measured for edge in circuit.edges)
    share, sentence = off(toy, edited(circuit, tmp_path / "c.json", change, forge=True))
    assert share > 0.01, sentence
    assert re.search(told, sentence)


def test_an_edge_that_is_not_measured_may_not_say_so(toy: ToyAdapter, tmp_path: Path) -> None:
    circuit = circuitlens.find(toy, *CATS, "contrastive")
    real = circuitlens.find(toy, *CATS, "contrastive", measured_edges=len(circuit.edges))
    weights = {(edge.source, edge.target): edge.weight for edge in real.edges if edge.measured}
    ends = [
        (e.source, e.target) for e in circuit.edges if abs(weights.get((e.source, e.target), e.weight) - e.weight) > 1
    ]
    assert ends, "else gradients say what is measured"

    def flagged(document: dict[str, Any]) -> None:
        next(e for e in document["edges"] if (e["source"], e["target"]) == ends[0])["measured"] = True

    share, sentence = off(toy, edited(circuit, tmp_path / "c.json", flagged, forge=True))
    assert share > 0.01
    assert sentence.startswith(f"the measured edge {ends[0][0]} → {ends[0][1]} has weight")
    assert off(toy, real)[0] < 1e-5


def test_a_file_without_the_edges_that_were_found_is_weak(toy: ToyAdapter, contrast: Circuit, tmp_path: Path) -> None:
    """It may have been pruned of them, so nothing in it is untrue; one that was found without edges is no worse."""
    evidence = evidence_of(toy, edited(contrast, tmp_path / "c.json", edges_gone, forge=True))
    assert (evidence.verdict, failing(evidence)) == ("weak", ["edges"])
    assert re.match(r"the file has none of the \d+ edges that were found", check(evidence, "edges").reason)
    without = evidence_of(toy, circuitlens.find(toy, *CATS, max_edges=0))
    assert without.verdict == "supported"
    assert check(without, "edges").reason == "not tested: the circuit was found without edges"


@pytest.mark.parametrize("method", ["gradient", "contrastive", "ig", "exact"])
def test_what_is_true_is_off_by_rounding(method: MethodName, toy: ToyAdapter) -> None:
    circuit = circuitlens.find(toy, *CATS, method)
    few = circuitlens.find(toy, *CATS, method, max_nodes=6, max_edges=9)
    for one in (circuit, few, circuit.prune(max_nodes=4), circuit.prune(max_edges=5), circuit.prune(max_edges=0)):
        assert off(toy, one)[0] < 1e-5
    many = circuitlens.aggregate(toy, TRAIN[:6], method, max_nodes=8)
    for one in (many, many.prune(max_nodes=5, max_edges=6)):
        assert off(toy, one)[0] < 1e-5
        assert off(toy, one, prompts=4)[0] < 1e-5, "what chance explains is allowed"


@pytest.mark.parametrize("layout", get_args(Layout))
def test_what_is_true_of_a_transformer_is_off_by_rounding(layout: Layout) -> None:
    adapter, ask = TinyTransformer(layout), ("a b c", "d", "e", "a b f")
    for options in ({"method": "contrastive"}, {"measured_edges": 9, "max_edges": 40}, {"metric": "kl_divergence"}):
        circuit = circuitlens.find(adapter, *ask, **{"measured_edges": 0, **options})
        assert off(adapter, circuit)[0] < 1e-4
        assert off(adapter, circuit.prune(max_nodes=9))[0] < 1e-4


def test_files_of_earlier_versions_are_compared_on_what_they_have(toy: ToyAdapter, contrast: Circuit) -> None:
    lacking: dict[str, Any] = {"found": None, "completeness_gaps": {}, "fingerprint": None}
    old = contrast.model_copy(update=lacking)
    metric = old.metric.model_copy(update={"corrupted_value": None})
    assert off(toy, old.model_copy(update={"metric": metric}))[0] < 1e-5
