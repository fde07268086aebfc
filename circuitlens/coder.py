"""The contract of sparse coders: what reads an activation into features and writes features back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

ELEMENTS = 2**24
"""Numbers that the generic rows of a coder hold at a time (64 MB in float32)."""


class SparseCoder(ABC):
    """Reads an activation into features and writes features back: `f = encode(x)`, `x̂ = decode(f)`.

    A coder treats every batch item and position by itself, in the dtype of the activation. What it keeps from `encode`
    for its `decode` it keeps by thread; one that keeps nothing says so (`stateful`), which saves encoding again before
    every decode. `d_in` and `d_sae` are its sizes.
    """

    d_in: int
    d_sae: int
    stateful: bool = True

    @abstractmethod
    def encode(self, x: Float[Tensor, "batch pos *d_in"]) -> Float[Tensor, "batch pos d_sae"]:
        """Feature activations of `x`; differentiable, 0 where a feature is inactive."""

    @abstractmethod
    def decode(self, f: Float[Tensor, "batch pos d_sae"]) -> Float[Tensor, "batch pos *d_out"]:
        """Reconstruction from features; affine in `f`. Called after the `encode` it belongs to."""

    def encoder_rows(self, x: Float[Tensor, "node ..."], index: Int[Tensor, " node"]) -> Float[Tensor, "node ..."]:
        """`∂f_i/∂x` for feature `index[n]`, active at activation `x[n]`.

        This default differentiates `encode`, one encode a node; override it where the row is known (`W_enc[:, i]`).
        """

        def some(x: Tensor, index: Tensor) -> Tensor:
            leaf = x[:, None].requires_grad_()
            f = self.encode(leaf)
            rows = torch.autograd.grad(f[:, 0].gather(1, index[:, None]).sum(), leaf)[0][:, 0]
            self.decode(f.detach())  # a coder may keep state from encode that its decode uses up
            return rows

        return self._in_parts(some, x, index)

    def decoder_rows(self, x: Float[Tensor, "node ..."], index: Int[Tensor, " node"]) -> Float[Tensor, "node ..."]:
        """`∂x̂/∂f_i` for feature `index[n]`, with the coder's state as at activation `x[n]`.

        This default differentiates `decode`, one encode a node; override it where the row is known (`W_dec[i]`).
        """

        def some(x: Tensor, index: Tensor) -> Tensor:
            f = self.encode(x[:, None]).detach().requires_grad_()
            y = self.decode(f)
            # A reverse-mode engine gives columns of the Jacobian; its derivative in a dummy cotangent gives rows.
            cotangent = torch.zeros_like(y, requires_grad=True)
            pulled = torch.autograd.grad(y, f, cotangent, create_graph=True)[0]
            return torch.autograd.grad(pulled[:, 0].gather(1, index[:, None]).sum(), cotangent)[0][:, 0]

        return self._in_parts(some, x, index)

    def _in_parts(self, rows: Callable[[Tensor, Tensor], Tensor], x: Tensor, index: Tensor) -> Tensor:
        """Call `rows` on as many nodes at a time as keep memory bounded."""
        size = max(1, ELEMENTS // self.d_sae)
        with torch.enable_grad():
            parts = zip(x.detach().split(size), index.split(size), strict=True)
            return torch.cat([rows(part, chosen) for part, chosen in parts])


class IdentityCoder(SparseCoder):
    """Makes plain neurons nodes: every neuron is its own feature and nothing is left over."""

    stateful = False

    def __init__(self, d_in: int):
        self.d_in = self.d_sae = d_in

    def encode(self, x: Float[Tensor, "batch pos *d_in"]) -> Float[Tensor, "batch pos d_sae"]:
        """The neurons themselves."""
        return x

    def decode(self, f: Float[Tensor, "batch pos d_sae"]) -> Float[Tensor, "batch pos *d_out"]:
        """The activation, exactly."""
        return f

    def encoder_rows(self, x: Float[Tensor, "node ..."], index: Int[Tensor, " node"]) -> Float[Tensor, "node ..."]:
        """Rows of the identity matrix."""
        return torch.nn.functional.one_hot(index, self.d_in).to(x.dtype)

    decoder_rows = encoder_rows
