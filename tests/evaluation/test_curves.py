"""Faithfulness curves say what their runs do; areas, node counts and intervals by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitlens.adapter import Adapter
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.curves import areas, curve, interval, node_counts, sub_circuits
from circuitlens.evaluation.faithfulness import AblationRuns
from tests.circuits import ablatable_circuit, half


def test_a_curve_says_what_its_runs_do(toy64: Adapter) -> None:
    circuit, nodes = ablatable_circuit(toy64)
    ranked = sorted(nodes, key=lambda n: -abs(n.attribution))
    runs = AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", nodes)
    counts = [2, 5, len(ranked)]
    controls = {5: torch.cat([half(nodes, seed) for seed in range(9)])}
    drawn = controls[5].clone()
    made = curve(runs, ranked, counts, "found on", controls)
    assert torch.equal(controls[5], drawn)
    assert (made.prompts, made.pairs, made.ablation) == ("found on", 1, "corrupted")
    assert made.whole == pytest.approx(circuit.metric.value)
    assert made.none == pytest.approx(circuit.metric.corrupted_value)
    keep, without = sub_circuits(runs, ranked, counts)
    for number, point in enumerate(made.points):
        chosen = {node.id for node in ranked[: point.nodes]}
        assert {n.id for n, k in zip(nodes, keep[number].tolist(), strict=True) if k} == chosen
        removed = {n.id for n, k in zip(nodes, without[number].tolist(), strict=True) if k}
        assert removed == {n.id for n in ranked[: point.nodes] if n.kind != "error"}
        for value, variant, others in (
            (point.faithfulness, keep, False),
            (point.errors_removed, without, False),
            (point.completeness, ~keep, True),
        ):
            assert [value] == pytest.approx(runs.faithfulness(runs(variant[number : number + 1], others)))
    assert made.points[-1].faithfulness == pytest.approx(1)
    assert made.points[-1].completeness == pytest.approx(0)
    assert [point.random is None for point in made.points] == [True, False, True]
    assert made.points[1].random == interval(runs.faithfulness(runs(controls[5], False)))
    assert made.cpr == pytest.approx(areas([0, *counts], [0.0, *(p.faithfulness for p in made.points)])[0])


def test_areas_by_hand() -> None:
    # Over shares 0, 1/3 and 1: 1/3 · 1/4 + 2/3 · 1, and 1/3 · 3/4 + 2/3 · 1/2.
    assert areas([0, 1, 3], [0.0, 0.5, 1.5]) == pytest.approx((3 / 4, 7 / 12))
    assert areas([0, 10], [0.0, 1.0]) == pytest.approx((0.5, 0.5))
    assert areas([0, 1, 1000], [0.0, 1.0, 1.0]) == pytest.approx((1 - 1 / 2000, 1 / 2000))


@given(st.lists(st.floats(-3, 1), min_size=1, max_size=6))
def test_areas_add_up_where_nothing_overshoots(values: list[float]) -> None:
    cpr, cmd = areas([0, *node_counts(1000)[: len(values)]], [0.0, *values])
    assert cpr + cmd == pytest.approx(1)


def test_node_counts() -> None:
    assert node_counts(1) == [1]
    assert node_counts(4) == [1, 2, 3, 4]
    assert node_counts(10) == [1, 2, 3, 5, 10]
    assert node_counts(230) == [1, 2, 3, 5, 10, 20, 50, 100, 200, 230]


@given(st.integers(1, 10**7))
def test_node_counts_rise_to_all(most: int) -> None:
    counts = node_counts(most)
    assert counts == sorted(set(counts))
    assert counts[0] >= 1
    assert counts[-1] == most


def test_an_interval_by_hand() -> None:
    drawn = interval([float(n) for n in range(101)])
    assert (drawn.mean, drawn.low, drawn.high) == pytest.approx((50, 2.5, 97.5))
    assert interval([0.25]) == interval([0.25, 0.25, 0.25])
