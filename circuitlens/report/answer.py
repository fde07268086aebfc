"""A circuit's answer in plain words: what the model prefers, what carries it, how sure that is, what happens without.

A sentence is a row of texts, of which some stand out; joined they are the sentence. Numbers come from the circuit, its
evidence, or an intervention: nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import TYPE_CHECKING, Literal

from circuitlens.circuit import ANSWER, DISTRACTOR, Circuit, CircuitPath, Node, Output
from circuitlens.circuit.comparison import AlignedGraph
from circuitlens.errors import CircuitError
from circuitlens.prompts.metrics import METRICS
from circuitlens.report.text import cut, joined, percent, signed, visible

if TYPE_CHECKING:
    from circuitlens.circuit.evidence import Evidence
    from circuitlens.evaluation.alone import Alone
    from circuitlens.evaluation.intervention import Ablation, Outcome
    from circuitlens.evaluation.settings import Setting

NAMED, SHORT, LONGEST = 3, 30, 90
"""Answers or tokens that a sentence names; characters of a prompt that it repeats twice, and once."""
OTHER_PROMPTS = {"held out": "held-out prompts", "other nouns": "prompts with other nouns", "paraphrase": "paraphrases"}
PLURALS = {"input": "inputs", "embedding": "embeddings", "neuron": "neurons", "feature": "features"}


class Strong(str):
    """A text that is to stand out."""


Words = tuple[str, ...]


def describe_answer(circuit: Circuit) -> Words:
    """What the model does on the circuit's prompts, with the metric there and on the corrupted ones."""
    metric, corrupted = circuit.metric, circuit.metric.corrupted_value
    if circuit.pairs:
        where, there = f"On average over {_prompts(circuit)}", "after their corrupted ones"
    else:
        where, there = f"After “{_quoted(circuit.prompt)}”", _instead(circuit.prompt, circuit.corrupted or "")
    figures = [signed(metric.value, 2)] if _is_preference(circuit) else []  # else the sentence itself has it
    if corrupted is not None and metric.name != "kl_divergence":
        value = percent(exp(min(corrupted, 0.0))) if metric.name == "log_probability" else signed(corrupted, 2)
        figures.append(f"{value} {there}")
    told = f" ({'; '.join(figures)})" if figures else ""
    return (f"{where} the model ", *_does(circuit, metric.value), f"{told}.")


def _is_preference(circuit: Circuit) -> bool:
    """Whether the metric sets answers against distractors, so that its sign says which the model prefers."""
    known = METRICS.get(circuit.metric.name)
    return known is not None and known.distractors == "required"


def _does(circuit: Circuit, value: float) -> Words:
    """What the model does where the metric has this value, as a sentence goes on after "the model"."""
    metric = circuit.metric
    ours, theirs = _named(metric.answers, ANSWER), _named(metric.distractors, DISTRACTOR)
    if _is_preference(circuit):
        if value == 0:
            return "is undecided between ", Strong(ours), " and ", Strong(theirs)
        first, second = (ours, theirs) if value > 0 else (theirs, ours)
        return "prefers ", Strong(first), " over ", Strong(second)
    match metric.name:
        case "logit":
            return "gives ", Strong(ours), f" a logit of {signed(value, 2)}"
        case "log_probability":
            return "gives ", Strong(ours), f" a probability of {percent(exp(min(value, 0.0)))}"
        case "kl_divergence":
            return "answers otherwise than after the corrupted prompt, by ", Strong(f"{value:.2f}"), " nats"
    return "scores ", Strong(signed(value, 2)), " in a function of its logits"


def describe_carriers(circuit: Circuit) -> Words:
    """What carries the answer, and how much of it where that was measured."""
    evidence = circuit.own_evidence
    core = core_nodes(circuit)
    if evidence is None:
        nodes = _on_path(circuit)
        if not nodes:
            return ()
        make, they = ("makes", "it carries") if len(nodes) == 1 else ("make", "they carry")
        told = f"{_at(circuit, nodes)} {make} its strongest path; what {they} was not measured."
        return Strong(_counted(nodes)), told
    if not core or not evidence.curves:
        return ("No part of it carries the decision.",)
    curve = next((curve for curve in evidence.curves if curve.prompts == "found on"), evidence.curves[0])
    point = next((point for point in curve.points if point.nodes == len(core)), None)
    part = "" if point is None else f"{point.faithfulness:.2f} of it (1 is the whole model)"
    verb = "carries" if len(core) == 1 else "carry"
    return Strong(_counted(core)), f"{_at(circuit, core)} alone {verb} {part or 'it'}."


def describe_verdict(circuit: Circuit) -> Words:
    """How far the circuit can be trusted, and why: with the first reason where that is not all the way."""
    if circuit.edited:
        return Strong("Edited: do not trust it."), " The file was changed after it was written."
    evidence = circuit.own_evidence
    if evidence is None:
        other = "The evidence in the file is of another circuit. " if circuit.evidence is not None else ""
        return Strong("Not measured."), f" {other}Attribution alone does not say whether this holds."
    lowered = " (thresholds lowered)" if evidence.lowered else ""
    why = f" {evidence.reasons[0][:1].upper()}{evidence.reasons[0][1:]}." if evidence.reasons else ""
    match evidence.verdict:
        case "supported":
            return Strong(f"Supported{lowered}."), _support(evidence)
        case "weak":
            return Strong(f"Weak evidence{lowered}."), why
    return Strong(f"Not supported{lowered}: do not trust it."), why


def _support(evidence: Evidence) -> str:
    """What the core carries on prompts that it was not found on, and random nodes in its place."""
    points = {c.prompts: (c, p) for c in evidence.curves for p in c.points if p.nodes == len(evidence.core)}
    told = []
    if prompts := next((name for name in OTHER_PROMPTS if name in points), ""):
        curve, point = points[prompts]
        told.append(f"its core carries {point.faithfulness:.2f} on {curve.pairs} {OTHER_PROMPTS[prompts]}")
    if "found on" in points and (random := points["found on"][1].random):
        low, high = (
            f"{round(bound, 2) + 0.0:.2f}".replace("-", "−") for bound in (random.low, random.high)
        )  # no −0.00
        told.append(f"random nodes in its place carry {low} to {high}")
    why = ", and ".join(told)
    return f" {why[:1].upper()}{why[1:]}." if why else ""


def answer_path(circuit: Circuit) -> CircuitPath | None:
    """The strongest path, None where the answer's logit is gone or nothing leads to it."""
    try:
        path = circuit.strongest_path()
    except CircuitError:
        return None
    return path if len(path.nodes) > 1 else None


def core_nodes(circuit: Circuit) -> list[Node]:
    """The core that the evidence found; empty where nothing was measured of this very circuit."""
    by_id = {node.id: node for node in circuit.nodes}
    names = circuit.own_evidence.core if circuit.own_evidence else ()
    return [by_id[name] for name in names if name in by_id]


def output_role(circuit: object, node: Node) -> Literal["answer", "distractor", ""]:
    """Which side of the metric an output is on; none where it is on neither, or no single circuit is asked."""
    circuit = circuit.of if isinstance(circuit, AlignedGraph) else circuit
    return circuit.metric.role(node, of_many=bool(circuit.pairs)) if isinstance(circuit, Circuit) else ""


def without_what(circuit: Circuit) -> tuple[list[Node], str]:
    """What to switch off to see whether it matters, and where that is from: the features of the core, else of the
    strongest path, else the strongest one; none that is 0 anyway, or at a token (BOS) that switching off leaves alone.
    """

    def can_go(node: Node) -> bool:
        return node.kind in ("feature", "neuron") and node.activation != 0 and not circuit.is_bos(node)

    for nodes, what in ((core_nodes(circuit), "the core"), (_on_path(circuit), "the strongest path")):
        if off := [node for node in nodes if can_go(node)]:
            return off, what
    others = filter(can_go, circuit.nodes)
    strongest = max(others, key=lambda node: (node.kind == "feature", abs(node.attribution)), default=None)
    return ([strongest], "the strongest feature") if strongest else ([], "")


def why_not_off(circuit: Circuit, node: Node) -> str:
    """Why switching a node off changes nothing; empty where it does something."""
    if circuit.is_bos(node):
        token = visible(circuit.tokens[0])
        return f"It is at {token}, a token before the prompt (BOS), which switching off leaves alone."
    if node.activation == 0 and not node.is_logit:
        return "It is 0 on this prompt already, so switching it off changes nothing."
    return ""


def describe_outcome(circuit: Circuit, outcome: Outcome, settings: Mapping[str, Setting]) -> Words:
    """What the model does with nodes set otherwise, and what becomes of the outputs that were asked for."""
    off = all(setting == 0 for setting in settings.values())
    them = "it" if len(settings) == 1 else "them"
    what = f"With {them} switched off" if off else f"With {them} set so"
    does = _does(circuit, outcome.after)
    still = "still " if _is_preference(circuit) and outcome.after * outcome.before > 0 else ""
    sides = {node.label: output_role(circuit, node) for node in circuit.nodes}
    asked = [output for output in outcome.outputs if output.asked]
    asked.sort(key=lambda output: sides.get(output.label, "") != "answer")
    changes = "; ".join(
        f"{_plain(output.label)} {percent(output.before)} → {percent(output.after)}" for output in asked[: 2 * NAMED]
    )
    figures = f" ({signed(outcome.before, 2)} → {signed(outcome.after, 2)})"
    return (f"{what} the model {still}", *does, f"{figures}{f': {changes}' if changes else ''}.")


def describe_ablation(circuit: Circuit, done: Ablation) -> Words:
    """What the model does with nodes set together to where attribution measures from, beside what that predicts."""
    how = "as in the corrupted prompt" if circuit.from_corrupted else "off"
    figures = f"{signed(done.before, 2)} → {signed(done.after, 2)}, so "
    measured, predicted = (Strong(signed(-value, 2)) for value in (done.measured_drop, done.predicted_drop))
    does = _does(circuit, done.after)
    return f"With it {how}, the model ", *does, f" ({figures}", measured, f" measured, {predicted} predicted)."


def describe_alone(circuit: Circuit, alone: Alone, count: int) -> Words:
    """What the model does with only `count` nodes (and the inputs) kept, and how much of the decision that is."""
    what = "This node" if count == 1 else f"These {count} nodes"
    figures = f"{signed(alone.value, 2)}; all nodes {signed(alone.whole, 2)}, none {signed(alone.none, 2)}"
    verb = "carries" if count == 1 else "carry"
    share = Strong(f"{alone.faithfulness:.2f}")
    return (
        f"{what} alone {verb} ",
        share,
        " of it (measured): the model ",
        *_does(circuit, alone.value),
        f" ({figures}).",
    )


def describe_known_loss(circuit: Circuit) -> Words:
    """What verification saw the model do without the core, all else kept; empty where it was not measured."""
    evidence, core = circuit.own_evidence, core_nodes(circuit)
    curve = next((curve for curve in evidence.curves if curve.prompts == "found on"), None) if evidence else None
    point = next((one for one in curve.points if one.nodes == len(core)), None) if curve and core else None
    if evidence is None or curve is None or point is None:
        return ()
    value = curve.none + point.completeness * (curve.whole - curve.none)
    how = {"corrupted": "as in the corrupted prompt", "mean": "at its mean", "zero": "off"}[evidence.ablation]
    return (f"With the core {how}, the model ", *_does(circuit, value), f" ({signed(value, 2)}; measured as evidence).")


def _on_path(circuit: Circuit) -> list[Node]:
    path = answer_path(circuit)
    return [node for node in path.nodes if node.kind in ("feature", "neuron")] if path else []


def _counted(nodes: Sequence[Node]) -> str:
    """How many nodes of each kind there are."""
    kinds = [node.kind for node in nodes]
    told = []
    for kind in dict.fromkeys(kinds):
        many, error = kinds.count(kind), kind == "error"
        noun = ("error node" if many == 1 else "error nodes") if error else kind if many == 1 else PLURALS[kind]
        told.append(f"{many} {noun}")
    return joined(told)


def _at(circuit: Circuit, nodes: Sequence[Node]) -> str:
    """On which tokens they are, where the prompt has several."""
    if len(circuit.tokens) == 1:
        return ""
    positions = sorted({node.pos for node in nodes})
    if len(positions) > NAMED:
        return f" at {len(positions)} positions"
    return f" on {joined([f'“{_plain(circuit.positions[pos].name)}”' for pos in positions])}"


def _prompts(circuit: Circuit) -> str:
    return f"{len(circuit.pairs)} prompts" if len(circuit.pairs) != 1 else "1 prompt"


def _named(outputs: Sequence[Output], other: str) -> str:
    """The outputs by their texts; of a circuit over many prompts, what they are there."""
    if not outputs:
        return f"the {other}"
    names = [_plain(output.text) for output in outputs[:NAMED]]
    if len(outputs) > NAMED:
        names.append(f"{len(outputs) - NAMED} more")
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _plain(text: str) -> str:
    """A token as a word of a sentence."""
    return visible(text.strip(" ")) or visible(text)


def _instead(prompt: str, corrupted: str) -> str:
    """Which prompt the corrupted one is; of a long one, the words that differ."""
    words = list(zip(prompt.split(), corrupted.split(), strict=False))
    differ = [(ours, theirs) for ours, theirs in words if ours != theirs]
    if len(prompt) <= SHORT or len(prompt.split()) != len(corrupted.split()) or not 0 < len(differ) <= NAMED:
        return f"after “{_quoted(corrupted)}”"
    return f"with {joined([f'“{visible(theirs)}” for “{visible(ours)}”' for ours, theirs in differ])}"


def _quoted(prompt: str) -> str:
    return visible(cut(prompt, LONGEST))
