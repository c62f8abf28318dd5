"""A report's files: summary.json, report.md, report.html, tables/ and figures/."""

from __future__ import annotations

from pathlib import Path

from circuits.base.plain import plain
from circuits.base.writing import atomic_write, save_json
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.page import html_page, markdown_page

PICTURES = (".svg", ".pdf")
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
    _remove_others(folder, {*tables, *pictures})
    pages = [folder / name for name in ("report.html", "report.md", SUMMARY)]
    atomic_write(pages[0], html_page(run, folder))
    atomic_write(pages[1], markdown_page(run))
    save_json(plain(run.as_dict()), pages[2])
    return (*pages, *tables, *pictures)


def _remove_others(folder: Path, written: set[Path]) -> None:
    """Tables and pictures of an earlier report that this one does not have."""
    for place, suffixes in (("tables", (".parquet",)), ("figures", PICTURES)):
        for path in (folder / place).glob("*"):
            if path.suffix in suffixes and path not in written:
                path.unlink(missing_ok=True)
