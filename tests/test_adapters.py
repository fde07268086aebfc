"""One contract for every installed adapter, and for the engine's own test models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Example, Hook, IdentityCoder, Inputs, Site, SparseCoder
from circuitlens.errors import AdapterError
from circuitlens.registry import installed_adapters
from circuitlens.testing import CONTRACT
from tests.tiny_transformer import D, TinyTransformer

ADAPTERS: dict[str, Callable[[], Adapter]] = {
    **{found.name: (lambda name=found.name: circuitlens.load(name)) for found in installed_adapters()},
    "tiny residual": lambda: TinyTransformer("residual"),
    "tiny components": lambda: TinyTransformer("components"),
    "tiny normalised": lambda: TinyTransformer("normalised"),
}


@pytest.fixture(scope="module", params=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest, gpt2_cache: Path) -> Adapter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(gpt2_cache / "hub"))
        return ADAPTERS[request.param]()


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(adapter: Adapter, check: Callable[[Adapter], None]) -> None:
    check(adapter)


class Deaf(TinyTransformer):
    """Breaks the contract: its hooks see activations and can't replace them."""

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def deaf(hook: Hook) -> Hook:
            return lambda x: (hook(x), None)[1]

        return super().run(inputs, {name: deaf(hook) for name, hook in hooks.items()})


class Misordered(TinyTransformer):
    def __init__(self) -> None:
        super().__init__()
        self.sites = self.sites[::-1]


class Mute(TinyTransformer):
    def answer_index(self, answer: str, prompt: str) -> int:
        return 1 if answer == "d" else 2


class Unmasked(TinyTransformer):
    """Attends to padding."""

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        return super().run(Inputs(inputs.values, torch.ones_like(inputs.mask), inputs.tokens), hooks)


class WrongRows(TinyTransformer):
    def __init__(self) -> None:
        super().__init__()
        self.sites[1].coder.encoder_rows = lambda x, index: x * 0  # type: ignore[union-attr,method-assign]


class Hasty(TinyTransformer):
    """Gives the logits at the first position for the last ones."""

    def last_logits(self, inputs: Inputs, hooks: Mapping[str, Hook], start: tuple[str, Tensor] | None = None) -> Tensor:
        return self.run(inputs, hooks)[:, 0]


class Scaled(SparseCoder):
    """Says that it keeps nothing, and decodes by the size of what it encoded last."""

    d_in = d_sae = D
    stateful = False

    def encode(self, x: Tensor) -> Tensor:
        self.size = x.norm(dim=-1, keepdim=True)
        return x / self.size

    def decode(self, f: Tensor) -> Tensor:
        return f * self.size[: len(f), : f.shape[1]]


class Stateful(TinyTransformer):
    def __init__(self) -> None:
        super().__init__()
        self.sites = tuple(replace(site, coder=Scaled()) for site in self.sites)


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (Deaf, "a_hook_replaces_the_activation"),
        (Misordered, "hooks_fire_once_and_in_order"),
        (Mute, "what_it_cannot_read_is_a_prompt_error"),
        (Unmasked, "padding_changes_nothing"),
        (Hasty, "late_runs_are_whole_runs"),
        (Stateful, "coders_keep_their_sizes"),
        (WrongRows, "coders_rows_are_their_jacobians"),
    ],
)
def test_the_contract_sees_a_broken_adapter(broken: Callable[[], Adapter], caught_by: str) -> None:
    (check,) = [check for check in CONTRACT if check.__name__ == caught_by]
    with pytest.raises(AssertionError):
        check(broken())


def test_two_sites_on_one_hook_are_refused() -> None:
    class Double(TinyTransformer):
        def __init__(self) -> None:
            site = Site("one", "neuron", "0.resid", "0.resid", 0, IdentityCoder(12))
            other = Site("two", "neuron", "0.resid", "0.resid", 1, IdentityCoder(12))
            Adapter.__init__(self, "double", "", [site, other], [Example("a", "b", "c", "d")])

    with pytest.raises(AdapterError, match=r"write hook '0\.resid' is on two sites"):
        Double()


def test_an_unknown_adapter_is_told_which_there_are() -> None:
    with pytest.raises(AdapterError, match=r"no adapter named 'gpt5'\. Installed: .*toy"):
        circuitlens.load("gpt5")
