"""How results show themselves: a small summary in a notebook, a picture where there is one.

A class that mixes in `Shown` says what its summary is; a notebook shows it as HTML, a terminal as
text. Everything in it is escaped: names and tokens come from models and files. Pictures are drawn
by a room above (`viz.screen`, `viz.app`), which installs itself here.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.errors import OptionError
from circuits.base.places import check_extra

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

VISIBLE = {"\n": "↵", "\r": "↵", "\t": "→", "\u00a0": "␣"}
_CELL = "text-align:left;padding:1px 12px 1px 0;vertical-align:top"
_HEAD = f"{_CELL};font-weight:600"
_INSTALLED: dict[str, str] = {}


@dataclass(frozen=True)
class Summary:
    """What is worth knowing of a result at a glance.

    `facts` are named values, `rows` a small table under `header`; `note` says what the rows are.
    `says` is what was found, in one sentence, and stands first below the title.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    says: str = ""

    def as_text(self) -> str:
        """Lines for a terminal."""
        lines = [visible(self.title), *([visible(self.says)] if self.says else [])]
        lines += [f"  {visible(name)}: {visible(value)}" for name, value in self.facts.items()]
        if self.rows:
            table = [[visible(cell) for cell in row] for row in (self.header, *self.rows)]
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            lines += [f"  {visible(self.note)}:"] if self.note else []
            for row in table:
                padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append(f"    {'  '.join(padded)}".rstrip())
        return "\n".join(lines)

    def as_html(self) -> str:
        """A fragment without script, style sheet or link; colours are the page's own."""
        parts = [f'<div style="line-height:1.45"><strong>{_safe(self.title)}</strong>']
        parts += [f"<div>{_safe(self.says)}</div>"] if self.says else []
        if self.facts:
            cells = "".join(
                f'<tr><td style="{_CELL};opacity:0.7">{_safe(name)}</td>'
                f'<td style="{_CELL}">{_safe(value)}</td></tr>'
                for name, value in self.facts.items()
            )
            parts.append(f'<table style="margin:4px 0">{cells}</table>')
        if self.rows:
            parts += [f'<div style="opacity:0.7">{_safe(self.note)}</div>'] if self.note else []
            parts.append('<table style="margin:2px 0 6px 0"><thead><tr>')
            parts += [f'<th style="{_HEAD}">{_safe(name)}</th>' for name in self.header]
            parts.append("</tr></thead><tbody>")
            for row in self.rows:
                cells = "".join(f'<td style="{_CELL}">{_safe(cell)}</td>' for cell in row)
                parts.append(f"<tr>{cells}</tr>")
            parts.append("</tbody></table>")
        return "".join([*parts, "</div>"])


class Shown:
    """A result that shows itself by its `summary`, in a notebook, a terminal and when printed."""

    def __init_subclass__(cls, **options: Any) -> None:
        """A dataclass would write all its arrays instead."""
        super().__init_subclass__(**options)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def summary(self) -> Summary:
        """What is worth knowing at a glance."""
        raise NotImplementedError

    def says(self) -> str:
        """What was found, in one sentence with its number and its control.

        Of the project's own results by `locate.looks.says`; empty where nobody says it.
        """
        return str(_installed("says")(self)) if "says" in _INSTALLED else ""

    def shown(self) -> Summary:
        """The summary that begins with the sentence."""
        return replace(self.summary(), says=self.says())

    def rows(self) -> list[dict[str, Any]]:
        """One record a line of the result's table; by default of its summary's."""
        summary = self.summary()
        return [dict(zip(summary.header, row, strict=True)) for row in summary.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """The `rows` as a table of pandas."""
        import pandas

        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        return self.shown().as_text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What Jupyter asks for; it drops the forms that it was told to leave out."""
        summary = self.shown()
        return {"text/plain": summary.as_text(), "text/html": summary.as_html()}


def install(name: str, function: str) -> None:
    """Have results draw (`figure`, `draw`, `page`), open (`explore`) or tell (`says`) themselves.

    `function` is "module:function".
    """
    _INSTALLED[name] = function


def plotted(result: Any, **options: Any) -> go.Figure:
    """The figure of a result, by whatever room above has offered to draw it."""
    check_extra("notebook", "a picture on the screen", "plotly")
    return _installed("figure")(result, **options)


def drawn(result: Any, path: Path, **options: Any) -> None:
    """Draw a result to a file, as `plotted`."""
    _installed("draw")(result, path, **options)


def is_page(path: str | Path) -> bool:
    """Whether the name says that a page in HTML is meant."""
    return Path(path).suffix.lower() == ".html"


def paged(result: Any, path: str | Path, **options: Any) -> None:
    """Write a result, several, or a folder of them as one HTML file, as `plotted`."""
    _installed("page")(result, path, **options)


def explored(result: Any, **options: Any) -> None:
    """Show a result in the app, within a notebook."""
    _installed("explore")(result, **options)


def _installed(name: str) -> Callable[..., Any]:
    if name not in _INSTALLED:
        raise OptionError("pictures and the app are not loaded; import knowledge_circuits")
    module, _, function = _INSTALLED[name].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def visible(text: str) -> str:
    r"""Text in one line: breaks and tabs as symbols; what would not show as `\\u....`.

    Control characters, direction marks and unassigned code points could move the text around them.
    """

    def show(character: str) -> str:
        if character in VISIBLE:
            return VISIBLE[character]
        kind = unicodedata.category(character)
        hidden = kind[0] == "C" or kind in ("Zl", "Zp")
        return f"\\u{ord(character):04x}" if hidden else character

    return "".join(map(show, text))


def token_name(text: str) -> str:
    """A token as a name: without the space in front, unless it is nothing else."""
    return visible(text.strip(" ") or text.replace(" ", "␣") or "∅")


def named(origin: Mapping[str, Any], *keys: str) -> dict[str, str]:
    """Entries of a provenance, where it has them."""
    return {key: str(origin[key]) for key in keys if origin.get(key) is not None}


def _safe(text: str) -> str:
    return html.escape(visible(text))
