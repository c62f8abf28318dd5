"""The sentence that a page begins with: the same that commands and reports begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuits.base.display import Shown
from circuits.base.stamps import SAYS
from circuits.edits.provenance import JUDGED, forgotten, requested, requests_of
from locate.looks.says.changes import stored_edit
from viz.app.library import Record


def lead_of(value: Any, beside: Mapping[str, Any] | None = None) -> str:
    """What a result found, in one sentence; empty where there is none to be said.

    `beside` is what the summary in the result's folder adds (`told_beside`).
    """
    if isinstance(value, Record):
        return _record(value, beside or {})
    return value.says() if isinstance(value, Shown) else ""


def judged(value: Record) -> Mapping[str, Any]:
    """What the file of an edit says of how the edit fared; nothing where it says nothing."""
    provenance = value.metadata.get("provenance")
    found = provenance.get(JUDGED) if isinstance(provenance, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def told_beside(value: Any, beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the summary in a file's folder adds: the sentence on its own requests and their answers.

    Of files that do not say how their edit was judged it is all of the summary but the sentence.
    """
    if not isinstance(value, Record):
        return {}
    own = [requested(each) for each in requests_of(value.metadata.get("provenance"))]
    answered = [prompt for prompt, *_ in answers_of(beside)]
    told = ("scores", SAYS) if answered and answered == own else ()
    rest = [] if judged(value) else [name for name in beside if name != SAYS]
    return {name: beside[name] for name in (*rest, *told) if name in beside}


def _record(value: Record, beside: Mapping[str, Any]) -> str:
    """Of an edit's file, whose weights the app does not read: as its command or else it says."""
    said = beside.get(SAYS)
    if isinstance(said, str):
        return said
    origin = value.metadata.get("provenance")
    if not (isinstance(origin, Mapping) and (requests_of(origin) or forgotten(origin))):
        return ""
    return stored_edit({**origin, JUDGED: judged(value) or beside})


def answers_of(beside: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Prompt, answer before and answer after of each request, where the summary has them."""
    scores = beside.get("scores")
    found = []
    for each in scores if isinstance(scores, list) else ():
        if not isinstance(each, Mapping):
            continue
        reply = each.get("reply")
        if isinstance(reply, list) and len(reply) == 2:
            found.append((requested(each), str(reply[0]).strip(), str(reply[1]).strip()))
    return found
