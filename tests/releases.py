"""Small SAEs in the layout of every format that SAE-Lens loads, each with what it computes, by hand.

The files are as the formats' authors wrote them, only smaller: a release's own loader reads them. `shrink` says a size
to loaders that go by names alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory
from safetensors.torch import save_file
from torch import Tensor

from tests.hub import _random, _snapshot, _write_json
from tests.releases_by_hand import ByHand, Weights, by_hand

K = 4
WITHOUT_FILES = ("gemma_2", "gemma_2_transcoder", "deepseek_r1", "goodfire", "qwen_scope")
"""Formats whose loaders take an SAE's size from its name, whatever its file holds."""


def registered(release: str) -> PretrainedSAELookup:
    return get_pretrained_saes_directory()[release]


def shrink(patch: pytest.MonkeyPatch, release: str, d: int, features: int) -> None:
    """Have SAE-Lens take a release for one of SAEs of this size, by what the registry may override."""
    found = registered(release)
    if found.conversion_func in WITHOUT_FILES:
        sizes: dict[str, Any] = {"d_in": d, "d_sae": features}
        sizes |= {"d_out": d} if "transcoder" in found.conversion_func else {}
        sizes |= {"activation_fn_kwargs": {"k": K}} if found.conversion_func == "qwen_scope" else {}
        patch.setattr(found, "config_overrides", {**(found.config_overrides or {}), **sizes})


def write_sae(home: Path, release: str, sae_id: str, d: int, features: int) -> ByHand:
    """Write an SAE of a release into the cache `home`; what it computes, by hand."""
    found = registered(release)
    weights = Weights.random(_random(f"{release}/{sae_id}"), d, features)
    folder = _snapshot(home, found.repo_id)
    path = folder / found.saes_map[sae_id]
    path.parent.mkdir(parents=True, exist_ok=True)
    return WRITERS[found.conversion_func or "sae_lens"](path, weights, found, sae_id)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_json(path, content)


def _layer(text: str) -> int:
    return int(
        next(
            part for part in text.replace("layer", "/").replace(".", "/").replace("_", "/").split("/") if part.isdigit()
        )
    )


def _linear(w: Weights, encoder: str = "encoder", decoder: str = "decoder") -> dict[str, Tensor]:
    """Weights as torch's linear layers keep them, outputs first."""
    return {
        f"{encoder}.weight": w.enc.T,
        f"{encoder}.bias": w.b_enc,
        f"{decoder}.weight": w.dec.T,
        f"{decoder}.bias": w.b_dec,
    }


def _sae_lens(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    """Old configurations for old releases; those of SAE-Lens 6 are kept as JumpReLU with metadata."""
    d, features = w.enc.shape
    weights = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
    hook = sae_id if sae_id.count("_") < 3 else sae_id.rpartition("_")[0]
    config: dict[str, Any] = {"d_in": d, "d_sae": features, "dtype": "float32", "device": "cpu"}
    if "matryoshka" in found.release:
        metadata = {"model_name": found.model, "hook_name": hook, "prepend_bos": True, "sae_lens_version": "6.3.0"}
        config |= {"architecture": "jumprelu", "apply_b_dec_to_input": True, "metadata": metadata}
        _json(path / "cfg.json", config | {"normalize_activations": "none", "reshape_activations": "none"})
        _save(path / "sae_weights.safetensors", weights | {"threshold": w.threshold})
        return by_hand(w, "jumprelu", minus_b_dec=True)
    config |= {"model_name": found.model, "hook_name": hook, "hook_layer": _layer(hook), "hook_head_index": None}
    norm = "none"
    if "-v5-" in found.release:
        norm = "layer_norm"
        config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "prepend_bos": False}
    elif found.release == "mistral-7b-res-wg":
        norm = "constant_norm_rescale"  # by the registry alone
    _json(
        path / "cfg.json",
        config | {"architecture": "standard", "normalize_activations": norm if "-v5-" in found.release else "none"},
    )
    _save(path / "sae_weights.safetensors", weights)
    return by_hand(w, "topk" if "-v5-" in found.release else "relu", minus_b_dec=True, norm=norm, k=K)


def _hook_z(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    d, features = w.enc.shape
    torch.save({"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}, path)
    hook = sae_id.replace(".hook_z", ".attn.hook_z")
    _json(
        path.with_name(path.name.removesuffix(".pt") + "_cfg.json"),
        {"act_name": hook, "act_size": d, "dict_size": features},
    )
    return by_hand(w, "relu", minus_b_dec=True)


def _gemma_2(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    names = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.threshold}
    path.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in names.items()}
    np.savez(path / "params.npz", **arrays)
    # Embeddings were trained on what is not yet scaled by the root of the width.
    return by_hand(w, "jumprelu", scale=len(w.enc) ** -0.5 if "embedding" in sae_id else 1)


def _gemma_3(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    names = {"w_enc": w.enc, "w_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.threshold}
    affine = "affine" in path.name
    _save(path / "params.safetensors", names | ({"affine_skip_connection": w.skip} if affine else {}))
    if "transcoder" in str(path) and not affine:  # what has no configuration is told from its name
        return by_hand(w, "jumprelu")
    block, part = f"model.layers.{_layer(path.name)}", path.parent.name.removesuffix("_all")
    reads = {
        "resid_post": "output",
        "attn_out": "self_attn.o_proj.input",
        "mlp_out": "post_feedforward_layernorm.output",
    }
    config = {
        "architecture": "jump_relu",
        "model_name": found.model.removeprefix("google/"),
        "affine_connection": affine,
    }
    hook = f"{block}.{reads.get(part, 'pre_feedforward_layernorm.output')}"
    _json(path / "config.json", config | {"hf_hook_point_in": hook})
    return by_hand(w, "jumprelu", skip=affine)


def _llama_scope(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    d, features = w.enc.shape
    factor = found.norm_scaling_factor[sae_id]
    part = {"r": "resid_post", "a": "attn_out", "m": "mlp_out"}[sae_id.split("_")[0][-1]]
    hook = f"blocks.{sae_id.split('_')[0][1:-1]}.hook_{part}"
    if found.conversion_func == "llama_scope":
        norms = {"in": d**0.5 / factor}
        config = {"d_model": d, "d_sae": features, "jump_relu_threshold": 0.1, "dataset_average_activation_norm": norms}
        _json(path / "hyperparams.json", config | {"hook_point_in": hook})
        _save(path / "checkpoints/final.safetensors", _linear(w))
        return by_hand(
            w._replace(threshold=torch.full((features,), 0.1 * factor)), "jumprelu", scale=factor, undo_bias=True
        )
    _json(path / "config.json", {"d_model": d, "expansion_factor": features // d, "hook_point_in": hook})
    _save(path / "sae_weights.safetensors", _linear(w) | {"log_jumprelu_threshold": w.threshold.log()})
    return by_hand(w, "jumprelu", scale=factor, undo_bias=True)


def _dictionary_learning(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    d, features = w.enc.shape
    release, linear = found.release, _linear(w)
    bias = linear.pop("decoder.bias")
    tensors: dict[str, Tensor] = linear | {"b_dec": bias}
    if "gated" in release:
        name, kind = "GatedAutoEncoder", "gated"
        del tensors["encoder.bias"], tensors["b_dec"]
        tensors |= {"decoder_bias": bias, "r_mag": w.threshold, "gate_bias": w.b_enc, "mag_bias": w.b_enc.flip(0)}
    elif "matryoshka" in path.parent.parent.name.lower():
        name, kind = "MatryoshkaBatchTopKSAE", "jumprelu"
        tensors = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": torch.tensor(0.1)}
    elif "andyrdt" in release:
        name, kind = "BatchTopKSAE", "jumprelu"
        tensors |= {"threshold": torch.tensor(0.1)}
    elif "topk" in release:
        name, kind = "AutoEncoderTopK", "topk"
        tensors |= {"threshold": torch.tensor(0.1)}
    else:
        name, kind = "AutoEncoder", "relu"
        tensors |= {"bias": tensors.pop("b_dec")}
    trainer = {
        "layer": _layer(path.parent.name),
        "dict_class": name,
        "activation_dim": d,
        "dict_size": features,
        "k": K,
    }
    _json(path / "config.json", {"trainer": trainer | {"lm_name": found.model}, "buffer": {"ctx_len": 128}})
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "ae.pt")
    flat = torch.full((features,), 0.1)
    return by_hand(w if kind == "gated" else w._replace(threshold=flat), kind, minus_b_dec=True, k=K)


def _pickled(encoder: str, decoder: str) -> Callable[..., ByHand]:
    def write(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
        torch.save(_linear(w, encoder, decoder), path)
        return by_hand(w, "relu")

    return write


def _qwen_scope(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    torch.save({"W_enc": w.enc.T, "W_dec": w.dec.T, "b_enc": w.b_enc, "b_dec": w.b_dec}, path)
    return by_hand(w, "topk", k=K)


def _sparsify(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    d, features = w.enc.shape
    _json(path / "cfg.json", {"d_in": d, "num_latents": features, "k": K})
    _json(path.parent / "config.json", {"model": found.model})
    _save(path / "sae.safetensors", _linear(w))
    return by_hand(w, "topk", minus_b_dec=True, k=K)


def _mwhanna(path: Path, w: Weights, found: PretrainedSAELookup, sae_id: str) -> ByHand:
    d, features = w.enc.shape
    _save(path, {"W_enc": w.enc.T, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec})
    config = {"d_model": {"value": d}, "d_feature": {"value": features}, "batch_size": {"value": 8}}
    name = "wanb-config.yaml" if "4b" in found.release else "wandb-config.yaml"
    (path.parent / name).write_text(json.dumps(config))  # JSON is YAML
    if "14b" not in found.release:
        (path.parent / "config.yaml").write_text(json.dumps({"model_name": found.model}))
    return by_hand(w, "relu")


WRITERS: dict[str, Callable[[Path, Weights, PretrainedSAELookup, str], ByHand]] = {
    "sae_lens": _sae_lens,
    "connor_rob_hook_z": _hook_z,
    "deepseek_r1": _pickled("encoder", "decoder"),
    "dictionary_learning_1": _dictionary_learning,
    "gemma_2": _gemma_2,
    "gemma_2_transcoder": _gemma_2,
    "gemma_3": _gemma_3,
    "goodfire": _pickled("encoder_linear", "decoder_linear"),
    "llama_scope": _llama_scope,
    "llama_scope_r1_distill": _llama_scope,
    "mwhanna_transcoder": _mwhanna,
    "qwen_scope": _qwen_scope,
    "sparsify": _sparsify,
}
