"""A small stand-in of the hub on this machine: one that makes, fills, lists and gives data sets."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

SHA = "0" * 40
TOKEN = "hf_token"


class Hub(ThreadingHTTPServer):
    """Files by repository; `asked` has every request, as method and path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def answer(self, value: Any, status: int = 200) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if isinstance(value, bytes):
            self.send_header("ETag", f'"{hashlib.sha1(value).hexdigest()}"')
            self.send_header("X-Repo-Commit", SHA)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(f"{self.command} {path}")
        if path == "/":
            return self.answer({})
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        files = self.server.repos.get("/".join(parts[:2]))
        if files is None:
            return self.answer({"error": "Repository not found"}, 404)
        if path.startswith("/api/") and parts[2:3] == ["revision"]:
            listed = [{"rfilename": name} for name in sorted(files)]
            return self.answer({"id": "/".join(parts[:2]), "sha": SHA, "siblings": listed})
        if path.startswith("/api/") and parts[2:3] == ["tree"]:
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": SHA}
                for name, data in sorted(files.items())
            ]
            return self.answer(listed)
        if path.startswith("/api/"):
            return self.answer({"id": "/".join(parts[:2]), "sha": SHA, "siblings": []})
        name = "/".join(parts[4:])
        return self.answer(files[name]) if name in files else self.answer({}, 404)

    def do_POST(self) -> None:
        path, body = unquote(self.path.partition("?")[0]), self.body()
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid token"}, 401)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            self.server.repos.setdefault(repo, {})
            return self.answer({"url": f"{self.server.address}/datasets/{repo}"})
        parts = path.removeprefix("/api/datasets/").split("/")
        repo = "/".join(parts[:2])
        if parts[2:3] == ["preupload"]:
            files = json.loads(body)["files"]
            told = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            return self.answer({"files": [{**each, "shouldIgnore": False} for each in told]})
        if parts[2:3] == ["commit"]:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.address}/datasets/{repo}/commit/{SHA}"
            return self.answer({"commitUrl": url, "commitOid": SHA, "success": True})
        return self.answer({"error": path}, 404)


@contextmanager
def hub() -> Iterator[Hub]:
    """The stand-in, as long as the block lasts."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
