"""What some of a circuit's nodes do by themselves in the real model, for who asks again and again of other nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.evaluation.circuit_inputs import circuit_prompts, require_same_adapter
from circuitlens.evaluation.faithfulness import INPUTS, AblationRuns
from circuitlens.literals import AblationKind
from circuitlens.torch_modes import own_modes

PROMPTS = 8
"""Of a circuit over many prompts, how many are run."""


@dataclass(frozen=True)
class Alone:
    """The mean metric with only some nodes kept, with all and with none, and where the first lies between them (0..1).

    Inputs are always kept: they are the question.
    """

    value: float
    whole: float
    none: float
    faithfulness: float
    ablation: AblationKind


class AloneRuns:
    """Runs of a circuit's model with only some of its nodes kept; all others go to where attribution measured from.

    Raises:
        CircuitError: the circuit was made by another adapter, or its metric was a function.
        PromptError: the circuit's prompts can't be read.
    """

    def __init__(self, adapter: Adapter, circuit: Circuit):
        require_same_adapter(adapter, circuit)
        self.circuit = circuit
        kinds = {site.write: site.kind for site in adapter.sites}
        nodes = [node for node in circuit.nodes if not node.is_logit and kinds.get(node.hook) not in INPUTS]
        evidence = circuit.own_evidence
        usual: AblationKind = "corrupted" if circuit.from_corrupted else "zero"
        with own_modes(gradients=False):
            prompts = circuit_prompts(adapter, circuit).sample(PROMPTS, 0)
            self._runs = AblationRuns(adapter, circuit, prompts, evidence.ablation if evidence else usual, nodes)

    def __call__(self, node_ids: Iterable[str]) -> Alone:
        """What these nodes do alone.

        Raises:
            CircuitError: a node is not there.
            PromptError: the metric is the same with all nodes as with none.
        """
        kept = {self.circuit.node(node_id).id for node_id in node_ids}
        runs = self._runs
        with own_modes(gradients=False):
            values = runs(torch.tensor([[node.id in kept for node in runs.nodes]]), others=False)
            (faithfulness,) = runs.faithfulness(values)
            whole, none = runs.full_model.mean().item(), runs.empty_circuit.mean().item()
        return Alone(values.mean().item(), whole, none, faithfulness, runs.ablation)
