"""The methods behind `find`'s argument: which one is used, what it says, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

import circuitlens
from circuitlens.attribution.integrated import integrated_edges
from circuitlens.attribution.methods import choose_method
from circuitlens.attribution.scores import EdgeScores
from circuitlens.errors import PromptError
from circuitlens.literals import MethodName
from circuitlens.prompts.batch import tokenize
from tests.models import Freezable
from tests.oracles import baselines, metric_with
from tests.tiny_transformer import TinyTransformer

ASKED = ("a b c", "d", "e", "a b f")


@pytest.mark.parametrize("method", get_args(MethodName))
def test_a_circuit_says_its_method(method: MethodName) -> None:
    circuit = circuitlens.find(TinyTransformer("components"), *ASKED, method)
    assert circuit.method == method
    assert bool(circuit.completeness_gaps) == (method in ("path", "ig", "exact"))
    assert circuit.from_corrupted == (method != "gradient")
    assert circuit.conservation_residual < 1e-11


@pytest.mark.parametrize(
    ("corrupted", "frozen", "expected"),
    [("a b f", False, "path"), (None, False, "gradient"), ("a b f", True, "contrastive"), (None, True, "gradient")],
)
def test_the_default_method(corrupted: str | None, frozen: bool, expected: str) -> None:
    circuit = circuitlens.find(Freezable("residual"), "a b c", "d", "e", corrupted, frozen=frozen)
    assert (circuit.method, circuit.frozen) == (expected, frozen)


@pytest.mark.parametrize("method", ["ig", "exact"])
def test_measuring_methods_go_from_zero_where_nothing_is_corrupted(method: MethodName) -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, "a b c", "d", "e", method=method, max_nodes=None)
    assert circuit.corrupted is None
    assert not circuit.from_corrupted
    batch = tokenize(adapter, ["a b c"], ["d"], ["e"], ["a b f"])
    starts = baselines(adapter, batch, contrastive=False)
    assert circuit.completeness_gaps.keys() == {site.name for site in adapter.sites}
    if method == "ig":
        for site, start in zip(adapter.sites, starts, strict=True):
            nodes = [n.attribution for n in circuit.nodes if n.hook == site.write]
            change = circuit.metric.value - metric_with(adapter, batch, site, start).item()
            assert sum(nodes) == pytest.approx(change + circuit.completeness_gaps[site.name], abs=1e-9)


@pytest.mark.parametrize("method", ["path", "ig", "exact"])
def test_frozen_mode_is_refused_by_what_measures(method: MethodName) -> None:
    with pytest.raises(PromptError, match=f"The method '{method}' measures the model as it is") as error:
        circuitlens.find(Freezable("residual"), *ASKED, method, frozen=True)
    assert "leave frozen out, or use 'gradient' or 'contrastive'" in str(error.value)


def test_methods_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        PromptError, match="no method 'magic': choose one of gradient, contrastive, relp, path, ig, exact"
    ):
        choose_method("magic", corrupted=True)
    with pytest.raises(PromptError, match="'contrastive' compares with a corrupted prompt: give one"):
        circuitlens.find(TinyTransformer(), "a b c", "d", "e", method="contrastive")


def test_edges_of_exact_are_those_of_ig() -> None:
    ig, exact = (circuitlens.find(TinyTransformer(), *ASKED, method) for method in ("ig", "exact"))
    assert exact.edges == ig.edges
    assert exact.completeness_gaps == ig.completeness_gaps
    assert [n.id for n in exact.nodes] == [n.id for n in ig.nodes]
    assert max(abs(a.attribution - b.attribution) for a, b in zip(exact.nodes, ig.nodes, strict=True)) > 0.1


@pytest.mark.parametrize("method", get_args(MethodName))
def test_every_method_takes_a_function_for_a_metric_and_no_nodes_at_all(method: MethodName) -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, *ASKED, method, metric=lambda logits: logits[:, 4].tanh(), max_nodes=0)
    assert circuit.metric.name == "custom"
    assert {n.kind for n in circuit.nodes} == {"logit"}
    assert circuit.edges == ()
    assert circuit.found is not None
    assert circuit.found.nodes > 20
    assert circuit.conservation_residual == 0


@pytest.mark.parametrize("method", ["ig", "exact"])
def test_edges_that_do_not_add_up_are_a_warning(
    method: MethodName, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuitlens.find(TinyTransformer(), *ASKED, method)
    assert not caplog.records

    def lossy(*options: Any, **named: Any) -> EdgeScores:
        edges = integrated_edges(*options, **named)
        return replace(edges, weight=edges.weight * 1.001)

    monkeypatch.setattr("circuitlens.attribution.integrated.integrated_edges", lossy)
    circuitlens.find(TinyTransformer(), *ASKED, method)
    assert "not conserved" in caplog.text
