"""Random circuits are as large as the circuit, site by site, and are others; a sample of prompts keeps their order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from circuitlens_toy import ToyAdapter
from torch import Tensor

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Curve
from circuitlens.evaluation import measurements
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.curves import sub_circuits
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.evaluation.verification import verify
from circuitlens.literals import MethodName
from tests.evidence import CAT


def test_a_sample_of_prompts_is_some_of_them_in_their_order(toy: ToyAdapter, common: Circuit) -> None:
    prompts = circuit_prompts(toy, common)
    assert prompts.sample(8, 0) is prompts
    drawn = prompts.sample(5, 0)
    places = [prompts.pairs.index(pair) for pair in drawn.pairs]
    assert len(drawn) == len(drawn.groups) == len(set(places)) == 5
    assert places == sorted(places)
    assert (drawn.labels, drawn.by) == (prompts.labels, prompts.by)
    assert prompts.sample(5, 0) == drawn
    assert len({prompts.sample(5, seed).pairs for seed in range(8)}) > 1


@pytest.mark.parametrize("method", ["gradient", "ig"])
def test_random_circuits_are_as_large_site_by_site_and_are_others(
    toy: ToyAdapter, monkeypatch: pytest.MonkeyPatch, method: MethodName
) -> None:
    seen: list[tuple[AblationRuns, Any, dict[int, Tensor]]] = []
    curve = measurements.curve

    def spy(
        runs: AblationRuns, ranked: Any, counts: Any, prompts: str, controls: dict[int, Tensor], *rest: Any
    ) -> Curve:
        if prompts == "found on":
            seen.append((runs, ranked, controls))
        return curve(runs, ranked, counts, prompts, controls, *rest)

    monkeypatch.setattr(measurements, "curve", spy)
    circuit = circuitlens.find(toy, *CAT, method)
    verify(toy, circuit.prune(max_nodes=len(circuit.nodes) - 5), draws=30)
    ((runs, ranked, controls),) = seen
    assert len(runs.nodes) > len(ranked)  # active nodes outside the circuit are drawn too
    for count, drawn in controls.items():
        (own,) = sub_circuits(runs, ranked, [count])[0]
        groups = [(node.hook, node.kind) for node in runs.nodes]
        sizes = [
            {g: sum(k for k, h in zip(row.tolist(), groups, strict=True) if h == g) for g in groups} for row in drawn
        ]
        wanted = {g: sum(k for k, h in zip(own.tolist(), groups, strict=True) if h == g) for g in groups}
        assert all(size == wanted for size in sizes)
        assert not any(torch.equal(row, own) for row in drawn) or all(
            w in (0, groups.count(g)) for g, w in wanted.items()
        )
