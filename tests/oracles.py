"""Slow and plain ways to the numbers that the engine computes fast: by hand, by finite difference, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

import circuitlens
from circuitlens.adapter import Adapter, Hook, Inputs, Site
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.scores import NodeScores
from circuitlens.circuit import ANSWER, DISTRACTOR
from circuitlens.literals import MethodName
from circuitlens.prompts.batch import BatchMetric, PromptBatch
from circuitlens.prompts.pairs import Pair
from circuitlens.tracing import Decode, Edit, Trace
from tests.tiny_transformer import TinyTransformer


def moved(index: int, example: int, pos: int, by: float, direction: Tensor) -> Edit:
    """An edit that adds `by` to one feature, or `by · direction` to one vector."""

    def edit(features: Tensor | None, error: Tensor, _decode: Decode) -> tuple[Tensor | None, Tensor]:
        error = error.clone()
        if index == VECTOR:
            error[example, pos] += by * direction
        else:
            assert features is not None
            features = features.clone()
            features[example, pos, index] += by
        return features, error

    return edit


def direct_effect(adapter: Adapter, clean: Trace, nodes: NodeScores, source: int, target: int, unit: Tensor) -> float:
    """`∂m/∂d · ∂d/∂u|direct · Δu` by a central difference: the slow oracle of `score_edges`."""
    step = 1e-5
    s, t = int(nodes.site[source]), int(nodes.site[target])
    values = []

    def note(x: Tensor, seen: dict[str, Tensor], held: Hook | None) -> Tensor | None:
        y = None if held is None else held(x)
        seen["read"] = x if y is None else y  # what another site writes is read after the write
        return y

    for by in (step, -step):
        seen: dict[str, Tensor] = {}

        def hold(x: Tensor, k: int, by: float = by, seen: dict[str, Tensor] = seen) -> Tensor:
            if k == t:
                seen["write"] = x
            held = clean.sites[k].leaf.detach().clone()
            if k == s:
                held[nodes.example[source], nodes.pos[source]] += by * unit
            return held

        hooks: dict[str, Hook] = {site.write: partial(hold, k=k) for k, site in enumerate(adapter.sites)}
        if t < len(adapter.sites) and adapter.sites[t].read != adapter.sites[t].write:
            read = adapter.sites[t].read
            hooks[read] = partial(note, seen=seen, held=hooks.get(read))
        logits = adapter.run(clean.inputs, hooks)
        example, pos, index = (int(column[target]) for column in (nodes.example, nodes.pos, nodes.index))
        if t == len(adapter.sites):
            values.append(logits[example, pos, index] * nodes.gradient[target])
            continue
        coder = adapter.sites[t].coder
        total = nodes.totals[t][example, pos]
        if coder is None:
            values.append(seen["write"][example, pos] @ total)
            continue
        f = coder.encode(seen.get("read", seen["write"]))
        decoded = coder.decode(f)[example, pos]
        error = seen["write"][example, pos] - decoded
        values.append(error @ total if index == VECTOR else f[example, pos, index] * nodes.gradient[target])
    return float((values[0] - values[1]) / (2 * step) * nodes.delta[source])


def hidden_by_hand(adapter: Adapter, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden activations and the output layer's margin weights and bias (run − runs), from the weights alone."""
    network = adapter.model  # pyright: ignore[reportAttributeAccessIssue]
    x = adapter.inputs([prompt]).values[0, 0]
    hidden = (network.hidden.weight @ x + network.hidden.bias).clamp_min(0)
    margin = network.output.weight[1] - network.output.weight[0]
    return hidden, margin, network.output.bias[1] - network.output.bias[0]


def activations(adapter: Adapter, inputs: Inputs) -> dict[str, Tensor]:
    """What flows through every hook of the plain model that a site reads or writes."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Hook:
        return lambda x: seen.update({name: x.detach().clone()})

    adapter.run(inputs, {name: note(name) for site in adapter.sites for name in (site.read, site.write)})
    return seen


def baselines(adapter: Adapter, batch: PromptBatch, contrastive: bool) -> list[Tensor]:
    """Every site's activation where integration starts: in the corrupted run, or with features and error 0."""
    assert batch.corrupted is not None
    clean = activations(adapter, batch.clean)
    other = activations(adapter, batch.corrupted)
    starts = []
    for site in adapter.sites:
        if contrastive:
            starts.append(other[site.write])
        elif site.coder is None:
            starts.append(torch.zeros_like(clean[site.write]))
        else:
            features = site.coder.encode(clean[site.read])  # and its state, where the coder keeps one
            starts.append(site.coder.decode(torch.zeros_like(features)).detach().expand_as(clean[site.write]))
    return starts


Place = tuple[int, int, int, int]
"""A node by site, example, position and index."""


class PatchedPaths:
    """Path patching in one run towards another (None: zero), with hooks and coders alone."""

    def __init__(self, adapter: Adapter, metric: BatchMetric, ours: Inputs, other: Inputs | None):
        self.adapter, self.metric, self.inputs = adapter, metric, ours
        self.plain = activations(adapter, ours)
        self.goal = None if other is None else activations(adapter, other)
        self.logits = ours.at_last(adapter.run(ours, {}))
        self.goal_logits = None if other is None else other.at_last(adapter.run(other, {}))

    def coded(self, site: Site, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features in a run with these values, and its error as what they leave when they are decoded in our own."""
        assert site.coder is not None
        f = site.coder.encode(values[site.read])
        site.coder.decode(f)
        return f, values[site.write] - self.decode(site, f)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        assert site.coder is not None
        site.coder.encode(self.plain[site.read])
        return site.coder.decode(f)

    def written(self, node: Place, values: dict[str, Tensor] | None) -> Tensor:
        """What the node's site writes in our run, if the node alone is as in a run with these values."""
        s, b, p, i = node
        site = self.adapter.sites[s]
        if site.coder is None:
            made = self.plain[site.write].clone()
            made[b, p] = 0 if values is None else values[site.write][b, p]
            return made
        f, error = (x.clone() for x in self.coded(site, self.plain))
        other = None if values is None else self.coded(site, values)
        if i == VECTOR:
            error[b, p] = 0 if other is None else other[1][b, p]
        else:
            f[b, p, i] = 0 if other is None else other[0][b, p, i]
        return self.decode(site, f) + error

    def fall(self, source: Place, target: Place, share: float = 1.0) -> float:
        """How far the metric falls when the source changes and only the target feels it, or a share of it."""
        seen: dict[str, Tensor] = {}
        writers = {site.write: k for k, site in enumerate(self.adapter.sites)}

        def hook(name: str) -> Hook:
            def at(x: Tensor) -> Tensor:
                k = writers.get(name)
                y = x if k is None else self.written(source, self.goal) if k == source[0] else self.plain[name]
                seen[name] = x if k is not None and k == target[0] else y
                return y.clone()

            return at

        names = {name for site in self.adapter.sites for name in (site.read, site.write)}
        logits = self.inputs.at_last(self.adapter.run(self.inputs, {name: hook(name) for name in names}))
        t, b, _, i = target
        before = self.metric(self.logits)[b]
        if t == len(self.adapter.sites):
            after = self.logits.clone()
            named = {*self.metric.answers[b].tolist(), *self.metric.distractors[b].tolist()}
            which = [k for k in range(logits.shape[1]) if (k == i if i != VECTOR else k not in named)]
            after[b, which] = logits[b, which]
            return float(before - self.metric(after)[b])
        write = self.adapter.sites[t].write
        made = self.plain[write] + share * (self.written(target, seen) - self.plain[write])
        after = self.inputs.at_last(self.adapter.run(self.inputs, {write: lambda _: made.clone()}))
        return float(before - self.metric(after)[b])


def path_patched(
    adapter: Adapter, batch: PromptBatch, contrastive: bool, source: Place, target: Place, moved: bool = False
) -> float:
    """The weight of an edge: the mean of both directions. Of one that is only `moved`, the target's change times its
    derivative in each, by a central difference.
    """
    assert batch.corrupted is not None
    step = 1e-5

    def fall(ours: Inputs, other: Inputs | None) -> float:
        paths = PatchedPaths(adapter, batch.metric, ours, other)
        if not moved or target[0] == len(adapter.sites):
            return paths.fall(source, target)
        return (paths.fall(source, target, step) - paths.fall(source, target, -step)) / (2 * step)

    with torch.no_grad():
        if not contrastive:
            return fall(batch.clean, None)
        return (fall(batch.clean, batch.corrupted) - fall(batch.corrupted, batch.clean)) / 2


def metric_with(adapter: Adapter, batch: PromptBatch, site: Site, value: Tensor) -> Tensor:
    """The metric of the model with one site's activation put in by hand."""
    with torch.no_grad():
        return batch.metric(batch.clean.at_last(adapter.run(batch.clean, {site.write: lambda _: value.clone()})))


def midpoints(adapter: Adapter, batch: PromptBatch, contrastive: bool, steps: int, s: int) -> list[Tensor]:
    """The midpoints of one site's line."""
    start = baselines(adapter, batch, contrastive)[s]
    end = activations(adapter, batch.clean)[adapter.sites[s].write]
    return [start + (k + 0.5) / steps * (end - start) for k in range(steps)]


Scores = dict[Any, float]


def of_one_prompt(
    adapter: Adapter, one: Pair, method: MethodName, names: Callable[[int], int]
) -> tuple[Scores, Scores, Scores]:
    """One prompt's attributions, activations and estimated edges by site, position (as `names` calls it) and index."""
    everything: dict[str, Any] = {"max_nodes": None, "max_edges": None, "measured_edges": 0}
    circuit = circuitlens.find(adapter, one.prompt, one.answer, one.distractor, one.corrupted, method, **everything)
    answers = {output.index for output in circuit.metric.answers}

    def key(node_id: str) -> str:
        node = circuit.node(node_id)
        site, _, index = node.id.split(":")
        if node.kind == "logit":
            index = "other" if node.index is None else ANSWER if node.index in answers else DISTRACTOR
        return f"{site}:{names(node.pos)}:{index}"

    found: tuple[Scores, Scores, Scores] = ({}, {}, {})
    for node in circuit.nodes:
        for scores, value in zip(found, (node.attribution, node.activation), strict=False):
            scores[key(node.id)] = scores.get(key(node.id), 0.0) + value
    for edge in circuit.edges:
        pair_of = key(edge.source), key(edge.target)
        found[2][pair_of] = found[2].get(pair_of, 0.0) + edge.weight
    return found


def statistics(many: Sequence[Scores], key: Any) -> tuple[float, float]:
    """Mean and standard error; a prompt without the key counts as 0."""
    values = np.array([scores.get(key, 0.0) for scores in many])
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


def logit_difference_at(adapter: TinyTransformer, stream: Tensor) -> float:
    """The logit difference of the first example at a last residual stream."""
    logits = layer_norm(stream, stream.shape) @ adapter.head
    example = adapter.examples[0]
    ours, theirs = (adapter.answer_index(text, example.prompt) for text in (example.answer, example.distractor))
    return (logits[ours] - logits[theirs]).item()
