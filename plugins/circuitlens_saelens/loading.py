"""A model and its SAEs by name, loaded through TransformerLens' and SAE-Lens' own loaders.

1. What is asked for is looked up (`sources`), and what of it is not in the cache is downloaded (`hub`).
2. Memory is estimated from the files.
3. Everything is loaded with the hub out of reach, the model processed as its SAEs ask for.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import huggingface_hub
import psutil
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders
from safetensors import safe_open
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoProcessor
from transformers.utils import logging as transformers_logging

from circuitlens.adapter import Option
from circuitlens.errors import AdapterError
from circuitlens.files import format_bytes
from circuitlens_saelens.hub import fetch, first_line, offline
from circuitlens_saelens.options import DEVICES, DTYPES, NEURONS
from circuitlens_saelens.sources import (
    Layers,
    Source,
    choose,
    files_on_hub,
    model_name_of,
    model_processing,
    parse_layers,
)

FILE_DTYPES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}
"""What safetensors calls each of `DTYPES`."""


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
        saes: SAE-Lens releases, SAEs of them (RELEASE/SAE_ID, where * stands for anything), or folders of SAEs, one or
            several; or "neurons", for those of the model's MLPs.
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
    for what, value, choices in (("dtype", dtype, DTYPES), ("device", device, DEVICES)):
        if value not in choices:
            raise AdapterError(f"There is no {what} {value!r}: choose one of {', '.join(choices)}.")
    where = _choose_device(device)
    names = _sae_names(saes)
    if NEURONS in names and (len(names) > 1 or model is None):
        raise AdapterError("Neurons are a model's own and stand alone: give model=… (--model) and no SAEs beside them.")
    sources = [] if NEURONS in names else choose(names, layers)
    model_name = model or model_name_of(sources)
    folder = _model_folder(model)
    if folder is None and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model_name):
        raise AdapterError(f"There is no model folder {model_name!r}, and it is no name of a model on the hub.")

    needed, if_there = files_on_hub(sources)
    files = fetch(needed, None if folder else model_name, if_there)
    model_files = list(folder.glob("*.safetensors")) if folder else files.pop(model_name)
    sae_files = [source.folder / "sae_weights.safetensors" for source in sources if source.folder is not None]
    sae_files += [file for found in files.values() for file in found]
    # Rescaled weights are new ones.
    mapped = where == "cpu" and not any(s.folder is None and s.registered.norm_scaling_factor for s in sources)
    _check_memory(sae_files, model_files, where, dtype, len(sources), mapped=mapped)

    with _from_cache(), _quiet():
        loaded = _load_model(str(folder or model_name), where, dtype, model_processing(sources))
        shown = tqdm(sources, "SAEs", delay=1, disable=None, leave=False)
        parts = [_load_sae(source, where, dtype) for source in shown]
    record: dict[str, Option] = {"model": model_name, "saes": ", ".join(names), "device": where, "dtype": dtype}
    if layers is not None:
        record["layers"] = layers if isinstance(layers, str) else ",".join(map(str, parse_layers(layers)))
    return loaded, parts, record


def _choose_device(device: str) -> str:
    """The device asked for, or the best there is for "auto"."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, there in has.items() if there]
    if device == "auto":
        return available[0]
    if device not in available:
        raise AdapterError(f"The device {device!r} is not there: use {' or '.join(available)}.")
    return device


def _sae_names(saes: str | Sequence[str]) -> list[str]:
    # A circuit's file has several in one string.
    names = saes.split(", ") if isinstance(saes, str) else list(saes) if isinstance(saes, Iterable) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise AdapterError(f"There are no SAEs in {saes!r:.80}: name releases, RELEASE/SAE_ID or folders.")
    return names


def _model_folder(model: str | None) -> Path | None:
    """The folder that `model` names, if it names one."""
    folder = Path(model).expanduser() if model is not None else None
    if folder is None or not folder.is_dir():
        return None
    if not any(folder.glob("*.safetensors")):
        raise AdapterError(f"The folder {model!r} holds no weights in safetensors; pickled ones are not read.")
    return folder


def _load_model(name: str, device: str, dtype: str, processing: Mapping[str, bool]) -> TransformerBridge:
    try:
        model = TransformerBridge.boot_transformers(name, device=device, dtype=getattr(torch, dtype))
    except Exception as error:
        raise AdapterError(f"The model {name!r} can't be loaded: {first_line(error)}.") from error
    if any(processing.values()):
        model.enable_compatibility_mode(disable_warnings=True, **processing)
    return model


def _load_sae(source: Source, device: str, dtype: str) -> SAE[Any]:
    try:
        if source.folder is not None:
            return SAE.load_from_disk(source.folder, device=device, dtype=dtype)
        return SAE.from_pretrained(source.release, source.sae_id, device=device, dtype=dtype)
    except Exception as error:
        raise AdapterError(f"The SAE {source} can't be loaded: {first_line(error)}.") from error


def _check_memory(
    sae_files: Sequence[Path], model_files: Sequence[Path], device: str, dtype: str, count: int, *, mapped: bool
) -> None:
    """Refuse what does not fit in memory; while it is loaded, a model is there twice.

    SAEs that are `mapped` take none where their files have the dtype asked for: what is read of them the system may
    drop and read again.
    """
    saes, model = _memory_of(sae_files, dtype, mapped=mapped), 2 * _memory_of(model_files, dtype)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    if saes + model > free:
        raise AdapterError(
            f"The {count} SAEs take {format_bytes(saes)} and the model up to {format_bytes(model)} while it is loaded, "
            f"and {format_bytes(free)} of memory are free on {device}: take fewer layers, a narrower release, or dtype "
            "bfloat16. On a CPU, SAEs in safetensors of that dtype take none."
        )


def _memory_of(files: Sequence[Path], dtype: str, *, mapped: bool = False) -> int:
    """Bytes that the tensors of those of the files that hold weights take in this dtype; if they are `mapped`, those
    that are of another.
    """
    itemsize, total = getattr(torch, dtype).itemsize, 0
    for path in files:
        if path.suffix in (".pt", ".pth", ".npz"):  # counted as float32, and never opened here
            total += path.stat().st_size // 4 * itemsize
        elif path.suffix == ".safetensors" and path.is_file():
            try:
                with safe_open(path, framework="pt") as tensors:
                    parts = [tensors.get_slice(key) for key in tensors.keys()]  # noqa: SIM118
                    copied = [part for part in parts if not (mapped and part.get_dtype() == FILE_DTYPES[dtype])]
                    sizes = [prod(part.get_shape()) for part in copied]
            except Exception as error:
                raise AdapterError(
                    f"{str(path)!r} is no whole safetensors file ({first_line(error)}): fetch it again."
                ) from error
            total += sum(sizes) * itemsize
    return total


@contextmanager
def _from_cache() -> Iterator[None]:
    """Have the loaders read what is in the cache, ask no hub for anything, and install nothing.

    SAE-Lens asks the hub for the shapes in a file that is there already. TransformerLens looks for what reads a model's
    images, and where there is none, runs pip to install torchvision, which may replace torch; no image is read here.
    """

    def shapes(repo: str, name: str) -> dict[str, list[int]]:
        with safe_open(huggingface_hub.hf_hub_download(repo, name), framework="pt") as tensors:
            return {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118

    with (
        offline(),
        patch.object(pretrained_sae_loaders, "get_safetensors_tensor_shapes", shapes),
        patch.object(AutoProcessor, "from_pretrained", lambda *_, **__: None),
    ):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep loaders from warning of what is done here, and from drawing progress bars where nobody watches."""
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
