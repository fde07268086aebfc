"""What the file of an imported attribution graph says, whose parts a circuit carries as JSON text.

The format is that of circuit-tracer and Neuronpedia; anyone may have written it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from circuitlens.circuit.values import Many, Name, Number, Text
from circuitlens.files import parse_json
from circuitlens.files.described import first_fault


class _Part(BaseModel):
    """A part of the file, with whatever fields it has beside these."""

    model_config = ConfigDict(extra="allow")


class GraphNode(_Part):
    """A node."""

    model_config = ConfigDict(strict=True)

    node_id: str = Field(min_length=1, max_length=1000)
    feature: int | None
    layer: Annotated[str, Field(pattern=r"^(E|E1|-1|\d{1,6})$")] | Annotated[int, Field(ge=-1, lt=10**6)]
    ctx_idx: int = Field(ge=0, le=100_000)
    feature_type: Name
    jsNodeId: Name  # noqa: N815 (the format's)
    clerp: Annotated[str, Field(max_length=100_000)]
    influence: Number | None = None
    activation: Number | None = None
    token_prob: Number | None = None
    is_target_logit: bool | None = None


class GraphMetadata(_Part):
    """What the graph is of."""

    slug: Name
    scan: Name
    prompt_tokens: Many[Name] = Field(min_length=1)
    prompt: Text


class GraphState(_Part):
    """`qParams`: what a reader made of the graph."""

    pinnedIds: Many[Name] = ()  # noqa: N815 (the format's)
    supernodes: Many[Annotated[tuple[Name, ...], Field(min_length=1)]] = ()


class ImportedGraph(_Part):
    """What a file says beside nodes and links."""

    metadata: GraphMetadata
    qParams: GraphState  # noqa: N815 (the format's)


def _says(shape: type[_Part]) -> Callable[[str], str]:
    """A check that a text, if there is one, is JSON of this shape."""

    def checked(text: str) -> str:
        try:
            if text:
                shape.model_validate(parse_json(text.encode()))
        except ValidationError as error:
            raise ValueError(f"what the imported graph says breaks its format: {first_fault(error)}") from error
        return text

    return checked


BESIDE = Field(
    exclude_if=lambda text: not text,
    description="of an imported graph: what its file says beside the other fields, as JSON text",
)
NodeText = Annotated[Text, BESIDE, AfterValidator(_says(GraphNode))]
GraphText = Annotated[Text, BESIDE, AfterValidator(_says(ImportedGraph))]
