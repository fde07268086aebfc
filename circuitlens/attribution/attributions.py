"""A batch of prompts to its attributions, by any method: the runs, the scores, and the checks of both."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitlens.adapter import Adapter, agree
from circuitlens.attribution.base import Gaps, Runs, Steps
from circuitlens.attribution.methods import METHODS, make_method
from circuitlens.attribution.scores import EdgeScores, NodeScores, conservation_residual
from circuitlens.errors import AdapterError, PromptError
from circuitlens.literals import MethodName
from circuitlens.progress import Progress
from circuitlens.prompts.batch import PromptBatch
from circuitlens.tracing import Trace, trace

log = logging.getLogger(__name__)

ROUNDING = 1e4
"""How many units of rounding (eps of the dtype, relative to the largest attribution) conservation may be off by."""

NORMS = 1e-5
"""The same share in any dtype: models compute their norms in float32 at best, also where the rest is float64."""

COARSE = 0.05
"""The share of the largest attribution that it may never be off by more than, however coarse the dtype."""


@dataclass(frozen=True)
class Attributions:
    """A batch of prompts with its node scores by a method.

    `corrupted` is the run of the corrupted prompts, where there are any, whether or not the method measures from it.
    `gaps[b, s]` is the completeness gap of site `s` (0 where the method has none).
    """

    method: MethodName
    batch: PromptBatch
    runs: Runs
    corrupted: Trace | None
    nodes: NodeScores
    gaps: Gaps


def attribute_nodes(
    adapter: Adapter, batch: PromptBatch, method: MethodName, frozen: bool = False, progress: Progress | None = None
) -> Attributions:
    """Score every node of a batch of prompts (`exact` as `ig`, until it is known which nodes are kept).

    Raises:
        AdapterError: the metric or the gradients are not finite.
        PromptError: the metric has no gradient.
    """
    progress = progress or Progress()
    rules = adapter.relevance() if METHODS[method].rules else None
    clean = trace(adapter, batch.clean, batch.metric, frozen=frozen, rules=rules)
    progress.step("clean run")
    corrupted = None
    if batch.corrupted is not None:
        corrupted = trace(adapter, batch.corrupted, batch.metric, graph=rules is not None, rules=rules)
    progress.step("corrupted run")
    _check_metric(batch.metric.name, clean, corrupted)
    _check_run(adapter, clean)
    runs = Runs(adapter, clean, None if METHODS[method].baseline == "zero" else corrupted)
    nodes, gaps = make_method(method).nodes(runs, progress)
    if not torch.isfinite(nodes.attribution).all():
        raise AdapterError("The model's gradients are not finite, so no circuit can be made of them.")
    if gaps is None:
        gaps = clean.metric.new_zeros(len(clean.metric), len(clean.sites))
    return Attributions(method, batch, runs, corrupted, nodes, gaps)


def measured_attribution(
    found: Attributions, keep: Bool[Tensor, " node"], progress: Progress | None = None
) -> Float[Tensor, " node"]:
    """The attributions, with those of the kept nodes measured where the method does."""
    return make_method(found.method).measured(found.runs, found.nodes, keep, progress or Progress())


def attribute_edges(
    found: Attributions, keep: Bool[Tensor, " node"], progress: Progress | None = None
) -> tuple[EdgeScores, float]:
    """The edges between the kept nodes, and the conservation residual.

    Raises:
        AdapterError: the gradients are not finite.
    """
    nodes = found.nodes
    edges = make_method(found.method).edges(found.runs, nodes, keep, progress or Progress())
    if not torch.isfinite(edges.weight).all():
        raise AdapterError("The model's gradients are not finite, so no circuit can be made of them.")
    residual = conservation_residual(nodes, edges, keep)
    largest = nodes.attribution.abs().max().item() if len(nodes.attribution) else 0.0
    dtype = found.runs.clean.logits.dtype
    rounding = max(ROUNDING * torch.finfo(dtype).eps, NORMS)
    if residual > min(rounding, COARSE) * largest:
        log.warning(
            "Attributions are not conserved: a node and its edges differ by %.1e, with attributions up to %.1e."
            " A coder's rows may not be its derivatives, or %s is too coarse.",
            residual,
            largest,
            dtype,
        )
    return edges, residual


def steps_of_batch(adapter: Adapter, method: MethodName) -> Steps:
    """How many steps of progress a batch is; its two runs count to its nodes."""
    steps = make_method(method).steps(len(adapter.sites))
    return steps._replace(nodes=2 + steps.nodes)


def _check_run(adapter: Adapter, clean: Trace) -> None:
    """Raise AdapterError where the cut (or frozen) run is not the model's own."""
    with torch.no_grad():
        plain = adapter.last_logits(clean.inputs, {})
    if not agree(clean.logits.detach(), plain):
        off = (clean.logits.detach() - plain).abs().max().item()
        raise AdapterError(
            f"With hooks at the sites of adapter {adapter.name!r} its model gives other logits than without: they "
            f"differ by up to {off:.2g}, of {plain.abs().max().item():.2g}. It may answer otherwise from run to "
            "run (dropout: call model.eval(); a hook of yours), or go another way where there are hooks."
        )


def _check_metric(name: str, clean: Trace, corrupted: Trace | None) -> None:
    for values in (clean.metric, clean.metric if corrupted is None else corrupted.metric):
        if not torch.isfinite(values).all():
            bad = values[~torch.isfinite(values)][0].item()
            raise AdapterError(
                f"The metric {name!r} is not finite ({bad}), so nothing can be attributed "
                "to it. The model's logits overflow, or the metric divides by 0."
            )
    if not clean.metric.requires_grad:
        raise PromptError(
            f"The metric {name!r} has no gradient in the logits, so nothing can be attributed to "
            "it: give a differentiable function, without argmax, rounding or constants."
        )
