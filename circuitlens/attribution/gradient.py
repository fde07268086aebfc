"""Gradient × activation at the clean run: the change from zero (`gradient`) or from the corrupted run (`contrastive`).

Cost: one forward and backward for the nodes; the edges' products (see `edges`).
"""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from circuitlens.attribution.base import AttributionMethod, Runs, Steps
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.progress import Progress


class Gradient(AttributionMethod):
    """The change times the gradient at the clean run."""

    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, None]:
        """One backward."""
        scores = score_nodes(runs.clean, runs.baseline)
        progress.step("nodes")
        return scores, None

    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects at the clean run."""
        return score_edges(runs.clean, nodes, keep, lambda: progress.step("edges"))

    def steps(self, sites: int) -> Steps:
        """The nodes are one, the edges one a site."""
        return Steps(nodes=1, measured=0, edges=sites)
