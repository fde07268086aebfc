"""What several test files ask of tensors, inputs and colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from circuitlens.adapter import Inputs


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality to what rounding allows in this precision."""
    bound = 1e-9 if actual.dtype == torch.float64 else 2e-5
    assert_close(actual, expected, rtol=bound, atol=bound)


def padded(inputs: Inputs, left: int, right: int) -> Inputs:
    """The same prompts with more positions that are padding, on either side."""
    values, mask = inputs.values, inputs.mask
    wide = [0, 0] * (values.dim() - 2) + [left, right]
    return Inputs(torch.nn.functional.pad(values, wide), torch.nn.functional.pad(mask, [left, right]), inputs.tokens)


def luminance(channels: list[int]) -> float:
    """Relative luminance (WCAG) of a colour's red, green and blue, 0 to 255."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
