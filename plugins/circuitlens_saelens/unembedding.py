"""What a direction that is written somewhere in a model adds to its logits by itself."""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import Adapter, Site
from circuitlens_saelens.model import HookedModel
from circuitlens_saelens.probe import after_heads


def unembedded(
    adapter: Adapter, hooked: HookedModel, site: Site, direction: Float[Tensor, " *d_out"]
) -> Float[Tensor, " output"] | None:
    """`direction` centred (LayerNorm) and weighted as the final norm does, times the unembedding.

    The norm's own division, which depends on the prompt, is left out: the order of tokens is right, the size is that in
    a stream of root mean square 1. Heads (hook_z) and neurons go through their output weights first, and heads through
    what some models put after them (a norm); None where that can't be told.
    """
    model = hooked.model
    with torch.no_grad():
        if site.write.endswith("hook_z"):
            after = after_heads(adapter, adapter.inputs([adapter.examples[0].prompt]), model, site)
            if after is None:
                return None
            direction = direction.flatten() @ model.blocks[site.layer].attn.W_O.flatten(0, 1) * after
        elif site.kind == "neuron":
            block = model.blocks[site.layer]
            weights = getattr(block.mlp, "W_out", None)
            if hasattr(block, "ln2_post") or not isinstance(weights, Tensor):
                return None
            direction = direction @ weights
        elif not re.search(r"(resid_\w+|_out|_z|embed)$", site.write):
            return None
        if direction.shape != (model.cfg.d_model,):
            return None
        if str(model.cfg.normalization_type).startswith("LN"):
            direction = direction - direction.mean()
        weight = getattr(model.ln_final, "w", None)
        if weight is not None:
            offset = getattr(model.cfg, "rmsnorm_uses_offset", False)
            direction = direction * (weight + 1 if offset else weight)
        return direction @ model.W_U
