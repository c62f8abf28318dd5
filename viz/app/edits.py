"""What an edit asked for, in words: one place for the list, the pages and their titles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from circuits.edits.provenance import JUDGED, in_words, requests_of

ADDED = (JUDGED, "sha256", "norm")
"""What is noted of an edit beside how it was made."""


def headline(provenance: Any) -> str:
    """`France: Paris → Rome`, or what was to be forgotten; nothing for what changed no weight."""
    return in_words(requests_of(provenance)) or _forgotten(provenance)


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
