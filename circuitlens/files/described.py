"""Folders that say what they are: one JSON document with a format and a version, read into a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from circuitlens.errors import CircuitLensError
from circuitlens.files.reading import parse_json, read_bounded

T = TypeVar("T", bound=BaseModel)
VERSION = 1
"""The one version of all such documents so far."""


@dataclass(frozen=True)
class Description:
    """A kind of such a folder: its document's name, format and largest size, what it is called ("corpus"), and what to
    do where there is none ("make one with …") or a bad one ("make it again").
    """

    document: str
    format: str
    max_bytes: int
    what: str
    begin: str
    again: str
    error: type[CircuitLensError]

    def read(self, folder: Path, model: type[T]) -> T:
        """What a folder says that it is.

        Raises:
            CircuitLensError: (the description's `error`) it is none of this kind.
        """
        path = folder / self.document
        if not path.is_file():
            raise self.error(f"{str(folder)!r} is no {self.what} (it has no {self.document}): {self.begin}.")
        data = read_bounded(path, self.max_bytes, f"a {self.what}'s description", self.error)
        try:
            said = parse_json(data)
            if not isinstance(said, dict) or said.get("format") != self.format:
                raise self.error(f"{str(path)!r} is no {self.what}: it does not say 'format': {self.format!r}.")
            if said.get("version") != VERSION:
                raise self.error(
                    f"{str(path)!r} has {self.what} format {said.get('version')!r:.20} and this circuitlens reads "
                    f"{VERSION}: {self.again}, or upgrade circuitlens."
                )
            return model.model_validate_json(data)
        except ValidationError as fault:
            raise self.error(f"{str(path)!r} is damaged ({first_fault(fault)}): {self.again}.") from fault
        except ValueError as fault:
            raise self.error(f"{str(path)!r} is damaged ({fault}): {self.again}.") from fault


def first_fault(error: ValidationError) -> str:
    """Where the first fault of a document is, and what it is."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:80] for part in first["loc"]).replace("\n", " ") or "the document"
    return f"{place[:80]}: {first['msg'].removeprefix('Value error, ')[:200]}"
