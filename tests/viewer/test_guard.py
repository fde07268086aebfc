"""Who may ask the page: a reader who was given its address, and nobody else on the machine or in the browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from werkzeug.test import Client, create_environ
from werkzeug.wsgi import ClosingIterator

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from circuitlens.viewer.guard import FOREIGN_HOST, FOREIGN_PAGE, MOST, NO_LENGTH, NO_TOKEN, TOO_LARGE, Guard
from circuitlens.viewer.session import Session
from tests.pages import HERE, Asker, at

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SAVED = json.dumps({"pins": ["sae:0:4"]})


@pytest.fixture(scope="module")
def asker(cats: Circuit, toy: Adapter) -> Asker:
    return Asker(Session([cats], adapters=[toy]))


def paths(asker: Asker) -> list[str]:
    """Every path of the page: its rules with what stands for their parts, and all of its files."""
    rules = [rule.rule for rule in asker.app.server.url_map.iter_rules()]
    page = asker.get("/").text
    files = re.findall(r'(?:src|href)="(/[^"?]+)', page)
    assert len(files) > 20
    return sorted({*(re.sub("<[^>]*>", "x", rule) for rule in rules), *files})


def test_nothing_is_answered_without_the_token(asker: Asker) -> None:
    """Whatever the path and method: one sentence that says how to get the address."""
    for path in paths(asker):
        for method in ("GET", "POST", "PUT", "OPTIONS", "HEAD"):
            for query, cookie in (("", ""), ("?token=", ""), ("?token=wrong", ""), ("", "circuitlens-8050=wrong")):
                headers = {"Cookie": cookie} if cookie else {}
                answer = Client(asker.guard).open(path + query, method=method, base_url=HERE, headers=headers)
                assert answer.status_code == 403, (path, method)
                assert answer.text == ("" if method == "HEAD" else f"{NO_TOKEN}\n")
                assert "Set-Cookie" not in answer.headers
    assert "open the whole address that was printed" in NO_TOKEN.lower()


def test_the_token_of_the_address_makes_a_cookie_of_this_port(cats: Circuit) -> None:
    asker = Asker(Session([cats]))
    cookie = asker.get("/").headers["Set-Cookie"]
    assert cookie == f"circuitlens-8050={asker.guard.token}; HttpOnly; Path=/; SameSite=Strict"
    asker.query = {}
    assert asker.get("/_dash-layout").status_code == 200
    assert asker.get("/", **{"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}).status_code == 200
    # A page of another port is of the same site: a frame of it has the cookie, and must not be enough.
    assert asker.get("/", **{"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Mode": "navigate"}).status_code == 403
    elsewhere = asker.client.get("/", base_url="http://127.0.0.1:8051")
    assert elsewhere.status_code == 403


def test_a_file_is_closed_when_the_browser_leaves_midway() -> None:
    """Werkzeug's server closes an answer only if the connection can still be read: so it is read before it is sent."""
    closed: list[bool] = []

    def page(environ: WSGIEnvironment, start_response: StartResponse) -> ClosingIterator:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ClosingIterator(iter([b"one", b"two"]), lambda: closed.append(True))

    guard = Guard(page)
    answer = guard(create_environ(f"/?token={guard.token}", "http://127.0.0.1:8050"), lambda *_: lambda _: None)
    assert closed == [True]
    assert b"".join(answer) == b"onetwo"


def test_two_tokens_are_never_the_same(cats: Circuit) -> None:
    one, two = Asker(Session([cats])), Asker(Session([cats]))
    assert len({one.guard.token, two.guard.token}) == 2
    assert len(one.guard.token) >= 40
    two.query = one.query
    two.client.delete_cookie("circuitlens-8050", domain="127.0.0.1")
    assert two.get("/").status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9", 200),
        ("LOCALHOST:8050", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("127.0.0.1:8050@evil.example", 400),
        ("127.0.0.1:", 400),
        ("0.0.0.0", 400),
        ("localhost,evil.example", 400),
        ("", 400),
    ],
)
def test_a_foreign_host_is_refused_before_anything_else(asker: Asker, host: str, status: int) -> None:
    """A name that someone has resolve to 127.0.0.1: refused with the token as without, for files as for the page."""
    for path in ("/", "/_dash-layout", "/assets/page.css", "/assets/nothing"):
        answer = asker.get(path, Host=host)
        assert answer.status_code == (404 if path.endswith("nothing") and status == 200 else status)
        assert status == 200 or answer.text == f"{FOREIGN_HOST}\n"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"Origin": HERE, "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "http://127.0.0.1:8051", "Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "http://localhost:8050"}, True),
        ({"Origin": "null"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
    ],
)
def test_another_page_in_the_browser_can_start_nothing(asker: Asker, headers: dict[str, str], refused: bool) -> None:
    focused = {"circuit": 0, "other": None, "node": None, "edge": None, "labels": {}}
    body = asker.body("detail", {"focused.data": focused}, "focused.data")
    answer = asker.post(body, **headers)
    assert answer.status_code == (403 if refused else 200)
    assert not refused or answer.text == f"{FOREIGN_PAGE}\n"


def test_another_page_can_lead_here_but_read_nothing(asker: Asker) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert asker.get("/", **elsewhere, **{"Sec-Fetch-Mode": "navigate"}).status_code == 200
    for mode in ("no-cors", "cors"):
        answer = asker.get("/_dash-layout", **elsewhere, **{"Sec-Fetch-Mode": mode})
        assert (answer.status_code, answer.text) == (403, f"{FOREIGN_PAGE}\n")


def test_the_browser_is_told_to_load_nothing_from_elsewhere(asker: Asker) -> None:
    """Of every answer, a refusal's too. Nothing is evaluated, and no script stands in the page but Dash's one."""
    for answer in (asker.get("/"), asker.get("/assets/page.css"), asker.get("/", Host="evil.example")):
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert re.fullmatch(r"'self' 'sha256-[\w+/=]+'", policy["script-src"])
        assert policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "http://127.0.0.1:* http://localhost:*"
        assert not re.search(r"https:|unsafe-eval|\s\*", answer.headers["Content-Security-Policy"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_a_request_has_a_bounded_size(asker: Asker) -> None:
    answer = asker.post(b" " * (MOST + 1))
    assert (answer.status_code, answer.text) == (413, f"{TOO_LARGE}\n")
    assert asker.post(b" " * 1000).status_code == 400
    answer = asker.post(b"", **{"Transfer-Encoding": "chunked"})
    assert (answer.status_code, answer.text) == (411, f"{NO_LENGTH}\n")


# Another user of the machine

STRANGER = """
import encodings.idna, json, os, sys, urllib.error, urllib.request
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(os.getuid(), file=sys.stderr)
for path, body, headers in json.load(sys.stdin):
    data = None if body is None else body.encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(path, data, headers), timeout=20) as answer:
            print(json.dumps([answer.status, answer.read().decode("utf-8", "replace")]))
    except urllib.error.HTTPError as error:
        print(json.dumps([error.code, error.read().decode("utf-8", "replace")]))
"""


@pytest.fixture
def saved(cats: Circuit, toy: Adapter, tmp_path: Path) -> Iterator[tuple[server.Viewer, Path]]:
    path = tmp_path / "cats.json"
    cats.save(path)
    viewer = server.start([circuitlens.open(path)], paths=[path], adapters=[toy])
    yield viewer, path
    viewer.close()


def test_another_user_of_the_machine_reads_and_writes_nothing(saved: tuple[server.Viewer, Path], asker: Asker) -> None:
    """Every path, and every callback with what the page itself would send: as another user where this one may become
    one, else as a program of the same user. The page's reader then does the same, and it works.
    """
    viewer, path = saved
    before = path.read_bytes()
    values = {
        "kept.data": {"circuit": 0, "state": SAVED},
        "given.data": {"circuits": [{"annotations": None}]},
        "shown.data": {"circuit": 0, "other": None, "as": "side"},
    }
    base = viewer.url.split("/?")[0]
    json_headers = {"Content-Type": "application/json", "Origin": base}
    cookie = {"Cookie": f"circuitlens-{urlsplit(base).port}=guessed"}
    requests: list[tuple[str, str | None, dict[str, str]]] = [
        (base + one, None, headers) for one in paths(asker) for headers in ({}, cookie)
    ]
    for output in asker.outputs():
        body = asker.body(output, values)
        body["changedPropIds"] = [f"{one['id']}.{one['property']}" for one in body["inputs"]][:1]
        requests.append((base + "/_dash-update-component", json.dumps(body), json_headers))
    command = [sys.executable, "-I", "-c", STRANGER]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=True, cwd="/")
    assert int(done.stderr) == (os.getuid() or 65534)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests) > 60
    assert [answer for answer in answers if answer != [403, f"{NO_TOKEN}\n"]] == []
    assert path.read_bytes() == before
    body = asker.body("..status", values, "save.n_clicks")
    request = urllib.request.Request(at(viewer.url, "_dash-update-component"), json.dumps(body).encode(), json_headers)
    assert "Saved to cats.json." in urllib.request.urlopen(request).read().decode()
    assert circuitlens.open(path).annotations is not None


def test_the_browser_is_not_started_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program is started with can be read by all users: the address is in a file that they can't read."""
    opened: list[str] = []
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    server.open_page("http://127.0.0.1:8050/?token=secret")
    (address,) = opened
    assert "secret" not in address
    file = Path(urllib.request.url2pathname(urlsplit(address).path))
    assert "url=http://127.0.0.1:8050/?token=secret" in file.read_text()
    assert file.parent.stat().st_mode & 0o077 == 0


# The environment

SERVED = """
import re, urllib.request
import circuitlens
from circuitlens.viewer import server
circuit = circuitlens.find(circuitlens.load("toy"), prompt="The cats", answer="run", distractor="runs")
viewer = server.start([circuit])
for path in ("", "_dash-layout", "_dash-dependencies", "any/thing"):
    text = urllib.request.urlopen(viewer.url.replace("/?", f"/{path}?")).read().decode()
    print(re.sub(r'"end_id":"[^"]*"', "", text))
viewer.close()
"""


def test_variables_of_the_environment_change_nothing() -> None:
    """Those that Dash reads now, by its own list, and Flask's; some would have it fail, some load from elsewhere."""
    from dash import _configs

    hostile = {"HOT_RELOAD_INTERVAL": "x", "DEBUG": "true", "ASSETS_EXTERNAL_PATH": "https://evil.example/"}
    named = [name for name in _configs.load_dash_env_vars() if name.startswith("DASH_")]
    assert {"DASH_COMPRESS", "DASH_URL_BASE_PATHNAME", "DASH_REQUESTS_PATHNAME_PREFIX"} <= set(named)
    changed = {name: hostile.get(name.removeprefix("DASH_"), "/elsewhere/") for name in named}
    changed |= {"REACT_VERSION": "1.0", "FLASK_DEBUG": "1", "HOST": "0.0.0.0", "PORT": "1", "dash_debug": "true"}
    changed |= {"DASH_SERVE_LOCALLY": "false", "DASH_MCP_ENABLED": "true", "DASH_PRUNE_ERRORS": "true"}
    told = []
    for more in ({}, changed):
        environment = {**{k: v for k, v in os.environ.items() if not k.startswith("DASH_")}, **more}
        done = subprocess.run(
            [sys.executable, "-c", SERVED], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert "graphs.js" in told[0]
    assert told[0] == told[1]
