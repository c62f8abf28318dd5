"""The notebooks run, and written as .ipynb with their outputs and as pages of the documentation.

    python -m experiments.workshop.notebooks --out out/notebooks --pages out/docs/notebooks

A notebook that ran with the same source and the same code is not run again. The pages share one
plotly.js beside them, and ask nothing of a network.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from nbclient import NotebookClient
from plotly.offline import get_plotlyjs

from circuits.base.writing import atomic_write, to_json

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "notebooks"
CODE = ("circuits", "locate", "viz", "knowledge_circuits", "experiments/analyses")
PLOTLY = "application/vnd.plotly.v1+json"
SECONDS = 1200
"""Longest that a cell may take."""


def executed(source: Path, out: Path, code: str) -> nbformat.NotebookNode:
    """The notebook with its outputs, from `out` where that ran with the same source and code."""
    target = out / f"{source.stem}.ipynb"
    text = source.read_text(encoding="utf-8")
    made_of = hashlib.sha256((text + code).encode()).hexdigest()
    if target.is_file():
        known = nbformat.read(target, as_version=4)
        if known.metadata.get("made_of") == made_of:
            return known
    notebook = jupytext.reads(text, fmt="py:percent")
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.execute()
    notebook.metadata["made_of"] = made_of
    atomic_write(target, nbformat.writes(notebook))
    return notebook


def page(notebook: nbformat.NotebookNode, name: str, names: Sequence[str]) -> str:
    """A notebook with its outputs as HTML; plotly.js is the file beside it."""
    markdown = MarkdownIt("commonmark").enable("table")
    cells: list[dict[str, Any]] = []
    figures: list[dict[str, Any]] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.append({"prose": Markup(markdown.render(cell.source))})
            continue
        outputs: list[dict[str, Any]] = []
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if PLOTLY in data:
                figures.append({part: data[PLOTLY].get(part) for part in ("data", "layout")})
                height = (data[PLOTLY].get("layout") or {}).get("height", 450)
                outputs.append({"figure": len(figures) - 1, "height": height})
            elif "text/html" in data:  # our summaries and pandas' tables, which escape their text
                outputs.append({"html": Markup(data["text/html"])})
            else:
                outputs.append({"text": output.get("text") or data.get("text/plain", "")})
        cells.append({"code": cell.source, "outputs": outputs})
    text = to_json(figures).replace("<", "\\u003c")
    return (
        _environment()
        .get_template("notebook.html.j2")
        .render(name=name, names=names, cells=cells, figures=Markup(text))
    )


def write_pages(out: Path, pages: Path | None, wanted: Sequence[str] = ()) -> list[Path]:
    """Run what has to be run, and write .ipynb and pages; the paths of all."""
    code, written = _code(), []
    sources = [each for each in sorted(SOURCES.glob("*.py")) if not wanted or each.stem in wanted]
    names = [each.stem for each in sources]
    for source in sources:
        print(f"{source.stem} ...", flush=True)
        notebook = executed(source, out, code)
        written.append(out / f"{source.stem}.ipynb")
        if pages is not None:
            atomic_write(pages / f"{source.stem}.html", page(notebook, source.stem, names))
            written.append(pages / f"{source.stem}.html")
    if pages is not None:
        atomic_write(pages / "plotly.min.js", get_plotlyjs())
    return written


def _code() -> str:
    """A hash over the code that notebooks run."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="of notebooks; all if none is given")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "notebooks")
    parser.add_argument("--pages", type=Path, help="folder for the pages")
    given = parser.parse_args()
    for path in write_pages(given.out, given.pages, given.names):
        print(path)


if __name__ == "__main__":
    main()
