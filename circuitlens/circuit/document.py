"""The circuit's file: one JSON document with a format, a version and a digest by which a later edit shows.

`circuit.schema.json` beside this module describes it. A file is read whole and validated before anything else sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from circuitlens.circuit.nodes import Value
from circuitlens.errors import CircuitError
from circuitlens.files import format_bytes, read_bounded, write_file

FORMAT = "circuitlens.circuit"
VERSION = 5
"""What is written; files of versions 1 to 4 are still read."""
MAX_BYTES = 100_000_000
"""Largest circuit file that is written or read: about half a million edges, far above what can be looked at."""

PAGE_STATE = ("focus", "nodes", "edges", "theme")
"""Fields of version 4's annotations that said how the page was left, and not what the reader says of the circuit."""

D = TypeVar("D", bound="Document")  # not Self, which the tests' type checks can't read on a single method


class Document(Value):
    """A value with a file of its own."""

    format: Literal["circuitlens.circuit"] = FORMAT
    version: Literal[1, 2, 3, 4, 5] = VERSION
    digest: str | None = Field(default=None, description="SHA-256 of the rest of the document, keys sorted")

    @field_validator("version")
    @classmethod
    def _current(cls, _version: int) -> int:
        # A later version added fields whose defaults say what earlier ones meant, or left some out (`_upgraded`).
        return VERSION

    @property
    def edited(self) -> bool:
        """Whether the file that the circuit was read from was changed after it was written."""
        return self.digest is not None  # one that fits is gone once a file is open

    def to_json(self) -> str:
        """The document that `save` writes."""
        written = self
        if not self.edited:
            written = self.model_copy(update={"digest": digest_of(json.loads(self.model_dump_json()))})
        return written.model_dump_json(indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the circuit as JSON, whole or not at all.

        Raises:
            CircuitError: the file can't be written, or would be larger than can be opened again.
        """
        data = self.to_json().encode()
        if len(data) > MAX_BYTES:
            raise CircuitError(
                f"The circuit needs {format_bytes(len(data))}, above {format_bytes(MAX_BYTES)}: prune it first."
            )
        write_file(path, data, CircuitError)

    @classmethod
    def read(cls: type[D], path: str | os.PathLike[str]) -> D:
        """Read a circuit file of this or an earlier version.

        Raises:
            CircuitError: the file can't be read or holds no circuit; the message is one sentence.
        """
        name = os.fspath(path)
        data = read_bounded(path, MAX_BYTES, "a circuit file (JSON)", CircuitError)
        try:
            document = _parse(name, data)
            given, version = document.get("digest"), document["version"]
            # Versions 1 and 2 had no digest.
            intact = given == digest_of(document) if given is not None else version < 3
            value = cls.model_validate_json(data if version == VERSION else json.dumps(_upgraded(document)))
        except RecursionError:
            raise CircuitError(f"{name!r} is not a circuit file: it is nested too deeply.") from None
        except ValidationError as error:
            raise CircuitError(f"{name!r} is a damaged circuit file: {_first_fault(error)}.") from error
        return value.model_copy(update={"digest": None if intact else given or "none"})


def digest_of(document: dict[str, Any]) -> str:
    """The SHA-256 of a JSON document but for its own digest; the order of keys doesn't count."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parse(name: str, data: bytes) -> dict[str, Any]:
    """The JSON object of a file that says it is a circuit of a version that can be read."""
    try:
        document = json.loads(data)
    except ValueError as fault:
        raise CircuitError(
            f"{name!r} is not JSON or breaks off ({fault}): make it again with circuitlens find."
        ) from fault
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CircuitError(f"{name!r} is JSON but not a circuit file: it does not say 'format': {FORMAT!r}.")
    version = document.get("version")
    if type(version) is not int or version < 1:
        raise CircuitError(f"{name!r} is a damaged circuit file: version: it should be a number from 1 to {VERSION}.")
    if version > VERSION:
        raise CircuitError(
            f"{name!r} has circuit format {version} and this circuitlens reads {VERSION}: upgrade circuitlens."
        )
    return document


def _upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """A document of an earlier version as the current one says it."""
    said = document.get("annotations")
    if not isinstance(said, dict):
        return document
    return {**document, "annotations": {key: value for key, value in said.items() if key not in PAGE_STATE}}


def _first_fault(error: ValidationError) -> str:
    """Where the first fault of a document is, and what it is."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{place[:80]}: {first['msg'].removeprefix('Value error, ')[:200]}"
