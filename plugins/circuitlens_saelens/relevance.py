"""Where a TransformerLens model's derivatives give way to rules of relevance: found by its hooks, proved by runs.

Norm scales and attention patterns are what frozen mode holds. An activation function stands between an MLP's `hook_pre`
and `hook_post`, and a gated one is multiplied by `hook_pre_linear`. Families differ in what they do there (experts, a
bias or a norm behind the product), so names prove nothing: zeros and twos at the first hooks have to come out at the
last, and whatever a rule replaces has to be without effect. What does not pass keeps its own derivative.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from circuitlens.adapter import ActivationFunction, Adapter, Inputs, RelevanceRules, agree
from circuitlens.errors import AdapterError
from circuitlens_saelens.model import HookedModel
from circuitlens_saelens.probe import frozen_fault, plain_logits

log = logging.getLogger(__name__)

PRE, LINEAR = (1.0, 0.0, 1.0, 1.0), (1.0, 1.0, 0.0, 2.0)
"""By what each fourth number before an activation function is multiplied, to see what that does behind it."""


def find_rules(adapter: Adapter, model: HookedModel, inputs: Inputs, holdable: Sequence[str]) -> RelevanceRules:
    """The rules that the model can be made to follow; of what keeps its own derivative there is a warning.

    Args:
        adapter: the model with its sites.
        model: the model itself.
        inputs: a short prompt.
        holdable: its hooks at norm scales and attention patterns.

    Raises:
        AdapterError: it follows none.
    """
    mlps = [f"blocks.{n}.mlp" for n in range(model.cfg.n_layers)]
    mlps = [mlp for mlp in mlps if any(name.startswith(f"{mlp}.") for name in model.names)]
    held = _held(adapter, inputs, holdable)
    activations = _elementwise(adapter, inputs, [at for mlp in mlps if (at := _activation(model, mlp))])
    left = _with_effect(adapter, inputs, [*held, *(at.post for at in activations)])
    held = [name for name in held if name not in left]
    activations = [at for at in activations if at.post not in left]
    if not held and not activations:
        raise AdapterError(
            f"Adapter {adapter.name!r} has no 'relp': none of its model's norm scales and attention patterns can be "
            "held, and no hooks show an activation function of its MLPs. Use 'contrastive' or 'ig'."
        )
    _warn(held, holdable, activations, mlps)
    return RelevanceRules(tuple(held), tuple(activations))


def _warn(
    held: Sequence[str], holdable: Sequence[str], activations: Sequence[ActivationFunction], mlps: Sequence[str]
) -> None:
    """Say what keeps its own derivative."""
    ruled = {at.post.rsplit(".", 1)[0] for at in activations}
    for what, every, found in (
        ("norms", [name for name in holdable if name.endswith("hook_scale")], held),
        ("attention patterns", [name for name in holdable if name.endswith("hook_pattern")], held),
        ("MLPs", mlps, ruled),
    ):
        if missing := [name for name in every if name not in found]:
            log.warning(
                "The method 'relp' takes the model's own derivative for %d of its %d %s, such as %s: %s.",
                len(missing),
                len(every),
                what,
                missing[0],
                "no hooks show their activation function" if what == "MLPs" else "they can't be held",
            )


def _held(adapter: Adapter, inputs: Inputs, holdable: Sequence[str]) -> list[str]:
    """What frozen mode holds, or where there is none, what can be held of one kind."""
    if adapter.frozen:
        return list(adapter.frozen)
    kinds = [[name for name in holdable if name.endswith(end)] for end in ("hook_scale", "hook_pattern")]
    plain = plain_logits(adapter, inputs)
    return [name for kind in kinds if kind and not frozen_fault(adapter, inputs, kind, plain) for name in kind]


def _activation(model: HookedModel, mlp: str) -> ActivationFunction | None:
    """The activation function of an MLP, as its hooks are named."""
    names = set(model.names)
    pre, post, linear = f"{mlp}.hook_pre", f"{mlp}.hook_post", f"{mlp}.hook_pre_linear"
    return ActivationFunction(pre, post, linear if linear in names else None) if {pre, post} <= names else None


def _elementwise(adapter: Adapter, inputs: Inputs, every: Sequence[ActivationFunction]) -> list[ActivationFunction]:
    """Those whose output has the zeros and twos that are put in before it, and is otherwise as it was."""
    first = _fired_once(adapter, inputs, [name for at in every for name in (at.pre, at.post, at.linear) if name])
    shown = [at for at in every if {at.pre, at.post, at.linear or at.pre} <= first.keys()]
    after: dict[str, Tensor] = {}

    def put_back(name: str, x: Tensor) -> Tensor:
        after[name] = x  # later MLPs see what they saw before
        return first[name]

    hooks: dict[str, Callable[[Tensor], Tensor]] = {}
    for at in shown:
        hooks[at.pre] = partial(_times, PRE)
        hooks[at.post] = partial(put_back, at.post)
        if at.linear is not None:
            hooks[at.linear] = partial(_times, LINEAR)
    with torch.no_grad():
        adapter.run(inputs, hooks)
    passed = []
    for at in shown:
        expected = _times(PRE, first[at.post])
        expected = expected if at.linear is None else _times(LINEAR, expected)
        if first[at.pre].shape == expected.shape and agree(after[at.post], expected):
            passed.append(at)
    return passed


def _times(factors: Sequence[float], x: Tensor) -> Tensor:
    """`x` with its last dimension multiplied by the factors, over and over."""
    return x * x.new_tensor(factors).repeat(-(-x.shape[-1] // len(factors)))[: x.shape[-1]]


def _fired_once(adapter: Adapter, inputs: Inputs, names: Sequence[str]) -> dict[str, Tensor]:
    """What those of the hooks see that fire once."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.no_grad():
        adapter.run(inputs, {name: each.append for name, each in seen.items()})
    return {name: each[0] for name, each in seen.items() if len(each) == 1}


def _with_effect(adapter: Adapter, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """The hooks whose value still reaches the logits where a constant that is equal takes its place.

    Raises:
        AdapterError: the logits are not the model's own then.
    """
    given: dict[str, Tensor] = {}

    def replace(name: str, x: Tensor) -> Tensor:
        given[name] = x if x.requires_grad else x.requires_grad_()
        return x.detach()

    with torch.no_grad():
        plain = inputs.at_last(adapter.run(inputs, {}))
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")  # is what is tried here
        logits = inputs.at_last(adapter.run(inputs, {name: partial(replace, name) for name in names}))
    if not agree(logits.detach(), plain):
        raise AdapterError(
            f"Adapter {adapter.name!r} has no 'relp': with its activations replaced by equal constants the model gives "
            "other logits. Use 'contrastive' or 'ig'."
        )
    if not logits.requires_grad:
        return []
    found = torch.autograd.grad(logits.sum(), list(given.values()), allow_unused=True)
    return [name for name, gradient in zip(given, found, strict=True) if gradient is not None]
