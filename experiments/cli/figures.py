"""`kc figures`: the figures of stored results, drawn again for a paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from circuits.base.choices import FigureFormat, FigureKind
from circuits.base.errors import OptionError
from circuits.base.options import Options, option
from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Like

Results = Annotated[
    list[Path] | None,
    typer.Argument(help="Folders of results, or single .kc.safetensors files.", metavar="DIR..."),
]
Width = Annotated[
    str | None,
    typer.Option("--width", metavar="WIDTH", help="single (3.3 in), double (6.8 in) or inches."),
]
Format = Annotated[FigureFormat, typer.Option("--format", help="PDF and SVG are vectors.")]
MostEdges = Annotated[
    int | None, typer.Option("--edges", "-n", min=1, help="Edges of a circuit to draw at most.")
]
Heads = Annotated[
    list[str] | None,
    typer.Option("--head", help="Heads of attention and tokens, as a6.h1; repeatable."),
]
Titles = Annotated[bool, typer.Option("--titles/--no-titles", help="A title above each figure.")]
Grouped = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="NAME=NODES",
        help="Draw these nodes of a circuit as one box, as movers=a6.h1,a6.h2; repeatable.",
    ),
]
Notes = Annotated[
    bool, typer.Option("--notes/--no-notes", help="The caption in small grey letters below.")
]
Label = Annotated[
    str | None,
    typer.Option("--label", metavar="NAME", help="What captions and titles call the model."),
]
Listing = Annotated[
    bool, typer.Option("--list", help="Say what can be drawn, of these results or at all.")
]


@dataclass(frozen=True)
class Drawn(Options):
    """Which figures to draw."""

    kind: tuple[FigureKind, ...] = option((), "Draw this kind only; repeatable, default all.")


def figures(
    *,
    results: Results = None,
    kind: Annotated[list[FigureKind] | None, Like(Drawn, "kind")] = None,
    width: Width = None,
    format_: Format = FigureFormat.PDF,
    edges: MostEdges = None,
    head: Heads = None,
    titles: Titles = False,
    group: Grouped = None,
    notes: Notes = True,
    label: Label = None,
    out: o.Out = None,
    listing: Listing = False,
    as_json: o.AsJson = False,
) -> None:
    """Draw the figures of stored results: vector files at a journal's width, from no live model.

    By default all that a folder and those within it give, into `figures` inside it: a circuit's
    strongest edges, traces, curves, and the figures of reports of `kc run`.
    """
    console = Console(as_json)
    if not results:
        if not listing:
            raise OptionError("name a folder of results, or `listing` to see what can be drawn")
        return _list_kinds(console)
    with console.working():
        from experiments.cli import drawing
        from experiments.cli.run_figures import find_runs
        from viz.groups import parse_groups

        kinds = tuple(kind or ())
        inches = None if width is None else drawing.parse_width(width)
        groups = parse_groups(group or ())
        stored, unreadable = drawing.find_stored(results)
        runs = [] if kinds else find_runs(results)
        of_results = drawing.plan(stored, kinds)
        planned: list[drawing.Drawable] = [*of_results, *runs]
        for reason in unreadable if planned else ():
            console.warn(f"left out: {reason}")
        if not planned:
            raise OptionError(drawing.nothing_to_draw(results, stored, unreadable, kinds))
        first = results[0]
        folder = out or (first if first.is_dir() else first.parent) / "figures"
        heads = tuple(head) if head else None
        look = drawing.Look(
            inches, format_, edges, heads, titles, groups or None, notes, label or None
        )
        drawing.check_look(of_results, look)
        if listing:
            return _list_planned(console, planned)
        with console.stage("figures"):
            paths = drawing.draw_all(planned, folder, look)
    said = f"{len(paths):,} figure{'s are' if len(paths) != 1 else ' is'} in {folder}."
    console.say(said)
    console.files(paths)
    record = {"files": [str(path) for path in paths], "left_out": list(unreadable)}
    console.result(stamped("figures", record, said))


def _list_kinds(console: Console) -> None:
    """Every kind, what it shows, and the commands whose results give it."""
    from experiments.cli.drawing import WRITERS

    rows = [(str(kind), kind.text, WRITERS.get(kind, "a plugin")) for kind in FigureKind]
    console.table(("kind", "shows", "from kc"), rows)
    names = ("kind", "shows", "from")
    record = {"kinds": [dict(zip(names, row, strict=True)) for row in rows]}
    console.result(stamped("figures-list", record))


def _list_planned(console: Console, planned: list) -> None:
    """What these results give."""
    rows = [(str(each.kind), str(each.stored.path), each.shows) for each in planned]
    console.table(("kind", "from", "shows"), rows)
    names = ("kind", "from", "shows")
    record = {"figures": [dict(zip(names, row, strict=True)) for row in rows]}
    console.result(stamped("figures-list", record))
