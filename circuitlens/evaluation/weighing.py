"""Edges of a circuit weighed again by path patching, on the prompts whose edges were scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.attributions import attribute_nodes
from circuitlens.attribution.node_index import NodeIndex
from circuitlens.attribution.path_patching import SMALL
from circuitlens.attribution.sums import KeyedSums
from circuitlens.attribution.weighed_sums import StrongestEdges, weighed_sums
from circuitlens.literals import MethodName, MetricName
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score

Ends = tuple[str, str]
"""An edge by the ids of its source and its target."""

Weights = Mapping[Ends, tuple[float, float | None]]
"""The mean weight of each edge and its standard error, None of one prompt."""


@dataclass
class Weigher:
    """What weighs edges between nodes on some prompts; it keeps what it weighed.

    The nodes are `kept`, sorted numbers, and `names` says at which place there each id is. `method` gives the changes;
    its gradients do not count.
    """

    adapter: Adapter
    index: NodeIndex
    kept: Int[Tensor, " kept"]
    names: Mapping[str, int]
    prompts: tuple[PromptSet, ...]
    metric: MetricName | Score
    method: MethodName
    _known: dict[tuple[int, bool], dict[Ends, tuple[float, float | None]]] = field(default_factory=dict)

    def __call__(self, edges: Sequence[Ends], estimates: Weights, to_the_end: bool, most: int | None = None) -> Weights:
        """The weights of these edges, each target moved for real if `to_the_end`, and else where it is not small.

        `most` prompts are used, at least one.
        """
        parts = self.prompts
        if most is not None:
            count = next((n for n in range(1, len(parts)) if sum(map(len, parts[: n + 1])) > most), len(parts))
            parts = parts[:count]
        known = self._known.setdefault((len(parts), to_the_end), {})
        # An edge between what is no node of the model is not there.
        new = [ends for ends in edges if ends not in known and ends[0] in self.names and ends[1] in self.names]
        if new:
            known.update(self._weighed(new, estimates, to_the_end, parts))
        return {ends: known[ends] for ends in edges if ends in known}

    def _weighed(
        self, edges: Sequence[Ends], estimates: Weights, to_the_end: bool, parts: Sequence[PromptSet]
    ) -> Weights:
        keys = {self.names[u] * len(self.kept) + self.names[d]: (u, d) for u, d in edges}
        ordered = sorted(keys)
        estimate = torch.tensor([estimates.get(keys[key], (0.0, None))[0] for key in ordered])
        small = torch.full((len(ordered),), 0.0 if to_the_end else SMALL)
        wanted, sums = StrongestEdges(torch.tensor(ordered), estimate, small), KeyedSums.empty(2)
        for part in parts:
            found = attribute_nodes(self.adapter, tokenize_pairs(self.adapter, part.pairs, self.metric), self.method)
            sums = sums.merged(weighed_sums(self.index, part, found, self.kept, wanted))
        prompts = sum(map(len, parts))
        errors = dict(zip(sums.keys.tolist(), sums.errors(0, prompts), strict=True))
        means = (sums.at(wanted.keys)[:, 0] / prompts).tolist()
        return {keys[key]: (mean, errors.get(key)) for key, mean in zip(ordered, means, strict=True)}
