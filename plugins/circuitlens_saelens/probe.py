"""What a short prompt shows of a model with its SAEs before anything is asked of it.

Which hooks fire, and in what order; and that what is done at them is what it seems: a cut there enters the graph, runs
with hooks give the model's own numbers, and padding changes nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuitlens.adapter import Adapter, Attention, Hook, Inputs, Site, agree
from circuitlens.errors import AdapterError, PromptError

if TYPE_CHECKING:
    from circuitlens_saelens.model import HookedModel, Model


def fired(model: HookedModel, inputs: Inputs, hooks: Sequence[str]) -> dict[str, Tensor]:
    """What each hook sees, in the order in which they fire.

    Raises:
        AdapterError: a hook does not exist, or fires never or more than once.
    """
    seen: dict[str, Tensor] = {}
    counts = dict.fromkeys(hooks, 0)

    def note(name: str) -> Hook:
        def hook(x: Tensor) -> None:
            counts[name] += 1
            seen[name] = x.detach()

        return hook

    noted = {name: note(name) for name in counts}
    try:
        with torch.no_grad():
            model.run(inputs.values, inputs.mask, noted)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise AdapterError(
            f"The model stops at a prompt of {inputs.mask.shape[1]} tokens ({type(error).__name__}: {error}): try it "
            "without CircuitLens first, as model(prompt)."
        ) from error
    for name, count in counts.items():
        if count != 1 and not name.endswith(("hook_scale", "hook_pattern")):
            times = "never fires" if not count else f"fires {count} times"
            raise AdapterError(
                f"The model's hook {name!r} {times} in a forward. Some are off until the model's configuration "
                "turns them on (use_hook_mlp_in, use_attn_result, …); others no model of this kind reaches."
            )
    return seen


def plain_logits(adapter: Adapter, inputs: Inputs) -> Tensor:
    """The last logits of a run without hooks, with which those below are compared."""
    return _last(adapter, inputs, {})


def prove_cuts(adapter: Adapter, model: HookedModel, inputs: Inputs, plain: Tensor) -> None:
    """Make sure that what a site's hook returns is what the model goes on with, values and graph.

    Raises:
        AdapterError: it is not, or the logits change where every site is replaced by itself.
    """
    deaf = _without_effect(adapter, inputs, plain)
    for site in deaf:
        model.keep_results_of(site.write)
    for site in _without_effect(adapter, inputs, plain) if deaf else ():
        raise AdapterError(
            f"The model does not go on with what its hook {site.write!r} returns, so nothing can be attributed to an "
            "SAE there: choose a SAE at another hook, such as the residual stream's."
        )
    _require_same(plain, _last(adapter, inputs, _splices(adapter.sites)), "its SAEs, with their errors, in place")


def frozen_fault(adapter: Adapter, inputs: Inputs, hooks: Sequence[str], plain: Tensor) -> str:
    """Why the model's frozen run is not its own, or "" where it is."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")  # is what is tried here
            held = _last(adapter, inputs, dict.fromkeys(hooks, torch.Tensor.detach))
    except (AttributeError, RuntimeError, TypeError) as error:  # a norm that can't be computed from its held scale
        return f"with its scales and patterns held the model stops with {type(error).__name__}: {error}"
    if agree(held, plain):
        return ""
    return "with its scales and patterns held the model gives other logits"


def padding_is_harmless(adapter: Adapter, prompt: str, alone: Tensor) -> bool:
    """Whether a prompt gives beside a longer one what it gives alone; where none is so short, they share no batch."""
    for times in (4, 2):
        with suppress(PromptError):
            both = adapter.inputs([prompt, " ".join([prompt] * times)])
            return agree(_last(adapter, both, {})[:1], alone)
    return False


def heads_are_apart(adapter: Adapter, inputs: Inputs, layers: Sequence[Attention]) -> bool:
    """Whether every attention layer shows heads' outputs, keys and values, and goes on with what its hooks return."""
    seen: dict[str, Tensor] = {}

    def see(name: str) -> Hook:
        def hook(x: Tensor) -> Tensor:
            seen[name] = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
            return seen[name]

        return hook

    names = [name for layer in layers for name in (layer.z, layer.k, layer.v)]
    try:
        logits = inputs.at_last(adapter.run(inputs, {name: see(name) for name in names}))
    except (AdapterError, RuntimeError):  # no such hook
        return False
    if len(seen) < len(names) or not agree(logits.detach(), _last(adapter, inputs, {})):
        return False
    for layer in layers:
        z, k, v = seen[layer.z], seen[layer.k], seen[layer.v]
        if any(x.dim() != 4 or x.shape[:2] != inputs.mask.shape or z.shape[2] % x.shape[2] for x in (z, k, v)):
            return False
        for output, inner in ((logits, (z,)), (z, (k, v))):
            found = torch.autograd.grad(output.sum(), inner, retain_graph=True, allow_unused=True)
            if any(gradient is None for gradient in found):
                return False
    return True


def after_heads(adapter: Adapter, inputs: Inputs, model: Model, site: Site) -> Tensor | None:
    """By what a model multiplies each number of its heads' joint output on the way into the stream: 1, a factor, or the
    weight of a norm there. None where that is not what it does.

    It is measured and not read, as families call such norms differently: `weight · h` has to be what is written, for
    `h` as it is or divided by its root mean square.
    """
    seen: dict[str, Tensor] = {}
    names = site.write, f"blocks.{site.layer}.hook_attn_out"
    try:
        adapter.run(inputs, {name: lambda x, name=name: seen.update({name: x.detach()}) for name in names})
    except AdapterError:  # no such hook
        return None
    attention = model.blocks[site.layer].attn
    heads, written = seen[names[0]].flatten(2) @ attention.W_O.flatten(0, 1), seen[names[1]]
    if attention.b_O is not None:
        heads = heads + attention.b_O
    for h in (heads, heads / heads.square().mean(-1, keepdim=True).sqrt()):
        weight = (written * h).sum((0, 1)) / h.square().sum((0, 1))  # the best there is, by least squares
        if agree(weight * h, written):
            return weight
    return None


def _last(adapter: Adapter, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
    with torch.no_grad():
        return inputs.at_last(adapter.run(inputs, hooks))


def _require_same(plain: Tensor, other: Tensor, how: str) -> None:
    if not agree(other, plain):
        raise AdapterError(
            f"With {how} the model gives other logits: they differ by up to {(other - plain).abs().max().item():.2g}, "
            f"of {plain.abs().max().item():.2g}. A hook of yours may answer otherwise from run to run: call "
            "model.reset_hooks(), or choose SAEs at other hooks."
        )


def _without_effect(adapter: Adapter, inputs: Inputs, plain: Tensor) -> list[Site]:
    """The sites whose value, replaced by a leaf that holds the same, reaches neither a later site nor the logits."""
    leaves: dict[str, Tensor] = {}
    seen: list[Tensor] = []

    def cut(name: str) -> Hook:
        def hook(x: Tensor) -> Tensor:
            seen.append(x)
            leaves[name] = x.detach().clone().requires_grad_()
            return leaves[name].clone()

        return hook

    with torch.enable_grad():
        logits = inputs.at_last(adapter.run(inputs, {site.write: cut(site.write) for site in adapter.sites}))
        _require_same(plain, logits.detach(), "its activations replaced by themselves at the SAEs' hooks")
        reached = [x.sum() for x in [*seen, logits] if x.requires_grad]
        inputs_of = list(leaves.values())
        found = torch.autograd.grad(reached, inputs_of, allow_unused=True) if reached else [None] * len(inputs_of)
    effect = {name: gradient is not None for name, gradient in zip(leaves, found, strict=True)}
    return [site for site in adapter.sites if not effect[site.write]]


def _splices(sites: Sequence[Site]) -> dict[str, Hook]:
    """Hooks that replace what each coder's site writes by reconstruction and error."""
    reads: dict[str, Tensor] = {}
    hooks: dict[str, Hook] = {}

    def splice(site: Site) -> Hook:
        def hook(x: Tensor) -> Tensor:
            assert site.coder is not None, "a site with a coder"
            read = x if site.read == site.write else reads[site.read]
            written = site.coder.decode(site.coder.encode(read))
            reads[site.write] = written + (x - written)
            return reads[site.write]

        return hook

    def keep(name: str) -> Hook:
        def hook(x: Tensor) -> None:
            reads[name] = x

        return hook

    for site in sites:
        if site.coder is not None:
            hooks[site.write] = splice(site)
    for site in sites:
        if site.read != site.write and site.read not in hooks:
            hooks[site.read] = keep(site.read)
    return hooks
