"""Models and SAEs by name: through the real loaders, from a cache, a folder or a hub, and how each of that fails."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from circuitlens_saelens import SAELensAdapter, loading
from circuitlens_saelens.sources import choose, find_sources, parse_layers
from safetensors.torch import save_file

import circuitlens
from circuitlens.circuit import open_circuit
from circuitlens.cli.app import main
from circuitlens.errors import AdapterError
from tests.hub import FakeHub, use_cache, write_gpt2, write_release
from tests.saelens import made

ASK: dict[str, Any] = {"prompt": "The cats", "answer": " run", "distractor": " runs"}
FULL = ["gpt2-small-resid-post-v5-32k", "gpt2-small-attn-out-v5-32k", "gpt2-small-mlp-out-v5-32k"]
ALONE = [
    "gpt2-small-res-jb",
    "gpt2-small-resid-post-v5-128k",
    "gpt2-small-resid-mid-v5-32k",
    "gpt2-small-resid-mid-v5-128k",
    "gpt2-small-attn-out-v5-128k",
    "gpt2-small-mlp-out-v5-128k",
    "gpt2-small-hook-z-kk",
    "gpt2-small-mlp-tm",
    *(f"gpt2-small-res_{kind}-ajt" for kind in ("sce", "scefr", "scl", "sle", "slefr", "sll")),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a shrunken GPT-2 and the releases above, layers 0 to 3."""
    folder = tmp_path_factory.mktemp("hub")
    write_gpt2(folder)
    for release in [*ALONE, *FULL]:
        write_release(folder, release)
    return folder


@pytest.fixture
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_cache(monkeypatch, home)
    return home


def load(saes: str | Sequence[str], layers: Any = "0-3", **options: Any) -> SAELensAdapter:
    adapter = circuitlens.load("transformerlens", saes=saes, layers=layers, **options)
    assert isinstance(adapter, SAELensAdapter)
    return adapter


@pytest.mark.parametrize(
    "releases",
    [*ALONE, FULL, ["gpt2-small-res-jb", "gpt2-small-hook-z-kk", "gpt2-small-mlp-tm"]],
    ids=lambda releases: releases if isinstance(releases, str) else "+".join(releases),
)
def test_every_gpt2_release_makes_a_circuit(cache: Path, releases: str | list[str]) -> None:
    adapter = load(releases, 2 if "ajt" in releases else "0-3", dtype="float64")
    circuit = circuitlens.find(adapter, **ASK, corrupted="The cat", max_nodes=None)
    assert circuit.conservation_residual < 1e-9 * max(1, abs(circuit.metric.value))
    kinds = {node.kind for node in circuit.nodes}
    assert kinds == {"embedding", "feature", "error", "logit"}
    bos = circuit.tokens[0] == "<|endoftext|>"
    assert bos == ("v5" not in str(releases)), "prompts begin as the SAEs were trained"
    if "ajt" not in releases:
        hooks = [site.write for site in adapter.sites if site.kind == "feature"]
        assert len(hooks) == 4 * (1 if isinstance(releases, str) else len(releases))


def test_one_sae_of_a_release(cache: Path) -> None:
    write_release(cache, "gpt2-small-res-jb-feature-splitting", ["blocks.8.hook_resid_pre_768"])
    adapter = load("gpt2-small-res-jb/blocks.2.hook_resid_pre", None)
    assert [site.write for site in adapter.sites if site.kind == "feature"] == ["blocks.2.hook_resid_pre"]
    assert adapter.url(adapter.sites[-1], 5) == "https://www.neuronpedia.org/gpt2-small/2-res-jb/5"
    with pytest.raises(AdapterError, match=r"no hook 'blocks.8.hook_resid_pre'"):
        load("gpt2-small-res-jb-feature-splitting/blocks.8.hook_resid_pre_768", None)


def test_the_model_is_processed_as_the_saes_ask(cache: Path) -> None:
    """res-jb's model is centred; others' is as it is."""
    for release, centred in (("gpt2-small-res-jb", True), ("gpt2-small-res_sce-ajt", False)):
        adapter = load(release, 2)
        inputs, seen = adapter.inputs(["The cats"]), []
        adapter.run(inputs, {"blocks.2.hook_resid_pre": lambda x, seen=seen: seen.append(x.detach())})
        mean = float((seen[0].mean(-1).abs() / seen[0].square().mean(-1).sqrt()).max())
        assert (mean < 1e-5) == centred, release
        assert centred or mean > 0.01


def test_layers() -> None:
    for layers, numbers in ((3, [3]), ("3", [3]), ("0-2,5", [0, 1, 2, 5]), (range(2), [0, 1]), (" 4 - 5 ", [4, 5])):
        assert parse_layers(layers) == numbers
    for wrong in ("", "a", "3-1", "1,,2", "-1", "0-"):
        with pytest.raises(AdapterError, match="can't be read: give them as"):
            parse_layers(wrong)


def test_folders_of_saes_and_models(cache: Path, tmp_path: Path) -> None:
    """One SAE, or a folder of them, with a model's folder: no cache and no name is needed."""
    model = next(cache.glob("hub/models--gpt2/snapshots/*"))
    for layer in (1, 3):
        made("topk", layer, "float32").save_model(tmp_path / f"layer {layer}")
    both = load(str(tmp_path), None, model=str(model))
    assert [site.layer for site in both.sites if site.kind == "feature"] == [1, 3]
    one = load(str(tmp_path / "layer 3"), None, model=str(model))
    assert [site.layer for site in one.sites if site.kind == "feature"] == [3]
    assert [site.layer for site in load(str(tmp_path), 1).sites if site.kind == "feature"] == [1]
    options = {"model": str(model), "saes": str(tmp_path), "device": "cpu", "dtype": "float32", "prepend_bos": True}
    assert both.options == options


def test_a_folder_is_found_without_the_directory_of_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second to read. A folder without SAEs may have a release's name."""
    names = ["gpt2-small-res-jb", "b", "a"]
    for name in names[1:]:
        (tmp_path / "saes" / name).mkdir(parents=True)
        (tmp_path / "saes" / name / "cfg.json").write_text("{}")
    (tmp_path / names[0]).mkdir()
    monkeypatch.chdir(tmp_path)
    assert all(source.folder is None for source in find_sources(names[0]))
    with monkeypatch.context() as patch:
        patch.setattr("circuitlens_saelens.sources.get_pretrained_saes_directory", lambda: pytest.fail("was read"))
        assert [source.sae_id for source in find_sources("saes")] == ["a", "b"]
        assert [source.sae_id for source in find_sources("saes/b")] == ["b"]


def test_lower_precision(cache: Path) -> None:
    adapter = load("gpt2-small-res-jb", "1,2", dtype="bfloat16")
    inputs = adapter.inputs(["The cats"])
    assert adapter.run(inputs, {}).dtype == torch.bfloat16
    circuitlens.find(adapter, **ASK)


# Failures: one clear sentence


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"saes": "gpt2-small-resjb"},
            r"neither a release of SAE-Lens nor a folder. Releases like it: gpt2-small-res-jb",
        ),
        ({"saes": "gpt2-small-res-jb", "layers": 14}, r"no SAE at layer 14; there are at 0, 1, .* 11\."),
        ({"saes": "gpt2-small-res-jb/blocks.40.x"}, r"has no SAE 'blocks.40.x'. It has blocks"),
        ({"saes": "gpt2-small-res-jb", "dtype": "int8"}, r"no dtype 'int8': choose one of float32"),
        ({"saes": "gpt2-small-res-jb", "device": "tpu"}, r"no device 'tpu': choose one of auto, cpu"),
        ({"saes": "gpt2-small-res-jb", "release": "x"}, r"no option 'release': give model, saes, layers"),
        ({"saes": "gpt2-small-res-jb", "layers": 0, "model": "./nowhere"}, r"no model folder './nowhere'"),
        (
            {"saes": ["gpt2-small-res-jb", "gpt2-small-resid-post-v5-32k"], "layers": 0},
            r"some without: give prepend_bos",
        ),
        ({"saes": ["gpt2-small-res-jb", "gpt2-small-res_sce-ajt"], "layers": 2}, r"need differently processed models"),
        ({"saes": ["gpt2-small-res-jb", "gemma-2b-res-jb"], "layers": 0}, r"different models, gpt2 .*google/gemma-2b"),
        (
            {"saes": ["gpt2-small-mlp-tm", "gpt2-small-mlp-tm"], "layers": 0},
            r"2 SAEs on the hook 'blocks.0.hook_mlp_out'",
        ),
        ({"saes": "gpt2-small-res-jb"}, r"Not in the cache .* HF_HUB_OFFLINE is set: jbloom/.*blocks.4"),
        ({"saes": "gpt2-small-res-jb", "layers": 0, "model": "gpt2-large"}, r"Not in the cache .*: gpt2-large"),
        ({"saes": "tests"}, r"folder 'tests' holds no SAE"),
        ({"saes": "temporal-sae-gemma-2-2b"}, r"'temporal-sae-gemma-2-2b' has features that depend on other positions"),
        (
            {"saes": "gemma-scope-2b-pt-res-canonical", "layers": 3},
            r"has 2 SAEs at layer 3, .* as gemma-scope-2b-pt-res-canonical/layer_3/width_16k/canonical, or .* pattern, "
            r"as gemma-scope-2b-pt-res-canonical/layer_\*/width_16k/canonical\.",
        ),
        (
            {"saes": "gpt2-small-res-jb-feature-splitting"},
            r"has 8 SAEs at blocks\.8\.hook_resid_pre, and a site has one",
        ),
        ({"saes": "gpt2-small-res-jb", "layers": 0, "model": "tests"}, r"'tests' holds no weights in safetensors"),
        ({"saes": "gpt2-small-res-jb", "layers": []}, r"no SAE at layer \[\]"),
        ({"saes": []}, r"There are no SAEs in \[\]"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_can_not_be_loaded_is_said(cache: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(AdapterError, match=why) as error:
        circuitlens.load("transformerlens", **options)
    assert "\n" not in str(error.value)


def test_a_model_of_which_a_part_is_missing_is_not_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gpt2(tmp_path)
    write_release(tmp_path, "gpt2-small-res-jb", ["blocks.1.hook_resid_pre"])
    use_cache(monkeypatch, tmp_path)
    (weights,) = tmp_path.glob("hub/models--gpt2/snapshots/*/model.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    weights.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    weights.rename(weights.with_name(parts["a"]))
    with pytest.raises(AdapterError, match=r"Not in the cache .*: gpt2 \(model\*.safetensors"):
        load("gpt2-small-res-jb", 1)


def test_too_little_memory_is_said_before_anything_is_loaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = 2**16
    made("standard", 1, "float32").save_model(tmp_path)
    wide = {"W_enc": torch.zeros(32, features), "W_dec": torch.zeros(features, 32), "b_enc": torch.zeros(features)}
    save_file(wide, tmp_path / "sae_weights.safetensors")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2_000_000))
    monkeypatch.setattr(loading, "SAE", None)
    monkeypatch.setattr(loading, "TransformerBridge", None)
    for dtype, size in (("bfloat16", 2), ("float64", 8)):
        megabytes = round(size * sum(tensor.numel() for tensor in wide.values()) / 1e6)
        with pytest.raises(AdapterError, match=f"The 1 SAEs take {megabytes} MB .* 2 MB of memory are free"):
            load(str(tmp_path), None, dtype=dtype)


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("sae_weights.safetensors", b"torn", "is no whole safetensors file"),
        ("cfg.json", b"{", "configuration of the SAE .* can't be read"),
        ("cfg.json", b'{"architecture": "standard"}', "can't be loaded|do not say which model"),
    ],
)
def test_damaged_files_are_said(cache: Path, tmp_path: Path, file: str, content: bytes, why: str) -> None:
    made("standard", 1, "float32").save_model(tmp_path / "sae")
    (tmp_path / "sae" / file).write_bytes(content)
    with pytest.raises(AdapterError, match=why):
        load(str(tmp_path / "sae"), None)
    with pytest.raises(AdapterError, match=why):
        load(str(tmp_path / "sae"), None, model="gpt2")


def test_the_older_name_of_the_adapter_still_works(cache: Path, tmp_path: Path) -> None:
    """From Python, and in files; `wrap` gives names of its own."""
    circuit = circuitlens.find(load("gpt2-small-res-jb", 1), **ASK)
    assert circuit.adapter == "transformerlens"
    old, wrapped = tmp_path / "old.json", tmp_path / "wrapped.json"
    circuit.model_copy(update={"adapter": "gpt2"}).save(old)
    circuit.model_copy(update={"adapter": "gpt2", "options": {"wrapped": "of GPT-2"}}).save(wrapped)
    opened = open_circuit(old)
    assert (opened.adapter, opened.edited) == ("transformerlens", False)
    assert open_circuit(wrapped).adapter == "gpt2"
    adapter = circuitlens.load("gpt2", saes="gpt2-small-res-jb", layers=1)
    assert adapter.name == "transformerlens"
    assert circuitlens.ablate(adapter, opened, []).before == pytest.approx(circuit.metric.value)


def test_a_pattern_names_an_sae_a_layer() -> None:
    chosen = choose(["gemma-scope-2b-pt-res-canonical/*/width_16k/*"], "3-5")
    assert [source.sae_id for source in chosen] == [f"layer_{layer}/width_16k/canonical" for layer in (3, 4, 5)]


# The command line


def test_releases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("releases", "llama-3.1-8B") == 0
    printed = capsys.readouterr().out
    assert re.search(r"llama_scope_lxr_8x +meta-llama/Llama-3.1-8B +32 +1.1 GB +yes\n", printed)
    assert re.search(r"temporal-sae-llama-3.1-8b .* no: it has features that depend on other positions", printed)
    assert "gemma" not in printed
    assert cli("releases", "no-such-model") == 1
    assert "No release is for a model called 'no-such-model'" in capsys.readouterr().err


def cli(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["circuitlens", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0)


def test_the_command_line_finds_a_language_models_circuit(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cats.json"
    words = ["--answer", " run", "--distractor", " runs", "--corrupted", "The cat"]
    options = ["--sae", "gpt2-small-res-jb", "--layers", "0-3", "--max-nodes", "40", "--max-edges", "100"]
    assert cli("find", "transformerlens", "The cats", *words, *options, "-o", str(out)) == 0
    printed = capsys.readouterr().out
    circuit = open_circuit(out)
    assert circuit.found is not None
    assert len(circuit.nodes) == 42
    assert len(circuit.edges) == 100
    assert circuit.options["layers"] == "0-3"
    assert f"{circuit.found.features} features, 3 tokens" in printed
    assert f"the strongest of {circuit.found.nodes} and {circuit.found.edges}" in printed
    for part in (f"{circuit.metric.value:+.3f}", str(circuit.strongest_path()), "residual", "peak memory", "measured"):
        assert part in printed


def test_metrics_and_several_answers_on_the_command_line(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    sets = ["--answer", " run", "--answer", " are", "--distractor", " runs", "--distractor", " is"]
    options = ["--sae", "gpt2-small-res-jb", "--layers", "2", "--metric", "probability_difference", "--frozen"]
    assert cli("find", "transformerlens", "The cats", *sets, *options, "-o", str(out)) == 0
    circuit = open_circuit(out)
    assert [o.text for o in circuit.metric.answers] == [" run", " are"]
    assert (circuit.metric.name, circuit.frozen) == ("probability_difference", True)
    assert next(node for node in circuit.nodes if node.kind == "logit").label == "all other outputs"


def test_a_failure_on_the_command_line_is_one_sentence(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "no.json"
    assert (
        cli(
            "find",
            "transformerlens",
            "The cats",
            "--answer",
            " goes",
            "--sae",
            "gpt2-small-res-jb",
            "--layers",
            "1",
            "-o",
            str(out),
        )
        == 1
    )
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("Error: The answer ' goes' is not one token after 'The cats'")
    assert not out.exists()
    assert cli("find", "toy", "The cats", "--answer", "run", "--layers", "2") == 2
    assert (
        "Invalid value for --layers: the adapter 'toy' does not take it; 'transformerlens' does."
        in capsys.readouterr().err
    )


# A hub, over HTTP


def test_what_is_missing_is_downloaded_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "circuitlens_saelens")
    with FakeHub(home) as hub:
        use_cache(monkeypatch, tmp_path, hub)
        first = circuitlens.find(load("gpt2-small-res-jb", "1-2"), **ASK)
    assert "Downloading" in caplog.text
    assert "from jbloom/GPT2-Small-SAEs-Reformatted, gpt2" in caplog.text
    got = [request for request in hub.requests if request.startswith("GET") and "resolve" in request]
    assert not any("blocks.0." in request or "blocks.3." in request for request in got), "only what was asked for"
    # The hub is gone: nothing is asked of it, and nothing waits for it.
    caplog.clear()
    second = circuitlens.find(load("gpt2-small-res-jb", "1-2"), **ASK)
    assert second.nodes == first.nodes
    assert "Downloading" not in caplog.text


def test_a_download_that_breaks_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository without the file: it was moved, or the release has changed."""
    broken = tmp_path / "broken"
    write_gpt2(broken)
    write_release(broken, "gpt2-small-res-jb", ["blocks.1.hook_resid_pre"])
    with FakeHub(broken) as hub:
        use_cache(monkeypatch, tmp_path / "mine", hub)
        with pytest.raises(AdapterError, match=r"has no file 'blocks.2.hook_resid_pre/cfg.json'"):
            load("gpt2-small-res-jb", "1-2")


ALONE_AND_OFFLINE = """
import time
import circuitlens, circuitlens_saelens.loading, torch
start = time.monotonic()
for load in (
    lambda: circuitlens.load("transformerlens", saes="gpt2-small-res-jb", layers="1-2"),
    lambda: circuitlens.wrap(torch.nn.Linear(2, 2), []),
    lambda: circuitlens.wrap(torch.nn.Linear(2, 2), ["gpt2-small-res-jb"]),
):
    try:
        load()
    except circuitlens.CircuitLensError as error:
        print("Error:", error)
print(time.monotonic() - start)
"""


def test_without_network_or_cache_one_sentence_says_so(tmp_path: Path) -> None:
    """In a process of its own, in which nothing but the environment says where the hub and the cache are."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE_AND_OFFLINE],
        capture_output=True,
        text=True,
        env={**keep, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_XET": "1"},
        timeout=120,
        check=False,
    )
    said, *wrong, seconds = done.stdout.strip().splitlines()
    assert said.startswith("Error: Not in the cache"), done.stderr
    assert "Connect to the network" in said
    assert float(seconds) < 60, "the hub's client was left to retry"  # 23 s a file; a loaded machine takes under 5
    assert len(wrong) == 2
    assert "is a Linear; CircuitLens reads TransformerLens models" in wrong[0]
    assert not list((tmp_path / "hub").glob("**/*.safetensors"))


def test_circuits_say_what_was_loaded(cache: Path, tmp_path: Path) -> None:
    circuit = circuitlens.find(load("gpt2-small-res-jb", 1), **ASK)
    circuit.save(tmp_path / "c.json")
    options = json.loads((tmp_path / "c.json").read_text())["options"]
    expected = {"model": "gpt2", "saes": "gpt2-small-res-jb", "device": "cpu", "dtype": "float32"}
    assert options == expected | {"layers": "1", "prepend_bos": True}


# SAEs that are larger than memory


def _maps() -> list[tuple[int, int, str]]:
    rows = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ends = [(*(int(end, 16) for end in row[0].split("-")), row[5] if len(row) > 5 else "") for row in rows]
    return [(first, last, name) for first, last, name in ends]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_saes_larger_than_memory_are_read_from_their_files(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of their files' dtype they stay mapped, take no memory of their own, and give a circuit of the same bits."""
    model = next(cache.glob("hub/models--gpt2/snapshots/*"))
    for layer, architecture in enumerate(("standard", "topk", "jumprelu", "gated")):
        made(architecture, layer, "float32").save_model(tmp_path / f"layer {layer}")
    asked: dict[str, Any] = {"model": str(model), "device": "cpu"}
    expected = circuitlens.find(load(str(tmp_path), None, **asked), **ASK, corrupted="The cat")
    saes, size = (sum(f.stat().st_size for f in folder.glob("**/*.safetensors")) for folder in (tmp_path, model))
    little = SimpleNamespace(available=2 * size + saes // 2)
    monkeypatch.setattr(loading, "psutil", SimpleNamespace(virtual_memory=lambda: little))
    adapter = load(str(tmp_path), None, **asked)
    assert circuitlens.find(adapter, **ASK, corrupted="The cat") == expected
    maps, found = _maps(), 0
    for hook, sae in adapter._saes.items():
        for name in ("W_enc", "W_dec"):
            at = getattr(sae, name).data_ptr()
            (file,) = (file for first, last, file in maps if first <= at < last)
            assert file.endswith(f"layer {hook.split('.')[1]}/sae_weights.safetensors"), "it was copied"
            found += 1
    assert found == 8
    little.available = 4 * size + saes
    with pytest.raises(AdapterError, match=r"The 4 SAEs take .* SAEs in safetensors of that dtype take none\."):
        load(str(tmp_path), None, **asked, dtype="float64")
