"""Prompt in, circuit out: the stages in their order."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import get_args

import torch
from pydantic import ValidationError
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter
from circuitlens.attribution import VECTOR, EdgeScores, NodeScores, conservation_residual, score_edges, score_nodes
from circuitlens.circuit import Circuit, Edge, Method, Metric, Node, Output
from circuitlens.errors import AdapterError, PromptError
from circuitlens.prompts import ask
from circuitlens.tracing import trace

log = logging.getLogger(__name__)

ROUNDING = 1e4
"""How many units of rounding (eps of the dtype, relative to the largest attribution) conservation may be off by."""


def find(
    adapter: Adapter,
    prompt: str,
    answer: str,
    distractor: str | None = None,
    corrupted: str | None = None,
    method: Method | None = None,
) -> Circuit:
    """Find the circuit by which the adapter's model answers `prompt`.

    Args:
        adapter: a model with its sparse coders, from `circuitlens.load`.
        prompt: what the model reads.
        answer: the output whose logit is explained.
        distractor: the output it is set against (logit difference); without one, the answer's logit alone.
        corrupted: a prompt that differs in what matters, token by token as long as `prompt`.
        method: "gradient" scores the change from zero, "contrastive" that from the corrupted prompt; by default the
            second where there is a corrupted prompt, else the first.

    Returns:
        The whole circuit, unpruned: every active node, and every edge that is not 0.

    Raises:
        PromptError: a prompt or answer can't be read, or the method does not fit what is given.
    """
    method = method or ("gradient" if corrupted is None else "contrastive")
    if method not in get_args(Method):
        raise PromptError(f"There is no method {method!r}: choose one of {', '.join(get_args(Method))}.")
    if method == "contrastive" and corrupted is None:
        raise PromptError("The method 'contrastive' compares with a corrupted prompt: give one, or use 'gradient'.")

    # Notebooks of this field often switch gradients off for good.
    with torch.inference_mode(False), torch.enable_grad():
        return _find(adapter, prompt, answer, distractor, corrupted, method)


def _find(
    adapter: Adapter, prompt: str, answer: str, distractor: str | None, corrupted: str | None, method: Method
) -> Circuit:
    question = ask(
        adapter,
        [prompt],
        [answer],
        None if distractor is None else [distractor],
        None if corrupted is None else [corrupted],
    )
    clean = trace(adapter, question.clean, question.metric)
    other = None
    if question.corrupted is not None:
        other = trace(adapter, question.corrupted, question.metric, graph=False)
    if not (torch.isfinite(clean.metric).all() and (other is None or torch.isfinite(other.metric).all())):
        raise AdapterError(f"The model's logits for {prompt!r} are not finite, so nothing can be attributed to them.")
    nodes = score_nodes(clean, other if method == "contrastive" else None)
    edges = score_edges(clean, nodes)

    if not (torch.isfinite(nodes.attribution).all() and torch.isfinite(edges.weight).all()):
        raise AdapterError(f"The model's gradients for {prompt!r} are not finite, so no circuit can be made of them.")
    residual = conservation_residual(nodes, edges)
    largest = nodes.attribution.abs().max().item() if len(nodes.attribution) else 0.0
    if residual > ROUNDING * torch.finfo(nodes.delta.dtype).eps * largest:
        log.warning(
            "Attributions are not conserved: a node and its edges differ by %.1e, with attributions up to %.1e."
            " A coder's rows may not be its derivatives, or %s is too coarse.",
            residual,
            largest,
            nodes.delta.dtype,
        )
    try:
        plain = _nodes(adapter, nodes, edges, offset=int(question.clean.first[0]))
        return Circuit(
            created_by=f"circuitlens {version('circuitlens')}",
            adapter=adapter.name,
            prompt=prompt,
            corrupted=corrupted,
            tokens=question.clean.tokens[0],
            metric=Metric(
                name="logit" if distractor is None else "logit_difference",
                answers=_outputs(answer, question.metric.answer),
                distractors=_outputs(distractor, question.metric.distractor),
                value=clean.metric.item(),
                corrupted_value=None if other is None else other.metric.item(),
            ),
            method=method,
            conservation_residual=residual,
            nodes=tuple(plain.values()),
            edges=_edges(plain, edges),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise AdapterError(
            f"Adapter {adapter.name!r} names parts of its model so that they make no circuit: "
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}."
        ) from error


def _outputs(text: str | None, index: Tensor | None) -> tuple[Output, ...]:
    return () if text is None or index is None else (Output(text=text, index=int(index[0])),)


def _nodes(adapter: Adapter, scores: NodeScores, edges: EdgeScores, offset: int) -> dict[int, Node]:
    """Plain nodes by their rows, without those that are 0, change nothing and have no edge.

    Positions count from the first token, not from the padding.
    """
    alive = (scores.activation != 0) | (scores.delta != 0) | (scores.site == len(adapter.sites))
    alive[edges.source] = alive[edges.target] = True
    columns = (scores.site, scores.pos - offset, scores.index, scores.activation, scores.attribution)
    rows = zip(alive.nonzero()[:, 0].tolist(), *(column[alive].tolist() for column in columns), strict=True)
    return {row: _node(adapter, *values) for row, *values in rows}


def _node(adapter: Adapter, s: int, pos: int, index: int, activation: float, attribution: float) -> Node:
    if s == len(adapter.sites):
        name, kind, hook, label, url = LOGITS, "logit", LOGITS, adapter.output_label(index), None
        layer = max(site.layer for site in adapter.sites) + 1
    else:
        site = adapter.sites[s]
        name, hook, layer = site.name, site.write, site.layer
        if index == VECTOR:
            kind = "embedding" if site.coder is None else "error"
            label, url = kind, None
        else:
            kind, label, url = site.kind, adapter.label(site, index), adapter.url(site, index)
    return Node(
        id=f"{name}:{pos}:{kind if index == VECTOR else index}",
        kind=kind,
        hook=hook,
        layer=layer,
        pos=pos,
        index=None if index == VECTOR else index,
        label=label,
        activation=activation,
        attribution=attribution,
        url=url,
    )


def _edges(nodes: dict[int, Node], scores: EdgeScores) -> tuple[Edge, ...]:
    """Plain edges, strongest first."""
    order = scores.weight.abs().argsort(descending=True, stable=True)
    columns = (column[order].tolist() for column in (scores.source, scores.target, scores.weight))
    return tuple(Edge(source=nodes[u].id, target=nodes[d].id, weight=w) for u, d, w in zip(*columns, strict=True))
