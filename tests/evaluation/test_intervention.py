"""What the model answers with nodes set otherwise: by hand, and beside `ablate`; and what can't be set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation import intervention
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.evaluation.intervention import Outcome, intervene
from circuitlens.evaluation.settings import Setting, read_settings
from circuitlens.literals import MethodName, PositionGrouping
from tests.circuits import PAIRS, example_circuit, inner, strongest_feature, toy_circuit
from tests.models import Spelled
from tests.tiny_transformer import Layout, TinyTransformer

FACTORS = st.floats(-20, 20)


THREE = PAIRS[:3]


def some(nodes: list[Node], seed: int = 0, share: float = 0.5) -> list[Node]:
    drawn = torch.rand(len(nodes), generator=torch.Generator().manual_seed(seed)) < share
    return [node for node, chosen in zip(nodes, drawn.tolist(), strict=True) if chosen]


# By hand


@pytest.mark.parametrize("prompt", ["The cats", "The cat"])
@given(factor=FACTORS)
def test_a_scaled_feature_of_the_toy_by_hand(toy64: Any, prompt: str, factor: float) -> None:
    """The hidden layer moved along the feature's decoder row, and the logits and probabilities of that."""
    answer = ["The cat", "The cats"].index(prompt)
    circuit = toy_circuit(toy64, prompt)
    feature = strongest_feature(circuit)
    model, sae = toy64.model, toy64.sae
    h = model.relu(model.hidden(toy64.inputs([prompt]).values))
    f = sae.encode(h)
    changed = f.clone()
    changed[..., feature.index] *= factor
    before, after = (model.output(x)[0, 0] for x in (h, h + sae.decode(changed) - sae.decode(f)))

    outcome = intervene(toy64, circuit, {feature.id: factor})
    assert outcome.before == pytest.approx((before[answer] - before[1 - answer]).item(), abs=1e-9)
    assert outcome.after == pytest.approx((after[answer] - after[1 - answer]).item(), abs=1e-9)
    assert outcome.measured_change == pytest.approx(outcome.predicted_change, abs=1e-9)  # feature → logits is linear
    assert outcome.nodes == (feature,)
    said = {each.label: (each.before, each.after) for each in outcome.outputs}
    for index, label in enumerate(["runs", "run"]):
        by_hand = before.softmax(0)[index].item(), after.softmax(0)[index].item()
        assert said[label] == pytest.approx(by_hand, abs=1e-12)
    assert all(each.asked for each in outcome.outputs)
    for side in zip(*said.values(), strict=True):
        assert sum(side) == pytest.approx(1, abs=1e-12)


def test_a_scaled_feature_of_a_transformer_by_hand() -> None:
    """A feature of the last residual stream, moved along its decoder row: all probabilities are those of the logits."""
    adapter = TinyTransformer("components")
    circuit = example_circuit(adapter)
    node = next(n for n in inner(circuit) if n.hook == "2.resid" and n.kind == "feature" and n.pos == 2)
    coder: Any = adapter.sites[-1].coder
    streams: list[Tensor] = []
    inputs = adapter.inputs(["a b c"])
    before = adapter.run(inputs, {"2.resid": streams.append})[0, -1]
    assert node.index is not None
    moved = streams[0].clone()
    moved[0, 2] += 2.5 * coder.encode(moved)[0, 2, node.index] * coder.decoder[node.index]
    after = adapter.run(inputs, {"2.resid": lambda _: moved})[0, -1]

    outcome = intervene(adapter, circuit, {node.id: 3.5}, outputs=8)
    order = before.argsort(descending=True).tolist()
    assert [each.label for each in outcome.outputs] == [adapter.output_label(index) for index in order]
    assert [e.before for e in outcome.outputs] == pytest.approx(before.softmax(0)[order].tolist(), abs=1e-12)
    assert [e.after for e in outcome.outputs] == pytest.approx(after.softmax(0)[order].tolist(), abs=1e-12)
    assert outcome.after == pytest.approx((after[4] - after[5]).item(), abs=1e-9)
    assert {each.label for each in outcome.outputs if each.asked} == {"d", "e"}
    assert abs(outcome.measured_change) > 1e-3


def test_a_scaled_embedding_by_hand() -> None:
    adapter = TinyTransformer("components")
    circuit = example_circuit(adapter)
    node = next(n for n in inner(circuit) if n.hook == "embed" and n.pos == 1)

    def scale(x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], -0.5 * x[:, 1:2], x[:, 2:]], 1)

    after = adapter.run(adapter.inputs(["a b c"]), {"embed": scale})[0, -1]
    outcome = intervene(adapter, circuit, {node.id: -0.5})
    assert outcome.after == pytest.approx((after[4] - after[5]).item(), abs=1e-9)
    assert outcome.predicted_change == pytest.approx(
        -1.5 * node.attribution
    )  # from zero: a vector's share is its factor's


@pytest.mark.parametrize("factor", [0.0, 0.4, -2.0])
def test_a_scaled_error_by_hand(factor: float) -> None:
    """An error goes into the stream as it is."""
    adapter = TinyTransformer("residual")
    circuit = example_circuit(adapter)
    node = next(n for n in inner(circuit) if n.hook == "1.resid" and n.kind == "error" and n.pos == 2)
    coder = adapter.sites[1].coder
    assert coder is not None

    def move(x: Tensor) -> Tensor:
        error = x - coder.decode(coder.encode(x))
        error[:, :2] = 0
        return x + (factor - 1) * error

    after = adapter.run(adapter.inputs(["a b c"]), {"1.resid": move})[0, -1]
    outcome = intervene(adapter, circuit, {node.id: factor})
    assert outcome.after == pytest.approx((after[4] - after[5]).item(), abs=1e-9)
    assert abs(outcome.measured_change) > 1e-3


# Beside ablation, and the runs that faithfulness is measured by


def with_runs(adapter: Adapter, circuit: Circuit, chosen: Sequence[Node]) -> tuple[float, float]:
    """The metric before and after the nodes are ablated, by `AblationRuns`."""
    baseline = "corrupted" if circuit.from_corrupted else "zero"
    runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), baseline, chosen)
    after = runs(torch.zeros(1, len(chosen), dtype=torch.bool), others=True)
    return runs.full_model.mean().item(), after.mean().item()


@pytest.mark.parametrize("method", ["gradient", "contrastive"])
def test_everything_switched_off_is_what_ablation_says(model: Adapter, method: MethodName) -> None:
    """All at once and some at a time, in every layout; and in any order."""
    circuit = example_circuit(model, method, max_nodes=60, max_edges=0)
    setting: Setting = "corrupted" if method == "contrastive" else 0
    bound = 1e-9 if "64" in str(circuit.options.get("dtype")) or circuit.adapter == "tiny" else 1e-4
    for chosen in (inner(circuit), some(inner(circuit)), inner(circuit)[:1]):
        ids = [node.id for node in chosen]
        ablated = circuitlens.ablate(model, circuit, ids)
        assert (ablated.before, ablated.after) == pytest.approx(with_runs(model, circuit, chosen), abs=bound)
        outcome = intervene(model, circuit, dict.fromkeys(ids, setting))
        assert (outcome.before, outcome.after) == (ablated.before, ablated.after)
        backwards = intervene(model, circuit, dict.fromkeys(reversed(ids), setting))
        assert backwards.after == pytest.approx(outcome.after, abs=bound)
        if not model.bos:
            assert outcome.predicted_change == pytest.approx(-ablated.predicted_drop, rel=1e-6, abs=bound)


@pytest.mark.parametrize("method", ["gradient", "contrastive"])
@pytest.mark.parametrize("by", ["position", "sum", "role"])
@pytest.mark.parametrize("bos", [False, True])
def test_so_it_is_over_many_prompts(
    method: MethodName, by: PositionGrouping, bos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several lengths, in batches of their own, with a token before them and without."""
    adapter: Adapter = Spelled() if bos else TinyTransformer("components")
    pairs = [pair.model_copy(update={"roles": ("one", "two", "two")}) for pair in THREE]
    if by != "position":
        more = {"prompt": "a b c d g", "corrupted": "f b c d g", "roles": ("one", "two", "one", "two", "two")}
        pairs.append(THREE[0].model_copy(update=more))
    circuit = circuitlens.aggregate(adapter, pairs, method, by=by, max_nodes=40, max_edges=0)
    setting: Setting = "corrupted" if method == "contrastive" else 0
    for chosen in (inner(circuit), some(inner(circuit), 1)):
        ids = [node.id for node in chosen]
        ablated = circuitlens.ablate(adapter, circuit, ids)
        assert (ablated.before, ablated.after) == pytest.approx(with_runs(adapter, circuit, chosen), abs=1e-9)
        outcome = intervene(adapter, circuit, dict.fromkeys(ids, setting))
        assert (outcome.before, outcome.after) == (ablated.before, ablated.after)
        if not bos or method == "contrastive":
            assert outcome.predicted_change == pytest.approx(-ablated.predicted_drop, abs=1e-9)
        monkeypatch.setattr(intervention, "BATCH", 2)
        batched = intervene(adapter, circuit, dict.fromkeys(ids, setting))
        monkeypatch.undo()
        assert batched.after == pytest.approx(outcome.after, abs=1e-9)
        assert len(batched.outputs) == len(outcome.outputs)
        assert outcome.outputs[0].before == pytest.approx(batched.outputs[0].before, abs=1e-12)


# What the settings mean


def test_nothing_set_changes_nothing(model: Adapter) -> None:
    outcome = intervene(model, example_circuit(model, max_edges=0, max_nodes=5), {})
    assert outcome.after == outcome.before
    assert (outcome.nodes, outcome.measured_change, outcome.predicted_change) == ((), 0, 0)
    assert all(each.after == each.before for each in outcome.outputs)


@pytest.mark.parametrize("method", ["gradient", "contrastive"])
def test_a_factor_of_one_changes_nothing(model: Adapter, method: MethodName) -> None:
    """Whatever and however many are held at what they are."""
    circuit = example_circuit(model, method, max_nodes=60, max_edges=0)
    for chosen in (inner(circuit), some(inner(circuit), 2)):
        outcome = intervene(model, circuit, {node.id: 1 for node in chosen})
        assert outcome.after == pytest.approx(outcome.before, rel=1e-5, abs=1e-5)
        assert outcome.predicted_change == 0


@settings(max_examples=30)
@given(one=FACTORS, two=FACTORS)
def test_settings_of_one_linear_layer_add_up(toy64: Adapter, one: float, two: float) -> None:
    """What features and errors do to the logits is linear, so together they do the sum, and attribution says it."""
    circuit = toy_circuit(toy64, "The cats")
    a, b, *_ = sorted((n for n in inner(circuit) if n.hook == "hook_sae"), key=lambda n: -abs(n.attribution))
    both = intervene(toy64, circuit, {a.id: one, b.id: two})
    apart = [intervene(toy64, circuit, {node.id: factor}) for node, factor in ((a, one), (b, two))]
    assert both.measured_change == pytest.approx(sum(each.measured_change for each in apart), abs=1e-9)
    assert both.measured_change == pytest.approx(both.predicted_change, abs=1e-9)
    assert both.nodes == (a, b)


def test_a_node_is_set_to_its_clean_value_whatever_is_set_before_it(toy64: Adapter) -> None:
    """With every feature and the error held, nothing below reaches the logits; without that it does."""
    circuit = circuitlens.find(toy64, "The cats", "run", "runs", "The cat", "contrastive", max_nodes=None)
    (plural,) = [n for n in inner(circuit) if n.kind == "input" and n.label == "plural"]
    # Features that are inactive in both prompts are no nodes, so the input is moved by too little to wake one.
    held = {n.id: 1.0 for n in inner(circuit) if n.hook == "hook_sae"}
    moved = intervene(toy64, circuit, {plural.id: 1.05})
    assert abs(moved.measured_change) > 0.1
    assert intervene(toy64, circuit, {plural.id: 1.05, **held}).measured_change == pytest.approx(0, abs=1e-9)


def test_what_is_not_set_is_that_of_the_changed_stream(toy64: Any) -> None:
    """A neuron switched off and a feature doubled: the others are read from the changed hidden layer, by hand."""
    circuit = toy_circuit(toy64, "The cats")
    feature = strongest_feature(circuit)
    neuron = next(n for n in circuit.strongest_path().nodes if n.kind == "neuron")
    model, sae = toy64.model, toy64.sae
    h = model.relu(model.hidden(toy64.inputs(["The cats"]).values))
    clean = sae.encode(h)
    h = h.clone()
    h[..., neuron.index] = 0
    f = sae.encode(h)
    changed = f.clone()
    changed[..., feature.index] = 2 * clean[..., feature.index]
    logits = model.output(h + sae.decode(changed) - sae.decode(f))[0, 0]
    for order in ((neuron, 0), (feature, 2)), ((feature, 2), (neuron, 0)):
        outcome = intervene(toy64, circuit, {node.id: factor for node, factor in order})
        assert outcome.after == pytest.approx((logits[1] - logits[0]).item(), abs=1e-9)


@pytest.mark.parametrize("layout", ["residual", "components", "normalised"])
def test_factors_and_the_corrupted_run_side_by_side(layout: Layout) -> None:
    """Set one after the other they would differ; set together, a whole cut is as each half of it is set."""
    adapter = TinyTransformer(layout)
    circuit = example_circuit(adapter, "contrastive", max_nodes=None, max_edges=0)
    last = [n for n in inner(circuit) if n.hook == "2.resid"]
    away = {n.id for n in some(last)}
    mixed: dict[str, Setting] = {n.id: "corrupted" if n.id in away else 1 for n in last}
    only = circuitlens.ablate(adapter, circuit, sorted(away))
    assert intervene(adapter, circuit, mixed).after == pytest.approx(only.after, abs=1e-9)


def test_padding_moves_nothing() -> None:
    outcomes: list[Outcome] = []
    for padding, width in (("right", 0), ("left", 6)):
        adapter = TinyTransformer("components", padding=padding, width=width)
        circuit = example_circuit(adapter, "contrastive", max_nodes=20, max_edges=0)
        mixed: dict[str, Setting] = dict.fromkeys(sorted(n.id for n in inner(circuit)), 2.0)
        mixed |= dict.fromkeys(list(mixed)[::2], "corrupted")
        outcomes.append(intervene(adapter, circuit, mixed))
    assert outcomes[0].after == pytest.approx(outcomes[1].after, abs=1e-9)
    assert abs(outcomes[0].measured_change) > 1e-3


# What can't be set


def test_a_node_that_is_not_there_or_a_logit_is_refused(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(CircuitError, match="no node 'x'"):
        intervene(toy, cats, {"x": 0})
    with pytest.raises(CircuitError, match=r"is no part of a site of 'toy', so it can't be changed"):
        intervene(toy, cats, {cats.answer().id: 0})


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf"), "other", None, 10**400])
def test_what_is_no_factor_is_refused(toy: Adapter, cats: Circuit, factor: Any) -> None:
    node = strongest_feature(cats)
    with pytest.raises(CircuitError, match=r"give a finite factor on its own value, or 'corrupted'"):
        read_settings(cats, {node.id: factor})
    if isinstance(factor, int | float):
        with pytest.raises(CircuitError, match=rf"'{node.id}' is set to {factor}: give a finite factor"):
            intervene(toy, cats, {node.id: factor})


def test_a_factor_too_large_for_the_model_is_refused(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(CircuitError, match=r"outputs are not finite \(the metric is .*\): set fewer of them"):
        intervene(toy, cats, {strongest_feature(cats).id: 1e300})


def test_the_corrupted_run_needs_a_prompt(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(
        PromptError, match="is to have its value in the corrupted run, and the circuit has no corrupted"
    ):
        intervene(toy, cats, {strongest_feature(cats).id: "corrupted"})


def test_a_circuit_of_another_adapter_is_refused(cats: Circuit) -> None:
    with pytest.raises(CircuitError, match="made with 'toy'"):
        intervene(TinyTransformer(), cats, {})


def test_it_runs_where_gradients_are_off(toy: Adapter, cats: Circuit) -> None:
    node = strongest_feature(cats)
    expected = intervene(toy, cats, {node.id: 2})
    with torch.inference_mode():
        assert intervene(toy, cats, {node.id: 2}) == expected
    assert circuitlens.intervene is intervene
