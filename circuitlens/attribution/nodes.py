"""Node scores: gradient × activation on the cut graph.

A node writes `activation · direction` into the stream: a feature along its decoder row, an error or embedding along
itself. With `Δ` the change asked about (from zero, or from a corrupted run) and `m` the metric,

    attribution of node `u` = Δu · ∂m/∂u, where ∂m/∂u = ⟨∂m/∂x, direction⟩.

Decoder rows are read when they are needed and never kept for all features at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.attribution.scores import NodeScores
from circuitlens.torch_modes import wide
from circuitlens.tracing import SiteTrace, Trace, total_gradients

FEATURES = 4096
"""Features whose decoder rows are held at a time."""


def score_nodes(
    clean: Trace,
    corrupted: Trace | None = None,
    totals: Sequence[Float[Tensor, "batch pos ..."]] | None = None,
    logit_gradient: Float[Tensor, "batch output"] | None = None,
) -> NodeScores:
    """Attribution of every node of `clean`: from zero, or contrastive where a `corrupted` trace is given.

    Nodes are what is active in either run. `totals` are the gradients `∂m/∂x` to take at each site's output, and
    `logit_gradient` that at the logits, by default those at the clean run.
    """
    totals = total_gradients(clean) if totals is None else totals
    columns, units = [], []
    for s, total in enumerate(totals):
        table, unit = _site_nodes(clean.sites[s], None if corrupted is None else corrupted.sites[s], clean, total)
        columns.append((torch.full_like(table[0], s), *table))
        units.append(unit)
    if logit_gradient is None:
        logit_gradient = gradient_at_logits(clean)
    columns.append(_logit_nodes(clean, corrupted, logit_gradient))
    *joined, delta, gradient = (torch.cat(column) for column in zip(*columns, strict=True))
    joined = [*joined, delta, gradient, delta * gradient]
    return NodeScores(*joined, totals=tuple(totals), units=tuple(units), logit_gradient=logit_gradient)


def gradient_at_logits(traced: Trace) -> Float[Tensor, "batch output"]:
    """`∂m/∂logits`, each example's own metric. The graph is kept."""
    (found,) = torch.autograd.grad(
        traced.metric, traced.logits, torch.ones_like(traced.metric), retain_graph=True, allow_unused=True
    )
    return wide(torch.zeros_like(traced.logits) if found is None else found)


def directions(clean: Trace, nodes: NodeScores, s: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "row ..."]:
    """What one unit of each node in `rows`, all of site `s`, writes into the stream."""
    example, pos, index = nodes.example[rows], nodes.pos[rows], nodes.index[rows]
    site, written = clean.sites[s], nodes.units[s][example, pos]
    features = index != VECTOR
    if site.site.coder is not None and features.any():
        x = site.read.detach()[example[features], pos[features]]
        written[features] = wide(site.site.coder.decoder_rows(x, index[features]))
    return written


def _site_nodes(
    clean: SiteTrace, corrupted: SiteTrace | None, traced: Trace, total: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One site's nodes, sorted, as columns (example, pos, index, activation, delta, gradient); its vectors' units."""
    example, pos, index, value, other = _union(clean, corrupted)
    value, other = wide(value), wide(other)
    gradient = torch.zeros_like(value)
    # All that the features' change does not write: with a stateful decode (a layer norm), its change as well.
    change = wide(clean.error) if corrupted is None else (wide(clean.write) - wide(corrupted.write)).detach()
    if clean.site.coder is not None:
        for start in range(0, len(index), FEATURES):
            now = slice(start, start + FEATURES)
            places = example[now], pos[now]
            rows = wide(clean.site.coder.decoder_rows(clean.read.detach()[places], index[now]))
            gradient[now] = (total[places] * rows).flatten(1).sum(1)
            if corrupted is not None:
                change = added(change, places, scaled(rows, other[now] - value[now]))
    norm, size = (vector.flatten(2).norm(dim=2) for vector in (wide(clean.error), change))
    unit = change / shaped(size.clamp_min(torch.finfo(size.dtype).tiny), change)
    # Also where the vector is 0: it may still take a share of the gradient, and conservation needs it.
    at, p = traced.inputs.mask.nonzero(as_tuple=True)
    columns = (
        torch.cat([at, example]),
        torch.cat([p, pos]),
        torch.cat([torch.full_like(at, VECTOR), index]),
        torch.cat([norm[at, p], value]),
        torch.cat([size[at, p], value - other]),
        torch.cat([(total[at, p] * unit[at, p]).flatten(1).sum(1), gradient]),
    )
    order = (columns[0] * total.shape[1] + columns[1]).argsort(stable=True)
    return tuple(column[order] for column in columns), unit


def _union(clean: SiteTrace, corrupted: SiteTrace | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Example, pos, index, clean and corrupted value of the features active in either run, sorted."""
    ours = clean.features
    if corrupted is None or clean.site.coder is None:
        return ours.example, ours.pos, ours.index, ours.value, torch.zeros_like(ours.value)
    number = NodeIndex(0, clean.read.shape[1], clean.site.coder.d_sae)
    keys = [number.number(torch.zeros_like(f.pos), f.pos, f.index, f.example) for f in (ours, corrupted.features)]
    union = torch.unique(torch.cat(keys))
    values = [
        torch.zeros_like(union, dtype=f.value.dtype).index_copy(0, torch.searchsorted(union, key), f.value)
        for key, f in zip(keys, (ours, corrupted.features), strict=True)
    ]
    _, pos, index = number.parts(union % number.count)
    return union // number.count, pos, index, values[0], values[1]


def _logit_nodes(clean: Trace, corrupted: Trace | None, gradient: Tensor) -> tuple[Tensor, ...]:
    """Columns of the logits: each answer and distractor by itself, and all others that enter the metric as one."""
    logits = wide(clean.logits.detach())
    change = logits if corrupted is None else logits - wide(corrupted.logits.detach())
    named = named_logits(clean)
    size = gradient.masked_fill(named, 0).norm(dim=1)
    unit = gradient.masked_fill(named, 0) / size.clamp_min(torch.finfo(size.dtype).tiny)[:, None]
    example, index = named.nonzero(as_tuple=True)
    others = size.nonzero()[:, 0]
    at = torch.cat([others, example])
    columns = (
        torch.full_like(at, len(clean.sites)),
        at,
        clean.inputs.last[at],
        torch.cat([torch.full_like(others, VECTOR), index]),
        torch.cat([(unit * logits).sum(1)[others], logits[example, index]]),
        torch.cat([(unit * change).sum(1)[others], change[example, index]]),
        torch.cat([size[others], gradient[example, index]]),
    )
    order = at.argsort(stable=True)
    return tuple(column[order] for column in columns)


def named_logits(clean: Trace) -> Bool[Tensor, "batch output"]:
    """Which logits have nodes of their own: those of answers and distractors."""
    index = torch.cat([clean.scored_by.answers, clean.scored_by.distractors], 1)
    named = torch.zeros_like(clean.logits, dtype=torch.bool)
    example, column = (index >= 0).nonzero(as_tuple=True)
    return named.index_put((example, index[example, column]), torch.ones_like(example, dtype=torch.bool))


def shaped(values: Tensor, like: Tensor) -> Tensor:
    """Values of the first dimensions of `like`, with as many dimensions as it has."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim()))


def scaled(rows: Tensor, factors: Tensor) -> Tensor:
    """Each row times its factor."""
    return rows * shaped(factors, rows)


def added(total: Tensor, places: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
    """`total` with `rows` added at (example, position): many times faster than an accumulating index_put."""
    example, pos = places
    return total.flatten(0, 1).index_add(0, example * total.shape[1] + pos, rows).view(total.shape)
