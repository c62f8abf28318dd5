"""Which rows of a result are one observation, where pairs share one: as a record, and back.

Pairs that ask one fact in several wordings are drawn together by intervals. Where each pair is an
observation of its own nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from circuits.base.errors import OptionError
from circuits.base.origin import OBSERVED


def recorded(groups: Sequence[int], drawn: str) -> dict[str, Any]:
    """For provenance: the number of each row's observation, and what these are, in the plural."""
    n = len(set(groups))
    return {} if n == len(groups) else {OBSERVED: {"drawn": drawn, "n": n, "groups": list(groups)}}


def groups_of(provenance: Mapping[str, Any], n_rows: int) -> Int[np.ndarray, " row"] | None:
    """The number of each row's observation; None where each is its own.

    OptionError where the record does not fit so many rows.
    """
    if OBSERVED not in provenance:
        return None
    try:
        found = np.array(provenance[OBSERVED]["groups"])
    except (KeyError, TypeError, ValueError):
        found = np.array(None)
    if found.shape != (n_rows,) or found.dtype.kind != "i":
        raise OptionError(f"which of the {n_rows} rows are one observation is not recorded rightly")
    return found


def drawn_of(provenance: Mapping[str, Any], unit: str) -> str:
    """What intervals draw, in the plural: facts, prompts or partners; else the unit of a row."""
    return str(provenance[OBSERVED]["drawn"]) if OBSERVED in provenance else f"{unit}s"
