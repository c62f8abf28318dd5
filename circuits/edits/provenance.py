"""What the provenance of an edit tells, also that of a sum, a multiple or a control of edits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

JUDGED = "judged"
"""Under what the provenance of a stored edit says how the edit fared."""
_ADDED = (JUDGED, "sha256", "norm")
"""What is noted of an edit beside how it was made."""


def parts_of(provenance: Any) -> list[Mapping[str, Any]]:
    """The provenance of each change that a sum, a multiple or a control was made of."""
    if not isinstance(provenance, Mapping):
        return []
    terms = provenance.get("sum", ())
    found = [*(terms if isinstance(terms, list | tuple) else ())]
    found += [provenance.get("scaled"), provenance.get("edit")]
    return [each for each in found if isinstance(each, Mapping)]


def made_for(provenance: Mapping[str, Any]) -> set[str]:
    """Hashes of the weights that a change was made for."""
    if "weights_sha256" in provenance:
        return {str(provenance["weights_sha256"])}
    return set().union(*map(made_for, parts_of(provenance)))


def requests_of(provenance: Any) -> list[Mapping[str, Any]]:
    """The records of requests that an edit, or each part of a sum of edits, answers."""
    inner = [each for part in parts_of(provenance) for each in requests_of(part)]
    return [*inner, *_records(provenance, "requests")]


def forgotten(provenance: Any) -> list[Mapping[str, Any]]:
    """The records of texts that unlearning was to take away."""
    return _records(provenance, "forget")


def identity(provenance: Any) -> str:
    """The same for an edit's file and for what was found about that edit; empty for no edit."""
    if not (requests_of(provenance) or forgotten(provenance)):
        return ""
    plain = {name: value for name, value in provenance.items() if name not in _ADDED}
    text = json.dumps(plain, sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:16]


def _records(provenance: Any, name: str) -> list[Mapping[str, Any]]:
    """What a provenance lists under a name; a file may say anything there."""
    found = provenance.get(name) if isinstance(provenance, Mapping) else None
    records = found if isinstance(found, list | tuple) else ()
    return [each for each in records if isinstance(each, Mapping)]
