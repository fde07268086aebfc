"""The modes of torch in which the engine computes, whatever those of its caller are, and the numbers it sums in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


@contextmanager
def own_modes(*, gradients: bool) -> Iterator[None]:
    """With or without gradients, in the model's own dtype.

    Notebooks of this field often switch gradients off for good, and run models under `torch.autocast`, in whose coarser
    numbers conservation would not hold.
    """
    accelerator = torch.accelerator.current_accelerator()
    devices = {"cpu"} | ({accelerator.type} if accelerator is not None else set())
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.set_grad_enabled(gradients))
        for device in devices:
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        yield


def wide(x: Tensor) -> Tensor:
    """`x` in the numbers that scores are computed and summed in: float32 where the model computes in less.

    In bfloat16 a sum stands still as soon as it is 256 times what is added to it.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
