"""What an SAE computes, from its formula: features and what they write, for the weights of one that was made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ByHand = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From what an SAE reads `[..., d_in]` to its features `[..., d_sae]` and what they write `[..., d_out]`."""


class Weights(NamedTuple):
    """An SAE's numbers, inputs first; `skip` is what a transcoder adds of its input."""

    enc: Tensor
    dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor
    skip: Tensor

    @classmethod
    def random(cls, randn: Callable[..., Tensor], d: int, features: int) -> Weights:
        return cls(
            randn(d, features) * d**-0.5,
            randn(features, d) * d**-0.5,
            randn(features) * 0.3,
            randn(d) * 0.2,
            randn(features).abs() * 0.2 + 0.01,
            randn(d, d) * 0.3 * d**-0.5,
        )


def by_hand(
    w: Weights,
    kind: str,
    *,
    minus_b_dec: bool = False,
    norm: str = "none",
    scale: float = 1,
    undo_bias: bool = False,
    skip: bool = False,
    k: int = 0,
) -> ByHand:
    """The formula of an architecture.

    Args:
        kind: relu, topk, jumprelu or gated.
        minus_b_dec: whether the decoder's bias is taken from what is read.
        norm: how each activation is normalised, which is undone of what is written: none, layer_norm or
            constant_norm_rescale.
        scale: by what activations were multiplied in training.
        undo_bias: whether the scale is undone of the bias that is written, too.
        skip: whether `w.skip` of what is read is written as well.
        k: how many features topk keeps.
    """

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        v = {name: value.to(x.dtype) for name, value in w._asdict().items()}
        mean, size = torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
        if norm == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            size = (x - mean).std(-1, keepdim=True) + 1e-5
        elif norm == "constant_norm_rescale":
            size = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        read = (x - mean) / size * scale
        inner = (read - v["b_dec"] if minus_b_dec else read) @ v["enc"]
        pre = inner + v["b_enc"]
        if kind == "gated":
            features = (pre > 0) * (v["threshold"].exp() * inner + v["b_enc"].flip(0)).relu()
        elif kind == "topk":
            features = pre.relu() * (pre >= pre.topk(k).values[..., -1:])
        else:
            features = pre.relu() * (pre > (v["threshold"] if kind == "jumprelu" else 0))
        bias = v["b_dec"] / scale if undo_bias else v["b_dec"]
        written = (features @ v["dec"] / scale + bias) * size + mean
        return features, written + x @ v["skip"] if skip else written

    return run
