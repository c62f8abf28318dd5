"""A sweep's folder as a section: its numbers as matrices of two settings, and all its units."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from circuits.base.display import visible
from circuits.base.errors import OptionError
from viz.matrix import axes, matrix_of, numbers_in, settings_in, varying
from viz.page.section import Listing, Section, View
from viz.screen.matrix import matrix_figure
from viz.sweeps import Sweep, SweepReader

MOST_VIEWS = 6
"""Numbers of which the page has a matrix."""
MOST_VALUES = 12
"""Values of a setting that are named."""


def sweep_section(folder: Path) -> Section:
    """All finished units of a sweep; OptionError where there is none."""
    sweep = SweepReader(folder).look(patience=None)
    done = [unit for unit in sweep.units if not unit.error]
    if not done:
        raise OptionError(f"{folder} holds no finished unit of a sweep")
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
    return Section(
        title=f"Sweep {visible(folder.resolve().name)}",
        kind="sweep",
        lead=sweep.says(),
        says="Cells hold the mean and the number of units; hover for their spread.",
        facts={visible(name): _some(each) for name, each in varying(values).items()},
        views=views,
        listings=[Listing("Units", [*settings, *shown, "left out"], rows), *_failures(sweep)],
    )


def _failures(sweep: Sweep) -> list[Listing]:
    """Units that failed or are damaged, and why; no table where there is none."""
    rows = [
        [visible(sweep.labels.get(unit.key, unit.key[:12])), visible(unit.error)]
        for unit in sweep.bad
    ]
    return [Listing("Failed or damaged", ["unit", "why"], rows)] if rows else []


def _some(values: Sequence[str]) -> str:
    """The values of a setting, of many the first."""
    more = len(values) - MOST_VALUES
    named = ", ".join(map(visible, values[:MOST_VALUES]))
    return f"{named} and {more:,} more" if more > 0 else named
