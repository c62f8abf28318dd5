"""Figures from stored results: what a file holds decides which figures it gives; no model is run.

1. *Find*: the `*.kc.safetensors` files of a folder and those within it (or single ones), known by
   their headers.
2. *Choose*: the kinds of figures that each gives (`circuits.files.kinds`), or those asked for.
3. *Draw*: each at the width and in the format asked for, all of them or none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from circuits.base.arrays import describe_file, kind_of
from circuits.base.choices import FigureFormat, FigureKind
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.origin import relabelled, staged
from circuits.files.kinds import find_kind, named, open_result
from viz import theme
from viz.paper import draw_with, knows
from viz.paper.canvas import is_drawn

SUFFIX = ".kc.safetensors"
PASSED_OVER = ("figures", "units")
"""Folders whose files are not looked at: what was drawn, and the units of a sweep."""
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
    """How figures look: width in inches, format, edges of a circuit at most, heads, titles.

    Also nodes by the name of the group that stands for them, whether there are notes, and the
    model's name in them.
    """

    width: float | None = None
    format: FigureFormat = FigureFormat.PDF
    max_edges: int | None = None
    heads: tuple[str, ...] | None = None
    titles: bool = False
    groups: Mapping[str, Sequence[str]] | None = None
    notes: bool = True
    label: str | None = None


@dataclass(frozen=True)
class Stored:
    """A stored result: its file, the kind that the header names, and how its names begin."""

    path: Path
    kind: str
    prefix: str = ""

    @property
    def stem(self) -> str:
        """The file's name without its suffixes, after those of the folders that it lies in."""
        return self.prefix + self.path.name.removesuffix(SUFFIX).removesuffix(".safetensors")

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
    """One figure to draw from one stored result; a file may hold several of a kind."""

    stored: Stored
    kind: str

    @property
    def name(self) -> str:
        """The figure's file name without suffix."""
        stem = self.stored.stem
        return stem if self.stored.path.name == f"{self.kind}{SUFFIX}" else f"{stem}-{self.kind}"

    @property
    def shows(self) -> str:
        """What it shows, in words."""
        return FigureKind.of(self.kind).text

    @property
    def _function(self) -> Any:
        return named(find_kind(self.stored.kind).figures[self.kind])

    def knows(self, option: str) -> bool:
        """Whether its picture takes an option."""
        return knows(self._function, option)

    def drawings(self, look: Look) -> Iterator[Callable[[Path], Any]]:
        """One function a figure: most files give one, heads on several prompts one a prompt."""
        result = relabelled(open_result(self.stored.path), look.label)
        draw = self._function
        options = {
            "width": look.width,
            "max_edges": look.max_edges,
            "heads": look.heads,
            "groups": look.groups,
            "notes": look.notes,
        }
        for part in result.parts():
            given = {**options, "title": part.heading() if look.titles else None}
            yield lambda target, part=part, given=given: draw_with(draw, part, target, given)


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


def find_stored(paths: Sequence[Path]) -> tuple[list[Stored], list[str]]:
    """The stored results of files and folders, and what of a folder cannot be read, in words.

    Folders within folders count. A result's names begin with the folders between it and the named
    one; of several named ones, between it and the folder that holds them all. So they do not change
    with what else lies there. FileFormatError for a single file that is none, OptionError where a
    path is not there.
    """
    base = common_folder(paths)
    found: list[Stored] = []
    unreadable: list[str] = []
    for path in paths:
        if path.is_dir():
            inside, damaged = _in_folder(path, base)
            found += inside
            unreadable += damaged
        elif not path.exists():
            raise OptionError(f"{path}: no such file or folder")
        elif path.name.endswith(".safetensors"):
            found.append(Stored(path, kind_of(path), prefix_of(path.parent, base)))
        else:
            raise FileFormatError(path, f"is no stored result; those end in {SUFFIX}")
    return list({each.path.absolute(): each for each in found}.values()), unreadable


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder from which names are told: the only one named, or what holds all of them."""
    if not paths:
        return Path.cwd()
    folders = [path.absolute() if path.is_dir() else path.absolute().parent for path in paths]
    return Path(os.path.commonpath(folders))


def prefix_of(folder: Path, base: Path) -> str:
    """How the names of a folder's figures begin: the folders below `base`."""
    return "".join(f"{part}-" for part in folder.absolute().relative_to(base).parts)


def _in_folder(folder: Path, base: Path) -> tuple[list[Stored], list[str]]:
    found, unreadable = [], []
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        within = path.relative_to(folder).parts[:-1]
        if any(part.startswith(".") or part in PASSED_OVER for part in within):
            continue
        try:
            found.append(Stored(path, kind_of(path), prefix_of(path.parent, base)))
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


def check_look(planned: Sequence[Planned], look: Look) -> None:
    """OptionError for an option that no picture to be drawn takes, and would do nothing."""
    asked = (
        ("--edges", "max_edges", look.max_edges, "of circuits and differences"),
        ("--head", "heads", look.heads, "of attention and tokens"),
        ("--group", "groups", look.groups, "of a circuit's picture"),
        ("--titles", "title", look.titles or None, "of figures of stored results"),
        ("--no-notes", "notes", None if look.notes else True, "of figures of stored results"),
    )
    for option, name, value, where in asked:
        if value is not None and not any(each.knows(name) for each in planned):
            raise OptionError(f"{option} is {where}, and none is drawn")


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
    return f"{place} holds nothing to draw: no stored result (*{SUFFIX}) of kc is there"


def _edits(stored: Sequence[Stored]) -> bool:
    return any(each.kind == "weight-delta" for each in stored)


@runtime_checkable
class Drawable(Protocol):
    """What is drawn: its name, and the functions that draw it and what goes with it."""

    @property
    def name(self) -> str:
        """The figure's file name without suffix."""

    def drawings(self, look: Look) -> Iterable[Callable[[Path], Any]]:
        """One function a figure."""


def check_names(planned: Sequence[Drawable]) -> None:
    """OptionError, before anything is drawn, where two figures would have one name."""
    names = [each.name for each in planned]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise OptionError(f"two results would both be drawn as {twice}; draw them one by one")


def draw_all(planned: Sequence[Drawable], folder: Path, look: Look) -> list[Path]:
    """Draw the figures into the folder, all or none; returns their paths there.

    OptionError where a file there has the name of a figure and is none of this program's.
    """
    check_names(planned)
    with staged(folder) as stage:
        for each in planned:
            for place, draw in enumerate(each.drawings(look), start=1):
                number = "" if place == 1 else f"-{place}"
                target = stage / f"{each.name}{number}.{look.format}"
                if target.exists():
                    raise OptionError(
                        f"two results would both be drawn as {target.name}; draw them one by one"
                    )
                draw(target)
        drawn = sorted(path.name for path in stage.iterdir())
        for path in (folder / name for name in drawn):
            if path.is_file() and not is_drawn(path):
                raise OptionError(
                    f"{path} is no figure that this program drew; it is kept: name another folder "
                    "with `out`"
                )
    return [folder / name for name in drawn]
