"""A circuit's features labelled: from Neuronpedia, files, a corpus, and what they promote; the best source is kept.

No torch is imported before a model is asked.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from circuitlens.circuit import Circuit, Meaning, Node
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.claims import INDIFFERENT
from circuitlens.corpus import Corpus, read
from circuitlens.corpus.folder import CorpusRecord, pair_of
from circuitlens.errors import CorpusError, PromptError
from circuitlens.literals import NEURONPEDIA, MeaningSource
from circuitlens.meaning.evidence import NAMED, Said, from_contexts, from_promoted
from circuitlens.meaning.files import read_labels
from circuitlens.meaning.neuronpedia import explanations

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlens.adapter import Adapter, Site

KINDS = ("feature", "neuron")

Labels = str | os.PathLike[str]


def label(
    circuit: Circuit,
    adapter: Adapter | None = None,
    *,
    corpus: Corpus | str | os.PathLike[str] | None = None,
    labels: Labels | Sequence[Labels] = (),
) -> Circuit:
    """The circuit with what its features stand for; `circuit.meaning(node)` says it, the reader's own label first.

    Of each feature the best label is kept: of Neuronpedia, of a file, from the contexts of a corpus, from the outputs
    that it promotes. It is measured by nobody, and changes no evidence.

    Args:
        circuit: what is labelled.
        adapter: the model that it was found in, for promoted outputs and to check the corpus.
        corpus: a corpus of that model, or its folder (`circuitlens.corpus.build`).
        labels: a file of labels (JSON or CSV), "neuronpedia" to ask that, or several of these.

    Raises:
        CorpusError: the corpus is of another model, or a file of labels can't be read.
        CircuitError: the circuit was made by another adapter.
    """
    nodes = list({(node.hook, node.index): node for node in circuit.nodes if node.kind in KINDS}.values())
    found: list[Meaning] = []
    for source in [labels] if isinstance(labels, str | os.PathLike) else labels:
        found += explanations(nodes) if source == NEURONPEDIA else read_labels(source)
    if adapter is not None:
        from circuitlens.evaluation.circuit_inputs import require_same_adapter

        require_same_adapter(adapter, circuit)
    if corpus is not None:
        opened = corpus if isinstance(corpus, Corpus) else read(corpus)
        require_same_model(opened, circuit, adapter)
        found += _from_corpus(opened, nodes)
    if adapter is not None:
        named = {(m.hook, m.index) for m in (*circuit.meanings, *found) if m.source != "promoted tokens"}
        found += _from_outputs(adapter, circuit, [node for node in nodes if (node.hook, node.index) not in named])
    return circuit.with_meanings(found)


def require_same_model(corpus: Corpus, circuit: Circuit, adapter: Adapter | None = None) -> None:
    """Raise CorpusError for a corpus of another model than the circuit's.

    With the adapter its weights are compared; without it, what corpus and circuit say of the adapter, its options and
    its sites.
    """
    known = corpus.record
    told = said_otherwise(known, circuit, options=adapter is None)
    for node in circuit.nodes:
        site = corpus.site(node.hook)
        if node.kind in KINDS and (site is None or (node.index or 0) >= site.features):
            told = told or f"it has no feature {node.index} at {node.hook}"
    if adapter is not None and not told:
        from circuitlens.fingerprint import difference

        try:
            told = difference(adapter, known.fingerprint, pair_of(known))
        except PromptError as fault:  # its tokenizer is another
            told = str(fault)
    if told:
        raise CorpusError(f"The corpus in {str(corpus.folder)!r} is of another model: {told}. Build one of this model.")


def said_otherwise(corpus: CorpusRecord, circuit: Circuit, *, options: bool = True) -> str:
    """How the adapter and its options are other ones in the corpus than in the circuit, by what both say; or ""."""
    if corpus.adapter != circuit.adapter:
        return f"it is of {corpus.adapter!r}, and the circuit of {circuit.adapter!r}"
    for name in sorted(circuit.options.keys() - INDIFFERENT - {"layers"}) if options else ():
        ours, theirs = corpus.options.get(name), circuit.options[name]
        if ours != theirs:
            return (
                f"it was built with {name} {ours!r:.200}, and the circuit was found with {theirs!r:.200}, which "
                "is compared where the model is not loaded (circuitlens label loads it, and compares weights)"
            )
    return ""


def _from_corpus(corpus: Corpus, nodes: Sequence[Node]) -> Iterator[Meaning]:
    for node in nodes:
        assert node.index is not None, "features have an index"
        yield from _meaning(node, from_contexts(corpus.feature(node.hook, node.index)), "contexts")


def _from_outputs(adapter: Adapter, circuit: Circuit, nodes: Sequence[Node]) -> Iterator[Meaning]:
    """What features promote at the last position of the circuit's first prompt, with one run of the model."""
    import torch

    from circuitlens.evaluation.features import speaks_for
    from circuitlens.runs import run_held
    from circuitlens.torch_modes import own_modes

    wanted = {site.name: [node for node in nodes if node.hook == site.write] for site in adapter.sites}
    sites = [site for site in adapter.sites if wanted[site.name]]
    reads: dict[str, Tensor] = {}

    def hold(site: Site, read: Tensor, write: Tensor) -> Tensor | None:
        reads[site.name] = read.detach()
        return write if len(reads) < len(sites) else None

    layers = _layers(adapter, circuit) if sites else ()
    with own_modes(gradients=False):
        inputs = adapter.inputs([circuit.questions[0].prompt])
        if sites:
            run_held(adapter, inputs, sites, hold)
        for site in sites:
            here = wanted[site.name]
            x = reads[site.name][torch.zeros(len(here), dtype=torch.long), int(inputs.last[0])]
            index = [node.index for node in here if node.index is not None]
            for node, (promoted, _) in zip(here, speaks_for(adapter, site, x, index, NAMED), strict=True):
                yield from _meaning(node, from_promoted(promoted, node, layers), "promoted tokens")


def _layers(adapter: Adapter, circuit: Circuit) -> Collection[int]:
    """The model's layers, as far as they are known: those with attention, else those of the circuit's drawing."""
    return {layer.layer for layer in adapter.attention} or {node.layer for node in circuit.nodes}


def _meaning(node: Node, said: Said | None, source: MeaningSource) -> Iterator[Meaning]:
    if said is not None:
        text, weak = said
        text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"
        yield Meaning(hook=node.hook, index=node.index, text=text, source=source, weak=weak)
