"""A piece, what one batch gives at one stage, as the bytes of a file that says which it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from circuitlens.attribution.sums import BatchSums, EdgeSums, KeyedSums
from circuitlens.circuit.values import Count, Name, Size, Value
from circuitlens.literals import StageName
from circuitlens.pipeline.stages import Known, Piece
from circuitlens.runfolder.record import RunRecord
from circuitlens.runfolder.sealed import DamagedError, seal, unseal


class PieceRecord(Value):
    """Which piece a file holds, and how it was made: `inputs` is the digest of what it was computed from."""

    stage: StageName
    batch: Count
    inputs: Name
    seconds: Size
    prompts: Count
    ended: Size
    worker: Name


def to_bytes(piece: Piece, record: PieceRecord) -> bytes:
    """The file of a piece."""
    return seal(_tensors(piece), record.model_dump_json())


def from_bytes(data: bytes, stage: StageName, batch: int, inputs: str) -> tuple[Piece, PieceRecord]:
    """The piece of a file.

    Raises:
        DamagedError: it is not whole, or not that piece.
    """
    tensors, record = _read(data)
    if (record.stage, record.batch) != (stage, batch):
        raise DamagedError(f"it is batch {record.batch} of stage {record.stage!r}")
    if record.inputs != inputs:
        raise DamagedError("it is of another run, or what the stages before it left has changed")
    try:
        return _piece(stage, tensors), record
    except KeyError as fault:
        raise DamagedError(f"it lacks {fault}") from fault


def read_piece_record(data: bytes) -> PieceRecord:
    """How the piece of a file was made.

    Raises:
        DamagedError: it is not whole.
    """
    return _read(data)[1]


def known_to_bytes(known: Known) -> bytes:
    """What the stages before leave, as bytes; equal ones have equal bytes."""
    tensors = {} if known.kept is None else {"kept": known.kept}
    if (chosen := known.chosen) is not None:
        tensors |= {"keys": chosen.keys, "estimate": chosen.estimate, "small": chosen.small}
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def known_from_bytes(data: bytes) -> Known:
    """The reverse of `known_to_bytes`."""
    from circuitlens.attribution.weighed_sums import StrongestEdges

    tensors = load(data)
    chosen = StrongestEdges(*(tensors[n] for n in ("keys", "estimate", "small"))) if "keys" in tensors else None
    return Known(tensors.get("kept"), chosen)


def digest_of_inputs(run: RunRecord, known: Known) -> str:
    """A digest of what a piece is computed from: the run, and what the stages before it leave."""
    return hashlib.sha256(run.question.encode() + known_to_bytes(known)).hexdigest()


def _read(data: bytes) -> tuple[Mapping[str, Tensor], PieceRecord]:
    tensors, told = unseal(data)
    try:
        return tensors, PieceRecord.model_validate_json(told)
    except ValidationError as fault:
        raise DamagedError("it is no piece") from fault


def _tensors(piece: Piece) -> dict[str, Tensor]:
    match piece:
        case BatchSums():
            rest = {"prompts": torch.tensor(piece.prompts), "metric": piece.metric, "gaps": piece.gaps}
            return {**_table("nodes", piece.nodes), **rest}
        case EdgeSums():
            residual = torch.tensor(piece.residual, dtype=torch.double)
            return {**_table("edges", piece.edges), **_table("measured", piece.measured), "residual": residual}
        case KeyedSums():
            return _table("edges", piece)


def _piece(stage: StageName, tensors: Mapping[str, Any]) -> Piece:
    if stage == "nodes":
        return BatchSums(int(tensors["prompts"]), _keyed("nodes", tensors), tensors["metric"], tensors["gaps"])
    if stage == "edges":
        return EdgeSums(_keyed("edges", tensors), _keyed("measured", tensors), float(tensors["residual"]))
    return _keyed("edges", tensors)


def _table(name: str, table: KeyedSums) -> dict[str, Tensor]:
    return {f"{name}.keys": table.keys, f"{name}.sums": table.sums}


def _keyed(name: str, tensors: Mapping[str, Tensor]) -> KeyedSums:
    return KeyedSums(tensors[f"{name}.keys"], tensors[f"{name}.sums"])
