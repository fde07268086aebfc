"""Model families whose bridges differ: what is attributed is what an intervention measures, or is refused."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest
import torch
from circuitlens_saelens import versions
from torch import Tensor
from transformer_lens import supported_models
from transformer_lens.model_bridge import TransformerBridge

import circuitlens
from circuitlens.errors import AdapterError, CircuitError
from circuitlens.evaluation.intervention import intervene
from tests.families import ASK, FAMILIES, D, sae, tiny

HOOKS = ["blocks.0.hook_mlp_out", "blocks.0.hook_attn_out", "blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    return tiny(request.param)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_gradient_is_what_a_small_intervention_measures(family: Any, hook: str) -> None:
    """Law 7 (docs/laws.md) at the strongest node beside BOS, wherever the hook leads in the bridge."""
    adapter = circuitlens.wrap(family, [sae(hook)])
    circuit = circuitlens.find(adapter, **ASK, method="gradient", max_edges=0)
    node = max((n for n in circuit.nodes if not n.is_logit and n.hook == hook and n.pos > 0), key=strength)
    up, down = (intervene(adapter, circuit, {node.id: factor}).after for factor in (1.01, 0.99))
    assert (up - down) / 0.02 == pytest.approx(node.attribution, rel=0.03, abs=2e-3)
    assert abs(node.attribution) > 1e-2


def strength(node: Any) -> float:
    return abs(node.attribution)


def test_a_hook_that_no_forward_goes_through_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Granite's without the means to go through it."""
    monkeypatch.setattr("circuitlens_saelens.model.HookedModel.keep_results_of", lambda *_: None)
    with pytest.raises(AdapterError, match=r"does not go on with what its hook 'blocks.0.hook_mlp_out' returns"):
        circuitlens.wrap(tiny("granite"), [sae("blocks.0.hook_mlp_out")])


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_frozen_runs_are_the_models_own_or_refused(family: Any, request: pytest.FixtureRequest) -> None:
    adapter = circuitlens.wrap(family, [sae("blocks.1.hook_resid_pre")])
    if "olmo]" in request.node.name:  # its norms have no weight, and the bridge can't compute them from a held scale
        with pytest.raises(AdapterError, match="has no frozen mode: with its scales and patterns held the model stops"):
            circuitlens.find(adapter, **ASK, method="gradient", frozen=True)
        return
    circuit = circuitlens.find(adapter, **ASK, method="gradient", frozen=True)
    assert circuit.metric.value == pytest.approx(
        circuitlens.find(adapter, **ASK, method="gradient").metric.value, rel=1e-4
    )


def test_the_warning_of_a_frozen_run_is_left_to_its_reader() -> None:
    adapter = circuitlens.wrap(tiny("llama"), [sae("blocks.1.hook_resid_pre")])
    with pytest.warns(UserWarning, match="forward hook edited hook_scale"):
        circuitlens.find(adapter, **ASK, method="gradient", frozen=True)


def test_another_metric_in_frozen_mode_is_refused() -> None:
    """A bridge that computes its norms otherwise from a held scale than the model does."""
    model = tiny("llama")
    for bridge in (module for module in model.modules() if type(module).__name__ == "RMSNormalizationBridge"):
        right = bridge._apply_weight_and_bias
        bridge._apply_weight_and_bias = lambda x, dtype, right=right: 1.5 * right(x, dtype)
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])
    with pytest.raises(AdapterError, match=r"has no frozen mode: .* the model gives other logits"):
        circuitlens.find(adapter, **ASK, method="gradient", frozen=True)


# What made a circuit


def test_an_sae_of_the_same_shape_is_not_the_same() -> None:
    hook, model = "blocks.1.hook_resid_pre", tiny("llama")
    circuit = circuitlens.find(circuitlens.wrap(model, [sae(hook)]), **ASK)
    other = circuitlens.wrap(model, [sae(hook, seed=1)])
    feature = next(node.id for node in circuit.nodes if node.kind == "feature")
    for ask in (
        lambda: circuitlens.ablate(other, circuit, [feature]),
        lambda: circuitlens.intervene(other, circuit, {feature: 2}),
        lambda: circuitlens.describe(other, circuit, feature),
        lambda: circuitlens.verify(other, circuit),
    ):
        with pytest.raises(CircuitError, match=r"made with other weights .* blocks.1.hook_resid_pre"):
            ask()


def test_a_decoder_alone_makes_another_sae() -> None:
    hook, model = "blocks.1.hook_resid_pre", tiny("llama")
    circuit = circuitlens.find(circuitlens.wrap(model, [sae(hook)]), **ASK)
    shuffled = sae(hook)
    shuffled.W_dec.data = shuffled.W_dec.data.flip(0)
    with pytest.raises(CircuitError, match="the SAE's error had norm"):
        circuitlens.ablate(circuitlens.wrap(model, [shuffled]), circuit, [])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_same_weights_are_known_again(dtype: str) -> None:
    """Loaded anew from another folder, in another dtype, under another name."""
    hook = "blocks.1.hook_resid_pre"
    circuit = circuitlens.find(circuitlens.wrap(tiny("llama"), [sae(hook)]), **ASK)
    again = circuitlens.wrap(
        tiny("llama", dtype=getattr(torch, dtype)), [sae(hook).to(getattr(torch, dtype))], name="another"
    )
    assert circuitlens.ablate(again, circuit, []).before == pytest.approx(circuit.metric.value, rel=0.05)


def test_a_circuit_of_some_sites_is_asked_of_a_model_with_more() -> None:
    """Its nodes mean the same there; evidence is measured against the sites that it was chosen from."""
    model, first = tiny("llama"), sae("blocks.1.hook_resid_pre")
    alone = circuitlens.wrap(model, [first])
    both = circuitlens.wrap(model, [first, sae("blocks.1.hook_resid_post", seed=1)])
    circuit = circuitlens.find(alone, **ASK)
    node = next(node.id for node in circuit.nodes if node.kind == "feature")
    expected = circuitlens.ablate(alone, circuit, [node]).after
    assert circuitlens.ablate(both, circuit, [node]).after == pytest.approx(expected, rel=1e-5)
    with pytest.raises(CircuitError, match="load the same SAEs, which the rest of the model is measured without"):
        circuitlens.verify(both, circuit)
    with pytest.raises(CircuitError, match=r"it has a site at blocks\.1\.hook_resid_post"):
        circuitlens.ablate(alone, circuitlens.find(both, **ASK), [])


# Promoted outputs


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "glm4", "olmo2", "exaone4", "granite", "cohere"])
def test_promoted_outputs_of_heads_are_what_they_write(name: str) -> None:
    """With every norm's scale and the last MLP held, a change at the last heads changes the logits by just that."""
    adapter = circuitlens.wrap(tiny(name), [sae("blocks.1.attn.hook_z")])
    site = next(site for site in adapter.sites if site.coder is not None)
    inputs, held = adapter.inputs(["The cats"]), dict[str, Tensor]()
    names = [n for n in adapter._model.names if n.endswith("hook_scale") and not n.startswith("blocks.0")]
    names = [*dict.fromkeys(names), "blocks.1.hook_mlp_out"]
    with torch.no_grad():
        adapter.run(inputs, {n: lambda x, n=n: held.__setitem__(n, x.clone()) for n in names})
        direction = torch.randn(D, generator=torch.Generator().manual_seed(0))
        changed = []
        for sign in (1, -1):
            hold = {n: lambda _, n=n: held[n].clone() for n in names if n in held}
            move = {site.write: lambda x, sign=sign: x + sign * direction.view(x[0, 0].shape)}
            changed.append(adapter.run(inputs, {**hold, **move})[0, -1])
        expected, ours = changed[0] - changed[1], adapter.unembed(site, direction)
    assert ours is not None
    assert torch.corrcoef(torch.stack([expected, ours]))[0, 1] > 0.9999
    assert set(ours.topk(10).indices.tolist()) == set(expected.topk(10).indices.tolist())


# Tokens


@pytest.mark.parametrize(
    ("name", "says", "expected"), [("llama", None, True), ("qwen2", None, False), ("qwen2", True, True)]
)
def test_bos_is_as_the_metadata_says_or_as_transformer_lens_does(name: str, says: bool | None, expected: bool) -> None:
    model = tiny(name)
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre", prepend_bos=says)])
    assert adapter.bos == expected
    if says is None:
        ids = adapter.inputs(["The cats"]).values
        assert torch.equal(ids, model.to_tokens("The cats"))


def test_prompts_of_different_lengths_share_no_batch_where_padding_is_seen() -> None:
    """A model whose attention looks ahead: the circuit over many is the mean of those of each alone."""
    model = tiny("llama")
    for block in model.blocks:  # every position sees every other
        block.attn.hook_attn_scores.add_hook(lambda x, hook: torch.zeros_like(x), is_permanent=True)
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])
    assert not adapter.pads
    pairs = [
        circuitlens.Pair(prompt=prompt, answer=(" run",), distractor=(" runs",))
        for prompt in ("The cats", "The cats near the dogs", "A dog", "The cat near the dog")
    ]
    together = circuitlens.aggregate(adapter, pairs, by="sum", max_edges=0)
    alone = [circuitlens.find(adapter, pair.prompt, pair.answer, pair.distractor) for pair in pairs]
    assert together.metric.value == pytest.approx(sum(c.metric.value for c in alone) / 4, rel=1e-5)


def test_padding_beyond_a_sliding_window_gives_numbers() -> None:
    """The window is of 4 tokens and the padding of 12."""
    adapter = circuitlens.wrap(tiny("mistral"), [sae("blocks.1.hook_resid_pre")])
    assert adapter.pads
    long = "The cats near the dogs near the cats near the dogs near the cats"
    inputs = adapter.inputs(["The cats", long])
    with torch.no_grad():
        both = inputs.at_last(adapter.run(inputs, {}))
        alone = [i.at_last(adapter.run(i, {})) for i in (adapter.inputs([text]) for text in ("The cats", long))]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_transformer_lens_without_hooked_transformers_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens 4, whose names these are."""
    monkeypatch.setitem(sys.modules, "transformer_lens.loading_from_pretrained", None)
    monkeypatch.setattr(supported_models, "get_official_model_name", str.upper, raising=False)
    names = runpy.run_path(str(versions.__file__))
    assert names["Model"] is TransformerBridge
    assert names["get_official_model_name"]("gpt2") == "GPT2"
