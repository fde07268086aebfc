"""A random shrunken GPT-2 and random SAEs of every architecture: they prove algebra, not language.

The layouts are the ways in which SAEs sit on a model: on the residual stream alone (complete cuts), on attention, MLP
and residual stream together, on heads, with a layer norm, and as transcoders, which read one hook and write another.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from circuitlens_saelens import SAELensAdapter
from sae_lens import SAE
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

import circuitlens
from tests.hub import write_gpt2

D, FEATURES, LAYERS = 32, 64, 4

Make = Callable[..., SAE[Any]]


def _maker(sae: Any, config: Any, **fixed: Any) -> Make:
    def make(seed: int, hook: str, hook_out: str | None = None, dtype: str = "float64") -> SAE[Any]:
        metadata = SAEMetadata(hook_name=hook, hook_name_out=hook_out, model_name="gpt2", prepend_bos=True)
        made = sae(config(d_in=D, d_sae=FEATURES, dtype=dtype, metadata=metadata, **fixed))
        generator = torch.Generator().manual_seed(seed)
        for name, weights in made.named_parameters():
            random = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
            scale = {"W_enc": 0.5 * D**-0.5, "W_dec": D**-0.5, "W_skip": 0.3 * D**-0.5, "b_enc": 0.3}.get(name, 0.2)
            weights.data = (random * scale - 0.5 * (name in ("b_enc", "b_gate", "b_mag"))).to(weights.dtype)
        if hasattr(made, "threshold"):
            made.threshold.data = made.threshold.data.abs()
        return made

    return make


_transcoder = {"d_out": D, "apply_b_dec_to_input": False}
ARCHITECTURES: dict[str, Make] = {
    "standard": _maker(StandardSAE, StandardSAEConfig),
    "standard, constant norm": _maker(StandardSAE, StandardSAEConfig, normalize_activations="constant_norm_rescale"),
    "topk": _maker(TopKSAE, TopKSAEConfig, k=8),
    "topk, layer norm": _maker(TopKSAE, TopKSAEConfig, k=8, normalize_activations="layer_norm"),
    "topk, rescaled": _maker(TopKSAE, TopKSAEConfig, k=8, rescale_acts_by_decoder_norm=True),
    "jumprelu": _maker(JumpReLUSAE, JumpReLUSAEConfig),
    "gated": _maker(GatedSAE, GatedSAEConfig),
    "heads": _maker(StandardSAE, StandardSAEConfig, reshape_activations="hook_z"),
    "transcoder": _maker(Transcoder, TranscoderConfig, **_transcoder),
    "skip transcoder": _maker(SkipTranscoder, SkipTranscoderConfig, **_transcoder),
    "jumprelu transcoder": _maker(JumpReLUTranscoder, JumpReLUTranscoderConfig, **_transcoder),
    "jumprelu skip transcoder": _maker(JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig, **_transcoder),
    "matching pursuit": _maker(MatchingPursuitSAE, MatchingPursuitSAEConfig, max_iterations=6),
}
TRANSCODERS = [name for name in ARCHITECTURES if "transcoder" in name]


def made(architecture: str, layer: int, dtype: str = "float64") -> SAE[Any]:
    """A random SAE of that architecture, where it belongs in that layer."""
    make, seed = ARCHITECTURES[architecture], 10 * layer + len(architecture)
    if architecture in TRANSCODERS:
        return make(seed, f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.hook_mlp_out", dtype=dtype)
    return make(
        seed, f"blocks.{layer}." + ("attn.hook_z" if architecture == "heads" else "hook_resid_pre"), dtype=dtype
    )


def _on(hook: str, layer: int, architecture: str, dtype: str) -> SAE[Any]:
    return ARCHITECTURES[architecture](layer + 40, f"blocks.{layer}.{hook}", dtype=dtype)


def _layout(name: str, dtype: str) -> list[SAE[Any]]:
    layers = range(LAYERS)
    match name:
        case "residual":
            return [made(a, n, dtype) for n, a in enumerate(["standard", "topk", "jumprelu", "gated"])]
        case "middle":
            return [_on("hook_resid_mid", n, "standard", dtype) for n in layers]
        case "attn + mlp + resid":
            parts = [("hook_attn_out", "jumprelu"), ("hook_mlp_out", "standard"), ("hook_resid_post", "topk")]
            return [_on(hook, n, a, dtype) for n in layers for hook, a in parts]
        case "heads":
            return [made("heads", n, dtype) for n in layers]
        case "layer norm":
            return [_on("hook_resid_post", n, "topk, layer norm", dtype) for n in layers]
        case "transcoders":
            return [made(a, n, dtype) for n, a in enumerate(TRANSCODERS)]
    raise ValueError(name)


def wrapped(layout: str, dtype: str = "float64", bridge: bool = True) -> SAELensAdapter:
    """The random model with the SAEs of a layout."""
    return circuitlens.wrap(model(dtype, bridge), _layout(layout, dtype))


def model(dtype: str = "float64", bridge: bool = True) -> Any:
    """The random model, as a bridge or as a HookedTransformer of the same weights; one object a kind."""
    return _model(dtype, bridge)


@cache
def _model(dtype: str, bridge: bool) -> Any:
    home = Path(os.environ["HF_HOME"])
    if not (home / "hub" / "models--gpt2").exists():
        write_gpt2(home, layers=LAYERS, d_model=D)
    if bridge:
        return TransformerBridge.boot_transformers("gpt2", device="cpu", dtype=getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer.from_pretrained_no_processing("gpt2", device="cpu", dtype=getattr(torch, dtype))


def by_hook(saes: Sequence[SAE[Any]]) -> dict[str, SAE[Any]]:
    """SAEs by the hooks they read."""
    return {sae.cfg.metadata.hook_name: sae for sae in saes}
