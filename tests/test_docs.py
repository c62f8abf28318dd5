"""The documentation is built without a warning, and reads from nowhere but its own folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

import knowledge_circuits

ROOT = Path(__file__).parent.parent
SOURCES = ("docs", "circuits", "knowledge_circuits", "locate", "viz", "experiments")
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
"""What a browser fetches by itself; a link is only followed by a reader."""

pytestmark = pytest.mark.skipif(find_spec("zensical") is None, reason="the extra docs is absent")


class Fetched(HTMLParser):
    """Collects the addresses that a page has the browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if (tag, name) in LOADED and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build from nothing, in a folder of its own."""
    folder = tmp_path_factory.mktemp("docs")
    for name in SOURCES:
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"),
        )
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out" / "docs"


@pytest.mark.slow
def test_no_page_or_style_asks_another_host(site: Path):
    for page in site.rglob("*.html"):
        parser = Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        outside = [each for each in parser.addresses if re.match(r"(https?:)?//", each)]
        assert outside == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text("utf-8"))


def test_everything_that_a_page_loads_is_there(site: Path):
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # shown at any address, so its own are absolute
            continue
        parser = Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        for each in parser.addresses:
            path = unquote(each.partition("#")[0].partition("?")[0])
            assert not path or path.startswith("data:") or (page.parent / path).exists(), each


def test_the_reference_documents_the_verbs_and_the_methods(site: Path):
    door = (site / "reference" / "door.html").read_text(encoding="utf-8")
    for name in knowledge_circuits._VERBS:
        assert f'id="knowledge_circuits.verbs.{name}"' in door, name
    for name in knowledge_circuits._CHANGES:
        assert f'id="knowledge_circuits.changes.{name}"' in door, name
    for name in knowledge_circuits._LOOKS:
        assert f'id="knowledge_circuits.looks.{name}"' in door, name
    for name in knowledge_circuits._ACTS:
        assert f'id="knowledge_circuits.acts.{name}"' in door, name
    page = (site / "methods" / "acdc.html").read_text(encoding="utf-8")
    assert "reverse topological order" in page  # the module's own docstring
