"""Shortcuts through a model's forward: blocks that need not run again, and one position to unembed.

A forward is fixed by the residual stream at a block's beginning or end: where that is known from an earlier run of the
same inputs, the blocks before it answer with it at once. Embedding, masks and rotary positions are computed as ever, so
one way serves every family and both kinds of model. The unembedding, a large part of a short run, is given each
example's last position alone.

Neither is taken for granted. Both are tried on a short prompt before they are first used, and runs stay whole in a
model that answers otherwise (one whose blocks share more than the stream), or that has hooks of the user's, which
might belong to what is left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuitlens.adapter import Hook, Inputs, agree
from circuitlens_saelens.model import HookedModel
from circuitlens_saelens.recomputing import LONG, recomputed_mlps

log = logging.getLogger(__name__)

LIBRARIES = ("transformers.", "transformer_lens.model_bridge.")
"""Whose modules have hooks of their own, which note outputs that nobody asks for here."""

FAULTS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
BEGINNING, INSIDE, END = range(3)

Start = tuple[str, Tensor]
"""A hook, and what it sees `[batch, pos, d_model]`."""


class Shortcuts:
    """Runs of `model` that are as short as may be; `entries` are the hooks at which they may be asked to start.

    `prompts` makes two different ones to try them on, where the model is then.
    """

    def __init__(self, model: HookedModel, entries: Iterable[str], prompts: Callable[[], Sequence[Inputs]]):
        self._model = model
        self._entries = sorted(set(entries), key=lambda hook: _place(model, hook), reverse=True)
        self._prompts = prompts
        self._tried = False
        self._proven: set[str] = set()
        self._unembeds_last = False
        self._forms: list[int | None] = []  # of each block's output: of a tuple its length

    def last_logits(
        self, inputs: Inputs, hooks: Mapping[str, Hook], start: Start | None = None
    ) -> Float[Tensor, "batch output"]:
        """Each example's logits at its last unpadded position; a run with `start` begins there, if that is proven."""
        with self._model.lock:
            if not self._tried and not has_own_hooks(self._model):
                self._try()
            late = start is not None and start[0] in self._proven and not has_own_hooks(self._model)
            return self._run(inputs, hooks, start if late else None, last_only=self._unembeds_last)

    def _run(self, inputs: Inputs, hooks: Mapping[str, Hook], start: Start | None, *, last_only: bool) -> Tensor:
        last: list[Tensor] = []
        large = torch.is_grad_enabled() and inputs.mask.shape[1] >= LONG and not has_own_hooks(self._model)
        with ExitStack() as stack:
            if start is not None:
                first = _place(self._model, start[0])
                assert all(_place(self._model, hook) >= first for hook in hooks), f"a hook lies before {start[0]}"
                stack.enter_context(_started(self._model, start, self._forms))
            if large:
                stack.enter_context(recomputed_mlps(self._model, hooks))
            if last_only and not _at_unembedding(self._model, hooks):
                stack.enter_context(_only_last(self._model.model.unembed, inputs, last))
            logits = self._model.run(inputs.values, inputs.mask, hooks)
        return logits[:, 0] if last else inputs.at_last(logits)

    @torch.no_grad()
    def _try(self) -> None:
        """Find out which shortcuts give what a whole run gives, with every entry's stream moved off its own course.

        The other prompt runs in between, so that what a model keeps from one run for the next gives itself away; the
        latest entry comes first, so that no blocks before the next one have run on this prompt again.
        """
        (short, other), seen = self._prompts(), dict[str, Tensor]()
        hooks = {name: _mover(name, seen) for name in self._entries}
        with _observed_forms(self._model) as self._forms:
            whole = self._run(short, hooks, None, last_only=False)
        try:
            self._unembeds_last = agree(self._run(short, hooks, None, last_only=True), whole)
        except FAULTS as error:
            log.info(
                "All positions are unembedded: with the last one alone %s says %s.", self._model.cfg.model_name, error
            )
        streams = dict(seen)
        self._run(other, hooks, None, last_only=False)
        for n, name in enumerate(self._entries):
            later = {name: hooks[name] for name in self._entries[:n]}
            told = "the logits differ"
            try:
                if agree(self._run(short, later, (name, streams[name]), last_only=False), whole):
                    self._proven.add(name)
                    continue
            except FAULTS as error:
                told = f"{type(error).__name__}: {error}"
            log.info("Runs of %s don't start at %s (%s).", self._model.cfg.model_name, name, told)
        self._tried = True


def find_entry(model: HookedModel, hooks: Collection[str]) -> str | None:
    """The last stream from which a run still reaches all `hooks`: at a block's end, or its beginning; None for the
    first block's beginning, and for hooks outside of blocks.
    """
    hook = min(hooks, key=lambda name: _place(model, name))
    layer, part = _place(model, hook)
    if part == END:
        return hook
    if not 0 < layer < model.cfg.n_layers:
        return None
    name = f"blocks.{layer}.hook_resid_pre"
    return hook if part == BEGINNING else name if model.is_same(name, name) else None


def has_own_hooks(model: HookedModel) -> bool:
    """Whether there are hooks on the model, or forwards put into its blocks, that are not its libraries' own."""
    return any("forward" in vars(block) for block in _blocks(model)) or any(
        isinstance(module, HookPoint) or not str(getattr(hook, "__module__", "")).startswith(LIBRARIES)
        for module in model.model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )


def _blocks(model: HookedModel) -> list[torch.nn.Module]:
    return list(getattr(model.model, "blocks", ()))


def _place(model: HookedModel, hook: str) -> tuple[int, int]:
    """Where in the forward a hook is: its block (−1 before all, their number after), and where in the block."""
    found = re.match(r"blocks\.(\d+)\.", hook)
    if not found:
        return (-1 if "embed" in hook and "unembed" not in hook else model.cfg.n_layers), INSIDE
    layer = int(found[1])
    for part, end in ((BEGINNING, "pre"), (END, "post")):
        if model.is_same(hook, f"blocks.{layer}.hook_resid_{end}"):
            return layer, part
    return layer, INSIDE


def _at_unembedding(model: HookedModel, hooks: Iterable[str]) -> bool:
    """Whether a hook, ours or the user's, would see the unembedding of all positions."""
    modules = model.model.unembed.modules()
    return any("unembed" in hook for hook in hooks) or any(m._forward_hooks or m._forward_pre_hooks for m in modules)


@contextmanager
def _only_last(unembed: torch.nn.Module, inputs: Inputs, taken: list[Tensor]) -> Iterator[None]:
    """Give the unembedding each example's last position alone, and note that it was so."""

    def last(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or args[0].shape[:2] != inputs.mask.shape:
            return None
        taken.append(inputs.at_last(args[0])[:, None])
        return taken[-1], *args[1:]

    handle = unembed.register_forward_pre_hook(last)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _started(model: HookedModel, start: Start, forms: list[int | None]) -> Iterator[None]:
    """Have the blocks before a stream answer with it; at a block's end its hook is called with it."""
    name, value = start
    layer, part = _place(model, name)
    skipped = _blocks(model)[: layer + (part == END)]

    def answer(n: int) -> Any:
        def forward(*_: Any, **__: Any) -> Any:
            x = value
            if n == len(skipped) - 1:
                # A copy: a model that edits its activations in place must not reach what is kept.
                x = value.clone()
                x = model.hook_point(name)(x) if part == END else x
            form = forms[n]
            return x if form is None else (x, *[None] * (form - 1))

        return forward

    try:
        for n, block in enumerate(skipped):
            vars(block)["forward"] = answer(n)
        yield
    finally:
        for block in skipped:
            vars(block).pop("forward", None)


@contextmanager
def _observed_forms(model: HookedModel) -> Iterator[list[int | None]]:
    """Of each block's output in the runs meanwhile: the length of a tuple, None of a tensor."""
    blocks = _blocks(model)
    forms: list[int | None] = [None] * len(blocks)

    def note(n: int) -> Any:
        return lambda _, __, output: forms.__setitem__(n, len(output) if isinstance(output, tuple) else None)

    handles = [block.register_forward_hook(note(n)) for n, block in enumerate(blocks)]
    try:
        yield forms
    finally:
        for handle in handles:
            handle.remove()


def _mover(name: str, seen: dict[str, Tensor]) -> Hook:
    """A hook that changes a stream, and notes what it is then."""

    def move(x: Tensor) -> Tensor:
        seen[name] = x + 0.1 * x.roll(1, -1)
        return seen[name].clone()

    return move
