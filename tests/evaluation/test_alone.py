"""What some of a circuit's nodes do alone, asked again and again, is what verification measures."""

from __future__ import annotations

import pytest
from circuitlens_toy import ToyAdapter

import circuitlens
from circuitlens.errors import CircuitError
from circuitlens.evaluation.alone import AloneRuns
from tests.evidence import CATS, evidence_of


def test_the_core_alone_gives_what_its_evidence_says(toy: ToyAdapter) -> None:
    circuit = circuitlens.find(toy, *CATS)
    evidence = evidence_of(toy, circuit)
    curve = evidence.curves[0]
    point = next(point for point in curve.points if point.nodes == len(evidence.core))
    runs = AloneRuns(toy, circuit)
    told = runs(evidence.core)
    assert told.faithfulness == pytest.approx(point.faithfulness, abs=1e-4)
    assert (told.whole, told.none) == pytest.approx((curve.whole, curve.none), abs=1e-4)
    assert told.ablation == "corrupted"
    nothing = runs([node.id for node in circuit.nodes if node.kind in ("input", "logit")])
    assert (nothing.faithfulness, nothing.value) == pytest.approx((0, curve.none), abs=1e-4)
    everything = runs([node.id for node in circuit.nodes])
    assert everything.faithfulness == pytest.approx(1, abs=1e-4)
    with pytest.raises(CircuitError, match="no node 'nothing'"):
        runs(["nothing"])
