"""The page of a sweep: what it holds, a matrix of two settings, and the units behind each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html

from circuits.base.display import visible
from circuits.files.sweep import Unit
from viz.app import parts
from viz.app.library import Entry, Library
from viz.app.state import ViewState
from viz.matrix import (
    LAST,
    Matrix,
    axes,
    chosen,
    in_order,
    matrix_of,
    settings_in,
    value_of,
    varying,
)
from viz.screen.matrix import COLUMN, least_width, matrix_figure
from viz.sweeps import Sweep

MOST_VALUES = 300
"""Values of a setting that are listed to choose from; of more, one is typed."""
MOST_UNITS = 100
MOST_BAD = 50
FILTER = "sweep-filter"


def sweep_page(library: Library, entry: Entry, state: ViewState) -> html.Div:
    """Filters and matrix at the left; the chosen cell's units, and what failed, at the right."""
    sweep = library.sweep(entry.id).look()
    picture, units = views(library, entry, sweep, state)
    notes = []
    if sweep.unread:
        notes.append(
            f"{sweep.unread:,} units are still being read: reload for them. `kc sweep table` on "
            "the folder makes this quick."
        )
    return html.Div(
        [
            html.Section(
                [
                    parts.picture_head(
                        visible(entry.name),
                        visible(sweep.says()),
                        *map(parts.note, notes),
                    ),
                    controls(sweep, state) if sweep.values else None,
                    html.Div(picture, id="sweep-matrix", className="picture-pane scroll"),
                ],
                className="centre",
            ),
            html.Aside(
                html.Div(
                    [
                        html.Div(units, id="sweep-units", **parts.aria(live="polite")),
                        *failures(sweep),
                    ],
                    className="right-top",
                ),
                className="right wide preview",
                **parts.aria(label="units"),
            ),
        ],
        className="work plain sweep",
    )


def controls(sweep: Sweep, state: ViewState) -> html.Div:
    """Which number, which rows and columns, and a filter for every setting that varies."""
    values = sweep.values
    row, column = chosen_axes(values, state)
    names = list(dict.fromkeys((*varying(values), row, column)))
    numbers = sweep.numbers
    where = dict(state.where)
    fields = [
        _field("Number", _dropdown("sweep-number", numbers, number_of(numbers, state), False)),
        _field("Rows", _dropdown("sweep-rows", names, row, False)),
        _field("Columns", _dropdown("sweep-columns", names, column, False)),
    ]
    filters = [
        _field(name, _filter(name, each, where.get(name, ())))
        for name, each in varying(values).items()
    ]
    return html.Div(
        [
            dcc.Store(id="sweep-cell", data=list(state.cell)),
            html.Div(fields, className="filters"),
            html.Div(filters, className="filters") if filters else None,
        ],
        className="sweep-controls",
    )


def views(
    library: Library, entry: Entry, sweep: Sweep, state: ViewState
) -> tuple[list[Any], list[Any]]:
    """The matrix of what the filters leave, and the list of the chosen cell's units."""
    values = sweep.values
    numbers = sweep.numbers
    row, column = chosen_axes(values, state)
    number = number_of(numbers, state)
    units = chosen(sweep.units, dict(state.where))
    if not values:
        return [html.P("No unit can be shown yet; reload when one is done.", className="hint")], []
    if not units:  # what callbacks name stays in the page
        picture = html.Div(parts.graph("sweep-picture", "no units"), hidden=True)
        clear = html.Button("All cells", id="sweep-clear", hidden=True)
        return [html.P("No unit passes these filters.", className="hint"), picture], [clear]
    matrix = matrix_of(units, row, column, number)
    figure = matrix_figure(matrix, state.cell)
    least = least_width(matrix)
    most = max(420, least + 2 * COLUMN * len(matrix.columns))
    drawn = parts.graph(
        "sweep-picture",
        f"{number} by {row} and {column}. The list of units holds the same numbers.",
        figure,
        height=f"{figure.layout.height}px",
        minWidth=f"{least}px",
        maxWidth=f"{most}px",
    )
    below: list[Any] = []
    for left, what in zip(matrix.left, ("rows", "columns"), strict=True):
        if left:
            below.append(html.P(f"{left:,} more {what}; filters narrow them.", className="hint"))
    return [drawn, *below], listed(library, entry, sweep, units, matrix, state.cell)


def listed(
    library: Library,
    entry: Entry,
    sweep: Sweep,
    units: Sequence[Unit],
    matrix: Matrix,
    cell: tuple[str, ...],
) -> list[Any]:
    """The units of a cell, or of all cells where none is chosen; each leads to its result."""
    axis = matrix.row_name, matrix.column_name
    if len(cell) == 2:
        units = [
            unit for unit in units if (value_of(unit, axis[0]), value_of(unit, axis[1])) == cell
        ]
        named = [name for name in varying(settings_in(units)) if name not in axis]
        title = visible(" × ".join(cell))
    else:
        named = list(varying(settings_in(units)))
        named.sort(key=lambda name: ([*axis].index(name) if name in axis else 2, name in LAST))
        title = "Units"
    units = sorted(units, key=lambda unit: [in_order(value_of(unit, name)) for name in named])
    clear = html.Button(
        "All cells", id="sweep-clear", className="button quiet", hidden=len(cell) != 2
    )
    head = parts.heading(title, clear)
    hint = f"{len(units):,} unit{'' if len(units) == 1 else 's'}"
    if len(units) > MOST_UNITS:
        hint += f", the first {MOST_UNITS} of them here"
    if len(cell) != 2:
        hint += "; click a cell for its own"
    lines = [
        _line(library, entry, sweep, unit, named, matrix.number) for unit in units[:MOST_UNITS]
    ]
    return [head, html.P(f"{hint}.", className="hint"), html.Ul(lines, className="units")]


def failures(sweep: Sweep) -> list[Any]:
    """Failed and damaged units, a line each."""
    if not sweep.bad:
        return []
    lines = [
        html.Li(
            [
                html.B(visible(sweep.labels.get(unit.key, f"unit {unit.key[:12]}"))),
                html.Span(visible(f" {unit.error}"[:400]), className="error"),
            ]
        )
        for unit in sweep.bad[:MOST_BAD]
    ]
    more = len(sweep.bad) - len(lines)
    return [
        parts.heading(f"Failed or damaged: {len(sweep.bad):,}"),
        html.P("The same `kc sweep` command tries them again.", className="hint"),
        html.Ul(lines, className="units bad"),
        html.P(f"and {more:,} more; `kc sweep status` counts them", className="hint")
        if more
        else None,
    ]


def chosen_axes(values: Mapping[str, Sequence[str]], state: ViewState) -> tuple[str, str]:
    """The settings of rows and columns: the link's where there are such, else natural ones."""
    row, column = axes(values)
    known = set(values)
    if state.rows in known:
        row = state.rows
        if column == row:
            column = axes(values)[0]
    return row, state.columns if state.columns in known else column


def number_of(numbers: Sequence[str], state: ViewState) -> str:
    """The number that is shown."""
    return state.number if state.number in numbers else next(iter(numbers), "")


def _line(
    library: Library, entry: Entry, sweep: Sweep, unit: Unit, named: Sequence[str], number: str
) -> html.Li:
    words = ", ".join(f"{name} {value_of(unit, name)}" for name in named)
    words = visible(words or sweep.labels.get(unit.key, unit.key[:12]))[:300]
    if unit.error:
        return html.Li([html.Span(words), html.Span(visible(unit.error)[:200], className="error")])
    found = parts.number(unit.numbers[number]) if number in unit.numbers else "–"
    why = visible(unit.left_out)[:200]
    link = dcc.Link(words, href=f"?r={library.unit_id(entry.id, unit.key)}")
    return html.Li([link, html.Span(why or found, className="hint" if why else "number")])


def _field(label: str, control: Any) -> html.Div:
    """A control with its label; the control's own id is a mapping where it is a filter."""
    return html.Div([html.Span(visible(label), className="label"), control], className="field")


def _dropdown(id: Any, names: Sequence[str], value: Any, multi: bool, **more: Any) -> dcc.Dropdown:
    options: Any = [{"label": visible(name)[:200], "value": name} for name in names]
    return dcc.Dropdown(id=id, options=options, value=value, multi=multi, clearable=multi, **more)


def _filter(name: str, values: Sequence[str], picked: Sequence[str]) -> Any:
    id = {"type": FILTER, "name": name}
    if len(values) > MOST_VALUES:
        said = f"one of {len(values):,}"
        value = picked[0] if picked else ""
        return dcc.Input(id=id, type="text", value=value, placeholder=said, debounce=True)
    picked = [each for each in picked if each in values]
    return _dropdown(id, values, picked, True, placeholder="all")
