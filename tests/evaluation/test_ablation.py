"""Agreement with interventions (docs/laws.md): ablating does what attribution predicts where the path is linear."""

from __future__ import annotations

from math import log, tanh
from typing import Any, get_args

import pytest
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.errors import CircuitError
from circuitlens.literals import MethodName, MetricName
from tests.tiny_transformer import VOCABULARY, Layout, TinyTransformer


@pytest.mark.parametrize(("prompt", "answer", "distractor"), [("The cats", "run", "runs"), ("The cat", "runs", "run")])
@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-6), ("float32", 2e-5)])
def test_the_strongest_feature_does_what_its_attribution_says(
    prompt: str, answer: str, distractor: str, contrastive: bool, dtype: str, bound: float
) -> None:
    adapter = circuitlens.load("toy", dtype=dtype)
    corrupted = {"The cat": "The cats", "The cats": "The cat"}[prompt] if contrastive else None
    circuit = circuitlens.find(adapter, prompt, answer, distractor, corrupted)
    (feature,) = [node for node in circuit.strongest_path().nodes if node.kind == "feature"]
    result = circuitlens.ablate(adapter, circuit, [feature.id])
    assert result.before == pytest.approx(circuit.metric.value, abs=bound)
    assert result.measured > 0.1
    assert result.measured == pytest.approx(feature.attribution, abs=bound)  # feature → logits is linear


@pytest.mark.parametrize("corrupted", [None, "The cat"])
def test_everything_from_the_hidden_layer_up_is_linear_and_adds_up(toy64: Adapter, corrupted: str | None) -> None:
    """Neurons feed the logits linearly, as what an SAE leaves out goes on as its error; so do features and errors."""
    circuit = circuitlens.find(toy64, "The cats", "run", "runs", corrupted)
    for kinds in ({"neuron"}, {"feature", "error"}):
        group = [node.id for node in circuit.nodes if node.kind in kinds]
        for chosen in (*[[one] for one in group], group):
            result = circuitlens.ablate(toy64, circuit, chosen)
            assert result.measured == pytest.approx(result.predicted, abs=1e-9)


def test_an_input_is_not_linear(toy64: Adapter, cats: Circuit) -> None:
    """Inputs pass a ReLU: taking "plural" away switches neurons off, and others on, which no gradient sees."""
    (plural,) = [node for node in cats.nodes if node.kind == "input"]
    result = circuitlens.ablate(toy64, cats, [plural.id])
    assert abs(result.measured - result.predicted) > 0.5
    assert result.measured > 0 < result.predicted


@pytest.mark.parametrize("layout", ["toy", "residual", "normalised"])
def test_contrastive_ablation_of_a_whole_cut_gives_the_corrupted_metric(toy64: Adapter, layout: Layout | str) -> None:
    adapter = toy64 if layout == "toy" else TinyTransformer(layout)  # type: ignore[arg-type]
    example = adapter.examples[0]
    circuit = circuitlens.find(adapter, example.prompt, example.answer, example.distractor, example.corrupted)
    hooks = ["hook_sae"] if layout == "toy" else ["1.resid", "2.resid"]
    for hook in hooks:
        result = circuitlens.ablate(adapter, circuit, [n.id for n in circuit.nodes if n.hook == hook])
        assert result.after == pytest.approx(circuit.metric.corrupted_value, abs=1e-9)


def test_padding_before_a_prompt_moves_no_node() -> None:
    plain, padded = TinyTransformer("components"), TinyTransformer("components", padding="left", width=6)
    circuits = [circuitlens.find(adapter, "a b c", "d", "e", "a b f") for adapter in (plain, padded)]
    ours, theirs = ({n.id: (n.pos, n.attribution) for n in c.nodes} for c in circuits)
    assert ours.keys() == theirs.keys()
    for key, (pos, attribution) in ours.items():
        assert theirs[key] == (pos, pytest.approx(attribution, abs=1e-9))
    strongest = max((n for n in circuits[0].nodes if n.kind == "feature"), key=lambda n: abs(n.attribution))
    results = [circuitlens.ablate(a, c, [strongest.id]) for a, c in zip((plain, padded), circuits, strict=True)]
    assert results[0].measured == pytest.approx(results[1].measured, abs=1e-9)
    assert abs(results[0].measured) > 1e-3


def test_a_node_named_twice_is_switched_off_once(toy: Adapter, cats: Circuit) -> None:
    node = cats.strongest_path().nodes[2].id
    assert circuitlens.ablate(toy, cats, [node, node]) == circuitlens.ablate(toy, cats, [node])


@pytest.mark.parametrize("change", [{"index": 99}, {"hook": "nowhere"}])
def test_an_edited_node_is_refused(toy: Adapter, cats: Circuit, change: dict) -> None:
    feature = cats.strongest_path().nodes[2]
    nodes = tuple(n.model_copy(update=change) if n is feature else n for n in cats.nodes)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    with pytest.raises(CircuitError, match="is no part of a site"):
        circuitlens.ablate(toy, Circuit(**{**fields, "nodes": nodes}), [feature.id])


def test_ablation_in_a_transformer_by_small_steps() -> None:
    """Small effects of last-layer features are nearly linear: sign and size agree."""
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, "a b c", "d", "e", "a b f")
    last = max((n for n in circuit.nodes if n.hook == "2.resid"), key=lambda n: n.layer)
    features = [n for n in circuit.nodes if n.hook == last.hook and n.kind == "feature" and n.pos == 2]
    results = [circuitlens.ablate(adapter, circuit, [n.id]) for n in features]
    assert len(results) > 5
    agree = sum((r.measured > 0) == (r.predicted > 0) for r in results) / len(results)
    assert agree > 0.75


def test_embeddings_and_errors_can_be_ablated() -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, "a b c", "d", "e")
    for kind in ("embedding", "error"):
        chosen = next(n for n in circuit.nodes if n.kind == kind and n.pos == 2)
        assert circuitlens.ablate(adapter, circuit, [chosen.id]).measured != 0


def test_what_cannot_be_ablated_is_refused(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(CircuitError, match="no node 'x'"):
        circuitlens.ablate(toy, cats, ["x"])
    with pytest.raises(CircuitError, match="is no part of a site"):
        circuitlens.ablate(toy, cats, [cats.answer().id])
    with pytest.raises(CircuitError, match="made with 'toy'"):
        circuitlens.ablate(TinyTransformer(), cats, [])


# Metrics beside the difference of two logits

ANSWERS, DISTRACTORS = ["d", "b"], ["e", "g"]
OURS, THEIRS = [4, 2], [5, 7]


def mixed(logits: Tensor) -> Tensor:
    """A metric of one's own."""
    return logits[:, 3].tanh() * logits[:, 5]


def value_by_hand(name: str, logits: Tensor, corrupted: Tensor) -> float:
    """The metric of one example from its logits, in plain Python."""
    probability, reference = logits.softmax(0).tolist(), corrupted.softmax(0).tolist()
    ours, theirs = ([probability[i] for i in indices] for indices in (OURS, THEIRS))
    return {
        "logit_difference": sum(logits[i].item() for i in OURS) / 2 - sum(logits[i].item() for i in THEIRS) / 2,
        "logit": sum(logits[i].item() for i in OURS) / 2,
        "log_probability": log(sum(ours)),
        "probability_difference": sum(ours) - sum(theirs),
        "kl_divergence": sum(q * log(q / p) for p, q in zip(probability, reference, strict=True)),
        "custom": tanh(logits[3].item()) * logits[5].item(),
    }[name]


def asked_of(name: str) -> dict[str, Any]:
    """Answers, distractors where the metric takes them, and the metric of that name."""
    distractors = None if name in ("logit", "log_probability") else DISTRACTORS
    return {"answer": ANSWERS, "distractor": distractors, "metric": mixed if name == "custom" else name}


METRICS = [*get_args(MetricName), "custom"]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("method", get_args(MethodName))
def test_ablation_is_the_metric_of_a_changed_stream(name: str, method: MethodName) -> None:
    """Two features of the last residual stream, moved by hand along their decoder rows."""
    adapter = TinyTransformer("components")
    circuit = circuitlens.find(adapter, "a b c", corrupted="a b f", method=method, **asked_of(name))
    features = [n for n in circuit.nodes if n.hook == "2.resid" and n.kind == "feature" and n.pos == 2]
    chosen = sorted(features, key=lambda n: -abs(n.attribution))[:2]
    coder: Any = adapter.sites[-1].coder
    streams: list[Tensor] = []
    clean, corrupted = (
        adapter.run(adapter.inputs([prompt]), {"2.resid": streams.append})[0, -1] for prompt in ("a b c", "a b f")
    )
    f, other = (coder.encode(x)[0, 2] for x in streams)
    moved = streams[0].clone()
    for node in chosen:
        assert node.index is not None
        to = 0 if method == "gradient" else other[node.index]
        moved[0, 2] += (to - f[node.index]) * coder.decoder[node.index]
    changed = adapter.run(adapter.inputs(["a b c"]), {"2.resid": lambda _: moved})[0, -1]

    result = circuitlens.ablate(adapter, circuit, [n.id for n in chosen], mixed if name == "custom" else None)
    before = value_by_hand(name, clean, corrupted)
    assert circuit.metric.value == pytest.approx(before, rel=1e-9)
    assert result.before == pytest.approx(before, rel=1e-9)
    assert result.after == pytest.approx(value_by_hand(name, changed, corrupted), rel=1e-9)
    assert abs(result.measured) > 1e-4
    assert result.predicted == pytest.approx(sum(n.attribution for n in chosen), rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("method", ["contrastive", "ig"])
def test_a_small_change_of_every_metric_is_what_attribution_says(name: str, method: MethodName) -> None:
    """Corrupted by next to nothing, the last cut ablated whole does what its nodes' attributions sum to."""
    near = Nearby("components")
    circuit = circuitlens.find(near, "a b c", corrupted="a b f", method=method, max_nodes=None, **asked_of(name))
    cut = [n.id for n in circuit.nodes if n.hook == "2.resid"]
    result = circuitlens.ablate(near, circuit, cut, mixed if name == "custom" else None)
    assert result.after == pytest.approx(circuit.metric.corrupted_value, abs=1e-12)
    # The divergence has its minimum at the corrupted prompt: its change is of second order, half of what the gradient
    # says, and integrated gradients say it right.
    size = 1e-10 if name == "kl_divergence" else 1e-6
    assert abs(result.predicted) > size
    ratio = result.measured / result.predicted
    assert ratio == pytest.approx(0.5 if name == "kl_divergence" and method == "contrastive" else 1, rel=1e-2)


class Nearby(TinyTransformer):
    """A tiny transformer to which "f" is nearly "c"."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        c, f = (VOCABULARY.index(word) for word in "cf")
        self.embed[f] = self.embed[c] + 1e-4 * self.embed[f]


def test_a_function_has_to_be_given_again(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs", metric=lambda logits: 3 * logits[:, 1])
    feature = next(n for n in circuit.nodes if n.kind == "feature")
    with pytest.raises(CircuitError, match=r"was a function, which no file keeps: give it again as metric="):
        circuitlens.ablate(toy64, circuit, [feature.id])
    result = circuitlens.ablate(toy64, circuit, [feature.id], metric=lambda logits: 3 * logits[:, 1])
    assert result.before == pytest.approx(circuit.metric.value, rel=1e-12)
    assert result.measured == pytest.approx(feature.attribution, rel=1e-9)  # feature → logits is linear


def test_another_metric_can_be_measured() -> None:
    adapter = TinyTransformer()
    circuit = circuitlens.find(adapter, "a b c", ANSWERS, DISTRACTORS, "a b f")
    clean, corrupted = (adapter.run(adapter.inputs([prompt]), {})[0, -1] for prompt in ("a b c", "a b f"))
    result = circuitlens.ablate(adapter, circuit, [], "probability_difference")
    assert result.before == result.after
    assert result.before == pytest.approx(value_by_hand("probability_difference", clean, corrupted), rel=1e-9)
