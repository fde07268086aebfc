"""The parts of a circuit: nodes, edges, paths, outputs, the metric's record, a fingerprint; no tensors and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from circuitlens.circuit.imported import NodeText
from circuitlens.circuit.positions import Position, name_positions
from circuitlens.circuit.values import Count, Many, Name, Number, Size, Value
from circuitlens.literals import NodeKind
from circuitlens.prompts.metrics import METRICS

ANSWER, DISTRACTOR = "answer", "distractor"
"""Labels of the logit nodes of a circuit over many prompts, each of which has its own answers."""

StandardError = Annotated[
    Size | None, Field(exclude_if=lambda value: value is None, description="of a mean over prompts")
]


class Node(Value):
    """One node; `attribution` is in units of the metric, `activation` in the feature's own (an error's is its norm)."""

    id: Name
    kind: NodeKind
    hook: Name = Field(description="the hook its site writes to; 'logits' for logit nodes")
    layer: Count = Field(description="order of the drawing, bottom to top")
    pos: Count = Field(description="position in the prompt's tokens")
    index: Count | None = Field(
        description="feature, neuron or output index; null for errors, embeddings and the rest of the logits"
    )
    label: Name
    activation: Number
    attribution: Number
    standard_error: StandardError = None
    url: str | None = Field(
        default=None, max_length=2000, pattern=r"^https?://", description="a page about the feature"
    )
    imported: NodeText = ""

    @property
    def is_logit(self) -> bool:
        """Whether the node is an output of the model."""
        return self.kind == "logit"

    @property
    def label_key(self) -> str:
        """What a label of the node is kept by: HOOK/INDEX of a feature, whatever its position, else the node's id."""
        return self.id if self.index is None or self.is_logit else f"{self.hook}/{self.index}"


class HeadShare(Value):
    """What of an edge to a later position one attention head carries, in units of the metric: by values that it moves
    there with its attention held, and by its pattern, where the source changes how far it attends.
    """

    layer: Count
    head: Count
    by_values: Number
    by_pattern: Number

    @property
    def weight(self) -> float:
        """All that the head carries of the edge."""
        return self.by_values + self.by_pattern


class Edge(Value):
    """The direct effect of `source` on the metric through `target`, other sites held fixed, in units of the metric.

    It is `measured` where it is what interventions did, by path patching; else it is estimated from gradients.
    """

    source: Name
    target: Name
    weight: Number
    standard_error: StandardError = None
    measured: bool = Field(
        default=False, exclude_if=lambda value: not value, description="by path patching; else estimated"
    )
    heads: Annotated[
        Many[HeadShare],
        Field(
            exclude_if=lambda value: not value, description="attention heads that carry it, where they were told apart"
        ),
    ] = ()
    into_target: Number | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="of an imported graph: its own weight, the direct effect on the target itself",
    )

    @property
    def basis(self) -> Literal["measured", "estimated"]:
        """How the weight is known."""
        return "measured" if self.measured else "estimated"


class Output(Value):
    """An output of the model: its text as it was asked for, and its index."""

    text: Name
    index: Count


class MetricRecord(Value):
    """What the circuit explains, and its value on the prompt (and on the corrupted one), in the metric's own units.

    `name` is one of `circuitlens.find`'s metrics, or "custom" for a function of the user's own. Of a circuit over many
    prompts the values are means, and the outputs stand with each prompt in the circuit's `pairs`.
    """

    name: Name
    answers: Many[Output]
    distractors: Many[Output]
    value: Number
    corrupted_value: Number | None = None

    def __str__(self) -> str:
        if self.name not in METRICS:
            return "a function of the logits"
        ours, theirs = (", ".join(repr(o.text) for o in outputs) for outputs in (self.answers, self.distractors))
        if not self.answers:  # over many prompts
            ours, theirs = ANSWER, DISTRACTOR
        logit = "logit" if len(self.answers) <= 1 and len(self.distractors) <= 1 else "mean logit"
        return METRICS[self.name].text.format(logit=logit, answers=ours, distractors=theirs)

    def role(self, node: Node, *, of_many: bool) -> Literal["answer", "distractor", ""]:
        """Which side an output is on; "" where it is on neither, or no output. Of many prompts labels say it too."""
        sides: tuple[tuple[Literal["answer", "distractor"], tuple[Output, ...], str], ...] = (
            ("answer", self.answers, ANSWER),
            ("distractor", self.distractors, DISTRACTOR),
        )
        for role, outputs, label in sides if node.is_logit else ():
            if node.index in {output.index for output in outputs} or (of_many and node.label == label):
                return role
        return ""


class CircuitPath(Value):
    """A chain of nodes from the bottom up, and what it carries by itself, in units of the metric.

    `weight` is an estimate of that by the flow along the circuit's edges: of the first edge, the share that goes on at
    every further node (0 for a single node). `measured` is what it did in the real model (`circuitlens.path_effect`),
    or None where that is not known.
    """

    nodes: tuple[Node, ...]
    weight: Number
    measured: Number | None = None
    tokens: tuple[str, ...] = Field(description="of the prompt, or what the positions of many are called")

    def __str__(self) -> str:
        positions = name_positions(self.tokens)
        return " → ".join(full_name(node, positions) for node in self.nodes)


class FullGraphSize(Value):
    """The size of the graph before the strongest nodes and edges were taken from it.

    `nodes` are those beside the logits, `features` the active features among them, `attribution` is the sum of their
    |attribution|, and `edges` are those between the nodes that were taken.
    """

    nodes: Count
    features: Count
    attribution: Size
    edges: Count


class SiteFingerprint(Value):
    """What a site showed at the last position of the circuit's first prompt.

    `size` is the norm of the activation and `error` that of what the coder does not write; `features` are the
    strongest, by index.
    """

    hook: Name
    size: Size
    error: Size
    features: tuple[tuple[Count, Number], ...] = Field(max_length=8)


class Fingerprint(Value):
    """By what the weights that made a circuit are known again, whatever they are called and wherever they are."""

    dtype: Name
    sites: tuple[SiteFingerprint, ...] = Field(fail_fast=True, max_length=10_000)


def full_name(node: Node, positions: Sequence[Position]) -> str:
    """A node's label, with its layer and position where the circuit has more than one (`Circuit.positions`)."""
    if len(positions) == 1:
        return node.label
    if node.is_logit:
        return repr(node.label) if node.index is not None else node.label
    return f"{node.label} L{node.layer} {positions[node.pos].name!r}"
