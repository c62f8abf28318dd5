"""A rewiring as arrays and metadata, from which every table and figure can be redrawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.base.errors import OptionError
from circuits.base.results import numeric, prefixed, texts, within
from circuits.graph.compare import Comparison
from locate.changes.restoration import Restoration
from locate.changes.rewiring import FollowedObjects, Rewiring
from locate.heads.attention import REGIONS
from locate.heads.head_changes import HeadChange

_COMPARISON, _FOLLOWED, _RESTORATION = "comparison.", "followed.", "restoration."


def arrays_of(rewiring: Rewiring) -> dict[str, np.ndarray]:
    """All its numbers by name."""
    followed = rewiring.followed
    arrays = prefixed(rewiring.comparison.arrays(), _COMPARISON)
    arrays |= {
        f"{_FOLLOWED}rank": followed.rank,
        f"{_FOLLOWED}probability": followed.probability,
        "written": rewiring.written,
    }
    if rewiring.restoration is not None:
        arrays |= prefixed(rewiring.restoration.arrays(), _RESTORATION)
    return arrays


def metadata_of(rewiring: Rewiring) -> dict[str, Any]:
    """Everything else, as plain JSON values."""
    found: dict[str, Any] = {
        "comparison": rewiring.comparison.metadata(),
        "followed": {"prompts": rewiring.followed.prompts, "places": rewiring.followed.places},
        "heads": [_head_record(head) for head in rewiring.heads],
        "logit_differences": rewiring.logit_differences,
        "provenance": rewiring.provenance,
    }
    if rewiring.restoration is not None:
        found["restoration"] = {"n_edges": rewiring.restoration.n_edges}
    return found


def read_rewiring(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Rewiring:
    """The inverse of `arrays_of` and `metadata_of`; OptionError where shapes do not fit."""
    comparison = Comparison.from_arrays(within(arrays, _COMPARISON), metadata["comparison"])
    followed = FollowedObjects(
        prompts=texts(metadata["followed"]["prompts"]),
        places=texts(metadata["followed"]["places"]),
        rank=numeric(arrays, f"{_FOLLOWED}rank", "if", 5),
        probability=numeric(arrays, f"{_FOLLOWED}probability", "f", 5),
    )
    written = numeric(arrays, "written", "f", 2)
    shape, n_prompts, n_places = followed.rank.shape, len(followed.prompts), len(followed.places)
    if (
        shape != followed.probability.shape
        or shape != (2, n_prompts, shape[2], n_places, 2)
        or not all(shape)
        or written.shape != (2, comparison.before.wiring.n_src)
    ):
        raise OptionError("the shapes do not fit")
    restoration = None
    if "restoration" in metadata:
        found = within(arrays, _RESTORATION)
        numbers = {
            name: numeric(found, name, "b" if "first" in name else "f", 1 + ("random" in name))
            for name in found
        }
        restoration = Restoration(n_edges=int(metadata["restoration"]["n_edges"]), **numbers)
    before, after = map(float, metadata["logit_differences"])
    return Rewiring(
        comparison=comparison,
        followed=followed,
        written=written,
        logit_differences=(before, after),
        heads=tuple(_head(record) for record in metadata["heads"]),
        restoration=restoration,
        provenance=dict(metadata["provenance"]),
    )


def _head_record(head: HeadChange) -> dict[str, Any]:
    attention = [{str(name): share for name, share in side.items()} for side in head.attention]
    return {**vars(head), "attention": attention}


def _head(record: Mapping[str, Any]) -> HeadChange:
    sides = [
        {name: float(side.get(str(name), 0.0)) for name in REGIONS} for side in record["attention"]
    ]
    written = [texts(side) for side in record["written"]]
    old, new = ([float(each) for each in record[name]] for name in ("old", "new"))
    return HeadChange(
        name=str(record["name"]),
        role=str(record["role"]),
        moved=float(record["moved"]),
        changed=int(record["changed"]),
        old=(old[0], old[1]),
        new=(new[0], new[1]),
        attention=(sides[0], sides[1]),
        written=(written[0], written[1]),
    )
