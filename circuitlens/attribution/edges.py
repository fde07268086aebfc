"""Edge scores: direct effects between nodes, by vector-Jacobian products that stop at the cuts.

With `Δ` the change asked about and `m` the metric,

    weight of edge `u → d` = ∂m/∂d · ∂d/∂u|direct · Δu, every other site's output held fixed.

The cotangent of a target feature is `∂m/∂d · ∂d/∂x`. An error `ε = x − dec(enc(x))` gets `∂m/∂ε` less what its
position's features take, so the targets of a site share out exactly `∂m/∂x` and a node's outgoing edges sum to its
attribution (conservation, checked every time). What a coder passes on beside its features (a skip connection, a layer
norm's mean and scale) counts among the error's. Where edges between some nodes only are asked for, one more product a
site carries all that the others take, so that the sum stays whole.

Cost: `targets / rows` batched products of one segment each. Independent examples share a product: row `k` carries the
`k`-th target of every example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import FEATURES, added, directions, named_logits, scaled
from circuitlens.attribution.scores import EdgeScores, NodeScores, ranks
from circuitlens.torch_modes import wide
from circuitlens.tracing import SiteTrace, Trace

ROWS = 64
"""Targets of one example to a batched vector-Jacobian product; more cost memory and save nothing."""

POSITIONS = 2048
"""Rows × examples × positions of a product, if more than one row: a long prompt takes fewer rows at a time instead of
more memory."""

STEEPEST = 4
"""The largest secant of a feature: beyond it, what is read is not what moved it."""

NOBODY, THE_REST = -1, -2
"""In a table of targets: a row that carries nothing for this example, and one that carries all targets left out."""

Batch = tuple[Tensor, list[Tensor], list[Tensor]]
"""`targets[k, b]`, the node that row `k` carries for example `b` (or nobody, or the rest), and the outputs and
cotangents of one batched vector-Jacobian product."""


def score_edges(
    clean: Trace,
    nodes: NodeScores,
    keep: Bool[Tensor, " node"] | None = None,
    on_site: Callable[[], None] = lambda: None,
    moved: Sequence[Float[Tensor, "batch pos ..."]] | None = None,
    directed_by: Trace | None = None,
) -> EdgeScores:
    """The direct effect of every node on every node of the next cuts; `nodes` are those scored on the same trace.

    With `keep`, between the nodes it marks only. `on_site` is called after each site whose targets are done. With
    `moved`, how far what each site reads went, a feature's derivative is its secant: `Δ` over what its row makes of it.
    What one unit of a source writes is that of the trace `directed_by`, where it is another one.
    """
    keep = torch.ones_like(nodes.site, dtype=torch.bool) if keep is None else keep
    sources = _Sources(directed_by or clean, nodes, keep)
    rest = torch.zeros_like(nodes.delta)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for s in range(1, len(clean.sites) + 1):
        chosen = (keep & (nodes.site == s)).nonzero()[:, 0]
        for batch in target_batches(clean, nodes, s, chosen, moved[s] if moved and s < len(moved) else None):
            parts.extend(_pull(clean, sources, batch, s, rest))
        on_site()
    if not parts:
        empty = nodes.site.new_zeros(0)
        return EdgeScores(empty, empty, nodes.delta.new_zeros(0), rest)
    source, target, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return EdgeScores(source, target, weight, rest)


def target_batches(
    clean: Trace, nodes: NodeScores, s: int, chosen: Tensor, moved: Tensor | None = None
) -> Iterator[Batch]:
    """The products that carry chosen targets of site `s`, or of the logits (`s` counts the sites), where all are."""
    if s == len(clean.sites):
        return _logit_batches(clean, nodes, chosen)
    return _site_batches(clean, nodes, s, chosen, moved)


def _site_batches(clean: Trace, nodes: NodeScores, s: int, chosen: Tensor, moved: Tensor | None) -> Iterator[Batch]:
    """Targets at site `s`: live features and vectors among the chosen, and all that the others take, as one."""
    site, vector = clean.sites[s], nodes.index == VECTOR
    here = nodes.site == s
    live = here & ~vector & (nodes.activation != 0) & (nodes.gradient != 0)
    features, vectors = chosen[live[chosen]], chosen[vector[chosen]]
    direct, remainder = _cotangents(site, nodes, live.nonzero()[:, 0], features, vectors, moved)
    at_vectors = nodes.example[vectors], nodes.pos[vectors]
    total = nodes.totals[s]
    left: tuple[Tensor, Tensor] | None = None
    if len(chosen) < int(here.sum()):
        on_read = torch.zeros_like(remainder).index_put(at_vectors, -remainder[at_vectors])
        on_read = added(on_read, (nodes.example[features], nodes.pos[features]), -direct)
        left = on_read, total.index_put(at_vectors, torch.zeros_like(total[at_vectors]))
    ordered = torch.cat([features, vectors])
    for now, row, targets in _packed(ordered, nodes, clean, with_rest=left is not None):
        b, p, n = nodes.example[ordered[now]], nodes.pos[ordered[now]], int(now[: len(features)].sum())
        on_read = direct.new_zeros(len(targets), *site.read.shape)
        on_read[row[:n], b[:n], p[:n]] = direct[now[: len(features)]]
        on_read[row[n:], b[n:], p[n:]] = remainder[b[n:], p[n:]]
        on_write = direct.new_zeros(len(targets), *site.write.shape)
        on_write[row[n:], b[n:], p[n:]] = total[b[n:], p[n:]]
        if left is not None and (targets[-1] == THE_REST).all():
            on_read[-1], on_write[-1] = left
        if site.read is site.write:
            yield targets, [site.write], [(on_read + on_write).to(site.write.dtype)]
        else:
            yield targets, [site.read, site.write], [on_read.to(site.read.dtype), on_write.to(site.write.dtype)]


def _logit_batches(clean: Trace, nodes: NodeScores, chosen: Tensor) -> Iterator[Batch]:
    """Targets among the logits."""
    others = nodes.logit_gradient.masked_fill(named_logits(clean), 0)
    complete = len(chosen) == int(nodes.is_logit.sum())
    assert complete, "logit nodes are never left out"
    for now, row, targets in _packed(chosen, nodes, clean, with_rest=False):
        logit = chosen[now]
        b, index = nodes.example[logit], nodes.index[logit]
        cotangent = others.new_zeros(len(targets), *clean.logits.shape)
        one = index != VECTOR
        cotangent[row[one], b[one], index[one]] = nodes.gradient[logit][one]
        cotangent[row[~one], b[~one]] = others[b[~one]]
        yield targets, [clean.logits], [cotangent.to(clean.logits.dtype)]


def _packed(
    chosen: Tensor, nodes: NodeScores, clean: Trace, *, with_rest: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Share target nodes out among products: which go now, the rows that carry them, and the table of targets.

    The rest of a site rides along as the last row of the first product.
    """
    example = nodes.example[chosen]
    rank = ranks(example)
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
    site: SiteTrace, nodes: NodeScores, live: Tensor, features: Tensor, vectors: Tensor, moved: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`∂m/∂d · ∂d/∂x` of each target feature, and what a target vector's error gets at the same place: minus the sum
    over all live features of its position, targets or not.
    """
    read, coder = site.read.detach(), site.site.coder
    direct, remainder = wide(read.new_zeros(len(features), *read.shape[2:])), wide(torch.zeros_like(read))
    if coder is None:
        return direct, remainder
    slot = torch.full_like(nodes.site, -1).index_put((features,), torch.arange(len(features), device=features.device))
    beside = torch.zeros(read.shape[:2], dtype=torch.bool, device=read.device)
    beside[nodes.example[vectors], nodes.pos[vectors]] = True
    wanted = live[beside[nodes.example[live], nodes.pos[live]] | (slot[live] >= 0)]
    for some in wanted.split(FEATURES) if len(wanted) else ():
        places = nodes.example[some], nodes.pos[some]
        rows, slope = wide(coder.encoder_rows(read[places], nodes.index[some])), nodes.gradient[some]
        if moved is not None:
            slope = slope * _secants(rows, moved[places], nodes.delta[some])
        rows = scaled(rows, slope)
        remainder = added(remainder, places, -rows)
        mine = slot[some] >= 0
        direct[slot[some][mine]] = rows[mine]
    return direct, remainder


def _secants(rows: Tensor, moved: Tensor, change: Tensor) -> Float[Tensor, " node"]:
    """How far each feature went over what its row makes of what it read; 1 where it was active all the time.

    A feature that others push out of a TopK can go far where its own row says nothing; then the error has it.
    """
    reach = (rows * moved).flatten(1).sum(1)
    secant = change / torch.where(reach == 0, torch.ones_like(reach), reach)
    return torch.where(reach == 0, torch.zeros_like(reach), secant.clamp(0, STEEPEST))


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
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for source_site, gradient in zip(source_sites, pulled, strict=True):
        if gradient is None:  # another cut lies between: no direct effect
            continue
        rows, moved, cells = sources.of(source_site)
        for b, p, here in cells:
            weight = wide(gradient[:, b, p]).flatten(1) @ moved[here].T
            k, n = ((weight != 0) & (targets[:, b, None] >= 0)).nonzero(as_tuple=True)
            rest[rows[here]] += weight[targets[:, b] == THE_REST].sum(0)
            found.append((rows[here][n], targets[k, b], weight[k, n]))
    if found:
        # In one piece: small ones that stay, between a product's large blocks, keep those from being used again.
        source, target, weight = (torch.cat(column) for column in zip(*found, strict=True))
        yield source, target, weight
