"""Faithfulness by the number of nodes kept, what a curve of it adds up to, and random circuits to set beside it.

CPR and CMD are the area under the curve of faithfulness over the share of nodes kept, and between it and 1 (MIB,
Mueller et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuitlens.circuit import Node
from circuitlens.circuit.evidence import Curve, Interval, Point
from circuitlens.evaluation.faithfulness import AblationRuns


def sub_circuits(runs: AblationRuns, ranked: Sequence[Node], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which of `runs.nodes` the first `counts` of `ranked` are, with their errors and without, `[count, node]` each."""
    place = {node.id: number for number, node in enumerate(runs.nodes)}
    keep = torch.zeros(len(counts), len(runs.nodes), dtype=torch.bool)
    for row, count in zip(keep, counts, strict=True):
        row[[place[node.id] for node in ranked[:count]]] = True
    errors = torch.tensor([node.kind == "error" for node in runs.nodes], dtype=torch.bool)
    return keep, keep & ~errors


def curve(
    runs: AblationRuns,
    ranked: Sequence[Node],
    counts: Sequence[int],
    prompts: str,
    controls: dict[int, Bool[Tensor, "draw node"]] | None = None,
) -> Curve:
    """Faithfulness, with errors and without, and completeness of the first `counts` of the `ranked` nodes.

    `controls` are random circuits, by the count that they are set beside. Raises PromptError where all nodes and none
    give the same metric.
    """
    keep, without = sub_circuits(runs, ranked, counts)
    kept, removed = (runs.faithfulness(runs(variants, False)) for variants in (keep, without))
    left = runs.faithfulness(runs(~keep, True))
    random = {n: interval(runs.faithfulness(runs(drawn, False))) for n, drawn in (controls or {}).items()}
    points = tuple(
        Point(nodes=n, faithfulness=f, errors_removed=r, completeness=c, random=random.get(n))
        for n, f, r, c in zip(counts, kept, removed, left, strict=True)
    )
    cpr, cmd = areas([0, *counts], [0.0, *kept])
    return Curve(
        prompts=prompts,
        pairs=runs.full_model.numel(),
        ablation=runs.ablation,
        whole=runs.full_model.mean().item(),
        none=runs.empty_circuit.mean().item(),
        points=points,
        cpr=cpr,
        cmd=cmd,
    )


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


def areas(counts: Sequence[int], faithfulness: Sequence[float]) -> tuple[float, float]:
    """CPR and CMD: the area under the faithfulness and between it and 1, over the share of the largest count."""
    share = np.asarray(counts, float) / max(counts[-1], 1)
    values = np.asarray(faithfulness)
    return float(np.trapezoid(values, share)), float(np.trapezoid(np.abs(1 - values), share))


def interval(values: Sequence[float]) -> Interval:
    """Mean and middle 95 % of some draws."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(mean=float(np.mean(values)), low=float(low), high=float(high))


def node_counts(most: int) -> list[int]:
    """Node counts of a curve, up to all: 1, 2, 3, 5, 10, 20, 50, 100, …"""
    steps = [count * 10**power for power in range(9) for count in ((1, 2, 3, 5) if power == 0 else (1, 2, 5))]
    return [count for count in steps if count < most] + [most]
