"""Pictures of the app for the README, taken in a headless Chromium of real results.

They show what a reader gets who runs the commands of the README: the demo circuit with a head
looked into, what an edit did, a prompt with parts switched off, and its logit lens.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from circuits.base.errors import OptionError
from circuits.base.writing import atomic_write

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.changes.rewired import Rewiring
    from locate.discovery import Discovery

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1440, 900)
PATIENCE = 60.0


def find_browser() -> tuple[str, str]:
    """Paths of browser and driver; OptionError says which is missing."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromium" if browser is None else "chromedriver"
        raise OptionError(
            f"{missing} is not installed (`make browser` installs it where that is possible)"
        )
    return browser, driver


@contextmanager
def open_browser(width: int = SIZE[0], height: int = SIZE[1]) -> Iterator[Any]:
    """A Selenium driver on a fresh profile; closed, with its files, when the block ends."""
    browser, driver_path = find_browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory(prefix="kc-browser-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(driver_path))
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            yield driver
        finally:
            driver.quit()


@contextmanager
def served(folder: Path, model: Model | None = None) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The app on a folder within the block: its address, and the results' ids by file name."""
    from werkzeug.serving import make_server

    from viz.app.context import Context
    from viz.app.library import Library
    from viz.app.server import HOST, free_port, make_app, quieten, warm_up

    context = Context(Library(folder))
    if model is not None:
        context.models.add(model)
    app = make_app(context)
    quieten()
    warm_up(context)
    server = make_server(HOST, free_port(), app.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    ids = {entry.name.partition(".")[0]: entry.id for entry in context.library.entries()}
    try:
        yield f"http://{HOST}:{server.server_port}/", ids
    finally:
        server.shutdown()
        thread.join(5)


def take_screens(
    model: Model, found: Discovery, edited: Rewiring, question: tuple[str, str, str], out: Path
) -> list[Path]:
    """Write pictures of a circuit, a difference, a live prompt and its lens; their paths."""

    words = dict(zip(("prompt", "subject", "answer"), question, strict=True))
    with tempfile.TemporaryDirectory(prefix="kc-screens-") as name:
        folder = Path(name)
        found.save(folder / "capitals")
        edited.save(folder / "edited" / "rewiring.kc.safetensors")
        with served(folder, model) as (url, ids), open_browser() as driver:
            views: dict[str, tuple[dict[str, Any], str]] = {
                "app-circuit": (
                    {"view": "circuit", "r": ids["capitals/circuit"], "node": "a6.h1"},
                    "return document.querySelector('#live-reading .bars')",
                ),
                "app-difference": (
                    {"view": "difference", "r": ids["edited/rewiring"], "n": 120},
                    "return document.querySelector('#followed .scatterlayer')",
                ),
                "app-try": (
                    {"view": "try", "model": model.name, **words, "off": "a6.h1~m2"},
                    "return document.querySelectorAll('.answers-side').length === 2",
                ),
                "app-lens": (
                    {"view": "try", "model": model.name, **words, "look": "lens"},
                    "return document.querySelector('#lens-grid .heatmaplayer')",
                ),
            }
            return [
                _take(driver, f"{url}?{urlencode(query)}", ready, out / f"{stem}.png")
                for stem, (query, ready) in views.items()
            ]


def _take(driver: Any, url: str, ready: str, path: Path) -> Path:
    driver.get(url)
    end = time.monotonic() + PATIENCE
    drawn = "return document.querySelector('#picture .shapelayer path')"
    table = "return document.querySelector('#edges-table .ag-row')"
    for sign in (ready,) if "look=" in url else (drawn, ready, table):
        while not driver.execute_script(sign):
            if time.monotonic() > end:
                raise OptionError(f"the app did not draw {url} within {PATIENCE:.0f} s")
            time.sleep(0.1)
    time.sleep(0.8)  # fonts and transitions
    atomic_write(path, _small(driver.get_screenshot_as_png()))
    return path


def _small(picture: bytes) -> bytes:
    """The picture in 256 colours, chosen so that rare ones, as thin lines have, stay themselves."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    few = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
