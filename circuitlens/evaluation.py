"""Evidence: what the model really does when nodes of a circuit are switched off.

An ablation runs the model with the chosen nodes set to where attribution measures from: zero, or their value in the
corrupted run. Features downstream are those of the changed stream; nothing is linearised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from circuitlens.adapter import Adapter, Site
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError
from circuitlens.features import check_made_by, check_tokens
from circuitlens.prompts import CUSTOM, MetricName, Score, ask
from circuitlens.tracing import Decode, Edit, run_spliced


@dataclass(frozen=True)
class Ablation:
    """The metric with nothing changed and with the nodes ablated, and the drop that attribution predicts."""

    nodes: tuple[Node, ...]
    before: float
    after: float
    predicted: float

    @property
    def measured(self) -> float:
        """How far the metric fell."""
        return self.before - self.after


def ablate(
    adapter: Adapter, circuit: Circuit, node_ids: Iterable[str], metric: MetricName | Score | None = None
) -> Ablation:
    """Switch nodes of a circuit off together in the real model, and compare with the sum of their attributions.

    `metric` is needed where the circuit's was a function of one's own; the same function is to be given again.

    Raises:
        CircuitError: the circuit was made by another adapter, lacks a node, a node can't be ablated (a logit), or its
            metric is not known.
        PromptError: the circuit's prompts can't be read.
    """
    check_made_by(adapter, circuit)
    nodes = tuple(circuit.node(node_id) for node_id in dict.fromkeys(node_ids))
    if metric is None and circuit.metric.name == CUSTOM:
        raise CircuitError("The circuit's metric was a function, which no file keeps: give it again as metric=.")
    question = ask(
        adapter,
        [circuit.prompt],
        [[output.text for output in circuit.metric.answers]],
        [[output.text for output in circuit.metric.distractors]] if circuit.metric.distractors else None,
        None if circuit.corrupted is None else [circuit.corrupted],
        metric or cast(MetricName, circuit.metric.name),
    )
    check_tokens(circuit, question.clean)
    offset = int(question.clean.first[0])

    sites = {site.write: site for site in adapter.sites}
    chosen: dict[str, list[Node]] = {}
    for node in nodes:
        site = sites.get(node.hook)
        if site is None or not _fits(node, site, len(circuit.tokens)):
            raise CircuitError(f"Node {node.id!r} is no part of a site of {adapter.name!r}, so it can't be ablated.")
        chosen.setdefault(site.name, []).append(node)
    baseline: dict[str, Baseline] = {}
    if question.corrupted is not None and circuit.method == "contrastive":
        run_spliced(adapter, question.corrupted, {name: _keep(baseline, name) for name in chosen})
    edits = {name: _set_to(baseline.get(name), of_site, offset) for name, of_site in chosen.items()}
    before = question.metric(run_spliced(adapter, question.clean, {})).item()
    after = question.metric(run_spliced(adapter, question.clean, edits)).item()
    return Ablation(nodes, before, after, sum((node.attribution for node in nodes), 0.0))


def _fits(node: Node, site: Site, positions: int) -> bool:
    features = 0 if site.coder is None else site.coder.d_sae
    return node.pos < positions and (node.index is None or node.index < features)


Baseline = tuple[Tensor | None, Tensor]
"""A site's features and whole activation in the corrupted run."""


def _keep(store: dict[str, Baseline], name: str) -> Edit:
    def keep(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        store[name] = features, error if features is None else decode(features) + error
        return features, error

    return keep


def _set_to(baseline: Baseline | None, nodes: list[Node], offset: int) -> Edit:
    """An edit that sets nodes of one site to their baseline, or to zero without one; others stay."""

    def edit(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        features, error = None if features is None else features.clone(), error.clone()
        if baseline is None:
            other_features = None if features is None else torch.zeros_like(features)
            other_error = torch.zeros_like(error)
        else:
            other_features, other_error = baseline
            if other_features is not None:
                # What the corrupted features leave over when they are decoded in this run.
                other_error = other_error - decode(other_features)
        for node in nodes:
            pos = node.pos + offset
            if node.index is None:
                error[:, pos] = other_error[:, pos]
            else:
                assert features is not None, "a node with an index is a coder's feature"
                assert other_features is not None, "a site has a coder in both runs or in none"
                features[:, pos, node.index] = other_features[:, pos, node.index]
        return features, error

    return edit
