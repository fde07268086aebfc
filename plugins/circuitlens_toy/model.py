"""The 2-4-2 agreement network and its sparse autoencoder."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitlens.adapter import SparseCoder


class AgreementModel(nn.Module):
    """`Linear(2, 4) → ReLU → Linear(4, 2)`: singular and plural evidence in, logits of "runs" and "run" out.

    The `hook_*` modules do nothing; they are the named places where activations are read and written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hook_input = nn.Identity()
        self.hidden = nn.Linear(2, 4)
        self.relu = nn.ReLU()
        self.hook_hidden = nn.Identity()
        self.hook_sae = nn.Identity()
        self.output = nn.Linear(4, 2)

    def forward(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        hidden = self.hook_hidden(self.relu(self.hidden(self.hook_input(x))))
        return self.output(self.hook_sae(hidden))


class ToySAE(nn.Module, SparseCoder):
    """`encoder Linear(4, 8) → ReLU`, `decoder Linear(8, 4)` on the hidden activations.

    A decoder column has norm 1, so that the L1 penalty can't be had by shrinking features and growing columns.
    """

    d_in = 4
    d_sae = 8
    stateful = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 8)
        self.decoder = nn.Linear(8, 4)
        with torch.no_grad():
            # Hidden activations are never negative: directions into their quadrant start alive.
            self.decoder.weight.abs_()
            self.normalise()
            self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale every decoder column to norm 1."""
        self.decoder.weight /= self.decoder.weight.norm(dim=0).clamp_min(1e-8)

    def encode(self, x: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_sae"]:
        return torch.relu(self.encoder(x))

    def decode(self, f: Float[Tensor, "batch pos d_sae"]) -> Float[Tensor, "batch pos d_in"]:
        return self.decoder(f)

    def encoder_rows(self, x: Float[Tensor, "node d_in"], index: Int[Tensor, " node"]) -> Float[Tensor, "node d_in"]:
        return self.encoder.weight[index]

    def decoder_rows(self, x: Float[Tensor, "node d_in"], index: Int[Tensor, " node"]) -> Float[Tensor, "node d_in"]:
        return self.decoder.weight.T[index]
