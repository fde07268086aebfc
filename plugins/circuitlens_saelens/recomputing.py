"""Parts of a model that are computed again when gradients are carried back through them (Chen et al. 2016).

What an activation function, written out in a few operations, and eager attention keep for their gradients is most of a
long prompt's graph. Computed again they keep their inputs alone; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from circuitlens_saelens.model import HookedModel

LONG = 192
"""Positions from which on a graph's memory is worth a part of the time."""


@contextmanager
def recomputed(model: HookedModel, hooks: Collection[str]) -> Iterator[None]:
    """Have attention and MLPs computed again when they are differentiated, but those in which one of the hooks lies."""
    hooked = {model.hook_point(name) for name in hooks}
    blocks = getattr(model.model, "blocks", ())
    parts = [getattr(block, name) for block in blocks for name in ("attn", "mlp") if hasattr(block, name)]
    parts = [part for part in parts if "forward" not in vars(part) and hooked.isdisjoint(part.modules())]

    def again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with model.frozen():  # by then the run, in which it was so, is over
            return forward(*args, **kwargs)

    try:
        for part in parts:
            forward = partial(again, part.forward)
            vars(part)["forward"] = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for part in parts:
            vars(part).pop("forward", None)
