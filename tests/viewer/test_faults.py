"""What goes wrong in a request ends in a sentence: what no page sends is refused, what fails is told in the page."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from circuitlens.viewer.jobs import Job
from circuitlens.viewer.session import Session
from tests.pages import Asker

CASES = int(os.environ.get("CIRCUITLENS_FUZZ", "3000"))
"""Requests that are made up; `CIRCUITLENS_FUZZ=8000` for more of them."""

VALUES: dict[str, Any] = {
    "shown.data": {"circuit": 0, "other": 1, "as": "side"},
    "focused.data": {"circuit": 0, "other": None, "node": "sae:0:4", "edge": None, "labels": {}},
    "pinned.data": {
        "circuit": 0,
        "pins": ["sae:0:4"],
        "groups": [{"name": "verb", "nodes": ["sae:0:5", "hidden:0:3"]}],
        "labels": {"sae:0:4": "plural"},
    },
    "asked.data": {"circuit": 0, "settings": {"sae:0:4": 0.5}, "active": True, "key": "[0,{}]"},
    "continuing.data": {"circuit": 0, "settings": {"sae:0:4": 0.5}, "turn": 1.5},
    "suggest.data": {"circuit": 0, "turn": 1.5},
    "kept-alone.data": {"circuit": 0, "nodes": ["sae:0:4"], "active": True, "key": "[0]"},
    "reading.data": {"circuit": 0, "other": None, "view": "table", "labels": {"sae:0:4": "x"}, "notes": {}},
    "kept.data": {"circuit": 0, "state": json.dumps({"pins": ["sae:0:4"], "focus": None, "edges": 7})},
    "given.data": {"names": [], "circuits": [{"corrupted": False, "strongest": None, "annotations": None}] * 2},
    "theme.data": "light",
    "typed.data": {
        **{"adapter": "toy", "prompt": "The cats", "corrupted": "The cat", "answer": "run|runs", "distractor": ""},
        "method": "",
    },
    "ending.data": {"job": 1, "how": "cancel", "turn": 1.5},
    "new-circuit.opened": True,
    **{f"new-{name}.value": text for name, text in (("adapter", "toy"), ("prompt", "The cats"), ("answer", "run"))},
    **dict.fromkeys(("find.n_clicks", "load.n_clicks", "verify.n_clicks", "save.n_clicks", "export-json.n_clicks"), 1),
    "new-load.n_clicks": 1,
    "options": [
        {"id": {"type": kind, "adapter": "toy", "name": "dtype"}, "value": "float32"} for kind in ("option", "claim")
    ],
}
# What a callback is asked by where it has several inputs, and nothing is done for the others.
ASKED_BY = {"..begun.data@": "load.n_clicks", "..download": "export-json.n_clicks", "..work": "ending.data"}


@pytest.fixture(scope="module")
def asker(cat: Circuit, cats: Circuit, toy: Adapter) -> Iterator[Asker]:
    session = Session([cats, cat], adapters=[toy])
    yield Asker(session)
    session.close()


def bodies(asker: Asker) -> list[dict[str, Any]]:
    """What the page asks of each callback."""
    found = []
    for output in asker.outputs():
        body = asker.body(output, VALUES)
        first = f"{body['inputs'][0]['id']}.{body['inputs'][0]['property']}"
        body["changedPropIds"] = [next((by for start, by in ASKED_BY.items() if output.startswith(start)), first)]
        found.append(body)
    return found


def test_every_callback_answers_what_the_page_asks(asker: Asker) -> None:
    """Without this the made-up requests would all be refused for the same reason."""
    for body in bodies(asker):
        answer = asker.post(body)
        nothing_new = body["output"].startswith(("..evidence", "new-options", "axes.data@"))
        assert answer.status_code == (204 if nothing_new else 200), body
        assert "was not foreseen" not in answer.text


def refused(asker: Asker, body: object) -> str:
    answer = asker.post(body)
    assert 400 <= answer.status_code < 500, (body, answer.status_code)
    assert answer.mimetype == "text/plain"
    assert "\n" not in answer.text.rstrip("\n")
    assert answer.text.rstrip().endswith((".", "!"))
    return answer.text


def test_what_is_no_request_of_a_callback_is_refused(asker: Asker) -> None:
    body = asker.body("detail", VALUES, "focused.data")
    clientside = next(o for o, known in asker.app.callback_map.items() if "callback" not in known)
    for change in (
        {"output": "nothing.data"},
        {"output": 3},
        {"output": clientside, "outputs": []},
        {"outputs": None},
        {"outputs": {"id": "status", "property": "children"}},
        {"inputs": []},
        {"inputs": [{"id": "shown", "property": "data"}]},
        {"inputs": "focused"},
        {"inputs": None},
        {"state": [1]},
        {"changedPropIds": ["asked.data"]},
        {"changedPropIds": [3]},
        {"changedPropIds": {}},
    ):
        assert refused(asker, {**body, **change}) == "This is no request of the page: reload it.\n"
    for text in ("", "[]", "null", '"x"', "{", "1" * 5000, "\ufeff{}", '{"output": NaN}'):
        refused(asker, text)
    assert "nested too deeply" in refused(asker, "[" * 100_000)
    refused(asker, b"\xff\xfe\x00{}")
    assert asker.post(body, **{"Content-Type": "text/html"}).status_code == 415


@pytest.mark.parametrize(
    ("output", "name", "value", "fault"),
    [
        ("detail", "focused.data", {**VALUES["focused.data"], "circuit": -1}, "circuit: Input should be greater"),
        ("detail", "focused.data", {**VALUES["focused.data"], "node": 3}, "node: Input should be a valid string"),
        ("detail", "focused.data", {"circuit": 0, "other": None, "edge": None, "labels": {}}, "node: Field required"),
        ("detail", "focused.data", [1], "focused.data can't be read"),
        ("..model", "asked.data", {**VALUES["asked.data"], "settings": {"a": "x"}}, "settings.a"),
        ("..model", "asked.data", {**VALUES["asked.data"], "settings": {"a": float("nan")}}, "finite number"),
        (
            "..graph",
            "shown.data",
            {"circuit": True, "other": None, "as": "side"},
            "circuit: Input should be a valid int",
        ),
        ("..status", "kept.data", None, "no request of the page"),
        ("..status", "kept.data", {"circuit": 0, "state": {}}, "state: Input should be a valid string"),
    ],
)
def test_a_topic_that_no_page_has_is_refused(asker: Asker, output: str, name: str, value: Any, fault: str) -> None:
    assert fault in refused(asker, asker.body(output, {**VALUES, name: value}, name if output != "..status" else ""))


def test_a_circuit_that_is_not_there_is_told_in_the_page(asker: Asker) -> None:
    for output, name in (("..graph", "shown.data"), ("..subgraph", "pinned.data"), ("..model", "asked.data")):
        answer = asker.ask(output, {name: {**VALUES[name], "circuit": 99}}, name)
        assert answer.status_code == 200
        told = answer.json["sideUpdate"]["status"]["children"]["props"]  # pyright: ignore[reportOptionalSubscript]
        assert told["children"] == "There is no circuit 99: 2 are open, counted from 0."
        assert told["className"] == "fault"


def test_what_was_not_foreseen_is_told_in_the_page_and_logged(
    cats: Circuit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session([cats])
    asker = Asker(session)

    def broken(number: int) -> Circuit:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(session, "circuit", broken)
    for body in bodies(asker):
        answer = asker.post(body)
        assert answer.status_code in (200, 204)
        assert "Traceback" not in answer.text
    assert "ZeroDivisionError: oh" in asker.ask("detail", VALUES, "focused.data").text
    monkeypatch.setattr(session, "adapter_names", lambda: broken(0))
    answer = asker.get("/_dash-layout")
    assert (answer.status_code, answer.text.split(":")[0]) == (
        500,
        "This failed in a way that was not foreseen (ZeroDivisionError",
    )
    assert "in broken" in caplog.text


# Made-up requests


PLAIN: list[Any] = [None, True, False, 0, -1, 1, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x", " ", [], {}]
NAMES = [
    "__proto__",
    "constructor",
    "sae:0:4",
    "\ud800",
    "\x00",
    "<b>",
    "é" * 300,
    "corrupted",
    "side",
    "circuit",
    "id",
]


def anything(random: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kind = random.randrange(6 if depth < 4 else 4)
    if kind < 2:
        return random.choice(PLAIN)
    if kind < 4:
        return random.choice(NAMES)
    if kind == 4:
        return [anything(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(NAMES): anything(random, depth + 1) for _ in range(random.randrange(4))}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value: what holds it, and its key there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def change(random: random.Random, body: Any) -> None:
    """One change somewhere: another value, of the same kind or not, one less, one more, or one twice."""
    holder, key = random.choice(list(places(body)))
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(NAMES)] = anything(random)
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 3:
            holder[key] = anything(random)
        case _:
            holder[key] = alike(random, holder[key])


def alike(random: random.Random, value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return random.choice([0, 1, 2, 99, -1, 2**53, 10**30, None])
        case float():
            return random.choice([0.0, -1.5, 1e308, 5e-324, "corrupted"])
        case str() if random.random() < 0.5:
            return random.choice([*NAMES, "hidden:0:3", "table", "evidence", "difference", "toy", "gpt2"])
        case str():
            cut = random.randrange(len(value) + 1)
            return value[:cut] + random.choice(NAMES) + value[cut:]
        case dict() if value:
            return {random.choice([name, random.choice(NAMES)]): one for name, one in value.items()}
        case list():
            return [*value, *random.sample(value, min(1, len(value))), random.choice(NAMES)]
        case _:
            return anything(random)


def mangled(random: random.Random, text: str) -> bytes:
    """A text with some of its bytes otherwise."""
    data = bytearray(text.encode())
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(data))
        data[at : at + random.randrange(3)] = random.randbytes(random.randrange(3))
    return bytes(data)


def request(random: random.Random, known: list[dict[str, Any]]) -> object:
    """A request of a callback that is nearly right; its values are changed more often than its outline."""
    body = copy.deepcopy(random.choice(known))
    if random.random() < 0.1:
        return mangled(random, json.dumps(body))
    if random.random() < 0.2:
        change(random, body)
        return body
    values = [one for one in (*body["inputs"], *body["state"]) if isinstance(one, dict) and "value" in one]
    for _ in range(random.choice((1, 1, 2)) if values else 0):
        inside = random.choice(values)
        change(random, inside["value"] if isinstance(inside["value"], dict) and inside["value"] else [inside["value"]])
    for one in values:
        if isinstance(one["value"], dict) and "state" in one["value"] and random.random() < 0.8:
            state = json.loads(VALUES["kept.data"]["state"])
            change(random, state)
            one["value"]["state"] = json.dumps(state)
    return body


PATHS = [
    "_dash-layout",
    "_dash-dependencies",
    "_dash-component-suites",
    "assets",
    "_reload-hash",
    "dash",
    "x.js",
    "..",
    "%",
]
HEADERS = ["Cookie", "Content-Length", "Content-Type", "If-None-Match", "Range", "Accept", "Sec-Fetch-Dest", "Origin"]


def address(random: random.Random) -> bytes:
    """A request line and headers that anyone could send; the token and the host are right."""
    odd = [
        "%00",
        "%ff",
        "é",
        "a" * 5000,
        "%2e%2e",
        "\\",
        ";",
        "//",
        ".",
        "?x=1",
        "#",
        "%0d%0a",
        "page.css",
        "[::1]",
        "@",
    ]
    path = "/" + "/".join(random.choice([*PATHS, *odd]) for _ in range(random.randrange(5)))
    values = ["", "-1", "x" * 3000, "bytes=0-1", "circuitlens-8050=x; a", "\xff", "application/json", "*/*;q=x"]
    headers = [f"{random.choice(HEADERS)}: {random.choice(values)}" for _ in range(random.randrange(3))]
    method = random.choice(["GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "X"])
    lines = [f"{method} {path}{'&' if '?' in path else '?'}TOKEN HTTP/1.1", "Host: 127.0.0.1:8050", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def answer_to(url: str, sent: bytes) -> tuple[int, str]:
    """The status and the whole answer to bytes as they are."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10) as connection:
        connection.sendall(sent.replace(b"TOKEN", parts.query.encode()))
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
    return int(answer.split(" ")[1]), answer


def hold(caplog: pytest.LogCaptureFixture, case: object, ask: Callable[[], tuple[int, str]]) -> int:
    """The status of an answer that is none of a failure, in words at most, and in time."""
    begun = time.process_time()  # not the clock's: a busy machine is no failure
    status, answer = ask()
    assert time.process_time() - begun < 2, case
    assert status < 500, (case, answer)
    assert "Traceback" not in answer + caplog.text, (case, answer, caplog.text)
    caplog.clear()
    return status


def test_made_up_callbacks_end_in_a_sentence(
    asker: Asker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failure, nothing logged as one, none above two seconds; and many refusals, answers and told faults."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(
        asker.session.jobs, "start", lambda title, work: Job(1, title)
    )  # work is not what is tried here
    known, chance = bodies(asker), random.Random(20)
    seen: Counter[str] = Counter()

    def ask(body: object) -> tuple[int, str]:
        answer = asker.post(body)
        seen["told"] += '"className":"fault"' in answer.text or '"Alert"' in answer.text
        return answer.status_code, answer.text

    for number in range(CASES):
        body = request(chance, known)
        seen[str(hold(caplog, (number, body), lambda body=body: ask(body)))] += 1
    assert min(seen["200"], seen["400"], 5 * seen["told"]) > CASES / 5, seen


def test_who_falls_silent_is_hung_up_on(cats: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a request line, of the headers, and of the body that was announced."""
    monkeypatch.setattr(server, "SILENCE", 0.3)
    viewer = server.start([cats])
    head = f"POST /_dash-update-component?{urlsplit(viewer.url).query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    for sent in ("", "GE", head, f"{head}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"):
        with socket.create_connection(("127.0.0.1", int(urlsplit(viewer.url).port or 0)), timeout=20) as connection:
            connection.sendall(sent.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400" if sent.endswith("{") else b"")
        assert b"Traceback" not in answer
    viewer.close()


def test_made_up_addresses_end_in_a_sentence(cats: Circuit, caplog: pytest.LogCaptureFixture) -> None:
    """As bytes, to the server itself."""
    caplog.set_level(logging.WARNING)
    viewer, chance = server.start([cats]), random.Random(21)
    seen: Counter[int] = Counter()
    for number in range(CASES // 3):
        sent = address(chance)
        seen[hold(caplog, (number, sent), lambda sent=sent: answer_to(viewer.url, sent))] += 1
    viewer.close()
    assert min(seen[200], seen[403], seen[400] + seen[404] + seen[405]) > CASES / 50, seen
