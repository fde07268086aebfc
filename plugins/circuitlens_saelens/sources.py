"""Where SAEs are, by name: releases that SAE-Lens registers, single SAEs of them, or folders; and what they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import compress
from pathlib import Path
from typing import Any

from sae_lens.loading.pretrained_sae_loaders import (
    get_sae_lens_config_from_disk,
    handle_config_defaulting,
    load_sae_config_from_huggingface,
)
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory

from circuitlens.errors import AdapterError
from circuitlens_saelens.hub import first_line
from circuitlens_saelens.releases import choose_ids, files_of, layer_of, refusal, require_one_a_place
from circuitlens_saelens.versions import get_official_model_name

PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
"""What SAEs may ask of their model's weights (TransformerLens' names)."""

Layers = int | str | Iterable[int] | None


@dataclass(frozen=True)
class Source:
    """Where one SAE is: a folder, or else a registered release and an id in it."""

    release: str
    sae_id: str
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.folder or f"{self.release}/{self.sae_id}")

    @property
    def registered(self) -> PretrainedSAELookup:
        """What SAE-Lens knows of the release."""
        return get_pretrained_saes_directory()[self.release]


def find_sources(name: str) -> list[Source]:
    """The SAEs that one name stands for: a folder with SAEs, a release, or an SAE of one; else raises AdapterError."""
    folder = Path(name).expanduser()  # comes first: the directory of releases takes a second to read
    if (folder / "cfg.json").is_file():
        return [Source("", folder.name, folder)]
    if found := sorted(file.parent for file in folder.glob("*/cfg.json")):
        return [Source("", one.name, one) for one in found]
    directory = get_pretrained_saes_directory()
    release, _, sae_id = name.partition("/")
    if release in directory:
        return _of_release(release, sae_id)
    if folder.is_dir():
        raise AdapterError(f"The folder {name!r} holds no SAE: none of its folders has a cfg.json.")
    near = get_close_matches(name, directory, n=3, cutoff=0.5)
    hint = f" Releases like it: {', '.join(near)}." if near else ""
    raise AdapterError(f"{name!r} is neither a release of SAE-Lens nor a folder.{hint}")


def _of_release(release: str, wanted: str) -> list[Source]:
    """The SAEs of a release that `wanted` names (`releases.choose_ids`)."""
    registered = get_pretrained_saes_directory()[release]
    if reason := refusal(registered):
        raise AdapterError(f"The release {release!r} {reason}.")
    ids = list(registered.saes_map)
    if not (found := choose_ids(registered, wanted)):
        near = get_close_matches(wanted, ids, n=3) or ids[:3]
        raise AdapterError(f"The release {release!r} has no SAE {wanted!r}. It has {', '.join(near)}, … ({len(ids)}).")
    return [Source(release, one) for one in found]


def choose(names: Sequence[str], layers: Layers) -> list[Source]:
    """The SAEs of these names at the layers asked for; raises AdapterError where there is none at one of them, or a
    release has several that read one hook.
    """
    chosen = _of_layers([source for name in names for source in find_sources(name)], layers)
    for release in dict.fromkeys(source.release for source in chosen if source.folder is None):
        require_one_a_place(release, dict.fromkeys(source.sae_id for source in chosen if source.release == release))
    return chosen


def _of_layers(sources: list[Source], layers: Layers) -> list[Source]:
    if layers is None:
        return sources
    wanted = parse_layers(layers)
    there = {source: _layer(source) for source in sources}
    if (missing := sorted(set(wanted) - set(there.values()))) or not wanted:
        has = ", ".join(map(str, sorted({layer for layer in there.values() if layer is not None}))) or "none that tells"
        few = ", ".join(map(str, missing[:3])) + ("" if len(missing) <= 3 else ", …")
        raise AdapterError(f"There is no SAE at layer {few or layers}; there are at {has}.")
    return [source for source in sources if there[source] in wanted]


def parse_layers(layers: Layers) -> list[int]:
    """Layers as numbers, in order; raises AdapterError for what is neither numbers nor a text such as 0,4,8-10."""
    parts = layers.split(",") if isinstance(layers, str) else layers if isinstance(layers, Iterable) else [layers]
    found: set[int] = set()
    for part in map(str, parts):
        bounds = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not bounds or (bounds[2] and int(bounds[2]) < int(bounds[1])) or len(part) > 20:
            raise AdapterError(f"The layers {layers!r} can't be read: give them as 8, 0-11 or 0,4,8-10.")
        found.update(range(int(bounds[1]), min(int(bounds[2] or bounds[1]), 10_000) + 1))
    return sorted(found)


def _layer(source: Source) -> int | None:
    """The layer that an SAE's id, or the configuration in its folder, names."""
    return layer_of(source.sae_id if source.folder is None else str(_metadata(source).get("hook_name")))


def model_name_of(sources: Sequence[Source]) -> str:
    """The name of the model that the SAEs are for; raises AdapterError where they differ in it, or don't say."""
    found: dict[str, Source] = {}
    for source in sources:
        name = source.registered.model if source.folder is None else str(_metadata(source).get("model_name"))
        with suppress(ValueError):  # of a name that TransformerLens does not know
            name = get_official_model_name(name)
        found[name] = source
    if len(found) > 1:
        named = " and ".join(f"{name} ({source})" for name, source in found.items())
        raise AdapterError(f"The SAEs are for different models, {named}: give SAEs of one model, or name the model.")
    (name,) = found
    if name == "None":
        raise AdapterError("The SAEs do not say which model they are for: name it.")
    return name


def files_on_hub(sources: Sequence[Source]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The files of the SAEs that are of releases, by repository: those needed, and those that count where they are."""
    needed: dict[str, list[str]] = {}
    if_there: dict[str, list[str]] = {}
    for source in sources:
        if source.folder is None:
            files = files_of(source.registered, source.sae_id)
            needed.setdefault(source.registered.repo_id, []).extend(files.needed)
            if_there.setdefault(source.registered.repo_id, []).extend(files.if_there)
    return needed, if_there


def read_config(source: Source) -> dict[str, Any]:
    """An SAE's configuration; one of a release has to be in the cache. Raises AdapterError if it can't be read."""
    try:
        if source.folder is not None:
            return handle_config_defaulting(get_sae_lens_config_from_disk(source.folder))
        return load_sae_config_from_huggingface(source.release, source.sae_id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"The configuration of the SAE {source} can't be read: {first_line(error)}.") from error


def _metadata(source: Source) -> dict[str, Any]:
    return read_config(source).get("metadata", {})


def model_processing(sources: Sequence[Source]) -> dict[str, bool]:
    """What the SAEs ask of the model's weights, by TransformerLens' names; raises AdapterError where they disagree, or
    ask for what is not known.
    """
    asked: dict[tuple[bool, ...], Source] = {}
    for source in sources:
        config = read_config(source)
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
        different = " and ".join(
            f"{source} with {', '.join(compress(PROCESSING, wants)) or 'none'}" for wants, source in asked.items()
        )
        raise AdapterError(f"The SAEs need differently processed models, {different}: take releases that agree.")
    wants = next(iter(asked), (False,) * len(PROCESSING))
    return dict(zip(PROCESSING, wants, strict=True))
