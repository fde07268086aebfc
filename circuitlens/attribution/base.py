"""What an attribution method is: its nodes, its edges, and how many steps of work they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.progress import Progress
from circuitlens.tracing import Trace

Gaps = Float[Tensor, "batch site"]
"""What each site's nodes miss of the metric's change (completeness), in units of the metric."""


@dataclass(frozen=True)
class Runs:
    """The runs of a batch of prompts that a method works on.

    `clean` is cut at its sites and has its graph; `baseline`, of values only, is the run that change is measured from,
    None for zero.
    """

    adapter: Adapter
    clean: Trace
    baseline: Trace | None


class Steps(NamedTuple):
    """Steps of progress: of scoring the nodes, of measuring those that are kept, and of the edges."""

    nodes: int
    measured: int
    edges: int


class AttributionMethod(ABC):
    """A way to score nodes and the edges between them."""

    @abstractmethod
    def nodes(self, runs: Runs, progress: Progress) -> tuple[NodeScores, Gaps | None]:
        """Every node's scores, and the completeness gaps of a method that has them."""

    @abstractmethod
    def edges(self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress) -> EdgeScores:
        """The direct effects between the nodes that `keep` marks."""

    def measured(
        self, runs: Runs, nodes: NodeScores, keep: Bool[Tensor, " node"], progress: Progress
    ) -> Float[Tensor, " node"]:
        """The attributions once it is known which nodes are kept; only a method that measures those changes them."""
        return nodes.attribution

    @abstractmethod
    def steps(self, sites: int) -> Steps:
        """How many steps of progress there are with so many sites."""
