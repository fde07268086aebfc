"""Do some SAEs and a model fit together: what is refused, what is warned of, and what their metadata decides."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from circuitlens.adapter import Inputs
from circuitlens.errors import AdapterError
from circuitlens_saelens.model import HookedModel
from circuitlens_saelens.probe import fired
from circuitlens_saelens.sources import parse_layers

log = logging.getLogger(__name__)

CENTRED = 1e-3
"""Largest mean over d_model, as a share of the root mean square, of a stream that counts as centred."""


def hook_of(sae: SAE[Any]) -> str:
    """The hook that an SAE was trained at, "" where its metadata has none.

    Of Gemma 3's transcoders SAE-Lens names `hook_mlp_in`, which TransformerLens puts before the norm; they read what
    comes after it, as their name in Transformers says.
    """
    metadata = sae.cfg.metadata
    after = re.fullmatch(r"model\.layers\.(\d+)\.pre_feedforward_layernorm\.output", str(metadata.hf_hook_name))
    return f"blocks.{after[1]}.ln2.hook_out" if after else metadata.hook_name or ""


def neuron_hooks(model: HookedModel, layers: str | None = None) -> list[str]:
    """The hooks at the neurons of the MLPs of some layers, or of all.

    Raises:
        AdapterError: there is no such layer, or its MLP has no one matrix that reads its neurons (one of experts).
    """
    chosen = range(model.cfg.n_layers) if layers is None else parse_layers(layers)
    hooks = {n: f"blocks.{n}.mlp.hook_post" for n in chosen}
    for n, hook in hooks.items():
        model.hook_point(hook)
        if not isinstance(getattr(model.model.blocks[n].mlp, "W_out", None), Tensor):
            raise AdapterError(
                f"The MLP of layer {n} has no one output matrix (it may be one of experts), so it has no neurons that "
                "could be nodes: take SAEs."
            )
    return list(hooks.values())


def check_agreement(saes: Sequence[tuple[str, SAE[Any]]], model: HookedModel) -> None:
    """Refuse SAEs of different models, and numbers or devices that do not go together."""
    names = {short_name(str(sae.cfg.metadata.model_name)): read for read, sae in saes if sae.cfg.metadata.model_name}
    if len(names) > 1:
        named = " and ".join(f"{name} (at {hook})" for name, hook in names.items())
        raise AdapterError(f"The SAEs are for different models, {named}: give SAEs of one model.")
    model_name = str(model.cfg.model_name)
    if names and next(iter(names)) != short_name(model_name) and not Path(model_name).exists():
        log.warning("The SAEs are for %s and the model is %s.", next(iter(names)), model_name)
    check_placement(saes, model)


def check_placement(saes: Sequence[tuple[str, SAE[Any]]], model: HookedModel) -> None:
    """Refuse SAEs of another dtype or device than the model's."""
    for read, sae in saes:
        dtype, device = sae.W_dec.dtype, sae.W_dec.device
        if (dtype, device) != (model.dtype, model.device):
            raise AdapterError(
                f"The SAE at {read} is {dtype} on {device} and the model {model.dtype} on "
                f"{model.device}: load both alike, or call sae.to('{model.device}', {model.dtype})."
            )


def warn_of_saes(
    saes: Sequence[tuple[str, SAE[Any]]], model: HookedModel, inputs: Inputs, seen: Mapping[str, Tensor]
) -> None:
    """Warn of SAEs that can be run where they are, and were not made to be."""
    for read, sae in saes:
        trained = hook_of(sae)
        elsewhere = trained in model.names and model.hook_point(trained) is not model.hook_point(read)
        # One stream has several names: after a block, and before the next.
        if elsewhere and not torch.equal(fired(model, inputs, [trained])[trained], seen[read]):
            log.warning("The SAE at %s was trained at %s: expect large errors.", read, trained)
        if sae.cfg.normalize_activations == "expected_average_only_in":
            log.warning(
                "The SAE at %s expects activations scaled by a factor that is not folded into its weights, so its "
                "features are not those it learnt: call sae.fold_activation_norm_scaling_factor(factor) first.",
                read,
            )


def trained_with_bos(saes: Sequence[tuple[str, SAE[Any]]], model: HookedModel) -> bool:
    """What the SAEs' metadata says, or where it says nothing, what TransformerLens does for the model."""
    says = {bool(sae.cfg.metadata.prepend_bos) for _, sae in saes if sae.cfg.metadata.prepend_bos is not None}
    if len(says) > 1:
        raise AdapterError(
            "Some of the SAEs were trained with a BOS token before each prompt and some without: "
            "give prepend_bos=True or prepend_bos=False (--bos, --no-bos), and expect the others to do worse."
        )
    return says.pop() if says else bool(getattr(model.cfg, "default_prepend_bos", True))


def check_processing(saes: Sequence[tuple[str, SAE[Any]]], seen: Mapping[str, Tensor]) -> None:
    """Refuse a model that was centred otherwise than an SAE was trained for, by the mean of what its hook sees."""
    for read, sae in saes:
        expected = wants_centred(sae.cfg)
        if expected is None or not read.endswith(("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")):
            continue
        x = seen[read].float()
        off = (x.mean(-1).abs() / x.square().mean(-1).sqrt().clamp_min(1e-12)).max().item()
        if (off < max(CENTRED, torch.finfo(seen[read].dtype).eps)) != expected:
            wanted, is_now = ("centred", "is not") if expected else ("not centred", "is")
            bridge = "no_processing=True"
            if expected:
                bridge = "fold_ln=False, center_unembed=False, fold_value_biases=False"
            raise AdapterError(
                f"The SAE at {read} was trained on a model whose writing weights are {wanted}, and this model's stream "
                f"{is_now} (its mean is {off:.1%} of its size). Load it with from_pretrained_no_processing(name, "
                f"center_writing_weights={expected}), or on a bridge call enable_compatibility_mode({bridge})."
            )


def wants_centred(cfg: Any) -> bool | None:
    """Whether an SAE's model has to have centred writing weights; None if that is not known or makes no difference."""
    if cfg.normalize_activations == "layer_norm":  # takes the mean away itself
        return None
    kwargs = cfg.metadata.model_from_pretrained_kwargs
    return None if kwargs is None else bool(kwargs.get("center_writing_weights", False))


def short_name(model_name: str) -> str:
    """The last part of a model's name or folder, in small letters: what names of one model have in common."""
    name = model_name.rstrip("/").rsplit("/", 1)[-1].lower()
    return {"gpt2-small": "gpt2"}.get(name, name)
