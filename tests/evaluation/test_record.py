"""Whatever a file says is held against the model: one whose digest was computed anew is given away by every field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from circuitlens_toy import ToyAdapter

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.record import deviations, worst
from circuitlens.evaluation.rescoring import rescore
from tests.evidence import (
    Change,
    check,
    edge_invented,
    edges_flipped,
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
    "edges scaled": (edges_scaled, r"the edge \S+ → \S+ has weight"),
    "edges flipped": (edges_flipped, r"the edge \S+ → \S+ has weight"),
    "edges shuffled": (edges_shuffled, r"the edge \S+ → \S+ has weight"),
    "a weak edge flipped": (weak_edge_flipped, r"the edge \S+ → \S+ has weight"),
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
    assert (evidence.verdict, failing(evidence)) == ("not supported", ["record"])
    assert evidence.reasons == (check(evidence, "record").reason,)
