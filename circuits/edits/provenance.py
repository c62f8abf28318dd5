"""What the provenance of an edit tells, also that of a sum, a multiple or a control of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

JUDGED = "judged"
"""Under what the provenance of a stored edit says how the edit fared."""


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


def in_words(requests: Sequence[Mapping[str, Any]]) -> str:
    """`France: Paris → Rome`, and of how many more; empty for none."""
    if not requests:
        return ""
    first, more = requests[0], len(requests) - 1
    what = first.get("subject") or question(first)
    return f"{what}: {sides(first)}{f' and {more:,} more' if more else ''}"
