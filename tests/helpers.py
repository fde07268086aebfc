"""What several test files ask of an adapter or a tensor."""

from __future__ import annotations

import torch

from circuitlens.adapter import Adapter
from circuitlens.prompts import Question, ask


def tolerance(*tensors: torch.Tensor) -> dict[str, float]:
    """What rounding allows: `assert_close` arguments for tensors of this precision."""
    return {"atol": 1e-10, "rtol": 1e-9} if tensors[0].dtype == torch.float64 else {"atol": 2e-5, "rtol": 2e-5}


def question(adapter: Adapter) -> Question:
    """The adapter's examples as one batch."""
    columns = zip(*((e.prompt, e.answer, e.distractor, e.corrupted) for e in adapter.examples), strict=True)
    return ask(adapter, *map(list, columns))
