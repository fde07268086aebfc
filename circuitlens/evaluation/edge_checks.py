"""The checks of a circuit's edges: do they carry what their weights say, and what does the strongest path do alone?"""

from __future__ import annotations

import torch
from scipy.stats import spearmanr

from circuitlens.circuit.graph import strongest_first
from circuitlens.errors import CircuitError
from circuitlens.evaluation.definition import Finding, check
from circuitlens.evaluation.measurements import Measurements, NotTestedError

STRONGEST, PROMPTS = 30, 4
"""How many of the strongest edges are measured, and on how many prompts, at most."""


@check("edges", (0.2, 0.4), optional=True)
def edges(measured: Measurements) -> Finding:
    """Do the strongest edges carry what their weights say?

    The 30 strongest are measured by path patching on up to four prompts: the source is moved, what reaches the target
    directly moves it, and the metric moves. The smaller of the rank correlation (Spearman) and 2 × (share of equal
    signs) − 1: by chance 0.
    """
    measured.require_decision()
    _require_edges(measured)
    circuit, again = measured.circuit, measured.rescored.edges
    if again is None:
        assert circuit.found is not None, "else none would be asked for"
        return 0.0, f"the file has none of the {circuit.found.edges} edges that were found between its nodes"
    if circuit.frozen:
        raise NotTestedError("the edges are those of a model that is held in parts, which can't be measured")
    still = {node.id for node in circuit.nodes if node.pos == measured.fixed_group}  # never set to zero
    strongest = strongest_first(edge for edge in circuit.edges if edge.source not in still)[:STRONGEST]
    ends = [(edge.source, edge.target) for edge in strongest]
    real = again.weigh(ends, measured.rescored.edge_means(), to_the_end=True, most=PROMPTS)
    said = [edge.weight for edge in strongest]
    known = [real.get(each, (0.0, None))[0] for each in ends]
    if len(set(said)) < 3 or len(set(known)) < 3:
        raise NotTestedError("there are fewer than three different edges to order")
    rank = float(spearmanr(said, known)[0])  # pyright: ignore[reportArgumentType]
    most = max(map(abs, known))
    signs = [one * other > 0 for one, other in zip(said, known, strict=True) if abs(other) >= 0.01 * most]
    same = sum(signs) / len(signs)
    told = (
        f"weight and measured effect of the {len(said)} strongest edges: Spearman {rank:.2f}, same sign in {same:.0%}"
    )
    return min(rank, 2 * same - 1), f"{told} of those that matter"


@check("path", (0.05, 0.1), optional=True)
def path(measured: Measurements) -> Finding:
    """Does the strongest path carry some of the decision?

    The larger of two figures: the faithfulness of its nodes alone, with all others ablated, and what is lost when they
    alone are ablated. A chain is one of many, so little is asked of it; the sentence says both.
    """
    measured.require_decision()
    _require_edges(measured)
    if not measured.circuit.edges:
        raise NotTestedError("the file has no edges")
    try:
        chain = measured.circuit.strongest_path()
    except CircuitError as error:
        raise NotTestedError("the circuit has no answer") from error
    ids = {node.id for node in chain.nodes}
    keep = torch.tensor([[node.id in ids for node in measured.nodes]])
    if not keep.any():
        raise NotTestedError("the strongest path has no node that could be ablated")
    runs = measured.runs
    (alone,), (without,) = runs.faithfulness(runs(keep, False)), runs.faithfulness(runs(~keep, True))
    told = (
        f"the strongest path ({chain}) alone gives {alone:.2f} of the decision, and without it {without:.2f} are left"
    )
    return max(min(alone, 2 - alone), 1 - without), told


def _require_edges(measured: Measurements) -> None:
    """Raise NotTestedError for a circuit that was found without edges."""
    circuit = measured.circuit
    if not circuit.edges and (circuit.found is None or not circuit.found.edges):
        raise NotTestedError("the circuit was found without edges")
