"""Training the toy on sentences, measuring it on held-out nouns, and keeping it in the user's cache directory.

The cache is `toy.safetensors` and `toy.json` (configuration, measurements, a checksum). A cache that is
damaged, or was made with another configuration, is trained again with a message.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from circuitlens.errors import AdapterError
from circuitlens.files import parse_json, read_bounded, remove_dead_parts, write_atomically
from circuitlens.prompts.words import NOUNS
from circuitlens.torch_modes import own_modes
from circuitlens_toy.grammar import VERBS, evidence, sentences
from circuitlens_toy.model import AgreementModel, ToySAE

log = logging.getLogger(__name__)

MAX_BYTES = 1_000_000
"""Most of a file of the cache."""


@dataclass(frozen=True)
class Config:
    """All that decides what training makes; a cache made with another one is stale.

    `recipe` stands for the code of sentences and training: raise it when what they make changes.
    `noise` is the standard deviation added to each input: without it the SAE would see a handful of points.
    """

    recipe: int = 1
    seed: int = 0
    held_out_nouns: int = 16
    noise: float = 0.2
    batch: int = 256
    learning_rate: float = 1e-2
    model_steps: int = 500
    sae_steps: int = 1000
    l1: float = 0.3


@dataclass(frozen=True)
class Measured:
    """Quality on sentences of nouns that training never saw; the SAE's on inputs with the training noise."""

    sentences: int
    agreement: float
    noisy_agreement: float
    explained_variance: float
    l0: float
    dead: int

    def __str__(self) -> str:
        return (
            f"On {self.sentences} sentences of held-out nouns: agreement {self.agreement:.1%} "
            f"({self.noisy_agreement:.1%} with noise); SAE explained variance {self.explained_variance:.4f}, "
            f"mean L0 {self.l0:.2f}, {self.dead} of {ToySAE.d_sae} features dead."
        )


@dataclass(frozen=True)
class Trained:
    """The trained toy."""

    model: AgreementModel
    sae: ToySAE
    measured: Measured


def load_or_train(config: Config, folder: Path) -> Trained:
    """The toy from `folder`, or trained (a few seconds) and kept there."""
    weights, document = folder / "toy.safetensors", folder / "toy.json"
    settings = {**asdict(config), "nouns": list(NOUNS), "verbs": list(VERBS)}
    remove_dead_parts(folder)
    cached = _read(weights, document, settings)
    if cached is not None:
        return cached
    trained = train(config)
    data = save_tensors({key: tensor.contiguous() for key, tensor in _both(trained).state_dict().items()})
    measured = asdict(trained.measured)
    about = {"config": settings, "measured": measured, "sha256": _checksum(data, measured)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(weights, data)
        write_atomically(document, json.dumps(about, indent=1).encode())
    except OSError as error:
        log.warning("The trained toy can't be kept in %s (%s): it will be trained again next time.", folder, error)
    return trained


def train(config: Config) -> Trained:
    """Train network and SAE, seeded, without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]), own_modes(gradients=True):
        torch.manual_seed(config.seed)
        nouns = [NOUNS[i] for i in torch.randperm(len(NOUNS)).tolist()]
        train_x, train_y = _data(nouns[config.held_out_nouns :])
        model, sae = AgreementModel(), ToySAE()

        def batch() -> tuple[Tensor, Tensor]:
            rows = torch.randint(len(train_x), (config.batch,))
            return train_x[rows] + config.noise * torch.randn(config.batch, 2), train_y[rows]

        optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        for _ in _progress(range(config.model_steps), "Training the toy network"):
            x, y = batch()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        optimiser = torch.optim.Adam(sae.parameters(), lr=config.learning_rate)
        for _ in _progress(range(config.sae_steps), "Training its SAE"):
            hidden = _hidden(model, batch()[0])
            features = sae.encode(hidden)
            loss = (sae.decode(features) - hidden).square().sum(-1).mean() + config.l1 * features.sum(-1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sae.normalise()

        for module in (model, sae):  # as if read from a file
            module.requires_grad_(False).zero_grad()
        return Trained(model, sae, _measure(model, sae, *_data(nouns[: config.held_out_nouns]), config.noise))


def _progress(steps: Sequence[int], what: str) -> Iterable[int]:
    console = Console(stderr=True)
    unseen = not (console.is_terminal or console.is_jupyter)
    return track(steps, what, console=console, transient=True, disable=unseen)


def _data(nouns: list[str]) -> tuple[Float[Tensor, "sentence 2"], Int[Tensor, " sentence"]]:
    made = sentences(nouns)
    return torch.tensor([evidence(s.text) for s in made]), torch.tensor([int(s.plural) for s in made])


def _hidden(model: AgreementModel, x: Float[Tensor, "batch 2"]) -> Float[Tensor, "1 batch 4"]:
    with torch.no_grad():
        return model.relu(model.hidden(x))[None]


@torch.no_grad()
def _measure(
    model: AgreementModel, sae: ToySAE, x: Float[Tensor, "sentence 2"], y: Int[Tensor, " sentence"], noise: float
) -> Measured:
    noisy = x + noise * torch.randn_like(x)
    hidden = _hidden(model, noisy)
    features = sae.encode(hidden)
    left_over = (hidden - sae.decode(features)).square().sum()
    return Measured(
        sentences=len(x),
        agreement=(model(x).argmax(-1) == y).double().mean().item(),
        noisy_agreement=(model(noisy).argmax(-1) == y).double().mean().item(),
        explained_variance=1 - (left_over / (hidden - hidden.mean(1)).square().sum()).item(),
        l0=(features > 0).sum(-1).double().mean().item(),
        dead=int((features == 0).all(1).sum()),
    )


def _both(trained: Trained) -> torch.nn.Module:
    """Network and SAE as one module, whose state is what the cache keeps."""
    return torch.nn.ModuleDict({"model": trained.model, "sae": trained.sae})


def _checksum(weights: bytes, measured: dict[str, Any]) -> str:
    return hashlib.sha256(weights + json.dumps(measured, sort_keys=True).encode()).hexdigest()


def _read(weights: Path, document: Path, settings: dict[str, Any]) -> Trained | None:
    """The cached toy, or None (with a message where there is something, but not of use)."""
    try:
        if not (weights.exists() and document.exists()):
            return None
        data, about = (read_bounded(path, MAX_BYTES, "the toy's cache", AdapterError) for path in (weights, document))
        about = parse_json(about)
        if about["config"] != settings:
            log.warning("The toy in %s was trained with another configuration: training it again.", weights.parent)
            return None
        if about["sha256"] != _checksum(data, about["measured"]):
            raise ValueError("the weights or measurements are not those that were written")
        cached = Trained(AgreementModel(), ToySAE(), Measured(**about["measured"]))
        _both(cached).requires_grad_(False).load_state_dict(load_tensors(data))
        return cached
    except (AdapterError, OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        log.warning("The toy in %s is damaged (%s): training it again.", weights.parent, error)
        return None
