"""The SAE-Lens plugin: TransformerLens models with SAE-Lens SAEs, from a notebook (`wrap`) or by name (`gpt2`)."""

from circuitlens_saelens.adapter import SAELensAdapter, wrap

__all__ = ["SAELensAdapter", "wrap"]
