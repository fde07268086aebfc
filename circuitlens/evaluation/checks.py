"""The checks that a circuit is put to, in their order, and those of its decision and its core.

A check asks one question of what was measured, and answers with a figure and a sentence. Its docstring is its entry in
docs/evidence.md (`make docs` writes it there): the question, then what the figure and its thresholds mean. To add a
check, write its function here (or in `file_checks`, `edge_checks`) and name it in `CHECKS`.

What is judged is the circuit's core: the fewest of its strongest nodes that reach the wanted faithfulness.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import spearmanr

from circuitlens.circuit.evidence import Curve
from circuitlens.evaluation.curves import interval
from circuitlens.evaluation.definition import CheckDefinition, Finding, check
from circuitlens.evaluation.edge_checks import edges, path
from circuitlens.evaluation.file_checks import dictionary, intact, reconstruction, record, reproduced
from circuitlens.evaluation.measurements import Measurements, NotTestedError, closeness
from circuitlens.evaluation.task import TaskMeasure

# The decision


@check("task", (0.7, 0.9), decisive=True, optional=True)
def task(measured: Measurements) -> Finding:
    """Does the model do the task?

    The share of prompts on which it prefers the answer, and the distractor once the noun has the other number. Below
    0.7 there is little to explain; chance is 0.25 (0.5 where the prompts differ in anything else). Where the metric
    does not tell (a divergence), the logits of answer and distractor do.
    """
    measure = _task(measured)
    turned = measure.turned(measured.adapter, measured.run_prompts) > 0
    right = ((measured.answered > 0) & turned).float().mean().item()
    prompts, said = _prompts(len(measured.run_prompts)), f"{measure.name} is {measured.answered.mean().item():+.3f}"
    if right >= measured.settings.thresholds["task"][1]:
        return right, f"the model decides {right:.0%} of {prompts} right; {said}"
    reason = f"the model fails the task: it decides {right:.0%} of {prompts} right; {said}"
    return right, reason if turned.all() else f"{reason}, and a noun in the other number does not turn it"


@check("margin", (0.35, 0.69), decisive=True, optional=True)
def margin(measured: Measurements) -> Finding:
    """How clearly does the model prefer the answer?

    The mean log odds of answer to distractor. 0.69 is 2 to 1, and 0.35 is 1.4 to 1.
    """
    odds = _task(measured).log_odds(measured.answered.mean().item())
    reason = f"the odds for the answer are {np.exp(min(odds, 50)):.3g} to 1"
    if odds < measured.settings.thresholds["margin"][1]:
        reason = f"the model fails the task: {reason}"
    return odds, reason


@check("contrast", (0.25, 0.5), decisive=True)
def contrast(measured: Measurements) -> Finding:
    """Does the decision depend on what is ablated?

    The share of the metric that goes when every node is ablated. Below a quarter, the ablation hardly touches the
    decision; 0.5 is half of it, and a contrast that turns the decision over has more than 1. Of a metric that is one
    output's logit or log probability, or a divergence, the change counts as it is.
    """
    value, ablation = measured.contrast, measured.settings.ablation
    what = {"corrupted": "the corrupted prompts", "mean": "all nodes at their mean", "zero": "all nodes at zero"}
    reason = f"the metric is {measured.metric:+.3f}, and {measured.ablated_metric:+.3f} with {what[ablation]}"
    if value >= measured.settings.thresholds["contrast"][1]:
        return value, reason
    if value <= -0.25:
        return value, f"{reason}: what is ablated speaks against the answer"
    hardly = "they hardly differ in what it measures" if value < 0.25 else "a small part of it changes"
    return value, f"{reason}: {hardly}"


# The circuit


@check("faithfulness", (0.5, 0.8), decisive=True)
def faithfulness(measured: Measurements) -> Finding:
    """Does the core alone carry the decision?

    Faithfulness: 0.5 is half the decision, below which more is missing than found; 0.8 is most of it. A core that
    overshoots counts as one that lacks as much, 1.4 as 0.6: what does more than the model is not what the model does.
    """
    if measured.decides and not measured.ranked:
        return 0.0, "the circuit has no node that could be ablated"
    point = measured.at_core(measured.found_on)
    of = f"{point.nodes} of {len(measured.ranked)} nodes"
    return closeness(point.faithfulness), f"{of} alone give {point.faithfulness:.2f} of the decision"


@check("features", (0.3, 0.5), decisive=True)
def features(measured: Measurements) -> Finding:
    """Do its features carry the decision without the SAEs' errors?

    Faithfulness once its error nodes are ablated too. What the SAEs leave out is part of most circuits of real models,
    so this asks for less; below 0.3 the features named are not what carries it.
    """
    removed = measured.at_core(measured.found_on).errors_removed
    return closeness(removed), f"without their errors, the SAEs' features give {removed:.2f}"


@check("necessity", (0.2, 0.5))
def necessity(measured: Measurements) -> Finding:
    """Is the decision lost without the core?

    The share lost when the core alone is ablated. Other paths may stand in for it, so failing it is weak evidence and
    not none.
    """
    lost = 1 - measured.at_core(measured.found_on).completeness
    return lost, f"with them ablated and all others kept, {lost:.2f} of the decision is lost"


@check("random", (0.1, 0.25), decisive=True)
def random(measured: Measurements) -> Finding:
    """Is the circuit better than random active nodes?

    Faithfulness less that of random active nodes, as many of each site and kind, at the size up to the core's where the
    gap is widest (with nearly all nodes kept, any circuit does well). 0.25 is a quarter of the decision, and the
    circuit has to be above 97.5 % of the draws.
    """
    weak = measured.settings.thresholds["random"][0]
    tried = []
    for point in measured.found_on.points:
        if point.nodes <= measured.core_size and (drawn := point.random) is not None:
            gap = closeness(point.faithfulness) - max(drawn.mean, 0.0)
            # A gap to the mean is worth little where some of the draws do as well.
            tried.append((gap if point.faithfulness > drawn.high else min(gap, weak), point, drawn))
    widest, best, drawn = max(tried, key=lambda each: each[0])
    spread = f"{drawn.low:.2f} to {drawn.high:.2f} in 95 % of {measured.settings.draws} draws"
    return widest, (
        f"at {best.nodes} nodes it gives {best.faithfulness:.2f}, and random active nodes, as many of each site "
        f"and kind, give {drawn.mean:.2f} ({spread})"
    )


# Other prompts


@check("held out", (0.3, 0.5), decisive=True)
def held_out(measured: Measurements) -> Finding:
    """Does the core carry the decision on prompts that the circuit was not found on?

    Its faithfulness there, of which half the decision is asked for. By default they are the circuit's own prompts with
    other nouns. Those it was found on are left out, and so are those that have one of its nouns in either number.
    """
    return _elsewhere(measured, *measured.on_held_out())


@check("paraphrase", (0.3, 0.5), optional=True)
def paraphrase(measured: Measurements) -> Finding:
    """Does the core carry the decision with another determiner?

    Its faithfulness on the circuit's own prompts where they begin with another determiner ("My cats" for "The cats").
    """
    return _elsewhere(measured, *measured.on_paraphrases())


@check("estimate", (0.2, 0.4))
def estimate(measured: Measurements) -> Finding:
    """Do attributions order the strongest nodes as their measured effects do, and with the same signs?

    The smaller of the rank correlation (Spearman) and 2 × (share of equal signs) − 1: by chance 0.
    """
    measured.require_decision()
    said, real = [each.predicted for each in measured.effects], [each.measured for each in measured.effects]
    if len(set(said)) < 3 or len(set(real)) < 3:
        raise NotTestedError("there are fewer than three different effects to order")
    rank = float(spearmanr(said, real)[0])  # pyright: ignore[reportArgumentType]
    strong = [(p, m) for p, m in zip(said, real, strict=True) if abs(m) >= 0.01 * max(map(abs, real))]
    signs = sum(p * m > 0 for p, m in strong) / len(strong)
    return min(rank, 2 * signs - 1), (
        f"attribution and measured effect of the {len(said)} strongest nodes: Spearman {rank:.2f}, same sign in "
        f"{signs:.0%} of those that matter"
    )


@check("stability", (0.3, 0.5), optional=True)
def stability(measured: Measurements) -> Finding:
    """Do resampled prompts give the same core?

    The share of it that they give again (Jaccard, mean). 0.5 is two thirds in common.
    """
    measured.require_decision()
    if len(measured.rescored.parts) < 4:
        raise NotTestedError("a circuit of fewer than four prompts has nothing to resample")
    spread = interval(measured.overlaps())
    return spread.mean, (
        f"resampled prompts give cores that share {spread.mean:.0%} of it ({spread.low:.0%} to {spread.high:.0%})"
    )


def _task(measured: Measurements) -> TaskMeasure:
    """What tells whether an answer is right."""
    if measured.task is None:
        raise NotTestedError(f"the metric {measured.circuit.metric.name!r} does not say whether an answer is right")
    return measured.task


def _prompts(number: int) -> str:
    return "1 prompt" if number == 1 else f"{number} prompts"


def _elsewhere(measured: Measurements, found: Curve, right: float) -> Finding:
    where = f"on {_prompts(found.pairs)} ({found.prompts})"
    if found.prompts == "held out" and measured.sharing:
        where = f"{where}, without {measured.sharing} that have a noun of the circuit's,"
    if measured.task is not None and right < measured.settings.thresholds["task"][0]:
        return 0.0, f"the model fails the task {where}: {right:.0%} right"
    given = measured.at_core(found).faithfulness
    return closeness(given), f"{where} they give {given:.2f} of the decision"


CHECKS: tuple[CheckDefinition, ...] = (
    *(intact, reproduced, record, dictionary),
    *(task, margin, contrast),
    *(reconstruction, faithfulness, features, necessity, random, edges, path),
    *(held_out, paraphrase, estimate, stability),
)
"""All checks, in their order."""

THRESHOLDS: Mapping[str, tuple[float, float]] = {check.name: check.threshold for check in CHECKS if check.threshold}
"""From which figure on each check is weak, and from which it passes, unless one asks for others."""

DECISIVE = tuple(check.name for check in CHECKS if check.decisive)
"""Checks without which there is no evidence at all."""

OPTIONAL = tuple(check.name for check in CHECKS if check.optional)
"""Checks that not every circuit can be put to: one of a single prompt has no prompts to resample."""
