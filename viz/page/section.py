"""What a page shows of one result, as plain values: words, tables, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class View:
    """One picture: a figure of plotly as JSON values, under a label where there are several."""

    label: str
    figure: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """A circuit's picture, of which the reader chooses edges: `scene` as of `viz.screen.drawing`.

    `legend` has, for each class of edges in it, what it is called and its colour and dashes;
    `shown` is how many edges stand there at first, `notes` what is known of a node, name and text.
    """

    scene: Mapping[str, Any]
    legend: Sequence[Mapping[str, str]]
    shown: int
    height: int
    notes: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Listing:
    """A table: cells are text or numbers, None where there is nothing.

    `picks` is the column whose cells name an edge or node of the picture.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    picks: int | None = None


@dataclass(frozen=True, eq=False)
class Section:
    """One result on a page: what was found comes first, where it is from last.

    `lead` is its sentence, `asked` what the model was asked, `says` how to read the picture.
    """

    title: str
    kind: str
    lead: str = ""
    asked: str = ""
    says: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    graph: Graph | None = None
    views: Sequence[View] = ()
    listings: Sequence[Listing] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
