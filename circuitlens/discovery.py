"""Prompt in, circuit out: the stages in their order."""

from __future__ import annotations

from importlib.metadata import version
from typing import get_args

import torch

from circuitlens import circuit as document
from circuitlens.adapter import Adapter
from circuitlens.attribution import VECTOR, EdgeScores, NodeScores, conservation_residual, score_edges, score_nodes
from circuitlens.circuit import Circuit, Edge, Method, Node
from circuitlens.errors import AdapterError, PromptError
from circuitlens.prompts import ask
from circuitlens.tracing import trace


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

    def label(output: int) -> str:
        return adapter.output_label(output)

    measured = document.Metric(
        name="logit" if question.metric.distractor is None else "logit_difference",
        answers=(label(int(question.metric.answer[0])),),
        distractors=() if question.metric.distractor is None else (label(int(question.metric.distractor[0])),),
        value=clean.metric.item(),
        corrupted_value=None if other is None else other.metric.item(),
    )
    plain = _nodes(adapter, nodes, offset=int(question.clean.first[0]))
    return Circuit(
        created_by=f"circuitlens {version('circuitlens')}",
        adapter=adapter.name,
        prompt=prompt,
        corrupted=corrupted,
        tokens=question.clean.tokens[0],
        metric=measured,
        method=method,
        conservation_residual=conservation_residual(nodes, edges),
        nodes=plain,
        edges=_edges(plain, edges),
    )


def _nodes(adapter: Adapter, scores: NodeScores, offset: int) -> tuple[Node, ...]:
    """Plain nodes, row for row; positions count from the first token, not from the padding."""
    columns = (scores.site, scores.pos, scores.index, scores.activation, scores.attribution)
    top = max(site.layer for site in adapter.sites) + 1
    nodes = []
    for s, padded_pos, index, activation, attribution in zip(*(column.tolist() for column in columns), strict=True):
        pos, numbers = padded_pos - offset, {"activation": activation, "attribution": attribution}
        if s == len(adapter.sites):
            nodes.append(
                Node(
                    id=f"logits:{pos}:{index}",
                    kind="logit",
                    hook="logits",
                    layer=top,
                    pos=pos,
                    index=index,
                    label=adapter.output_label(index),
                    **numbers,
                )
            )
            continue
        site = adapter.sites[s]
        vector = index == VECTOR
        kind = site.kind if not vector or site.coder is None else "error"
        nodes.append(
            Node(
                id=f"{site.name}:{pos}:{kind if vector else index}",
                kind=kind,
                hook=site.write,
                layer=site.layer,
                pos=pos,
                index=None if vector else index,
                label=kind if vector else adapter.label(site, index),
                url=None if vector else adapter.url(site, index),
                **numbers,
            )
        )
    return tuple(nodes)


def _edges(nodes: tuple[Node, ...], scores: EdgeScores) -> tuple[Edge, ...]:
    """Plain edges, strongest first."""
    order = scores.weight.abs().argsort(descending=True, stable=True)
    columns = (column[order].tolist() for column in (scores.source, scores.target, scores.weight))
    return tuple(Edge(source=nodes[u].id, target=nodes[d].id, weight=w) for u, d, w in zip(*columns, strict=True))
