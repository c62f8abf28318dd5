"""What an edit asked for, in words: one place for the list, the pages and their titles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from circuits.edits.provenance import JUDGED, parts_of

ADDED = (JUDGED, "sha256", "norm")
"""What is noted of an edit beside how it was made."""


def requests_of(provenance: Any) -> list[Mapping[str, Any]]:
    """The records of requests that an edit, or each part of a sum of edits, answers."""
    own = provenance.get("requests") if isinstance(provenance, Mapping) else None
    inner = [each for part in parts_of(provenance) for each in requests_of(part)]
    mine = own if isinstance(own, list | tuple) else ()
    return [*inner, *(each for each in mine if isinstance(each, Mapping))]


def sides(request: Mapping[str, Any]) -> str:
    """`Paris → Rome`; the new object alone where the old one is not known."""
    old, new = request.get("ground_truth"), request.get("target", request.get("target_new"))
    return f"{f'{old} → ' if old else '→ '}{new or ''}"


def question(request: Mapping[str, Any]) -> str:
    """The prompt with its subject in it."""
    return str(request.get("prompt", "")).replace("{}", str(request.get("subject", "")))


def headline(provenance: Any) -> str:
    """`France: Paris → Rome`, or what was to be forgotten; nothing for what changed no weight."""
    asked = requests_of(provenance)
    if not asked:
        return _forgotten(provenance)
    first = asked[0]
    what = first.get("subject") or question(first)
    more = f" and {len(asked) - 1:,} more" if len(asked) > 1 else ""
    return f"{what}: {sides(first)}{more}"


def _forgotten(provenance: Any) -> str:
    """`forget The capital of France is → Paris`, and how many more texts."""
    texts = provenance.get("forget") if isinstance(provenance, Mapping) else None
    if not (isinstance(texts, list | tuple) and texts and isinstance(texts[0], Mapping)):
        return ""
    text, answer = texts[0].get("text"), texts[0].get("answer")
    more = f" and {len(texts) - 1:,} more" if len(texts) > 1 else ""
    return f"forget {text}{f' → {answer}' if answer else ''}{more}"


def identity(provenance: Any) -> str:
    """The same for an edit's file and for what was found about that edit; empty for no edit."""
    if not headline(provenance):
        return ""
    plain = {name: value for name, value in provenance.items() if name not in ADDED}
    text = json.dumps(plain, sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:16]
