"""From a result, or a folder of them, to the sections of its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from circuits.base.display import Shown, visible
from circuits.base.errors import OptionError
from circuits.base.results import Result
from circuits.edits.provenance import changed
from circuits.files.kinds import kind_of_result, named, open_result
from circuits.files.sweep import is_sweep
from circuits.graph.circuit import Circuit
from circuits.graph.meaning import reading
from viz import theme
from viz.asked import pairs_of, question
from viz.page.nodes import node_notes
from viz.page.section import Graph, Listing, Section, View
from viz.page.sweeps import sweep_section
from viz.screen.circuit import MOST_EDGES, circuit_scene, left_out
from viz.screen.curves import followed_figure, lens_figure
from viz.screen.drawing import as_dict
from viz.screen.scene import Scene
from viz.series import lens_lines, lens_rows, object_lines

if TYPE_CHECKING:  # these bring torch along; a page needs no model
    from circuits.graph.comparison import Comparison
    from locate.changes.rewired import Rewiring
    from locate.discovery import Discovery

SHOWN = 60
"""Edges of a picture before the reader asks for more."""
MOST_ROWS = 2000
"""Rows of a table; a page says how many there are beyond."""
PER_UNIT, LOWEST, HIGHEST = 36, 380, 1150
"""Pixels for one unit of a layout's height, and the least and most for a picture."""
SUFFIX = ".kc.safetensors"
_OF_HEADS = ("head", "role", "swing", "switched", "written_before", "written_after")
"""What the table of an edit's heads shows; all of it stands in `heads.csv`."""
_FIRST = ("rewiring", "circuit", "comparison")
"""Files that stand first on the page of a folder."""


def sections(result: Any) -> list[Section]:
    """The sections of a result's page; of a path those of the file, or of all in the folder.

    OptionError for what has no page.
    """
    if isinstance(result, str | Path):
        path = Path(result)
        return _folder(path) if path.is_dir() else [section(open_result(path))]
    if isinstance(result, list | tuple):
        if not result:
            raise OptionError("no result is given for the page")
        return [part for each in result for part in sections(each)]
    if hasattr(result, "beside"):
        return _discovery(result)
    return [section(result)]


def section(result: Any) -> Section:
    """One result's section; OptionError for what is no result."""
    kind = getattr(result, "KIND", "")
    if kind == "circuit":
        return _circuit(result)
    if kind in ("comparison", "rewiring"):
        return _difference(result)
    if kind in ("lens", "average lens"):
        lines = lens_lines(result)
        views = [_view(place, lens_figure(lines, place)) for place in lines.places]
        return _plain(result, views, lens_rows(lines))
    if not isinstance(result, Shown):
        raise OptionError(f"a {type(result).__name__} has no page")
    return _plain(result, _views(result), result.rows())


def _folder(folder: Path) -> list[Section]:
    if is_sweep(folder):
        return [sweep_section(folder)]
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise OptionError(f"{folder} holds no stored result (*{SUFFIX})")
    names = [path.name.removesuffix(SUFFIX) for path in paths]
    if "rewiring" in names:  # it holds the comparison
        paths = [path for path, name in zip(paths, names, strict=True) if name != "comparison"]
    order = {name: place for place, name in enumerate(_FIRST)}
    paths.sort(key=lambda path: order.get(path.name.removesuffix(SUFFIX), len(order)))
    found = [section(open_result(path)) for path in paths]
    return _told_apart(found, [path.name.removesuffix(SUFFIX) for path in paths])


def _told_apart(found: Sequence[Section], names: Sequence[str]) -> list[Section]:
    """Sections whose titles are the same get their files' names."""
    titles = [each.title for each in found]
    return [
        replace(each, title=f"{each.title} ({name})") if titles.count(each.title) > 1 else each
        for each, name in zip(found, names, strict=True)
    ]


def _discovery(found: Discovery) -> list[Section]:
    """The circuit, then what was found out beside it, as its folder has it."""
    return [section(each) for each in (found.circuit, *found.beside())]


def _circuit(circuit: Circuit) -> Section:
    scene = circuit_scene(circuit, MOST_EDGES)
    support, against = (theme.edge_style(score, circuit.meaning) for score in (1, -1))
    plain = theme.plain_style(circuit.meaning)
    styles = {"supports": support, "opposes": against, "edge": plain}
    summary = circuit.summary()
    rows = circuit.rows()
    listings = [_listing("Edges", rows, picks="edge"), *_pairs(circuit)]
    return Section(
        title=_title(circuit) or summary.title,
        kind="circuit",
        lead=circuit.says(),
        asked=question(circuit),
        says=_reading(circuit, scene),
        facts=_facts(summary.facts),
        graph=_graph(scene, styles, node_notes(circuit)),
        listings=listings,
        provenance=circuit.provenance,
    )


def _difference(result: Comparison | Rewiring) -> Section:
    from circuits.graph.comparison import Comparison
    from viz.marking import marked
    from viz.screen.difference import STATUS, difference_left_out, difference_scene

    comparison = result if isinstance(result, Comparison) else result.comparison
    shown, noise = marked(comparison)
    scene = difference_scene(shown, MOST_EDGES)
    styles = {name: style for style, name in STATUS.items()}
    summary = result.summary()
    rows = comparison.rows()
    listings = [_listing("Edges, what changed most first", rows, picks="edge")]
    views: list[View] = []
    origin = result.provenance
    if not isinstance(result, Comparison):
        views = [
            _view(f"{' and '.join(result.objects)}, {place}", followed_figure(result, place))
            for place in object_lines(result).places
        ]
        heads = [{name: head.as_row().get(name) for name in _OF_HEADS} for head in result.heads]
        listings.insert(0, _listing("Heads, by the logits that they moved", heads, picks="head"))
    width = "Width is the larger |score| of before and after."
    says = " ".join(filter(None, (width, noise, difference_left_out(comparison, scene))))
    return Section(
        title=visible(changed(origin.get("edit"))) or _title(result) or summary.title,
        kind="difference",
        lead=result.says(),
        asked=question(result),
        says=says,
        facts=_facts(summary.facts),
        graph=_graph(scene, styles, {}),
        views=views,
        listings=listings,
        provenance=origin,
    )


def _plain(result: Any, views: Sequence[View], rows: Sequence[Mapping[str, Any]]) -> Section:
    """Any result: its pictures, its summary's table where its rows are others."""
    summary = result.summary()
    kind = kind_of_result(result) if isinstance(result, Result) else None
    origin = getattr(result, "provenance", {})
    listings = [_listing("All numbers", rows)] if rows else []
    columns = list(rows[0]) if rows else []
    if summary.rows and (list(summary.header), len(summary.rows)) != (columns, len(rows)):
        glance = Listing(visible(summary.note) or "At a glance", summary.header, summary.rows)
        listings.insert(0, glance)
    return Section(
        title=visible(changed(origin)) or _title(result) or summary.title,
        kind=kind.shown if kind else summary.title,
        lead=result.says(),
        asked=question(result),
        says=kind.says if kind else "",
        facts=_facts(summary.facts),
        views=views,
        listings=listings,
        provenance=origin,
    )


def _views(result: Any) -> list[View]:
    """The pictures on the screen of a stored kind of result, one a part and kind of picture."""
    if not isinstance(result, Result):
        return []
    pictures = kind_of_result(result).screen
    pieces = list(result.parts())
    found = []
    for part in pieces:
        for name, draw in pictures.items():
            label = [part.heading() or ""] if len(pieces) > 1 else []
            label += [str(name)] if len(pictures) > 1 else []
            found.append(_view(": ".join(label), named(draw)(part)))
    return found


def _view(label: str, figure: go.Figure) -> View:
    return View(visible(label), json.loads(figure.to_json()))


def _graph(
    scene: Scene,
    styles: Mapping[str, theme.EdgeStyle],
    notes: Mapping[str, Sequence[tuple[str, str]]],
) -> Graph:
    present = set(scene.classes)
    legend = [
        {
            "class": name,
            "says": style.legend,
            "colour": style.colour,
            "dash": ""
            if style.dash is None
            else " ".join(f"{2.2 * each:.1f}" for each in style.dash),
        }
        for name, style in styles.items()
        if name in present
    ]
    _, _, low, high = scene.layout.bounds
    height = round(min(HIGHEST, max(LOWEST, PER_UNIT * (high - low) + 16)))
    return Graph(as_dict(scene), legend, min(SHOWN, scene.n_edges), height, notes)


def _reading(circuit: Circuit, scene: Scene) -> str:
    """How to read the picture, and what it leaves out."""
    parts = ["A line rises from the part that writes to the part that reads."]
    return " ".join(filter(None, [*parts, reading(circuit), left_out(circuit.n_edges, scene)]))


def _pairs(circuit: Circuit) -> list[Listing]:
    """The prompt pairs that found and that tested the circuit, where it knows them."""
    titles = {"pairs": "Pairs that found it", "held_out_pairs": "Pairs that tested it"}
    found = []
    for name, title in titles.items():
        if stored := pairs_of(circuit, name):
            keys = [key for key in ("clean", "answer", "corrupted", "foil") if key in stored[0]]
            rows = [[_cell(each.get(key)) for key in keys] for each in stored]
            words = {"clean": "prompt", "corrupted": "corrupted prompt"}
            found.append(Listing(title, [words.get(key, key) for key in keys], rows))
    return found


def _title(result: Any) -> str:
    """Relation and model, or the prompt; empty where a result knows of the model alone."""
    if not isinstance(result, Result):
        return ""
    heading = result.heading() or ""
    return (
        "" if heading == str(getattr(result, "provenance", {}).get("model")) else visible(heading)
    )


def _facts(facts: Mapping[str, str]) -> dict[str, str]:
    return {visible(str(name)): visible(str(text)) for name, text in facts.items()}


def _listing(title: str, rows: Sequence[Mapping[str, Any]], picks: str = "") -> Listing:
    """Records as a table: columns are all keys in order; at most `MOST_ROWS`."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        title += f" (the first {MOST_ROWS:,} of {len(rows):,})"
    shown = [visible(name).replace("_", " ") for name in columns]
    return Listing(title, shown, cells, columns.index(picks) if picks in columns else None)


def _cell(value: Any) -> Any:
    """A number, or text in one line; None for what is absent or not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return " ".join(str(_cell(each)) for each in value)
    return visible(str(value))
