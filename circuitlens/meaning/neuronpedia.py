"""Labels of Neuronpedia, asked for when a person wants them, and kept on disk: what is there is never asked again.

What a circuit's file says of a page decides which feature is asked for, and never which server.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from circuitlens.circuit import Meaning, Node
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.errors import CircuitLensError
from circuitlens.files import cache_folder, parse_json, read_bounded, write_file
from circuitlens.meaning.files import clean

log = logging.getLogger(__name__)

SERVER = "https://www.neuronpedia.org"
PAGE = re.compile(r"https://www\.neuronpedia\.org/(\w[\w.-]{0,99})/(\w[\w.-]{0,99})/([0-9]{1,12})", re.ASCII)
"""The address of a feature's page, as adapters give it."""
TIMEOUT = 10.0
"""Seconds that one answer may take."""
MAX_BYTES = 10_000_000
ASKERS = 4
"""Requests at a time."""


class _GoneError(Exception):
    """The server can't be reached, so that no other request would be answered either."""


class _NoRedirect(HTTPRedirectHandler):
    """An answer that leads elsewhere is no answer."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def explanations(nodes: Iterable[Node]) -> list[Meaning]:
    """What Neuronpedia says of the features of these nodes that have a page there.

    Where it can't be reached a warning says so, and what was kept from before is returned.
    """
    pages = {(n.hook, n.index): m for n in nodes if n.url and (m := PAGE.fullmatch(n.url)) and m[3] == str(n.index)}
    with ThreadPoolExecutor(ASKERS) as askers:
        state = _State()
        texts = list(askers.map(lambda page: _explanation((page[1], page[2], page[3]), state), pages.values()))
    if state.fault:
        log.warning("Neuronpedia does not answer (%s): labels are those that were kept from before.", state.fault)
    return [
        Meaning(hook=hook, index=index, text=text, source="neuronpedia")
        for (hook, index), text in zip(pages, texts, strict=True)
        if text
    ]


class _State:
    """Whether the server was found not to answer: it is not asked again then."""

    fault = ""


def _explanation(page: tuple[str, str, str], state: _State) -> str:
    model, sae, index = page
    kept = cache_folder() / "neuronpedia" / model / sae / f"{index}.json"
    if text := _kept(kept):
        return text
    if state.fault:
        return ""
    try:
        text = _text_of(_ask(f"{SERVER}/api/feature/{model}/{sae}/{index}"))
    except _GoneError as fault:
        state.fault = str(fault)
        return ""
    if text:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, json.dumps({"text": text}).encode(), CircuitLensError)
        except (OSError, CircuitLensError) as fault:
            log.debug("A label can't be kept: %s", fault)
    return text


def _kept(path: Path) -> str:
    """What was kept, "" where there is nothing of use."""
    if not path.exists():
        return ""
    try:
        document = parse_json(read_bounded(path, MAX_BYTES, "a label", CircuitLensError))
    except (CircuitLensError, ValueError):
        return ""
    return _short(document.get("text")) if isinstance(document, dict) else ""


def _ask(address: str) -> bytes:
    """The answer of the server, b"" where it knows nothing of that."""
    end = time.monotonic() + TIMEOUT
    request = Request(address, headers={"Accept": "application/json", "User-Agent": "circuitlens"})
    try:
        with build_opener(_NoRedirect).open(request, timeout=TIMEOUT) as answer:
            data = b""
            while block := answer.read1(2**16):
                data += block
                if len(data) > MAX_BYTES:
                    return b""
                if time.monotonic() > end:
                    raise _GoneError("it is too slow")
            return data
    except HTTPError as fault:
        if fault.code in (429, 500, 502, 503, 504):
            raise _GoneError(f"it says {fault.code}") from fault
        return b""
    except (URLError, OSError, HTTPException) as fault:
        raise _GoneError(str(getattr(fault, "reason", fault)) or type(fault).__name__) from fault


def _text_of(data: bytes) -> str:
    """The first explanation in an answer, "" where there is none or it is not what it should be."""
    try:
        document = parse_json(data)
    except ValueError:
        return ""
    told = document.get("explanations") if isinstance(document, dict) else None
    each = [one.get("description") for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    return next((text for one in each if (text := _short(one))), "")


def _short(text: object) -> str:
    if not isinstance(text, str):
        return ""
    text = clean(text)
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"
