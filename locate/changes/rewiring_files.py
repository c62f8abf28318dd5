"""A rewiring in a `*.kc.safetensors` file, from which every table and figure can be redrawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.errors import FileFormatError, OptionError
from circuits.files.comparisons import check_comparison, comparison_arrays, comparison_from_arrays
from circuits.files.store import ContentError, Layout, load_arrays, save_arrays
from locate.changes.restoration import Restoration
from locate.changes.rewiring import FollowedObjects, Rewiring
from locate.heads.attention import REGIONS
from locate.heads.head_changes import HeadChange

KIND = "rewiring"
_COMPARISON, _FOLLOWED, _RESTORATION = "comparison.", "followed.", "restoration."


def save_rewiring(rewiring: Rewiring, path: str | Path) -> None:
    """Write a rewiring with its comparison and its origin."""
    arrays, about = comparison_arrays(rewiring.comparison, _COMPARISON)
    followed = rewiring.followed
    arrays |= {
        f"{_FOLLOWED}rank": followed.rank,
        f"{_FOLLOWED}probability": followed.probability,
        "written": rewiring.written,
    }
    metadata: dict[str, Any] = {
        "comparison": about,
        "followed": {"prompts": followed.prompts, "places": followed.places},
        "heads": [_head_record(head) for head in rewiring.heads],
        "logit_differences": rewiring.logit_differences,
        "provenance": rewiring.provenance,
    }
    if rewiring.restoration is not None:
        found = rewiring.restoration.arrays()
        arrays |= {_RESTORATION + name: array for name, array in found.items()}
        metadata["restoration"] = {"n_edges": rewiring.restoration.n_edges}
    save_arrays(path, KIND, arrays, metadata)


def load_rewiring(path: str | Path) -> Rewiring:
    """Read what `save_rewiring` wrote; FileFormatError names the file and the reason."""
    arrays, metadata = load_arrays(path, KIND, _check)
    try:
        return _from_arrays(arrays, metadata)
    except (OptionError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(path, f"is no rewiring: {error}") from None


def _from_arrays(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Rewiring:
    about = metadata["followed"]
    followed = FollowedObjects(
        prompts=tuple(about["prompts"]),
        places=tuple(about["places"]),
        rank=arrays[f"{_FOLLOWED}rank"],
        probability=arrays[f"{_FOLLOWED}probability"],
    )
    restoration = None
    if "restoration" in metadata:
        found = {
            name.removeprefix(_RESTORATION): array
            for name, array in arrays.items()
            if name.startswith(_RESTORATION)
        }
        restoration = Restoration(n_edges=metadata["restoration"]["n_edges"], **found)
    return Rewiring(
        comparison=comparison_from_arrays(arrays, metadata["comparison"], _COMPARISON),
        followed=followed,
        written=arrays["written"],
        logit_differences=tuple(metadata["logit_differences"]),
        heads=tuple(_head(record) for record in metadata["heads"]),
        restoration=restoration,
        provenance=metadata["provenance"],
    )


def _head_record(head: HeadChange) -> dict[str, Any]:
    attention = [{str(name): share for name, share in side.items()} for side in head.attention]
    return {**vars(head), "attention": attention}


def _head(record: Mapping[str, Any]) -> HeadChange:
    sides = [{name: side[str(name)] for name in REGIONS} for side in record["attention"]]
    written = [tuple(side) for side in record["written"]]
    return HeadChange(
        name=record["name"],
        role=record["role"],
        moved=record["moved"],
        changed=record["changed"],
        old=tuple(record["old"]),
        new=tuple(record["new"]),
        attention=(sides[0], sides[1]),
        written=(written[0], written[1]),
    )


def _check(layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
    about = metadata.get("comparison")
    if not isinstance(about, dict):
        raise ContentError("lacks the comparison of a rewiring")
    own = {
        name.removeprefix(_COMPARISON): layout
        for name, layout in layouts.items()
        if name.startswith(_COMPARISON)
    }
    check_comparison(own, about)
