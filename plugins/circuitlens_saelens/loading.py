"""Models and SAEs from the Hugging Face hub, its cache, or local folders, through their own loaders.

1. What is asked for is looked up in SAE-Lens' registry or in folders, and what of it is not in the cache is named.
2. Only if something is missing the hub is asked, once a repository and with a short limit, how large it is; that is
   said, and it is downloaded.
3. Memory is estimated from the files.
4. Everything is loaded with the hub out of reach: with a cache but no network, its client would retry for minutes.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import psutil
import torch
from huggingface_hub import constants
from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import (
    get_sae_lens_config_from_disk,
    handle_config_defaulting,
    load_sae_config_from_huggingface,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors import safe_open
from tqdm.auto import tqdm
from transformer_lens.loading_from_pretrained import get_official_model_name
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging as transformers_logging

from circuitlens.adapter import Option
from circuitlens.errors import AdapterError

log = logging.getLogger(__name__)

DTYPES = ("float32", "float64", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
"""What SAEs may ask of their model's weights (TransformerLens' names)."""
SECONDS = 4
"""How long the hub may take to say what a repository holds."""
MODEL_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors", "*.jinja")
"""What of a model is downloaded; weights in pickles are left where they are."""

Layers = int | str | Iterable[int] | None


@dataclass(frozen=True)
class Source:
    """Where one SAE is: a registered release and id, or a folder."""

    release: str | None
    sae_id: str
    folder: Path | None

    def __str__(self) -> str:
        return str(self.folder) if self.release is None else f"{self.release}/{self.sae_id}"


def load(
    *,
    model: str | None = None,
    saes: str | Sequence[str] = "gpt2-small-res-jb",
    layers: Layers = None,
    device: str = "auto",
    dtype: str = "float32",
    prepend_bos: bool | None = None,
    **unknown: Any,
) -> tuple[TransformerBridge, list[SAE[Any]], dict[str, Option]]:
    """A model processed as its SAEs ask for, the SAEs, and a record of what was loaded.

    Args:
        model: a model's name on the hub, or a folder; by default the one that the SAEs are for.
        saes: SAE-Lens releases, single SAEs of them (RELEASE/SAE_ID), or folders of SAEs, one or several.
        layers: the layers whose SAEs are taken: 8, "0-11", "0,4,8-10" or numbers; by default all.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "mps", for the model and the SAEs.
        dtype: "float32", "float64", "bfloat16" or "float16", for both.
        prepend_bos: whether prompts begin with the BOS token; by default as the SAEs were trained.

    Raises:
        AdapterError: an option is wrong, something can't be had or does not fit in memory.
    """
    if unknown:
        raise AdapterError(
            f"There is no option {next(iter(unknown))!r}: give model, saes, layers, device, dtype or prepend_bos."
        )
    if dtype not in DTYPES or device not in DEVICES:
        wrong = f"dtype {dtype!r}" if dtype not in DTYPES else f"device {device!r}"
        raise AdapterError(
            f"There is no {wrong}: choose one of {', '.join(DTYPES if dtype not in DTYPES else DEVICES)}."
        )
    where = _device(device)
    # A circuit's file has several in one string.
    names = saes.split(", ") if isinstance(saes, str) else list(saes) if isinstance(saes, Iterable) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise AdapterError(f"There are no SAEs in {saes!r:.80}: name releases, RELEASE/SAE_ID or folders.")
    sources = _at_layers([source for name in names for source in _sources(name)], layers)
    model_name = model or _model_of(sources)
    folder = Path(model_name).expanduser()
    local = folder if model is not None and folder.is_dir() else None
    if local and not any(local.glob("*.safetensors")):
        raise AdapterError(f"The folder {model_name!r} holds no weights in safetensors; pickled ones are not read.")
    if local is None and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model_name):
        raise AdapterError(f"There is no model folder {model_name!r}, and it is no name of a model on the hub.")

    files = _fetch(sources, None if local else model_name)
    size = {"float64": 8, "float32": 4}.get(dtype, 2)
    model_files = list(local.glob("*.safetensors")) if local else [f for f in files[model_name] if _is_weights(f)]
    sae_files = [source.folder / "sae_weights.safetensors" for source in sources if source.folder is not None]
    sae_files += [f for name, found in files.items() if name != model_name or local for f in found if _is_weights(f)]
    _fits(_needs(sae_files, size), 2 * _needs(model_files, size), where, len(sources))

    with _offline(), _quiet():
        configs = [_config(source) for source in sources]
        processing = _processing(sources, configs)
        try:
            loaded = TransformerBridge.boot_transformers(
                str(local or model_name), device=where, dtype=getattr(torch, dtype)
            )
        except Exception as error:
            raise AdapterError(f"The model {model_name!r} can't be loaded: {_sentence(error)}.") from error
        if any(processing.values()):
            loaded.enable_compatibility_mode(disable_warnings=True, **processing)
        parts = []
        for source in tqdm(sources, desc="SAEs", delay=1, disable=None, leave=False):
            try:
                if source.release is None:
                    parts.append(SAE.load_from_disk(cast(Path, source.folder), device=where, dtype=dtype))
                else:
                    parts.append(SAE.from_pretrained(source.release, source.sae_id, device=where, dtype=dtype))
            except Exception as error:
                raise AdapterError(f"The SAE {source} can't be loaded: {_sentence(error)}.") from error
    record: dict[str, Option] = {"model": model_name, "saes": ", ".join(names), "device": where, "dtype": dtype}
    if layers is not None:
        record["layers"] = layers if isinstance(layers, str) else ",".join(map(str, _numbers(layers)))
    return loaded, parts, record


def _device(device: str) -> str:
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in has.items() if there)
    if not has[device]:
        raise AdapterError(
            f"The device {device!r} is not there: use {' or '.join(n for n, there in has.items() if there)}."
        )
    return device


def _sources(name: str) -> list[Source]:
    """The SAEs that one name stands for.

    Raises:
        AdapterError: it is no release, SAE of a release, or folder with SAEs.
    """
    directory = get_pretrained_saes_directory()
    release, _, sae_id = name.partition("/")
    if release in directory:
        if directory[release].conversion_func not in (None, "connor_rob_hook_z"):
            raise AdapterError(
                f"The release {release!r} is kept in a format of its own: load its SAEs with SAE.from_pretrained and "
                "give them to circuitlens.wrap(model, saes)."
            )
        ids = list(directory[release].saes_map)
        if sae_id and sae_id not in ids:
            near = get_close_matches(sae_id, ids, n=3) or ids[:3]
            raise AdapterError(
                f"The release {release!r} has no SAE {sae_id!r}. It has {', '.join(near)}, … ({len(ids)})."
            )
        return [Source(release, one, None) for one in ([sae_id] if sae_id else ids)]
    folder = Path(name).expanduser()
    if folder.is_dir():
        found = [folder] if (folder / "cfg.json").is_file() else sorted(f.parent for f in folder.glob("*/cfg.json"))
        if not found:
            raise AdapterError(f"The folder {name!r} holds no SAE: none of its folders has a cfg.json.")
        return [Source(None, one.name, one) for one in found]
    near = get_close_matches(name, directory, n=3, cutoff=0.5)
    hint = f" Releases like it: {', '.join(near)}." if near else ""
    raise AdapterError(f"{name!r} is neither a release of SAE-Lens nor a folder.{hint}")


def _at_layers(sources: list[Source], layers: Layers) -> list[Source]:
    """Those at the layers asked for.

    Raises:
        AdapterError: the layers can't be read, or there is no SAE at one of them.
    """
    if layers is None:
        return sources
    wanted = _numbers(layers)
    there = {source: _layer(source) for source in sources}
    if (missing := sorted(set(wanted) - set(there.values()))) or not wanted:
        has = ", ".join(map(str, sorted({layer for layer in there.values() if layer is not None}))) or "none that tells"
        few = ", ".join(map(str, missing[:3])) + ("" if len(missing) <= 3 else ", …")
        raise AdapterError(f"There is no SAE at layer {few or layers}; there are at {has}.")
    return [source for source in sources if there[source] in wanted]


def _numbers(layers: Layers) -> list[int]:
    if isinstance(layers, int):
        return [layers]
    if not isinstance(layers, str):
        given = list(layers) if isinstance(layers, Iterable) else [layers]
        if not all(isinstance(number, int) for number in given):
            raise AdapterError(f"The layers {layers!r} can't be read: give them as 8, 0-11 or 0,4,8-10.")
        return sorted(cast(list[int], given))
    numbers: set[int] = set()
    for part in layers.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not found or (found[2] and int(found[2]) < int(found[1])) or len(part) > 20:
            raise AdapterError(f"The layers {layers!r} can't be read: give them as 8, 0-11 or 0,4,8-10.")
        numbers.update(range(int(found[1]), min(int(found[2] or found[1]), 10_000) + 1))
    return sorted(numbers)


def _layer(source: Source) -> int | None:
    text = source.sae_id
    if source.folder is not None:
        config = _config(source)
        text = str(config.get("metadata", {}).get("hook_name", ""))
    found = re.search(r"(?:blocks\.|layers?[._/])(\d+)", text)
    return int(found[1]) if found else None


def _model_of(sources: Sequence[Source]) -> str:
    """The name of the model that the SAEs are for."""
    directory = get_pretrained_saes_directory()
    found = {
        _official(directory[s.release].model if s.release else str(_config(s).get("metadata", {}).get("model_name"))): s
        for s in sources
    }
    if len(found) > 1:
        told = " and ".join(f"{name} ({source})" for name, source in found.items())
        raise AdapterError(f"The SAEs are for different models, {told}: give SAEs of one model, or name the model.")
    name = next(iter(found))
    if name == "None":
        raise AdapterError("The SAEs do not say which model they are for: name it.")
    return name


def _official(name: str) -> str:
    """A model's name as the hub has it, for names TransformerLens knows."""
    try:
        return get_official_model_name(name)
    except ValueError:
        return name


def _config(source: Source) -> dict[str, Any]:
    """An SAE's configuration; one of a release has to be in the cache."""
    try:
        if source.release is None:
            return handle_config_defaulting(get_sae_lens_config_from_disk(cast(Path, source.folder)))
        return load_sae_config_from_huggingface(source.release, source.sae_id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"The configuration of the SAE {source} can't be read: {_sentence(error)}.") from error


def _processing(sources: Sequence[Source], configs: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """What the SAEs ask of the model's weights.

    Raises:
        AdapterError: they disagree, or ask for what is not known.
    """
    asked: dict[tuple[bool, ...], Source] = {}
    for source, config in zip(sources, configs, strict=True):
        metadata = config.get("metadata", config)
        kwargs = dict(metadata.get("model_from_pretrained_kwargs") or {})
        indifferent = config.get("normalize_activations") == "layer_norm" or "hook_z" in str(metadata.get("hook_name"))
        if indifferent and not kwargs:
            continue  # centring makes no difference: the mean is taken away, or is not in what is read
        wants = tuple(bool(kwargs.pop(name, False)) for name in PROCESSING)
        if any(kwargs.values()):
            raise AdapterError(
                f"The SAE {source} asks for a model loaded with {kwargs}, which CircuitLens does not know: load the "
                "model so yourself and use circuitlens.wrap(model, saes)."
            )
        asked.setdefault(wants, source)
    if len(asked) > 1:
        told = " and ".join(
            f"{source} with {', '.join(n for n, on in zip(PROCESSING, wants, strict=True) if on) or 'none'}"
            for wants, source in asked.items()
        )
        raise AdapterError(f"The SAEs need differently processed models, {told}: take releases that agree.")
    wants = next(iter(asked), (False,) * len(PROCESSING))
    return dict(zip(PROCESSING, wants, strict=True))


def _fetch(sources: Sequence[Source], model: str | None) -> dict[str, list[Path]]:
    """The files of each repository, all in the cache now; what was missing is downloaded.

    Raises:
        AdapterError: something is missing and can't be had.
    """
    needs: dict[str, list[str]] = {}
    directory = get_pretrained_saes_directory()
    for source in sources:
        if source.release is not None:
            known = directory[source.release]
            path = known.saes_map[source.sae_id]
            own = [f"{path}/cfg.json", f"{path}/sae_weights.safetensors"]
            hook_z = [f"{path.removesuffix('.pt')}_cfg.json", path]
            needs.setdefault(known.repo_id, []).extend(hook_z if known.conversion_func else own)
    found = {repo: {name: _cached(repo, name) for name in names} for repo, names in needs.items()}
    if model is not None:
        found[model] = _cached_model(model)
    missing = {repo: [n for n, path in names.items() if path is None] for repo, names in found.items()}
    missing = {repo: names for repo, names in missing.items() if names}
    if missing:
        _download(missing)
        for repo in missing:
            found[repo] = _cached_model(repo) if repo == model else {n: _cached(repo, n) for n in found[repo]}
    return {repo: [path for path in names.values() if path is not None] for repo, names in found.items()}


def _cached(repo: str, name: str) -> Path | None:
    path = huggingface_hub.try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE)
    return Path(path) if isinstance(path, str) else None


def _cached_model(repo: str) -> dict[str, Path | None]:
    """Configuration, tokenizer and weights of a model in the cache; None for what is not there."""
    config = _cached(repo, "config.json")
    if config is None:
        return dict.fromkeys(MODEL_FILES)
    index = config.parent / "model.safetensors.index.json"
    if index.exists():
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        parts = ["model.safetensors"]
    weights = all((config.parent / name).exists() for name in parts)
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
    has = {name for name in names if (config.parent / name).exists()}
    tokenizer = has & {"tokenizer.json", "tokenizer.model"} or has >= {"vocab.json", "merges.txt"}
    found: dict[str, Path | None] = {"config.json": config}
    if weights:
        found |= {name: config.parent / name for name in parts}
    if not weights or not tokenizer:
        found |= dict.fromkeys(
            ["model*.safetensors"] * (not weights) + ["*.json", "*.txt", "*.model"] * (not tokenizer)
        )
    return found


def _download(missing: dict[str, list[str]]) -> None:
    """Fetch what is missing, after saying how large it is."""
    what = "; ".join(f"{repo} ({names[0]}{', …' if len(names) > 1 else ''})" for repo, names in missing.items())
    if constants.HF_HUB_OFFLINE:
        raise AdapterError(
            f"Not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: {what}. Unset it to download, "
            f"or run `hf download {next(iter(missing))} {' '.join(next(iter(missing.values())))[:200]}` where there is "
            "a network and bring the cache."
        )
    sizes: dict[tuple[str, str], int] = {}
    for repo, patterns in missing.items():
        try:
            info = huggingface_hub.HfApi().model_info(repo, files_metadata=True, timeout=SECONDS)
        except Exception as error:
            raise AdapterError(
                f"Not in the cache {constants.HF_HUB_CACHE}, and the hub can't be asked for it: {what} "
                f"({_sentence(error)}). Connect to the network, or bring a cache and set HF_HUB_OFFLINE=1; model and "
                "SAEs can also be local folders."
            ) from error
        files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        chosen = [name for name in files if "/" not in name or name in patterns]
        for pattern in patterns:
            matching = [name for name in chosen if fnmatch(name, pattern)]
            if not matching and pattern not in MODEL_FILES:
                raise AdapterError(
                    f"The hub's {repo} has no file {pattern!r}: it was moved, or the release has changed."
                )
            sizes |= {(repo, name): files[name] for name in matching}
    total = sum(sizes.values())
    log.info("Downloading %d files, %s, from %s", len(sizes), _gigabytes(total), ", ".join(missing))
    for repo, name in sizes:
        try:
            huggingface_hub.hf_hub_download(repo, name)
        except Exception as error:
            raise AdapterError(
                f"The download of {name} from {repo} failed: {_sentence(error)}. Try again: what has arrived is kept."
            ) from error


def _is_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".pt")


def _needs(files: Sequence[Path], size: int) -> int:
    """Bytes that the tensors of weight files take in memory, at `size` bytes a number."""
    total = 0
    for path in files:
        if not path.is_file():
            continue
        if path.suffix == ".pt":  # float32, and never opened here
            total += path.stat().st_size // 4 * size
            continue
        try:
            with safe_open(path, framework="pt") as tensors:
                total += sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys()) * size  # noqa: SIM118
        except Exception as error:
            raise AdapterError(
                f"{str(path)!r} is no whole safetensors file ({_sentence(error)}): fetch it again."
            ) from error
    return total


def _fits(saes: int, model: int, device: str, count: int) -> None:
    """Refuse what does not fit in memory."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    if saes + model > free:
        raise AdapterError(
            f"The {count} SAEs take {_gigabytes(saes)} and the model up to {_gigabytes(model)} while it is loaded, "
            f"and {_gigabytes(free)} of memory are free on {device}: take fewer layers, a narrower release, or dtype "
            "bfloat16."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _sentence(error: BaseException) -> str:
    """The first line of a loader's message, without a full stop."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".rstrip(".: ")


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing asks the hub: all that is needed is there."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the loaders say of things that are done here, and progress bars where nobody watches."""
    hide = not sys.stderr.isatty() and transformers_logging.is_progress_bar_enabled()
    if hide:
        transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
            yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()
