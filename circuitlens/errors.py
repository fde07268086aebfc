"""What CircuitLens raises when something given to it can't be used.

Every message says what was got, what was expected and what to do; the command line prints it as it is,
without a traceback.
"""

import re

NO_MEMORY = re.compile(
    r"n.t allocate memory|cannot allocate|out of memory|bad_alloc|failed to map segment", re.IGNORECASE
)
"""What torch and the system's loader say where memory is short: on a CPU they have no exception of their own for it."""


def is_no_memory(fault: Exception) -> bool:
    """Whether memory was short."""
    return isinstance(fault, MemoryError) or bool(NO_MEMORY.search(str(fault)))


class CircuitLensError(Exception):
    """Base of the errors below: a fault in what was given, not in the program."""


class AdapterError(CircuitLensError):
    """An adapter can't be found, loaded, or does not keep its contract."""


class PromptError(CircuitLensError):
    """A prompt, answer or distractor can't be read by the adapter."""


class CircuitError(CircuitLensError):
    """A circuit file can't be read or written, or a circuit lacks what was asked of it."""


class CorpusError(CircuitLensError):
    """A text, a corpus or a file of labels can't be read or written, or does not fit the model."""


class ViewerError(CircuitLensError):
    """The viewer can't be served."""


class RunError(CircuitLensError):
    """A run's folder can't be read or written, holds another run, or what works on it is gone."""
