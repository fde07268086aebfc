"""The attribution methods behind one argument: what is asked of a batch of prompts, to node and edge scores.

`gradient`: Δ from zero times the gradient at the clean run. `contrastive`: the same with Δ from the corrupted run.
`ig`: integrated gradients between the two (`integration`). `exact`: each of the strongest nodes by `ig` is set to its
baseline for real (`patching`); its edges are those of `ig`. The last two go from zero where there is no corrupted run.

Cost of the nodes: one forward and backward; `ig` eight a site; `exact` one more forward a node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.exact import exact_effects
from circuitlens.attribution.gradient import EdgeScores, NodeScores, conservation_residual, score_edges, score_nodes
from circuitlens.attribution.integrated import integrated_edges, integrated_gradients
from circuitlens.errors import AdapterError, PromptError
from circuitlens.literals import MethodName
from circuitlens.prompts.batch import PromptBatch
from circuitlens.tracing import Trace, trace

log = logging.getLogger(__name__)

DEFAULT: MethodName = "ig"
"""The method where there is a corrupted prompt and none is asked for: the README shows the evidence for it."""

ROUNDING = 1e4
"""How many units of rounding (eps of the dtype, relative to the largest attribution) conservation may be off by."""

COARSE = 0.05
"""The share of the largest attribution that it may be off by in any dtype."""

Progress = Callable[[str], None]
"""Told the name of each stage when it is done."""


@dataclass(frozen=True)
class Scored:
    """A batch of prompts with its node scores.

    `attribution[n]` is that of node `n` by the method; `gaps[b, s]` the completeness gap of site `s` (0 where the
    method has none).
    """

    question: PromptBatch
    clean: Trace
    corrupted: Trace | None
    nodes: NodeScores
    attribution: Float[Tensor, " node"]
    gaps: Float[Tensor, "batch site"]


def check_method(method: str | None, corrupted: bool, frozen: bool = False) -> MethodName:
    """The method to use, by default `ig` where there are corrupted prompts, else `gradient`.

    Raises:
        PromptError: there is no such method, or it does not go with what is given.
    """
    method = method or (DEFAULT if corrupted and not frozen else "contrastive" if corrupted else "gradient")
    if method not in get_args(MethodName):
        raise PromptError(f"There is no method {method!r}: choose one of {', '.join(get_args(MethodName))}.")
    if method == "contrastive" and not corrupted:
        raise PromptError("The method 'contrastive' compares with a corrupted prompt: give one, or use 'gradient'.")
    if frozen and method not in ("gradient", "contrastive"):
        raise PromptError(
            f"The method {method!r} measures the model as it is, and frozen mode holds parts of it: leave frozen out, "
            "or use 'gradient' or 'contrastive'."
        )
    return method  # pyright: ignore[reportReturnType]


def score(
    adapter: Adapter,
    question: PromptBatch,
    method: MethodName,
    frozen: bool = False,
    progress: Progress = lambda _: None,
) -> Scored:
    """Score every node of a batch of prompts; `exact` begins as `ig`, and `measured` replaces what is kept.

    Raises:
        AdapterError: the metric or the gradients are not finite.
        PromptError: the metric has no gradient.
    """
    clean = trace(adapter, question.clean, question.metric, frozen=frozen)
    progress("clean run")
    other = None
    if question.corrupted is not None:
        other = trace(adapter, question.corrupted, question.metric, graph=False)
    progress("corrupted run")
    for values in (clean.metric, clean.metric if other is None else other.metric):
        if not torch.isfinite(values).all():
            bad = values[~torch.isfinite(values)][0].item()
            raise AdapterError(
                f"The metric {question.metric.name!r} is not finite ({bad}), so nothing can be attributed "
                "to it. The model's logits overflow, or the metric divides by 0."
            )
    if not clean.metric.requires_grad:
        raise PromptError(
            f"The metric {question.metric.name!r} has no gradient in the logits, so nothing can be attributed to "
            "it: give a differentiable function, without argmax, rounding or constants."
        )
    gaps = clean.metric.new_zeros(len(clean.metric), len(clean.sites))
    if method in ("gradient", "contrastive"):
        nodes = score_nodes(clean, other if method == "contrastive" else None)
        progress("nodes")
    else:
        nodes, gaps = integrated_gradients(adapter, clean, other, on_site=lambda: progress("nodes"))
    if not torch.isfinite(nodes.attribution).all():
        raise AdapterError("The model's gradients are not finite, so no circuit can be made of them.")
    return Scored(question, clean, other, nodes, nodes.attribution, gaps)


def measured(
    adapter: Adapter, scored: Scored, keep: Bool[Tensor, " node"], on_run: Callable[[int], None] = lambda _: None
) -> Float[Tensor, " node"]:
    """The attributions, with those of the kept nodes replaced by their exact effects."""
    rows = keep.nonzero()[:, 0]
    return scored.attribution.index_copy(0, rows, exact_effects(adapter, scored.clean, scored.nodes, rows, on_run))


def connect(
    adapter: Adapter,
    scored: Scored,
    method: MethodName,
    keep: Bool[Tensor, " node"],
    progress: Progress = lambda _: None,
) -> tuple[EdgeScores, float]:
    """The edges between the kept nodes, and the conservation residual.

    Raises:
        AdapterError: the gradients are not finite.
    """

    def on_site() -> None:
        progress("edges")

    if method in ("gradient", "contrastive"):
        edges = score_edges(scored.clean, scored.nodes, keep, on_site)
    else:
        edges = integrated_edges(adapter, scored.clean, scored.corrupted, scored.nodes, keep, on_site=on_site)
    if not torch.isfinite(edges.weight).all():
        raise AdapterError("The model's gradients are not finite, so no circuit can be made of them.")
    residual = conservation_residual(scored.nodes, edges, keep)
    largest = scored.nodes.attribution.abs().max().item() if len(scored.nodes.attribution) else 0.0
    if residual > min(ROUNDING * torch.finfo(scored.nodes.delta.dtype).eps, COARSE) * largest:
        log.warning(
            "Attributions are not conserved: a node and its edges differ by %.1e, with attributions up to %.1e."
            " A coder's rows may not be its derivatives, or %s is too coarse.",
            residual,
            largest,
            scored.nodes.delta.dtype,
        )
    return edges, residual


def stages(adapter: Adapter, method: MethodName) -> int:
    """How many stages `score` and `connect` report together."""
    sites = len(adapter.sites)
    return 2 + 1 + sites if method in ("gradient", "contrastive") else 2 + sites + sites


def strongest(nodes: NodeScores, attribution: Float[Tensor, " node"], count: int | None) -> Bool[Tensor, " node"]:
    """Marks the `count` nodes of largest |attribution|, and all logit nodes; every node for None."""
    logits = nodes.site == len(nodes.totals)
    if count is None or count >= int((~logits).sum()):
        return torch.ones_like(logits)
    order = attribution.abs().masked_fill(logits, -1).argsort(descending=True, stable=True)[:count]
    return logits.index_put((order,), torch.ones_like(order, dtype=torch.bool))
