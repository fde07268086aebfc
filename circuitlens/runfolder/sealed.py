"""Tensors with a text as a file: safetensors, with a checksum over all of it, written in one step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from circuitlens.errors import RunError
from circuitlens.files import reason_of, write_atomically

HEADER, CHECKSUM = "circuitlens", "sha256"


class DamagedError(RunError):
    """A file is not what was written, or of something else; what it held is to be computed again."""


def keep(path: Path, data: bytes) -> None:
    """Write a file of a run in one step.

    Raises:
        RunError: it can't be written.
    """
    try:
        write_atomically(path, data)
    except OSError as fault:
        raise RunError(
            f"Can't write into {str(path.parent)!r}: {reason_of(fault)}. What is done stays: mend it, and start again."
        ) from fault


def seal(tensors: Mapping[str, Tensor], told: str) -> bytes:
    """The bytes of a file with these tensors and this text."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(whole, {HEADER: told, CHECKSUM: _checksum(whole, told)})


def unseal(data: bytes) -> tuple[dict[str, Tensor], str]:
    """The tensors and the text of a file.

    Raises:
        DamagedError: it is not whole.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors, told = load(data), header[HEADER]
        if header[CHECKSUM] != _checksum(tensors, told):
            raise DamagedError("its checksum is another")
        return tensors, told
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise DamagedError("it is not whole") from fault


def _checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    total = hashlib.sha256(told.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
