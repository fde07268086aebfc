"""Node and edge scores: gradient × activation on the cut graph.

A node writes `activation · direction` into the stream: a feature along its decoder row, an error or embedding along
itself. With `Δ` the change asked about (from zero, or from a corrupted run) and `m` the metric,

1. node `u`:        `attribution = Δu · ∂m/∂u`, where `∂m/∂u = ⟨∂m/∂x, direction⟩`;
2. edge `u → d`:    `weight = ∂m/∂d · ∂d/∂u|direct · Δu`, every other site's output held fixed.

Edges into a site come from vector-Jacobian products that stop at the cuts, with the cotangent `∂m/∂d · ∂d/∂x` of a
target feature. An error `ε = x − dec(enc(x))` gets `∂m/∂ε` less what its position's features take, so the targets of a
site share out exactly `∂m/∂x` and a node's outgoing edges sum to its attribution (conservation, checked every time).

Cost: a backward for the nodes, then `targets / rows` batched products of one segment each for the edges. Independent
examples share a product: row `k` carries the `k`-th target of every example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.tracing import SiteTrace, Trace, total_gradients

ROWS = 64
"""Targets of one example to a batched vector-Jacobian product; more cost memory and save nothing."""

VECTOR = -1
"""The `index` of a node that is a whole vector: an error or an embedding."""


@dataclass(frozen=True)
class NodeScores:
    """Every node of a batch of prompts, one row a node: by site, example, position, index (vectors first).

    `site` counts the trace's sites, and is their number at logit nodes. `delta` is `Δ`, `gradient` is `∂m/∂node`; of
    vectors both are taken along the vector, whose norm is the `activation`. `directions[s]` has a row for each node of
    site `s`.
    """

    site: Int[Tensor, " node"]
    example: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    delta: Float[Tensor, " node"]
    gradient: Float[Tensor, " node"]
    totals: tuple[Float[Tensor, "batch pos ..."], ...]
    directions: tuple[Float[Tensor, "_ ..."], ...]

    @property
    def attribution(self) -> Float[Tensor, " node"]:
        """`Δ · ∂m/∂node`, in units of the metric."""
        return self.delta * self.gradient


@dataclass(frozen=True)
class EdgeScores:
    """Direct effects between rows of `NodeScores`, in units of the metric; edges of weight 0 are left out."""

    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]


def score_nodes(clean: Trace, corrupted: Trace | None = None) -> NodeScores:
    """Attribution of every node of `clean`: from zero, or contrastive where a `corrupted` trace is given.

    Nodes are what is active in either run. Gradients are taken at the clean run.
    """
    totals = total_gradients(clean)
    columns, directions = [], []
    for s, total in enumerate(totals):
        table, direction = _site_nodes(clean.sites[s], None if corrupted is None else corrupted.sites[s], clean)
        example, pos = table[0], table[1]
        gradient = (total[example, pos] * direction).flatten(1).sum(1)
        columns.append((torch.full_like(example, s), *table, gradient))
        directions.append(direction)
    columns.append(_logit_nodes(clean, corrupted))
    joined = [torch.cat(column) for column in zip(*columns, strict=True)]
    return NodeScores(*joined, totals=tuple(totals), directions=tuple(directions))


def score_edges(clean: Trace, nodes: NodeScores) -> EdgeScores:
    """The direct effect of every node on every node of the next cuts; `nodes` are those scored on the same trace."""
    parts = [
        part
        for s in range(1, len(clean.sites) + 1)
        for batch in (_site_batches(clean, nodes, s) if s < len(clean.sites) else _logit_batches(clean, nodes))
        for part in _pull(clean, nodes, batch, s)
    ]
    if not parts:
        empty = nodes.site.new_zeros(0)
        return EdgeScores(empty, empty, nodes.delta.new_zeros(0))
    return EdgeScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def conservation_residual(nodes: NodeScores, edges: EdgeScores) -> float:
    """The largest gap between a node's attribution and the sum of its outgoing edges, in units of the metric.

    0 to rounding in every circuit whose edges are complete: the engine's check of itself.
    """
    inner = nodes.site < len(nodes.totals)
    gap = nodes.attribution.cpu().double().index_add(0, edges.source.cpu(), -edges.weight.cpu().double())
    return gap[inner.cpu()].abs().max().item() if inner.any() else 0.0


def _site_nodes(clean: SiteTrace, corrupted: SiteTrace | None, traced: Trace) -> tuple[tuple[Tensor, ...], Tensor]:
    """Columns (example, pos, index, activation, delta) and directions of one site's nodes, sorted."""
    example, pos, index, value, other = _union(clean, None if corrupted is None else corrupted)
    x = clean.read.detach()
    if clean.site.coder is None or not len(index):
        rows = clean.error.new_zeros(len(index), *clean.error.shape[2:])
    else:
        rows = clean.site.coder.decoder_rows(x[example, pos], index)

    change = clean.error
    if corrupted is not None:
        # All that the features' change does not write: with a stateful decode (a layer norm), its change as well.
        written = rows * (value - other).view(-1, *[1] * (rows.dim() - 1))
        change = (clean.write - corrupted.write).detach().index_put((example, pos), -written, accumulate=True)
    norm, size = (vector.flatten(2).norm(dim=2) for vector in (clean.error, change))
    # Also where the vector is 0: it may still take a share of the gradient, and conservation needs it.
    at, p = traced.inputs.mask.nonzero(as_tuple=True)
    length = size[at, p]
    unit = change[at, p] / length.clamp_min(torch.finfo(length.dtype).tiny).view(-1, *[1] * (change.dim() - 2))

    columns = (
        torch.cat([at, example]),
        torch.cat([p, pos]),
        torch.cat([torch.full_like(at, VECTOR), index]),
        torch.cat([norm[at, p], value]),
        torch.cat([length, value - other]),
    )
    order = (columns[0] * x.shape[1] + columns[1]).argsort(stable=True)
    return tuple(column[order] for column in columns), torch.cat([unit, rows])[order]


def _union(clean: SiteTrace, corrupted: SiteTrace | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Example, pos, index, clean and corrupted value of the features active in either run, sorted."""
    ours = clean.features
    if corrupted is None or clean.site.coder is None:
        return ours.example, ours.pos, ours.index, ours.value, torch.zeros_like(ours.value)
    theirs = corrupted.features
    positions, d_sae = clean.read.shape[1], clean.site.coder.d_sae
    keys = [(f.example * positions + f.pos) * d_sae + f.index for f in (ours, theirs)]
    union = torch.unique(torch.cat(keys))
    values = [
        torch.zeros_like(union, dtype=f.value.dtype).index_copy(0, torch.searchsorted(union, key), f.value)
        for key, f in zip(keys, (ours, theirs), strict=True)
    ]
    place = union // d_sae
    return place // positions, place % positions, union % d_sae, values[0], values[1]


def _logit_nodes(clean: Trace, corrupted: Trace | None) -> tuple[Tensor, ...]:
    """Columns of the logits that enter the metric."""
    gradient = torch.autograd.grad(clean.metric, clean.logits, torch.ones_like(clean.metric), retain_graph=True)[0]
    example, index = gradient.nonzero(as_tuple=True)
    logits = clean.logits.detach()
    change = logits if corrupted is None else logits - corrupted.logits.detach()
    return (
        torch.full_like(example, len(clean.sites)),
        example,
        clean.inputs.last[example],
        index,
        logits[example, index],
        change[example, index],
        gradient[example, index],
    )


Batch = tuple[Tensor, list[Tensor], list[Tensor]]
"""`targets[k, b]`, the node that row `k` carries for example `b` or -1, and the outputs and cotangents of one batched
vector-Jacobian product."""


def _site_batches(clean: Trace, nodes: NodeScores, s: int) -> Iterator[Batch]:
    """Targets at site `s`: its live features, and what they leave over at each position."""
    site, vector = clean.sites[s], nodes.index == VECTOR
    here = nodes.site == s
    features = (here & ~vector & (nodes.activation != 0) & (nodes.gradient != 0)).nonzero()[:, 0]
    direct, remainder = _cotangents(site, nodes, features)
    chosen = torch.cat([features, (here & vector).nonzero()[:, 0]])
    for now, row, targets in _packed(chosen, nodes, clean):
        b, p, n = nodes.example[chosen[now]], nodes.pos[chosen[now]], int(now[: len(features)].sum())
        on_read = site.read.new_zeros(len(targets), *site.read.shape)
        on_read[row[:n], b[:n], p[:n]] = direct[now[: len(features)]]
        on_read[row[n:], b[n:], p[n:]] = remainder[b[n:], p[n:]]
        on_write = site.write.new_zeros(len(targets), *site.write.shape)
        on_write[row[n:], b[n:], p[n:]] = nodes.totals[s][b[n:], p[n:]]
        if site.read is site.write:
            yield targets, [site.write], [on_read + on_write]
        else:
            yield targets, [site.read, site.write], [on_read, on_write]


def _logit_batches(clean: Trace, nodes: NodeScores) -> Iterator[Batch]:
    """Targets among the logits."""
    chosen = (nodes.site == len(clean.sites)).nonzero()[:, 0]
    for now, row, targets in _packed(chosen, nodes, clean):
        logit = chosen[now]
        cotangent = clean.logits.new_zeros(len(targets), *clean.logits.shape)
        cotangent[row, nodes.example[logit], nodes.index[logit]] = nodes.gradient[logit]
        yield targets, [clean.logits], [cotangent]


def _packed(chosen: Tensor, nodes: NodeScores, clean: Trace) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Share target nodes out among products: which go now, the rows that carry them, and the table of targets."""
    example = nodes.example[chosen]
    rank = torch.zeros_like(chosen)
    for b in example.unique():
        mine = example == b
        rank[mine] = torch.arange(int(mine.sum()), device=chosen.device)
    count = int(rank.max()) + 1 if len(rank) else 0
    for start in range(0, count, ROWS):
        now = (start <= rank) & (rank < start + ROWS)
        row = rank[now] - start
        targets = chosen.new_full((min(ROWS, count - start), len(clean.metric)), -1)
        targets[row, example[now]] = chosen[now]
        yield now, row, targets


def _cotangents(site: SiteTrace, nodes: NodeScores, features: Tensor) -> tuple[Tensor, Tensor]:
    """`∂m/∂d · ∂d/∂x` of each feature target, and what a position's error gets at the same place: minus their sum."""
    read, coder = site.read.detach(), site.site.coder
    if coder is None or not len(features):
        return read.new_zeros(len(features), *read.shape[2:]), torch.zeros_like(read)
    example, pos = nodes.example[features], nodes.pos[features]
    rows = coder.encoder_rows(read[example, pos], nodes.index[features])
    direct = rows * nodes.gradient[features].view(-1, *[1] * (rows.dim() - 1))
    return direct, torch.zeros_like(read).index_put((example, pos), -direct, accumulate=True)


def _pull(clean: Trace, nodes: NodeScores, batch: Batch, s: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Carry cotangents back to the cuts before site `s`, contract them with the nodes there: source, target, weight."""
    targets, outputs, cotangents = batch
    joined = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not joined:
        return
    leaves = [site.leaf for site in clean.sites[:s]]
    outputs, cotangents = (list(column) for column in zip(*joined, strict=True))
    pulled = torch.autograd.grad(
        outputs, leaves, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    for source_site, gradient in enumerate(pulled):
        if gradient is None:  # another cut lies between: no direct effect
            continue
        rows = (nodes.site == source_site).nonzero()[:, 0]
        direction, delta = nodes.directions[source_site].flatten(1), nodes.delta[rows]
        places = torch.stack([nodes.example[rows], nodes.pos[rows]], 1)
        cells, sizes = torch.unique_consecutive(places, dim=0, return_counts=True)
        starts = (sizes.cumsum(0) - sizes).tolist()
        for (b, p), start, size in zip(cells.tolist(), starts, sizes.tolist(), strict=True):
            here = slice(start, start + size)
            weight = gradient[:, b, p].flatten(1) @ direction[here].T * delta[here]
            k, n = ((weight != 0) & (targets[:, b, None] >= 0)).nonzero(as_tuple=True)
            yield rows[here][n], targets[k, b], weight[k, n]
