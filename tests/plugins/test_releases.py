"""Every release that SAE-Lens registers: loaded by name from a hand-made cache, or refused with the reason."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from circuitlens_saelens.coder import SAECoder
from circuitlens_saelens.hub import fetch
from circuitlens_saelens.listing import width
from circuitlens_saelens.loading import _from_cache, _load_sae, _quiet
from circuitlens_saelens.releases import refusal
from circuitlens_saelens.sources import Source, choose, files_on_hub, model_name_of, model_processing
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from torch import Tensor

import circuitlens
from circuitlens.errors import AdapterError
from tests.families import ASK, tiny, write_model
from tests.families import D as WIDTH
from tests.hub import FakeHub, _snapshot, use_cache
from tests.releases import registered, shrink, write_sae

DIRECTORY = get_pretrained_saes_directory()
D, FEATURES = 8, 16
DOCS = Path(__file__).parent.parent.parent / "docs"


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


def test_files_that_a_repository_may_have_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of these has one of two names, and nothing else is asked for."""
    release, home = "mwhanna-qwen3-4b-transcoders", tmp_path / "theirs"
    for layer in (0, 1):
        write_sae(home, release, f"layer_{layer}", D, FEATURES)
    sources = choose([f"{release}/layer_1"], None)
    with FakeHub(home) as hub:
        use_cache(monkeypatch, tmp_path / "mine", hub)
        needed, if_there = files_on_hub(sources)
        fetch(needed, None, if_there)
    got = {request.rpartition("/")[2] for request in hub.requests if "resolve" in request}
    assert got == {"layer_1.safetensors", "wanb-config.yaml", "config.yaml"}
    with _from_cache(), _quiet():
        assert _load_sae(sources[0], "cpu", "float32").cfg.d_sae == FEATURES


def test_a_model_that_is_refused_can_not_be_run() -> None:
    """Where this fails TransformerLens has learnt it, and `UNRUNNABLE` can go."""
    sizes: dict[str, Any] = {f"linear_{which}_head_dim": 8 for which in ("key", "value")}
    sizes |= {f"linear_num_{which}_heads": 2 for which in ("key", "value")}
    model = tiny("qwen3_5_text", **sizes, layer_types=["linear_attention", "full_attention"])
    with pytest.raises(AttributeError, match="causal_conv1d_fn"):
        model("The cats")


def test_the_page_lists_the_releases_as_they_are() -> None:
    maker = runpy.run_path(str(DOCS / "make_tables.py"))
    shown = (DOCS / "releases.md").read_text().split(maker["BEGIN"])[1].split(maker["END"])[0].strip()
    assert shown == maker["releases"](), "run `make docs`"
    rows = [line for line in shown.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(DIRECTORY)
    assert sum(line.endswith("| yes |") for line in rows) >= 150


@pytest.mark.parametrize(
    ("release", "sae_id", "features"),
    [
        ("gemma-scope-2b-pt-res-canonical", "layer_0/width_16k/canonical", 16384),
        ("gemma-scope-9b-pt-res", "layer_9/width_1m/average_l0_9", 2**20),
        ("gpt2-small-resid-post-v5-32k", "blocks.0.hook_resid_post", 32768),
        ("gpt2-small-res-jb-feature-splitting", "blocks.8.hook_resid_pre_768", 768),
        ("llama_scope_lxr_8x", "l0r_8x", 32768),
        ("qwen-scope-3.5-27b-w80k-l50", "layer0", 81920),
        ("saebench_gemma-2-2b_width-2pow12_date-0108", "blocks.12.hook_resid_post__trainer_0", 4096),
        ("gpt2-small-res-jb", "blocks.0.hook_resid_pre", None),
    ],
)
def test_a_width_is_read_from_names(release: str, sae_id: str, features: int | None) -> None:
    assert width(registered(release), sae_id) == features


# In models of their families

CANONICAL = "gemma-scope-2b-pt-{}-canonical/layer_{}/width_16k/canonical"
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
NEOX = {"num_key_value_heads": 4}  # it has no groups
TRIALS: dict[str, tuple[str, int, dict[str, Any], list[str]]] = {
    "gemma_2": ("gemma2", 2, {}, [CANONICAL.format(*part) for part in (("res", 0), ("mlp", 0), ("att", 1))]),
    "gemma_2 embedding": ("gemma2", 1, {}, ["gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"]),
    "gemma_2_transcoder": ("gemma2", 2, {}, ["gemma-scope-2b-pt-transcoders/layer_1/*"]),
    "gemma_3": ("gemma3_text", 2, {}, [f"gemma-scope-2-1b-pt-{p}-all/layer_1_*16k*big" for p in ("res", "mlp", "att")]),
    "gemma_3 transcoder": ("gemma3_text", 2, {}, ["gemma-scope-2-1b-pt-transcoders-all/layer_[01]_width_16k_l0_big"]),
    "gemma_3 skip": ("gemma3_text", 2, {}, ["gemma-scope-2-1b-pt-transcoders-all/layer_[01]_width_16k_l0_big_affine"]),
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
        NEOX,
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
        NEOX,
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
    # TransformerLens would have pip install what reads images, and another torch with it.
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("something is installed"))
    dtype = "float32" if "experts" in str(differs) else "float64"  # torch multiplies no experts in float64
    adapter = circuitlens.load("transformerlens", saes=names, dtype=dtype)
    inputs = adapter.inputs(["The cats"])
    seen: dict[str, Tensor] = {}
    sites = [site for site in adapter.sites if site.coder is not None]
    assert len(sites) == len(sources)
    with torch.no_grad():
        adapter.run(inputs, {site.read: lambda x, site=site: seen.update({site.read: x}) for site in sites})
        for site in sites:
            assert site.coder is not None
            x = seen[site.read]
            features = site.coder.encode(x)
            written = site.coder.decode(features)
            fits = [
                formula
                for formula in formulas.values()
                if _agree(formula(x.flatten(2)), (features, written.flatten(2)))
            ]
            assert len(fits) == 1, site.read
    circuit = circuitlens.find(adapter, **ASK, method="gradient", max_nodes=None)
    assert circuit.conservation_residual < 1e-5 * max(1, abs(circuit.metric.value))  # norms are in float32
    assert {node.kind for node in circuit.nodes} >= {"feature", "error"}


def _agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
