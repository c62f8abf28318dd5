"""One line a result: the files that one command wrote into a folder belong together.

A folder with a summary is one command's; every other file stands for itself. An analysis' report,
and what was found about an edit, are tied to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from circuits.files.kinds import DAMAGED, KINDS, OTHER, REPORT, SWEEP
from viz.app.library import Entry

FIRST = ("rewiring", "comparison", "circuit")
"""Kinds that a result is opened on before all others, in this order."""


@dataclass(frozen=True)
class Group:
    """One result: its entries, the one it is opened on first."""

    name: str
    entries: tuple[Entry, ...]

    @property
    def main(self) -> Entry:
        """What a click on the result opens."""
        return self.entries[0]

    def row(self) -> dict[str, Any]:
        """For the table: what its files say, the main one first."""
        about: dict[str, Any] = {}
        for entry in self.entries:
            about = {**entry.about, **about}
        about["created"] = made(about)
        about.pop("stamp", None)
        kinds = list(dict.fromkeys(entry.kind.shown for entry in self.entries))
        return {
            **about,
            "id": self.main.id,
            "view": self.main.kind.view,
            "name": self.name,
            "kind": ", ".join(kinds) + (", live" if self.main.live else ""),
            "error": self.main.error,
        }


def made(about: Mapping[str, Any]) -> str:
    """When a result was made, else when its file was written: 2026-11-28 10:39 (UTC)."""
    told, stamp = about.get("created"), about.get("stamp")
    if isinstance(told, str):
        return told[:16].replace("T", " ")
    changed = stamp[0] if isinstance(stamp, tuple) else stamp
    if not isinstance(changed, int):
        return ""
    return datetime.fromtimestamp(changed / 1e9, UTC).strftime("%Y-%m-%d %H:%M")


def groups(entries: Sequence[Entry]) -> list[Group]:
    """The results of a list of files, in its order."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(f"run {entry.run}" if entry.run else entry.id, []).append(entry)
    return [_group(members) for members in found.values()]


def group_of(entries: Sequence[Entry], entry: Entry) -> Group:
    """The result that a file belongs to, with what others found about the same edit."""
    own = next(
        (each for each in groups(entries) if any(one.id == entry.id for one in each.entries)),
        Group(entry.name, (entry,)),
    )
    edits = {each.about["edit"] for each in own.entries if each.about.get("edit")}
    tied = [
        each.main
        for each in groups(entries)
        if each.name != own.name and edits & {one.about.get("edit") for one in each.entries}
    ]
    return Group(own.name, (*own.entries, *tied))


def _group(members: Sequence[Entry]) -> Group:
    if len(members) == 1 and not members[0].run:
        return Group(members[0].name.removesuffix(".kc.safetensors"), tuple(members))
    ordered = tuple(sorted(members, key=_place))
    first = ordered[0]
    folder = first.run if first.run != "." else ""
    return Group(folder or PurePosixPath(first.home or first.name).name, ordered)


def _place(entry: Entry) -> tuple[int, str]:
    """Where a file stands within its result."""
    order = [SWEEP.name, REPORT.name, *FIRST, "weight-delta"]
    order += [name for name in KINDS if name not in order] + [OTHER.name, DAMAGED.name]
    at = order.index(entry.kind.name) if entry.kind.name in order else len(order)
    return at, entry.name


def href(entry: Entry) -> str:
    """The link to a result's page."""
    return f"?view={entry.kind.view}&r={entry.id}"


def tab_name(group: Group, entry: Entry) -> str:
    """What a file of a result is called beside its others: its kind, and which where it is not one.

    What was found about the same edit elsewhere is called after its folder.
    """
    if entry.run != group.main.run:
        return f"{entry.run or entry.name} ({entry.kind.shown})"
    stem = PurePosixPath(entry.name).name.removesuffix(".kc.safetensors")
    same = [each for each in group.entries if each.kind is entry.kind]
    if len(same) > 1 or entry.kind in (OTHER, DAMAGED):
        return f"{entry.kind.shown}: {stem}"
    return entry.kind.shown
