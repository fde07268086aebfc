"""The circuit: plain, frozen values that are pruned, walked, drawn and kept in files; no tensors and no model.

The file is one JSON document (`circuit.schema.json` beside this module describes it), validated whole on opening.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from circuitlens.circuit.evidence import Evidence
from circuitlens.errors import CircuitError
from circuitlens.files import write_atomically
from circuitlens.literals import MethodName, NodeKind, PositionGrouping
from circuitlens.prompts.pairs import Pair

if TYPE_CHECKING:
    import networkx

    from circuitlens.adapter import Adapter
    from circuitlens.viewer import Viewer

FORMAT = "circuitlens.circuit"
VERSION = 4
"""What is written; files of versions 1 to 3 are still read."""
MAX_BYTES = 100_000_000
"""Largest circuit file that is written or read: about half a million edges, far above what can be looked at."""

ANSWER, DISTRACTOR = "answer", "distractor"
"""Labels of the logit nodes of a circuit over many prompts, which have answers of their own each."""

Number = Annotated[float, Field(allow_inf_nan=False)]
StandardError = Annotated[
    float | None,
    Field(ge=0, allow_inf_nan=False, exclude_if=lambda value: value is None, description="of a mean over prompts"),
]


class _Value(BaseModel):
    # Strings stay as they were typed and numbers are never read from text.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Node(_Value):
    """One node; `attribution` is in units of the metric, `activation` in the feature's own (an error's is its norm)."""

    id: str
    kind: NodeKind
    hook: str = Field(description="the hook its site writes to; 'logits' for logit nodes")
    layer: int = Field(ge=0, description="order of the drawing, bottom to top")
    pos: int = Field(ge=0, description="position in the prompt's tokens")
    index: int | None = Field(
        description="feature, neuron or output index; null for errors, embeddings and the rest of the logits"
    )
    label: str
    activation: Number
    attribution: Number
    standard_error: StandardError = None
    url: str | None = Field(default=None, pattern=r"^https?://", description="a page about the feature")

    @property
    def is_logit(self) -> bool:
        """Whether the node is an output of the model."""
        return self.kind == "logit"


class Edge(_Value):
    """The direct effect of `source` on the metric through `target`, other sites held fixed, in units of the metric."""

    source: str
    target: str
    weight: Number
    standard_error: StandardError = None


class Output(_Value):
    """An output of the model: its text as it was asked for, and its index."""

    text: str
    index: int = Field(ge=0)


class MetricRecord(_Value):
    """What the circuit explains, and its value on the prompt (and on the corrupted one), in the metric's own units.

    `name` is one of `circuitlens.find`'s metrics, or "custom" for a function of the user's own. Of a circuit over many
    prompts the values are means, and the outputs stand with each prompt in the circuit's `pairs`.
    """

    name: str
    answers: tuple[Output, ...]
    distractors: tuple[Output, ...]
    value: Number
    corrupted_value: Number | None = None

    def __str__(self) -> str:
        ours, theirs = (", ".join(repr(o.text) for o in outputs) for outputs in (self.answers, self.distractors))
        if not self.answers:  # over many prompts
            ours, theirs = ANSWER, DISTRACTOR
        mean = "logit" if len(self.answers) <= 1 and len(self.distractors) <= 1 else "mean logit"
        return {
            "logit_difference": f"{mean} {ours} − {theirs}",
            "logit": f"{mean} {ours}",
            "log_probability": f"log P({ours})",
            "probability_difference": f"P({ours}) − P({theirs})",
            "kl_divergence": "KL from the corrupted prompt's outputs",
        }.get(self.name, "a function of the logits")


class CircuitPath(_Value):
    """A chain of nodes from the bottom up; `weight` is that of its weakest edge, 0 for a single node."""

    nodes: tuple[Node, ...]
    weight: Number
    tokens: tuple[str, ...] = Field(description="of the prompt")

    def __str__(self) -> str:
        return " → ".join(full_name(node, self.tokens) for node in self.nodes)


def full_name(node: Node, tokens: tuple[str, ...]) -> str:
    """A node's label, and its layer and token where there is more than one position: which node it is."""
    if len(tokens) == 1:
        return node.label
    if node.kind == "logit":
        return repr(node.label) if node.index is not None else node.label
    return f"{node.label} L{node.layer} {tokens[node.pos]!r}"


class FullGraphSize(_Value):
    """What was found before the strongest nodes and edges were taken: nodes beside the logits, how many of them are
    active features, the sum of their |attribution|, and edges between the nodes that were taken.
    """

    nodes: int = Field(ge=0)
    features: int = Field(ge=0)
    attribution: float = Field(ge=0, allow_inf_nan=False)
    edges: int = Field(ge=0)


class Group(_Value):
    """Nodes that a reader takes for one, by a name of their own."""

    name: str = Field(min_length=1, max_length=200)
    nodes: tuple[str, ...] = Field(min_length=1)


class Annotations(_Value):
    """What a reader made of the circuit; no measurement, and no part of what evidence is of.

    `labels` and `notes` are by node id.
    """

    pins: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    labels: dict[str, Annotated[str, Field(max_length=200)]] = {}
    notes: dict[str, Annotated[str, Field(max_length=10_000)]] = {}

    @model_validator(mode="after")
    def _once_each(self) -> Annotations:
        grouped = [node for group in self.groups for node in group.nodes]
        placed = [*self.pins, *grouped]
        if len(set(placed)) < len(placed):
            raise ValueError("a node is pinned or grouped twice")
        if len({group.name for group in self.groups}) < len(self.groups):
            raise ValueError("two groups have one name")
        return self

    @property
    def named(self) -> set[str]:
        """The ids of all nodes that are spoken of."""
        grouped = (node for group in self.groups for node in group.nodes)
        return {*self.pins, *grouped, *self.labels, *self.notes}

    def only(self, ids: Collection[str]) -> Annotations:
        """What is said of these nodes alone."""
        groups = ((group.name, tuple(node for node in group.nodes if node in ids)) for group in self.groups)
        return self.model_copy(
            update={
                "pins": tuple(node for node in self.pins if node in ids),
                "groups": tuple(Group(name=name, nodes=nodes) for name, nodes in groups if nodes),
                "labels": {node: text for node, text in self.labels.items() if node in ids},
                "notes": {node: text for node, text in self.notes.items() if node in ids},
            }
        )


class Circuit(_Value):
    """A feature circuit: the nodes and edges by which a model came to one decision, or to those of many prompts.

    Nodes are ordered bottom to top and edges by falling |weight|. `conservation_residual` is the largest gap between a
    node's attribution and the sum of its outgoing edges before any were left out, in units of the metric: 0 to
    rounding. A node's attribution less its edges that are here is what it does through nodes that are not.

    A circuit over many prompts has them as `pairs`; attributions and weights are means over them, `prompt` says what
    they are, and `tokens` names what their positions have in common (see `by`).
    """

    format: Literal["circuitlens.circuit"] = FORMAT
    version: Literal[1, 2, 3, 4] = VERSION
    created_by: str
    adapter: str
    options: dict[str, str | int | float | bool | None] = Field(
        default={}, description="what the adapter was loaded with"
    )
    prompt: str
    corrupted: str | None
    pairs: tuple[Pair, ...] = Field(default=(), description="the prompts of a circuit over many")
    by: PositionGrouping | None = Field(default=None, description="how positions of many prompts were brought together")
    tokens: tuple[str, ...] = Field(min_length=1)
    metric: MetricRecord
    method: MethodName = Field(
        description="gradient: change from zero; contrastive: change from the corrupted prompt; ig: integrated "
        "gradients; exact: measured effect of each node (edges as in ig); the last two from the corrupted prompt where "
        "there is one, else from zero"
    )
    frozen: bool = Field(default=False, description="attention patterns and layer-norm scales were held constant")
    found: FullGraphSize | None = Field(default=None, description="null where it is not known")
    completeness_gaps: dict[str, Number] = Field(
        default={}, description="ig and exact: what a site's integrated gradients miss of the metric's change, by site"
    )
    conservation_residual: float = Field(ge=0, allow_inf_nan=False)
    # The first fault is enough: a message on each of a million would not fit in memory.
    nodes: Annotated[tuple[Node, ...], Field(fail_fast=True)]
    edges: Annotated[tuple[Edge, ...], Field(fail_fast=True)]
    digest: str | None = Field(default=None, description="SHA-256 of the rest of the document, keys sorted")
    evidence: Evidence | None = None
    annotations: Annotations | None = None

    @field_validator("version")
    @classmethod
    def _current(cls, _version: int) -> int:
        """Later versions only added fields, each with the value that earlier ones meant by not having it."""
        return VERSION

    @model_validator(mode="after")
    def _consistent(self) -> Circuit:
        if self.method == "contrastive" and any(pair.corrupted is None for pair in self.questions):
            raise ValueError("the method is contrastive and there is no corrupted prompt")
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
        if self.annotations is not None and (unknown := self.annotations.named - self._by_id.keys()):
            raise ValueError(f"the annotations name {min(unknown)!r}, which is no node")
        try:
            TopologicalSorter(self._sources).prepare()
        except CycleError:
            raise ValueError("the edges run in a circle") from None
        return self

    @property
    def questions(self) -> tuple[Pair, ...]:
        """The prompts that the circuit explains with their answers, one or many."""
        if self.pairs:
            return self.pairs
        ours, theirs = (tuple(o.text for o in outputs) for outputs in (self.metric.answers, self.metric.distractors))
        # Not validated: what was asked is already known to be a question.
        return (Pair.model_construct(prompt=self.prompt, corrupted=self.corrupted, answer=ours, distractor=theirs),)

    @property
    def from_corrupted(self) -> bool:
        """Whether attribution measures the change from the corrupted prompts, and not from zero."""
        return self.method != "gradient" and all(pair.corrupted is not None for pair in self.questions)

    @cached_property
    def content_digest(self) -> str:
        """The SHA-256 of what the circuit says, without evidence and annotations: what evidence is of."""
        # Without defaults, so that fields that later versions add change nothing.
        beside = {"created_by", "digest", "evidence", "annotations"}
        return _digest(self.model_dump(mode="json", exclude=beside, exclude_defaults=True))

    @property
    def edited(self) -> bool:
        """Whether the file that the circuit was read from was changed after it was written."""
        return self.digest is not None  # one that fits is gone once a file is open

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _sources(self) -> dict[str, list[str]]:
        sources: dict[str, list[str]] = {node.id: [] for node in self.nodes}
        for edge in self.edges:
            sources[edge.target].append(edge.source)
        return sources

    def node(self, node_id: str) -> Node:
        """The node of that id.

        Raises:
            CircuitError: there is none.
        """
        if node_id not in self._by_id:
            raise CircuitError(f"This circuit has no node {node_id!r}; circuit.nodes lists those it has.")
        return self._by_id[node_id]

    def in_edges(self, node_id: str) -> list[Edge]:
        """Edges into a node, strongest first."""
        target = self.node(node_id).id
        return _strongest_first(edge for edge in self.edges if edge.target == target)

    def out_edges(self, node_id: str) -> list[Edge]:
        """Edges out of a node, strongest first."""
        source = self.node(node_id).id
        return _strongest_first(edge for edge in self.edges if edge.source == source)

    def answer(self) -> Node:
        """The logit node of the (first) answer.

        Raises:
            CircuitError: the circuit was made or edited without it.
        """
        wanted = self.metric.answers[0] if self.metric.answers else None
        for node in self.nodes:
            if node.kind == "logit" and (node.label == ANSWER if wanted is None else node.index == wanted.index):
                return node
        raise CircuitError(f"This circuit has no logit node for its answer {wanted.text if wanted else ANSWER!r}.")

    def strongest_path(self, target: str | None = None) -> CircuitPath:
        """The widest path to `target` (a node's id; the answer by default): of all paths from the lowest layer that
        reaches it, the one whose weakest edge is strongest by |weight|; where those tie, the stronger last edge wins.

        Raises:
            CircuitError: `target` is not a node.
        """
        end = self.answer() if target is None else self.node(target)
        # Reversed, an order in which a node's sources come after it: all that reaches the target is known on one pass.
        order = list(TopologicalSorter(self._sources).static_order())
        reaching = {end.id}
        for name in reversed(order):
            if name in reaching:
                reaching.update(self._sources[name])
        lowest = min(self._by_id[name].layer for name in reaching)

        weight = {(edge.source, edge.target): edge.weight for edge in self.edges}
        width: dict[str, float] = {}
        before: dict[str, str] = {}
        for name in order:
            options = [
                (min(width[source], abs(weight[source, name])), abs(weight[source, name]), source)
                for source in self._sources[name]
                if source in width
            ]
            if options:
                width[name], _, before[name] = max(options)
            elif self._by_id[name].layer == lowest:
                width[name] = float("inf")
        chain = [end.id]
        while chain[0] in before:
            chain.insert(0, before[chain[0]])
        weakest = min((weight[pair] for pair in pairwise(chain)), key=abs, default=0.0)
        return CircuitPath(nodes=tuple(self._by_id[name] for name in chain), weight=weakest, tokens=self.tokens)

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
        for name, count in (("max_nodes", max_nodes), ("max_edges", max_edges)):
            if count is not None and count < 0:
                raise CircuitError(f"{name} is {count}; give a count of 0 or more.")
        if share is not None and not 0 <= share <= 1:
            raise CircuitError(f"share is {share}; give a share between 0 and 1.")
        inner = sorted((n for n in self.nodes if n.kind != "logit"), key=lambda n: -abs(n.attribution))
        if share is not None:
            wanted, reached, count = share * sum(abs(n.attribution) for n in inner), 0.0, 0
            while count < len(inner) and reached < wanted:
                reached += abs(inner[count].attribution)
                count += 1
            inner = inner[:count]
        return self._only({node.id for node in inner[:max_nodes]}, max_edges)

    def _only(self, inner: Collection[str], max_edges: int | None) -> Circuit:
        nodes = tuple(node for node in self.nodes if node.kind == "logit" or node.id in inner)
        kept = {node.id for node in nodes}
        edges = _strongest_first(edge for edge in self.edges if edge.source in kept and edge.target in kept)
        # model_copy carries cached properties along, so the smaller circuit is made anew.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        # Evidence is of the circuit it was measured on. A digest that did not fit stays, so that an edit shows.
        fields |= {"evidence": None, "annotations": self.annotations and self.annotations.only(kept)}
        return Circuit(**{**fields, "nodes": nodes, "edges": tuple(edges[:max_edges])})

    def annotated(self, annotations: Annotations | None) -> Circuit:
        """The circuit with these annotations in place of its own; its evidence stays.

        Raises:
            CircuitError: they name what is no node of it.
        """
        unknown = set() if annotations is None else annotations.named - self._by_id.keys()
        if unknown:
            raise CircuitError(f"The annotations name {min(unknown)!r}, which is no node of this circuit.")
        # No cached property depends on them, so that a copy may carry those along.
        return self.model_copy(update={"annotations": annotations})

    def to_networkx(self) -> networkx.DiGraph:
        """A `networkx.DiGraph` with the nodes' and edges' fields as attributes."""
        import networkx

        graph = networkx.DiGraph(prompt=self.prompt, method=self.method)
        graph.add_nodes_from((node.id, node.model_dump(exclude={"id"})) for node in self.nodes)
        graph.add_edges_from((edge.source, edge.target, {"weight": edge.weight}) for edge in self.edges)
        return graph

    def to_json(self) -> str:
        """The document that `save` writes."""
        written = self
        if not self.edited:
            document = json.loads(self.model_dump_json(exclude={"digest"}))
            written = self.model_copy(update={"digest": _digest(document)})
        return written.model_dump_json(indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the circuit as JSON, whole or not at all.

        Raises:
            CircuitError: the file can't be written, or would be larger than can be opened again.
        """
        data = self.to_json().encode()
        if len(data) > MAX_BYTES:
            raise CircuitError(
                f"The circuit needs {_megabytes(len(data))}, above {_megabytes(MAX_BYTES)}: prune it first."
            )
        try:
            write_atomically(path, data)
        except OSError as error:
            raise CircuitError(f"Can't write {os.fspath(path)!r}: {error.strerror or error}.") from error

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


def open_circuit(path: str | os.PathLike[str]) -> Circuit:
    """Read a circuit file.

    Raises:
        CircuitError: the file can't be read or holds no circuit of this version; the message is one sentence.
    """
    name = os.fspath(path)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise CircuitError(f"{name!r} is not a file: give a circuit file (JSON).")
        if status.st_size > MAX_BYTES:
            raise CircuitError(
                f"{name!r} has {_megabytes(status.st_size)}, above the {_megabytes(MAX_BYTES)} of the largest circuit: "
                "it is something else, or has to be pruned before it is saved."
            )
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise CircuitError(f"Can't read {name!r}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        circuit = Circuit.model_validate_json(data)
        document = json.loads(data)
        given = document.pop("digest", None)
        # Versions 1 and 2 had none.
        intact = document["version"] < 3 if given is None else given == _digest(document)
        return circuit.model_copy(update={"digest": None if intact else given or "none"})
    except ValidationError as error:
        raise CircuitError(_why(name, data, error)) from error


def schema() -> dict[str, Any]:
    """The JSON Schema of a circuit file, published as `circuit.schema.json` in this package."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Circuit.model_json_schema()}


def _why(name: str, data: bytes, error: ValidationError) -> str:
    """One sentence on why a document is no circuit, from what it says of itself and the first fault found."""
    try:
        document = json.loads(data)
    except RecursionError:
        return f"{name!r} is not a circuit file: it is nested too deeply."
    except ValueError as fault:
        return f"{name!r} is not JSON or breaks off ({fault}): make it again with circuitlens find."
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return f"{name!r} is JSON but not a circuit file: it does not say 'format': {FORMAT!r}."
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        return f"{name!r} has circuit format {version} and this circuitlens reads {VERSION}: upgrade circuitlens."
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{name!r} is a damaged circuit file: {place[:80]}: {first['msg'].removeprefix('Value error, ')[:200]}."


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _strongest_first(edges: Iterable[Edge]) -> list[Edge]:
    return sorted(edges, key=lambda edge: -abs(edge.weight))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
