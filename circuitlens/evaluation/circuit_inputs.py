"""A circuit's own record, read again by an adapter: is it the same adapter, and its prompts, metric and nodes.

Everything that is asked of the real model about a circuit begins here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter, Inputs
from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.circuit import ANSWER, DISTRACTOR, Circuit, Node
from circuitlens.claims import INDIFFERENT
from circuitlens.errors import CircuitError, PromptError
from circuitlens.fingerprint import difference
from circuitlens.literals import MetricName
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.batch import CUSTOM, Score


def require_same_adapter(adapter: Adapter, circuit: Circuit) -> None:
    """Raise CircuitError for an adapter that the circuit was not made by: one whose weights do something else on its
    first prompt, or, for a circuit of a file that keeps no fingerprint, one of another name or with other options.
    """
    said = _said_otherwise(adapter, circuit)
    if circuit.fingerprint is None:
        if said:
            raise CircuitError(said)
        return
    try:
        if not circuit.pairs:
            require_same_tokens(circuit, adapter.inputs([circuit.prompt]))
        told = difference(adapter, circuit.fingerprint, circuit.questions[0])
    except (CircuitError, PromptError) as error:
        if not said:
            raise
        raise CircuitError(said) from error
    if told:
        raise CircuitError(f"{said} The circuit was made with other weights than this adapter's: {told}.".strip())


def _said_otherwise(adapter: Adapter, circuit: Circuit) -> str:
    """How the adapter's name or options differ from those that the circuit says, or ""."""
    if circuit.adapter != adapter.name:
        return f"The circuit was made with {circuit.adapter!r}, and this is {adapter.name!r}."
    for name in circuit.options.keys() - INDIFFERENT - {"layers"}:
        if (ours := adapter.options.get(name)) != circuit.options[name]:
            return (
                f"The circuit was made with {name} {circuit.options[name]!r}, and this adapter has {ours!r}: "
                "load it alike."
            )
    return ""


def require_same_tokens(circuit: Circuit, inputs: Inputs) -> None:
    """Raise CircuitError where a tokenizer reads the circuit's prompt otherwise."""
    ours, theirs = list(inputs.tokens[0]), list(circuit.tokens)
    if ours != theirs:
        raise CircuitError(f"The circuit's prompt has the tokens {theirs}, and this adapter reads {ours}.")


def circuit_prompts(adapter: Adapter, circuit: Circuit) -> PromptSet:
    """The circuit's own prompts; raises CircuitError where this adapter reads them otherwise, PromptError where it
    can't read them.
    """
    if not circuit.pairs:
        require_same_tokens(circuit, adapter.inputs([circuit.prompt]))
    prompts = align(adapter, circuit.questions, circuit.by or "position", circuit.tokens)
    if prompts.skipped:
        first = prompts.skipped[0]
        raise PromptError(f"The circuit's prompt {first.text!r} can't be used with this adapter: {first.reason}")
    return prompts


def circuit_metric(circuit: Circuit, metric: MetricName | Score | None) -> MetricName | Score:
    """The metric to evaluate a circuit with: the one given, or its own; raises CircuitError if that was a function."""
    if metric is None and circuit.metric.name == CUSTOM:
        raise CircuitError("The circuit's metric was a function, which no file keeps: give it again as metric=.")
    return metric or cast(MetricName, circuit.metric.name)


def by_site(adapter: Adapter, circuit: Circuit, nodes: Sequence[Node]) -> dict[str, list[int]]:
    """The numbers of `nodes` by the name of their site; raises CircuitError for one that is none of the adapter's, or a
    logit.
    """
    sites = {site.write: site for site in adapter.sites}
    numbers: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        site = sites.get(node.hook)
        features = 0 if site is None or site.coder is None else site.coder.d_sae
        there = node.pos < len(circuit.tokens) and (node.index is None or 0 <= node.index < features)
        if site is None or not there:
            raise CircuitError(f"Node {node.id!r} is no part of a site of {adapter.name!r}, so it can't be changed.")
        numbers.setdefault(site.name, []).append(number)
    return numbers


Outputs = Mapping[str | int | None, int]
"""By what a circuit's file knows its logit nodes (an output's index; of many prompts "answer" and "distractor"; None:
all other outputs), and the index that each is numbered with.
"""


def outputs_of(adapter: Adapter, circuit: Circuit) -> Outputs:
    """The logit nodes that the circuit's metric has in this model."""
    if circuit.by is not None:
        return {ANSWER: 0, DISTRACTOR: 1, None: VECTOR}
    asked = tokenize_pairs(adapter, circuit.questions, lambda logits: logits[:, 0]).metric
    named = [*asked.answers[0].tolist(), *asked.distractors[0].tolist()]
    return {None: VECTOR, **{index: index for index in named if index != VECTOR}}


def numbers_of(
    adapter: Adapter, index: NodeIndex, circuit: Circuit, outputs: Outputs
) -> tuple[Int[Tensor, " node"], Int[Tensor, " output"]]:
    """The numbers of a circuit's nodes, -1 for what the adapter can't have, and those of all outputs."""
    which = torch.tensor(list(outputs.values()))
    last = index.number(torch.full_like(which, index.sites), torch.full_like(which, index.positions - 1), which)
    of_output = dict(zip(outputs, last.tolist(), strict=True))
    sizes = {site.write: 0 if site.coder is None else site.coder.d_sae for site in adapter.sites}
    numbers = torch.full((len(circuit.nodes),), -1)
    inner = []
    for n, node in enumerate(circuit.nodes):
        if node.hook == LOGITS:
            known = node.label if circuit.by is not None and node.label in outputs else node.index
            numbers[n] = of_output.get(known, -1)
        elif node.index is None or node.index < sizes[node.hook]:
            inner.append(n)
    numbers[inner] = index.located(adapter, [circuit.nodes[n] for n in inner])
    return numbers, last


Places = tuple[Tensor, Tensor, Tensor, Tensor]
"""Where some nodes of a site lie in a batch, as columns: example, pos, index (or `VECTOR`), the node's number."""


def places(nodes: Sequence[Node], numbers: Sequence[int], table: Int[Tensor, "batch pos"]) -> Places:
    """Where the nodes of these numbers lie; `table` says which group of positions each position belongs to."""
    group = torch.tensor([nodes[number].pos for number in numbers], device=table.device)
    index = torch.tensor([VECTOR if (i := nodes[number].index) is None else i for number in numbers]).to(group)
    which = torch.tensor(numbers).to(group)
    example, pos, n = (table[..., None] == group).nonzero(as_tuple=True)
    return example, pos, index[n], which[n]
