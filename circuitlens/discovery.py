"""Prompts in, circuit out: `find` for one prompt, `aggregate` for many, over the same pipeline."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from circuitlens.adapter import Adapter
from circuitlens.attribution.methods import choose_method, measures_edges
from circuitlens.circuit import Circuit
from circuitlens.errors import PromptError
from circuitlens.literals import MethodName, MetricName, PositionGrouping
from circuitlens.pipeline import BATCH, Search, run
from circuitlens.progress import ProgressCallback
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.batch import Outputs, Score, output_texts, tokenize
from circuitlens.prompts.pairs import Pair
from circuitlens.runfolder import run_in_folder
from circuitlens.torch_modes import own_modes

log = logging.getLogger(__name__)

MAX_NODES, MAX_EDGES = 500, 10_000
"""What is kept of a circuit unless one asks for more: what a page can show and a person can search."""

MAX_NODES_OF_MANY = 100
"""The same of a circuit over many prompts: what carries a decision on many prompts is little."""

MEASURED_EDGES, MEASURED_EDGES_OF_MANY = 100, 20
"""How many edges of one prompt, and of many, are measured by the default method unless one says otherwise."""


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
    measured_edges: int | None = None,
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
            gradient at the prompt; "relp" is the latter by rules of relevance; "path" adds up what nodes do on one way
            between the runs, "ig" what they do on a way of each site by itself, and "exact" sets each kept node back
            for real. By default "path" with a corrupted prompt ("contrastive" if frozen), else "gradient".
        metric: what is explained, by name (`circuitlens.prompts.metrics` lists them) or a function of the logits at the
            last position, `[batch, output]` to `[batch]`; by default the logit difference where there is a distractor,
            else the answer's logit.
        frozen: take attention patterns and layer-norm scales for constants, so that edges say what is moved and
            not what moves where. Without it every derivative is the model's own.
        max_nodes: how many nodes to keep beside the logits, the strongest by |attribution|; None keeps all.
        max_edges: how many edges between them to keep, the strongest by |weight|; None keeps all, 0 computes none.
        measured_edges: how many of the strongest edges are weighed by path patching, and not by gradients alone: their
            source is moved for real, and where that is not small their target too (`edge.measured`). By default 100
            where the default method is used with a corrupted prompt, else none.
        progress: told the name of each stage as it ends, the steps done and the steps in all; what it raises ends the
            work and comes out.

    Returns:
        The circuit. `circuit.found` says how much there was before the strongest were taken.

    Raises:
        PromptError: a prompt or answer can't be read, or the method or metric does not fit what is given.
        AdapterError: the adapter does not keep its contract, or its model's numbers are not finite.
    """
    method = choose_method(method, corrupted is not None, frozen)
    with own_modes(gradients=True):
        distractors = None if distractor is None else [distractor]
        batch = tokenize(adapter, [prompt], [answer], distractors, None if corrupted is None else [corrupted], metric)
        # Not validated: what could be read is known to be a pair.
        pair = Pair.model_construct(
            prompt=prompt, corrupted=corrupted, answer=output_texts(answer), distractor=output_texts(distractor or ())
        )
        prompts = PromptSet.of_one(pair, batch.clean.tokens[0])
        if measured_edges is None:
            measured_edges = MEASURED_EDGES if measures_edges(method, corrupted is not None) else 0
        search = Search(adapter, prompts, batch, method, metric, frozen, max_nodes, max_edges, measured_edges)
        return run(search, progress)


def aggregate(
    adapter: Adapter,
    pairs: Sequence[Pair] | PromptSet,
    method: MethodName | None = None,
    *,
    by: PositionGrouping = "position",
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    max_nodes: int | None = MAX_NODES_OF_MANY,
    max_edges: int | None = MAX_EDGES,
    measured_edges: int | None = None,
    batch_size: int = BATCH,
    run_folder: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Circuit:
    """Find the circuit that many prompts have in common: mean attributions and mean edges, with standard errors.

    Args:
        adapter: a model with its sparse coders.
        pairs: the prompts (`circuitlens.read_pairs` reads a file); those that can't be used are left out.
        method, metric, frozen, max_nodes, max_edges, progress: as in `find`.
        measured_edges: as in `find`, by default 20. An edge counts as measured where it is on every prompt that has it.
        by: how positions are brought together: "position" counts from the first token, "role" by the names that each
            pair gives its words, "sum" adds up all positions. (Effects of `exact` are of one position at a time.)
        batch_size: prompts that run together; results do not depend on it but for rounding.
        run_folder: where what is done is kept, batch by batch: the same call goes on there after an interruption, and
            several processes may share the work.

    Raises:
        PromptError: no prompt can be used, or the method or metric does not fit.
        AdapterError: as `find`.
        RunError: the folder can't be used, or holds another run.
    """
    search = search_many(
        adapter,
        pairs,
        method,
        by=by,
        metric=metric,
        frozen=frozen,
        max_nodes=max_nodes,
        max_edges=max_edges,
        measured_edges=measured_edges,
        batch_size=batch_size,
    )
    with own_modes(gradients=True):
        if run_folder is None:
            return run(search, progress)
        circuit = run_in_folder(search, Path(run_folder), callback=progress)
        assert circuit is not None, "without shards all is done"
        return circuit


def search_many(
    adapter: Adapter,
    pairs: Sequence[Pair] | PromptSet,
    method: MethodName | None = None,
    *,
    by: PositionGrouping = "position",
    metric: MetricName | Score | None = None,
    frozen: bool = False,
    max_nodes: int | None = MAX_NODES_OF_MANY,
    max_edges: int | None = MAX_EDGES,
    measured_edges: int | None = None,
    batch_size: int = BATCH,
) -> Search:
    """What `aggregate` looks for, with its defaults filled in."""
    if batch_size < 1:
        raise PromptError(f"batch_size is {batch_size}: give 1 or more.")
    with own_modes(gradients=True):
        prompts = pairs if isinstance(pairs, PromptSet) else align(adapter, pairs, by)
        if prompts.skipped and prompts is not pairs:
            row = prompts.skipped[0]
            log.warning(
                "%d of %d prompts can't be used and are skipped; the first, %r: %s",
                *(len(prompts.skipped), len(pairs), row.text, row.reason),
            )
        method = choose_method(method, prompts.has_corrupted, frozen)
        example = tokenize_pairs(adapter, prompts.pairs[:1], metric)
        if metric is None:
            metric = cast(MetricName, example.metric.name)  # one for all: no batch may choose its own
        if measured_edges is None:
            measured_edges = MEASURED_EDGES_OF_MANY if measures_edges(method, prompts.has_corrupted) else 0
        sizes = max_nodes, max_edges, measured_edges
        return Search(adapter, prompts, example, method, metric, frozen, *sizes, batch_size)
