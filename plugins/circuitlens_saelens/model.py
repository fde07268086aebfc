"""A TransformerLens model as CircuitLens runs it: hook names resolved, hooks set and taken away, nothing changed.

`HookedTransformer` and `TransformerBridge` (and SAE-Lens' subclasses of them) differ in where a name leads. The
differences live here:

- a bridge knows names such as `blocks.8.hook_resid_pre` as aliases, and before `enable_compatibility_mode` not even
  that: hooks set by such names would silently never fire;
- a bridge's `hook_resid_mid` is the input of the second layer norm only. What is written there has to reach the
  residual stream too, as it does in a HookedTransformer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from circuitlens.adapter import Hook
from circuitlens.errors import AdapterError

Model = HookedTransformer | TransformerBridge


class HookedModel:
    """`model` with one way to run it; the user's object keeps its hooks, parameters and logits.

    Raises:
        AdapterError: it is no TransformerLens model, has no tokenizer, or SAEs are attached to it.
    """

    def __init__(self, model: Model):
        if not isinstance(model, HookedTransformer | TransformerBridge):
            raise AdapterError(
                f"The model is a {type(model).__name__}; CircuitLens reads TransformerLens models. Load it with "
                "TransformerBridge.boot_transformers(name or folder), or pass hf_model= to wrap one you have."
            )
        if attached := list(getattr(model, "acts_to_saes", {})):
            raise AdapterError(
                f"SAEs are attached to the model at {', '.join(attached)}, which hides its own activations. "
                "Call model.reset_saes() first: CircuitLens puts SAEs in place itself, with their errors."
            )
        if model.tokenizer is None:
            raise AdapterError("The model has no tokenizer, so it can't read a prompt: set model.tokenizer.")
        if any(isinstance(m, torch.nn.Dropout) and m.training and m.p for m in model.modules()):
            raise AdapterError("The model is in training mode and drops activations at random: call model.eval().")
        self.model = model
        self.cfg: Any = model.cfg
        self._points = _points(model)
        self._bridge = isinstance(model, TransformerBridge)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where its inputs belong."""
        return next(self.model.parameters()).device

    @property
    def names(self) -> list[str]:
        """Every hook's names."""
        return list(self._points)

    def hook_point(self, name: str) -> HookPoint:
        """The hook of that name; raises AdapterError, with the names that come near, where there is none."""
        if name not in self._points:
            near = get_close_matches(name, self._points, n=3, cutoff=0.6)
            hint = f" Names like it: {', '.join(near)}." if near else ""
            raise AdapterError(f"The model has no hook {name!r}.{hint} Its blocks are 0 to {self.cfg.n_layers - 1}.")
        return self._points[name]

    def run(self, tokens: Tensor, mask: Tensor, hooks: Mapping[str, Hook]) -> Tensor:
        """Logits `[batch, pos, vocabulary]` with `hooks` in place, which see what hooks of the user's own return."""
        planned: list[tuple[HookPoint, Hook]] = []
        for name, hook in hooks.items():
            point = self.hook_point(name)
            block = name.rsplit(".", 2)[0] if name.endswith(".ln2.hook_in") else name.rsplit(".", 1)[0]
            if self._bridge and point is self._points.get(f"{block}.hook_resid_mid"):
                hook, after = _through_the_stream(hook)
                end = self.hook_point(f"{block}.hook_resid_post")
                planned.insert(0, (end, after))  # before what reads or writes the stream there
            planned.append((point, hook))
        if not mask[:, 0].all():
            # A query that sees no key has a score of -inf everywhere, and a softmax without a derivative.
            scores = [point for name, point in self._points.items() if name.endswith("attn.hook_attn_scores")]
            planned += [(point, lambda x: x.clamp_min(torch.finfo(x.dtype).min)) for point in scores]
        with _frozen_parameters(self.model), _placed(planned), warnings.catch_warnings():
            # What holding a scale constant is meant to do.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            return self.model(tokens, attention_mask=mask.long(), return_type="logits")


def _points(model: Model) -> dict[str, HookPoint]:
    """Every hook by every name it has."""
    points: dict[str, HookPoint] = {name: p for name, p in model.hook_dict.items() if isinstance(p, HookPoint)}
    if isinstance(model, TransformerBridge):
        aliases: dict[str, Any] = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
        for alias, target in aliases.items():
            for name in [target] if isinstance(target, str) else target:
                if name in points:
                    points.setdefault(alias, points[name])
    return points


def _through_the_stream(hook: Hook) -> tuple[Hook, Hook]:
    """A hook for the middle of a bridge's block, and one for its end that adds there what the first changed."""
    changed: list[Tensor] = []

    def middle(x: Tensor) -> Tensor | None:
        y = hook(x)
        if y is not None:
            changed.append(y - x)
        return y

    def end(x: Tensor) -> Tensor | None:
        return x + changed.pop() if changed else None

    return middle, end


@contextmanager
def _placed(hooks: list[tuple[HookPoint, Hook]]) -> Iterator[None]:
    """Hooks set by TransformerLens' own means, since a bridge looks for those, and each taken away again."""
    placed = []
    try:
        for point, hook in hooks:
            point.add_hook(lambda tensor, hook=None, ours=hook: ours(tensor))
            placed.append((point, point.fwd_hooks[-1]))
        yield
    finally:
        for point, handle in placed:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


@contextmanager
def _frozen_parameters(model: torch.nn.Module) -> Iterator[None]:
    """No graph back to the parameters: nothing asks for their gradients, and keeping it costs memory and time."""
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in thawed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)
