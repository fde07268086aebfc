"""TransformerLens models with SAE-Lens SAEs: `wrap` for loaded objects, `SAELensAdapter.load` for names and folders."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from circuitlens.adapter import (
    Adapter,
    Attention,
    Example,
    Hook,
    IdentityCoder,
    Inputs,
    Option,
    Release,
    RelevanceRules,
    Site,
)
from circuitlens.errors import AdapterError
from circuitlens.torch_modes import own_modes
from circuitlens_saelens.coder import SAECoder
from circuitlens_saelens.fit import (
    check_agreement,
    check_placement,
    check_processing,
    hook_of,
    neuron_hooks,
    short_name,
    trained_with_bos,
    warn_of_saes,
)
from circuitlens_saelens.model import HookedModel, Model
from circuitlens_saelens.options import NEURONS
from circuitlens_saelens.probe import (
    fired,
    frozen_fault,
    heads_are_apart,
    padding_is_harmless,
    plain_logits,
    prove_cuts,
)
from circuitlens_saelens.relevance import find_rules
from circuitlens_saelens.shortcuts import Shortcuts, Start, find_entry
from circuitlens_saelens.text import Text
from circuitlens_saelens.unembedding import unembedded

log = logging.getLogger(__name__)

EXAMPLES = [Example("The cats", " run", " runs", "The cat"), Example("The cat", " runs", " run", "The cats")]
SAEs = Mapping[str, SAE[Any]] | Iterable[SAE[Any]] | SAE[Any] | str


def wrap(model: Model, saes: SAEs, *, prepend_bos: bool | None = None, name: str | None = None) -> SAELensAdapter:
    """A model and SAEs that are loaded already, as an adapter; neither is changed.

    Args:
        model: a HookedTransformer, a TransformerBridge, or SAE-Lens' subclasses of them.
        saes: SAE-Lens SAEs or transcoders; or a mapping from the hooks they read, where their metadata names others; or
            "neurons", for the neurons of all MLPs in the place of features.
        prepend_bos: whether prompts begin with the BOS token; by default as the SAEs' metadata says.
        name: what circuits call the adapter; by default the model's name.

    Raises:
        AdapterError: the model and the SAEs do not fit together; the message says what to do.
    """
    hooked = HookedModel(model)
    neurons = neuron_hooks(hooked) if isinstance(saes, str) and saes == NEURONS else ()
    return SAELensAdapter(hooked, [] if neurons else _by_hook(saes), neurons, prepend_bos=prepend_bos, name=name)


class SAELensAdapter(Adapter):
    """Token and position embeddings, then every SAE's features and errors in the order of the forward, then logits.

    MLPs' neurons may stand in the place of SAEs: what their activation function gives, which is all that the MLP's
    output weights read, so there is no error.
    """

    def __init__(
        self,
        model: HookedModel,
        saes: Sequence[tuple[str, SAE[Any]]],
        neurons: Sequence[str] = (),
        *,
        prepend_bos: bool | None = None,
        name: str | None = None,
        options: Mapping[str, Option] | None = None,
    ):
        if not saes and not neurons:
            raise AdapterError("There are no SAEs: give at least one.")
        self._model = model
        reads = {_write_hook(read, sae): read for read, sae in saes}
        self._saes = {_write_hook(read, sae): sae for read, sae in saes}
        check_agreement(saes, model)
        bos = trained_with_bos(saes, model) if prepend_bos is None else prepend_bos
        self._text = Text(model.model.tokenizer, bos, model.cfg.n_ctx)

        places = {id(model.hook_point(hook)): hook for hook in reads}
        if twice := [hook for hook in reads if hook not in places.values()]:
            raise AdapterError(
                f"The hook {twice[0]!r} is the same place as that of another SAE: choose one of the two."
            )
        embeddings = {hook: kind for hook, kind in self._embeddings().items() if hook not in reads}
        scales = [hook for hook in model.names if hook.endswith(("hook_pattern", "hook_scale"))]  # held when frozen
        with own_modes(gradients=True):
            short = self.inputs([EXAMPLES[0].prompt])
            seen = fired(model, short, list(dict.fromkeys([*embeddings, *reads, *reads.values(), *neurons, *scales])))
            warn_of_saes(saes, model, short, seen)
        if str(model.cfg.normalization_type).startswith("LN"):  # others are never centred
            check_processing(saes, seen)
        if missing := [hook for hook in scales if hook not in seen and hook.endswith("hook_pattern")]:
            log.warning("%d attention patterns, such as %s, can't be held in frozen mode.", len(missing), missing[0])
        sites = self._sites(embeddings, reads, neurons, seen)
        model_name = str(model.cfg.model_name)
        described = ", ".join(f"{read} ({sae.cfg.architecture()}, {sae.cfg.d_sae})" for read, sae in saes)
        widths = ", ".join(sorted({str(sae.cfg.d_sae) for _, sae in saes}))
        what = f"{len(saes)} SAEs of {widths} features" if saes else f"the neurons of {len(neurons)} MLPs"
        super().__init__(
            name or short_name(model_name),
            f"{model_name} with {what}.",
            sites,
            EXAMPLES,
            frozen=[hook for hook in scales if hook in seen],
            options={**(options or {"model": model_name, "wrapped": described or what}), "prepend_bos": bos},
            bos=bos,
        )
        self._holdable = self.frozen
        self._rules: RelevanceRules | None = None
        entries = [entry for site in sites if (entry := self.entry([site.read, site.write])) is not None]
        self._shortcuts = Shortcuts(model, entries, lambda: [self.inputs([example.prompt]) for example in EXAMPLES])
        self._attention: Sequence[Attention] | None = None
        self._kinds = {hook: hook.rsplit(".", 1)[-1].removeprefix("hook_") for hook in reads}
        with own_modes(gradients=True):
            plain = plain_logits(self, short)
            prove_cuts(self, model, short, plain)
            self.pads = padding_is_harmless(self, EXAMPLES[0].prompt, plain)
            if self.frozen and (fault := frozen_fault(self, short, self.frozen, plain)):
                self.frozen, self.not_frozen = (), fault

    @classmethod
    def load(cls, **options: Any) -> SAELensAdapter:
        """A model and its SAEs from the Hugging Face hub, its cache, or local folders; `loading.load` has the options.

        Raises:
            AdapterError: an option is not known, or something can't be had; the message says what to do.
        """
        from circuitlens_saelens.loading import load

        model, saes, record = load(**options)
        hooked, bos, layers = HookedModel(model), options.get("prepend_bos"), record.get("layers")
        neurons = neuron_hooks(hooked, None if layers is None else str(layers)) if record["saes"] == NEURONS else ()
        return cls(hooked, _by_hook(saes), neurons, prepend_bos=bos, name="transformerlens", options=record)

    @classmethod
    def releases(cls, model: str | None = None) -> Sequence[Release]:
        from circuitlens_saelens.listing import listed

        return listed(model)

    def _sites(
        self,
        embeddings: Mapping[str, str],
        reads: Mapping[str, str],
        neurons: Sequence[str],
        seen: Mapping[str, Tensor],
    ) -> list[Site]:
        """Embeddings, SAEs and neurons in the order of the forward, in which hooks were `seen`."""
        sites = []
        for hook in seen:
            if hook in embeddings:
                sites.append(Site(embeddings[hook], "embedding", hook, hook, 0, None))
            elif hook in reads:
                coder = _make_coder(self._saes[hook], reads[hook], hook, seen)
                layer = _layer_of(hook, self._model.cfg.n_layers)
                sites.append(Site(hook, "feature", reads[hook], hook, layer, coder))
            elif hook in neurons:
                layer = _layer_of(hook, self._model.cfg.n_layers)
                sites.append(Site(hook, "neuron", hook, hook, layer, IdentityCoder(seen[hook].shape[-1])))
        return sites

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        ids = [self._text.ids(prompt) for prompt in prompts]
        width = max(map(len, ids))
        values = torch.tensor([row + row[:1] * (width - len(row)) for row in ids], device=self._model.device)
        lengths = torch.tensor([len(row) for row in ids], device=self._model.device)
        mask = torch.arange(width, device=self._model.device) < lengths[:, None]
        return Inputs(values, mask, tuple(tuple(self._text.token(index) for index in row) for row in ids))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Float[Tensor, "batch pos output"]:
        check_placement(list(self._saes.items()), self._model)  # at each run: both are the user's to move
        return self._model.run(inputs.values, inputs.mask, hooks)

    def last_logits(
        self, inputs: Inputs, hooks: Mapping[str, Hook], start: Start | None = None
    ) -> Float[Tensor, "batch output"]:
        check_placement(list(self._saes.items()), self._model)
        return self._shortcuts.last_logits(inputs, hooks, start)

    def entry(self, hooks: Collection[str]) -> str | None:
        return find_entry(self._model, hooks)

    def answer_index(self, answer: str, prompt: str) -> int:
        return self._text.answer(answer, prompt)

    def as_chat(self, prompt: str) -> str | None:
        return self._text.chat(prompt)

    def output_label(self, index: int) -> str:
        return self._text.token(index)

    def extended(self, inputs: Inputs, output: int) -> Inputs | None:
        if inputs.values.shape[1] >= self._text.longest:
            return None
        values = torch.cat([inputs.values, inputs.values.new_full((1, 1), output)], 1)
        mask = torch.cat([inputs.mask, inputs.mask.new_ones(1, 1)], 1)
        return Inputs(values, mask, ((*inputs.tokens[0], self._text.token(output)),))

    @property
    def ends(self) -> Collection[int]:
        """The tokenizer's EOS, and those that the model's own generation ends with, such as at the end of a turn."""
        own = getattr(getattr(self._model.model, "original_model", None), "generation_config", None)
        named = (self._text.tokenizer.eos_token_id, getattr(own, "eos_token_id", None))
        return {index for one in named for index in (one if isinstance(one, list) else [one]) if index is not None}

    def label(self, site: Site, index: int) -> str:
        if site.kind == "neuron":
            return f"N{index}"
        alone = len(set(self._kinds.values())) == 1
        return f"F{index}" if alone else f"{self._kinds[site.write]} F{index}"

    def url(self, site: Site, index: int) -> str | None:
        sae = self._saes.get(site.write)
        page = None if sae is None else sae.cfg.metadata.neuronpedia_id
        return f"https://www.neuronpedia.org/{page}/{index}" if page else None

    def relevance(self) -> RelevanceRules:
        """Found and proved at first use, by a few short runs; what keeps its own derivative is a warning."""
        if self._rules is None:
            with own_modes(gradients=True):
                self._rules = find_rules(self, self._model, self.inputs([EXAMPLES[0].prompt]), self._holdable)
        return self._rules

    @property
    def attention(self) -> Sequence[Attention]:
        """All layers, where each has hooks at its heads' outputs, keys and values that the model goes on with."""
        if self._attention is None:
            blocks = range(self._model.cfg.n_layers)
            layers = [Attention(n, *(f"blocks.{n}.attn.hook_{name}" for name in "zkv")) for n in blocks]
            with own_modes(gradients=True):
                apart = heads_are_apart(self, self.inputs([EXAMPLES[0].prompt]), layers)
            self._attention = layers if apart else []
        return self._attention

    def unembed(self, site: Site, direction: Float[Tensor, " *d_out"]) -> Float[Tensor, " output"] | None:
        return unembedded(self, self._model, site, direction)

    def _embeddings(self) -> dict[str, str]:
        """Hooks of the embeddings that are added into the stream, and their sites' names."""
        known = set(self._model.names)
        # A bridge of a rotary model has the position hook as an alias of something that is no embedding.
        kind = getattr(self._model.cfg, "positional_embedding_type", "")
        learned = "pos_embed.hook_out" in known or kind == "standard"
        found = {"hook_embed": "token"} if "hook_embed" in known else {}
        return {**found, "hook_pos_embed": "position"} if learned and "hook_pos_embed" in known else found


def _by_hook(saes: SAEs) -> list[tuple[str, SAE[Any]]]:
    """SAEs with the hooks they read."""
    if not isinstance(saes, Iterable | SAE):
        raise AdapterError(f"SAEs are to be a list, or a mapping from hooks, and not {saes!r:.80}.")
    pairs: list[tuple[str, Any]]
    if isinstance(saes, Mapping):
        pairs = list(cast(Mapping[str, SAE[Any]], saes).items())
    else:
        each = [saes] if isinstance(saes, SAE) else cast(Iterable[Any], saes)
        pairs = [(hook_of(sae) if isinstance(sae, SAE) else "", sae) for sae in each]
    for hook, sae in pairs:
        if not isinstance(sae, SAE):
            raise AdapterError(
                f"{sae!r:.80} is no SAE-Lens SAE; load one with SAE.from_pretrained or SAE.load_from_disk."
            )
        if not hook or not isinstance(hook, str):
            raise AdapterError(
                "An SAE has no hook's name: give the SAEs as a mapping {hook: sae}, as its metadata has none."
            )
    writes = [_write_hook(*pair) for pair in pairs]
    for hook in writes:
        if writes.count(hook) > 1:
            raise AdapterError(
                f"There are {writes.count(hook)} SAEs on the hook {hook!r}, and a site has one: choose one of them, "
                "for example by its id (RELEASE/SAE_ID)."
            )
    return pairs


def _write_hook(read: str, sae: SAE[Any]) -> str:
    return sae.cfg.metadata.hook_name_out or read


def _make_coder(sae: SAE[Any], read: str, write: str, seen: Mapping[str, Tensor]) -> SAECoder:
    x, y = seen[read], seen[write]
    if (head := getattr(sae.cfg.metadata, "hook_head_index", None)) is not None:
        raise AdapterError(
            f"The SAE at {read} was trained on head {head} alone, and CircuitLens reads whole hooks: choose "
            "one of all heads."
        )
    d_out = getattr(sae.cfg, "d_out", sae.cfg.d_in)
    for hook, activation, size in ((read, x, sae.cfg.d_in), (write, y, d_out)):
        if activation[0, 0].numel() != size:
            raise AdapterError(
                f"The SAE at {hook} is made for {size} numbers and the model has {activation[0, 0].numel()} there: "
                "it belongs to another model."
            )
    coder = SAECoder(sae, tuple(y.shape[2:]))
    with torch.no_grad():
        together = coder.encode(x)
        coder.decode(together)
        alone = coder.encode(x[:, -1:])
        coder.decode(alone)
    if not torch.allclose(together[:, -1:], alone, rtol=1e-2, atol=1e-3 * float(together.abs().max())):
        raise AdapterError(
            f"The features of the SAE at {read} ({sae.cfg.architecture()}) depend on other positions than their own; "
            "CircuitLens attributes to SAEs that read one position at a time."
        )
    return coder


def _layer_of(hook: str, layers: int) -> int:
    found = re.match(r"blocks\.(\d+)\.", hook)
    return int(found[1]) if found else 0 if "embed" in hook else layers - 1
