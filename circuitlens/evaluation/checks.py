"""The checks that a circuit is put to, each a function with its thresholds.

A check asks one question of what was measured, and answers with a figure and a sentence. Its docstring is its entry in
docs/evidence.md (`make docs` writes it there): the question, then what the figure and its thresholds mean. To add a
check, write its function here; checks are put in the order in which they stand.

What is judged is the circuit's core: the fewest of its strongest nodes that reach the wanted faithfulness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from circuitlens.adapter import LOGITS
from circuitlens.circuit.evidence import Check, Curve
from circuitlens.evaluation.curves import interval
from circuitlens.evaluation.measurements import Measurements, NotTestedError, closeness
from circuitlens.evaluation.rescoring import site_of
from circuitlens.literals import CheckStatus
from circuitlens.prompts.metrics import METRICS

Finding = tuple[float, str]
"""What a check found: a figure, the more the better, and a sentence that says what it is."""

Measure = Callable[[Measurements], Finding]


@dataclass(frozen=True)
class CheckDefinition:
    """A check: its function, its thresholds, and what failing it means.

    Args:
        name: as evidence and `--threshold` call it.
        measure: its function; its docstring describes it.
        threshold: from which figure on it is weak, and from which it passes; None where it is a yes (1) or no (0).
        decisive: without it there is no evidence at all.
        optional: not every circuit can be put to it, and one that can't may still be supported.
    """

    name: str
    measure: Measure
    threshold: tuple[float, float] | None
    decisive: bool
    optional: bool

    def run(self, measured: Measurements) -> Check:
        """Put it to a circuit, with the thresholds of its settings."""
        try:
            value, reason = self.measure(measured)
        except NotTestedError as why:
            return Check(name=self.name, status="not tested", reason=f"not tested: {why}")
        if self.threshold is None:
            return Check(name=self.name, status="passed" if value else "failed", reason=reason)
        weak, passes = measured.settings.thresholds[self.name]
        status: CheckStatus = "passed" if value >= passes else "weak" if value >= weak else "failed"
        return Check(name=self.name, status=status, value=value, weak=weak, supported=passes, reason=reason)


CHECKS: list[CheckDefinition] = []
"""All checks, in their order."""


def check(
    name: str, threshold: tuple[float, float] | None, *, decisive: bool = False, optional: bool = False
) -> Callable[[Measure], Measure]:
    """Make a function the next of the checks; the arguments are those of `CheckDefinition`."""

    def register(measure: Measure) -> Measure:
        CHECKS.append(CheckDefinition(name, measure, threshold, decisive, optional))
        return measure

    return register


# The file


@check("intact", None, decisive=True)
def intact(measured: Measurements) -> Finding:
    """Is the file as it was written?

    Its digest has to fit. That tells accidents and careless edits; anyone can compute a new digest.
    """
    if measured.circuit.edited:
        return 0.0, "the file was edited after it was written: its digest does not fit"
    return 1.0, "nothing in it was edited after it was written"


@check("reproduced", (0.99, 0.999), decisive=True)
def reproduced(measured: Measurements) -> Finding:
    """Do attributions and the metric come out again?

    1 less the largest deviation, as a share of the largest attribution. Rounding moves it by 1e-5, another precision by
    less than 1e-2. Beyond 4 × 32 prompts a sample is scored, and what five standard errors explain is allowed.
    """
    circuit, again, total = measured.circuit, measured.rescored, len(measured.own_prompts)
    every = [node for node in circuit.nodes if node.hook != LOGITS]  # whatever the file calls them
    nodes = measured.strongest if circuit.method == "exact" else every
    values = again.effects(nodes) if circuit.method == "exact" else again.attributions(nodes)
    for node in every:
        site = site_of(measured.adapter, node)
        kind = site.kind if site.coder is None or node.index is not None else "error"
        if node.kind != kind:
            return 0.0, f"{node.id} is called {node.kind} in the file and is {kind} in the model"
    sampled = again.prompts < total
    largest = max([1e-12, *(abs(node.attribution) for node in nodes), *map(abs, values)])
    passes = measured.settings.thresholds["reproduced"][1]
    worst, off = None, 0.0
    for node, value in zip(nodes, values, strict=True):
        slack = 5 * (node.standard_error or 0.0) * (total / again.prompts) ** 0.5 if sampled else 0.0
        if (far := (abs(node.attribution - value) - slack) / largest) > off:
            worst, off = (node, value), far
    reason = f"attributions come out again, to {off:.0e} of the largest"
    if sampled:
        reason = f"attributions come out again on {again.prompts} of the {total} prompts, as near as chance allows"
    if worst is not None and 1 - off < passes:
        node, value = worst
        reason = f"{node.id} has attribution {node.attribution:+.3f} in the file and {value:+.3f} in the model"
    if not sampled:
        said, found = circuit.metric.value, again.metric
        wrong = abs(said - found) / max(largest, abs(said), abs(found))
        if wrong > off and 1 - wrong < passes:
            reason = f"the metric is {said:+.3f} in the file and {found:+.3f} in the model"
        off = max(off, wrong)
    return 1 - off, reason


@check("dictionary", (0.7, 0.8), decisive=True, optional=True)
def dictionary(measured: Measurements) -> Finding:
    """Do the SAEs' features write what they read?

    The share of the active features whose own decoder row is nearest to their encoder row, among the rows of the active
    ones. In a trained SAE nearly all are; where the rows are shuffled or random, one in as many as are active is. Not
    asked of transcoders, which write elsewhere than they read.
    """
    compared, own = measured.rescored.own_rows
    if not compared:
        raise NotTestedError("no SAE writes where it reads")
    return own / compared, f"{own / compared:.0%} of the active features write what they read"


# The decision


@check("task", (0.7, 0.9), decisive=True, optional=True)
def task(measured: Measurements) -> Finding:
    """Does the model do the task?

    The share of prompts on which it prefers the answer, and the distractor once the noun has the other number. Below
    0.7 there is little to explain; chance is 0.25 (0.5 where the prompts differ in anything else).
    """
    _log_odds(measured)
    turned = measured.turned > 0
    right = ((measured.runs.full_model > 0) & turned).float().mean().item()
    prompts, said = len(measured.run_prompts), f"{measured.circuit.metric} is {measured.metric:+.3f}"
    if right >= measured.settings.thresholds["task"][1]:
        return right, f"the model decides {right:.0%} of {prompts} prompts right; {said}"
    reason = f"the model fails the task: it decides {right:.0%} of {prompts} prompts right; {said}"
    return right, reason if turned.all() else f"{reason}, and a noun in the other number does not turn it"


@check("margin", (0.35, 0.69), decisive=True, optional=True)
def margin(measured: Measurements) -> Finding:
    """How clearly does the model prefer the answer?

    The mean log odds of answer to distractor. 0.69 is 2 to 1, and 0.35 is 1.4 to 1.
    """
    odds = _log_odds(measured)(measured.metric)
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


@check("held out", (0.3, 0.5))
def held_out(measured: Measurements) -> Finding:
    """Does the core carry the decision on prompts that the circuit was not found on?

    Its faithfulness there, of which half the decision is asked for. By default they are the circuit's own prompts with
    other nouns. Those it was found on are left out.
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


def _log_odds(measured: Measurements) -> Callable[[float], float]:
    """The metric as log odds, which are above 0 where the answer is right."""
    entry = METRICS.get(measured.circuit.metric.name)
    if entry is None or entry.log_odds is None:
        raise NotTestedError(f"the metric {measured.circuit.metric.name!r} does not say whether an answer is right")
    return entry.log_odds


def _elsewhere(measured: Measurements, found: Curve, right: float) -> Finding:
    where = f"on {found.pairs} prompts ({found.prompts})"
    entry = METRICS.get(measured.circuit.metric.name)
    if entry is not None and entry.log_odds is not None and right < measured.settings.thresholds["task"][0]:
        return 0.0, f"the model fails the task {where}: {right:.0%} right"
    given = measured.at_core(found).faithfulness
    return closeness(given), f"{where} they give {given:.2f} of the decision"


THRESHOLDS: Mapping[str, tuple[float, float]] = {check.name: check.threshold for check in CHECKS if check.threshold}
"""From which figure on each check is weak, and from which it passes, unless one asks for others."""

DECISIVE = tuple(check.name for check in CHECKS if check.decisive)
"""Checks without which there is no evidence at all."""

OPTIONAL = tuple(check.name for check in CHECKS if check.optional)
"""Checks that not every circuit can be put to: one of a single prompt has no prompts to resample."""
