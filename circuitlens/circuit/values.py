"""What the values of a circuit are made of: numbers, texts and lists within the limits that a file keeps."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 1e100
"""Beyond what any model computes, and so small that sums, differences and products are finite."""
MOST = 100_000
"""Tokens, pairs, and whatever else there is of one kind beside nodes and edges, which the size of a file bounds."""

T = TypeVar("T")
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
"""A number that is no less than 0."""
Whole = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Name = Annotated[str, Field(max_length=1000)]
"""An id, a hook, a label."""
Text = Annotated[str, Field(max_length=1_000_000)]
"""A prompt, or a sentence."""
# The first fault is enough: a message on each of a million would not fit in memory.
Many = Annotated[tuple[T, ...], Field(fail_fast=True, max_length=MOST)]


class Value(BaseModel):
    """A frozen value without unknown fields, whose numbers are never read from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
