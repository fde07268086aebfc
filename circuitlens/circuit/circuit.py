"""The circuit: nodes and edges, what they were found on and how, and what was measured and noted of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Set
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from circuitlens.attribution.methods import METHODS
from circuitlens.circuit.annotations import Annotations
from circuitlens.circuit.document import Document, digest_of
from circuitlens.circuit.evidence import Evidence
from circuitlens.circuit.flow import carried, own_parts
from circuitlens.circuit.graph import as_networkx, into_metric, is_acyclic, prune, strongest_first, strongest_path
from circuitlens.circuit.imported import GraphText
from circuitlens.circuit.meaning import Meaning, best
from circuitlens.circuit.nodes import ANSWER, CircuitPath, Edge, Fingerprint, FullGraphSize, MetricRecord, Node
from circuitlens.circuit.positions import Position, name_positions
from circuitlens.circuit.values import Many, Name, Number, Size, Text, Whole
from circuitlens.errors import CircuitError
from circuitlens.files import MAX_KEYS
from circuitlens.literals import MethodName, PositionGrouping
from circuitlens.prompts.pairs import Pair

if TYPE_CHECKING:
    import networkx

    from circuitlens.adapter import Adapter
    from circuitlens.viewer import Viewer

SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")
"""How tokens are written that are no text, such as <|endoftext|>, <s> and [CLS]."""


class Circuit(Document):
    """A feature circuit: the nodes and edges by which a model came to one decision, or to those of many prompts.

    Nodes are ordered bottom to top and edges by falling |weight|. `conservation_residual` is the largest gap between a
    node's attribution and the sum of its outgoing edges before any were left out, in units of the metric: 0 to
    rounding. A node's attribution less the edges that are here is what it does through nodes that were left out.

    A circuit over many prompts holds them in `pairs`; attributions and weights are means over them, `prompt` describes
    them, and `tokens` names what their positions have in common (see `by`).
    """

    created_by: Name
    adapter: Name
    options: dict[Name, Text | Whole | Number | bool | None] = Field(
        default={}, max_length=MAX_KEYS, description="what the adapter was loaded with"
    )
    prompt: Text
    corrupted: Text | None
    pairs: Many[Pair] = Field(default=(), description="the prompts of a circuit over many")
    by: PositionGrouping | None = Field(default=None, description="how positions of many prompts were brought together")
    tokens: Many[Name] = Field(min_length=1)
    metric: MetricRecord
    fingerprint: Fingerprint | None = Field(default=None, description="of the weights it was found in")
    method: MethodName = Field(
        description="gradient: change from zero; contrastive: change from the corrupted prompt; relp: the same by "
        "rules of relevance; path: change on "
        "one way from the corrupted prompt; ig: integrated gradients; exact: measured effect of each node (edges as in "
        "ig); the last two from the corrupted prompt where there is one, else from zero"
    )
    frozen: bool = Field(default=False, description="attention patterns and layer-norm scales were held constant")
    found: FullGraphSize | None = Field(default=None, description="null where it is not known")
    completeness_gaps: dict[Name, Number] = Field(
        default={},
        max_length=MAX_KEYS,
        description="path, ig and exact: what a site's nodes miss of the metric's change, by site (of path: of sites "
        "that all ways to the metric pass)",
    )
    conservation_residual: Size
    # As many as a file can hold.
    nodes: Annotated[tuple[Node, ...], Field(fail_fast=True)]
    edges: Annotated[tuple[Edge, ...], Field(fail_fast=True)]
    evidence: Evidence | None = None
    annotations: Annotations | None = None
    meanings: Many[Meaning] = Field(
        default=(), description="what features are called by others than the reader, one of each feature"
    )
    imported: GraphText = ""

    @model_validator(mode="after")
    def _consistent(self) -> Circuit:
        if METHODS[self.method].baseline == "corrupted" and not self.has_corrupted:
            raise ValueError(f"the method is {self.method} and there is no corrupted prompt")
        if not self.metric.answers and not self.pairs:
            raise ValueError("the metric has no answer")
        if len(self._by_id) < len(self.nodes):
            raise ValueError("two nodes have one id")
        for node in self.nodes:
            if node.pos >= len(self.tokens):
                raise ValueError(f"node {node.id!r} is at position {node.pos} of {len(self.tokens)} tokens")
        pairs = {(edge.source, edge.target) for edge in self.edges}
        if len(pairs) < len(self.edges):
            raise ValueError("two edges join the same nodes")
        for source, target in pairs:
            if source not in self._by_id or target not in self._by_id:
                raise ValueError(f"the edge {source!r} → {target!r} names a node that is not there")
            if self._by_id[source].is_logit:
                raise ValueError(f"the edge {source!r} → {target!r} goes out of an output")
        if unknown := self._unknown(self.annotations):
            raise ValueError(f"the annotations name {min(unknown)!r}, which is no node or feature")
        if len({(meaning.hook, meaning.index) for meaning in self.meanings}) < len(self.meanings):
            raise ValueError("one feature has two meanings")
        if not is_acyclic(self.nodes, self.edges):
            raise ValueError("the edges run in a circle")
        return self

    @property
    def questions(self) -> tuple[Pair, ...]:
        """The prompts that the circuit explains with their answers, one or many."""
        if self.pairs:
            return self.pairs
        ours, theirs = (tuple(o.text for o in outputs) for outputs in (self.metric.answers, self.metric.distractors))
        # Not validated: the circuit was found on it.
        return (Pair.model_construct(prompt=self.prompt, corrupted=self.corrupted, answer=ours, distractor=theirs),)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """What each position is called, and what more there is to say of it."""
        return name_positions(self.tokens, self.pairs, self.by)

    @property
    def has_corrupted(self) -> bool:
        """Whether every prompt has a corrupted one."""
        return all(pair.corrupted is not None for pair in self.questions)

    @property
    def from_corrupted(self) -> bool:
        """Whether attribution measures the change from the corrupted prompts, and not from zero."""
        return METHODS[self.method].baseline != "zero" and self.has_corrupted

    @property
    def own_evidence(self) -> Evidence | None:
        """The evidence, where it was measured of this very circuit and nobody edited the file."""
        measured = self.evidence is not None and self.evidence.digest == self.content_digest
        return self.evidence if measured and not self.edited else None

    def is_bos(self, node: Node) -> bool:
        """Whether a node is at a token that stands before the prompts (BOS), which switching off leaves alone.

        As far as the tokens tell: it is the first, is written like no word, and the prompts do not begin with it.
        """
        first = self.tokens[0]
        before = SPECIAL.fullmatch(first) and not any(pair.prompt.startswith(first) for pair in self.questions)
        return node.pos == 0 and self.by != "sum" and bool(before)

    @cached_property
    def content_digest(self) -> str:
        """The SHA-256 of the circuit without evidence, annotations and meanings: evidence names its circuit by it."""
        # Without defaults, so that fields that later versions add change nothing.
        beside = {"created_by", "digest", "evidence", "annotations", "meanings", "imported"}
        return digest_of(self.model_dump(mode="json", exclude=beside, exclude_defaults=True))

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    def _unknown(self, annotations: Annotations | None) -> Set[str]:
        """What annotations name and is no node or, of labels, no feature."""
        if annotations is None:
            return set()
        keys = {node.label_key for node in self.nodes} if annotations.labels else set()
        return (annotations.named - self._by_id.keys()) | (annotations.labels.keys() - keys)

    def node(self, node_id: str) -> Node:
        """The node of that id.

        Raises:
            CircuitError: there is none.
        """
        if node_id not in self._by_id:
            raise CircuitError(f"This circuit has no node {node_id!r}; circuit.nodes lists those it has.")
        return self._by_id[node_id]

    @cached_property
    def _meaning_of(self) -> dict[tuple[str, int | None], Meaning]:
        return {(meaning.hook, meaning.index): meaning for meaning in self.meanings}

    def meaning(self, node: Node | str) -> Meaning | None:
        """What a node (or the node of that id) stands for: the reader's own label, else what the file keeps.

        It is that of the feature, at any position; None where nothing is known.

        Raises:
            CircuitError: there is no node of that id.
        """
        node = self.node(node) if isinstance(node, str) else node
        own = None if self.annotations is None else self.annotations.labels.get(node.label_key)
        if own:
            return Meaning(hook=node.hook, index=node.index, text=own, source="yours")
        return None if node.is_logit else self._meaning_of.get((node.hook, node.index))

    def in_edges(self, node_id: str) -> list[Edge]:
        """Edges into a node, strongest first."""
        self.node(node_id)  # raises where there is none
        return strongest_first(edge for edge in self.edges if edge.target == node_id)

    def out_edges(self, node_id: str) -> list[Edge]:
        """Edges out of a node, strongest first."""
        self.node(node_id)
        return strongest_first(edge for edge in self.edges if edge.source == node_id)

    def answer(self) -> Node:
        """The logit node of the (first) answer.

        Raises:
            CircuitError: the circuit was made or edited without it.
        """
        wanted = self.metric.answers[0] if self.metric.answers else None
        for node in self.nodes:
            if node.is_logit and (node.label == ANSWER if wanted is None else node.index == wanted.index):
                return node
        raise CircuitError(f"This circuit has no logit node for its answer {wanted.text if wanted else ANSWER!r}.")

    def own_parts(self, node_ids: Iterable[str]) -> dict[str, float]:
        """Of each of these nodes, the part of its attribution that reaches the metric without passing another of them.

        By the circuit's edges, in units of the metric: what setting the nodes together does counts once, and sums to
        less than their attributions where they lie on one path. Exact in a linear model whose edges are all there.

        Raises:
            CircuitError: a node is not there.
        """
        return own_parts(self._by_id, self.edges, [self.node(node_id).id for node_id in node_ids])

    def strongest_path(self, target: str | None = None) -> CircuitPath:
        """The widest path to the metric, and an estimate of what it carries by itself.

        Of all paths from the lowest layer that reaches the end, it is the one whose weakest edge is strongest by
        |weight|; where those tie, the stronger last edge wins. The path ends at the answer's logit, which stands for
        the metric: its last step is what a node does by all logits together. It keeps to the prompt: a token before
        it (BOS) is on the path only where no other reaches the end.

        Args:
            target: where it is to end instead: a node's id, also of one logit by itself.

        Raises:
            CircuitError: `target` is not a node, or the answer is not there.
        """
        end = self.answer() if target is None else self.node(target)
        edges = into_metric(self.edges, self._by_id, end) if target is None else self.edges
        nodes = strongest_path(self._by_id, edges, end)
        if target is None and any(map(self.is_bos, nodes)):
            prompt = {name: node for name, node in self._by_id.items() if not self.is_bos(node)}
            within = [edge for edge in edges if edge.source in prompt and edge.target in prompt]
            nodes = other if len(other := strongest_path(prompt, within, end)) > 1 else nodes
        names = tuple(position.name for position in self.positions)
        return CircuitPath(nodes=tuple(nodes), weight=carried(self._by_id, edges, nodes), tokens=names)

    def prune(
        self, *, max_nodes: int | None = None, max_edges: int | None = None, share: float | None = None
    ) -> Circuit:
        """A smaller circuit: the strongest nodes by |attribution|, then the strongest edges between them by |weight|.

        Args:
            max_nodes: how many nodes to keep beside the logit nodes, which always stay.
            max_edges: how many edges to keep.
            share: the share, 0 to 1, of the nodes' summed |attribution| to keep, by the fewest nodes that reach it.

        Raises:
            CircuitError: a count is negative or the share is not between 0 and 1.
        """
        nodes, edges = prune(self.nodes, self.edges, max_nodes, max_edges, share)
        # model_copy carries cached properties along, so the smaller circuit is made anew.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        # Evidence is of the circuit it was measured on. A digest that did not fit stays, so that an edit shows.
        annotations = self.annotations and self.annotations.only(nodes)
        changed = {"nodes": tuple(nodes), "edges": tuple(edges), "evidence": None, "annotations": annotations}
        left = {(node.hook, node.index) for node in nodes}
        meanings = tuple(meaning for meaning in self.meanings if (meaning.hook, meaning.index) in left)
        return Circuit(**{**fields, **changed, "meanings": meanings})

    def annotated(self, annotations: Annotations | None) -> Circuit:
        """The circuit with these annotations in place of its own; its evidence stays.

        Raises:
            CircuitError: they name what is no node of it.
        """
        if unknown := self._unknown(annotations):
            raise CircuitError(
                f"The annotations name {min(unknown)!r}, which is no node or feature of this circuit. Labels are by "
                "feature (node.label_key), notes by node (node.id)."
            )
        # No cached property depends on them, so that a copy may carry those along.
        return self.model_copy(update={"annotations": annotations})

    def with_meanings(self, meanings: Iterable[Meaning]) -> Circuit:
        """The circuit with these meanings beside its own: of each feature the one whose source comes first stays, and
        of one source the new one. Those of what is no feature of the circuit are left out.
        """
        there = {(node.hook, node.index) for node in self.nodes if not node.is_logit}
        kept = best(meaning for meaning in (*self.meanings, *meanings) if (meaning.hook, meaning.index) in there)
        circuit = self.model_copy(update={"meanings": kept})
        vars(circuit).pop("_meaning_of", None)  # a copy carries cached properties along
        return circuit

    def to_networkx(self) -> networkx.DiGraph:
        """A `networkx.DiGraph` with the nodes' and edges' fields as attributes, and all else as JSON text in `circuit`:
        `circuitlens.from_networkx` makes the circuit of it again.
        """
        meanings = {node.id: meaning.text for node in self.nodes if (meaning := self.meaning(node))}
        about = {"prompt": self.prompt, "method": self.method, "circuit": self.about}
        return as_networkx(self.nodes, self.edges, meanings, about)

    @property
    def about(self) -> str:
        """All that the circuit says beside its nodes and edges, as JSON text: what other formats carry along."""
        return json.dumps(json.loads(self.model_dump_json(exclude={"nodes", "edges"})))

    def view(self, *, adapter: Adapter | None = None, port: int = 0, open_browser: bool = True) -> Viewer:
        """Show the circuit in a local page and return the running viewer (in a script, once it is closed by Ctrl-C).

        Args:
            adapter: the model it was found in, to ask it questions from the page.
            port: 0 for any that is free.
            open_browser: open the page where there is a desktop; in a notebook the page is shown inline instead.

        Raises:
            ViewerError: the port is taken.
        """
        from circuitlens.viewer import view

        return view([self], adapters=[] if adapter is None else [adapter], port=port, open_browser=open_browser)


open_circuit = Circuit.read


def schema() -> dict[str, Any]:
    """The JSON Schema of a circuit file, published as `circuit.schema.json` in this package."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Circuit.model_json_schema()}
