"""Small random models of many families as TransformerLens bridges, and random SAEs: they prove algebra only."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.hub import write_gpt2

D, LAYERS = 32, 2
ASK: dict[str, Any] = {"prompt": "The cats", "answer": " run", "distractor": " runs"}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {},
    "gemma3_text": {},
    "glm4": {},
    "qwen2": {},
    "olmo": {},
    "olmo2": {},
    "exaone4": {},
    "granite": {"residual_multiplier": 0.22},
    "cohere": {},
    "opt": {"ffn_dim": 48},
    "mistral": {"sliding_window": 4},
    "mixtral": {},
}
"""What each differs in from a model of the common sizes."""
VISION: dict[str, dict[str, Any]] = {
    "gemma3": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"image_size": 28, "patch_size": 14},
}
"""The part that reads images, of families that have one."""


@cache
def _tokenizer() -> Any:
    home = Path(os.environ["HF_HOME"])
    if not (home / "hub" / "models--gpt2").exists():
        write_gpt2(home)
    return AutoTokenizer.from_pretrained("gpt2")


def tiny(family: str, boot: Any = TransformerBridge, dtype: torch.dtype = torch.float32, **differs: Any) -> Any:
    """A new model of a family, as a bridge or a subclass of one, whose configuration `differs` from the common one."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), family, **differs)
        return boot.boot_transformers(folder, device="cpu", dtype=dtype)


def write_model(folder: Path, family: str, **differs: Any) -> None:
    """Write such a model, with its tokenizer, as a folder."""
    tokenizer = _tokenizer()
    sizes = {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64, "vocab_size": len(tokenizer)}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    config: dict[str, Any] = {**sizes, **more, **ends, **FAMILIES.get(family, {}), **differs}
    if family in VISION:
        config = {"text_config": config, "vision_config": VISION[family], **ends}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config)).float()
        for weight in made.parameters():
            weight.data = torch.randn_like(weight) * 0.3
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def hooked(**config: Any) -> Any:
    """A new HookedTransformer, whose biases are 0."""
    tokenizer = _tokenizer()
    sizes: dict[str, Any] = {"n_layers": LAYERS, "d_model": D, "n_ctx": 64, "d_head": 8, "n_heads": 4, "d_mlp": 48}
    made = HookedTransformerConfig(**{**sizes, "act_fn": "relu", **config}, d_vocab=len(tokenizer))
    return HookedTransformer(made, tokenizer=tokenizer)


def sae(hook: str, seed: int = 0, d_in: int = D, dtype: str = "float32", **metadata: Any) -> SAE[Any]:
    """A random SAE that says no more of its training than is given."""
    made = StandardSAE(
        StandardSAEConfig(d_in=d_in, d_sae=64, dtype=dtype, metadata=SAEMetadata(hook_name=hook, **metadata))
    )
    generator = torch.Generator().manual_seed(seed)
    for weight in made.parameters():
        weight.data = (torch.randn(weight.shape, generator=generator) * 0.2).to(weight.dtype)
    return made
