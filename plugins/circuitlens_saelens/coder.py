"""A SAE-Lens SAE or transcoder as a coder, with fast rows where its architecture is known.

Every SAE runs through its own `encode` and `decode`, so that what it was trained to do is what is done. Two things are
taken around them:

1. features are few, so without gradients a known architecture decodes from the rows of the active ones: reading a
   whole decoder (75 MB for GPT-2 small) would cost as much as a layer of the model;
2. a skip transcoder's `W_skip`, which SAE-Lens adds in `forward` only, is added here.

An SAE that keeps state from encode for its decode (a layer norm's mean and scale) keeps it in a copy of the object,
one a thread, which shares the weights: the user's own is left as it was.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from sae_lens.saes.gated_sae import GatedSAE
from sae_lens.saes.jumprelu_sae import JumpReLUSAE
from sae_lens.saes.standard_sae import StandardSAE
from sae_lens.saes.topk_sae import TopKSAE
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUTranscoder, SkipTranscoder, Transcoder
from torch import Tensor

from circuitlens.adapter import SparseCoder

TRANSCODERS = (Transcoder, SkipTranscoder, JumpReLUTranscoder, JumpReLUSkipTranscoder)
KNOWN = (StandardSAE, TopKSAE, JumpReLUSAE, GatedSAE, *TRANSCODERS)
"""Architectures of which an active feature's rows are known; subclasses may differ, so they count as unknown."""


class SAECoder(SparseCoder):
    """`sae` at an activation whose reconstruction has the shape `[batch, pos, *shape]` (heads apart at hook_z)."""

    def __init__(self, sae: SAE[Any], shape: tuple[int, ...]):
        self._given = sae
        self._local = threading.local()
        self.shape = shape
        self.d_in, self.d_sae = sae.cfg.d_in, sae.cfg.d_sae
        self.known = type(sae) in KNOWN
        self._transcodes = isinstance(sae, TRANSCODERS)
        self._normalises = sae.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale")
        self._w_skip: Tensor | None = getattr(sae, "W_skip", None)
        self.stateful = self._normalises or self._w_skip is not None or not self.known

    @property
    def sae(self) -> SAE[Any]:
        """The SAE of this thread."""
        own = getattr(self._local, "sae", None)
        if own is None or own.dtype != self._given.dtype:  # moved to another dtype meanwhile
            own = self._local.sae = _private(self._given)
        return own

    def encode(self, x: Float[Tensor, "batch pos *d_in"]) -> Float[Tensor, "batch pos d_sae"]:
        flat = x.flatten(2)
        if self._w_skip is not None:
            self._local.skipped = flat @ self._w_skip.T
        f = self.sae.encode(flat)
        return f.to_dense() if f.is_sparse else f

    def decode(self, f: Float[Tensor, "batch pos d_sae"]) -> Float[Tensor, "batch pos *d_out"]:
        y = self.sae.decode(f) if torch.is_grad_enabled() or not self.known else self._decode_active(f)
        if self._w_skip is not None:
            y = y + self._local.skipped  # decode follows encode
            self._local.skipped = None
        return y.unflatten(2, self.shape)

    def encoder_rows(self, x: Float[Tensor, "node ..."], index: Int[Tensor, " node"]) -> Float[Tensor, "node ..."]:
        if not self.known:
            return super().encoder_rows(x, index)
        with torch.no_grad():
            rows = self.sae.W_enc.T[index]
            if isinstance(self.sae, GatedSAE):
                rows = rows * self.sae.r_mag[index, None].exp()
            if self._rescales:
                rows = rows * self.sae.W_dec[index].norm(dim=1, keepdim=True)
        if self._normalises:
            with torch.enable_grad():
                leaf = x.detach().flatten(1).requires_grad_()
                rows = torch.autograd.grad(self.sae.run_time_activation_norm_fn_in(leaf), leaf, rows)[0]
        return rows.view(x.shape)

    def decoder_rows(self, x: Float[Tensor, "node ..."], index: Int[Tensor, " node"]) -> Float[Tensor, "node ..."]:
        if not self.known:
            return super().decoder_rows(x, index)
        with torch.no_grad():
            rows = self.sae.W_dec[index]
            if self._rescales:
                rows = rows / rows.norm(dim=1, keepdim=True)
        if self._normalises and not self._transcodes:
            # Undoing a norm scales each number by itself, so its Jacobian is symmetric and a VJP is what it writes.
            with torch.enable_grad():
                self.sae.run_time_activation_norm_fn_in(x.detach().flatten(1))
                zero = torch.zeros_like(rows, requires_grad=True)
                rows = torch.autograd.grad(self.sae.run_time_activation_norm_fn_out(zero), zero, rows)[0]
        return rows.unflatten(1, self.shape)

    @property
    def _rescales(self) -> bool:
        return getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False)

    def _decode_active(self, f: Tensor) -> Tensor:
        """`decode` from the rows of the active features alone."""
        batch, pos, index = f.nonzero(as_tuple=True)
        rows = self.sae.W_dec[index]
        if self._rescales:
            rows = rows / rows.norm(dim=1, keepdim=True)
        y = rows.new_zeros(f.shape[0] * f.shape[1], rows.shape[1])
        y = y.index_add_(0, batch * f.shape[1] + pos, rows * f[batch, pos, index, None]) + self.sae.b_dec
        y = self.sae.hook_sae_recons(y.view(*f.shape[:2], -1))
        return y if self._transcodes else self.sae.run_time_activation_norm_fn_out(y)


def _private(sae: SAE[Any]) -> SAE[Any]:
    """The same weights and hooks in an object of our own, for the state that encoding leaves.

    Heads are joined and parted here and not by the SAE: some models give hook_z with its heads apart, some joined.
    """
    own = copy.copy(sae)
    own.training = False
    own.turn_off_forward_pass_hook_z_reshaping()
    own._setup_activation_normalization()  # its closures write to the object they were made for
    return own
