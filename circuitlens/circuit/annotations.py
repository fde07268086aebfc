"""A reader's annotations of a circuit: pins, groups, labels and notes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, model_validator

from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.circuit.nodes import Node
from circuitlens.circuit.values import Many, Name, Value
from circuitlens.files import MAX_KEYS

MAX_NOTE = 10_000
"""Characters of a note."""

Key = Annotated[str, Field(max_length=1100)]
"""A node's id, or a hook with an index."""


class Group(Value):
    """Nodes that a reader takes for one, by a name of their own."""

    name: str = Field(min_length=1, max_length=MAX_LABEL)
    nodes: Many[Name] = Field(min_length=1)


class Annotations(Value):
    """What a reader made of the circuit; no measurement, so that evidence doesn't depend on it.

    `labels` are by feature, whatever its position (`Node.label_key`), and `notes` by node id.
    """

    pins: Many[Name] = ()
    groups: Many[Group] = ()
    labels: dict[Key, Annotated[str, Field(max_length=MAX_LABEL)]] = Field(default={}, max_length=MAX_KEYS)
    notes: dict[Name, Annotated[str, Field(max_length=MAX_NOTE)]] = Field(default={}, max_length=MAX_KEYS)

    @model_validator(mode="after")
    def _once_each(self) -> Annotations:
        if len({*self.pins, *self._grouped}) < len(self.pins) + len(self._grouped):
            raise ValueError("a node is pinned or grouped twice")
        if len({group.name for group in self.groups}) < len(self.groups):
            raise ValueError("two groups have one name")
        return self

    @property
    def _grouped(self) -> list[str]:
        return [node for group in self.groups for node in group.nodes]

    @property
    def named(self) -> set[str]:
        """The ids of all nodes that are pinned, grouped or noted."""
        return {*self.pins, *self._grouped, *self.notes}

    def only(self, nodes: Iterable[Node]) -> Annotations:
        """The annotations of these nodes alone."""
        keys = {node.id: node.label_key for node in nodes}
        ids, labelled = keys.keys(), {*keys.values()}
        groups = ((group.name, tuple(node for node in group.nodes if node in ids)) for group in self.groups)
        return Annotations(
            pins=tuple(node for node in self.pins if node in ids),
            groups=tuple(Group(name=name, nodes=nodes) for name, nodes in groups if nodes),
            labels={key: text for key, text in self.labels.items() if key in labelled},
            notes={node: text for node, text in self.notes.items() if node in ids},
        )
