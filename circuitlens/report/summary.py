"""A circuit and its evidence in words, as rows of text: what the command line prints and the page can say alike."""

from __future__ import annotations

from itertools import pairwise

from circuitlens.attribution.methods import METHODS
from circuitlens.circuit import Circuit, Edge, Node, full_name
from circuitlens.circuit.evidence import Evidence
from circuitlens.errors import CircuitError
from circuitlens.interchange.scores import graph_scores
from circuitlens.literals import CheckStatus

HEADS = 3
"""How many heads of an edge are named."""

MARKS: dict[CheckStatus, str] = {"passed": "yes", "weak": "weak", "failed": "no", "not tested": "–"}
"""The word for how a check ended."""


def summary_rows(circuit: Circuit) -> list[tuple[str, str]]:
    """What a circuit explains, how it was found, and what it comes to, each with its title."""
    found, gaps = circuit.found, describe_gaps(circuit)
    return [
        ("metric", describe_metric(circuit)),
        ("method", describe_method(circuit)),
        *([] if found is None else [("active", f"{found.features} features, {len(circuit.tokens)} tokens")]),
        ("size", describe_size(circuit)),
        ("strongest path", describe_path(circuit)),
        *path_meanings(circuit),
        *([("heads", heads)] if (heads := describe_path_heads(circuit)) else []),
        ("conservation", describe_conservation(circuit)),
        *([("integration", gaps)] if gaps else []),
    ]


def describe_metric(circuit: Circuit) -> str:
    """The metric and its value, with that of the corrupted prompt where there is one."""
    metric = circuit.metric
    corrupted = "" if metric.corrupted_value is None else f" ({metric.corrupted_value:+.3f} corrupted)"
    return f"{metric} = {metric.value:+.3f}{corrupted}"


def describe_method(circuit: Circuit) -> str:
    """The attribution method, its baseline, and whether attention and norms were frozen."""
    baseline = "the corrupted prompts" if circuit.pairs else repr(circuit.corrupted)
    frozen = ", attention patterns and layer-norm scales held" if circuit.frozen else ""
    summary = METHODS[circuit.method].summary
    return f"{circuit.method}: {summary} from {baseline if circuit.from_corrupted else 'zero'}{frozen}"


def explained_change(circuit: Circuit) -> float:
    """All that attributions share out: the metric, less its value where they measure from."""
    metric = circuit.metric
    return metric.value - ((metric.corrupted_value or 0.0) if circuit.from_corrupted else 0.0)


def describe_path(circuit: Circuit) -> str:
    """The strongest path to the metric, with what it carries by itself as its edges say."""
    try:
        path = circuit.strongest_path()
    except CircuitError:  # pruned or edited so that the answer's logit is gone
        return "none: the answer's logit is not in this circuit"
    return f"{path} (carries about {path.weight:+.3f} of {explained_change(circuit):+.3f})"


def path_meanings(circuit: Circuit) -> list[tuple[str, str]]:
    """What each feature of the strongest path stands for, as far as that is known; a row for each."""
    try:
        nodes = circuit.strongest_path().nodes
    except CircuitError:
        return []
    told = [(node, circuit.meaning(node)) for node in nodes]
    rows = [f"{full_name(node, circuit.positions)}: {meaning}" for node, meaning in told if meaning is not None]
    return [("" if number else "meaning", row) for number, row in enumerate(rows)]


def meaning_rows(circuit: Circuit) -> list[tuple[str, ...]]:
    """What each feature stands for and who says so, below their heads; the strongest first, over all its positions."""
    strength: dict[str, float] = {}
    named: dict[str, Node] = {}
    for node in circuit.nodes:
        if circuit.meaning(node) is not None:
            named.setdefault(node.label_key, node)
            strength[node.label_key] = strength.get(node.label_key, 0.0) + abs(node.attribution)
    rows: list[tuple[str, ...]] = [("feature", "layer", "stands for", "says", "|attribution|")]
    for key in sorted(named, key=lambda key: -strength[key]):
        meaning = circuit.meaning(named[key])
        assert meaning is not None, "only those with a meaning are named"
        says = f"{meaning.source}{' (weak)' if meaning.weak else ''}"
        rows.append((named[key].label, f"L{named[key].layer}", meaning.text, says, f"{strength[key]:.3f}"))
    return rows


def describe_path_heads(circuit: Circuit) -> str:
    """The attention heads that carry the strongest path's edges between positions; empty where they are not known."""
    try:
        path = circuit.strongest_path()
    except CircuitError:
        return ""
    told = []
    for source, target in pairwise(path.nodes):
        # The last step is into the metric, through all logits together.
        ends = {node.id for node in circuit.nodes if node.is_logit} if target.is_logit else {target.id}
        edges = [edge for edge in circuit.edges if edge.source == source.id and edge.target in ends]
        if heads := describe_heads(*edges):
            places = f"from {circuit.positions[source.pos].name!r} to {circuit.positions[target.pos].name!r}"
            told.append(f"{heads} of {source.label} → {'the metric' if target.is_logit else target.label}, {places}")
    return "; ".join(told)


def describe_heads(*edges: Edge) -> str:
    """The heads that carry most of an edge between positions (or of several together), with their shares of what heads
    carry by size; empty where they are not known.
    """
    sums: dict[str, float] = {}
    for share in (share for edge in edges for share in edge.heads):
        name = f"L{share.layer}H{share.head}"
        sums[name] = sums.get(name, 0.0) + share.weight
    whole = sum(map(abs, sums.values())) or 1.0
    strongest = sorted(sums, key=lambda name: -abs(sums[name]))[:HEADS]
    return ", ".join(f"{name} {sums[name] / whole:.0%}" for name in strongest)


def describe_size(circuit: Circuit) -> str:
    """How many nodes and edges there are, of how many they are the strongest where more were found, and how many of the
    edges are measured.
    """
    measured = sum(edge.measured for edge in circuit.edges)
    size = f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges{f' ({measured} measured)' if measured else ''}"
    found = circuit.found
    kept = [node for node in circuit.nodes if not node.is_logit]
    if found is None or (len(kept) >= found.nodes and len(circuit.edges) >= found.edges):
        return size
    share = sum(abs(node.attribution) for node in kept) / found.attribution if found.attribution else 1.0
    return f"{size}, the strongest of {found.nodes} and {found.edges} ({share:.0%} of the nodes' |attribution|)"


def describe_conservation(circuit: Circuit) -> str:
    """The largest gap between a node's attribution and the sum of its outgoing edges."""
    value = circuit.metric.value
    share = f" ({circuit.conservation_residual / abs(value):.0e} of the metric)" if value else ""
    return f"residual {circuit.conservation_residual:.1e}{share}"


def describe_gaps(circuit: Circuit) -> str:
    """How far each site's integrated gradients are from the change they should sum to; empty for other methods."""
    gaps = ", ".join(f"{gap:+.3f} ({name})" for name, gap in circuit.completeness_gaps.items())
    return f"gaps {gaps} of the metric's change" if gaps else ""


def describe_scores(circuit: Circuit) -> str:
    """The scores of the graph's links, beside what was measured on the model; empty where there are no edges."""
    scores = graph_scores(circuit)
    if scores is None:
        return ""
    told = f"replacement {scores.replacement:.2f}, completeness {scores.completeness:.2f} by the edges alone"
    evidence = circuit.own_evidence
    if evidence is None or not evidence.curves:
        return f"{told}; nothing measured yet"
    point = evidence.curves[0].points[-1]
    return (
        f"{told}; measured with {point.nodes} nodes: faithfulness {point.faithfulness:.2f}, "
        f"{point.errors_removed:.2f} without their errors"
    )


def check_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """The checks of the evidence below their heads: name, result, figure, threshold and reason."""
    rows = [("check", "", "found", "passes from", "what was found")]
    for check in evidence.checks:
        value = "" if check.value is None else f"{check.value:.2f}"
        threshold = "" if check.supported is None else f"{check.supported:g}"
        rows.append((check.name, MARKS[check.status], value, threshold, check.reason))
    return rows


def curve_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """The faithfulness of each number of nodes on each set of prompts, below their heads."""
    rows = [("faithfulness of", "nodes", "errors kept", "removed", "completeness", "random (95 %)")]
    for curve in evidence.curves:
        for point in curve.points:
            name = f"{curve.prompts} ({curve.pairs})" if point is curve.points[0] else ""
            kept, removed, left = point.faithfulness, point.errors_removed, point.completeness
            random = "" if (r := point.random) is None else f"{r.mean:.2f} ({r.low:.2f} to {r.high:.2f})"
            rows.append((name, f"{point.nodes}", f"{kept:.2f}", f"{removed:.2f}", f"{left:.2f}", random))
    return rows
