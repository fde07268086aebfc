"""What a circuit's attributions are compared with is measured of the same thing."""

from __future__ import annotations

import pytest

import circuitlens
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.rescoring import rescore
from circuitlens.literals import MethodName, PositionGrouping
from circuitlens.prompts.pairs import Pair
from tests.models import Total


@pytest.mark.parametrize("by", ["sum", "position"])
@pytest.mark.parametrize("method", ["gradient", "exact"])
def test_effects_have_the_token_before_a_prompt_where_the_attributions_have_it(
    method: MethodName, by: PositionGrouping
) -> None:
    """In a sum every effect is its attribution. From zero `exact` leaves that token alone, and no other method does."""
    adapter = Total()
    pairs = [Pair(prompt=prompt, answer=("+",), distractor=("-",)) for prompt in ("2 1", "3 4")]
    circuit = circuitlens.aggregate(adapter, pairs, method, by=by, max_edges=0)
    nodes = [node for node in circuit.nodes if node.kind == "feature"]
    again = rescore(adapter, circuit, circuit_prompts(adapter, circuit), nodes, "logit_difference", None, lambda: None)
    said = [node.attribution for node in nodes]
    bos = 0.0 if method == "exact" else 10.0  # the metric is twice the sum
    assert sorted(said) == pytest.approx(sorted([bos + 10.0] if by == "sum" else [bos, 5.0, 5.0]))
    assert again.effects(nodes) == pytest.approx(said)
