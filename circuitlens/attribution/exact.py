"""Exact effects: what the metric really does when one node is set to its baseline in the clean run.

The yardstick of every estimate. Each of the kept nodes is set, by itself, to its value in the corrupted run (or to
zero), and everything downstream is computed anew. Which nodes are kept is decided by integrated gradients, which also
give the edges.

A decoder is affine, so setting one node to its baseline takes `Δ · direction` out of the stream at its site: what
`edits` would make of it, without a coder. Cost: that of integrated gradients, and one forward of the bare model a node.
Runs are batched: each row of a run carries a node of an example.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.base import Runs, Steps
from circuitlens.attribution.integrated import IntegratedGradients
from circuitlens.attribution.nodes import directions, scaled
from circuitlens.attribution.scores import NodeScores
from circuitlens.edits import own_tokens
from circuitlens.progress import Progress
from circuitlens.runs import rows_at_once, run_patched
from circuitlens.tracing import Trace

POSITIONS = 2048
"""Rows × positions of one run, if more than one row."""


class Exact(IntegratedGradients):
    """Integrated gradients whose kept nodes are then measured."""

    def measured(
        self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress
    ) -> Float[Tensor, " node"]:
        """The attributions, with those of the kept nodes replaced by their exact effects.

        With a baseline of zero nothing is done at a token that the adapter puts before a prompt, as in every ablation:
        the effect there is 0.
        """
        own = runs.clean.inputs.mask if runs.baseline is not None else own_tokens(runs.adapter, runs.clean.inputs)
        free = own[nodes.example, nodes.pos] | nodes.is_logit
        rows = (keep & free).nonzero()[:, 0]
        effects = exact_effects(runs, nodes, rows, progress)
        progress.step("patching")
        return nodes.attribution.masked_fill(keep & ~free, 0).index_copy(0, rows, effects)

    def steps(self, sites: int) -> Steps:
        """Measuring is one more."""
        return super().steps(sites)._replace(measured=1)


def exact_effects(
    runs: Runs, nodes: NodeScores, rows: Int[Tensor, " row"], progress: Progress | None = None
) -> Float[Tensor, " row"]:
    """How far the metric falls when each node in `rows` alone is set to its baseline: the node's exact attribution.

    Logit nodes move nothing upstream, and keep their attribution.
    """
    effects = nodes.attribution[rows].clone()
    clean = runs.clean
    for s in range(len(clean.sites)):
        here = (nodes.site[rows] == s).nonzero()[:, 0]
        for now in here.split(rows_at_once(clean.inputs, POSITIONS)) if len(here) else ():
            chosen = rows[now]
            moved = -scaled(directions(clean, nodes, s, chosen), nodes.delta[chosen])
            effects[now] = falls(runs.adapter, clean, s, (nodes.example[chosen], nodes.pos[chosen]), moved)
            if progress is not None:
                progress.step("patching", 0)  # the longest stage: it may be ended between its runs
    return effects


def falls(
    adapter: Adapter,
    run: Trace,
    s: int,
    places: tuple[Int[Tensor, " change"], Int[Tensor, " change"]],
    change: Float[Tensor, "change ..."],
) -> Float[Tensor, " change"]:
    """How far the metric falls when each change alone is added to what site `s` writes at its (example, position)."""
    example, pos = places
    at = torch.arange(len(example), device=pos.device), pos
    with torch.no_grad():
        inputs, patch = run.inputs.chosen(example), lambda x: x.index_put(at, (x[at] + change).to(x.dtype))
        logits = run_patched(adapter, inputs, run.sites[s].site, patch, seen=run, example=example)
        return run.metric.detach()[example] - run.scored_by.chosen(example)(logits)
