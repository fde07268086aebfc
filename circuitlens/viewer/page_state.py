"""The state of the page that the browser keeps, in its address and for undo: the one place that says what it is.

The page's script gets it as JSON Schema: the defaults are what a page begins with, and of an address, which may come
from anyone, it takes what fits. A new field is added here and where it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from circuitlens.circuit import Annotations
from circuitlens.circuit.values import Many
from circuitlens.errors import ViewerError

View = Literal["graph", "table", "evidence"]
Tab = Literal["node", "pinned", "ask", "about"]

VIEWS: tuple[View, ...] = get_args(View)

Count = Annotated[int, Field(ge=0)]
Factor = Annotated[float, Field(allow_inf_nan=False)]
NO_UNDO: dict[str, Any] = {"undo": False}
"""Of a field that says what a reader looks at, and not what they did: undo leaves it alone."""


class CircuitState(Annotations):
    """The state of one circuit: its annotations, which a circuit file keeps, and how the page shows it.

    `focus` is a node, `edge` the ends of an edge, at most one of the two. `nodes` and `edges` are how many are on
    show, null for the page's own choice: the core and its strongest edges. `settings` are the interventions: a
    node's id, or "group " and a group's name, with a factor or "corrupted".
    """

    focus: str | None = Field(default=None, json_schema_extra=NO_UNDO)
    edge: tuple[str, str] | None = Field(default=None, json_schema_extra=NO_UNDO)
    position: Count | None = Field(default=None, description="the one whose nodes stand out", json_schema_extra=NO_UNDO)
    nodes: Count | None = None
    edges: Count | None = None
    settings: Many[tuple[str, Factor | Literal["corrupted"]]] = ()


class PageState(BaseModel):
    """The state of the page; `circuit` and `other` are numbers of circuits, `by` has each one's state by its number."""

    model_config = ConfigDict(extra="forbid")

    circuit: Count = 0
    other: Count | None = Field(default=None, description="the circuit that it is compared with")
    as_: Literal["side", "difference"] = Field(default="side", alias="as", description="how the two are compared")
    view: View = Field(default="graph", json_schema_extra=NO_UNDO)
    tab: Tab = Field(default="node", json_schema_extra=NO_UNDO)
    theme: Literal["light", "dark"] | None = Field(default=None, json_schema_extra=NO_UNDO)
    by: dict[str, CircuitState] = {}


def schema() -> dict[str, Any]:
    """The JSON Schema of the page's state."""
    return PageState.model_json_schema()


def read_annotations(circuit_state: str) -> Annotations:
    """The part of a circuit's state (JSON, from the page) that its file keeps, checked like a file's.

    Raises:
        ViewerError: it is not what a circuit file can hold.
    """
    try:
        state = CircuitState.model_validate_json(circuit_state)
    except ValidationError as error:
        raise ViewerError(f"This can't be kept in a circuit file: {describe_fault(error)}.") from error
    return Annotations(**{name: getattr(state, name) for name in Annotations.model_fields})


def describe_fault(error: ValidationError) -> str:
    """Where the first thing stands that does not fit, and what is wrong with it."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
