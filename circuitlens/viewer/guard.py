"""Who may ask the page: a reader who was given its address, from a page of its own, in requests of a bounded size.

Anyone on the machine reaches a port of 127.0.0.1, and so does every page that a browser shows. So each request has to
bring the page's token: in its address, as the address that is printed has it, or in the cookie that this sets.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from werkzeug.http import dump_cookie
from werkzeug.wrappers import Request, Response

from circuitlens.files import format_bytes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MOST = 16_000_000
"""Bytes of a request: well above the annotations of the largest circuit that the page draws."""

HOSTS = ("127.0.0.1", "localhost")
"""What this machine's loopback address is called; a notebook on one of them may show the page in a frame."""

NO_TOKEN = (
    "This page needs its token. Open the whole address that was printed where the page was started "
    '("Viewing http://127.0.0.1:…/?token=…"); in Python it is viewer.url.'
)
FOREIGN_HOST = "This page answers requests for 127.0.0.1 and localhost only: open the address that was printed."
FOREIGN_PAGE = "This request comes from another page: open this page's own address in the browser's address bar."
NO_LENGTH = "This request does not say how long it is: send its Content-Length."
TOO_LARGE = f"A request may have {format_bytes(MOST)}: send a smaller one."


class Guard:
    """A WSGI application that hands on only what a reader of the page asks.

    Args:
        page: the page as a WSGI application.
        scripts: hashes of the scripts that stand in the page itself, as a content security policy names them.
    """

    def __init__(self, page: WSGIApplication, scripts: Sequence[str] = ()):
        self.token = secrets.token_urlsafe(32)
        self._page = page
        self._headers = _headers(scripts)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request of the page, or refuse it with a sentence."""
        request = Request(environ)
        given = self._is_token(request.args.get("token"))
        refused = _foreign(request) or self._without_token(request, given) or _too_large(request)
        # Read here to the end: werkzeug's server does not close what it was sending when a browser leaves midway.
        answer = refused or Response.from_app(self._page, environ, buffered=True)
        answer.headers.extend(self._headers)
        if given and refused is None:
            cookie = dump_cookie(_cookie(request), self.token, httponly=True, samesite="Strict")
            answer.headers.add("Set-Cookie", cookie)
        return answer(environ, start_response)

    def _without_token(self, request: Request, given: bool) -> Response | None:
        # A page on another port of this machine is of the same site, so that a frame of it would have the cookie.
        framed = request.headers.get("Sec-Fetch-Dest", "") in ("iframe", "frame", "embed", "object")
        if given or (not framed and self._is_token(request.cookies.get(_cookie(request)))):
            return None
        return _refusal(403, NO_TOKEN)

    def _is_token(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _foreign(request: Request) -> Response | None:
    """A refusal of what comes from elsewhere, None for what does not."""
    host = re.fullmatch(r"([a-z0-9.]+)(:\d{1,5})?", request.environ.get("HTTP_HOST", "").lower())
    if host is None or host[1] not in HOSTS:
        return _refusal(400, FOREIGN_HOST)
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
    followed = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    if not followed and (site not in ("same-origin", "none") or origin not in (None, f"http://{host[0]}")):
        return _refusal(403, FOREIGN_PAGE)
    return None


def _too_large(request: Request) -> Response | None:
    if "Transfer-Encoding" in request.headers:  # a browser says how long a request is, and so it can't go on for ever
        return _refusal(411, NO_LENGTH)
    return _refusal(413, TOO_LARGE) if (request.content_length or 0) > MOST else None


def _cookie(request: Request) -> str:
    """The cookie's name: cookies are one for all ports of a host, and each port has a page of its own."""
    port = re.search(r":(\d+)$", request.environ.get("HTTP_HOST", ""))
    return f"circuitlens-{port[1] if port else 80}"


def _refusal(status: int, sentence: str) -> Response:
    return Response(f"{sentence}\n", status, content_type="text/plain; charset=utf-8")


def _headers(scripts: Sequence[str]) -> list[tuple[str, str]]:
    """What every answer says to the browser: everything comes from here, and nothing goes elsewhere."""
    policy = {
        "default-src": ["'none'"],
        "script-src": ["'self'", *scripts],
        # Mantine, Cytoscape, Plotly and AG Grid write style elements of their own, whose text depends on the page.
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],  # Plotly's icons, and the picture that an export is made of
        "font-src": ["'self'", "data:"],  # AG Grid's icons
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        # X-Frame-Options can only say all or none, so that it is left out: the notebook that shows the page is of
        # another port.
        "frame-ancestors": [f"http://{host}:*" for host in HOSTS],
    }
    return [
        ("Content-Security-Policy", "; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items())),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),  # the address has the token
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ]
