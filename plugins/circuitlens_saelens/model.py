"""A TransformerLens model as CircuitLens runs it: hook names resolved, hooks set and taken away, nothing changed.

`HookedTransformer` and `TransformerBridge` (and SAE-Lens' subclasses of them) differ in where a name leads. The
differences live here:

- a bridge knows names such as `blocks.8.hook_resid_pre` as aliases, and before `enable_compatibility_mode` not even
  that: hooks set by such names would silently never fire;
- a bridge's `hook_resid_mid` is the input of the second layer norm only. What is written there has to reach the
  residual stream too, as it does in a HookedTransformer;
- some of a bridge's hooks are called beside the forward, which drops what they return if it equals what they were
  given. A cut at such a hook would be none: `HookedModel.keep_results_of` makes the forward go through it.

Nothing that is the user's to change is taken for granted: hooks are looked up in the module tree, and the model's state
is checked, at each run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint, LensHandle
from transformer_lens.model_bridge import TransformerBridge

from circuitlens.adapter import Hook
from circuitlens.errors import AdapterError
from circuitlens_saelens.versions import Model

_locks: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


class HookedModel:
    """`model` with one way to run it; the user's object keeps its hooks, parameters and logits.

    Runs of one model go one after the other, whichever adapter or thread asks for them: its hooks are its own.

    Raises:
        AdapterError: it is no TransformerLens model, has no tokenizer that can be called, or is in a state that
            `require_ready` refuses.
    """

    def __init__(self, model: Model):
        if not isinstance(model, Model):
            raise AdapterError(
                f"The model is a {type(model).__name__}; CircuitLens reads TransformerLens models. Load it with "
                "TransformerBridge.boot_transformers(name or folder), or pass hf_model= to wrap one you have."
            )
        self.model = model
        self.cfg: Any = model.cfg
        self.require_ready()
        if model.tokenizer is None:
            raise AdapterError("The model has no tokenizer, so it can't read a prompt: set model.tokenizer.")
        if not callable(model.tokenizer):
            raise AdapterError(
                f"The model's tokenizer is a {type(model.tokenizer).__name__}, which can't be called; CircuitLens "
                "reads with Hugging Face tokenizers. Set model.tokenizer to one, such as "
                "transformers.PreTrainedTokenizerFast(tokenizer_object=…)."
            )
        with _locks_lock:
            self.lock = _locks.setdefault(model, threading.RLock())
        self._bridge = isinstance(model, TransformerBridge)
        self._paths = _paths(model)
        self._kept: set[str] = set()

    def require_ready(self) -> list[torch.nn.Parameter]:
        """The model's parameters; raises AdapterError where it would not give its own numbers: with SAEs attached, in
        training mode, with backward hooks, or made under `torch.inference_mode`.
        """
        if attached := list(getattr(self.model, "acts_to_saes", {})):
            raise AdapterError(
                f"SAEs are attached to the model at {', '.join(attached)}, which hides its own activations. "
                "Call model.reset_saes() first: CircuitLens puts SAEs in place itself, with their errors."
            )
        for module in (modules := list(self.model.modules())):
            if isinstance(module, torch.nn.Dropout) and module.training and module.p:
                raise AdapterError("The model is in training mode and drops activations at random: call model.eval().")
            if module._backward_hooks or module._backward_pre_hooks:
                where = next(name for name, other in self.model.named_modules() if other is module)
                raise AdapterError(
                    f"There are backward hooks on the model at {where!r}. Gradients are computed many at a time, which "
                    "such hooks can't follow: call model.reset_hooks(), or remove them, first."
                )
        parameters = [p for module in modules for p in module._parameters.values() if p is not None]
        if any(parameter.is_inference() for parameter in parameters):
            raise AdapterError(
                "The model was made under torch.inference_mode, so it has no gradients: load it outside of it "
                "(torch.no_grad does no harm)."
            )
        return parameters

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
        return list(self._paths)

    def hook_point(self, name: str) -> HookPoint:
        """The hook of that name, as the model has it now; raises AdapterError, with the names that come near, where
        there is none.
        """
        if name not in self._paths:
            near = get_close_matches(name, self._paths, n=3, cutoff=0.6)
            hint = f" Names like it: {', '.join(near)}." if near else ""
            raise AdapterError(f"The model has no hook {name!r}.{hint} Its blocks are 0 to {self.cfg.n_layers - 1}.")
        found = self.model.get_submodule(self._paths[name])
        if not isinstance(found, HookPoint):
            raise AdapterError(f"At the model's hook {name!r} there is a {type(found).__name__}: take it away first.")
        return found

    def is_same(self, name: str, other: str) -> bool:
        """Whether two names are one hook's; False where there is no such hook."""
        return name in self._paths and self._paths[name] == self._paths.get(other)

    def keep_results_of(self, name: str) -> None:
        """From now on have the forward go on with what this hook returns, also if it equals what it was given."""
        self._kept.add(self._paths[name])

    def run(self, tokens: Tensor, mask: Tensor, hooks: Mapping[str, Hook]) -> Tensor:
        """Logits `[batch, pos, vocabulary]` with `hooks` in place, which see what hooks of the user's own return.

        Raises:
            AdapterError: the model is not ready (`require_ready`).
        """
        with self.lock:
            parameters = self.require_ready()
            planned = self._planned(tokens, hooks)
            if mask[:, 0].all():
                # What is padded on the right no earlier position sees. Masked, it might see nothing itself where the
                # attention's window is shorter than the padding.
                mask = torch.ones_like(mask)
            else:
                # A query that sees no key has a score of -inf everywhere, and a softmax without a derivative.
                scores = [self.hook_point(name) for name in self._paths if name.endswith("attn.hook_attn_scores")]
                planned += [(point, lambda x: x.clamp_min(torch.finfo(x.dtype).min)) for point in scores]
            kept = [self.model.get_submodule(path) for path in self._kept]
            with _frozen_parameters(parameters), _placed(planned), _never_dropped(kept):
                return self.model(tokens, attention_mask=mask.long(), return_type="logits")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The model to oneself, with parameters that have no gradient, as in a run."""
        with self.lock, _frozen_parameters(list(self.model.parameters())):
            yield

    def _planned(self, tokens: Tensor, hooks: Mapping[str, Hook]) -> list[tuple[HookPoint, Hook]]:
        """The hooks and where they are set."""
        planned: list[tuple[HookPoint, Hook]] = []
        for name, hook in hooks.items():
            point = self.hook_point(name)
            block = name.rsplit(".", 2)[0] if name.endswith(".ln2.hook_in") else name.rsplit(".", 1)[0]
            middle = self._paths.get(f"{block}.hook_resid_mid")
            hook = _unflattened(hook, *tokens.shape)
            if self._bridge and middle is not None and point is self.model.get_submodule(middle):
                hook, after = _through_the_stream(hook)
                end = self.hook_point(f"{block}.hook_resid_post")
                planned.insert(0, (end, after))  # before what reads or writes the stream there
            planned.append((point, hook))
        return planned


def _paths(model: Model) -> dict[str, str]:
    """Where in the module tree every hook is, by every name it has."""
    points: dict[str, Any] = dict(model.hook_dict)
    if isinstance(model, TransformerBridge):
        aliases: dict[str, Any] = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
        for alias, target in aliases.items():
            for name in [target] if isinstance(target, str) else target:
                if name in points:
                    points.setdefault(alias, points[name])
    paths = {id(module): path for path, module in model.named_modules() if isinstance(module, HookPoint)}
    return {name: paths[id(point)] for name, point in points.items() if id(point) in paths}


def _unflattened(hook: Hook, batch: int, pos: int) -> Hook:
    """The hook for activations of which some models (OPT's MLPs) put all positions of all prompts in one row."""

    def unflattened(x: Tensor) -> Tensor | None:
        if x.dim() != 2 or len(x) != batch * pos:
            return hook(x)
        y = hook(x.unflatten(0, (batch, pos)))
        return None if y is None else y.flatten(0, 1)

    return unflattened


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
def _never_dropped(points: list[Any]) -> Iterator[None]:
    """Points that say they have a backward hook, which is when a bridge goes on with whatever they return."""
    mark = LensHandle(RemovableHandle(OrderedDict()))
    for point in points:
        point.bwd_hooks.append(mark)
    try:
        yield
    finally:
        for point in points:
            point.bwd_hooks.remove(mark)


@contextmanager
def _frozen_parameters(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """No graph back to the parameters: nothing asks for their gradients, and keeping it costs memory and time."""
    thawed = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for parameter in thawed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)
