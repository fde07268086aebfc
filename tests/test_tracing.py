"""Exact splice, the model's gradient, and no trace left (docs/laws.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Hook, Inputs, Site
from circuitlens.errors import AdapterError
from circuitlens.runs import Edit, run_spliced
from circuitlens.testing import example_batch, uncut_gradients
from circuitlens.tracing import total_gradients, trace
from tests.helpers import close
from tests.tiny_transformer import Layout, TinyTransformer


def test_splice_is_a_no_op(model: Adapter) -> None:
    inputs = example_batch(model).clean
    plain = inputs.at_last(model.run(inputs, {}))
    spliced: list[str] = []

    def same(name: str) -> Edit:
        return lambda features, error, decode: (spliced.append(name), (features, error))[1]

    logits = run_spliced(model, inputs, {site.name: same(site.name) for site in model.sites})
    assert spliced == [site.name for site in model.sites]
    close(logits, plain)


def test_cut_run_has_the_plain_logits_and_metric(model: Adapter) -> None:
    asked = example_batch(model)
    plain = model.last_logits(asked.clean, {})
    traced = trace(model, asked.clean, asked.metric)
    assert torch.equal(traced.logits, plain)
    assert torch.equal(traced.metric, asked.metric(plain))
    close(plain, asked.clean.at_last(model.run(asked.clean, {})))


def test_total_gradient_is_that_of_the_model_without_saes(model: Adapter) -> None:
    asked = example_batch(model)
    totals = total_gradients(trace(model, asked.clean, asked.metric))
    for total, expected in zip(totals, uncut_gradients(model, asked), strict=True):
        assert expected.abs().max() > 0
        close(total, expected)


def test_features_and_error_make_up_the_activation(model: Adapter) -> None:
    asked = example_batch(model)
    for site in trace(model, asked.clean, asked.metric).sites:
        if site.site.coder is None:
            assert torch.equal(site.error, site.write)
            continue
        dense = site.site.coder.encode(site.read.detach())
        active = site.features
        assert torch.equal(dense[active.example, active.pos, active.index], active.value)
        assert len(active.value) == (dense * asked.clean.mask[..., None]).count_nonzero()
        close(site.site.coder.decode(dense) + site.error, site.write.detach())


@pytest.mark.parametrize(("layout", "encodes"), [("residual", 1), ("normalised", 3)])
def test_only_a_stateful_coder_encodes_again_before_it_decodes(
    layout: Layout, encodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its error, for another run's, and to go on with what was changed; a decode more where that was."""
    adapter = TinyTransformer(layout)
    site = adapter.sites[-1]
    assert site.coder is not None
    calls: list[str] = []
    for name in ("encode", "decode"):
        call = getattr(site.coder, name)
        monkeypatch.setattr(site.coder, name, lambda x, name=name, call=call: (calls.append(name), call(x))[1])
    inputs = example_batch(adapter).clean
    edit: Edit = lambda features, error, decode: (2 * features, error + decode(0 * features))  # type: ignore[operator] # noqa: E731
    run_spliced(adapter, inputs, {site.name: edit})
    assert (calls.count("encode"), calls.count("decode")) == (encodes, 3)
    calls.clear()
    run_spliced(adapter, inputs, {site.name: lambda features, error, decode: (features, error + 1)})
    assert calls == ["encode", "decode"]


def test_features_are_read_where_they_are_asked_for() -> None:
    adapter = TinyTransformer("residual")
    asked = example_batch(adapter)
    every, some = (trace(adapter, asked.clean, asked.metric, coded=coded) for coded in (None, [adapter.sites[1].name]))
    assert [len(site.features.value) > 0 for site in some.sites] == [False, True, False]
    assert torch.equal(some.sites[1].error, every.sites[1].error)
    assert torch.equal(some.logits, every.logits)


def test_inputs_know_their_unpadded_ends() -> None:
    mask = torch.tensor([[True, True, False], [False, True, True], [True, False, False]])
    inputs = Inputs(torch.zeros(3, 3), mask, (("a", "b"), ("a", "b"), ("a",)))
    assert inputs.first.tolist() == [0, 1, 0]
    assert inputs.last.tolist() == [1, 2, 0]


def test_no_trace_is_left(toy: Adapter) -> None:
    network = toy.model  # pyright: ignore[reportAttributeAccessIssue]
    example = toy.examples[0]
    inputs = toy.inputs([example.prompt])
    before = toy.run(inputs, {})
    flags = [p.requires_grad for p in network.parameters()]
    circuit = circuitlens.find(toy, example.prompt, example.answer, example.distractor, example.corrupted)
    circuitlens.ablate(toy, circuit, [circuit.nodes[0].id])
    assert torch.equal(toy.run(inputs, {}), before)
    assert [p.requires_grad for p in network.parameters()] == flags
    assert all(p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_no_hook_is_left_after_an_error(toy: Adapter) -> None:
    network = toy.model  # pyright: ignore[reportAttributeAccessIssue]

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        toy.run(toy.inputs(["The cat"]), {toy.sites[0].write: fail})
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_notebook_without_gradients_gets_the_same_circuit(toy: Adapter, mode: type) -> None:
    expected = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    with mode():
        assert circuitlens.find(toy, "The cats", "run", "runs", "The cat") == expected


def test_a_model_that_edits_activations_in_place_does_not_reach_the_record() -> None:
    class InPlace(TinyTransformer):
        def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
            def spoilt(hook: Hook) -> Hook:
                return lambda x: None if (y := hook(x)) is None else y.zero_()

            return super().run(inputs, {name: spoilt(hook) for name, hook in hooks.items()})

    asked = example_batch(TinyTransformer("components"))
    traced = trace(InPlace("components"), asked.clean, asked.metric, graph=False)
    expected = trace(TinyTransformer("components"), asked.clean, asked.metric, graph=False)
    assert torch.equal(traced.sites[0].write, expected.sites[0].write)
    assert torch.equal(traced.sites[0].error, expected.sites[0].error)
    assert torch.equal(traced.sites[0].leaf, expected.sites[0].leaf)
    assert not torch.allclose(traced.logits, expected.logits)  # the model did go on with zeros


def test_a_stream_to_start_from_is_kept_as_it_flowed_in() -> None:
    class InPlace(TinyTransformer):
        def entry(self, hooks: Collection[str]) -> str:
            return "1.ln2"

        def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
            def spoilt(hook: Hook) -> Hook:
                return lambda x: x.zero_() if (y := hook(x)) is None else y

            return super().run(inputs, {name: spoilt(hook) for name, hook in hooks.items()})

    asked, kept = example_batch(TinyTransformer()), list[Tensor]()
    traced = trace(InPlace(), asked.clean, asked.metric, graph=False)
    TinyTransformer().run(asked.clean, {"1.ln2": kept.append})
    assert torch.equal(traced.streams["1.ln2"], kept[0])


@pytest.mark.parametrize(
    ("change", "hook"),
    [(lambda sites: sites[::-1], "2.resid"), (lambda sites: (*sites, sites[0]), "0.resid")],
    ids=["reversed", "twice"],
)
def test_sites_out_of_order_are_named(change: Callable[..., tuple[Site, ...]], hook: str) -> None:
    adapter = TinyTransformer()
    adapter.sites = change(adapter.sites)
    asked = example_batch(TinyTransformer())
    with pytest.raises(AdapterError, match=hook):
        trace(adapter, asked.clean, asked.metric)
