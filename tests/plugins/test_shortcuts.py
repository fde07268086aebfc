"""Runs that start late and unembed one position: they give what whole runs give, and are left where they might not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Adapter, Inputs
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.prompts.batch import tokenize
from circuitlens.runs import run_patched, run_spliced
from circuitlens.testing import late_runs_are_whole_runs
from circuitlens.tracing import Trace, trace
from tests.circuits import ablatable_circuit
from tests.families import ASK, hooked, sae, tiny
from tests.saelens import LAYERS, made, model, wrapped

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
MODELS: dict[str, Callable[[], Any]] = {
    "HookedTransformer": hooked,
    "llama": lambda: tiny("llama"),
    "gemma2": lambda: tiny("gemma2"),
    "gpt_neox": lambda: tiny("gpt_neox", num_key_value_heads=4),  # attention and MLP side by side
    "opt": lambda: tiny("opt"),  # an MLP that takes all positions in one row
    "mistral": lambda: tiny("mistral"),  # a sliding window
}


@contextmanager
def blocks_run(adapter: Any) -> Iterator[list[int]]:
    """The blocks that run meanwhile, one after the other; what runs in them tells, and not a hook."""
    ran: list[int] = []
    blocks = adapter._model.model.blocks
    insides = [getattr(block, "original_component", None) or block.mlp for block in blocks]
    forwards = [inside.forward for inside in insides]

    def counted(n: int) -> Any:
        return lambda *args, **kwargs: (ran.append(n), forwards[n](*args, **kwargs))[1]

    try:
        for n, inside in enumerate(insides):
            inside.forward = counted(n)
        yield ran
    finally:
        for inside in insides:
            del inside.forward


def padded(adapter: Adapter, left: int, right: int) -> Inputs:
    """Two prompts of different lengths with more padding, left or right."""
    inputs = adapter.inputs(["The cats", "The cats near the dog"])
    return Inputs(pad(inputs.values, (left, right)), pad(inputs.mask, (left, right)), inputs.tokens)


def seen(adapter: Adapter, inputs: Inputs) -> Trace:
    answers = tokenize(adapter, [ASK["prompt"]], [ASK["answer"]], [ASK["distractor"]]).metric
    return trace(adapter, inputs, answers.repeated(len(inputs.mask)), graph=False)


@pytest.fixture(scope="module", params=MODELS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return circuitlens.wrap(MODELS[request.param](), [sae(hook, n) for n, hook in enumerate(HOOKS)])


def test_a_late_run_is_the_whole_run_and_runs_no_earlier_block(adapter: Adapter) -> None:
    """Logits and gradients, with padding on both sides; a stream's own hook is the first that fires."""
    late_runs_are_whole_runs(adapter)
    first = {"blocks.0.hook_resid_post": [1], "blocks.1.hook_resid_post": []}  # others: where block 1 begins
    for left, right in ((3, 0), (0, 3)):
        inputs = padded(adapter, left, right)
        known = seen(adapter, inputs)
        for site in (site for site in adapter.sites if site.coder is not None):
            value = torch.randn(known.sites[0].write.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
            patch = lambda x, value=value: x + value  # noqa: E731
            with blocks_run(adapter) as ran:
                late = run_patched(adapter, inputs, site, patch, seen=known)
                assert ran == first.get(site.write, [1]), site.write
                whole = inputs.at_last(adapter.run(inputs, {site.write: patch}))
            assert_close(late, whole, rtol=1e-4, atol=1e-4)
            gradients = [torch.autograd.grad(logits.square().sum(), value)[0] for logits in (late, whole)]
            assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[1].abs().max()))


def test_one_position_is_unembedded(adapter: Any) -> None:
    """But for a hook that sees the unembedding: it sees every position."""
    inputs, widths = padded(adapter, 0, 2), list[int]()
    whole = inputs.at_last(adapter.run(inputs, {}))
    adapter.last_logits(inputs, {})  # what is tried once is tried
    unembed = adapter._model.model.unembed
    forward = unembed.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(unembed), "forward", lambda x: (widths.append(x.shape[1]), forward(x))[1])
        assert_close(adapter.last_logits(inputs, {}), whole, rtol=1e-4, atol=1e-4)
    assert widths == [1]
    if hooks := [name for name in adapter._model.names if name.startswith("unembed.")]:
        assert_close(adapter.last_logits(inputs, {hooks[0]: lambda x: widths.append(x.shape[1])}), whole)
        assert widths[1:] == [inputs.mask.shape[1]]


@pytest.mark.parametrize("bridge", [True, False], ids=["bridge", "HookedTransformer"])
def test_integrated_gradients_run_the_blocks_after_each_site_only(
    bridge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four whole runs, then two a site that changes: for nodes to the end, and for edges to the next site."""
    monkeypatch.setattr("circuitlens.attribution.integrated.TOLERANCE", float("inf"))
    mine = circuitlens.wrap(model("float32", bridge), [made("standard", 1, "float32"), made("standard", 3, "float32")])
    circuitlens.find(mine, **ASK, corrupted="The cat", method="ig")  # what is tried once is tried
    with blocks_run(mine) as ran:
        circuitlens.find(mine, **ASK, corrupted="The cat", method="ig")
    assert [ran.count(n) for n in range(LAYERS)] == [6, 7, 7, 8]  # the token embedding changes too


def test_hooks_of_the_users_still_count() -> None:
    """Those before a site too: runs are whole while there are any."""
    mine = wrapped("attn + mlp + resid", "float32")
    user = mine._model.model
    inputs = mine.inputs(["The cats"])
    site = mine.sites[-1]
    patch = lambda x: 1.5 * x  # noqa: E731
    plain = run_patched(mine, inputs, site, patch, seen=seen(mine, inputs))
    calls: list[int] = []
    user.add_hook("blocks.0.hook_resid_pre", lambda tensor, hook: (calls.append(1), tensor + 1.0)[1])
    try:
        known = seen(mine, inputs)
        calls.clear()
        with blocks_run(mine) as ran:
            late = run_patched(mine, inputs, mine.sites[-2], patch, seen=known)
        assert len(calls) == 1
        assert ran == list(range(LAYERS))
        assert_close(late, inputs.at_last(mine.run(inputs, {mine.sites[-2].write: patch})))
    finally:
        user.reset_hooks()
    assert_close(run_patched(mine, inputs, site, patch, seen=seen(mine, inputs)), plain)


def test_a_model_whose_blocks_share_more_than_the_stream_runs_whole(caplog: pytest.LogCaptureFixture) -> None:
    """As where later layers take an earlier one's keys and values: what the last run left is no answer."""
    mine, shared = tiny("llama"), list[Tensor]()
    first, second = (block.original_component for block in mine.blocks)
    keep, use = first.forward, second.forward
    first.forward = lambda x, **given: (shared.clear(), shared.append(x.detach()), keep(x, **given))[2]
    second.forward = lambda x, **given: use(x, **given) + shared[0]
    with caplog.at_level(logging.INFO, "circuitlens_saelens.shortcuts"):
        adapter = circuitlens.wrap(mine, [sae("blocks.1.hook_resid_pre")])
        site = adapter.sites[-1]
        inputs = adapter.inputs(["The dogs"])
        known = seen(adapter, inputs)
        _ = adapter.run(adapter.inputs(["A book"]), {})
        late = run_patched(adapter, inputs, site, lambda x: 0.5 * x, seen=known)
    assert_close(late, inputs.at_last(adapter.run(inputs, {site.write: lambda x: 0.5 * x})))
    assert "don't start at blocks.1.hook_resid_pre (the logits differ)" in caplog.text


def test_nothing_is_left_after_an_error() -> None:
    adapter: Any = circuitlens.wrap(tiny("llama"), [sae("blocks.1.hook_resid_pre")])
    inputs = adapter.inputs(["The cats"])
    known, plain = seen(adapter, inputs), adapter.run(inputs, {})

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run_patched(adapter, inputs, adapter.sites[-1], fail, seen=known)
    assert torch.equal(adapter.run(inputs, {}), plain)
    assert not any("forward" in vars(block) for block in adapter._model.model.blocks)
    assert not adapter._model.model.unembed._forward_pre_hooks


def test_a_hook_before_the_start_is_refused() -> None:
    adapter: Any = circuitlens.wrap(tiny("llama"), [sae("blocks.1.hook_resid_pre")])
    inputs = adapter.inputs(["The cats"])
    ((name, value),) = seen(adapter, inputs).streams.items()
    adapter.last_logits(inputs, {}, (name, value))
    with pytest.raises(AssertionError, match="lies before"):
        adapter.last_logits(inputs, {"blocks.0.hook_mlp_out": lambda x: x}, (name, value))


def test_where_runs_may_start() -> None:
    adapter = wrapped("transcoders")
    read, write = "blocks.2.ln2.hook_normalized", "blocks.3.hook_mlp_out"
    assert adapter.entry([write]) == "blocks.3.hook_resid_pre"
    assert adapter.entry([write, read]) == "blocks.2.hook_resid_pre"
    assert adapter.entry(["blocks.0.hook_resid_post", write]) == "blocks.0.hook_resid_post"
    assert adapter.entry(["blocks.0.hook_mlp_out"]) is adapter.entry(["hook_embed"]) is None


def test_ablations_start_at_the_first_site_that_they_may_change() -> None:
    adapter = circuitlens.wrap(model("float32"), [made("standard", n, "float32") for n in (2, 3)])
    circuit, nodes = ablatable_circuit(adapter)
    runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), "corrupted", nodes)
    with blocks_run(adapter) as ran:
        _ = runs.empty_circuit
    assert ran == [2, 3]


def test_an_intervention_starts_at_the_first_site_that_it_changes() -> None:
    adapter = wrapped("residual", "float32")
    inputs = adapter.inputs(["The cats"])
    known = seen(adapter, inputs)
    edits = {adapter.sites[-1].name: lambda f, error, decode: (0 * f, error)}
    with blocks_run(adapter) as ran:
        late = run_spliced(adapter, inputs.repeated(2), edits, seen=known)
    assert ran == [LAYERS - 1]
    assert_close(late, run_spliced(adapter, inputs.repeated(2), edits), rtol=1e-5, atol=1e-5)
