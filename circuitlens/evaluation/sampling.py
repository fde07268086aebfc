"""What a verification draws by its seed: prompts, and random circuits to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuitlens.circuit import Node
from circuitlens.prompts.alignment import PromptSet


def sample_prompts(prompts: PromptSet, count: int, seed: int) -> PromptSet:
    """At most `count` of the prompts, in their order."""
    if len(prompts) <= count:
        return prompts
    chosen = sorted(np.random.default_rng(seed).choice(len(prompts), count, replace=False).tolist())
    pairs, groups = (tuple(column[n] for n in chosen) for column in (prompts.pairs, prompts.groups))
    return replace(prompts, pairs=pairs, groups=groups)


def random_circuits(
    nodes: Sequence[Node], own: Bool[Tensor, " node"], draws: int, random: torch.Generator
) -> Bool[Tensor, "draw node"]:
    """Random circuits among active nodes, each with as many nodes of every site and kind as the circuit `own` has.

    None is the circuit itself, unless there is no other.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, node in enumerate(nodes):
        groups.setdefault((node.hook, node.kind), []).append(number)
    places = [torch.tensor(members) for _, members in sorted(groups.items())]
    sizes = [int(own[members].sum()) for members in places]
    others = any(0 < size < len(members) for size, members in zip(sizes, places, strict=True))
    keep = own.new_zeros(draws, len(nodes))
    for row in keep:
        while not row.any() or (others and torch.equal(row, own)):
            row[:] = False
            for size, members in zip(sizes, places, strict=True):
                row[members[torch.randperm(len(members), generator=random)[:size]]] = True
    return keep
