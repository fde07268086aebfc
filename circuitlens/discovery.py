"""Prompt in, circuit out: the stages in their order."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import get_args

import torch
from jaxtyping import Bool
from pydantic import ValidationError
from torch import Tensor
from tqdm.auto import tqdm

from circuitlens.adapter import LOGITS, Adapter
from circuitlens.attribution import VECTOR, EdgeScores, NodeScores, conservation_residual, score_edges, score_nodes
from circuitlens.circuit import Circuit, Edge, Found, Method, Metric, Node, Output
from circuitlens.errors import AdapterError, PromptError
from circuitlens.prompts import MetricName, Outputs, Question, Score, ask
from circuitlens.tracing import trace

log = logging.getLogger(__name__)

MAX_NODES, MAX_EDGES = 500, 10_000
"""What is kept of a circuit unless one asks for more: what a page can show and a person can search."""

ROUNDING = 1e4
"""How many units of rounding (eps of the dtype, relative to the largest attribution) conservation may be off by."""

COARSE = 0.05
"""The share of the largest attribution that it may be off by in any dtype."""


def find(
    adapter: Adapter,
    prompt: str,
    answer: Outputs,
    distractor: Outputs | None = None,
    corrupted: str | None = None,
    method: Method | None = None,
    *,
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    max_nodes: int | None = MAX_NODES,
    max_edges: int | None = MAX_EDGES,
) -> Circuit:
    """Find the circuit by which the adapter's model answers `prompt`.

    Args:
        adapter: a model with its sparse coders, from `circuitlens.load` or `circuitlens.wrap`.
        prompt: what the model reads.
        answer: the output to explain, or several that count together.
        distractor: the output or outputs it is set against.
        corrupted: a prompt that differs in what matters, token by token as long as `prompt`.
        method: "gradient" scores the change from zero, "contrastive" that from the corrupted prompt; by default the
            second where there is a corrupted prompt, else the first.
        metric: what is explained, by name (`circuitlens.prompts.ask` lists them) or as a function of the logits at the
            last position, `[batch, output]` to `[batch]`; by default the logit difference where there is a distractor,
            else the answer's logit.
        frozen: take attention patterns and layer-norm scales for constants, so that edges say what is moved and
            not what moves where. Without it every derivative is the model's own.
        max_nodes: how many nodes to keep beside the logits, the strongest by |attribution|; None keeps all.
        max_edges: how many edges between them to keep, the strongest by |weight|; None keeps all.

    Returns:
        The circuit. `circuit.found` says how much there was before the strongest were taken.

    Raises:
        PromptError: a prompt or answer can't be read, or the method or metric does not fit what is given.
        AdapterError: the adapter does not keep its contract, or its model's numbers are not finite.
    """
    method = method or ("gradient" if corrupted is None else "contrastive")
    if method not in get_args(Method):
        raise PromptError(f"There is no method {method!r}: choose one of {', '.join(get_args(Method))}.")
    if method == "contrastive" and corrupted is None:
        raise PromptError("The method 'contrastive' compares with a corrupted prompt: give one, or use 'gradient'.")
    for name, count in (("max_nodes", max_nodes), ("max_edges", max_edges)):
        if count is not None and count < 0:
            raise PromptError(f"{name} is {count}: give a count of 0 or more, or None for all.")

    # Notebooks of this field often switch gradients off for good.
    with torch.inference_mode(False), torch.enable_grad():
        question = ask(
            adapter,
            [prompt],
            [answer],
            None if distractor is None else [distractor],
            None if corrupted is None else [corrupted],
            metric,
        )
        nodes, edges, residual, values, kept = _score(adapter, question, method, frozen, max_nodes)
    alive = _alive(nodes, edges) & (nodes.site < len(adapter.sites))
    coded = [s for s, site in enumerate(adapter.sites) if site.kind == "feature"]
    features = alive & (nodes.index != VECTOR) & torch.isin(nodes.site, nodes.site.new_tensor(coded))
    chosen = edges.weight.abs().argsort(descending=True, stable=True)[:max_edges]
    try:
        plain = _nodes(adapter, nodes, edges, kept, offset=int(question.clean.first[0]))
        return Circuit(
            created_by=f"circuitlens {version('circuitlens')}",
            adapter=adapter.name,
            options=adapter.options,
            prompt=prompt,
            corrupted=corrupted,
            tokens=question.clean.tokens[0],
            metric=Metric(
                name=question.metric.name,
                answers=_outputs(answer, question.metric.answers),
                distractors=_outputs(distractor or (), question.metric.distractors),
                value=values[0],
                corrupted_value=values[1],
            ),
            method=method,
            frozen=frozen,
            found=Found(
                nodes=int(alive.sum()),
                features=int(features.sum()),
                attribution=nodes.attribution[alive].abs().sum().item(),
                edges=len(edges.weight),
            ),
            conservation_residual=residual,
            nodes=tuple(plain.values()),
            edges=_edges(plain, edges, chosen),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise AdapterError(
            f"Adapter {adapter.name!r} names parts of its model so that they make no circuit: "
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}."
        ) from error


def _score(
    adapter: Adapter, question: Question, method: Method, frozen: bool, max_nodes: int | None
) -> tuple[NodeScores, EdgeScores, float, tuple[float, float | None], Tensor]:
    """Nodes, edges between the kept ones, the conservation residual, the metric (clean, corrupted), and who is kept."""
    # Shown on a terminal or in a notebook, and only where it takes a while.
    with tqdm(total=len(adapter.sites) + 3, delay=1, disable=None, leave=False, unit="step") as bar:

        def stage(name: str) -> None:
            bar.set_description_str(name, refresh=False)
            bar.update()

        clean = trace(adapter, question.clean, question.metric, frozen=frozen)
        stage("clean run")
        other = None
        if question.corrupted is not None:
            other = trace(adapter, question.corrupted, question.metric, graph=False)
        stage("corrupted run")
        for value in (clean.metric, clean.metric if other is None else other.metric):
            if not torch.isfinite(value).all():
                raise AdapterError(
                    f"The metric {question.metric.name!r} is not finite ({value.item()}), so nothing can be attributed "
                    "to it. The model's logits overflow, or the metric divides by 0."
                )
        if not clean.metric.requires_grad:
            raise PromptError(
                f"The metric {question.metric.name!r} has no gradient in the logits, so nothing can be attributed to "
                "it: give a differentiable function, without argmax, rounding or constants."
            )
        nodes = score_nodes(clean, other if method == "contrastive" else None)
        kept = strongest(nodes, max_nodes)
        stage("nodes")
        edges = score_edges(clean, nodes, kept, on_site=lambda: stage("edges"))
    if not (torch.isfinite(nodes.attribution).all() and torch.isfinite(edges.weight).all()):
        raise AdapterError("The model's gradients are not finite, so no circuit can be made of them.")
    residual = conservation_residual(nodes, edges, kept)
    largest = nodes.attribution.abs().max().item() if len(nodes.attribution) else 0.0
    if residual > min(ROUNDING * torch.finfo(nodes.delta.dtype).eps, COARSE) * largest:
        log.warning(
            "Attributions are not conserved: a node and its edges differ by %.1e, with attributions up to %.1e."
            " A coder's rows may not be its derivatives, or %s is too coarse.",
            residual,
            largest,
            nodes.delta.dtype,
        )
    return nodes, edges, residual, (clean.metric.item(), None if other is None else other.metric.item()), kept


def strongest(nodes: NodeScores, count: int | None) -> Bool[Tensor, " node"]:
    """Marks the `count` nodes of largest |attribution|, and all logit nodes; every node for None."""
    logits = nodes.site == len(nodes.totals)
    if count is None or count >= int((~logits).sum()):
        return torch.ones_like(logits)
    order = nodes.attribution.abs().masked_fill(logits, -1).argsort(descending=True, stable=True)[:count]
    return logits.index_put((order,), torch.ones_like(order, dtype=torch.bool))


def _outputs(texts: Outputs, index: Tensor) -> tuple[Output, ...]:
    texts = (texts,) if isinstance(texts, str) else texts
    return tuple(Output(text=text, index=i) for text, i in zip(texts, index[0].tolist(), strict=True))


def _nodes(adapter: Adapter, scores: NodeScores, edges: EdgeScores, kept: Tensor, offset: int) -> dict[int, Node]:
    """Plain nodes by their rows: the kept ones, without those that do not change and have no edge.

    Positions count from the first token, not from the padding.
    """
    alive = (_alive(scores, edges) | (scores.site == len(adapter.sites))) & kept
    columns = (scores.site, scores.pos - offset, scores.index, scores.activation, scores.attribution)
    rows = zip(alive.nonzero()[:, 0].tolist(), *(column[alive].tolist() for column in columns), strict=True)
    return {row: _node(adapter, *values) for row, *values in rows}


def _alive(scores: NodeScores, edges: EdgeScores) -> Tensor:
    """Marks what changes, or passes on what does."""
    alive = scores.delta != 0
    alive[edges.source] = alive[edges.target] = True
    return alive


def _node(adapter: Adapter, s: int, pos: int, index: int, activation: float, attribution: float) -> Node:
    if s == len(adapter.sites):
        name, kind, hook, url = LOGITS, "logit", LOGITS, None
        label = "all other outputs" if index == VECTOR else adapter.output_label(index)
        layer = max(site.layer for site in adapter.sites) + 1
    else:
        site = adapter.sites[s]
        name, hook, layer = site.name, site.write, site.layer
        if index == VECTOR:
            beside = any(
                other.layer == layer and other.coder is not None for other in adapter.sites if other is not site
            )
            what = f"{hook.rsplit('.', 1)[-1].removeprefix('hook_')} error" if beside else "error"
            kind, label, url = ("embedding", name, None) if site.coder is None else ("error", what, None)
        else:
            kind, label, url = site.kind, adapter.label(site, index), adapter.url(site, index)
    return Node(
        id=f"{name}:{pos}:{index if index != VECTOR else 'other' if kind == 'logit' else kind}",
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


def _edges(nodes: dict[int, Node], scores: EdgeScores, chosen: Tensor) -> tuple[Edge, ...]:
    """Plain edges, in the order of `chosen`."""
    columns = (column[chosen].tolist() for column in (scores.source, scores.target, scores.weight))
    return tuple(Edge(source=nodes[u].id, target=nodes[d].id, weight=w) for u, d, w in zip(*columns, strict=True))
