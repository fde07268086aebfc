"""What a worker of Ray does: load the model and its SAEs once, and compute the pieces that it is handed.

Nothing here knows Ray, or where the run's folder is: what a worker needs comes as values, and pieces go back as bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuitlens.errors import CircuitLensError
from circuitlens.fingerprint import difference
from circuitlens.literals import StageName
from circuitlens.pipeline.stages import Scoring
from circuitlens.prompts.pairs import Pair
from circuitlens.registry import load
from circuitlens.runfolder.pieces import digest_of_inputs, known_from_bytes
from circuitlens.runfolder.record import RunRecord
from circuitlens.runfolder.running import computed, failure_reason
from circuitlens.torch_modes import own_modes


@dataclass(frozen=True)
class Task:
    """What a worker takes part in: a run's record and prompts as JSON, and the options that its adapter is loaded with.

    `folder` is where relative names in the options begin.
    """

    record: str
    pairs: tuple[str, ...]
    options: Mapping[str, Any]
    folder: str


class Worker:
    """A model with its SAEs that computes pieces of one run."""

    def load(self, task: Task) -> str:
        """Load all that is needed; what keeps this worker from taking part, "" where nothing does."""
        try:
            self._load(task)
        except (CircuitLensError, MemoryError, RuntimeError) as fault:
            return f"on {socket.gethostname()}: {failure_reason(fault)}"
        return ""

    def _load(self, task: Task) -> None:
        self._record = record = RunRecord.model_validate_json(task.record)
        pairs = [Pair.model_validate_json(row) for row in task.pairs]
        torch.set_num_threads(record.threads)
        if Path(task.folder).is_dir():  # another machine may not have it
            os.chdir(task.folder)
        adapter = load(record.adapter, **task.options)
        with own_modes(gradients=True):
            self._search = record.search(adapter, pairs)
            told = record.difference(RunRecord.of(self._search)) or difference(adapter, record.fingerprint, pairs[0])
        if told:
            raise CircuitLensError(f"it would compute something else: {told}.")
        self._scoring = Scoring(self._search)

    def compute(self, stage: StageName, batch: int, known: bytes) -> bytes | str:
        """The file of a piece, or why there is none."""
        left = known_from_bytes(known)
        try:
            with own_modes(gradients=True):
                return computed(self._search, self._scoring, stage, batch, left, digest_of_inputs(self._record, left))
        except (CircuitLensError, MemoryError, RuntimeError) as fault:
            return failure_reason(fault)
