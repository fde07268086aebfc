"""Exact effects: what the metric really does when one node is set to its baseline in the clean run.

The yardstick of every estimate. A decoder is affine, so setting a node to its baseline takes `Δ · direction` out of the
stream at its site; everything downstream is computed anew. Runs are batched: row `k` of a run carries the `k`-th node
of every example.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.gradient import NodeScores, directions
from circuitlens.tracing import Trace, run_patched

POSITIONS = 2048
"""Rows × examples × positions of one run, if more than one row."""


def exact_effects(
    adapter: Adapter,
    clean: Trace,
    nodes: NodeScores,
    rows: Int[Tensor, " row"],
    on_run: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, " row"]:
    """How far the metric falls when each node in `rows` alone is set to its baseline: the node's exact attribution.

    Logit nodes move nothing upstream, and keep their attribution. `on_run` is told how many nodes each run did.
    """
    effects = nodes.attribution[rows].clone()
    batch = len(clean.metric)
    most = max(1, POSITIONS // clean.inputs.mask.numel())
    for s, site in enumerate(clean.sites):
        here = (nodes.site[rows] == s).nonzero()[:, 0]
        if not len(here):
            continue
        example = nodes.example[rows[here]]
        rank = torch.zeros_like(here)
        for b in example.unique():
            mine = example == b
            rank[mine] = torch.arange(int(mine.sum()), device=rank.device)
        for start in range(0, int(rank.max()) + 1, most):
            now = here[(rank >= start) & (rank < start + most)]
            chosen, row = rows[now], rank[(rank >= start) & (rank < start + most)] - start
            times = int(row.max()) + 1
            moved = directions(clean, nodes, s, chosen)
            moved = moved * nodes.delta[chosen].view(-1, *[1] * (moved.dim() - 1))
            at = row * batch + nodes.example[chosen], nodes.pos[chosen]

            def patch(x: Tensor, at: tuple[Tensor, Tensor] = at, moved: Tensor = moved) -> Tensor:
                return x.index_put(at, x[at] - moved)

            with torch.no_grad():
                logits = run_patched(adapter, clean.inputs.repeated(times), site.site, patch)
                after = clean.scored_by.repeated(times)(logits)
            effects[now] = clean.metric.detach()[nodes.example[chosen]] - after[at[0]]
            on_run(len(now))
    return effects
