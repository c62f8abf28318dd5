"""A sweep's folder as a section: its numbers as matrices of two settings, and all its units."""

from __future__ import annotations

import json
from pathlib import Path

from circuits.base.display import visible
from circuits.base.errors import OptionError
from circuits.files.sweep import read_file, unit_files
from circuits.files.units import Store
from viz.matrix import axes, matrix_of, numbers_in, settings_in, varying
from viz.page.section import Listing, Section, View
from viz.screen.matrix import matrix_figure

MOST_VIEWS = 6
"""Numbers of which the page has a matrix."""


def sweep_section(folder: Path) -> Section:
    """All finished units of a sweep; OptionError where there is none."""
    units = [read_file(path, key) for key, path, _ in unit_files(folder)]
    done = [unit for unit in units if not unit.error]
    if not done:
        raise OptionError(f"{folder} holds no finished unit of a sweep")
    planned = Store(folder).planned()
    values, numbers = settings_in(done), numbers_in(done)
    row, column = axes(values)
    shown = numbers[:MOST_VIEWS]
    views = [
        View(visible(name), json.loads(matrix_figure(matrix_of(done, row, column, name)).to_json()))
        for name in shown
    ]
    settings = list(varying(values)) or [row]
    rows = [
        [
            *(visible(unit.settings.get(name, "")) for name in settings),
            *(unit.numbers.get(name) for name in shown),
            visible(unit.left_out),
        ]
        for unit in done
    ]
    bad = len(units) - len(done) + len(Store(folder).errors())
    total = max(len(planned), len(units))
    return Section(
        title=f"Sweep {visible(folder.resolve().name)}",
        kind="sweep",
        lines=[f"{len(done):,} of {total:,} planned units are done, {bad:,} failed or damaged."],
        asked=", ".join(f"{name}: {len(each):,}" for name, each in varying(values).items()),
        says="Cells hold the mean and the number of units; hover for their spread.",
        views=views,
        listings=[Listing("Units", [*settings, *shown, "left out"], rows)],
    )
