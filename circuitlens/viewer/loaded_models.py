"""The models behind a page: which are loaded, which circuit was found in which, and loading one as its person says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlens.circuit import Circuit
from circuitlens.claims import harmless, unsaid
from circuitlens.errors import CircuitError, CircuitLensError, ViewerError
from circuitlens.registry import installed_adapters
from circuitlens.registry import load as load_adapter
from circuitlens.viewer.models import as_kept, model_name, refuse
from circuitlens.viewer.open_circuits import OpenCircuits

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter, Example
    from circuitlens.progress import ProgressCallback


class LoadedModels(OpenCircuits):
    """Models beside the circuits that are open. No torch is imported before one is needed.

    Args:
        circuits: those that are open; a circuit's number is its place.
        paths: the files they were read from and may be saved to; None for one that has none.
        adapters: models that are loaded.
    """

    def __init__(
        self, circuits: Sequence[Circuit], paths: Sequence[Path | None] | None = None, adapters: Sequence[Adapter] = ()
    ):
        super().__init__(circuits, paths)
        self._adapters = list(adapters)
        self._loaded_with: dict[Adapter, Mapping[str, Any]] = {}
        self._fits: dict[tuple[Adapter, int], bool] = {}

    def adapter_names(self) -> list[str]:
        """The models that can be asked: loaded ones first, then those of the circuits that are open."""
        loaded = [adapter.name for adapter in self._adapters]
        installed = [adapter.name for adapter in installed_adapters()]
        opened = [circuit.adapter for circuit in self.circuits if circuit.adapter in installed]
        return list(dict.fromkeys([*loaded, *opened, *installed]))

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

    def newest(self, adapter: str) -> Adapter | None:
        """The model of that name that was loaded last."""
        return next((one for one in reversed(self._adapters) if one.name == adapter), None)

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

    def _loaded(self, adapter: str, given: Mapping[str, Any], progress: ProgressCallback) -> Adapter:
        """A model that is loaded with these options, for the rest with its usual ones."""
        named = (one for one in self._adapters if one.name == adapter)
        loaded = next((one for one in named if self._has_options(one, given)), None)
        if loaded is None:
            options = {**self.usual_options(adapter), **given}
            loaded = self._keep(self._load(adapter, options, progress), options)
        return loaded
