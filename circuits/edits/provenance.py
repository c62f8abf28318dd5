"""What the provenance of an edit tells, also that of a sum, a multiple or a control of edits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def bos_of(provenance: Any) -> bool | None:
    """Whether the edit's texts began with BOS; None where nobody says, or its parts differ."""
    said = _each_bos(provenance)
    return said.pop() if len(said) == 1 else None


def _each_bos(provenance: Any) -> set[bool]:
    found = set().union(*map(_each_bos, parts_of(provenance)))
    own = provenance.get("bos") if isinstance(provenance, Mapping) else None
    return found | {own} if isinstance(own, bool) else found


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


def changed(provenance: Any) -> str:
    """`France: Paris → Rome`, or what was to be forgotten, and how many more of them.

    Of the provenance of an edit, also of a sum of edits; empty for what changed no weight.
    """
    return in_words(requests_of(provenance)) or _forget(forgotten(provenance))


def in_words(requests: Sequence[Mapping[str, Any]]) -> str:
    """`France: Paris → Rome`, and how many more; empty for none."""
    if not requests:
        return ""
    first = requests[0]
    what = first.get("subject") or requested(first)
    return f"{what}: {sides(first)}{_more(len(requests))}"


def requested(request: Mapping[str, Any]) -> str:
    """The prompt of a request with its subject in it."""
    return str(request.get("prompt", "")).replace("{}", str(request.get("subject", "")))


def sides(request: Mapping[str, Any]) -> str:
    """`Paris → Rome`; the new object alone where the old one is not known."""
    old, new = request.get("ground_truth"), request.get("target", request.get("target_new"))
    return f"{f'{old} → ' if old else '→ '}{new or ''}"


def _forget(texts: list[Mapping[str, Any]]) -> str:
    if not texts:
        return ""
    text, answer = texts[0].get("text"), texts[0].get("answer")
    return f"forget {text}{f' → {answer}' if answer else ''}{_more(len(texts))}"


def _more(n: int) -> str:
    return f" and {n - 1:,} more" if n > 1 else ""
