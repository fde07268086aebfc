"""Prompt in, circuit out: the stages in their order."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch
from pydantic import ValidationError
from torch import Tensor
from tqdm.auto import tqdm

from circuitlens.adapter import LOGITS, Adapter
from circuitlens.attribution.gradient import VECTOR, EdgeScores, NodeScores
from circuitlens.attribution.methods import check_method, connect, measured, score, stages, strongest
from circuitlens.circuit import Circuit, Edge, FullGraphSize, MetricRecord, Node, Output
from circuitlens.errors import AdapterError, PromptError
from circuitlens.literals import MethodName, MetricName
from circuitlens.prompts.batch import Outputs, Score, tokenize

MAX_NODES, MAX_EDGES = 500, 10_000
"""What is kept of a circuit unless one asks for more: what a page can show and a person can search."""

ProgressCallback = Callable[[str, int, int], object]
"""Told the name of a stage of the work, how many steps are done, and how many there are; what it raises ends the work.
"""


def find(
    adapter: Adapter,
    prompt: str,
    answer: Outputs,
    distractor: Outputs | None = None,
    corrupted: str | None = None,
    method: MethodName | None = None,
    *,
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    max_nodes: int | None = MAX_NODES,
    max_edges: int | None = MAX_EDGES,
    progress: ProgressCallback | None = None,
) -> Circuit:
    """Find the circuit by which the adapter's model answers `prompt`.

    Args:
        adapter: a model with its sparse coders, from `circuitlens.load` or `circuitlens.wrap`.
        prompt: what the model reads.
        answer: the output to explain, or several that count together.
        distractor: the output or outputs it is set against.
        corrupted: a prompt that differs in what matters, token by token as long as `prompt`.
        method: "gradient" scores the change from zero and "contrastive" that from the corrupted prompt, both by the
            gradient at the prompt; "ig" integrates the gradient on the way between the two; "exact" sets each of the
            kept nodes back for real. By default "ig" where there is a corrupted prompt ("contrastive" if frozen), else
            "gradient".
        metric: what is explained, by name (`circuitlens.prompts.batch` lists them) or a function of the logits at the
            last position, `[batch, output]` to `[batch]`; by default the logit difference where there is a distractor,
            else the answer's logit.
        frozen: take attention patterns and layer-norm scales for constants, so that edges say what is moved and
            not what moves where. Without it every derivative is the model's own.
        max_nodes: how many nodes to keep beside the logits, the strongest by |attribution|; None keeps all.
        max_edges: how many edges between them to keep, the strongest by |weight|; None keeps all.
        progress: told the name of each stage as it ends, the steps done and the steps in all; what it raises ends the
            work and comes out.

    Returns:
        The circuit. `circuit.found` says how much there was before the strongest were taken.

    Raises:
        PromptError: a prompt or answer can't be read, or the method or metric does not fit what is given.
        AdapterError: the adapter does not keep its contract, or its model's numbers are not finite.
    """
    method = check_method(method, corrupted is not None, frozen)
    for name, count in (("max_nodes", max_nodes), ("max_edges", max_edges)):
        if count is not None and count < 0:
            raise PromptError(f"{name} is {count}: give a count of 0 or more, or None for all.")

    # Notebooks of this field often switch gradients off for good.
    with torch.inference_mode(False), torch.enable_grad():
        question = tokenize(
            adapter,
            [prompt],
            [answer],
            None if distractor is None else [distractor],
            None if corrupted is None else [corrupted],
            metric,
        )
        # Shown on a terminal or in a notebook, and only where it takes a while.
        steps = stages(adapter, method) + (method == "exact")
        with tqdm(total=steps, delay=1, disable=None, leave=False, unit="step") as bar:
            done = 0

            def tell(name: str, more: int = 1) -> None:
                nonlocal done
                done += more
                bar.set_description_str(name, refresh=False)
                bar.update(more)
                if progress is not None:
                    progress(name, done, steps)

            scored = score(adapter, question, method, frozen, tell)
            nodes, attribution = scored.nodes, scored.attribution
            kept = strongest(nodes, attribution, max_nodes)
            if method == "exact":
                # Between its runs too, so that one may end it: it is the longest stage.
                attribution = measured(adapter, scored, kept, lambda _: tell("patching", 0))
                tell("patching")
            edges, residual = connect(adapter, scored, method, kept, tell)
    other = scored.corrupted
    alive = _alive(nodes, edges) & (nodes.site < len(adapter.sites))
    coded = [s for s, site in enumerate(adapter.sites) if site.kind == "feature"]
    features = alive & (nodes.index != VECTOR) & torch.isin(nodes.site, nodes.site.new_tensor(coded))
    chosen = edges.weight.abs().argsort(descending=True, stable=True)[:max_edges]
    try:
        plain = _nodes(adapter, nodes, attribution, edges, kept, offset=int(question.clean.first[0]))
        return Circuit(
            created_by=f"circuitlens {version('circuitlens')}",
            adapter=adapter.name,
            options=adapter.options,
            prompt=prompt,
            corrupted=corrupted,
            tokens=question.clean.tokens[0],
            metric=MetricRecord(
                name=question.metric.name,
                answers=_outputs(answer, question.metric.answers),
                distractors=_outputs(distractor or (), question.metric.distractors),
                value=scored.clean.metric.item(),
                corrupted_value=None if other is None else other.metric.item(),
            ),
            method=method,
            frozen=frozen,
            found=FullGraphSize(
                nodes=int(alive.sum()),
                features=int(features.sum()),
                attribution=attribution[alive].abs().sum().item(),
                edges=len(edges.weight),
            ),
            completeness_gaps=completeness_gaps(adapter, method, scored.gaps[0].tolist()),
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


def _outputs(texts: Outputs, index: Tensor) -> tuple[Output, ...]:
    texts = (texts,) if isinstance(texts, str) else texts
    return tuple(Output(text=text, index=i) for text, i in zip(texts, index[0].tolist(), strict=True))


def _nodes(
    adapter: Adapter, scores: NodeScores, attribution: Tensor, edges: EdgeScores, kept: Tensor, offset: int
) -> dict[int, Node]:
    """Plain nodes by their rows: the kept ones, without those that do not change and have no edge.

    Positions count from the first token, not from the padding.
    """
    alive = (_alive(scores, edges) | (scores.site == len(adapter.sites))) & kept
    columns = (scores.site, scores.pos - offset, scores.index, scores.activation, attribution)
    rows = zip(alive.nonzero()[:, 0].tolist(), *(column[alive].tolist() for column in columns), strict=True)
    return {row: node(adapter, *values) for row, *values in rows}


def _alive(scores: NodeScores, edges: EdgeScores) -> Tensor:
    """Marks what changes, or passes on what does."""
    alive = scores.delta != 0
    alive[edges.source] = alive[edges.target] = True
    return alive


def node(
    adapter: Adapter,
    s: int,
    pos: int,
    index: int,
    activation: float,
    attribution: float,
    *,
    standard_error: float | None = None,
    logit: str | None = None,
) -> Node:
    """A plain node by its site's number, position and index (or `VECTOR`); `logit` names a logit that is many."""
    number: int | None = index if index != VECTOR else None
    if s == len(adapter.sites):
        name, kind, hook, url = LOGITS, "logit", LOGITS, None
        label = logit or ("all other outputs" if number is None else adapter.output_label(index))
        layer = max(site.layer for site in adapter.sites) + 1
        number = None if logit else number
    else:
        site = adapter.sites[s]
        name, hook, layer = site.name, site.write, site.layer
        if number is None:
            beside = any(
                other.layer == layer and other.coder is not None for other in adapter.sites if other is not site
            )
            what = f"{hook.rsplit('.', 1)[-1].removeprefix('hook_')} error" if beside else "error"
            kind, label, url = ("embedding", name, None) if site.coder is None else ("error", what, None)
        else:
            kind, label, url = site.kind, adapter.label(site, index), adapter.url(site, index)
    which = logit or ("other" if kind == "logit" else kind)
    return Node(
        id=f"{name}:{pos}:{which if number is None else number}",
        kind=kind,
        hook=hook,
        layer=layer,
        pos=pos,
        index=number,
        label=label,
        activation=activation,
        attribution=attribution,
        standard_error=standard_error,
        url=url,
    )


def completeness_gaps(adapter: Adapter, method: MethodName, gaps: list[float]) -> dict[str, float]:
    """The gaps by site, of the methods that have any."""
    return (
        {} if method in ("gradient", "contrastive") else {s.name: g for s, g in zip(adapter.sites, gaps, strict=True)}
    )


def _edges(nodes: dict[int, Node], scores: EdgeScores, chosen: Tensor) -> tuple[Edge, ...]:
    """Plain edges, in the order of `chosen`."""
    columns = (column[chosen].tolist() for column in (scores.source, scores.target, scores.weight))
    return tuple(Edge(source=nodes[u].id, target=nodes[d].id, weight=w) for u, d, w in zip(*columns, strict=True))
