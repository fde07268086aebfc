"""The checks of a circuit's file and its dictionaries: does it say what the model gives, and are its SAEs trained?"""

from __future__ import annotations

from circuitlens.adapter import LOGITS
from circuitlens.evaluation.definition import Finding, check
from circuitlens.evaluation.measurements import Measurements, NotTestedError
from circuitlens.evaluation.record import deviations, worst
from circuitlens.evaluation.rescoring import site_of


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
    off_most, off = None, 0.0
    slack = again.chance(nodes, total)
    for node, value, explained in zip(nodes, values, slack, strict=True):
        if (far := (abs(node.attribution - value) - explained) / largest) > off:
            off_most, off = (node, value), far
    reason = f"attributions come out again, to {off:.0e} of the largest"
    if sampled:
        reason = f"attributions come out again on {again.prompts} of the {total} prompts, as near as chance allows"
    if off_most is not None and 1 - off < passes:
        node, value = off_most
        reason = f"{node.id} has attribution {node.attribution:+.3f} in the file and {value:+.3f} in the model"
    if not sampled:
        said, found = circuit.metric.value, again.metric
        wrong = abs(said - found) / max(largest, abs(said), abs(found))
        if wrong > off and 1 - wrong < passes:
            reason = f"the metric is {said:+.3f} in the file and {found:+.3f} in the model"
        off = max(off, wrong)
    return 1 - off, reason


@check("record", (0.99, 0.999), decisive=True)
def record(measured: Measurements) -> Finding:
    """Does all else that the file says come out again?

    1 less the largest deviation of labels, addresses, layers, activations, outputs, tokens, standard errors, gaps, the
    size of the whole graph, and of the edges, which are scored again: one that is not in the model, or has another
    weight, or is missing though the model has it stronger than the weakest that is there. Texts are compared exactly,
    weights as shares of the largest. Of many prompts edges are scored on at most 8.
    """
    found = list(deviations(measured.circuit, measured.rescored, len(measured.own_prompts)))
    off = worst(found)
    if 1 - off.share < measured.settings.thresholds["record"][1]:
        return 1 - off.share, off.told
    circuit = measured.circuit
    return 1 - off.share, f"{len(circuit.nodes)} nodes and {len(circuit.edges)} edges are as the model gives them"


@check("dictionary", (0.7, 0.8), decisive=True, optional=True)
def dictionary(measured: Measurements) -> Finding:
    """Do the SAEs' features write what they read?

    The share of the active features whose own decoder row is nearest to their encoder row, among the rows of the active
    ones. In a trained SAE nearly all are; where the rows are shuffled or random, one in as many as are active is. Not
    asked of transcoders, which write elsewhere than they read.
    """
    found = measured.rescored.dictionaries
    compared, own = found.compared, found.own
    if not compared:
        raise NotTestedError("no SAE writes where it reads")
    return own / compared, f"{own / compared:.0%} of the active features write what they read"


@check("reconstruction", (0.3, 0.5), decisive=True, optional=True)
def reconstruction(measured: Measurements) -> Finding:
    """Do the SAEs' features write what is there?

    The share of the activations' variance that they write, at the worst of the sites that the circuit has features at
    (in transcoders, of what the layer writes). Trained SAEs write 0.75 and more, also poor ones half; one that was only
    initialised writes less than its mean would. Tokens of a norm eight times the usual are left out.
    """
    hooks = {node.hook for node in measured.circuit.nodes if node.kind == "feature"}
    spreads = measured.rescored.dictionaries.spreads
    shares = {hook: spread.explained for hook, spread in spreads.items() if hook in hooks}
    if not shares:
        raise NotTestedError("no SAE has a feature in the circuit")
    hook, share = min(shares.items(), key=lambda each: each[1])
    if share < 0:
        return share, f"the features at {hook} write less of the activations' variance than their mean would"
    return share, f"the features at {hook} write {share:.0%} of the activations' variance"
