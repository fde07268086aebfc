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
from circuitlens.claims import harmless, unsaid
from circuitlens.errors import CircuitError, CircuitLensError, CorpusError, ViewerError
from circuitlens.registry import installed_adapters
from circuitlens.registry import load as load_adapter
from circuitlens.viewer.group_effects import GroupEffects
from circuitlens.viewer.jobs import Job, Jobs
from circuitlens.viewer.models import as_kept, model_name, refuse
from circuitlens.viewer.open_circuits import OpenCircuits

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter, Example
    from circuitlens.corpus import Corpus, FeatureRecord
    from circuitlens.evaluation.alone import Alone, AloneRuns
    from circuitlens.evaluation.continuation import Continuation
    from circuitlens.evaluation.features import Feature
    from circuitlens.evaluation.intervention import Outcome
    from circuitlens.evaluation.settings import Setting
    from circuitlens.progress import ProgressCallback

log = logging.getLogger(__name__)


class Session(OpenCircuits):
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
        super().__init__(circuits, paths)
        self.jobs = Jobs()
        self.groups = GroupEffects()
        self._adapters = list(adapters)
        self._corpus = corpus
        self._loaded_with: dict[Adapter, Mapping[str, Any]] = {}
        self._fits: dict[tuple[Adapter, int], bool] = {}
        self._paces: dict[tuple[Adapter, str | None], float] = {}
        self._alone: dict[int, AloneRuns] = {}
        self._asking_alone = threading.Lock()
        self._continued: dict[int, tuple[Mapping[str, Setting], Continuation]] = {}

    def close(self) -> None:
        """End the work under way, and take no more."""
        self.jobs.close()

    def adapter_names(self) -> list[str]:
        """The models that can be asked: loaded ones first, then those of the circuits that are open."""
        loaded, installed = ([adapter.name for adapter in some] for some in (self._adapters, installed_adapters()))
        return list(dict.fromkeys([*loaded, *(c.adapter for c in self.circuits if c.adapter in installed), *installed]))

    def model_names(self) -> dict[str, str]:
        """What the model of each adapter is called, by its name: of one that is loaded, or of an open circuit."""
        known = {circuit.adapter: model_name(circuit.adapter, circuit.options) for circuit in reversed(self.circuits)}
        known |= {adapter.name: model_name(adapter.name, adapter.options) for adapter in reversed(self._adapters)}
        return {name: known.get(name, name) for name in self.adapter_names()}

    def is_loaded(self, number: int) -> bool:
        """Whether the model that a circuit was found in is loaded."""
        return self._fitting(number) is not None

    def trouble(self, number: int) -> str:
        """Why the model of a circuit, which is there, can't be asked as it is now; "" where that is not so."""
        circuit = self.circuit(number)
        unknown = [one for one in self._adapters if one.name == circuit.adapter and (one, number) not in self._fits]
        for adapter in unknown:
            from circuitlens.evaluation.circuit_inputs import require_same_adapter

            try:
                require_same_adapter(adapter, circuit)
            except CircuitLensError as error:
                return str(error)
        return ""

    def can_load(self, number: int) -> bool:
        """Whether the model that a circuit was found in is loaded, or can be by its name."""
        name = self.circuit(number).adapter
        return self.is_loaded(number) or any(adapter.name == name for adapter in installed_adapters())

    def adapter(self, number: int) -> Adapter:
        """The loaded model that a circuit was found in.

        Raises:
            ViewerError: it is not loaded.
        """
        adapter = self._fitting(number)
        if adapter is None:
            raise ViewerError(
                f"The model of this circuit ({self.circuit(number).adapter}) is not loaded: load it first."
            )
        return adapter

    def usual_options(self, adapter: str) -> Mapping[str, Any]:
        """What an adapter is loaded with where nothing is given: what one that is loaded was, by a person."""
        loaded = next((one for one in self._adapters if one.name == adapter), None)
        return {} if loaded is None else self._loaded_with.get(loaded, loaded.options)

    def examples(self) -> list[tuple[str, Example]]:
        """The examples of the loaded models, each with its model's name."""
        return [(adapter.name, example) for adapter in self._adapters for example in adapter.examples]

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

    def _fitting(self, number: int) -> Adapter | None:
        return next((adapter for adapter in self._adapters if self._fit(adapter, number)), None)

    def _fit(self, adapter: Adapter, number: int) -> bool:
        """Whether a circuit was found in a model, found out once: whatever uses the two together looks again."""
        from circuitlens.evaluation.circuit_inputs import require_same_adapter

        if (adapter, number) not in self._fits:
            try:
                require_same_adapter(adapter, self.circuit(number))
                self._fits[adapter, number] = True
            except CircuitError:
                self._fits[adapter, number] = False
            except CircuitLensError:  # a state of the model that may pass: it is in training mode, SAEs are attached
                return False
        return self._fits[adapter, number]

    def _has_options(self, adapter: Adapter, options: Mapping[str, Any]) -> bool:
        """Whether a model is loaded as these options say; those that are not given may be any."""
        known = {**adapter.options, **self._loaded_with.get(adapter, {})}
        return all(as_kept(known.get(name)) == as_kept(value) for name, value in options.items())

    def _load(self, name: str, options: Mapping[str, Any], progress: ProgressCallback) -> Adapter:
        progress(f"loading {name}", 0, 0)
        return load_adapter(name, **options)

    def _keep(self, adapter: Adapter, options: Mapping[str, Any]) -> Adapter:
        with self._lock:
            self._adapters.append(adapter)
            self._loaded_with[adapter] = options
        return adapter

    def _load_for(self, number: int, given: Mapping[str, Any], progress: ProgressCallback) -> Adapter:
        """The model of a circuit with a person's own options, set against what the circuit's file says that it was."""
        if self.is_loaded(number):
            return self.adapter(number)
        from circuitlens.evaluation.circuit_inputs import require_same_adapter

        circuit = self.circuit(number)
        options = {**harmless(circuit.adapter, circuit.options), **given}
        refuse(unsaid(circuit.adapter, circuit.options, options))
        adapter = self._load(circuit.adapter, options, progress)
        try:
            require_same_adapter(adapter, circuit)
        except CircuitError:
            refuse(unsaid(circuit.adapter, circuit.options, options, adapter.options))
            raise
        return self._keep(adapter, options)

    # Work in the background

    def load(self, number: int, options: Mapping[str, Any] | None = None) -> Job:
        """Begin to load the model that a circuit was found in, with a person's own options."""
        circuit = self.circuit(number)

        def work(progress: ProgressCallback) -> None:
            self._load_for(number, options or {}, progress)

        return self.jobs.start(f"Load the model {circuit.adapter}", work)

    def newest(self, adapter: str, method: str | None = None) -> tuple[Adapter, float | None] | None:
        """The model of that name that was loaded last, and the seconds a token of its last circuit by a method."""
        loaded = next((one for one in reversed(self._adapters) if one.name == adapter), None)
        return loaded and (loaded, self._paces.get((loaded, method)))

    def load_named(self, adapter: str, options: Mapping[str, Any]) -> Job:
        """Begin to load a model by its adapter's name."""

        def work(progress: ProgressCallback) -> None:
            self._loaded(adapter, options, progress)

        return self.jobs.start(f"Load the model {adapter}", work)

    def _loaded(self, adapter: str, given: Mapping[str, Any], progress: ProgressCallback) -> Adapter:
        """A model that is loaded with these options, for the rest with its usual ones."""
        named = (one for one in self._adapters if one.name == adapter)
        loaded = next((one for one in named if self._has_options(one, given)), None)
        if loaded is None:
            options = {**self.usual_options(adapter), **given}
            loaded = self._keep(self._load(adapter, options, progress), options)
        return loaded

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
