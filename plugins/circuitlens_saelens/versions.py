"""What TransformerLens 3 and 4 have in different places: 4 has bridges alone."""

from __future__ import annotations

from transformer_lens.model_bridge import TransformerBridge

try:
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import get_official_model_name
except ImportError:
    from transformer_lens.model_bridge import TransformerBridge as HookedTransformer
    from transformer_lens.supported_models import get_official_model_name  # pyright: ignore[reportAttributeAccessIssue]

Model = HookedTransformer | TransformerBridge
__all__ = ["Model", "get_official_model_name"]
