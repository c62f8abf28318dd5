"""Figures that need no display and no global state, and files that are whole or absent.

A figure is drawn inside `paper_style()`, becomes bytes in memory and reaches the disk by renaming,
so a reader never sees half a file. The same input gives the same bytes: no dates, no random ids.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from circuits.base.display import visible as visible_text
from circuits.base.errors import OptionError
from circuits.base.origin import model_label
from circuits.base.writing import atomic_write
from viz import theme

SUFFIXES = (".svg", ".pdf", ".png")
PNG_DPI = 220
CAPTION = 6.5
"""Font size of a caption, in points."""
SMALLEST = 5.0
"""Font size, in points, below which nothing is written: what print still shows."""
HANDLE = 0.2
"""Length of a line in a legend, in inches."""
LONGEST_TOKEN = 18
DASH = (0, (3, 1.5))
Entry = tuple[str, str, bool]
"""A line in a legend: its name, colour, and whether it is dashed."""
SOFTWARE = "Knowledge Circuits"


@contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib's defaults with the theme's settings, whatever the user's own settings are."""
    settings: dict[Any, Any] = {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(("backend", "toolbar", "timezone", "interactive", "webagg"))
    }
    settings.update(theme.PAPER_STYLE)
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches that no window or registry knows of."""
    figure = Figure(figsize=(width, height), facecolor=theme.PAPER)
    FigureCanvasAgg(figure)
    return figure


@cache
def _known_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(theme.FONT)).get_charmap())


def visible(text: str) -> str:
    r"""`circuits.base.display.visible`, and what the font cannot show as `\\u....` too.

    A token must not change the text around it, nor make an invalid file.
    """
    known = _known_characters()
    shown = (char if ord(char) in known else f"\\u{ord(char):04x}" for char in visible_text(text))
    return "".join(shown)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in inches at a font size in points; nothing is read as markup."""
    font = FontProperties(family=[theme.FONT], size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Text broken at spaces into lines of at most `width` inches (a longer word stays whole)."""
    if not text.strip():
        return []
    lines: list[str] = []
    for word in re.split(r"\s+(?!%)", text.strip()):  # a number keeps its %
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def noted(parts: str | Sequence[str], width: float, notes: bool = True) -> list[str]:
    """The lines of a caption on a page of so many inches; none where no notes are wanted."""
    text = parts if isinstance(parts, str) else joined(parts)
    return wrapped(text, CAPTION, width - 0.16) if notes else []


def token(text: str) -> str:
    """A token as a label: visible, without the space in front, cut where it is very long."""
    shown = visible(text.strip(" ") or text.replace(" ", "␣") or "∅")
    return shown if len(shown) <= LONGEST_TOKEN else shown[: LONGEST_TOKEN - 1] + "…"


def shortened(text: str, size: float, width: float) -> str:
    """A line of text, or as much of its beginning as has room in so many inches."""
    if text_width(text, size) <= width:
        return text
    kept = next(
        (n for n in range(len(text), 0, -1) if text_width(text[:n] + "…", size) <= width), 1
    )
    return text[:kept] + "…"


def joined(parts: Sequence[str]) -> str:
    """A caption of several parts, without those that are empty; nothing in it is markup."""
    return visible("  ·  ".join(part for part in parts if part))


def asked(provenance: Mapping[str, Any]) -> list[str]:
    """Model and relation, as far as they are known: how a caption begins."""
    found = [model_label(provenance), str(provenance.get("relation") or "")]
    return [each for each in found if each]


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many entries of a legend stand side by side on a page of so many inches."""
    widest = max((text_width(name, CAPTION) for name in names), default=0.0) + HANDLE + 0.22
    return max(1, min(len(names), int((width - 0.16) / widest)))


def legend_below(figure: Figure, entries: Sequence[Entry], low: float, columns: int) -> None:
    """A legend of lines in rows of `columns`, centred, its lower edge at `low` of the height."""
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            linestyle=DASH if dashed else "solid",
            marker="o",
            markersize=2.6,
            label=name,
        )
        for name, colour, dashed in entries
    ]
    legend(figure, handles, low, columns, handlelength=72 * HANDLE / CAPTION)


def legend(
    figure: Figure, handles: Sequence[Artist], low: float, columns: int, **look: Any
) -> None:
    """Entries in rows of `columns`, centred, the lower edge at `low` of the height; no markup."""
    # Matplotlib fills columns first; readers read rows.
    ordered = [handle for start in range(columns) for handle in handles[start::columns]]
    made = figure.legend(
        handles=ordered,
        loc="lower center",
        bbox_to_anchor=(0.5, low),
        ncols=columns,
        borderpad=0,
        borderaxespad=0,
        **{"labelspacing": 0.35, **look},
    )
    for text in made.get_texts():
        text.set_parse_math(False)


def page_text(figure: Figure, title: str | None, caption: Sequence[str] = ()) -> None:
    """A title at the top left and lines of a caption at the bottom; no markup is read in them."""
    width, height = figure.get_size_inches()
    for index, line in enumerate(reversed(caption)):
        figure.text(
            0.08 / width,
            (0.06 + 0.13 * index) / height,
            line,
            size=CAPTION,
            color=theme.MUTED,
            parse_math=False,
        )
    if title:
        figure.text(
            0.08 / width,
            1 - 0.08 / height,
            visible(title),
            size=9.0,
            weight="bold",
            va="top",
            parse_math=False,
        )


def check_suffix(path: str | Path) -> Path:
    """The path; OptionError where its suffix names no format that can be drawn."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(
            f"{path}: a picture's name ends in {', '.join(SUFFIXES)}, not {path.suffix!r}"
        )
    return path


def save(figure: Figure, path: str | Path, title: str, provenance: Mapping[str, Any]) -> Path:
    """Write a figure as its suffix says, with title and provenance (JSON) in the metadata.

    StoreError where it cannot be written; an old file then stays as it was.
    """
    path = check_suffix(path)
    kind = path.suffix.lower().removeprefix(".")
    origin = json.dumps(dict(provenance), sort_keys=True, default=str)
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format=kind,
        dpi=PNG_DPI if kind == "png" else 72,
        metadata=_metadata(kind, visible(title), origin),
    )
    atomic_write(path, buffer.getvalue())
    return path


def is_drawn(path: str | Path) -> bool:
    """Whether a file is a picture of this program's, by what `save` writes into it."""
    marks = {
        ".svg": f"<dc:title>{SOFTWARE}</dc:title>",
        ".pdf": f"/Creator ({SOFTWARE})",
        ".png": f"Software\0{SOFTWARE}",
    }
    path = Path(path)
    mark = marks.get(path.suffix.lower())
    return mark is not None and mark.encode() in path.read_bytes()


def _metadata(kind: str, title: str, origin: str) -> dict[str, Any]:
    if kind == "svg":
        return {"Date": None, "Creator": SOFTWARE, "Title": title, "Description": origin}
    if kind == "pdf":
        undated = {"CreationDate": None, "Creator": SOFTWARE, "Producer": SOFTWARE}
        return {**undated, "Title": title, "Subject": origin}
    return {"Software": SOFTWARE, "Title": title, "Description": origin}
