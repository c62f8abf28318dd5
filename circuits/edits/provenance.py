"""What the provenance of an edit tells, also that of a sum, a multiple or a control of edits."""

from __future__ import annotations

from collections.abc import Mapping
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
