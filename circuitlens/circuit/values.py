"""What all values of a circuit have in common: they are frozen, strict, and hold finite numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]


class Value(BaseModel):
    """A frozen value without unknown fields, whose numbers are never read from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
