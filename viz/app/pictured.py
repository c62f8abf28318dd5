"""Results that are one or two pictures with a table: curves, roles, heads on prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from dash import html

from viz.app import parts
from viz.app.details import known_facts
from viz.app.library import Entry
from viz.app.plain_pages import fitted, plain_page
from viz.screen import attention_figure, curve_figure, roles_figure, written_figure

MOST_PROMPTS = 6


@dataclass(frozen=True, eq=False)
class Pictured:
    """Pictures with their headings, the rows behind them, and where they come from."""

    title: str
    subtitle: str
    figures: tuple[tuple[str, go.Figure], ...]
    table: list[dict[str, Any]]
    provenance: Mapping[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """The numbers, for exports."""
        return self.table


def curves(path: Path) -> Pictured:
    """Faithfulness against the number of edges."""
    from circuits.files.curves import load_curves

    found, provenance = load_curves(path)
    rows = [
        {"curve": name, "edges": size, **point.as_dict()}
        for name, curve in found.items()
        for size, point in zip(curve.sizes, curve.faithfulness, strict=True)
    ]
    figure = curve_figure(found)
    figure.update_layout(height=460)
    return Pictured(
        f"Faithfulness of {provenance.get('relation', 'the circuit')} by size",
        "0: nothing restored, 1: the whole model. Bands are 95 % bootstrap intervals.",
        (("", figure),),
        rows,
        provenance,
    )


def roles(path: Path) -> Pictured:
    """Heads by what they do, with their labels."""
    from locate.heads.role_files import load_roles

    report = load_roles(path)
    rows = [
        {
            key: " ".join(map(parts.token, cell)) if isinstance(cell, list) else cell
            for key, cell in row.items()
        }
        for row in report.rows()
    ]
    names = ("head", "role", "score", "written", "verdict")
    return Pictured(
        "Roles of heads",
        "Each head's share of all heads' work as a mover (across) and as a relation head (up).",
        (("", roles_figure(report)),),
        [{name: row.get(name) for name in names} for row in rows],
        report.provenance,
    )


def heads(path: Path) -> Pictured:
    """Where heads look and what they write, on single prompts."""
    from locate.heads.prompt_heads import load_prompt_heads

    found = load_prompt_heads(path)
    figures: list[tuple[str, go.Figure]] = []
    rows: list[dict[str, Any]] = []
    for each in found[:MOST_PROMPTS]:
        figures += [(each.prompt, attention_figure(each)), ("", written_figure(each))]
    for each in found:
        for head, shares, raised in zip(each.heads, each.weighted, each.raised, strict=True):
            best = int(shares.argmax())
            rows.append(
                {
                    "prompt": each.prompt,
                    "head": head,
                    "looks at": parts.token(each.tokens[best]),
                    "share": float(shares[best]),
                    "raises": " ".join(parts.token(text) for text, _ in raised[:4]),
                }
            )
    return Pictured(
        "Heads on single prompts",
        "Bars: value-weighted attention from the last token; below, the tokens that heads write.",
        tuple(figures),
        rows,
        found[0].provenance if found else {},
    )


def pictured_page(entry: Entry, value: Pictured) -> html.Div:
    """Its pictures one below the other, with the table beside them."""
    picture: list[Any] = []
    for place, (heading, figure) in enumerate(value.figures):
        if heading:
            picture.append(html.H2(parts.visible(heading)))
        picture.append(fitted(figure, heading or value.title, f"plain-picture-{place}"))
    rows = value.rows()
    columns = [
        parts.column(name, name, 0, numeric=isinstance(rows[0][name], float | int))
        for name in (rows[0] if rows else {})
    ]
    about = known_facts([], value.provenance)
    return plain_page(entry, value.title, value.subtitle, picture, columns, rows, about)
