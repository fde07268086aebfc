"""Every release that SAE-Lens registers: loaded by name from a hand-made cache, or refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from circuitlens_saelens.coder import SAECoder
from circuitlens_saelens.hub import fetch
from circuitlens_saelens.loading import _from_cache, _load_sae, _quiet
from circuitlens_saelens.releases import refusal
from circuitlens_saelens.sources import Source, choose, files_on_hub, model_name_of, model_processing
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from torch import Tensor

import circuitlens
from circuitlens.errors import AdapterError
from tests.families import ASK, write_model
from tests.families import D as WIDTH
from tests.hub import _snapshot, use_cache
from tests.releases import registered, shrink, write_sae

DIRECTORY = get_pretrained_saes_directory()
D, FEATURES = 8, 16


def kinds(release: str) -> list[str]:
    """An SAE of each kind that a release has: those whose paths differ in more than numbers."""
    first: dict[str, str] = {}
    for sae_id, path in registered(release).saes_map.items():
        first.setdefault(re.sub(r"\d+|small|medium|big", "", path), sae_id)
    return list(first.values())


@pytest.mark.parametrize("release", DIRECTORY)
def test_a_release_loads_by_name_or_says_why_not(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(monkeypatch, tmp_path)
    if reason := refusal(registered(release)):
        with pytest.raises(AdapterError, match=re.escape(reason)):
            choose([release], None)
        return
    shrink(monkeypatch, release, D, FEATURES)
    x = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(0))
    for sae_id in kinds(release):
        (source,) = choose([f"{release}/{sae_id}"], None)
        assert source == Source(release, sae_id)
        expected, written = write_sae(tmp_path, release, sae_id, D, FEATURES)(x)
        needed, if_there = files_on_hub([source])
        assert all(path.is_file() for paths in fetch(needed, None, if_there).values() for path in paths)
        with _from_cache(), _quiet():
            assert not any(model_processing([source]).values()) or "gpt2" in release
            sae = _load_sae(source, "cpu", "float32")
        coder = SAECoder(sae, (D,))
        with torch.no_grad():
            features = coder.encode(x)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(coder.decode(features), written, rtol=1e-4, atol=1e-4)
        assert 0 < int((features > 0).sum()) < features.numel()
        assert model_name_of([source])


# In models of their families

CANONICAL = "gemma-scope-2b-pt-{}-canonical/layer_{}/width_16k/canonical"
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
TRIALS: dict[str, tuple[str, int, dict[str, Any], list[str]]] = {
    "gemma_2": ("gemma2", 2, {}, [CANONICAL.format(*part) for part in (("res", 0), ("mlp", 0), ("att", 1))]),
    "gemma_2 embedding": ("gemma2", 1, {}, ["gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"]),
    "gemma_2_transcoder": ("gemma2", 2, {}, ["gemma-scope-2b-pt-transcoders/layer_1/*"]),
    "gemma_3": ("gemma3_text", 2, {}, [f"gemma-scope-2-1b-pt-{p}-all/layer_1_*16k*big" for p in ("res", "mlp", "att")]),
    "gemma_3 transcoder": ("gemma3_text", 2, {}, ["gemma-scope-2-1b-pt-transcoders-all/layer_?_width_16k_l0_big"]),
    "gemma_3 skip": ("gemma3_text", 2, {}, ["gemma-scope-2-1b-pt-transcoders-all/layer_?_width_16k_l0_big_affine"]),
    "gemma_3 with images": ("gemma3", 2, {}, ["gemma-scope-2-4b-pt-transcoders-all/layer_1_width_16k_l0_small"]),
    "llama_scope": (
        "llama",
        2,
        {},
        ["llama_scope_lxr_8x/l1r_8x", "llama_scope_lxa_8x/l0a_8x", "llama_scope_lxm_8x/l1m_8x"],
    ),
    "llama_scope_r1_distill": ("llama", 1, {}, ["llama_scope_r1_distill/l0r_800m_slimpajama"]),
    "goodfire": ("llama", 20, {}, ["goodfire-llama-3.1-8b-instruct"]),
    "deepseek_r1": ("llama", 20, {}, ["deepseek-r1-distill-llama-8b-qresearch"]),
    "dictionary_learning_1": (
        "gpt_neox",
        5,
        {},
        [
            "sae_bench_pythia70m_sweep_gated_ctx128_0730/blocks.3.hook_resid_post__trainer_0",
            "sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.4.hook_resid_post__trainer_0",
        ],
    ),
    "dictionary_learning_1 qwen2": ("qwen2", 4, {}, ["qwen2.5-7b-instruct-andyrdt/resid_post_layer_3_*"]),
    "dictionary_learning_1 gpt_oss": (
        "gpt_oss",
        4,
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        ["gpt-oss-20b-andyrdt/resid_post_layer_3_*"],
    ),
    "qwen_scope": ("qwen3", 2, {}, ["qwen-scope-3-1.7b-base-w32k-l50/layer[01]"]),
    "qwen_scope experts": ("qwen3_moe", 2, MOE, ["qwen-scope-3-30b-a3b-base-w32k-l50/layer[01]"]),
    "mwhanna_transcoder": ("qwen3", 2, {}, ["mwhanna-qwen3-4b-transcoders/layer_[01]"]),
    "sae_lens gemma": ("gemma", 1, {}, ["gemma-2b-res-jb/blocks.0.hook_resid_post"]),
    "sae_lens mistral": ("mistral", 9, {}, ["mistral-7b-res-wg/blocks.8.hook_resid_pre"]),
    "sae_lens pythia": (
        "gpt_neox",
        2,
        {},
        ["pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre"]
        + [f"pythia-70m-deduped-{part}-sm/blocks.1.hook_{part}_out" for part in ("mlp",)],
    ),
    "sae_lens matryoshka": ("gemma2", 2, {}, ["gemma-2-2b-res-matryoshka-dc/blocks.[01].hook_resid_post"]),
}
"""For each format: a family, its layers and what else it needs, and the SAEs to load."""


@pytest.mark.parametrize("trial", TRIALS)
def test_a_format_makes_circuits_in_a_model_of_its_family(
    trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each site reads and writes by the formula, at the activations of the model, and nothing of the metric is lost."""
    family, layers, differs, names = TRIALS[trial]
    sources = choose(names, None)
    formulas = {}
    for source in sources:
        shrink(monkeypatch, source.release, WIDTH, 4 * WIDTH)
        formulas[source] = write_sae(tmp_path, source.release, source.sae_id, WIDTH, 4 * WIDTH)
    write_model(_snapshot(tmp_path, model_name_of(sources)), family, num_hidden_layers=layers, **differs)
    use_cache(monkeypatch, tmp_path)
    adapter = circuitlens.load("transformerlens", saes=names, dtype="float64")
    inputs = adapter.inputs(["The cats"])
    seen: dict[str, Tensor] = {}
    sites = [site for site in adapter.sites if site.coder is not None]
    assert len(sites) == len(sources)
    with torch.no_grad():
        adapter.run(inputs, {site.read: lambda x, site=site: seen.update({site.read: x}) for site in sites})
        for site in sites:
            x = seen[site.read]
            features = site.coder.encode(x)
            written = site.coder.decode(features)
            fits = [
                formula
                for formula in formulas.values()
                if _agree(formula(x.flatten(2)), (features, written.flatten(2)))
            ]
            assert len(fits) == 1, site.read
    circuit = circuitlens.find(adapter, **ASK, corrupted="The cat", max_nodes=None)
    assert circuit.conservation_residual < 1e-9 * max(1, abs(circuit.metric.value))
    assert {node.kind for node in circuit.nodes} >= {"feature", "error"}


def _agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
