"""A corpus's folder: what it is of (`corpus.json`), the statistics of each site (safetensors), the windows' tokens.

Statistics are written beside the older ones, and count once `corpus.json` says so: whatever kills the writer, the
folder is a whole corpus of a part of the text. Once the text is through, nothing in the folder says how it came about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open

from circuitlens.circuit.nodes import Fingerprint
from circuitlens.circuit.values import Count, Many, Name, Number, Text, Value, Whole
from circuitlens.errors import CorpusError
from circuitlens.files import MAX_KEYS, parse_json, read_bounded, reason_of, write_file
from circuitlens.files.described import Description
from circuitlens.literals import SiteKind
from circuitlens.prompts.pairs import Pair

FORMAT = "circuitlens.corpus"
DOCUMENT = "corpus.json"
MAX_BYTES = 40_000_000
DESCRIPTION = Description(
    *(DOCUMENT, FORMAT, MAX_BYTES, "corpus"),
    begin="make one with circuitlens corpus build",
    again="make it again",
    error=CorpusError,
)
SEGMENT = 256
"""Windows whose tokens are in one file."""
MAX_CONTEXT, MAX_TOP = 2048, 100
BINS, LOWEST = 32, -6
"""Half octaves of a histogram, and the power of two that it begins at; its ends also have what lies beyond."""


class CorpusSite(Value):
    """A site with a coder; `hook` is where it writes, as nodes have it."""

    name: Name
    hook: Name
    kind: SiteKind
    layer: Count
    features: Count


class CorpusText(Value):
    """A text by its name and the digest of what is in it."""

    name: Text
    digest: Name


class CorpusRecord(Value):
    """What a corpus is of, and how far it is: `done` once its texts are through, or `max_tokens` are."""

    format: Literal["circuitlens.corpus"] = FORMAT
    version: Literal[1] = 1
    adapter: Name
    options: dict[Name, Text | Whole | Number | bool | None] = Field(max_length=MAX_KEYS)
    prompt: Text = Field(description="that the fingerprint is on")
    answer: Name
    fingerprint: Fingerprint
    sites: Many[CorpusSite] = Field(min_length=1)
    texts: Many[CorpusText] = Field(min_length=1)
    context: Annotated[int, Field(ge=2, le=MAX_CONTEXT)] = Field(description="tokens of a window, at most")
    top: Annotated[int, Field(ge=1, le=MAX_TOP)] = Field(description="windows kept of each feature")
    max_tokens: Count
    pieces: Count = Field(default=0, description="of the texts, that are through")
    windows: Count = 0
    tokens: Count = Field(default=0, description="without those that the adapter puts before each window")
    unread: Count = Field(default=0, description="parts of the texts that the adapter can't read")
    done: bool = False

    def statistics_file(self, site: int) -> str:
        """The name of the file with a site's statistics."""
        return f"site-{site}.safetensors" if self.done else f"site-{site}-{self.pieces}.part.safetensors"


def edges_of_bins() -> tuple[float, ...]:
    """The borders of the histogram's bins; all that is smaller or larger is in the first and the last."""
    return tuple(2 ** (LOWEST + number / 2) for number in range(BINS + 1))


def segment_file(number: int) -> str:
    """The name of the file with the tokens of `SEGMENT` windows."""
    return f"windows-{number:05}.json"


def read_record(folder: Path) -> CorpusRecord:
    """What a folder says that it is.

    Raises:
        CorpusError: it is no corpus.
    """
    return DESCRIPTION.read(folder, CorpusRecord)


def pair_of(record: CorpusRecord) -> Pair:
    """The prompt of a corpus's fingerprint."""
    return Pair.model_construct(prompt=record.prompt, corrupted=None, answer=(record.answer,), distractor=())


def write_record(folder: Path, record: CorpusRecord) -> None:
    """Write what a folder is, in one step, and remove statistics of before."""
    write_file(folder / DOCUMENT, (record.model_dump_json(indent=1) + "\n").encode(), CorpusError)
    remove_old(folder, record)


def remove_old(folder: Path, record: CorpusRecord) -> None:
    """Remove statistics of before, which a process that was killed may have left."""
    current = {record.statistics_file(site) for site in range(len(record.sites))}
    for old in folder.glob("site-*.safetensors"):
        if old.name not in current:
            old.unlink(missing_ok=True)


def shapes_of(record: CorpusRecord, site: int) -> dict[str, list[int]]:
    """The tensors of a site's statistics, with their shapes."""
    features = record.sites[site].features
    shapes = {"count": [features], "histogram": [features, BINS]}
    for name, places in (("top", record.top), ("octave", BINS // 2)):
        shapes |= {f"{name}_{part}": [features, places] for part in ("value", "window", "pos")}
    return shapes


def _dtype(name: str) -> str:
    """The dtype of one of these tensors, as safetensors calls it."""
    kinds = {"value": "F32", "count": "I64", "pos": "I16"}
    return kinds.get(name.rsplit("_", 1)[-1], "I32")


def open_statistics(folder: Path, record: CorpusRecord, site: int, framework: str) -> Any:
    """A site's statistics, of which rows are read one by one.

    Raises:
        CorpusError: the file is missing or damaged.
    """
    path = folder / record.statistics_file(site)
    try:
        file = safe_open(path, framework)
        for name, shape in shapes_of(record, site).items():
            part = file.get_slice(name)
            found, expected = (part.get_dtype(), part.get_shape()), (_dtype(name), shape)
            if found != expected:
                told = f"{name} is {found[0]} {found[1]}, not {expected[0]} {shape}"
                raise CorpusError(f"{str(path)!r} is damaged: {told}. Make it again.")
        return file
    except (OSError, SafetensorError) as fault:
        told = reason_of(fault) if isinstance(fault, OSError) else str(fault)
        raise CorpusError(f"Can't read {str(path)!r} ({told}): make the corpus again.") from fault


def write_segment(folder: Path, number: int, windows: Sequence[Sequence[str]]) -> None:
    """Write the tokens of the windows from `number * SEGMENT` on."""
    write_file(folder / segment_file(number), json.dumps(windows).encode(), CorpusError)


def read_segment(folder: Path, number: int) -> list[list[str]]:
    """The tokens of the windows from `number * SEGMENT` on.

    Raises:
        CorpusError: they can't be read.
    """
    path = folder / segment_file(number)
    data = read_bounded(path, MAX_BYTES, "a corpus's windows (JSON)", CorpusError)
    try:
        windows = parse_json(data)
    except ValueError as fault:
        raise CorpusError(f"{str(path)!r} is damaged ({fault}): make the corpus again.") from fault
    whole = isinstance(windows, list) and all(
        isinstance(window, list) and all(isinstance(token, str) for token in window) for window in windows
    )
    if not whole:
        raise CorpusError(f"{str(path)!r} is damaged: it is no list of windows' tokens. Make the corpus again.")
    return windows
