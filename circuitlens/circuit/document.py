"""The circuit's file: one JSON document with a format, a version and a digest by which a later edit shows.

`circuit.schema.json` beside this module describes it. A file is read whole and validated before anything else sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from circuitlens.circuit.annotations import MAX_NOTE
from circuitlens.circuit.values import Value
from circuitlens.errors import CircuitError
from circuitlens.files import format_bytes, parse_json, read_bounded, too_many, write_file
from circuitlens.files.described import first_fault
from circuitlens.registry import ALIASES

FORMAT = "circuitlens.circuit"
VERSION = 7
"""What is written; files of versions 1 to 6 are still read."""
MAX_BYTES = 40_000_000
"""Largest circuit file that is written or read: about a quarter of a million edges, far above what can be looked at."""

PAGE_STATE = ("focus", "nodes", "edges", "theme")
"""Fields of version 4's annotations that said how the page was left, and not what the reader says of the circuit."""

D = TypeVar("D", bound="Document")  # not Self, which the tests' type checks can't read on a single method


class Document(Value):
    """A value with a file of its own."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _require(schema, "format", "version"))

    format: Literal["circuitlens.circuit"] = FORMAT
    version: Literal[7] = VERSION
    digest: str | None = Field(default=None, description="SHA-256 of the rest of the document, keys sorted")

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
        try:
            data = self.to_json().encode()
        except ValueError as fault:  # pydantic's, of half of a surrogate pair
            raise CircuitError("The circuit holds half of a surrogate pair, which is no character.") from fault
        told = (
            f"{format_bytes(len(data))}, above {format_bytes(MAX_BYTES)}" if len(data) > MAX_BYTES else too_many(data)
        )
        if told:
            raise CircuitError(f"The circuit needs {told}: prune it first.")
        write_file(path, data, CircuitError)

    @classmethod
    def read(cls: type[D], path: str | os.PathLike[str]) -> D:
        """Read a circuit file of this or an earlier version.

        Raises:
            CircuitError: the file can't be read or holds no circuit; the message is one sentence.
        """
        name = os.fspath(path)
        data = read_bounded(path, MAX_BYTES, "a circuit file (JSON)", CircuitError)
        document = _parse(name, data)
        given, version = document.get("digest"), document["version"]
        try:
            value = cls.model_validate_json(data if version == VERSION else json.dumps(_upgraded(document)))
        except ValidationError as error:
            raise CircuitError(f"{name!r} is a damaged circuit file: {first_fault(error)}.") from error
        # Versions 1 and 2 had no digest.
        intact = given == digest_of(document) if given is not None else version < 3
        return value.model_copy(update={"digest": None if intact else given or "none", **_renamed(document)})


def _require(schema: dict[str, Any], *names: str) -> None:
    """Have a schema require fields that have a default: a file always says what it is."""
    schema["required"].extend(names)


def digest_of(document: dict[str, Any]) -> str:
    """The SHA-256 of a JSON document but for its own digest; the order of keys doesn't count."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parse(name: str, data: bytes) -> dict[str, Any]:
    """The JSON object of a file that says it is a circuit of a version that can be read."""
    try:
        document = parse_json(data)
    except json.JSONDecodeError as fault:
        raise CircuitError(
            f"{name!r} is not JSON or breaks off ({fault}): make it again with circuitlens find."
        ) from fault
    except ValueError as fault:
        raise CircuitError(f"{name!r} is no circuit file that can be read: {fault}.") from fault
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


def _renamed(document: dict[str, Any]) -> dict[str, str]:
    """The name that the adapter of a valid document has now; `wrap` gives names of its own, which stay."""
    name = document["adapter"]
    return {"adapter": ALIASES[name]} if name in ALIASES and "wrapped" not in document.get("options", {}) else {}


def _upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """A document of an earlier version as the current one says it."""
    said = document.get("annotations")
    if isinstance(said, dict) and document["version"] < 5:
        said = {key: value for key, value in said.items() if key not in PAGE_STATE}
    if isinstance(said, dict):
        said = _labelled_by_feature(said, document.get("nodes"))
    return {**document, "version": VERSION, "annotations": said}


def _labelled_by_feature(said: dict[str, Any], nodes: object) -> dict[str, Any]:
    """Annotations whose labels are by node, as until version 6, with labels by feature.

    Of several that a feature had at its positions the first stays, in the order of the nodes; another one goes into
    the note of its node. What is not of the form that a file has is left for its validation.
    """
    labels, notes = said.get("labels", {}), said.get("notes", {})
    known = [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
    if not (isinstance(labels, dict) and isinstance(notes, dict) and all(isinstance(n.get("id"), str) for n in known)):
        return said
    made, notes = dict[str, Any](), dict(notes)
    for node in known:
        name, index = node["id"], node.get("index")
        if name not in labels:
            continue
        key = name if index is None or node.get("kind") == "logit" else f"{node.get('hook')}/{index}"
        if made.setdefault(key, labels[name]) != labels[name]:
            notes[name] = f"{notes[name]}\n{labels[name]}" if name in notes else labels[name]
            notes[name] = notes[name][:MAX_NOTE] if isinstance(notes[name], str) else notes[name]
    made |= {name: text for name, text in labels.items() if name not in {node["id"] for node in known}}
    return {**said, "labels": made, "notes": notes}
