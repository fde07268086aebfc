"""Long prompts' MLPs, computed again in the backward: the same derivatives from a smaller graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from circuitlens_saelens import shortcuts
from torch import Tensor
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.prompts.batch import tokenize
from circuitlens.tracing import Trace, total_gradients, trace
from tests.families import ASK, hooked, sae, tiny

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
MODELS: dict[str, Callable[[], Any]] = {
    "HookedTransformer": hooked,
    "llama": lambda: tiny("llama"),
    "gpt_neox": lambda: tiny("gpt_neox", num_key_value_heads=4),  # attention and MLP side by side
    "gemma2": lambda: tiny("gemma2"),  # norms behind it
}


def run(adapter: Adapter) -> tuple[Trace, int]:
    """A run, and how many numbers its graph keeps."""
    metric = tokenize(adapter, [ASK["prompt"]], [ASK["answer"]], [ASK["distractor"]]).metric
    inputs, kept = adapter.inputs([ASK["prompt"]]), list[Tensor]()
    adapter.last_logits(inputs, {})  # what is tried once is tried
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        found = trace(adapter, inputs, metric, coded=())
    return found, sum(x.numel() for x in {x.data_ptr(): x for x in kept}.values())


def derivatives(found: Trace) -> list[Tensor]:
    """The total gradients, twice, and a batch of products from the last site that reads others."""
    before, last = found.sites[0].leaf, found.sites[-1].write
    cotangents = torch.randn(3, *last.shape, generator=torch.Generator().manual_seed(0))
    products = torch.autograd.grad(
        last, before, cotangents, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    return [*total_gradients(found), *total_gradients(found), *(x for x in products if x is not None)]


@pytest.mark.parametrize("family", MODELS)
def test_derivatives_are_the_same_from_a_smaller_graph(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = circuitlens.wrap(MODELS[family](), [sae(hook, n) for n, hook in enumerate(HOOKS)])
    plain, whole = run(adapter)
    expected = derivatives(plain)
    monkeypatch.setattr(shortcuts, "LONG", 1)
    short, kept = run(adapter)
    assert kept < whole
    assert torch.equal(short.logits, plain.logits)
    assert_close(derivatives(short), expected, rtol=1e-5, atol=1e-6 * max(float(x.abs().max()) for x in expected))


def test_a_model_with_hooks_of_the_users_keeps_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be called again, after the run."""
    model = tiny("llama")
    adapter = circuitlens.wrap(model, [sae(hook, n) for n, hook in enumerate(HOOKS)])
    monkeypatch.setattr(shortcuts, "LONG", 1)
    seen = list[int]()
    handle = model.blocks[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    try:
        found, _ = run(adapter)
        during = len(seen)
        derivatives(found)
        assert during > 0
        assert len(seen) == during
    finally:
        handle.remove()
