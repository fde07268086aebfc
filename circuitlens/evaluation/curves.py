"""Faithfulness by the number of nodes kept, and what a curve of it adds up to.

CPR and CMD are the area under the curve of faithfulness over the share of nodes kept, and between it and 1 (MIB,
Mueller et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    on_run: Callable[[], object] = lambda: None,
) -> Curve:
    """Faithfulness, with errors and without, and completeness of the first `counts` of the `ranked` nodes.

    `controls` are random circuits, by the count that they are set beside.

    Raises:
        PromptError: all nodes and none give the same metric.
    """
    keep, without = sub_circuits(runs, ranked, counts)
    kept, removed = (runs.faithfulness(runs(variants, False, on_run)) for variants in (keep, without))
    left = runs.faithfulness(runs(~keep, True, on_run))
    points = []
    for number, count in enumerate(counts):
        random = None
        if controls and count in controls:
            random = interval(runs.faithfulness(runs(controls[count], False, on_run)))
        points.append(
            Point(
                nodes=count,
                faithfulness=kept[number],
                errors_removed=removed[number],
                completeness=left[number],
                random=random,
            )
        )
    cpr, cmd = areas([0, *counts], [0.0, *kept])
    return Curve(
        prompts=prompts,
        pairs=runs.full_model.numel(),
        ablation=runs.ablation,
        whole=runs.full_model.mean().item(),
        none=runs.empty_circuit.mean().item(),
        points=tuple(points),
        cpr=cpr,
        cmd=cmd,
    )


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
