"""Neuronpedia is asked only when a person wants it, once for each feature, and may say anything or nothing."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from circuitlens.circuit import Node
from circuitlens.meaning import neuronpedia
from circuitlens.meaning.neuronpedia import explanations

Answer = Callable[[BaseHTTPRequestHandler], None]


class Stub(ThreadingHTTPServer):
    """A server that notes what it is asked; `answer` writes what it says."""

    def __init__(self, answer: Answer):
        self.asked: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.asked.append(self.path)
                answer(self)

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


def says(body: bytes, code: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def explained(text: object) -> bytes:
    return json.dumps({"modelId": "gpt2-small", "explanations": [{"description": text}]}).encode()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Answer], Stub]]:
    servers: list[Stub] = []
    monkeypatch.setenv("CIRCUITLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(neuronpedia, "TIMEOUT", 0.3)

    def start(answer: Answer) -> Stub:
        servers.append(Stub(answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setattr(neuronpedia, "SERVER", f"http://127.0.0.1:{servers[-1].server_port}")
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def node(index: int = 7, url: str | None = "https://www.neuronpedia.org/gpt2-small/8-res-jb/7", pos: int = 0) -> Node:
    named = {
        "id": f"s:{pos}:{index}",
        "kind": "feature",
        "hook": "h",
        "layer": 1,
        "pos": pos,
        "index": index,
        "label": "F",
    }
    return Node.model_validate({**named, "activation": 1.0, "attribution": 1.0, "url": url})


def test_what_it_says_is_kept_and_not_asked_again(serve: Callable[[Answer], Stub]) -> None:
    stub = serve(says(explained(" plural  nouns\n")))
    for _ in range(2):
        (meaning,) = explanations([node(), node(pos=2)])
        assert (meaning.text, meaning.source, meaning.hook, meaning.index) == ("plural nouns", "neuronpedia", "h", 7)
    assert stub.asked == ["/api/feature/gpt2-small/8-res-jb/7"]
    stub.shutdown()
    assert [m.text for m in explanations([node()])] == ["plural nouns"]  # also without it


def test_only_pages_of_neuronpedia_are_asked_for(serve: Callable[[Answer], Stub]) -> None:
    stub = serve(says(explained("x")))
    urls = (
        None,
        "http://www.neuronpedia.org/gpt2-small/8-res-jb/7",
        "https://elsewhere.org/gpt2-small/8-res-jb/7",
        "https://www.neuronpedia.org/../../7",
        "https://www.neuronpedia.org/gpt2-small/../7",
        "https://www.neuronpedia.org/gpt2-small/8-res-jb/7?x=1",
        "https://www.neuronpedia.org/gpt2-small/8-res-jb/8",  # the page of another feature
        "https://www.neuronpedia.org@elsewhere.org/gpt2-small/8-res-jb/7",
    )
    assert explanations(node(url=url) for url in urls) == []
    assert stub.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        says(b"", 404),
        says(b"<html>"),
        says(b"\xff\xfe"),
        says(b"[" * 100_000),
        says(b"3"),
        says(b"{}"),
        says(json.dumps({"explanations": 3}).encode()),
        says(json.dumps({"explanations": [3, {}, {"description": None}, {"description": "  "}]}).encode()),
        says(b"x" * 10_000_001),
        says(b"", 302, Location="http://127.0.0.1:1/elsewhere"),
    ],
)
def test_an_answer_that_says_nothing_is_no_label(
    answer: Answer, serve: Callable[[Answer], Stub], tmp_path: Path
) -> None:
    stub = serve(answer)
    assert explanations([node()]) == []
    assert len(stub.asked) == 1
    assert not (tmp_path / "cache").exists()


def test_long_and_hostile_text_is_text(serve: Callable[[Answer], Stub]) -> None:
    serve(says(explained("<script>\ud800 " + "x" * 500)))
    (meaning,) = explanations([node()])
    assert (meaning.text[:11], meaning.text[-1], len(meaning.text)) == ("<script>? x", "…", 200)


def stall(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1)


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("answer", [stall, drip, hang_up, says(b"", 503), says(b"", 429)])
def test_a_server_that_does_not_answer_is_left_alone(
    answer: Answer, serve: Callable[[Answer], Stub], caplog: pytest.LogCaptureFixture
) -> None:
    stub = serve(answer)
    pages = [node(n, f"https://www.neuronpedia.org/gpt2-small/8-res-jb/{n}") for n in range(40)]
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert explanations(pages) == []
    assert time.monotonic() - start < 10
    assert len(stub.asked) <= 2 * neuronpedia.ASKERS
    assert "Neuronpedia does not answer" in caplog.text


def test_a_machine_without_a_network_has_what_was_kept(
    serve: Callable[[Answer], Stub], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    serve(says(explained("plural nouns")))
    explanations([node()])
    monkeypatch.setattr(neuronpedia, "SERVER", "http://127.0.0.1:1")
    other = node(8, "https://www.neuronpedia.org/gpt2-small/8-res-jb/8")
    assert [m.text for m in explanations([other, node()])] == ["plural nouns"]
    assert "does not answer" in caplog.text


def test_a_cache_that_is_damaged_is_asked_again(serve: Callable[[Answer], Stub], tmp_path: Path) -> None:
    stub = serve(says(explained("plural nouns")))
    kept = tmp_path / "cache/neuronpedia/gpt2-small/8-res-jb/7.json"
    for number, data in enumerate((b"", b"[]", b'{"text": 3}', b"\xff"), 1):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        assert [m.text for m in explanations([node()])] == ["plural nouns"]
        assert len(stub.asked) == number
