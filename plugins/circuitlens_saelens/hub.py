"""Files of models and SAEs in the Hugging Face cache; what is missing is downloaded.

1. The cache is asked for each file that is needed.
2. Only if something is missing, the hub is asked, once a repository and with a short limit, how large it is; that is
   said, and the files are downloaded.
3. What is loaded afterwards is loaded `offline`: with a cache but no network, the hub's client would retry for minutes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from circuitlens.errors import AdapterError
from circuitlens.files import format_bytes

log = logging.getLogger(__name__)

TIMEOUT = 4
"""Seconds that the hub has to say what a repository holds."""
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
"""What is downloaded of a model whose tokenizer is missing."""
MODEL_FILES = (*TOKENIZER_FILES, "model*.safetensors", "*.jinja")
"""What is downloaded of a model; weights in pickles are left where they are."""


def fetch(
    needed: Mapping[str, Sequence[str]], model: str | None, if_there: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[Path]]:
    """The files of each repository, all in the cache now; raises AdapterError for one that is missing and can't be had.

    `needed` has the names of files by repository, `model` is the repository of a model, of which all is needed. Files
    `if_there` come with what is downloaded of their repository, where it has them.
    """

    def look() -> dict[str, dict[str, Path | None]]:
        found = {repo: {name: _cached(repo, name) for name in names} for repo, names in needed.items()}
        return found if model is None else {**found, model: _cached_model(model)}

    found = look()
    missing = {repo: [name for name, path in files.items() if path is None] for repo, files in found.items()}
    if missing := {repo: names for repo, names in missing.items() if names}:
        _download(missing, if_there or {})
        found = look()
    return {repo: [path for path in files.values() if path is not None] for repo, files in found.items()}


@contextmanager
def offline() -> Iterator[None]:
    """Keep loaders from asking the hub: all that they need is in the cache."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def first_line(error: BaseException) -> str:
    """What another library's error says, fit for a sentence: its kind and its first line, without a full stop."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".rstrip(".: ")


def _cached(repo: str, name: str) -> Path | None:
    path = huggingface_hub.try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE)
    return Path(path) if isinstance(path, str) else None


def _cached_model(repo: str) -> dict[str, Path | None]:
    """Configuration, tokenizer and weights of a model in the cache; None for what is not there."""
    config = _cached(repo, "config.json")
    if config is None:
        return dict.fromkeys(MODEL_FILES)
    folder = config.parent
    parts = {"model.safetensors"}
    if (index := folder / "model.safetensors.index.json").exists():
        parts = set(json.loads(index.read_text())["weight_map"].values())
    found: dict[str, Path | None] = {"config.json": config}
    if all((folder / name).exists() for name in parts):
        found |= {name: folder / name for name in parts}
    else:
        found["model*.safetensors"] = None
    tokenizers = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})
    if not any(all((folder / name).exists() for name in names) for names in tokenizers):
        found |= dict.fromkeys(TOKENIZER_FILES)
    return found


def _download(missing: Mapping[str, Sequence[str]], if_there: Mapping[str, Sequence[str]]) -> None:
    """Download what is missing, names or patterns by repository, after saying how large it is."""
    what = "; ".join(f"{repo} ({names[0]}{', …' if len(names) > 1 else ''})" for repo, names in missing.items())
    if constants.HF_HUB_OFFLINE:
        repo, names = next(iter(missing.items()))
        raise AdapterError(
            f"Not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: {what}. Unset it to download, "
            f"or run `hf download {repo} {' '.join(names)[:200]}` where there is a network and bring the cache."
        )
    sizes = {
        (repo, name): size
        for repo, names in missing.items()
        for name, size in _sizes(repo, names, if_there.get(repo, ()), what).items()
    }
    log.info("Downloading %d files, %s, from %s", len(sizes), format_bytes(sum(sizes.values())), ", ".join(missing))
    for repo, name in sizes:
        try:
            huggingface_hub.hf_hub_download(repo, name)
        except Exception as error:
            raise AdapterError(
                f"The download of {name} from {repo} failed: {first_line(error)}. Try again: what has arrived is kept."
            ) from error


def _sizes(repo: str, patterns: Sequence[str], if_there: Sequence[str], what: str) -> dict[str, int]:
    """The bytes of each file of a repository that one of the patterns names, or that is one of `if_there`; `what` says
    what is asked for in all.
    """
    try:
        info = huggingface_hub.HfApi().model_info(repo, files_metadata=True, timeout=TIMEOUT)
    except Exception as error:
        raise AdapterError(
            f"Not in the cache {constants.HF_HUB_CACHE}, and the hub can't be asked for it: {what} "
            f"({first_line(error)}). Connect to the network, or bring a cache and set HF_HUB_OFFLINE=1; model and "
            "SAEs can also be local folders."
        ) from error
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    sizes = {name: files[name] for name in if_there if name in files}
    for pattern in patterns:
        # A pattern is of a model, whose files are in no folder; a name may be anywhere.
        named = [name for name in files if fnmatch(name, pattern) and ("/" not in name or name in patterns)]
        if not named and pattern not in MODEL_FILES:
            raise AdapterError(f"The hub's {repo} has no file {pattern!r}: it was moved, or the release has changed.")
        sizes |= {name: files[name] for name in named}
    return sizes
