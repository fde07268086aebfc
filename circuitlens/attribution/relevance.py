"""Relevance propagation, as relevance patching (Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery via
Relevance Patching"): change × gradient, with rules in the place of those derivatives that mislead.

A gradient says what the next bit of a change does, and where the model has saturated that is not what the whole does.
The rules of layer-wise relevance propagation take each nonlinearity for the line from zero through where it stands:

1. norms divide by a constant, and attention patterns are constants;
2. an activation function has the slope `act(x) / x` (0 at 0);
3. a gated one is a product, `act(x) · y`, and each of its two factors gets half of what a product's derivative gives
   it: the slopes `act(x) · y / 2x` and `act(x) / 2`.

The forward is the model's own to the bit. Everything else is as for gradients: the runs are cut at the sites, a node's
edges sum to its attribution. Slopes are those of one run, so nodes and edges are the mean of what the clean run's and
the corrupted run's say.

Cost: two forwards and two backwards for the nodes; twice the edges' products of `contrastive`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitlens.attribution.base import AttributionMethod, Runs, Steps
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import gradient_at_logits, score_nodes
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.progress import Progress
from circuitlens.tracing import Trace, total_gradients


class RelevancePropagation(AttributionMethod):
    """The change times the mean of both runs' gradients by the rules."""

    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, None]:
        """A backward of each run."""
        clean, corrupted = _ends(runs)
        totals = [(a + b) / 2 for a, b in zip(total_gradients(clean), total_gradients(corrupted), strict=True)]
        at_logits = (gradient_at_logits(clean) + gradient_at_logits(corrupted)) / 2
        scores = score_nodes(clean, corrupted, totals, at_logits)
        progress.step("nodes")
        return scores, None

    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects in both runs, half of each."""
        clean, corrupted = _ends(runs)
        halves = [
            score_edges(run, _as_in(run, other, nodes), keep, lambda: progress.step("edges"), directed_by=clean)
            for run, other in ((clean, corrupted), (corrupted, clean))
        ]
        count = len(nodes.site)
        pairs = torch.cat([half.source * count + half.target for half in halves])
        key, place = pairs.unique(return_inverse=True)
        weights = torch.cat([half.weight for half in halves]) / 2
        weight = weights.new_zeros(len(key)).index_add(0, place, weights)
        return EdgeScores(key // count, key % count, weight, (halves[0].rest + halves[1].rest) / 2)

    def steps(self, sites: int) -> Steps:
        """The nodes are one, the edges one a site and run."""
        return Steps(nodes=1, measured=0, edges=2 * sites)


def _ends(runs: Runs) -> tuple[Trace, Trace]:
    assert runs.baseline is not None, "it needs a corrupted prompt"
    return runs.clean, runs.baseline


def _as_in(run: Trace, other: Trace, nodes: NodeScores) -> NodeScores:
    """The nodes with the activations and gradients that they have in one of the two runs."""
    there, inner = score_nodes(run, other), ~nodes.is_logit
    activation, gradient = nodes.activation.clone(), nodes.gradient.clone()
    activation[inner], gradient[inner] = there.activation[~there.is_logit], there.gradient[~there.is_logit]
    named = nodes.is_logit & (nodes.index != VECTOR)
    gradient[named] = there.logit_gradient[nodes.example[named], nodes.index[named]]
    return replace(
        nodes, activation=activation, gradient=gradient, totals=there.totals, logit_gradient=there.logit_gradient
    )
