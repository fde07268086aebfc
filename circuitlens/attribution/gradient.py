"""Node and edge scores: gradient × activation on the cut graph.

A node writes `activation · direction` into the stream: a feature along its decoder row, an error or embedding along
itself. With `Δ` the change asked about (from zero, or from a corrupted run) and `m` the metric,

1. node `u`:        `attribution = Δu · ∂m/∂u`, where `∂m/∂u = ⟨∂m/∂x, direction⟩`;
2. edge `u → d`:    `weight = ∂m/∂d · ∂d/∂u|direct · Δu`, every other site's output held fixed.

Edges into a site come from vector-Jacobian products that stop at the cuts, with the cotangent `∂m/∂d · ∂d/∂x` of a
target feature. An error `ε = x − dec(enc(x))` gets `∂m/∂ε` less what its position's features take, so the targets of a
site share out exactly `∂m/∂x` and a node's outgoing edges sum to its attribution (conservation, checked every time).
What a coder passes on beside its features (a skip connection, a layer norm's mean and scale) counts among the error's.
Where edges between some nodes only are asked for, one more product a site carries all that the others take, so that
the sum stays whole.

Cost: a backward for the nodes, then `targets / rows` batched products of one segment each for the edges. Independent
examples share a product: row `k` carries the `k`-th target of every example. Decoder rows are read when they are
needed and never kept for all features at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.tracing import SiteTrace, Trace, total_gradients

ROWS = 64
"""Targets of one example to a batched vector-Jacobian product; more cost memory and save nothing."""

POSITIONS = 4096
"""Rows × examples × positions of a product, if more than one row: a long prompt takes fewer rows at a time instead of
more memory."""

FEATURES = 4096
"""Features whose decoder rows are held at a time when nodes are scored."""

VECTOR = -1
"""The `index` of a node that is a whole vector: an error, an embedding, or the logits without nodes of their own."""

NOBODY, THE_REST = -1, -2
"""In a table of targets: a row that carries nothing for this example, and one that carries all targets left out."""


@dataclass(frozen=True)
class NodeScores:
    """Every node of a batch of prompts, one row a node: by site, example, position, index (vectors first).

    `site` counts the trace's sites, and is their number at logit nodes. `delta` is `Δ`, `gradient` is `∂m/∂node`; of
    vectors both are taken along the vector, whose norm is the `activation` (of the rest of the logits: along their
    gradient). `totals[s]` is `∂m/∂x` at site `s`, `logit_gradient` at the logits; `units[s]` are the unit vectors
    along which site `s`'s vector nodes change.
    """

    site: Int[Tensor, " node"]
    example: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    delta: Float[Tensor, " node"]
    gradient: Float[Tensor, " node"]
    totals: tuple[Float[Tensor, "batch pos ..."], ...]
    units: tuple[Float[Tensor, "batch pos ..."], ...]
    logit_gradient: Float[Tensor, "batch output"]

    @property
    def attribution(self) -> Float[Tensor, " node"]:
        """`Δ · ∂m/∂node`, in units of the metric."""
        return self.delta * self.gradient


@dataclass(frozen=True)
class EdgeScores:
    """Direct effects between rows of `NodeScores`, in units of the metric; edges of weight 0 are left out.

    `rest[n]` is what node `n` does through targets that were not asked for.
    """

    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    rest: Float[Tensor, " node"]


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
        logit_gradient = torch.autograd.grad(
            clean.metric, clean.logits, torch.ones_like(clean.metric), retain_graph=True, allow_unused=True
        )[0]
    if logit_gradient is None:
        logit_gradient = torch.zeros_like(clean.logits)
    columns.append(_logit_nodes(clean, corrupted, logit_gradient))
    joined = [torch.cat(column) for column in zip(*columns, strict=True)]
    return NodeScores(*joined, totals=tuple(totals), units=tuple(units), logit_gradient=logit_gradient)


def score_edges(
    clean: Trace,
    nodes: NodeScores,
    keep: Bool[Tensor, " node"] | None = None,
    on_site: Callable[[], None] = lambda: None,
) -> EdgeScores:
    """The direct effect of every node on every node of the next cuts; `nodes` are those scored on the same trace.

    With `keep`, between the nodes it marks only. `on_site` is called after each site whose targets are done.
    """
    keep = torch.ones_like(nodes.site, dtype=torch.bool) if keep is None else keep
    sources = _Sources(clean, nodes, keep)
    rest = torch.zeros_like(nodes.delta)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for s in range(1, len(clean.sites) + 1):
        chosen = (keep & (nodes.site == s)).nonzero()[:, 0]
        batches = (
            _site_batches(clean, nodes, s, chosen) if s < len(clean.sites) else _logit_batches(clean, nodes, chosen)
        )
        for batch in batches:
            parts.extend(_pull(clean, sources, batch, s, rest))
        on_site()
    if not parts:
        empty = nodes.site.new_zeros(0)
        return EdgeScores(empty, empty, nodes.delta.new_zeros(0), rest)
    source, target, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return EdgeScores(source, target, weight, rest)


def conservation_residual(nodes: NodeScores, edges: EdgeScores, keep: Bool[Tensor, " node"] | None = None) -> float:
    """The largest gap between a (kept) node's attribution and what flows out of it, in units of the metric.

    0 to rounding in every circuit whose edges are complete: the engine's check of itself.
    """
    inner = nodes.site < len(nodes.totals)
    inner = (inner if keep is None else inner & keep).cpu()
    gap = nodes.attribution.cpu().double() - edges.rest.cpu().double()
    gap = gap.index_add(0, edges.source.cpu(), -edges.weight.cpu().double())
    return gap[inner].abs().max().item() if inner.any() else 0.0


def directions(clean: Trace, nodes: NodeScores, s: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "row ..."]:
    """What one unit of each node in `rows`, all of site `s`, writes into the stream."""
    example, pos, index = nodes.example[rows], nodes.pos[rows], nodes.index[rows]
    site, written = clean.sites[s], nodes.units[s][example, pos]
    features = index != VECTOR
    if site.site.coder is not None and features.any():
        x = site.read.detach()[example[features], pos[features]]
        written[features] = site.site.coder.decoder_rows(x, index[features])
    return written


def _site_nodes(
    clean: SiteTrace, corrupted: SiteTrace | None, traced: Trace, total: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One site's nodes, sorted, as columns (example, pos, index, activation, delta, gradient); its vectors' units."""
    example, pos, index, value, other = _union(clean, corrupted)
    gradient = torch.zeros_like(value)
    # All that the features' change does not write: with a stateful decode (a layer norm), its change as well.
    change = clean.error if corrupted is None else (clean.write - corrupted.write).detach()
    if clean.site.coder is not None:
        for start in range(0, len(index), FEATURES):
            now = slice(start, start + FEATURES)
            places = example[now], pos[now]
            rows = clean.site.coder.decoder_rows(clean.read.detach()[places], index[now])
            gradient[now] = (total[places] * rows).flatten(1).sum(1)
            if corrupted is not None:
                change = _added(change, places, _scaled(rows, other[now] - value[now]))
    norm, size = (vector.flatten(2).norm(dim=2) for vector in (clean.error, change))
    unit = change / size.clamp_min(torch.finfo(size.dtype).tiny).view(*size.shape, *[1] * (change.dim() - 2))
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


def _logit_nodes(clean: Trace, corrupted: Trace | None, gradient: Tensor) -> tuple[Tensor, ...]:
    """Columns of the logits: each answer and distractor by itself, and all others that enter the metric as one."""
    logits = clean.logits.detach()
    change = logits if corrupted is None else logits - corrupted.logits.detach()
    named = _named(clean)
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


def _named(clean: Trace) -> Tensor:
    """Which logits have nodes of their own, `[batch, output]`."""
    index = torch.cat([clean.scored_by.answers, clean.scored_by.distractors], 1)
    named = torch.zeros_like(clean.logits, dtype=torch.bool)
    example, column = (index >= 0).nonzero(as_tuple=True)
    return named.index_put((example, index[example, column]), torch.ones_like(example, dtype=torch.bool))


Batch = tuple[Tensor, list[Tensor], list[Tensor]]
"""`targets[k, b]`, the node that row `k` carries for example `b` (or nobody, or the rest), and the outputs and
cotangents of one batched vector-Jacobian product."""


def _site_batches(clean: Trace, nodes: NodeScores, s: int, chosen: Tensor) -> Iterator[Batch]:
    """Targets at site `s`: live features and vectors among the chosen, and all that the others take, as one."""
    site, vector = clean.sites[s], nodes.index == VECTOR
    here = nodes.site == s
    live = here & ~vector & (nodes.activation != 0) & (nodes.gradient != 0)
    features, vectors = chosen[live[chosen]], chosen[vector[chosen]]
    direct, remainder = _cotangents(site, nodes, live.nonzero()[:, 0], features, vectors)
    at_vectors = nodes.example[vectors], nodes.pos[vectors]
    total = nodes.totals[s]
    left: tuple[Tensor, Tensor] | None = None
    if len(chosen) < int(here.sum()):
        on_read = torch.zeros_like(remainder).index_put(at_vectors, -remainder[at_vectors])
        on_read = _added(on_read, (nodes.example[features], nodes.pos[features]), -direct)
        left = on_read, total.index_put(at_vectors, torch.zeros_like(total[at_vectors]))
    ordered = torch.cat([features, vectors])
    for now, row, targets in _packed(ordered, nodes, clean, with_rest=left is not None):
        b, p, n = nodes.example[ordered[now]], nodes.pos[ordered[now]], int(now[: len(features)].sum())
        on_read = site.read.new_zeros(len(targets), *site.read.shape)
        on_read[row[:n], b[:n], p[:n]] = direct[now[: len(features)]]
        on_read[row[n:], b[n:], p[n:]] = remainder[b[n:], p[n:]]
        on_write = site.write.new_zeros(len(targets), *site.write.shape)
        on_write[row[n:], b[n:], p[n:]] = total[b[n:], p[n:]]
        if left is not None and (targets[-1] == THE_REST).all():
            on_read[-1], on_write[-1] = left
        if site.read is site.write:
            yield targets, [site.write], [on_read + on_write]
        else:
            yield targets, [site.read, site.write], [on_read, on_write]


def _logit_batches(clean: Trace, nodes: NodeScores, chosen: Tensor) -> Iterator[Batch]:
    """Targets among the logits."""
    others = nodes.logit_gradient.masked_fill(_named(clean), 0)
    complete = len(chosen) == int((nodes.site == len(clean.sites)).sum())
    assert complete, "logit nodes are never left out"
    for now, row, targets in _packed(chosen, nodes, clean, with_rest=False):
        logit = chosen[now]
        b, index = nodes.example[logit], nodes.index[logit]
        cotangent = clean.logits.new_zeros(len(targets), *clean.logits.shape)
        one = index != VECTOR
        cotangent[row[one], b[one], index[one]] = nodes.gradient[logit][one]
        cotangent[row[~one], b[~one]] = others[b[~one]]
        yield targets, [clean.logits], [cotangent]


def _packed(
    chosen: Tensor, nodes: NodeScores, clean: Trace, *, with_rest: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Share target nodes out among products: which go now, the rows that carry them, and the table of targets.

    The rest of a site rides along as the last row of the first product.
    """
    example = nodes.example[chosen]
    rank = torch.zeros_like(chosen)
    for b in example.unique():
        mine = example == b
        rank[mine] = torch.arange(int(mine.sum()), device=chosen.device)
    count = int(rank.max()) + 1 if len(rank) else 0
    rows = max(1, min(ROWS, POSITIONS // clean.inputs.mask.numel()))
    for start in range(0, max(count, int(with_rest)), rows):
        now = (start <= rank) & (rank < start + rows)
        row = rank[now] - start
        targets = chosen.new_full((min(rows, count - start), len(clean.metric)), NOBODY)
        targets[row, example[now]] = chosen[now]
        if with_rest and start == 0:
            targets = torch.cat([targets, targets.new_full((1, len(clean.metric)), THE_REST)])
        yield now, row, targets


def _cotangents(
    site: SiteTrace, nodes: NodeScores, live: Tensor, features: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """`∂m/∂d · ∂d/∂x` of each target feature, and what a target vector's error gets at the same place: minus the sum
    over all live features of its position, targets or not.
    """
    read, coder = site.read.detach(), site.site.coder
    direct, remainder = read.new_zeros(len(features), *read.shape[2:]), torch.zeros_like(read)
    if coder is None:
        return direct, remainder
    slot = torch.full_like(nodes.site, -1).index_put((features,), torch.arange(len(features), device=features.device))
    beside = torch.zeros(read.shape[:2], dtype=torch.bool, device=read.device)
    beside[nodes.example[vectors], nodes.pos[vectors]] = True
    wanted = live[beside[nodes.example[live], nodes.pos[live]] | (slot[live] >= 0)]
    for some in wanted.split(FEATURES) if len(wanted) else ():
        places = nodes.example[some], nodes.pos[some]
        rows = _scaled(coder.encoder_rows(read[places], nodes.index[some]), nodes.gradient[some])
        remainder = _added(remainder, places, -rows)
        mine = slot[some] >= 0
        direct[slot[some][mine]] = rows[mine]
    return direct, remainder


def _scaled(rows: Tensor, factors: Tensor) -> Tensor:
    return rows * factors.view(-1, *[1] * (rows.dim() - 1))


def _added(total: Tensor, places: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
    """`total` with `rows` added at (example, position): many times faster than an accumulating index_put."""
    example, pos = places
    return total.flatten(0, 1).index_add(0, example * total.shape[1] + pos, rows).view(total.shape)


class _Sources:
    """The nodes that edges start from, with what one unit of each writes, site by site as they are needed."""

    def __init__(self, clean: Trace, nodes: NodeScores, keep: Tensor):
        self.clean, self.nodes, self.keep = clean, nodes, keep
        self._of: dict[int, tuple[Tensor, Tensor, list[tuple[int, int, slice]]]] = {}
        self._sites = nodes.site[keep & (nodes.delta != 0)].unique().tolist()

    def before(self, s: int) -> list[int]:
        """The sites before site `s` that have sources."""
        return [t for t in self._sites if t < s]

    def of(self, s: int) -> tuple[Tensor, Tensor, list[tuple[int, int, slice]]]:
        """Rows of site `s`, their directions times `Δ`, and for each (example, position) the slice of them there."""
        if s not in self._of:
            nodes = self.nodes
            rows = (self.keep & (nodes.site == s) & (nodes.delta != 0)).nonzero()[:, 0]
            moved = directions(self.clean, nodes, s, rows).flatten(1) * nodes.delta[rows, None]
            places = torch.stack([nodes.example[rows], nodes.pos[rows]], 1)
            cells, sizes = torch.unique_consecutive(places, dim=0, return_counts=True)
            ends = sizes.cumsum(0).tolist()
            at = zip(cells.tolist(), ends, sizes.tolist(), strict=True)
            self._of[s] = rows, moved, [(b, p, slice(end - size, end)) for (b, p), end, size in at]
        return self._of[s]


def _pull(
    clean: Trace, sources: _Sources, batch: Batch, s: int, rest: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Carry cotangents back to the cuts before site `s` and contract them with the nodes there: source, target, weight.

    What goes to targets left out is added to `rest`.
    """
    targets, outputs, cotangents = batch
    joined = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not joined or not len(targets):
        return
    source_sites = sources.before(s)
    if not source_sites:
        return
    leaves = [clean.sites[t].leaf for t in source_sites]
    outputs, cotangents = (list(column) for column in zip(*joined, strict=True))
    pulled = torch.autograd.grad(
        outputs, leaves, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    for source_site, gradient in zip(source_sites, pulled, strict=True):
        if gradient is None:  # another cut lies between: no direct effect
            continue
        rows, moved, cells = sources.of(source_site)
        for b, p, here in cells:
            weight = gradient[:, b, p].flatten(1) @ moved[here].T
            k, n = ((weight != 0) & (targets[:, b, None] >= 0)).nonzero(as_tuple=True)
            rest[rows[here]] += weight[targets[:, b] == THE_REST].sum(0)
            yield rows[here][n], targets[k, b], weight[k, n]
