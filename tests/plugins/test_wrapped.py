"""A wrapped model is the user's: what they change, hook, or run beside it is followed, or refused in a sentence."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from circuitlens_saelens import SAELensAdapter
from sae_lens import SAETransformerBridge
from torch import Tensor

import circuitlens
from circuitlens.adapter import agree
from circuitlens.circuit import Circuit
from circuitlens.errors import AdapterError, PromptError
from tests.families import ASK, hooked, sae, tiny

# What is the user's to change between two calls


def found(adapter: SAELensAdapter) -> list[float]:
    return [node.attribution for node in circuitlens.find(adapter, **ASK).nodes]


def test_hooks_and_state_are_looked_up_at_each_run() -> None:
    hook, model = "blocks.1.hook_resid_pre", tiny("llama", SAETransformerBridge)
    adapter = circuitlens.wrap(model, [sae(hook)])
    before = found(adapter)
    model.add_sae(sae(hook, seed=1))
    with pytest.raises(AdapterError, match=f"SAEs are attached to the model at {hook}"):
        found(adapter)
    model.reset_saes()
    assert found(adapter) == before
    model.run_with_saes("The cats", saes=[sae(hook, seed=1)])
    assert found(adapter) == before


def test_moving_the_model_alone_is_said_and_moving_both_is_followed() -> None:
    coder, model = sae("blocks.1.hook_resid_pre"), tiny("llama")
    adapter = circuitlens.wrap(model, [coder])
    before = found(adapter)
    model.to(torch.float64)
    with pytest.raises(AdapterError, match=r"is torch.float32 .* and the model torch.float64"):
        found(adapter)
    coder.to(torch.float64)
    assert found(adapter) == pytest.approx(before, rel=1e-3, abs=1e-4)


def test_training_mode_after_wrap_is_said() -> None:
    model = tiny("opt")
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])
    model.train()
    with pytest.raises(AdapterError, match=r"differ by .* call model\.eval\(\)"):
        found(adapter)


def test_a_model_that_answers_otherwise_from_run_to_run_is_refused() -> None:
    model = tiny("llama")
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])
    model.blocks[0].hook_out.add_hook(lambda x, hook: x + torch.randn_like(x))
    with pytest.raises(AdapterError, match="gives other logits than without"):
        found(adapter)


# Several threads


def test_threads_that_share_a_model_get_what_they_get_alone() -> None:
    """Two adapters on one model, and one on an SAE that keeps state between encode and decode."""
    model = tiny("llama")
    normed = sae("blocks.1.hook_resid_pre")
    normed.cfg.normalize_activations = "layer_norm"
    normed._setup_activation_normalization()
    adapters = [circuitlens.wrap(model, [normed]), circuitlens.wrap(model, [sae("blocks.0.hook_mlp_out")])]
    asked = [(adapter, prompt) for adapter in adapters for prompt in ("The cats", "The cat", "A dog near the dogs")]

    def ask(number: int) -> Circuit:
        adapter, prompt = asked[number % len(asked)]
        return circuitlens.find(adapter, prompt, " run", " runs", max_edges=20, max_nodes=20)

    alone = [ask(number) for number in range(len(asked))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(2) as pool:
            for number, circuit in enumerate(pool.map(ask, range(60))):
                assert circuit == alone[number % len(asked)]
    finally:
        sys.setswitchinterval(interval)


# Sentences


def test_saes_that_were_made_for_something_else_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    unfolded = sae("blocks.1.hook_resid_pre")
    unfolded.cfg.normalize_activations = "expected_average_only_in"
    circuitlens.wrap(tiny("llama"), [unfolded])
    assert "factor that is not folded into its weights" in caplog.text
    caplog.clear()
    circuitlens.wrap(tiny("llama"), {"blocks.0.hook_resid_post": sae("blocks.0.hook_resid_pre")})
    assert "at blocks.0.hook_resid_post was trained at blocks.0.hook_resid_pre" in caplog.text
    caplog.clear()
    for other in ("blocks.1.hook_in", "blocks.0.hook_resid_post"):  # the same stream by other names
        circuitlens.wrap(tiny("llama"), {other: sae("blocks.1.hook_resid_pre")})
    assert not caplog.text


def test_backward_hooks_are_refused() -> None:
    model = tiny("llama")
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])
    model.blocks[0].hook_out.add_hook(lambda gradient, hook: None, dir="bwd")
    with pytest.raises(AdapterError, match=r"There are backward hooks on the model at 'blocks\.0\.hook_out'"):
        found(adapter)
    model.reset_hooks()
    assert found(adapter)


@pytest.mark.parametrize("where", ["blocks.1.hook_in", "blocks.0.mlp.hook_out", "blocks.1.ln1.hook_in"])
def test_a_users_hook_may_edit_in_place(where: str) -> None:
    model = tiny("llama")
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])

    def halve(x: Tensor, hook: Any) -> None:
        x.mul_(0.5)

    model.hook_dict[where].add_hook(halve)
    inputs = adapter.inputs(["The cats"])
    with torch.no_grad():
        ours, theirs = (adapter.answer_index(answer, "The cats") for answer in (" run", " runs"))
        logits = adapter.run(inputs, {})[0, -1]
    circuit = circuitlens.find(adapter, **ASK)
    assert circuit.metric.value == pytest.approx((logits[ours] - logits[theirs]).item(), rel=1e-5)


def test_a_model_made_under_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = hooked()
    with pytest.raises(AdapterError, match=r"made under torch.inference_mode, .* load it outside of it"):
        circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])


def test_autocast_around_a_call_changes_nothing() -> None:
    adapter = circuitlens.wrap(tiny("llama"), [sae("blocks.1.hook_resid_pre")])
    plain = circuitlens.find(adapter, **ASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert circuitlens.find(adapter, **ASK) == plain
        assert circuitlens.ablate(adapter, plain, []).before == pytest.approx(plain.metric.value)
        wrapped = circuitlens.wrap(tiny("llama"), [sae("blocks.1.hook_resid_pre")])
    assert found(wrapped) == [node.attribution for node in plain.nodes]


def test_a_tokenizer_that_is_no_callable_is_refused() -> None:
    model = hooked()
    model.tokenizer = model.tokenizer.backend_tokenizer
    with pytest.raises(AdapterError, match="The model's tokenizer is a Tokenizer, which can't be called"):
        circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])


def test_an_sae_of_one_head_is_refused() -> None:
    with pytest.raises(AdapterError, match="was trained on head 2 alone"):
        circuitlens.wrap(tiny("llama"), [sae("blocks.1.attn.hook_z", d_in=8, hook_head_index=2)])


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_an_sae_on_a_flattened_hook_reads_positions() -> None:
    """OPT puts all positions of all prompts in one row before its MLP."""
    hook, model = "blocks.1.ln2.hook_normalized", tiny("opt")
    shapes: list[torch.Size] = []
    model.hook_dict[hook].add_hook(lambda x, hook: shapes.append(x.shape))
    model("The cats")
    model.reset_hooks()
    assert len(shapes[0]) == 2
    adapter = circuitlens.wrap(model, [sae(hook)])
    circuit = circuitlens.find(adapter, **ASK, method="gradient")
    assert {node.pos for node in circuit.nodes if node.kind == "error"} == {0, 1, 2}


def test_a_space_belongs_to_the_prompt_where_the_answer_is_two_tokens_with_it(caplog: pytest.LogCaptureFixture) -> None:
    adapter = circuitlens.wrap(tiny("llama"), [sae("blocks.1.hook_resid_pre")])
    with pytest.raises(PromptError, match=r"Put the space into the prompt: 'The cats ' and .* 'Z'"):
        circuitlens.find(adapter, "The cats", " Z")
    circuitlens.find(adapter, "The cats ", "Z")
    assert "two spaces" not in caplog.text
    circuitlens.find(adapter, "The cats ", " run")
    assert "Between the prompt 'The cats ' and the answer ' run' there are two spaces" in caplog.text


def test_a_float64_model_whose_norms_are_of_float32_conserves(caplog: pytest.LogCaptureFixture) -> None:
    adapter = circuitlens.wrap(tiny("llama", dtype=torch.float64), [sae("blocks.1.hook_resid_pre", dtype="float64")])
    circuitlens.find(adapter, **ASK, method="gradient", max_nodes=None, max_edges=None)
    assert "not conserved" not in caplog.text


def test_a_short_context_is_no_fault() -> None:
    model = tiny("llama")
    model.cfg.n_ctx = 4
    adapter = circuitlens.wrap(model, [sae("blocks.1.hook_resid_pre")])
    assert not adapter.pads  # no longer prompt can be read beside which it could be tried
    assert found(adapter)


def test_outputs_that_cannot_be_are_the_same_in_both_runs() -> None:
    x = torch.tensor([1.0, -torch.inf, 3.0])
    assert agree(x, x.clone())
    assert not agree(x, torch.tensor([1.0, 2.0, 3.0]))
    assert not agree(x, torch.tensor([1.0, -torch.inf, 3.1]))
    assert not agree(x, torch.tensor([torch.nan, -torch.inf, 3.0]))
    assert not agree(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
