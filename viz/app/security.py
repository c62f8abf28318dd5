"""What the server answers, and with which rules for the browser.

A page elsewhere can make a browser talk to 127.0.0.1, also under another name (DNS rebinding). So
the Host header must be a name of this machine, a request that says where it comes from must come
from here, and the answers' policy lets the page load nothing from anywhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, request

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_REQUEST = 4 * 2**20

STRANGE_HOST = (
    "This server answers to local names only. Behind another name, start it with that one: "
    "kc serve --allow-host NAME\n"
)


def is_loopback(host: str) -> bool:
    """Whether a server bound to this name or address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def secure(server: Flask, host: str, allowed: Sequence[str] = (), embedded: bool = False) -> None:
    """Refuse foreign Host and Origin headers, cap requests, and send a strict policy.

    `host` is what the server is bound to. Where that is open to the network, IP addresses pass as
    well, as a rebinding page needs a name. `embedded` lets a notebook of this machine frame it.
    """
    server.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
    names = LOCAL_NAMES | {host.lower().strip("[]")} | {name.lower() for name in allowed}
    is_open = not is_loopback(host)

    def known(netloc: str) -> bool:
        name = _hostname(netloc)
        return name is not None and (name in names or (is_open and _is_address(name)))

    @server.before_request
    def refuse_strangers() -> None:
        if not known(request.headers.get("Host", "")):
            abort(Response(STRANGE_HOST, 403, mimetype="text/plain"))
        origin = request.headers.get("Origin")
        if origin is not None and not known(urlsplit(origin).netloc):
            abort(Response("Requests from other sites are refused.\n", 403, mimetype="text/plain"))
        if request.method not in ("GET", "HEAD", "POST"):
            abort(405)

    @server.after_request
    def with_policy(response: Response) -> Response:
        for name, value in _headers(embedded).items():
            response.headers.setdefault(name, value)  # a report's page has a policy of its own
        return response


def _hostname(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _headers(embedded: bool) -> dict[str, str]:
    frames = "'self' http://localhost:* http://127.0.0.1:*" if embedded else "'none'"
    policy: dict[str, Any] = {
        "default-src": "'none'",
        # Dash starts itself by a script in the page.
        "script-src": "'self' 'unsafe-inline'",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "frame-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": frames,
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-site" if embedded else "same-origin",
    }
