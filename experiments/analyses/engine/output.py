"""A report's files: summary.json, report.md, report.html, tables/ and figures/."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from circuits.base.plain import plain
from circuits.base.writing import atomic_write, save_json
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.page import html_page, markdown_page

PICTURES = (".svg", ".pdf")
OWN = {"tables": (".parquet",), "figures": PICTURES}
SUMMARY = "summary.json"


def write_report(run: Run, folder: Path) -> tuple[Path, ...]:
    """Write every file of a report; returns the paths, the page first."""
    tables = [folder / "tables" / f"{table.name}.parquet" for table in run.report.tables]
    for table, path in zip(run.report.tables, tables, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save_parquet(path)
    pictures: list[Path] = []
    for figure in run.report.figures:
        for suffix in PICTURES:
            path = folder / "figures" / f"{figure.name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.draw(path, run.provenance)
            pictures.append(path)
    written = [f"{path.parent.name}/{path.name}" for path in (*tables, *pictures)]
    for name in _of_earlier(folder) - set(written):
        (folder / name).unlink(missing_ok=True)
    pages = [folder / name for name in ("report.html", "report.md", SUMMARY)]
    atomic_write(pages[0], html_page(run, folder))
    atomic_write(pages[1], markdown_page(run))
    save_json(plain({**run.as_dict(), "written": written}), pages[2])
    return (*pages, *tables, *pictures)


def _of_earlier(folder: Path) -> set[str]:
    """Tables and pictures that the folder's earlier report says it wrote; a user's are none."""
    try:
        listed = json.loads((folder / SUMMARY).read_bytes())["written"]
    except (OSError, ValueError, KeyError, TypeError):  # no report, or one that lists nothing
        return set()
    own = {(place, suffix) for place, suffixes in OWN.items() for suffix in suffixes}
    paths = [PurePosixPath(name) for name in listed if isinstance(name, str)]
    return {
        str(path) for path in paths if len(path.parts) == 2 and (path.parts[0], path.suffix) in own
    }
