"""A hand-made Hugging Face cache, a shrunken GPT-2 with shrunken SAEs, and a server that imitates the hub.

Everything goes through the real loaders of transformers, TransformerLens and SAE-Lens: only the sizes are unreal.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

COMMIT = "0123456789abcdef0123456789abcdef01234567"
END = "<|endoftext|>"
# Single tokens in GPT-2's spelling, where Ġ is a space; " goes" is two, " go" and "es".
WORDS = ["The", "A", "Ġcat", "Ġcats", "Ġdog", "Ġdogs", "run", "runs", "Ġrun", "Ġruns", "Ġnear", "Ġthe", "Ġis", "Ġare"]
WORDS += ["Ġgo", "es"]
# About how large the shrunken model's activations are (root mean square) beside the residual stream's.
SIZES = {"attn_out": 0.4, "mlp_out": 0.4, "z": 0.7}
FILE = re.compile(r"/(?P<repo>.+?)/(?P<what>resolve)/(?P<revision>[^/]+)/(?P<file>.+)")
API = re.compile(r"/api/models/(?P<repo>.+?)(/(?P<what>revision|tree)/(?P<revision>[^/]+)(/(?P<file>.+))?)?")


def write_gpt2(
    home: Path, *, repo: str = "gpt2", layers: int = 4, d_model: int = 32, heads: int = 4, seed: int = 0
) -> None:
    """Write a random GPT-2 into the cache `home`: weights, a byte-level tokenizer, and what describes them."""
    vocabulary, merges = _tokenizer()
    folder = _snapshot(home, repo)
    sizes = {"n_layer": layers, "n_embd": d_model, "n_head": heads, "n_positions": 64, "n_ctx": 64}
    end = vocabulary[END]
    _write_json(
        folder / "config.json",
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"}
        | {"vocab_size": len(vocabulary), "bos_token_id": end, "eos_token_id": end, "layer_norm_epsilon": 1e-5}
        | sizes,
    )
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64})
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    weights = _gpt2_weights(_random(f"{repo} {seed}"), len(vocabulary), layers, d_model)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_release(
    home: Path, release: str, sae_ids: Sequence[str] | None = None, *, d_model: int = 32, d_sae: int = 64, seed: int = 0
) -> None:
    """Write random SAEs of a registered GPT-2 release (those of layers 0 to 3, if none are named) into the cache."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    registered = get_pretrained_saes_directory()[release]
    folder = _snapshot(home, registered.repo_id)
    for sae_id in [i for i in registered.saes_map if _layer(i) < 4] if sae_ids is None else sae_ids:
        path = folder / registered.saes_map[sae_id]
        hook = re.sub(r"_\d+$", "", sae_id).replace(".hook_z", ".attn.hook_z")
        size = SIZES.get(hook.rpartition("hook_")[2], 1.1 + 0.1 * _layer(hook))  # the residual stream grows
        threshold = 0 if "-v5-" in release else size * registered.norm_scaling_factor.get(sae_id, 1)
        weights = _sae_weights(_random(f"{release} {sae_id} {seed}"), d_model, d_sae, threshold)
        if release == "gpt2-small-hook-z-kk":
            torch.save(weights, path)
            config = {"act_name": hook, "act_size": d_model, "dict_size": d_sae, "model_name": "gpt2", "site": "z"}
            _write_json(path.with_name(path.name.removesuffix(".pt") + "_cfg.json"), config)
            continue
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / "cfg.json", _sae_config(release, hook, d_model, d_sae))
        if "-res-jb" in release:  # what old trainings left beside the weights
            weights["scaling_factor"] = torch.ones(d_sae)
            save_file({"sparsity": torch.full((d_sae,), -1.0)}, path / "sparsity.safetensors")
        save_file(weights, path / "sae_weights.safetensors")


class FakeHub:
    """Serves a cache folder over HTTP as the hub would: `with FakeHub(home) as hub:` and `HF_ENDPOINT=hub.url`."""

    def __init__(self, home: Path):
        self.home = home
        self.requests: list[str] = []
        """What was asked for, each as "METHOD path"."""

    def __enter__(self) -> FakeHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The address to give as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"


def use_cache(patch: pytest.MonkeyPatch, home: Path, hub: FakeHub | None = None) -> None:
    """Have the loaders of this process use the cache `home` and ask `hub` for what is not in it, or nobody."""
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", hub is None)
    if hub is not None:
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


class _Handler(BaseHTTPRequestHandler):
    """Answers for one connection to a FakeHub."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *args: Any):
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on stderr."""

    def do_HEAD(self) -> None:
        """Answer as GET does, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer what the address names: a file, a folder's listing or a repository's description."""
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.hub.requests.append(f"{self.command} {path}")
        found = FILE.fullmatch(path) or API.fullmatch(path)
        repo = found["repo"] if found else ""
        folder = self.hub.home / "hub" / f"models--{repo.replace('/', '--')}"
        if not found or not folder.is_dir():
            return self.refuse("RepoNotFound")
        commit = (folder / "refs" / "main").read_text()
        if found["revision"] not in (None, "main", commit):
            return self.refuse("RevisionNotFound")
        snapshot = folder / "snapshots" / commit
        target = snapshot / (found["file"] or "")
        if found["what"] == "resolve":
            return self.send_file(target, commit) if target.is_file() else self.refuse("EntryNotFound", commit)
        if found["what"] == "tree":
            if not target.is_dir():
                return self.refuse("EntryNotFound", commit)
            deep = query.get("recursive", [""])[0].lower() == "true"
            return self.send_json([_entry(p, snapshot) for p in sorted(target.glob("**/*" if deep else "*"))])
        with_sizes = query.get("blobs", [""])[0].lower() == "true"
        siblings = [
            {"rfilename": p.relative_to(snapshot).as_posix()} | ({"size": p.stat().st_size} if with_sizes else {})
            for p in sorted(snapshot.rglob("*"))
            if p.is_file()
        ]
        return self.send_json({"id": repo, "sha": commit, "siblings": siblings})

    def send_json(self, content: Any) -> None:
        """Send what the API says."""
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send_file(self, path: Path, commit: str) -> None:
        """Send a file, or the range of it that is asked for."""
        data = path.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(data)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.send(200, data, headers)
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        return self.send(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def refuse(self, code: str, commit: str = "") -> None:
        """Say that there is no such repository, revision or file."""
        self.send(404, b"", {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {}))

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _entry(path: Path, snapshot: Path) -> dict[str, Any]:
    """Describe a file or folder as the hub's listings do."""
    kind, data = ("directory", b"") if path.is_dir() else ("file", path.read_bytes())
    return {"type": kind, "path": path.relative_to(snapshot).as_posix(), "size": len(data), "oid": _oid(data)}


def _oid(data: bytes) -> str:
    """Return Git's name for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _snapshot(home: Path, repo: str) -> Path:
    """Return the folder of a repository's files in the cache, made if need be."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    return folder / "snapshots" / COMMIT


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary as JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")


def _random(name: str) -> Callable[..., Tensor]:
    """Return a `randn` of its own for each name."""
    return partial(torch.randn, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def _tokenizer() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary (all bytes, pieces of WORDS, the special token) and the merges that make WORDS."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        merges += _missing_merges(word, merges)
    tokens = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges), END]
    return {token: n for n, token in enumerate(tokens)}, merges


def _missing_merges(word: str, merges: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the merges that make a word one token, after those there are."""
    pieces = list(word)
    for left, right in merges:
        for n in reversed(range(len(pieces) - 1)):
            if pieces[n : n + 2] == [left, right]:
                pieces[n : n + 2] = [left + right]
    for n in range(1, len(pieces)):
        yield "".join(pieces[:n]), pieces[n]


def _gpt2_weights(randn: Callable[..., Tensor], vocabulary: int, layers: int, d: int) -> dict[str, Tensor]:
    """Return random weights that keep activations of order 1, with a mean that centring has to remove."""
    weights = {"wte.weight": randn(vocabulary, d) + 0.5, "wpe.weight": randn(64, d) * 0.3}
    weights |= {"ln_f.weight": 0.5 + randn(d) * 0.05, "ln_f.bias": randn(d) * 0.1}
    for n in range(layers):
        for name, inputs, outputs, gain in [
            ("attn.c_attn", d, 3 * d, 1.0),
            ("attn.c_proj", d, d, 0.5),
            ("mlp.c_fc", d, 4 * d, 1.0),
            ("mlp.c_proj", 4 * d, d, 0.6),
        ]:
            weights[f"h.{n}.{name}.weight"] = randn(inputs, outputs) * gain / inputs**0.5
            weights[f"h.{n}.{name}.bias"] = randn(outputs) * 0.1 + 0.05
        for name in ("ln_1", "ln_2"):
            weights[f"h.{n}.{name}.weight"] = 1 + randn(d) * 0.1
            weights[f"h.{n}.{name}.bias"] = randn(d) * 0.1
    return weights


def _sae_weights(randn: Callable[..., Tensor], d_in: int, d_sae: int, threshold: float) -> dict[str, Tensor]:
    """Return a tied SAE with decoder rows of norm 1, whose features are active beyond about `threshold`."""
    decoder = torch.nn.functional.normalize(randn(d_sae, d_in), dim=-1)
    bias = randn(d_sae) * 0.1 - threshold
    return {"W_enc": decoder.T.contiguous(), "b_enc": bias, "W_dec": decoder, "b_dec": randn(d_in) * 0.1}


def _sae_config(release: str, hook: str, d_in: int, d_sae: int) -> dict[str, Any]:
    """Return `cfg.json` in the layout that the release's time of training had (none says `sae_lens_version`)."""
    config: dict[str, Any] = {"model_name": "gpt2-small", "d_in": d_in, "d_sae": d_sae, "device": "cpu"}
    config |= {"dtype": "torch.float32", "dataset_path": "Skylion007/openwebtext", "context_size": 128}
    old = {"hook_point": hook, "hook_point_layer": _layer(hook), "hook_point_head_index": None}
    new = {"architecture": "standard", "hook_name": hook, "hook_layer": _layer(hook), "hook_head_index": None}
    if "-res-jb" in release:
        return config | old | {"activation_fn_str": "relu"}
    if release == "gpt2-small-mlp-tm":
        return config | old | {"model_name": "gpt2", "normalize_activations": "expected_average_only_in"}
    if "-v5-" in release:
        top = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}, "apply_b_dec_to_input": True}
        return config | new | top | {"normalize_activations": "layer_norm", "prepend_bos": False, "context_size": 64}
    return config | new | {"activation_fn_str": "relu", "apply_b_dec_to_input": False, "normalize_activations": "none"}


def _layer(name: str) -> int:
    """Return the layer of a hook or SAE, such as 8 for "blocks.8.hook_resid_pre_768"."""
    return int(name.split(".")[1])
