"""Which attention heads carry an edge from one position to a later one: a share for each, which sum to the edge.

Within a segment a path goes up at one position (the stream, an MLP, a head that attends to its own position), and over
to later positions by heads. It never goes back. So a path from a source at `p` to a target at a later `q` comes to `q`
by one head of one layer, the last that it crosses by, and that head is the one that carries it. A head's share has two
parts, by what the source changes before `q`:

- by *values*: what the head reads there, with its attention held;
- by the *pattern*: the keys there, and so how far the head attends to them.

For each target one product goes back to the heads' outputs at `q`, from each head one to values and keys before `q`,
and from each of these one to the source's cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Attention, Hook, Inputs
from circuitlens.attribution.edges import target_batches
from circuitlens.attribution.scores import NodeScores
from circuitlens.torch_modes import wide
from circuitlens.tracing import Trace

ROWS = 64
"""Targets × heads of one product."""


def watched(adapter: Adapter, seen: dict[str, Tensor]) -> Adapter:
    """The adapter, whose runs with a graph leave in `seen` what their attention layers' hooks saw."""
    names = [name for layer in adapter.attention for name in (layer.z, layer.k, layer.v)]

    def watching(name: str, hook: Hook | None) -> Hook:
        def see(x: Tensor) -> Tensor:
            # A copy that the model goes on with: some models show a hook a copy of their own.
            seen[name] = x.clone()
            y = None if hook is None else hook(seen[name])
            return seen[name] if y is None else y

        return see

    def run(inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        if torch.is_grad_enabled():
            hooks = {**hooks, **{name: watching(name, hooks.get(name)) for name in names}}
        return adapter.run(inputs, hooks)

    other = copy(adapter)
    other.run = run
    # The whole run, which the default of both goes by: what is before a late start shows its heads too.
    other.last_logits = lambda inputs, hooks, start=None: Adapter.last_logits(other, inputs, hooks)
    other.entry = lambda hooks: None
    return other


@dataclass(frozen=True)
class Sources:
    """Nodes of one site: their positions, and what each writes more than at its baseline."""

    site: int
    pos: Int[Tensor, " source"]
    moved: Float[Tensor, "source ..."]


def head_parts(
    run: Trace,
    seen: Mapping[str, Tensor],
    layers: Sequence[Attention],
    nodes: NodeScores,
    sources: Sources,
    number: Int[Tensor, " node"],
    count: int,
) -> Float[Tensor, "layer head two target source"]:
    """What each source does to each target by each head, by values and by the pattern, in units of the metric.

    Args:
        run: a cut run of one prompt, or of one several times over, that was `watched`; its parts are summed.
        seen: what was seen in it.
        layers: the adapter's attention layers.
        nodes: the nodes of the run.
        sources: where the edges start.
        number: which target each node is, or -1.
        count: how many targets there are.
    """
    zs = [seen[layer.z] for layer in layers]
    heads = max(z.shape[2] for z in zs)
    parts = nodes.delta.new_zeros(len(layers), heads, 2, count, len(sources.pos))
    for s in nodes.site[number >= 0].unique().tolist():
        if s <= sources.site:
            continue
        here = nodes.is_logit if s == len(run.sites) else (nodes.site == s) & (number >= 0)
        for targets, outputs, cotangents in target_batches(run, nodes, s, here.nonzero()[:, 0]):
            wanted = torch.where(targets >= 0, number[targets.clamp_min(0)], -1)
            joined = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
            outputs, cotangents = ([pair[side] for pair in joined] for side in (0, 1))
            gradients = _products(outputs, zs, cotangents) if joined else []
            for n, gradient in enumerate(gradients):
                if gradient is not None:
                    layer = [seen[name] for name in (layers[n].z, layers[n].v, layers[n].k)]
                    at = nodes.pos[targets.clamp_min(0)]
                    _add_layer(parts[n], run.sites[sources.site].leaf, layer, gradient, wanted, at, sources)
    return parts


def _add_layer(
    parts: Float[Tensor, "head two target source"],
    leaf: Tensor,
    layer: Sequence[Tensor],
    gradient: Float[Tensor, "row batch pos head d_head"],
    wanted: Int[Tensor, "row batch"],
    at: Int[Tensor, "row batch"],
    sources: Sources,
) -> None:
    """Add what one layer's heads carry, whose outputs, values and keys are in `layer`, to the targets at `at`."""
    z, *inputs = layer
    rows = (wanted >= 0).any(1).nonzero()[:, 0]
    heads, places = z.shape[2], torch.arange(z.shape[1], device=z.device)
    for some in rows.split(max(1, ROWS // heads)):
        q = at[some][..., None]
        arriving = gradient[some] * ((places == q) & (wanted[some] >= 0)[..., None])[..., None, None]
        # A row for each head by itself.
        alone = torch.eye(heads, device=z.device, dtype=z.dtype)[:, None, None, :, None]
        cotangent = (arriving[:, None] * alone).flatten(0, 1)
        before = (places < q)[:, None].expand(-1, heads, -1, -1).flatten(0, 1)[..., None, None]
        for which, (x, back) in enumerate(zip(inputs, _products([z], inputs, [cotangent]), strict=True)):
            if back is None or not x.requires_grad:
                continue
            (reached,) = _products([x], [leaf], [back * before])
            if reached is None:
                continue
            there = reached[:, :, sources.pos].flatten(3).unflatten(0, (len(some), heads))
            done = torch.einsum("rhbsd,sd->hrbs", wide(there), sources.moved.flatten(1))
            for r, b in (wanted[some] >= 0).nonzero().tolist():
                parts[:heads, which, wanted[some[r], b]] += done[:, r, b]


def _products(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    """Batched vector-Jacobian products; None for inputs that are not reached."""
    usable = [x for x in inputs if x.requires_grad]
    if not usable:
        return [None] * len(inputs)
    found = torch.autograd.grad(
        outputs, usable, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    given = iter(found)
    return [next(given) if x.requires_grad else None for x in inputs]
