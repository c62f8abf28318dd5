"""Sections as one HTML document that needs no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from circuits.base.display import visible
from circuits.base.glossary import Marker
from circuits.base.origin import timestamp
from circuits.base.writing import to_json
from viz.page.section import Section

ASSETS = Path(__file__).parent / "assets"
SCENE = Path(__file__).parent.parent / "app" / "assets" / "kc.js"
"""The app's own drawing of a scene: which edges are shown, and what is in focus."""
CDN = "https://cdn.plot.ly"
FIRST_ROWS = 10
"""Rows of a table before the reader asks for more."""


def document(sections: Sequence[Section], title: str, *, cdn: bool = False) -> str:
    """The page of these sections; see `viz.page.write`."""
    page, marker = _environment().get_template("page.html.j2"), Marker()
    return page.render(
        title=visible(title),
        sections=sections,
        data=Markup(_embedded([_drawn(each) for each in sections])),
        plotly=_plotly(cdn),
        policy=_policy(cdn),
        style=Markup(_asset("page.css")),
        scripts=[Markup(SCENE.read_text(encoding="utf-8")), Markup(_asset("page.js"))],
        origin=_origin,
        cell=_cell,
        first_rows=FIRST_ROWS,
        version=_version(),
        created=timestamp(),
        mark=lambda text: marker.html(visible(text)),
        explained=marker.first,
        terms=marker.html_section,
    )


def _drawn(section: Section) -> dict[str, Any]:
    """What the script draws of a section; words and tables stand in the page itself."""
    graph = None if section.graph is None else asdict(section.graph)
    return {"graph": graph, "views": [asdict(view) for view in section.views]}


def _embedded(value: Any) -> str:
    """JSON that no parser of HTML can mistake for markup."""
    text = to_json(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plotly(cdn: bool) -> Markup:
    """The element that brings plotly.js: itself, or a link whose content the browser checks."""
    source = get_plotlyjs()
    if not cdn:
        return Markup(f"<script>{source}</script>")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Markup(
        f'<script src="{CDN}/plotly-{get_plotlyjs_version()}.min.js" '
        f'integrity="sha256-{digest}" crossorigin="anonymous"></script>'
    )


def _policy(cdn: bool) -> str:
    """What the browser may load: nothing from anywhere, but plotly.js where that is asked for."""
    scripts = f"'unsafe-inline'{f' {CDN}' if cdn else ''}"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:"
    )


def _origin(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """A provenance as names and texts, nested names with dots; empty values are left out."""
    rows: list[tuple[str, str]] = []
    for name, each in value.items():
        path = f"{before}{name}"
        if isinstance(each, Mapping):
            rows += _origin(each, f"{path}.")
        elif each is not None and each != "" and each != []:
            text = ", ".join(map(str, each)) if isinstance(each, list | tuple) else str(each)
            rows.append((visible(path), visible(text)))
    return rows


def _cell(value: Any) -> str:
    """A table's cell: four digits of a number, thousands apart."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version() -> str:
    try:
        return version("knowledge-circuits")
    except PackageNotFoundError:
        return ""


def _in_a_line(value: Any) -> Any:
    """Text of models and files without what would move the text around it; our own as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        finalize=_in_a_line,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
