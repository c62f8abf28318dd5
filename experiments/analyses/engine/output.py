"""A report's files: summary.json, report.md, report.html, tables/ and figures/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.origin import SUMMARY, check_writable, listed, staged
from circuits.base.plain import plain
from circuits.base.records import read_json
from circuits.base.stamps import SCHEMA
from circuits.base.writing import atomic_write, save_json
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.page import html_page, markdown_page

PICTURES = (".svg", ".pdf")
OWN = {"tables": (".parquet",), "figures": PICTURES}
PAGES = ("report.html", "report.md", SUMMARY)


def check_place(folder: Path, schema: str, names: Sequence[str] = PAGES) -> None:
    """Errors of `check_writable`; OptionError too for files of these names that are another's.

    They are a report's own where the summary among them has the report's schema.
    """
    check_writable(folder)
    try:
        own = read_json(folder / SUMMARY)[SCHEMA] == schema
    except (FileFormatError, KeyError, TypeError):
        own = False
    for name in () if own else names:
        if (folder / name).is_file():
            raise OptionError(
                f"`out` {folder} holds a file {name} that is of no earlier report; it is kept: "
                "name another folder"
            )


def write_report(run: Run, folder: Path) -> tuple[Path, ...]:
    """Write every file of a report, all or none; returns the paths, the page first.

    OptionError where a table or a picture has the name of a file there that no report wrote.
    """
    report = run.report
    tables = [f"tables/{each.name}.parquet" for each in report.tables]
    drawn = [(f"figures/{each.name}{end}", each) for each in report.figures for end in PICTURES]
    written = [*tables, *(name for name, _ in drawn)]
    check_writable(folder, (), written)
    with staged(folder, _of_earlier(folder)) as stage:
        for table, name in zip(report.tables, tables, strict=True):
            table.save_parquet(stage / name)
        for name, figure in drawn:
            (stage / name).parent.mkdir(exist_ok=True)
            figure.draw(stage / name, run.provenance)
        atomic_write(stage / PAGES[0], html_page(run, stage))
        atomic_write(stage / PAGES[1], markdown_page(run))
        save_json(plain({**run.as_dict(), "written": written}), stage / SUMMARY)
    return tuple(folder / name for name in (*PAGES, *written))


def _of_earlier(folder: Path) -> set[str]:
    """Tables and pictures that the folder's earlier report says it wrote; a user's are none."""
    own = {(place, suffix) for place, suffixes in OWN.items() for suffix in suffixes}
    paths = map(PurePosixPath, listed(folder))
    return {
        str(path) for path in paths if len(path.parts) == 2 and (path.parts[0], path.suffix) in own
    }
