"""The releases that SAE-Lens registers: the files that each format keeps an SAE in, and why some of them can't work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup

from circuitlens.errors import AdapterError


class Files(NamedTuple):
    """The files of one SAE: those it can't be loaded without, and those that its loader reads where they are."""

    needed: tuple[str, ...]
    if_there: tuple[str, ...] = ()


LAYOUTS = {
    "sae_lens": Files(("{path}/cfg.json", "{path}/sae_weights.safetensors")),
    "connor_rob_hook_z": Files(("{stem}_cfg.json", "{path}")),
    "deepseek_r1": Files(("{path}",)),
    "dictionary_learning_1": Files(("{path}/config.json", "{path}/ae.pt")),
    "gemma_2": Files(("{path}/params.npz",)),
    "gemma_2_transcoder": Files(("{path}/params.npz",)),
    "gemma_3": Files(("{path}/params.safetensors",), ("{path}/config.json",)),
    "goodfire": Files(("{path}",)),
    "llama_scope": Files(("{path}/hyperparams.json", "{path}/checkpoints/final.safetensors")),
    "llama_scope_r1_distill": Files(("{path}/config.json", "{path}/sae_weights.safetensors")),
    # Some repositories have the first name of their configuration and some the second.
    "mwhanna_transcoder": Files(("{path}",), ("wandb-config.yaml", "wanb-config.yaml", "config.yaml")),
    "qwen_scope": Files(("{path}",)),
    "sparsify": Files(("{path}/cfg.json", "{path}/sae.safetensors"), ("{parent}/config.json",)),
}
"""What SAE-Lens' loader of each format asks the hub for, by the format's name."""

REFUSED = {
    "mntss_clt_layer_transcoder": "is a cross-layer transcoder: its features write at several layers, and a site of "
    "CircuitLens writes at one",
    "temporal": "has features that depend on other positions than their own; CircuitLens attributes to SAEs that read "
    "one position at a time",
}
"""Why SAEs of a format can't be nodes of a circuit."""
UNRUNNABLE = {"Qwen/Qwen3.5-": "is of a model whose linear attention this TransformerLens can't run"}
"""Why no SAE of a model can, by the beginning of its name."""

LAYER = re.compile(r"(?:blocks\.|layers?[._/]?|^l)(\d+)")
HOOK = re.compile(r"blocks\.\d+\.(?:\w+\.)?hook_[a-z]+(?:_[a-z]+)?")


def format_of(registered: PretrainedSAELookup) -> str:
    """What SAE-Lens calls the format that a release is kept in."""
    return registered.conversion_func or "sae_lens"


def refusal(registered: PretrainedSAELookup) -> str | None:
    """Why SAEs of a release can't be loaded here, to follow its name in a sentence; None where they can."""
    kept = format_of(registered)
    for beginning, reason in UNRUNNABLE.items():
        if registered.model.startswith(beginning):
            return reason
    if kept in LAYOUTS:
        return None
    return REFUSED.get(kept, f"is kept in a format ({kept}) that CircuitLens does not know")


def files_of(registered: PretrainedSAELookup, sae_id: str) -> Files:
    """The files in a release's repository that one of its SAEs is kept in."""
    path = PurePosixPath(registered.saes_map[sae_id])
    names = {"path": str(path), "stem": str(path).removesuffix(".pt"), "parent": str(path.parent)}
    needed, if_there = LAYOUTS[format_of(registered)]
    return Files(*(tuple(str(PurePosixPath(name.format(**names))) for name in part) for part in (needed, if_there)))


def choose_ids(registered: PretrainedSAELookup, wanted: str) -> list[str]:
    """The ids in a release that `wanted` names: one, all that fit where it has a *, or every one for ""; none if none
    is.
    """
    ids = list(registered.saes_map)
    return [wanted] if wanted in ids else [one for one in ids if fnmatchcase(one, wanted or "*")]


def layer_of(text: str) -> int | None:
    """The layer that an SAE's id or a hook names, None where it names none."""
    found = LAYER.search(text)
    return int(found[1]) if found else None


def require_one_a_place(release: str, sae_ids: Iterable[str]) -> None:
    """Refuse SAEs of one release of which several read the same hook, before any of them is fetched."""
    ids = list(sae_ids)
    counts = Counter(map(_place, ids))
    place, count = counts.most_common(1)[0]
    if count > 1:
        first = next(one for one in ids if _place(one) == place)
        pattern = re.sub("[0-9]+", "*", first, count=1)
        raise AdapterError(
            f"The release {release!r} has {count} SAEs at {place}, and a site has one: name one, as {release}/{first}, "
            f"or one a layer with a pattern, as {release}/{pattern}."
        )


def _place(sae_id: str) -> str:
    """What SAEs of one release have in common that read the same hook."""
    hook = HOOK.search(sae_id)
    layer = layer_of(sae_id)
    return hook[0] if hook else "the embedding" if layer is None else f"layer {layer}"
