"""Shapes that signatures say are checked while the tests run."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from circuitlens.attribution.sums import KeyedSums
from circuitlens.corpus.statistics import _starts


def test_other_shapes_are_told_in_arguments_and_fields() -> None:
    row = torch.tensor([0, 0, 1])
    assert _starts(row).tolist() == [True, False, True]
    with pytest.raises(TypeCheckError, match="key"):
        _starts(row[None])
    with pytest.raises(TypeCheckError, match="sums"):
        KeyedSums(row, torch.zeros(3, dtype=torch.int64))
