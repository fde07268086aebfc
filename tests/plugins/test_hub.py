"""The hand-made cache goes through the real loaders, and the imitated hub serves it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub import COMMIT, END, FakeHub, use_cache, write_gpt2, write_release

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in (
        "The 'utils' module has been deprecated:DeprecationWarning:sae_lens",
        "HookedTransformer is deprecated:DeprecationWarning",
        "HookedTransformer.from_pretrained is deprecated:DeprecationWarning",
        r"\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning",
    )
]

STANDARD = ("standard", "none", True)
TOPK = ("topk", "layer_norm", False)
JB = (*STANDARD, {"center_writing_weights": True})
# For each release: architecture, normalisation and prepend_bos as loaded, the model's kwargs, an SAE and its hook.
RELEASES: dict[str, tuple[Any, ...]] = {
    "gpt2-small-res-jb": (*JB, "blocks.2.hook_resid_pre", "blocks.2.hook_resid_pre"),
    "gpt2-small-res-jb-feature-splitting": (*JB, "blocks.8.hook_resid_pre_768", "blocks.8.hook_resid_pre"),
    "gpt2-small-mlp-tm": (*JB, "blocks.3.hook_mlp_out", "blocks.3.hook_mlp_out"),
    "gpt2-small-hook-z-kk": (*STANDARD, None, "blocks.0.hook_z", "blocks.0.attn.hook_z"),
} | {
    f"gpt2-small-res_{kind}-ajt": (*STANDARD, None, "blocks.2.hook_resid_pre", "blocks.2.hook_resid_pre")
    for kind in ("sce", "scefr", "scl", "sle", "slefr", "sll")
}
for site in ("resid-post", "resid-mid", "attn-out", "mlp-out"):
    name = f"blocks.1.hook_{site.replace('-', '_')}"
    RELEASES |= {f"gpt2-small-{site}-v5-{width}": (*TOPK, None, name, name) for width in ("32k", "128k")}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that the loaders use and never leave."""
    use_cache(monkeypatch, tmp_path)
    return tmp_path


def bridge(prompts: list[str]) -> tuple[Any, list[torch.Tensor]]:
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers("gpt2", device="cpu")
    with torch.no_grad():
        return model, [model(prompt) for prompt in prompts]


def test_the_registry_has_these_gpt2_releases() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    assert {name for name, found in get_pretrained_saes_directory().items() if found.model == "gpt2-small"} == {
        *RELEASES
    }


@pytest.mark.parametrize("release", RELEASES)
def test_saes_of_every_release_load_and_are_sparse(home: Path, release: str) -> None:
    from sae_lens import SAE
    from transformer_lens import HookedTransformer

    architecture, normalisation, prepend_bos, kwargs, sae_id, hook = RELEASES[release]
    write_gpt2(home, layers=9)
    write_release(home, release, [sae_id])
    sae = SAE.from_pretrained(release, sae_id)
    metadata = sae.cfg.metadata
    assert (sae.cfg.architecture(), sae.cfg.normalize_activations) == (architecture, normalisation)
    assert (metadata.hook_name, metadata.prepend_bos) == (hook, prepend_bos)
    assert metadata.model_from_pretrained_kwargs == kwargs
    assert sae.cfg.reshape_activations == ("hook_z" if "hook_z" in hook else "none")
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (32, 64)
    torch.testing.assert_close(sae.W_enc / sae.W_enc.norm(dim=0), (sae.W_dec.T / sae.W_dec.norm(dim=1)))

    model = HookedTransformer.from_pretrained_no_processing("gpt2", device="cpu", **(kwargs or {}))
    with torch.no_grad():
        x = model.run_with_cache("The cats near the dog run", names_filter=hook)[1][hook]
        features = sae.encode(x)
        assert sae.decode(features).shape == x.shape
    assert 4 < (features > 0).sum(-1).float().mean() < 18


def test_default_saes_are_those_of_four_layers(home: Path) -> None:
    write_release(home, "gpt2-small-res-jb")
    assert [path.parent.name for path in sorted(home.rglob("cfg.json"))] == [
        f"blocks.{n}.hook_resid_pre" for n in range(4)
    ]


def test_gpt2_is_the_same_on_the_bridge_and_hooked(home: Path) -> None:
    from transformer_lens import HookedTransformer

    write_gpt2(home)
    prompts = ["The cat runs", "The cats run", "A dog"]
    _, logits = bridge(prompts)
    plain = HookedTransformer.from_pretrained_no_processing("gpt2", device="cpu")
    centred = HookedTransformer.from_pretrained_no_processing("gpt2", center_writing_weights=True, device="cpu")
    with torch.no_grad():
        for prompt, expected in zip(prompts, logits, strict=True):
            torch.testing.assert_close(plain(prompt), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(centred(prompt).log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=2e-5)
        assert (logits[0][0, -1] - logits[1][0, -1]).abs().mean() > 0.5
        means = [model.run_with_cache(prompts[0])[1]["blocks.2.hook_resid_pre"].mean() for model in (plain, centred)]
    assert abs(means[0]) > 0.2
    assert abs(means[1]) < 1e-6


def test_the_tokenizer_knows_the_words_and_every_byte(home: Path) -> None:
    write_gpt2(home)
    tokenizer = bridge([])[0].tokenizer
    spaced = [" cat", " cats", " dog", " dogs", " run", " runs", " near", " the", " is", " are"]
    for word in ["The", "A", "run", "runs", *spaced]:
        assert tokenizer.tokenize(word) == [word.replace(" ", "Ġ")]
    assert tokenizer.tokenize(" goes") == ["Ġgo", "es"]
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == END
    assert tokenizer.encode(END, add_special_tokens=False) == [tokenizer.bos_token_id] == [len(tokenizer) - 1]
    for text in ("The cat's naïve 🐈‍⬛ 猫\n\tx", "".join(map(chr, range(0x100)))):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_cache_is_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_gpt2(tmp_path / folder)
        write_release(tmp_path / folder, "gpt2-small-mlp-tm")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_download_from_the_imitated_hub_is_complete(tmp_path: Path) -> None:
    """In a process of its own, since transformers keeps the hub's address that it first asked."""
    write_gpt2(tmp_path / "there")
    write_release(tmp_path / "there", "gpt2-small-mlp-tm")
    write_release(tmp_path / "there", "gpt2-small-hook-z-kk")
    script = (
        "from sae_lens import SAE\n"
        "from transformer_lens.model_bridge import TransformerBridge\n"
        "SAE.from_pretrained('gpt2-small-mlp-tm', 'blocks.1.hook_mlp_out')\n"
        "SAE.from_pretrained('gpt2-small-hook-z-kk', 'blocks.2.hook_z')\n"
        "print(TransformerBridge.boot_transformers('gpt2', device='cpu').generate('The cat', max_new_tokens=1))"
    )
    with FakeHub(tmp_path / "there") as hub:
        ours = {"HF_HOME": str(tmp_path / "here"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | ours
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there, here = files(tmp_path / "there"), files(tmp_path / "here")
    downloaded = {name: content for name, content in here.items() if "/snapshots/" in name}
    assert len(downloaded) == 9
    assert downloaded.items() <= there.items()
    assert any(name.startswith("GET /gpt2/resolve/") and name.endswith("/model.safetensors") for name in hub.requests)


def test_the_imitated_hub_answers_as_the_hub_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    write_release(tmp_path, "gpt2-small-res-jb", ["blocks.0.hook_resid_pre"])
    repo, name = "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.0.hook_resid_pre/sae_weights.safetensors"
    (path,) = tmp_path.rglob("sae_weights.safetensors")
    with FakeHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.url)
        for revision in (None, "main", COMMIT):
            info = api.model_info(repo, revision=revision, files_metadata=True)
            assert info.sha == COMMIT
            sizes = {file.rfilename: file.size for file in info.siblings or []}
            assert sizes[name] == path.stat().st_size
        assert {entry.path for entry in api.list_repo_tree(repo)} == {"blocks.0.hook_resid_pre"}
        assert {entry.path for entry in api.list_repo_tree(repo, recursive=True)} == {*sizes, "blocks.0.hook_resid_pre"}
        for wrong, error in [
            ({"filename": "nothing.json"}, RemoteEntryNotFoundError),
            ({"filename": name, "revision": "other"}, RevisionNotFoundError),
            ({"filename": name, "repo_id": "nobody/nothing"}, RepositoryNotFoundError),
        ]:
            with pytest.raises(error):
                api.hf_hub_download(**{"repo_id": repo, "cache_dir": tmp_path / "cache"} | wrong)
        request = urllib.request.Request(f"{hub.url}/{repo}/resolve/main/{name}", headers={"Range": "bytes=10-19"})
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (206, path.read_bytes()[10:20])
            assert answer.headers["Content-Range"] == f"bytes 10-19/{path.stat().st_size}"
    assert f"GET /{repo}/resolve/main/{name}" in hub.requests
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(hub.url)
