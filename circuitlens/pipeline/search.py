"""What is asked: prompts, how their circuit is to be found, and the batches and stages that this makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from circuitlens.adapter import Adapter
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.node_index import NodeIndex
from circuitlens.circuit.nodes import Fingerprint
from circuitlens.errors import PromptError
from circuitlens.fingerprint import fingerprint_of
from circuitlens.literals import MethodName, MetricName, StageName
from circuitlens.prompts.alignment import PromptSet
from circuitlens.prompts.batch import PromptBatch, Score
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import trace

BATCH = 16
"""Prompts to a batch."""


@dataclass(frozen=True)
class Search:
    """What is asked: prompts, the first of them as a batch, and how their circuit is to be found."""

    adapter: Adapter
    prompts: PromptSet
    example: PromptBatch
    method: MethodName
    metric: MetricName | Score | None
    frozen: bool
    max_nodes: int | None
    max_edges: int | None
    measured_edges: int
    batch_size: int = BATCH
    index: NodeIndex = field(init=False)

    def __post_init__(self) -> None:
        for name, count in (("max_nodes", self.max_nodes), ("max_edges", self.max_edges)):
            if count is not None and count < 0:
                raise PromptError(f"{name} is {count}: give a count of 0 or more, or None for all.")
        if self.measured_edges < 0:
            raise PromptError(f"measured_edges is {self.measured_edges}: give a count of 0 or more.")
        if self.measured_edges and self.frozen:
            raise PromptError(
                "measured_edges measures the model as it is, and frozen mode holds parts of it: leave one of them out."
            )
        named = torch.cat([self.example.metric.answers, self.example.metric.distractors], 1)
        outputs = max(2, int(named.max()) + 1)
        object.__setattr__(self, "index", NodeIndex.of(self.adapter, len(self.prompts.labels), outputs))

    @property
    def connects(self) -> bool:
        """Whether edges are asked for."""
        return self.max_edges != 0

    @cached_property
    def batches(self) -> tuple[PromptSet, ...]:
        """The prompts, those of like length together."""
        whole = self.prompts if len(self.prompts) <= self.batch_size else self.prompts.by_length()
        return tuple(whole.batches(self.batch_size))

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages that there are; each needs what the one before left."""
        again: tuple[StageName, ...] = ("edges",) if self.connects or METHODS[self.method].measures else ()
        weighing: tuple[StageName, ...] = ("weighing",) if self.connects and self.measured_edges else ()
        return ("nodes", *again, *weighing)

    def fingerprint(self) -> Fingerprint:
        """That of the adapter's weights, from a run of the first prompt."""
        with own_modes(gradients=False):
            return fingerprint_of(trace(self.adapter, self.example.clean, self.example.metric, graph=False))
