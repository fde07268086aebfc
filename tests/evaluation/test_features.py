"""Features described from weights and prompt alone: outputs and activations by hand, and what is refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Adapter, Site
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError
from circuitlens.prompts.batch import tokenize
from circuitlens.tracing import trace
from tests.tiny_transformer import VOCABULARY, D, Layout, TinyTransformer

HEAD = torch.randn(D, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Speaking(TinyTransformer):
    """A tiny transformer that says what a direction adds to its outputs."""

    def unembed(self, site: Site, direction: Tensor) -> Tensor:
        return direction @ HEAD


def found(adapter: Adapter) -> Circuit:
    return circuitlens.find(adapter, "a b c", "d", "e", "a b f")


def coded(circuit: Circuit, adapter: Adapter) -> list[tuple[Site, Node]]:
    """The strongest feature of every site."""
    features = [node for node in circuit.nodes if node.kind == "feature"]
    return [
        (site, max((n for n in features if n.hook == site.write), key=lambda n: abs(n.attribution)))
        for site in adapter.sites
        if site.coder is not None
    ]


def test_what_features_and_neurons_of_the_toy_say(toy64: Adapter) -> None:
    """The output layer reads hidden activations: a neuron speaks by its column, a feature by its decoder column's."""
    network, sae = toy64.model, toy64.sae  # pyright: ignore[reportAttributeAccessIssue]
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    by_kind = {"neuron": network.output.weight, "feature": network.output.weight @ sae.decoder.weight}
    described = [node for node in circuit.nodes if node.kind in by_kind]
    assert len(described) > 3
    for node in described:
        runs, run = by_kind[node.kind][:, node.index].tolist()
        ranked = sorted([("runs", runs), ("run", run)], key=lambda pair: -pair[1])
        feature = circuitlens.describe(toy64, circuit, node.id, outputs=1)
        assert feature.node == node
        for end, (text, value) in ((feature.promoted, ranked[0]), (feature.suppressed, ranked[1])):
            assert end == ((text, pytest.approx(value, rel=1e-12)),)


def test_activations_of_the_toy_by_hand(toy64: Adapter) -> None:
    network, sae = toy64.model, toy64.sae  # pyright: ignore[reportAttributeAccessIssue]
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    x = toy64.inputs(["The cats"]).values[0, 0]
    hidden = (network.hidden.weight @ x + network.hidden.bias).clamp_min(0)
    by_kind = {"input": x, "neuron": hidden, "feature": (sae.encoder.weight @ hidden + sae.encoder.bias).clamp_min(0)}
    for node in circuit.nodes:
        if node.kind in by_kind:
            assert node.index is not None
            feature = circuitlens.describe(toy64, circuit, node.id)
            assert feature.tokens == ("The cats",)
            assert feature.activations == pytest.approx((by_kind[node.kind][node.index].item(),), rel=1e-12)


def test_where_no_output_can_be_named_there_is_none(toy: Adapter, cats: Circuit) -> None:
    plural = next(node for node in cats.nodes if node.kind == "input")
    feature = circuitlens.describe(toy, cats, plural.id)
    assert (feature.promoted, feature.suppressed) == ((), ())


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("padding", ["left", "right"])
def test_activations_are_the_coders_at_every_token(layout: Layout, padding: str) -> None:
    """With padding on either side, a coder with state, one that reads another hook, and one on another site's hook."""
    adapter = TinyTransformer(layout, padding, width=6)
    circuit = found(adapter)
    asked = tokenize(adapter, [circuit.prompt], ["d"])
    traced = {s.site.name: s for s in trace(adapter, asked.clean, asked.metric, graph=False).sites}
    for site, node in coded(circuit, adapter):
        assert site.coder is not None
        read = traced[site.name].read
        expected = site.coder.encode(read)[0, asked.clean.mask[0], node.index]
        site.coder.decode(torch.zeros(*read.shape[:2], site.coder.d_sae, dtype=read.dtype))
        feature = circuitlens.describe(adapter, circuit, node.id)
        assert feature.tokens == ("a", "b", "c")
        assert_close(torch.tensor(feature.activations, dtype=read.dtype), expected, rtol=1e-12, atol=1e-12)
        assert feature.activations[node.pos] == pytest.approx(node.activation, rel=1e-12)
        assert (feature.promoted, feature.suppressed) == ((), ())


@pytest.mark.parametrize("layout", get_args(Layout))
def test_outputs_of_a_decoder_row_strongest_first(layout: Layout) -> None:
    """One unit writes the decoder row, times the node's own spread where a layer norm was undone."""
    adapter = Speaking(layout, "left", width=6)
    circuit = found(adapter)
    asked = tokenize(adapter, [circuit.prompt], ["d"])
    traced = {s.site.name: s for s in trace(adapter, asked.clean, asked.metric, graph=False).sites}
    for site, node in coded(circuit, adapter):
        coder: Any = site.coder
        spread = traced[site.name].read[0, asked.clean.mask[0]][node.pos].std() if coder.stateful else 1
        logits = (spread * coder.decoder[node.index] @ HEAD).tolist()
        ranked = sorted(zip(VOCABULARY, logits, strict=True), key=lambda pair: pair[1])
        feature = circuitlens.describe(adapter, circuit, node.id, outputs=3)
        for end, expected in ((feature.promoted, ranked[:-4:-1]), (feature.suppressed, ranked[:3])):
            assert [text for text, _ in end] == [text for text, _ in expected]
            assert [value for _, value in end] == pytest.approx([value for _, value in expected], rel=1e-9)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_notebook_without_gradients_gets_the_same_description(mode: type) -> None:
    adapter = Speaking("normalised")
    circuit = found(adapter)
    for _, node in coded(circuit, adapter):
        expected = circuitlens.describe(adapter, circuit, node.id)
        with mode():
            assert circuitlens.describe(adapter, circuit, node.id) == expected


def test_what_is_no_feature_is_refused(toy: Adapter, cats: Circuit) -> None:
    (error,) = [node.id for node in cats.nodes if node.kind == "error"]
    for node_id, kind in ((error, "error"), (cats.answer().id, "logit")):
        with pytest.raises(CircuitError, match=f"{node_id!r} is of kind '{kind}'; only features and neurons"):
            circuitlens.describe(toy, cats, node_id)
    with pytest.raises(CircuitError, match="no node 'x'"):
        circuitlens.describe(toy, cats, "x")
    tiny = TinyTransformer("components")
    with pytest.raises(CircuitError, match="made with 'toy', and this is 'tiny'"):
        circuitlens.describe(tiny, cats, error)
    with pytest.raises(CircuitError, match="is of kind 'embedding'; only features and neurons"):
        circuitlens.describe(tiny, circuitlens.find(tiny, "a b", "d", "e"), "embed:0:embedding")


@pytest.mark.parametrize("change", [{"index": 99}, {"hook": "nowhere"}])
def test_an_edited_node_is_refused(toy: Adapter, cats: Circuit, change: dict[str, Any]) -> None:
    feature = next(node for node in cats.nodes if node.kind == "feature")
    nodes = tuple(n.model_copy(update=change) if n is feature else n for n in cats.nodes)
    edited = Circuit(**{**{name: getattr(cats, name) for name in Circuit.model_fields}, "nodes": nodes})
    with pytest.raises(CircuitError, match=repr(feature.id)):
        circuitlens.describe(toy, edited, feature.id)
