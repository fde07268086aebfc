"""The releases that SAE-Lens registers as a list: for which model, how many SAEs, how large, and whether they load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import log2

from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory

from circuitlens.adapter import Release
from circuitlens.files import format_bytes
from circuitlens_saelens.releases import format_of, refusal

D_MODEL = {
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": 4096,
    "gemma-2-27b": 4608,
    "gemma-2-2b": 2304,
    "gemma-2-9b": 3584,
    "gemma-2b": 2048,
    "google/gemma-3-12b": 3840,
    "google/gemma-3-1b": 1152,
    "google/gemma-3-270m": 640,
    "google/gemma-3-27b": 5376,
    "google/gemma-3-4b": 2560,
    "gpt2-small": 768,
    "meta-llama/Llama-3.1-8B": 4096,
    "meta-llama/Llama-3.3-70B": 8192,
    "meta-llama/Meta-Llama-3-8B": 4096,
    "mistral-7b": 4096,
    "openai/gpt-oss-20b": 2880,
    "pythia-70m-deduped": 512,
    "Qwen/Qwen2.5-7B": 3584,
    "Qwen/Qwen3-1.7B": 2048,
    "Qwen/Qwen3-30B-A3B": 2048,
    "Qwen/Qwen3-8B": 4096,
    "Qwen/Qwen3.5-27B": 5120,
    "Qwen/Qwen3.5-2B": 2048,
    "Qwen/Qwen3.5-35B-A3B": 2048,
    "Qwen/Qwen3.5-9B": 4096,
}
"""Width of the residual stream of the models that releases are for, without -pt, -it, -Base and -Instruct."""
HEADS = {
    "gemma-2-2b": 2048,
    "gemma-2-9b": 4096,
    "google/gemma-3-12b": 4096,
    "google/gemma-3-1b": 1024,
    "google/gemma-3-270m": 1024,
    "google/gemma-3-27b": 4096,
    "google/gemma-3-4b": 2048,
}
"""Width of all heads together, of the models whose attention SAEs read these."""
ROUND = re.compile(r"width[_-](\d+)([km])|v5-(\d+)(k)|-w-(\d+)(k)")
"""Numbers of features as names round them: 16k is 16384, the nearest power of two."""


def width(registered: PretrainedSAELookup, sae_id: str) -> int | None:
    """The number of features of an SAE, where the registry's names tell it."""
    text = f"{registered.release}/{registered.repo_id}/{registered.saes_map[sae_id]}"
    if found := re.search(r"2pow(\d+)", text):
        return 2 ** int(found[1])
    if found := re.search(r"-W(\d+)K-", text):
        return int(found[1]) * 1024
    if (found := re.search(r"-(\d+)x$", text)) and (d_model := _of_model(registered, D_MODEL)):
        return int(found[1]) * d_model
    if found := ROUND.search(text):
        number, unit = [part for part in found.groups() if part]
        return 2 ** round(log2(int(number) * (1000 if unit == "k" else 1_000_000)))
    if found := re.search(r"(?:_|ds)(\d{3,6})(?=_|:|$)", registered.saes_map[sae_id]):
        return int(found[1])
    return None


def listed(model: str | None = None) -> list[Release]:
    """The registered releases, or those for models whose names hold `model`, by model and name."""
    found = [
        registered
        for registered in get_pretrained_saes_directory().values()
        if model is None or model.lower() in registered.model.lower()
    ]
    return [_row(registered) for registered in sorted(found, key=lambda one: (one.model.lower(), one.release))]


def _row(registered: PretrainedSAELookup) -> Release:
    sizes = sorted({size for one in registered.saes_map if (size := _bytes(registered, one)) is not None})
    known = sizes and all(width(registered, one) is not None for one in registered.saes_map)
    size = " to ".join(format_bytes(size) for size in dict.fromkeys((sizes[0], sizes[-1]))) if known else "unknown"
    return Release(registered.release, registered.model, len(registered.saes_map), size, refusal(registered))


def _bytes(registered: PretrainedSAELookup, sae_id: str) -> int | None:
    """About what an SAE's encoder and decoder take in float32."""
    heads = (
        format_of(registered) in ("gemma_2", "gemma_3")
        and "att" in f"{registered.repo_id}{registered.saes_map[sae_id]}"
    )
    d_in, features = _of_model(registered, HEADS if heads else D_MODEL), width(registered, sae_id)
    return None if d_in is None or features is None else 8 * d_in * features


def _of_model(registered: PretrainedSAELookup, sizes: Mapping[str, int]) -> int | None:
    return sizes.get(re.sub(r"-(pt|it|Base|Instruct)$", "", registered.model))
