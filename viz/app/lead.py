"""The sentence that a page begins with: the same that commands and reports begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuits.edits.provenance import JUDGED, question, requests_of
from locate.looks.says import says
from locate.looks.says.changes import unlearned
from locate.looks.says.words import model_of, prompt, quoted, sentence
from viz.app.edits import headline
from viz.app.library import Record


def lead_of(value: Any, beside: Mapping[str, Any] | None = None) -> str:
    """What a result found, in one sentence; empty where there is none to be said.

    `beside` is the summary in the result's folder, which has the answers of an edit.
    """
    return _record(value, beside or {}) if isinstance(value, Record) else says(value)


def judged(value: Record) -> Mapping[str, Any]:
    """What the file of an edit says of how the edit fared; nothing where it says nothing."""
    provenance = value.metadata.get("provenance")
    found = provenance.get(JUDGED) if isinstance(provenance, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def told_beside(value: Any, beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the summary in a file's folder adds: answers to its own requests, and older files' all.

    Files that do not say how their edit was judged have it in the summary beside them.
    """
    if not isinstance(value, Record):
        return {}
    own = [question(each) for each in requests_of(value.metadata.get("provenance"))]
    answered = [prompt for prompt, *_ in answers_of(beside)]
    scores = {"scores": beside["scores"]} if answered and answered == own else {}
    return scores if judged(value) else {**beside, **scores}


def _record(value: Record, beside: Mapping[str, Any]) -> str:
    """Of an edit's file, whose weights the app does not read."""
    origin = value.metadata.get("provenance")
    told = judged(value) or beside
    details = told.get("details")
    if isinstance(details, Mapping) and "forget" in details:
        method = origin.get("method") if isinstance(origin, Mapping) else None
        return unlearned(details, str(method or "the method"))
    if not requests_of(origin):
        return ""
    text, replies = headline(origin), answers_of(beside)
    if not replies:
        return sentence(text)
    asked, *said = replies[0]
    first = requests_of(origin)[0]
    before, after = (
        word if word and text.startswith(word) else text
        for text, word in zip(said, (first.get("ground_truth"), first.get("target")), strict=True)
    )
    model = model_of(origin if isinstance(origin, Mapping) else {})
    return sentence(
        f"{text}. {model} answers {prompt(asked)} with {quoted(after)} where it said "
        f"{quoted(before)}"
    )


def answers_of(beside: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Prompt, answer before and answer after of each request, where the summary has them."""
    scores = beside.get("scores")
    found = []
    for each in scores if isinstance(scores, list) else ():
        if not isinstance(each, Mapping):
            continue
        reply = each.get("reply")
        if isinstance(reply, list) and len(reply) == 2:
            found.append((question(each), str(reply[0]).strip(), str(reply[1]).strip()))
    return found
