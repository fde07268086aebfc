"""The checks of a circuit's edges: do they carry what their weights say, and what does the strongest path do alone?"""

from __future__ import annotations

import torch

from circuitlens.errors import CircuitError
from circuitlens.evaluation.definition import Finding, check
from circuitlens.evaluation.measurements import Measurements, NotTestedError


@check("path", (0.05, 0.1), optional=True)
def path(measured: Measurements) -> Finding:
    """Does the strongest path carry some of the decision?

    The larger of two figures: the faithfulness of its nodes alone, with all others ablated, and what is lost when they
    alone are ablated. A chain is one of many, so little is asked of it; the sentence says both.
    """
    measured.require_decision()
    _require_edges(measured)
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
