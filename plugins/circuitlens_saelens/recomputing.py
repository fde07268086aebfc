"""MLPs that are computed again when gradients are carried back through them (checkpointing: Chen et al. 2016).

What activation functions keep for their gradients, often several operations of four times the model's width, is most
of a long prompt's graph. An MLP that is computed again keeps its input alone, and its numbers are the same. Attention
is left: it may write to a cache of keys and values, and would do so twice.
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
def recomputed_mlps(model: HookedModel, hooks: Collection[str]) -> Iterator[None]:
    """Have MLPs computed again when they are differentiated, but those in which one of the hooks lies."""
    hooked = {model.hook_point(name) for name in hooks}
    mlps = [block.mlp for block in getattr(model.model, "blocks", ()) if hasattr(block, "mlp")]
    mlps = [mlp for mlp in mlps if "forward" not in vars(mlp) and hooked.isdisjoint(mlp.modules())]

    def again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with model.frozen():  # by then the run, in which it was so, is over
            return forward(*args, **kwargs)

    try:
        for mlp in mlps:
            forward = partial(again, mlp.forward)
            vars(mlp)["forward"] = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for mlp in mlps:
            vars(mlp).pop("forward", None)
