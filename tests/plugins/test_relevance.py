"""Rules of relevance found in real families of models: what they conserve, and what is said where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from circuitlens_saelens.relevance import find_rules
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.attributions import attribute_edges, attribute_nodes
from circuitlens.errors import AdapterError
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.tracing import total_gradients, trace
from tests.families import ASK, hooked, sae, tiny

pytestmark = pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
HOOK = "blocks.1.hook_resid_pre"
MODELS = {
    "gated, root mean square": lambda: tiny("llama"),
    "norms on both sides": lambda: tiny("gemma3_text"),
    "one projection for gate and factor": lambda: tiny("phi3"),
    "layer norm": lambda: tiny("mpt"),
    "GELU": lambda: hooked(act_fn="gelu_new"),
    "gated HookedTransformer": lambda: hooked(act_fn="silu", gated_mlp=True),
}
"""Models without biases, and what they stand for."""


def batch_of(adapter: Adapter) -> PromptBatch:
    return tokenize(adapter, [ASK["prompt"]], [ASK["answer"]], [ASK["distractor"]], ["The cat"])


def embedded(adapter: Adapter, **options: Any) -> tuple[Tensor, Tensor]:
    """The metric, and the gradient × activation of the embeddings, summed."""
    batch = batch_of(adapter)
    traced = trace(adapter, batch.clean, batch.metric, **options)
    found = zip(total_gradients(traced), traced.sites, strict=True)
    return traced.metric, sum((total * s.leaf).sum() for total, s in found if s.site.coder is None)  # type: ignore[return-value]


@pytest.mark.parametrize("name", MODELS)
def test_all_of_the_metric_flows_back_to_the_embeddings(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """By the rules a model without biases is linear, so that nothing is lost from the logits to the embeddings."""
    adapter = circuitlens.wrap(MODELS[name](), [sae(HOOK)])
    metric, relevance = embedded(adapter, rules=adapter.relevance())
    torch.testing.assert_close(relevance, metric[0], rtol=1e-5, atol=1e-5)
    plain, gradient = embedded(adapter)
    torch.testing.assert_close(metric, plain, rtol=1e-5, atol=1e-5)
    assert abs(gradient - metric) > 0.01
    assert not caplog.records
    found = attribute_nodes(adapter, batch_of(adapter), "relp")
    _, residual = attribute_edges(found, torch.ones_like(found.nodes.is_logit))
    assert residual < 1e-4 * found.nodes.attribution.abs().max()


def with_bias() -> Any:
    model = hooked(act_fn="silu", gated_mlp=True)
    model.blocks[1].mlp.b_in.data += 0.1
    return model


@pytest.mark.parametrize(
    ("make", "said", "held", "activations"),
    [
        (lambda: tiny("mixtral"), "2 of its 2 MLPs, such as blocks.0.mlp: no hooks show their activation func", 7, 0),
        (lambda: tiny("olmo"), "5 of its 5 norms, such as blocks.0.ln1.hook_scale: they can't be held", 2, 2),
        (with_bias, "1 of its 2 MLPs, such as blocks.1.mlp: no hooks show their activation function", 7, 1),
        (lambda: hooked(act_fn="solu_ln"), "2 of its 2 MLPs", 9, 0),
    ],
    ids=["experts", "norms that can't be held", "a bias behind the product", "not number by number"],
)
def test_what_has_no_rule_keeps_its_derivative_with_a_warning(
    make: Any, said: str, held: int, activations: int, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = circuitlens.wrap(make(), [sae(HOOK)])
    caplog.clear()
    circuit = circuitlens.find(adapter, **ASK, corrupted="The cat", method="relp")
    (record,) = caplog.records
    assert f"'relp' takes the model's own derivative for {said}" in record.message
    rules = adapter.relevance()
    assert (len(rules.held), len(rules.activations)) == (held, activations)
    assert len(caplog.records) == 1  # it is found once
    assert circuit.conservation_residual < 1e-4 * max(abs(node.attribution) for node in circuit.nodes)


def test_a_model_that_follows_no_rule_is_refused() -> None:
    adapter = circuitlens.wrap(tiny("mixtral"), [sae(HOOK)])
    adapter.frozen = ()
    with pytest.raises(AdapterError, match=r"has no 'relp': none of its model's norm scales .* can be held"):
        find_rules(adapter, adapter._model, adapter.inputs([ASK["prompt"]]), [])


def test_a_rule_without_effect_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hook that the model calls beside its forward, dropping what it returns where that is the same."""
    adapter = circuitlens.wrap(tiny("llama"), [sae(HOOK)])
    run, dropped = adapter.run, "blocks.1.mlp.hook_post"

    def beside(inputs: Any, hooks: Any) -> Tensor:
        def hook(x: Tensor) -> Tensor | None:
            y = hooks[dropped](x)
            return None if y is None or torch.equal(x, y) else y

        return run(inputs, {**hooks, dropped: hook} if dropped in hooks else hooks)

    monkeypatch.setattr(adapter, "run", beside)
    assert [at.post for at in adapter.relevance().activations] == ["blocks.0.mlp.hook_post"]
