"""What a run is of (`run.json`): a search's configuration, its prompts by their digest, the weights, the versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field

from circuitlens.adapter import Adapter
from circuitlens.circuit.nodes import Fingerprint
from circuitlens.circuit.values import Count, Name, Number, Text, Value, Whole
from circuitlens.distribution import installed_version
from circuitlens.errors import RunError
from circuitlens.files import MAX_KEYS, write_file
from circuitlens.files.described import Description
from circuitlens.literals import MethodName, MetricName, PositionGrouping, StageName
from circuitlens.pipeline import Search
from circuitlens.prompts.alignment import align, tokenize_pairs
from circuitlens.prompts.pairs import Pair
from circuitlens.torch_modes import own_modes

FORMAT = "circuitlens.run"
DOCUMENT = "run.json"
DESCRIPTION = Description(
    *(DOCUMENT, FORMAT, 1_000_000, "run"),
    begin="begin one with circuitlens find --prompts … --run",
    again="begin another",
    error=RunError,
)
ELSEWHERE = {"fingerprint", "threads", "digest"}
"""Fields that are compared by themselves, or need not be equal: weights are compared by what they do, a process takes
the run's threads, and a digest is nothing to show."""


class RunRecord(Value):
    """What a run is of.

    Results are the same to the last bit where these are: `device` is the kind of device, and `threads` is how many
    torch computes with, as both change the order in which it sums.
    """

    format: Literal["circuitlens.run"] = FORMAT
    version: Literal[1] = 1
    adapter: Name
    options: dict[Name, Text | Whole | Number | bool | None] = Field(max_length=MAX_KEYS)
    fingerprint: Fingerprint
    prompts: Count = Field(ge=1)
    digest: Name = Field(description="of the prompts, in their order")
    by: PositionGrouping
    method: MethodName
    metric: MetricName
    frozen: bool
    max_nodes: Count | None
    max_edges: Count | None
    measured_edges: Count
    batch_size: Count = Field(ge=1)
    batches: Count = Field(ge=1)
    stages: tuple[StageName, ...] = Field(min_length=1, max_length=3)
    device: Name
    threads: Count = Field(ge=1)
    versions: dict[Name, Name] = Field(max_length=20)

    @staticmethod
    def of(search: Search) -> RunRecord:
        """That of a search over many prompts.

        Raises:
            RunError: its metric is a function, which no other process can be told of.
        """
        metric = search.metric
        if not isinstance(metric, str):
            raise RunError("A run's folder keeps a metric by its name, and this one is a function: name one.")
        assert search.prompts.by is not None, "runs are over many prompts"
        return RunRecord(
            adapter=search.adapter.name,
            options={name: value for name, value in search.adapter.options.items() if name != "device"},
            fingerprint=search.fingerprint(),
            prompts=len(search.prompts),
            digest=digest_of(search.prompts.pairs),
            by=search.prompts.by,
            method=search.method,
            metric=cast(MetricName, metric),
            frozen=search.frozen,
            max_nodes=search.max_nodes,
            max_edges=search.max_edges,
            measured_edges=search.measured_edges,
            batch_size=search.batch_size,
            batches=len(search.batches),
            stages=search.stages,
            device=search.example.clean.mask.device.type,
            threads=torch.get_num_threads(),
            versions={"circuitlens": installed_version()}
            | {name: found for name in ("torch", "sae-lens") if (found := _installed(name))},
        )

    @property
    def question(self) -> str:
        """All that decides what a piece is, as text, but for what decides its last bits only."""
        return self.model_dump_json(exclude={"fingerprint", "device", "threads"})

    def search(self, adapter: Adapter, pairs: Sequence[Pair]) -> Search:
        """The search that this is the record of, with its adapter and its prompts at hand.

        Raises:
            PromptError: the adapter can't read the prompts.
        """
        with own_modes(gradients=True):
            prompts = align(adapter, pairs, self.by)
            example = tokenize_pairs(adapter, prompts.pairs[:1], self.metric)
            sizes = self.max_nodes, self.max_edges, self.measured_edges, self.batch_size
            return Search(adapter, prompts, example, self.method, self.metric, self.frozen, *sizes)

    def difference(self, other: RunRecord) -> str:
        """The first field in which another run is not this one, in a sentence's words, or ""."""
        for name in type(self).model_fields:
            if name not in ELSEWHERE and (ours := getattr(self, name)) != (theirs := getattr(other, name)):
                return f"it has {name.replace('_', ' ')}: {_told(ours)}, and now it is {_told(theirs)}"
        if self.digest != other.digest:
            return "its prompts are others, or in another order"
        if (ours := self.fingerprint.dtype) != (theirs := other.fingerprint.dtype):
            return f"its model is in {ours}, and now it is in {theirs}"
        return ""


def digest_of(pairs: Sequence[Pair]) -> str:
    """A digest of prompts in their order."""
    rows = (json.dumps(pair.model_dump(mode="json"), sort_keys=True) for pair in pairs)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_record(folder: Path) -> RunRecord:
    """What a folder says that it is.

    Raises:
        RunError: it is no run.
    """
    return DESCRIPTION.read(folder, RunRecord)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write what a folder is, in one step."""
    write_file(folder / DOCUMENT, (record.model_dump_json(indent=1) + "\n").encode(), RunError)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _told(value: object) -> str:
    return f"{value!r:.300}"
