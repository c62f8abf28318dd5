"""A report's files: summary.json, report.md, report.html, tables/ and figures/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuits.base.plain import plain
from circuits.base.writing import atomic_write, save_json
from experiments.analyses.engine.base import Analysis, Report
from experiments.analyses.engine.page import html_page, markdown_page
from experiments.analyses.engine.parts import Parts

PICTURES = (".svg", ".pdf")


def write_report(
    analysis: Analysis,
    config: Any,
    report: Report,
    parts: Parts,
    provenance: dict[str, Any],
    folder: Path,
) -> tuple[dict[str, Any], list[Path]]:
    """Write every file of a report; returns the summary and the paths, the page first."""
    tables = [folder / "tables" / f"{table.name}.parquet" for table in report.tables]
    for table, path in zip(report.tables, tables, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save_parquet(path)
    pictures: list[Path] = []
    for figure in report.figures:
        for suffix in PICTURES:
            path = folder / "figures" / f"{figure.name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.draw(path, provenance)
            pictures.append(path)
    _remove_others(folder, {*tables, *pictures})
    summary: dict[str, Any] = {
        "analysis": analysis.name,
        "question": analysis.question,
        "model": provenance["model"],
        "lead": report.lead,
        "claims": [claim.as_dict() for claim in report.claims],
        "left_out": dict(parts.skipped),
        "units": len(parts.values),
        "reused": parts.reused,
        "provenance": provenance,
    }
    pages = [folder / name for name in ("report.html", "report.md", "summary.json")]
    atomic_write(pages[0], html_page(analysis, config, report, parts, provenance, folder))
    atomic_write(pages[1], markdown_page(analysis, config, report, parts, provenance))
    save_json(plain(summary), pages[2])
    return summary, [*pages, *tables, *pictures]


def _remove_others(folder: Path, written: set[Path]) -> None:
    """Tables and pictures of an earlier report that this one does not have."""
    for place, suffixes in (("tables", (".parquet",)), ("figures", PICTURES)):
        for path in (folder / place).glob("*"):
            if path.suffix in suffixes and path not in written:
                path.unlink(missing_ok=True)
