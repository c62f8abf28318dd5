"""Small pieces of pages: headings, key-value lists, tables, samples of lines and boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import dash_ag_grid as dag
from dash import dcc, html

from circuits.base.display import visible
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from viz import theme
from viz.app import terms
from viz.screen.style import CONFIG

GRID: dict[str, Any] = {
    "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
    "suppressCellFocus": False,
    "animateRows": False,
    "headerHeight": 30,
    "rowHeight": 27,
    "suppressColumnVirtualisation": False,
    "ensureDomOrder": True,
    "tooltipShowDelay": 300,
}
NUMBER = {
    "function": "params.value == null ? '' : "
    "d3.format(Math.abs(params.value) >= 1000 ? ',.0f' : "
    "params.value === Math.round(params.value) ? ',' : '.3~g')(params.value)"
}
"""Whole numbers as 1,949, others with three significant digits."""


def number(value: Any, digits: int = 3) -> str:
    """A number for reading; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def interval(record: Any) -> str:
    """`0.971 [0.955, 0.982]` from a stored interval, or the number alone."""
    if not isinstance(record, Mapping):
        return number(record)
    value, low, high = (record.get(name) for name in ("value", "low", "high"))
    if low is None or high is None:
        return fixed(value)
    return f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"


def fixed(value: Any) -> str:
    """A measure with three decimals; no minus before a zero."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{round(float(value), 3) + 0.0:.3f}"


def aria(**names: str) -> dict[str, Any]:
    """ARIA attributes, as in `**aria(label="the picture")`."""
    return {f"aria-{name}": text for name, text in names.items()}


def or_reason(work: Callable[[], Any]) -> Any:
    """What the work gives, or in one line why it gives nothing."""
    try:
        return work()
    except KnowledgeCircuitsError as error:
        return note(str(error), "error")


@contextmanager
def foreseen(name: str) -> Iterator[None]:
    """OptionError with the result's name where it can be read but holds what no page expects."""
    try:
        yield
    except KnowledgeCircuitsError:
        raise
    except Exception as error:
        why = f"it holds what no page expects ({type(error).__name__}: {error!s:.120})"
        raise OptionError(f"{name} cannot be shown: {why}") from None


def heading(text: str, aside: Any = None) -> html.Div:
    """A small heading, with something at its right."""
    return html.Div([html.H2(text), aside], className="heading")


def picture_head(
    title: str, subtitle: str, *more: Any, lead: str = "", heads: Sequence[str] = ()
) -> html.Div:
    """What stands above a picture: its title, what was found, and how.

    `heads` are those of the page's tables, whose terms are explained as the `lead`'s are.
    """
    return html.Div(
        [html.H1(title), terms.lead(lead, heads), html.P(subtitle, className="subtitle"), *more],
        className="picture-head",
    )


def search_field(id: str, label: str, value: str, placeholder: str, **more: Any) -> list[Any]:
    """A field to search in, with a label that only a screen reader reads."""
    return [
        html.Label(label, className="unseen", htmlFor=id),
        dcc.Input(
            id=id,
            type="search",
            value=value,
            placeholder=placeholder,
            autoComplete="off",
            className="search",
            **more,
        ),
    ]


def pairs(rows: Sequence[tuple[str, Any]]) -> html.Dl:
    """Names and values; rows without a value are left out."""
    cells: list[Any] = []
    for name, value in rows:
        if value not in (None, "", "–"):
            cells += [html.Dt(name), html.Dd(value)]
    return html.Dl(cells, className="pairs")


def note(text: str, kind: str = "note") -> html.P:
    """A remark; `kind` is note, warning or error."""
    return html.P(visible(text), className=kind, role="alert" if kind == "error" else "note")


def table(
    id: str, columns: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], **more: Any
) -> dag.AgGrid:
    """A table that sorts, filters and is walked by keyboard; its text is never read as markup."""
    options = {**GRID, **more.pop("options", {})}
    return dag.AgGrid(
        id=id,
        columnDefs=list(columns),
        rowData=list(rows),
        defaultColDef={
            "sortable": True,
            "resizable": True,
            "filter": True,
            "minWidth": 60,
            "suppressHeaderMenuButton": True,
            "suppressHeaderFilterButton": True,
            "floatingFilter": False,
        },
        dashGridOptions=options,
        columnSize=more.pop("columnSize", "responsiveSizeToFit"),
        className="ag-theme-quartz grid",
        style={"height": "100%", "width": "100%"},
        **more,
    )


def column(
    field: str, title: str, width: int = 0, numeric: bool = False, **more: Any
) -> dict[str, Any]:
    """A table's column; numbers are right-aligned with three significant digits."""
    found: dict[str, Any] = {"field": field, "headerName": title, "tooltipField": field, **more}
    if width:
        found["width"] = width
    if numeric:
        found |= {
            "type": "rightAligned",
            "valueFormatter": NUMBER,
            "filter": "agNumberColumnFilter",
        }
    return found


def small_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> html.Div:
    """A few rows to be read at a glance; their text is never read as markup."""
    head = html.Tr([html.Th(visible(text)) for text in header])
    body = [html.Tr([html.Td(visible(text)) for text in row]) for row in rows]
    return html.Div(
        html.Table([html.Thead(head), html.Tbody(body)], className="small"),
        className="table-scroll",
    )


def graph(id: str, label: str, figure: Any = None, **style: Any) -> html.Div:
    """A picture with a name that a screen reader reads."""
    config: Any = CONFIG
    return html.Div(
        dcc.Graph(
            id=id,
            figure=figure or {"data": [], "layout": {}},
            config=config,
            responsive=True,
            style={"height": "100%", "width": "100%"},
        ),
        className="graph",
        role="img",
        style=style or None,
        **aria(label=visible(label)),
    )


def edge_sample(style: theme.EdgeStyle) -> html.Img:
    """A short line as the picture draws it."""
    dashes = (
        ""
        if style.dash is None
        else (f" stroke-dasharray='{' '.join(f'{2.2 * part:.1f}' for part in style.dash)}'")
    )
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='28' height='10'>"
        f"<line x1='1' y1='5' x2='27' y2='5' stroke='{style.colour}' stroke-width='2.4'{dashes}/>"
        "</svg>"
    )
    return html.Img(src=f"data:image/svg+xml,{quote(svg)}", alt="", className="sample")


def node_sample(style: theme.NodeStyle, square: bool = False) -> html.Span:
    """A small box as the picture draws it."""
    return html.Span(
        className="sample box",
        style={
            "background": style.fill,
            "borderColor": style.line,
            "borderRadius": "2px" if square else "6px",
        },
    )


def option(label: str, value: str, sample: Any) -> dict[str, Any]:
    """A choice of a checklist that shows what it stands for: legend and filter in one."""
    return {"label": html.Span([sample, label], className="choice"), "value": value}


def bars(rows: Sequence[tuple[str, float, str]], largest: float) -> html.Div:
    """Names with bars of a share and a text; for attention and probabilities."""
    lines = []
    for name, share, text in rows:
        width = max(0.0, min(1.0, share / largest if largest > 0 else 0.0))
        lines.append(
            html.Div(
                [
                    html.Span(visible(name), className="bar-name", title=visible(name)),
                    html.Span(
                        html.Span(
                            style={
                                "width": f"{100 * width:.1f}%",
                                "background": theme.SUPPORTS.colour,
                            }
                        ),
                        className="bar",
                    ),
                    html.Span(text, className="bar-value"),
                ],
                className="bar-row",
            )
        )
    return html.Div(lines, className="bars")


def token(text: str) -> str:
    """A token for reading: no space in front, control characters visible."""
    return visible(text.strip(" ") or text.replace(" ", "␣") or "∅")
