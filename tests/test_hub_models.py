"""What is said of a model that the hub does not give, held against stand-ins on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest
from huggingface_hub import constants

from circuits.base.errors import ModelNotFoundError
from circuits.model.sources import _LoginStays, resolve
from tests.tiny import tiny_model

PATH = "/somebody/model/resolve/main/config.json"


class _Answers(BaseHTTPRequestHandler):
    server: _Hub

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, headers = self.server.answers.get(self.path, (404, {}))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()


class _Hub(ThreadingHTTPServer):
    """Status and headers by path; `asked` has every request's path and login."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def _running() -> Iterator[_Hub]:
    with _Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Hub]:
    with _running() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield server


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {}, "has no model 'somebody/model', or only after a login"),
        (401, {"X-Error-Code": "RepoNotFound"}, "has no model 'somebody/model', or only after"),
        (404, {}, "has no model 'somebody/model', or only after a login"),
        (404, {"X-Error-Code": "EntryNotFound"}, "without config.json"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision 'main' of 'somebody/model'"),
        (401, {"X-Error-Code": "GatedRepo"}, "accept its terms"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept its terms"),
        (403, {}, "refuses access to 'somebody/model'"),
        (503, {}, "answered 503 for 'somebody/model'"),
    ],
)
def test_a_refusal_says_what_the_hub_said(hub: _Hub, status: int, headers: dict, words: str):
    hub.answers[PATH] = status, headers
    with pytest.raises(ModelNotFoundError, match=words) as caught:
        resolve("somebody/model")
    assert "\n" not in str(caught.value)


def test_who_is_logged_in_is_not_sent_to_log_in(hub: _Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with pytest.raises(ModelNotFoundError, match="no model 'somebody/model' that your login may"):
        resolve("somebody/model")
    told = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.answers[PATH] = 401, told
    with pytest.raises(ModelNotFoundError, match="does not take your token"):
        resolve("somebody/model")


def test_a_login_goes_along_within_the_hub_and_to_no_other_server(
    hub: _Hub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    moved = "/somebody/renamed/resolve/main/config.json"
    with _running() as other:
        hub.answers[PATH] = 307, {"Location": moved}
        hub.answers[moved] = 302, {"Location": f"{other.address}/file"}
        other.answers["/file"] = 200, {}
        assert resolve("somebody/model").weights == "somebody/model"
        assert hub.asked == [(PATH, "Bearer hf_mine"), (moved, "Bearer hf_mine")]
        assert other.asked == [("/file", None)]


def test_a_login_saved_in_the_token_file_goes_along(hub: _Hub):
    hub.answers[PATH] = 200, {}
    resolve("somebody/model")
    Path(constants.HF_TOKEN_PATH).write_text("hf_saved\n")
    resolve("somebody/model")
    assert hub.asked == [(PATH, None), (PATH, "Bearer hf_saved")]


@pytest.mark.parametrize("revision", ["a" * 40, "b" * 40])
def test_a_saved_model_has_the_tokenizers_files_of_its_own_revision(
    revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = tmp_path / "models--somebody--model"
    for sha in ("a" * 40, "b" * 40):
        made = cache / "snapshots" / sha
        made.mkdir(parents=True)
        (made / "vocab.txt").write_text(sha)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    model = tiny_model("gpt2")
    model.provenance = {**model.provenance, "revision": revision}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(model.tokenizer.hf, "name_or_path", "somebody/model")
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_text() == revision


@pytest.mark.parametrize("proxy", [None, "proxy.example:3128"])
def test_a_login_stays_within_its_server_behind_a_proxy_too(proxy: str | None) -> None:
    request = Request("https://hub.example/old/config.json", method="HEAD")
    request.add_unredirected_header("Authorization", "Bearer mine")
    if proxy is not None:
        request.set_proxy(proxy, "http")

    def login(onward: str) -> str | None:
        found = _LoginStays().redirect_request(request, None, 302, "Found", Message(), onward)
        assert found is not None
        return found.get_header("Authorization")

    assert login("https://hub.example/new/config.json") == "Bearer mine"
    for elsewhere in ("https://files.example/config.json", "http://hub.example/new/config.json"):
        assert login(elsewhere) is None
