"""What runs of the model gave, kept in a folder by the digest of what was run: `verify` goes on where it was.

Nothing has to agree beforehand: what is asked otherwise has another digest, and is measured.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor

from circuitlens.errors import RunError
from circuitlens.files import read_bounded
from circuitlens.runfolder.folder import MAX_PIECE
from circuitlens.runfolder.sealed import DamagedError, keep, seal, unseal

log = logging.getLogger(__name__)


class MeasuredRuns:
    """The folder of what was measured, of one question.

    Args:
        path: the folder, which is made where it is not there.
        question: what all of it is about: the circuit, the weights, the settings.

    Raises:
        RunError: the folder can't be made.
    """

    def __init__(self, path: Path, *question: str):
        self._path = path / "evidence"
        self._question = (*question, torch.__version__, str(torch.get_num_threads()))
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise RunError(f"Can't make the folder {str(self._path)!r}: {fault.strerror}. Give another.") from fault

    def find(self, *asked: str | bytes) -> Tensor | None:
        """What was measured of this; None where nothing was, or it is damaged."""
        path = self._file(asked)
        if not path.exists():
            return None
        try:
            return unseal(read_bounded(path, MAX_PIECE, "a measurement", RunError))[0]["metric"]
        except (DamagedError, KeyError) as fault:
            log.warning("%s is damaged (%s) and is measured again.", path, fault)
            return None

    def keep(self, values: Tensor, *asked: str | bytes) -> None:
        """Keep what was measured of this.

        Raises:
            RunError: it can't be written.
        """
        keep(self._file(asked), seal({"metric": values.cpu()}, ""))

    def _file(self, asked: tuple[str | bytes, ...]) -> Path:
        total = hashlib.sha256()
        for part in (*self._question, *asked):
            data = part.encode() if isinstance(part, str) else part
            total.update(len(data).to_bytes(8, "little") + data)
        return self._path / f"{total.hexdigest()}.safetensors"
