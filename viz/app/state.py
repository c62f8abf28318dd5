"""The state of a view as a URL, read with tolerance: a link reproduces a view, never an error.

What a link says wrongly (a number that is none, a view that does not exist) is left at its default,
and a notice says so. Names of nodes and edges are checked by the view that knows the circuit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from viz.groups import LONGEST_NAME

VIEWS = (
    *("browse", "circuit", "difference", "trace", "lens", "rows", "record", "report", "sweep"),
    "try",
)
LOOKS = ("lens", "states")
"""What "Try it" looks at inside a prompt; without one it asks for the circuit."""
LONGEST = 400
LONGEST_QUERY = 8000
MOST_EDGES = 2000
MOST_GROUPS = 12
MOST_NAMES = 64


@dataclass(frozen=True)
class ViewState:
    """What a URL says. Empty texts and tuples are "not said"; `n` 0 is the view's default.

    `groups` are pinned nodes by name of their group, `collapsed` the names of those that are drawn
    as one box; `off` what is switched off in "Try it", where
    `against` is the corrupted prompt and `foil` its answer, and `look` what is looked at inside.
    Of a sweep, `rows` and `columns` are settings, `number` is shown, `where` are the wanted values
    of settings, and `cell` the values of the chosen cell's row and column.
    """

    view: str = ""
    r: str = ""
    n: int = 0
    t: float = 0.0
    node: str = ""
    edge: str = ""
    q: str = ""
    role: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    layers: tuple[int, int] | None = None
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    collapsed: tuple[str, ...] = ()
    noise: str = ""
    place: str = ""
    model: str = ""
    prompt: str = ""
    subject: str = ""
    answer: str = ""
    against: str = ""
    foil: str = ""
    target: str = ""
    look: str = ""
    off: tuple[str, ...] = ()
    rows: str = ""
    columns: str = ""
    number: str = ""
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cell: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, str, str, str, str, str]:
        """What "Try it" asks: model, prompt, subject, answer, corrupted prompt and foil."""
        return (self.model, self.prompt, self.subject, self.answer, self.against, self.foil)

    @property
    def boxes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The groups that are drawn as one box each."""
        return tuple(group for group in self.groups if group[0] in self.collapsed)

    def before_edit(self) -> ViewState:
        """The same question without the edit that was made of it."""
        return replace(self, target="", n=0, t=0.0, node="", edge="", hide=())

    def search(self, **changes: Any) -> str:
        """The query string, `?` included; what is at its default is left out."""
        state = replace(self, **changes)
        parts = []
        for each in fields(state):
            value = getattr(state, each.name)
            if value != each.default:
                text = _as_text(each.name, value)
                parts.append(f"{each.name}={quote(text, safe='.~-:;,<>')}")
        return "?" + "&".join(parts) if parts else "?view=browse"


def parse_state(search: str | None) -> tuple[ViewState, list[str]]:
    """The state that a query string says, and a notice for all that it says wrongly."""
    notices: list[str] = []
    text = (search or "").removeprefix("?")
    if len(text) > LONGEST_QUERY:
        return ViewState(), ["the link is too long; it was not read"]
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(text, errors="replace", max_num_fields=60)
    except ValueError:
        return ViewState(), ["the link holds too many parts; it was not read"]
    known = {each.name for each in fields(ViewState)}
    for name, value in pairs:
        if name not in known:
            continue
        try:
            found[name] = _from_text(name, value)
        except ValueError:
            notices.append(f"the link's {name} was not understood and is left at its default")
    return ViewState(**found), notices


def _as_text(name: str, value: Any) -> str:
    if name == "layers":
        return f"{value[0]}-{value[1]}"
    if name == "groups":
        return ";".join(f"{_inner(title)}:{'~'.join(nodes)}" for title, nodes in value)
    if name == "where":
        return ";".join(f"{_coded(each)}:{_listed(values)}" for each, values in value)
    if name == "cell":
        return _listed(value)
    if isinstance(value, tuple):
        return "~".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inner(title: str) -> str:
    """A group's name without the characters that part groups and nodes."""
    return "".join(" " if char in ":;~" else char for char in title)


def _coded(text: str) -> str:
    """A setting's name or value without the characters that part them."""
    return quote(text, safe="").replace("~", "%7E")


def _listed(values: tuple[str, ...]) -> str:
    return "~".join(map(_coded, values))


def _unlisted(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(unquote(part)[:LONGEST] for part in text.split("~") if part))


def _from_text(name: str, value: str) -> Any:
    if "\x00" in value:
        raise ValueError("a NUL stands in a link")
    if name == "n":
        return max(1, min(MOST_EDGES, int(value)))
    if name == "t":
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError("a threshold is a finite number from 0 up")
        return number
    if name == "layers":
        low, _, high = value.partition("-")
        bounds = int(low), int(high)
        if not 0 <= bounds[0] <= bounds[1] <= 10_000:
            raise ValueError("layers are two rising numbers")
        return bounds
    if name == "view" and value not in VIEWS:
        raise ValueError("no such view")
    if name == "look" and value not in LOOKS:
        raise ValueError("nothing of that name to look at")
    if name == "groups":
        return _groups(value)
    if name == "where":
        parted = (part.partition(":") for part in value.split(";") if part)
        found = {unquote(each)[:LONGEST]: _unlisted(values) for each, _, values in parted}
        return tuple((each, values[:MOST_NAMES]) for each, values in found.items() if values)
    if name == "cell":
        cell = tuple(unquote(part)[:LONGEST] for part in value.split("~"))
        if len(cell) != 2:
            raise ValueError("a cell is a row and a column")
        return cell
    if name in ("role", "kind", "hide", "off", "collapsed"):
        return tuple(dict.fromkeys(part[:LONGEST] for part in value.split("~") if part))[
            :MOST_NAMES
        ]
    return value[:LONGEST]


def _groups(value: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    groups = []
    for part in value.split(";")[:MOST_GROUPS]:
        title, colon, nodes = part.rpartition(":")
        names = tuple(dict.fromkeys(node[:40] for node in nodes.split("~") if node))[:MOST_NAMES]
        if colon and names:
            groups.append((title[:LONGEST_NAME], names))
    return tuple(groups)
