"""What a page tells the server: the topics of its state, each of which some callbacks answer, and its form's fields.

Whoever has the page's token can send anything, so that a request is read by this before a callback has it.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from circuitlens.circuit.annotations import Annotations, Group
from circuitlens.errors import ViewerError
from circuitlens.viewer.page_state import Count, Factor, View, describe_fault


class Topic(BaseModel):
    """A part of the page's state; `circuit` is the number of the circuit that it is about."""

    model_config = ConfigDict(extra="forbid")

    circuit: Count


class Shown(Topic):
    """The circuits on show."""

    other: Count | None
    as_: Literal["side", "difference"] = Field(alias="as")


class Focused(Topic):
    """The node or edge in focus, with the reader's labels."""

    other: Count | None
    node: str | None
    edge: tuple[str, str] | None
    labels: dict[str, str]


class Pinned(Topic):
    """The pinned nodes and groups, with the reader's labels."""

    pins: list[str]
    groups: list[Group]
    labels: dict[str, str]


class Suggest(Topic):
    """Groups are to be suggested; `turn` makes one press another than the one before."""

    turn: float


class Asked(Topic):
    """The interventions, by node; `key` says the same, and the answer has it."""

    settings: dict[str, Factor | Literal["corrupted"]]
    active: bool
    key: str


class Continuing(Topic):
    """The interventions with which the text is to be continued; `turn` makes one press another than the one before."""

    settings: dict[str, Factor | Literal["corrupted"]]
    turn: float


class Alone(Topic):
    """The nodes that are to do it alone; `key` says the same, and the answer has it."""

    nodes: list[str]
    active: bool
    key: str


class Read(Topic):
    """What the table and the evidence are of."""

    view: View
    other: Count | None
    labels: dict[str, str]
    notes: dict[str, str]


class Typed(BaseModel):
    """What stands in the form for a new circuit."""

    model_config = ConfigDict(extra="forbid")

    adapter: str
    prompt: str
    corrupted: str
    answer: str
    distractor: str
    method: str


class Unread(BaseModel):
    """Neither the table nor the evidence is on show."""

    model_config = ConfigDict(extra="forbid")

    view: Literal["graph"]


class Kept(Topic):
    """What a file can keep: the circuit's state as JSON."""

    state: str


class Told(BaseModel):
    """What the server told of an open circuit; the annotations that a page began with are looked at again."""

    annotations: Annotations | None


class Given(BaseModel):
    """What the server told of the open circuits."""

    circuits: list[Told]


class Ending(BaseModel):
    """A job that a reader ends or dismisses; `turn` makes one press another than the one before."""

    model_config = ConfigDict(extra="forbid")

    job: int
    how: Literal["cancel", "dismiss"]
    turn: float


FORMS: dict[str, Any] = {
    "shown.data": Shown,
    "focused.data": Focused,
    "pinned.data": Pinned,
    "suggest.data": Suggest,
    "asked.data": Asked,
    "continuing.data": Continuing,
    "kept-alone.data": Alone,
    "reading.data": Read | Unread,
    "kept.data": Kept,
    "given.data": Given,
    "typed.data": Typed,
    "theme.data": Literal["light", "dark"],
    "ending.data": Ending,
    "new-circuit.opened": bool,
    **{f"new-{name}.value": str for name in ("adapter", "prompt", "answer", "distractor", "corrupted", "method")},
}
"""What a property is, by its component and name, where a callback relies on it."""

COUNTS = (".n_clicks", ".n_intervals")
"""What the names of properties end in that are counted up to have a callback asked."""


def check(name: str, value: object) -> None:
    """Refuse a value of a property that it can't have; None is one that the page has not set yet.

    Raises:
        ViewerError: the page never sends this.
    """
    what = int if name.endswith(COUNTS) else FORMS.get(name)
    if what is None or value is None:
        return
    form: TypeAdapter[Any] = TypeAdapter(what)
    try:
        form.validate_json(json.dumps(value), strict=True)  # JSON, whose lists are what a strict form has tuples for
    except ValidationError as error:
        raise ViewerError(f"{name} can't be read ({describe_fault(error)}): reload the page.") from error
