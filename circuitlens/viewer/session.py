"""What a page works on: the circuits that are open with their files, and the models that can be asked.

Long work with a model is done in the background; its runs and those that the page asks for meanwhile go one after the
other, as adapters see to. No torch is imported before a model is needed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlens.circuit import Circuit
from circuitlens.errors import CorpusError
from circuitlens.viewer.group_effects import GroupEffects
from circuitlens.viewer.jobs import Job, Jobs
from circuitlens.viewer.loaded_models import LoadedModels

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.corpus import Corpus, FeatureRecord
    from circuitlens.evaluation.alone import Alone, AloneRuns
    from circuitlens.evaluation.continuation import Continuation
    from circuitlens.evaluation.features import Feature
    from circuitlens.evaluation.intervention import Outcome
    from circuitlens.evaluation.settings import Setting
    from circuitlens.progress import ProgressCallback

log = logging.getLogger(__name__)


class Session(LoadedModels):
    """Circuits and models behind a page; `jobs` has the work in the background, `groups` what is known of groups.

    Args:
        circuits: those that are open; a circuit's number is its place.
        paths: the files they were read from and may be saved to; None for one that has none.
        adapters: models that are loaded.
        corpus: what their features do on a text.
    """

    def __init__(
        self,
        circuits: Sequence[Circuit],
        paths: Sequence[Path | None] | None = None,
        adapters: Sequence[Adapter] = (),
        corpus: Corpus | None = None,
    ):
        super().__init__(circuits, paths, adapters)
        self.jobs = Jobs()
        self.groups = GroupEffects()
        self._corpus = corpus
        self._paces: dict[tuple[Adapter, str | None], float] = {}
        self._alone: dict[int, AloneRuns] = {}
        self._asking_alone = threading.Lock()
        self._continued: dict[int, tuple[Mapping[str, Setting], Continuation]] = {}

    def close(self) -> None:
        """End the work under way, and take no more."""
        self.jobs.close()

    def intervene(self, number: int, settings: Mapping[str, Setting]) -> Outcome:
        """What the model answers with nodes of a circuit set otherwise.

        Raises:
            ViewerError: the model is not loaded.
            CircuitLensError: what `circuitlens.intervene` raises.
        """
        from circuitlens.evaluation.intervention import intervene

        return intervene(self.adapter(number), self.circuit(number), settings)

    def continues(self, number: int) -> bool:
        """Whether the model of a circuit, which is loaded, continues its prompt."""
        adapter = self.adapter(number)
        return adapter.extended(adapter.inputs([self.circuit(number).questions[0].prompt]), 0) is not None

    def continuation(self, number: int, settings: Mapping[str, Setting]) -> Continuation | None:
        """How a circuit's text was last continued, where that was with these nodes set so."""
        known = self._continued.get(number)
        return known[1] if known is not None and known[0] == settings else None

    def alone(self, number: int, node_ids: Sequence[str]) -> Alone:
        """What the model does with only these nodes of a circuit kept.

        Raises:
            ViewerError: the model is not loaded.
            CircuitLensError: what `circuitlens.evaluation.alone` raises.
        """
        from circuitlens.evaluation.alone import AloneRuns

        adapter, circuit = self.adapter(number), self.circuit(number)
        with self._asking_alone:  # one question at a time: the runs keep what they know
            known = self._alone.get(number)
            if known is None or known.circuit is not circuit:
                known = self._alone[number] = AloneRuns(adapter, circuit)
            return known(node_ids)

    def describe(self, number: int, node_id: str) -> Feature:
        """What a feature stands for, and where on the prompt it is active.

        Raises:
            ViewerError: the model is not loaded.
            CircuitLensError: what `circuitlens.describe` raises.
        """
        from circuitlens.evaluation.features import describe

        return describe(self.adapter(number), self.circuit(number), node_id)

    def contexts(self, number: int, node_id: str) -> FeatureRecord | None:
        """What a circuit's feature does on the corpus; None where there is no corpus, or none of that feature.

        Raises:
            CorpusError: the corpus is damaged.
        """
        circuit, corpus = self.circuit(number), self._corpus
        node = circuit.node(node_id)
        if corpus is None or node.is_logit:
            return None
        from circuitlens.meaning.labelling import said_otherwise

        if said_otherwise(corpus.record, circuit):
            return None
        site = corpus.site(node.hook)
        if site is None or node.index is None or node.index >= site.features:
            return None
        return corpus.feature(node.hook, node.index)

    # Work in the background

    def load(self, number: int, options: Mapping[str, Any] | None = None) -> Job:
        """Begin to load the model that a circuit was found in, with a person's own options."""
        circuit = self.circuit(number)

        def work(progress: ProgressCallback) -> None:
            self._load_for(number, options or {}, progress)

        return self.jobs.start(f"Load the model {circuit.adapter}", work)

    def pace(self, adapter: Adapter, method: str | None = None) -> float | None:
        """The seconds a token that a model's last circuit by a method took."""
        return self._paces.get((adapter, method))

    def load_named(self, adapter: str, options: Mapping[str, Any]) -> Job:
        """Begin to load a model by its adapter's name."""

        def work(progress: ProgressCallback) -> None:
            self._loaded(adapter, options, progress)

        return self.jobs.start(f"Load the model {adapter}", work)

    def find(
        self,
        adapter: str,
        prompt: str,
        answer: str | Sequence[str],
        distractor: str | Sequence[str] | None = None,
        corrupted: str | None = None,
        method: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Begin to find a circuit; empty texts count as not given.

        A model that is not loaded with these `options` of its adapter is loaded, for the rest with its usual ones.
        """
        given = options or {}

        def work(progress: ProgressCallback) -> int:
            from circuitlens.discovery import find

            loaded = self._loaded(adapter, given, progress)
            begun = time.monotonic()
            found = find(
                loaded,
                prompt,
                answer,
                distractor or None,
                corrupted or None,
                method or None,  # pyright: ignore[reportArgumentType] # `find` says what is no method
                progress=progress,
            )
            self._paces[loaded, method or None] = (time.monotonic() - begun) / len(found.tokens)
            return self.add(self._labelled(found, loaded))

        return self.jobs.start(f"Find the circuit of “{prompt}”", work)

    def _labelled(self, circuit: Circuit, adapter: Adapter) -> Circuit:
        """A new circuit with what the corpus says of its features, where it is of this model."""
        if self._corpus is None:
            return circuit
        from circuitlens.meaning.labelling import label

        try:
            return label(circuit, adapter, corpus=self._corpus)
        except CorpusError as fault:
            log.warning("%s", fault)
            return circuit

    def continue_text(self, number: int, settings: Mapping[str, Setting]) -> Job:
        """Begin to continue a circuit's prompt, as it is and with nodes set otherwise; `continuation` has it then."""
        adapter, circuit = self.adapter(number), self.circuit(number)

        def work(progress: ProgressCallback) -> None:
            from circuitlens.evaluation.continuation import continue_text

            self._continued[number] = settings, continue_text(adapter, circuit, settings, progress=progress)

        return self.jobs.start(f"Continue “{circuit.questions[0].prompt}”", work)

    def verify(self, number: int, options: Mapping[str, Any] | None = None) -> Job:
        """Begin to measure a circuit's evidence; the circuit with it takes its place, and is not saved by that.

        Where its model is not loaded, it is, as by `load`.
        """
        self.circuit(number)

        def work(progress: ProgressCallback) -> None:
            from circuitlens.evaluation.verification import verify

            circuit, adapter = self.circuit(number), self._load_for(number, options or {}, progress)
            evidence = verify(adapter, circuit, progress=progress).evidence
            with self._lock:
                # The circuit may have been annotated meanwhile.
                self.circuits[number] = self.circuits[number].model_copy(update={"evidence": evidence})

        return self.jobs.start("Measure the evidence", work)
