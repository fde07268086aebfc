"""The page without a browser: its addresses, and requests of it as its own script sends them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dash import Dash
from werkzeug.test import Client, TestResponse

from circuitlens.viewer.app import create_app
from circuitlens.viewer.guard import Guard
from circuitlens.viewer.session import Session

HERE = "http://127.0.0.1:8050"


def at(url: str, path: str) -> str:
    """Another path of the page with this address, with its token."""
    return url.replace("/?", f"/{path}?")


class Asker:
    """A page and who asks it; with the token, unless `token` is given.

    `ask` sends a callback what the page's script does, with values by the names of properties.
    """

    def __init__(self, session: Session, token: str | None = None):
        self.session = session
        self.app: Dash = create_app(session)
        self.guard = Guard(self.app.server, self.app.csp_hashes())
        self.client = Client(self.guard)
        self.query = {"token": self.guard.token if token is None else token}
        self.get("/")  # Dash finishes its set-up with the first request

    def get(self, path: str, **headers: str) -> TestResponse:
        whole = f"{path}{'&' if '?' in path else '?'}{urlencode(self.query)}"
        return self.client.get(whole, base_url=HERE, headers=headers, buffered=True)

    def post(self, body: object, **headers: str) -> TestResponse:
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        path, headers = "/_dash-update-component", {"Content-Type": "application/json", **headers}
        return self.client.post(path, base_url=HERE, query_string=self.query, headers=headers, data=data, buffered=True)

    def outputs(self) -> list[str]:
        """The outputs of the callbacks that the server answers."""
        return [output for output, known in self.app.callback_map.items() if "callback" in known]

    def body(self, output: str, values: Mapping[str, Any], changed: str = "") -> dict[str, Any]:
        """The request of a callback whose output begins with this."""
        (whole,) = (one for one in self.outputs() if one.startswith(output))
        known = self.app.callback_map[whole]

        def filled(wanted: Mapping[str, str]) -> Any:
            name = f"{wanted['id']}.{wanted['property']}"
            if wanted["id"].startswith("{"):
                kind = json.loads(wanted["id"])["type"]
                options = (one for one in values.get("options", []) if one["id"]["type"] == kind)
                return [{**one, "property": wanted["property"]} for one in options]
            return {**wanted, **({"value": values[name]} if name in values else {})}

        parts = [
            dict(zip(("id", "property"), one.rsplit(".", 1), strict=True)) for one in whole.strip(".").split("...")
        ]
        return {
            "output": whole,
            "outputs": parts if whole.startswith("..") else parts[0],
            "inputs": [filled(wanted) for wanted in known["inputs"]],
            "state": [filled(wanted) for wanted in known["state"]],
            "changedPropIds": [changed] if changed else [],
        }

    def ask(self, output: str, values: Mapping[str, Any], changed: str = "") -> TestResponse:
        return self.post(self.body(output, values, changed))
