"""Pairs of prompts, circuits found on them, and some of their nodes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from circuitlens_toy.grammar import VERBS
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.node_index import VECTOR
from circuitlens.circuit import Circuit, Node
from circuitlens.evaluation.faithfulness import INPUTS
from circuitlens.literals import AblationKind, MethodName
from circuitlens.pipeline.assembly import make_node
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.words import NOUNS, plural_of


def pair(
    prompt: str, corrupted: str | None = None, answer: Any = "d", distractor: Any = "e", roles: Sequence[str] = ()
) -> Pair:
    """A pair of a `TinyTransformer`'s words."""
    return Pair.model_validate(
        {"prompt": prompt, "corrupted": corrupted, "answer": answer, "distractor": distractor, "roles": tuple(roles)}
    )


PAIRS = [
    pair("a b c", "a b f"),
    pair("c d e", "c d b", "a", "g"),
    pair("g a b", "f a b", ["b", "c"], "d"),
    pair("d d a", "d c a"),
    pair("b c d", "b c e", "g", ["a", "f"]),
]


def toy_pairs(count: int) -> list[Pair]:
    """Singular and plural sentences in turn, each against its other number."""
    made = []
    for noun, verb in product(sorted(NOUNS), sorted(VERBS)):
        one, many = f"The {noun} {verb}", f"The {plural_of(noun)} {verb}"
        made += [pair(one, many, "runs", "run"), pair(many, one, "run", "runs")]
    random.Random(0).shuffle(made)
    return made[:count]


def inner(circuit: Circuit) -> list[Node]:
    """All nodes but the logits."""
    return [n for n in circuit.nodes if n.kind != "logit"]


def example_circuit(adapter: Adapter, method: MethodName | None = "gradient", **more: Any) -> Circuit:
    """The circuit of an adapter's first example."""
    example = adapter.examples[0]
    return circuitlens.find(
        adapter, example.prompt, example.answer, example.distractor, example.corrupted, method, **more
    )


def strongest_feature(circuit: Circuit) -> Node:
    """The toy's feature on the strongest path."""
    return next(node for node in circuit.strongest_path().nodes if node.kind == "feature")


FOUND: dict[tuple[str, str], Circuit] = {}


def toy_circuit(adapter: Adapter, prompt: str, method: MethodName = "gradient") -> Circuit:
    """A circuit of the toy, found once: hypothesis asks for it a hundred times."""
    if (prompt, method) not in FOUND:
        ours, theirs, other = ("run", "runs", "The cat") if prompt == "The cats" else ("runs", "run", "The cats")
        FOUND[prompt, method] = circuitlens.find(adapter, prompt, ours, theirs, other, method)
    return FOUND[prompt, method]


def ablatable_circuit(adapter: Adapter, ablation: AblationKind = "corrupted") -> tuple[Circuit, list[Node]]:
    """The circuit of an adapter's first example with every node that the ablation changes, and those nodes."""
    example = adapter.examples[0]
    method: MethodName = "gradient" if ablation == "zero" else "contrastive"
    circuit = circuitlens.find(
        adapter,
        example.prompt,
        example.answer,
        example.distractor,
        example.corrupted,
        method,
        max_nodes=None,
        max_edges=0,
    )
    kinds = {site.write: site.kind for site in adapter.sites}
    return circuit, [n for n in circuit.nodes if n.kind != "logit" and kinds[n.hook] not in INPUTS]


def everything(adapter: Adapter, positions: int) -> list[Node]:
    """All features, active or not, and errors of all sites but inputs."""
    return [
        make_node(adapter, s, pos, index, 0.0, 0.0)
        for s, site in enumerate(adapter.sites)
        if site.kind not in INPUTS and site.coder is not None
        for pos in range(positions)
        for index in [VECTOR, *range(site.coder.d_sae)]
    ]


def half(nodes: list[Node], seed: int = 0) -> Tensor:
    """A random half of the nodes, as one row."""
    return torch.rand(1, len(nodes), generator=torch.Generator().manual_seed(seed)) < 0.5
