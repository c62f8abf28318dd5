"""Figures from stored results: what a file holds decides which figures it gives; no model is run.

1. *Find*: the `*.kc.safetensors` files of a folder (or single ones), known by their headers.
2. *Choose*: the kinds of figures that each gives (`circuits.files.kinds`), or those asked for.
3. *Draw*: each at the width and in the format asked for, all of them or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.base.arrays import describe_file, kind_of
from circuits.base.choices import FigureFormat, FigureKind
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.origin import staged
from circuits.files.kinds import find_kind, named, open_result
from viz import theme
from viz.paper import draw_with

SUFFIX = ".kc.safetensors"
NARROWEST, WIDEST = 2.0, 20.0
WIDTHS = {"single": theme.SINGLE_COLUMN, "double": theme.DOUBLE_COLUMN}
WRITERS: dict[FigureKind, str] = {
    FigureKind.CIRCUIT: "discover, compare",
    FigureKind.LAYERS: "discover, compare",
    FigureKind.SPANS: "discover --spans",
    FigureKind.DIFFERENCE: "compare",
    FigureKind.OBJECTS: "compare --edit",
    FigureKind.TRACE: "trace",
    FigureKind.LENS: "lens",
    FigureKind.FAITHFULNESS: "discover --curve",
    FigureKind.ATTENTION: "discover, roles",
    FigureKind.TOKENS: "discover, roles",
}
"""The commands whose results give a kind of figure."""


@dataclass(frozen=True)
class Look:
    """How figures look: width in inches, format, edges of a circuit at most, heads, titles."""

    width: float | None = None
    format: FigureFormat = FigureFormat.PDF
    max_edges: int | None = None
    heads: tuple[str, ...] | None = None
    titles: bool = False


@dataclass(frozen=True)
class Stored:
    """A stored result: its file and the kind of content that the header names."""

    path: Path
    kind: str

    @property
    def stem(self) -> str:
        """The file's name without its suffixes."""
        return self.path.name.removesuffix(SUFFIX).removesuffix(".safetensors")

    @property
    def figures(self) -> tuple[str, ...]:
        """What can be drawn from it; by span only where it tells spans apart."""
        found = tuple(find_kind(self.kind).figures)
        if FigureKind.SPANS in found and not self._tells_spans():
            return tuple(figure for figure in found if figure != FigureKind.SPANS)
        return found

    def _tells_spans(self) -> bool:
        geometry = describe_file(self.path)[1].get("geometry")
        return isinstance(geometry, dict) and bool(geometry.get("spans"))


@dataclass(frozen=True)
class Planned:
    """One figure to draw from one stored result; `place` counts where a file holds several."""

    stored: Stored
    kind: str

    @property
    def name(self) -> str:
        """The figure's file name without suffix."""
        stem = self.stored.stem
        return stem if stem == str(self.kind) else f"{stem}-{self.kind}"


def parse_width(text: str) -> float:
    """`single`, `double` or inches; OptionError for anything else."""
    if text in WIDTHS:
        return WIDTHS[text]
    try:
        width = float(text)
    except ValueError:
        raise OptionError(
            f"--width {text!r} is neither single, double nor a number of inches"
        ) from None
    if not NARROWEST <= width <= WIDEST:
        raise OptionError(f"--width {text} is not between {NARROWEST:g} and {WIDEST:g} inches")
    return width


def find_stored(paths: Iterable[Path]) -> tuple[list[Stored], list[str]]:
    """The stored results of files and folders, and what of a folder cannot be read, in words.

    FileFormatError for a single file that is none, OptionError where a path is not there.
    """
    found: list[Stored] = []
    unreadable: list[str] = []
    for path in paths:
        if path.is_dir():
            inside, damaged = _in_folder(path)
            found += inside
            unreadable += damaged
        elif not path.exists():
            raise OptionError(f"{path}: no such file or folder")
        elif path.name.endswith(".safetensors"):
            found.append(Stored(path, kind_of(path)))
        else:
            raise FileFormatError(path, f"is no stored result; those end in {SUFFIX}")
    return list(dict.fromkeys(found)), unreadable


def _in_folder(folder: Path) -> tuple[list[Stored], list[str]]:
    found, unreadable = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            found.append(Stored(path, kind_of(path)))
        except FileFormatError as error:
            unreadable.append(str(error))
    return found, unreadable


def plan(stored: Sequence[Stored], kinds: Sequence[FigureKind] = ()) -> list[Planned]:
    """The figures to draw, in order; of several files with the same comparison the first counts."""
    planned = []
    compared = {each.path.parent for each in stored if each.kind == "comparison"}
    for each in stored:
        for kind in each.figures:
            twice = each.kind == "rewiring" and kind == FigureKind.DIFFERENCE
            if (kinds and kind not in kinds) or (twice and each.path.parent in compared):
                continue
            planned.append(Planned(each, kind))
    return planned


def nothing_to_draw(
    paths: Sequence[Path],
    stored: Sequence[Stored],
    unreadable: Sequence[str],
    kinds: Sequence[FigureKind],
) -> str:
    """Why there is no figure, in one line."""
    place = ", ".join(map(str, paths))
    possible = list(dict.fromkeys(str(kind) for each in stored for kind in each.figures))
    if possible:
        asked = ", ".join(map(str, kinds))
        return f"{place} gives no figure of kind {asked}, only {', '.join(possible)}"
    if unreadable:
        return f"{place} holds nothing to draw: {unreadable[0]}"
    if stored:
        held = ", ".join(sorted({f"{each.path.name} ({each.kind})" for each in stored}))
        more = "kc compare --edit draws what an edit did" if _edits(stored) else "see --list"
        return f"{place} holds nothing to draw, only {held}; {more}"
    below = [
        str(folder.parent)
        for path in paths
        if path.is_dir()
        for folder in sorted(path.glob(f"*/*{SUFFIX}"))
    ]
    if below:
        return f"{place} holds no results itself; name a folder in it, as {below[0]}"
    return f"{place} holds nothing to draw: no stored result (*{SUFFIX}) of kc is there"


def _edits(stored: Sequence[Stored]) -> bool:
    return any(each.kind == "weight-delta" for each in stored)


def draw_all(planned: Sequence[Planned], folder: Path, look: Look) -> list[Path]:
    """Draw the figures into the folder, all or none; returns their paths there."""
    names = [each.name for each in planned]
    twice = {name for name in names if names.count(name) > 1}
    with staged(folder) as stage:
        for each in planned:
            prefix = f"{each.stored.path.parent.name}-" if each.name in twice else ""
            stem = f"{prefix}{each.name}"
            for place, draw in enumerate(_drawings(each, look), start=1):
                number = "" if place == 1 else f"-{place}"
                target = stage / f"{stem}{number}.{look.format}"
                if target.exists():
                    raise OptionError(
                        f"two results would both be drawn as {target.name}; draw them one by one"
                    )
                draw(target)
        drawn = sorted(path.name for path in stage.iterdir())
    return [folder / name for name in drawn]


def _drawings(planned: Planned, look: Look) -> Iterator[Callable[[Path], Any]]:
    """One function a figure: most files give one, heads on several prompts one a prompt."""
    result = open_result(planned.stored.path)
    draw = named(find_kind(planned.stored.kind).figures[planned.kind])
    options = {"width": look.width, "max_edges": look.max_edges, "heads": look.heads}
    for part in result.parts():
        given = {**options, "title": part.heading() if look.titles else None}
        yield lambda target, part=part, given=given: draw_with(draw, part, target, given)
