"""What an intervention reports: attribution's prediction where there is one, the outputs, and means over prompts."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitError
from circuitlens.evaluation.intervention import intervene
from circuitlens.evaluation.settings import Setting
from circuitlens.literals import MethodName
from circuitlens.prompts.pairs import Pair
from tests.circuits import PAIRS, example_circuit, inner, strongest_feature, toy_circuit
from tests.models import Linear
from tests.tiny_transformer import TinyTransformer

FACTORS = st.floats(-20, 20)


THREE = PAIRS[:3]


# What attribution predicts


def test_a_factor_leaves_the_token_before_the_prompt_alone() -> None:
    from tests.saelens import wrapped

    adapter = wrapped("residual")
    circuit = example_circuit(adapter, max_nodes=None, max_edges=0)
    before = [n for n in inner(circuit) if n.pos == 0]
    assert before
    outcome = intervene(adapter, circuit, {n.id: 3 for n in before})
    assert outcome.measured_change == pytest.approx(0, abs=1e-4)
    assert outcome.predicted_change == 0
    pairs = [Pair(prompt=circuit.prompt, answer=("",), distractor=()).model_copy(update=answers(circuit))]
    summed = circuitlens.aggregate(adapter, pairs, "gradient", by="sum", max_nodes=5, max_edges=0)
    assert intervene(adapter, summed, {inner(summed)[0].id: 3}).predicted_change is None


def answers(circuit: Circuit) -> dict[str, tuple[str, ...]]:
    """A circuit's answers and distractors, as those of a pair."""
    question = circuit.questions[0]
    return {"answer": question.answer, "distractor": question.distractor}


@settings(max_examples=30)
@given(factor=FACTORS)
def test_from_the_corrupted_run_a_feature_is_said_in_proportion(toy64: Adapter, factor: float) -> None:
    """The prediction is exact where all is linear, though attribution measured the change from another value."""
    circuit = toy_circuit(toy64, "The cats", "contrastive")
    features = [n for n in inner(circuit) if n.kind == "feature"]
    assert features
    for node in features:
        outcome = intervene(toy64, circuit, {node.id: factor})
        assert outcome.predicted_change is not None
        assert outcome.measured_change == pytest.approx(outcome.predicted_change, abs=1e-8)
    node = strongest_feature(circuit)
    set_back = intervene(toy64, circuit, {node.id: "corrupted"})
    assert set_back.predicted_change == -node.attribution
    assert set_back.measured_change == pytest.approx(-node.attribution, abs=1e-9)


def test_the_corrupted_value_is_said_by_a_gradient_from_zero(toy64: Adapter) -> None:
    """The corrupted prompt is given, and attribution does not measure from it."""
    circuit = toy_circuit(toy64, "The cats")
    assert not circuit.from_corrupted
    for node in (n for n in inner(circuit) if n.kind == "feature"):
        outcome = intervene(toy64, circuit, {node.id: "corrupted"})
        assert outcome.predicted_change is not None
        assert outcome.measured_change == pytest.approx(outcome.predicted_change, abs=1e-9)


def test_where_attribution_does_not_say_there_is_no_prediction() -> None:
    adapter = TinyTransformer("residual")
    contrast = example_circuit(adapter, "contrastive", max_nodes=None, max_edges=0)
    plain = example_circuit(adapter, "gradient", max_nodes=None, max_edges=0)
    feature, error = (
        next(n for n in inner(contrast) if n.kind == kind and n.pos == 2 and n.activation)
        for kind in ("feature", "error")
    )
    # Of a vector that was compared with the corrupted run's, only what was compared is known.
    assert intervene(adapter, contrast, {error.id: 0.5}).predicted_change is None
    assert intervene(adapter, contrast, {feature.id: 2, error.id: 0}).predicted_change is None
    assert intervene(adapter, contrast, {error.id: 1}).predicted_change == 0
    assert intervene(adapter, contrast, {error.id: "corrupted"}).predicted_change == -error.attribution
    assert intervene(adapter, plain, {error.id: "corrupted"}).predicted_change is None
    assert intervene(adapter, plain, {error.id: 0.5}).predicted_change == pytest.approx(
        -plain.node(error.id).attribution / 2
    )


def test_a_node_that_does_not_change_says_nothing_of_other_values() -> None:
    """Before the token that differs clean and corrupted are one, so attribution is 0 and measures nothing."""
    adapter = TinyTransformer("residual")
    circuit = example_circuit(adapter, "contrastive", max_nodes=None, max_edges=0)
    same = example_circuit(adapter, "gradient", max_nodes=None, max_edges=0)
    feature = next(n for n in inner(same) if n.kind == "feature" and n.pos == 0)
    fields = {name: getattr(circuit, name) for name in Circuit.model_fields}
    nodes = (*(n for n in circuit.nodes if n.id != feature.id), feature.model_copy(update={"attribution": 0.0}))
    with_it = Circuit(**{**fields, "nodes": nodes, "edges": ()})
    assert intervene(adapter, with_it, {feature.id: 2}).predicted_change is None
    assert intervene(adapter, with_it, {feature.id: 2}).measured_change != 0
    assert intervene(adapter, same, {feature.id: "corrupted"}).predicted_change == 0
    assert intervene(adapter, same, {feature.id: "corrupted"}).measured_change == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "setting", "share"),
    [
        ("gradient", 0.25, -0.75),
        ("gradient", 3, 2),
        ("gradient", 1, 0),
        ("gradient", "corrupted", None),
        ("contrastive", "corrupted", -1),
        ("contrastive", 1, 0),
        ("contrastive", 0, None),
        ("ig", 0.5, None),
    ],
)
def test_of_means_over_prompts_only_what_is_exact_is_said(
    method: MethodName, setting: Setting, share: float | None
) -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.aggregate(adapter, THREE, method, max_nodes=10, max_edges=0)
    for node in inner(circuit):
        predicted = intervene(adapter, circuit, {node.id: setting}).predicted_change
        assert predicted == (None if share is None else pytest.approx(share * node.attribution))


@pytest.mark.parametrize("method", get_args(MethodName))
def test_of_a_linear_model_every_set_is_predicted_exactly(method: MethodName) -> None:
    """What one node does through another counts once, also where it goes by several ways and others lie between."""
    adapter = Linear()
    circuit = example_circuit(adapter, method, max_nodes=None, max_edges=None)
    chance, gaps = random.Random(0), []
    for count in range(1, 13):
        chosen = chance.sample(inner(circuit), count)
        ablated = circuitlens.ablate(adapter, circuit, [node.id for node in chosen])
        assert ablated.measured == pytest.approx(ablated.predicted, abs=1e-9)
        gaps.append(abs(ablated.measured - sum(node.attribution for node in chosen)))
        factors = {node.id: chance.choice([0, 1, 0.5, -2]) for node in chosen}
        outcome = intervene(adapter, circuit, factors)
        assert outcome.predicted_change is not None
        assert outcome.measured_change == pytest.approx(outcome.predicted_change, abs=1e-9)
    assert gaps[0] == pytest.approx(0, abs=1e-9)
    assert max(gaps) > 1


# Many prompts, one by one


@pytest.mark.parametrize("setting", [-1.5, "corrupted"])
def test_over_many_prompts_outcomes_are_means_of_single_ones(setting: Setting) -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.aggregate(adapter, THREE, "contrastive", max_nodes=8, max_edges=0)
    chosen = [n.id for n in inner(circuit)]
    single = [circuit.model_copy(update={"pairs": (pair,), "fingerprint": None}) for pair in THREE]
    alone = [intervene(adapter, each, dict.fromkeys(chosen, setting), outputs=8) for each in single]
    outcome = intervene(adapter, circuit, dict.fromkeys(chosen, setting), outputs=8)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    assert outcome.before == pytest.approx(mean([each.before for each in alone]), abs=1e-9)
    assert outcome.after == pytest.approx(mean([each.after for each in alone]), abs=1e-9)
    assert len(outcome.outputs) == 8
    for each in outcome.outputs:
        same = [next(o for o in one.outputs if o.label == each.label) for one in alone]
        assert each.before == pytest.approx(mean([o.before for o in same]), abs=1e-12)
        assert each.after == pytest.approx(mean([o.after for o in same]), abs=1e-12)
    assert {o.label for o in outcome.outputs if o.asked} == set("deagbc")


# Outputs


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_the_most_probable_before_and_after_and_what_is_asked_for(count: int) -> None:
    adapter = TinyTransformer("residual")
    circuit = example_circuit(adapter, max_nodes=None, max_edges=0)
    settings = {n.id: -3.0 for n in inner(circuit) if n.hook == "2.resid" and n.kind == "feature" and n.pos == 2}
    every = intervene(adapter, circuit, settings, outputs=8).outputs
    assert len(every) == 8
    assert sum(each.before for each in every) == pytest.approx(1)
    assert sum(each.after for each in every) == pytest.approx(1)
    tops = [sorted(every, key=lambda o: -getattr(o, side))[:count] for side in ("before", "after")]
    wanted = {o.label for top in tops for o in top} | {"d", "e"}
    shown = intervene(adapter, circuit, settings, outputs=count).outputs
    assert {each.label for each in shown} == wanted
    assert sum(each.before for each in shown) <= 1 + 1e-12
    assert [each.before for each in shown] == sorted((each.before for each in shown), reverse=True)
    assert tops[0] != tops[1] or count in (0, 100)


@pytest.mark.parametrize("name", ["log_probability", "probability_difference"])
def test_the_metric_agrees_with_the_outputs(name: Any) -> None:
    adapter = TinyTransformer("components")
    distractor = None if name == "log_probability" else "e"
    circuit = circuitlens.find(adapter, "a b c", "d", distractor, metric=name, max_edges=0)
    strongest = max(inner(circuit), key=lambda n: abs(n.attribution))
    outcome = intervene(adapter, circuit, {strongest.id: 0.3})
    shown = {each.label: each for each in outcome.outputs}
    for value, side in ((outcome.before, "before"), (outcome.after, "after")):
        ours, theirs = (getattr(shown[label], side) for label in "de")
        expected = torch.tensor(ours).double().log().item() if distractor is None else ours - theirs
        assert value == pytest.approx(expected, abs=1e-6)


def test_another_metric_can_be_measured_and_a_function_is_given_again(toy64: Adapter) -> None:
    def triple(logits: Tensor) -> Tensor:
        return 3 * logits[:, 1]

    circuit = circuitlens.find(toy64, "The cats", "run", "runs", metric=triple)
    node = strongest_feature(circuit)
    with pytest.raises(CircuitError, match=r"was a function, which no file keeps: give it again as metric="):
        intervene(toy64, circuit, {node.id: 2})
    outcome = intervene(toy64, circuit, {node.id: 2}, triple)
    assert outcome.measured_change == pytest.approx(node.attribution, rel=1e-9)
    other = intervene(toy64, circuit, {node.id: 2}, "logit_difference")
    assert other.before == pytest.approx(toy_circuit(toy64, "The cats").metric.value, rel=1e-9)


def test_a_negative_count_of_outputs_is_refused(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(CircuitError, match="outputs is -1: give a count of 0 or more"):
        intervene(toy, cats, {}, outputs=-1)
