"""How tests of attribution ask for scores, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from typing import Any, get_args

from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import EdgeScores, NodeScores
from circuitlens.literals import MetricName
from circuitlens.prompts.batch import PromptBatch, Score, tokenize
from circuitlens.testing import example_batch
from circuitlens.tracing import Trace, trace

TINY_PROMPTS = [
    ("a b c", "d", "e", "a b f"),
    ("c d e a b", "a", "g", "c d b a b"),
    ("g", "b", "c", "f"),
    ("d d", "a", "b", "d e"),
]
TWO_PROMPTS = TINY_PROMPTS[::2]  # of three tokens and of one


def tiny_batch(adapter: Adapter, prompts: Sequence[tuple[str, str, str, str]] = TINY_PROMPTS) -> PromptBatch:
    """Prompts with an answer, a distractor and a corrupted prompt each; of one to five tokens, if none are given."""
    texts, answers, distractors, others = (list(column) for column in zip(*prompts, strict=True))
    return tokenize(adapter, texts, answers, distractors, others)


def mixed(logits: Tensor) -> Tensor:
    """A metric to which every output counts, and not by its logit alone."""
    return logits[:, 2].tanh() * logits[:, 5] + 0.1 * logits.square().mean(1)


METRICS: dict[str, MetricName | Score] = {
    "custom": mixed,
    **{name: name for name in get_args(MetricName)},
}


def several_answers(adapter: Adapter, name: str) -> PromptBatch:
    """Two prompts and one of METRICS; the first has two answers, the second two distractors (if any)."""
    distractors = None if name in ("logit", "log_probability") else ["e", ["g", "f"]]
    return tokenize(adapter, ["a b", "c"], [["d", "b"], "a"], distractors, ["a f", "e"], METRICS[name])


def traced(adapter: Adapter, batch: PromptBatch, contrastive: bool) -> tuple[Trace, Trace | None]:
    """The clean run, and the corrupted one if scores are to be contrastive."""
    assert batch.corrupted is not None
    clean = trace(adapter, batch.clean, batch.metric)
    return clean, trace(adapter, batch.corrupted, batch.metric, graph=False) if contrastive else None


def scored(adapter: Adapter, batch: PromptBatch, contrastive: bool) -> tuple[Trace, NodeScores]:
    """The clean run and its nodes' gradient × activation (or × change from the corrupted run)."""
    clean, corrupted = traced(adapter, batch, contrastive)
    return clean, score_nodes(clean, corrupted)


def scored_example(adapter: Adapter, contrastive: bool) -> tuple[Trace, NodeScores, EdgeScores]:
    """The clean run of an adapter's own examples, its nodes and all their edges."""
    clean, nodes = scored(adapter, example_batch(adapter), contrastive)
    return clean, nodes, score_edges(clean, nodes)


def matrix(nodes: NodeScores, edges: EdgeScores) -> Tensor:
    """Weights, `[source, target]`."""
    weights = nodes.delta.new_zeros(len(nodes.site), len(nodes.site))
    return weights.index_put((edges.source, edges.target), edges.weight)


Table = tuple[dict[Any, float], dict[Any, float]]


def tables(nodes: NodeScores, edges: EdgeScores, first: list[int]) -> list[Table]:
    """Each example's node and edge scores, with positions counted from its first token."""
    rows = list(zip(*(column.tolist() for column in (nodes.example, nodes.site, nodes.pos, nodes.index)), strict=True))
    keys = [(s, p - first[b], i) for b, s, p, i in rows]
    found: list[Table] = [({}, {}) for _ in first]
    for key, row, score in zip(keys, rows, nodes.attribution.tolist(), strict=True):
        found[row[0]][0][key] = score
    for u, d, w in zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True):
        found[rows[u][0]][1][keys[u], keys[d]] = w
    return found


def assert_same_tables(ours: Table, theirs: Table, layout: str = "") -> None:
    """Equal scores, counting what is missing as 0 (rounding decides whether an effect of 1e-17 is an edge)."""
    rounding = 1e-5 if layout == "toy32" else 1e-9
    for one, other in zip(ours, theirs, strict=True):
        for key in one.keys() | other.keys():
            a, b = one.get(key, 0.0), other.get(key, 0.0)
            assert isclose(a, b, rel_tol=max(1e-6, rounding), abs_tol=rounding), (key, a, b)
