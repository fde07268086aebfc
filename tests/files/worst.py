"""Circuit files that are as large as is read, and bad in one place: each field in turn, filled with what is costly."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from circuitlens.circuit import MAX_BYTES, open_circuit
from circuitlens.errors import CircuitError

SIZE = MAX_BYTES - 200_000
MANY, CONTAINERS = 1_300_000, 390_000
"""Values, and lists or objects, below the limit of `circuitlens.files`, so that they are read."""

FILLS: dict[str, Callable[[], str]] = {
    "ones": lambda: "[" + "1," * (SIZE // 2) + "1]",
    "numbers": lambda: "[" + "1," * MANY + "1]",
    "texts": lambda: "[" + '"a",' * MANY + '"a"]',
    "objects": lambda: "[" + "{}," * CONTAINERS + "{}]",
    "keys": lambda: "{" + ",".join(f'"k{n}":1' for n in range(MANY)) + "}",
    "few keys": lambda: "{" + ",".join(f'"k{n}":[]' for n in range(9000)) + "}",
    "deep": lambda: "[" * 1_000_000 + "]" * 1_000_000,
    "nested": lambda: "[" + ",".join(["[" * 100 + "]" * 100] * (CONTAINERS // 100)) + "]",
    "nested objects": lambda: "[" + ",".join(['{"a":' * 100 + "1" + "}" * 100] * (CONTAINERS // 100)) + "]",
    "text": lambda: '"' + "a" * SIZE + '"',
    "wide text": lambda: '"' + "😀" * (SIZE // 4) + '"',
    "wide texts": lambda: "[" + '"😀",' * MANY + '"' + "😀" * ((SIZE - 7 * MANY) // 4) + '"]',
    "digits": lambda: "9" * SIZE,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a document that hold a list, an object or a text; of a list, its first item stands for all."""
    if path and isinstance(value, (list, dict, str)) and path != ("format",):
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*path, key))


def filled(document: dict[str, Any], path: tuple[Any, ...], text: str) -> bytes:
    """The document with a JSON text at a place."""
    copy = json.loads(json.dumps(document))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = "@@"
    return json.dumps(copy).replace('"@@"', text).encode()


def refused(path: str) -> tuple[float, float, str]:
    """How long it takes to refuse a file, in times of counting to three million; MB at the most; and the sentence."""
    begun = time.process_time()
    sum(1 for _ in range(3_000_000))
    unit, begun = time.process_time() - begun, time.process_time()
    try:
        open_circuit(path)
        told = ""
    except CircuitError as error:
        told = str(error)
    return (time.process_time() - begun) / unit, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(refused(sys.argv[1])))
