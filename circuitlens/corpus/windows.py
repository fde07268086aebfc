"""Pieces of text as windows of a fixed number of tokens, and windows as batches that the model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs
from circuitlens.errors import PromptError

BATCH = 16
"""Windows that run together."""
SENTENCE_ENDS = ("\n", ". ", "? ", "! ")
LONG = 1000
"""Characters from which a piece that can't be read is cut between words: it may have too many tokens."""


@dataclass(frozen=True)
class Window:
    """What the model reads at a time: its tokens, with the adapter's own first token where it has one."""

    values: Shaped[Tensor, "pos ..."]
    tokens: tuple[str, ...]


def cut_windows(adapter: Adapter, piece: str, length: int) -> tuple[list[Window], int]:
    """The windows of a piece, each of at most `length` tokens, and how many parts of it the adapter can't read.

    A piece that can't be read is cut in two, again and again: a toy reads one sentence at a time.
    """
    try:
        inputs = adapter.inputs([piece])
    except PromptError:
        parts = _halves(piece)
        if not parts:
            return [], 1
        found = [cut_windows(adapter, part, length) for part in parts]
        return [window for windows, _ in found for window in windows], sum(unread for _, unread in found)
    own = int(adapter.bos)
    values, tokens = inputs.values[0][inputs.mask[0]], inputs.tokens[0]
    windows = []
    for start in range(own, len(tokens), length - own):
        at = torch.tensor([*range(own), *range(start, min(start + length - own, len(tokens)))])
        windows.append(Window(values[at.to(values.device)], tuple(tokens[i] for i in at.tolist())))
    return windows, 0


def _halves(piece: str) -> list[str]:
    """A piece in two, cut where a line or a sentence ends nearest to its middle; none where it can't be cut."""
    marks = (*SENTENCE_ENDS, " ") if len(piece) > LONG else SENTENCE_ENDS
    middle = len(piece) // 2
    for mark in marks:
        ends = [at + len(mark) for at in (piece.rfind(mark, 0, middle), piece.find(mark, middle)) if at >= 0]
        ends = [end for end in ends if piece[:end].strip() and piece[end:].strip()]
        if ends:
            end = min(ends, key=lambda end: abs(end - middle))
            return [piece[:end].strip(), piece[end:].strip()]
    return []


def batches(adapter: Adapter, windows: Sequence[Window]) -> Iterator[Inputs]:
    """The windows in their order, at most `BATCH` to a batch; those of one length only where the model does not pad."""
    start = 0
    for end in range(1, len(windows) + 1):
        full = end == len(windows) or end - start == BATCH
        if full or (not adapter.pads and len(windows[end].tokens) != len(windows[start].tokens)):
            yield _together(windows[start:end])
            start = end


def _together(windows: Sequence[Window]) -> Inputs:
    lengths = torch.tensor([len(window.tokens) for window in windows])
    width = int(lengths.max())
    # What stands at padding is never read; the first value is one that the model can read.
    rows = [torch.cat([w.values, w.values[:1].expand(width - len(w.values), *w.values.shape[1:])]) for w in windows]
    values = torch.stack(rows)
    mask = (torch.arange(width) < lengths[:, None]).to(values.device)
    return Inputs(values, mask, tuple(window.tokens for window in windows))
