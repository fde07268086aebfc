"""What can be said of a feature without a network: the outputs it speaks for, and where in the prompt it is active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import Adapter, Site
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError
from circuitlens.evaluation.circuit_inputs import require_same_adapter, require_same_tokens
from circuitlens.prompts.alignment import align
from circuitlens.torch_modes import own_modes


@dataclass(frozen=True)
class Feature:
    """What a feature stands for, on one prompt: of a circuit over many, the first that has the feature's position.

    `promoted` and `suppressed` are outputs with what one unit of the feature adds to their logits by itself, strongest
    first (`Adapter.unembed` says how a final normalisation is treated); both are empty where the adapter can't tell.
    `activations` has one value for each of the prompt's `tokens`.
    """

    node: Node
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    url: str | None


def describe(adapter: Adapter, circuit: Circuit, node_id: str, outputs: int = 10) -> Feature:
    """Say what a feature (or neuron) of a circuit stands for, from the model's own weights and the prompt.

    Raises:
        CircuitError: the circuit was made by another adapter, or the node is not a feature.
        PromptError: the circuit's prompt can't be read.
    """
    require_same_adapter(adapter, circuit)
    if outputs < 0:
        raise CircuitError(f"outputs is {outputs}: give a count of 0 or more.")
    node = circuit.node(node_id)
    site = next((site for site in adapter.sites if site.write == node.hook), None)
    if site is None or site.coder is None or node.index is None or node.index >= site.coder.d_sae:
        raise CircuitError(
            f"Node {node_id!r} is of kind {node.kind!r}; only features and neurons of {adapter.name!r} can be "
            "described."
        )
    seen: list[Tensor] = []
    with own_modes(gradients=False):
        if circuit.pairs:  # in the first of many prompts that has such a position
            aligned = align(adapter, circuit.pairs, circuit.by or "position", circuit.tokens)
            pair, groups = next(two for two in zip(aligned.pairs, aligned.groups, strict=True) if node.pos in two[1])
            inputs, pos = adapter.inputs([pair.prompt]), groups.index(node.pos)
        else:
            inputs, pos = adapter.inputs([circuit.prompt]), node.pos
            require_same_tokens(circuit, inputs)
        adapter.run(inputs, {site.read: lambda x: seen.append(x.detach())})
        x = seen[0]
        f = site.coder.encode(x)
        site.coder.decode(f)  # a coder may keep state from encode that its decode uses up
        activations = f[0, inputs.mask[0], node.index]
        (ends,) = speaks_for(adapter, site, x[0, inputs.mask[0]][None, pos], [node.index], outputs)
    return Feature(node, *ends, inputs.tokens[0], tuple(activations.tolist()), node.url)


Ends = tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]
"""Outputs that a feature promotes, and those that it suppresses, strongest first."""


def speaks_for(
    adapter: Adapter, site: Site, x: Float[Tensor, "feature ..."], index: Sequence[int], outputs: int
) -> list[Ends]:
    """The outputs that one unit of feature `index[n]` of a site, at activation `x[n]`, adds most to by itself and takes
    most from; none where the adapter can't tell.
    """
    assert site.coder is not None, "only a site with a coder has features"
    found: list[Ends] = []
    for direction in site.coder.decoder_rows(x, torch.tensor(index, device=x.device)):
        logits = adapter.unembed(site, direction)
        ends: list[tuple[tuple[str, float], ...]] = [(), ()]
        if logits is not None:
            for end, largest in enumerate((True, False)):
                values, outs = logits.topk(min(outputs, len(logits)), largest=largest)
                ends[end] = tuple(zip(map(adapter.output_label, outs.tolist()), values.tolist(), strict=True))
        found.append((ends[0], ends[1]))
    return found
