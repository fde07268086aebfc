"""What several test files ask of tensors and colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality to what rounding allows in this precision."""
    bound = 1e-9 if actual.dtype == torch.float64 else 2e-5
    assert_close(actual, expected, rtol=bound, atol=bound)


def luminance(channels: list[int]) -> float:
    """Relative luminance (WCAG) of a colour's red, green and blue, 0 to 255."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
