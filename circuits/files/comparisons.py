"""A comparison in a `*.kc.safetensors` file: both circuits, the noise floor, the rediscovery.

Only what the rest is derived from is stored; scores of single pairs are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.intervals import Interval
from circuits.files.store import (
    ContentError,
    Layout,
    checked_wiring,
    load_arrays,
    save_arrays,
    single_precision,
)
from circuits.graph.circuit import Circuit, EdgeScores, Wiring
from circuits.graph.compare import Comparison, compare
from circuits.graph.noise import EdgeChanges
from circuits.graph.rediscovery import Rediscovery

KIND = "comparison"
_SIDES = ("before", "after")
_CHANGES, _REDISCOVERY = "changes.", "rediscovery."


def save_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write a comparison; scores in single precision, as in circuit files."""
    arrays, metadata = comparison_arrays(comparison)
    save_arrays(path, KIND, arrays, metadata)


def load_comparison(path: str | Path) -> Comparison:
    """Read what `save_comparison` wrote; FileFormatError names the file and the reason."""
    arrays, metadata = load_arrays(path, KIND, check_comparison)
    try:
        return comparison_from_arrays(arrays, metadata)
    except (OptionError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(path, f"is no comparison: {error}") from None


def comparison_arrays(
    comparison: Comparison, prefix: str = ""
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays (their names behind a prefix) and metadata that a comparison is made of."""
    wiring = comparison.before.wiring
    geometry = {name: getattr(wiring, name) for name in ("n_layers", "n_heads", "n_kv_heads", "kv")}
    arrays: dict[str, np.ndarray] = {}
    metadata: dict[str, Any] = {"geometry": geometry}
    for side in _SIDES:
        circuit: Circuit = getattr(comparison, side)
        arrays[f"{side}.in_graph"] = np.packbits(circuit.kept)
        metadata[side] = {"roles": circuit.roles, "provenance": circuit.provenance}
        if circuit.scores is not None:
            arrays[f"{side}.score"] = single_precision(circuit.scores.values)
            metadata[side]["scores_provenance"] = circuit.scores.provenance
    if comparison.changes is not None:
        found = comparison.changes.arrays()
        arrays |= {_CHANGES + name: array for name, array in found.items()}
        metadata["changes"] = comparison.changes.as_dict()
    if comparison.rediscovery is not None:
        for side in _SIDES:
            arrays[_REDISCOVERY + side] = getattr(comparison.rediscovery, side)
        metadata["rediscovery"] = comparison.rediscovery.as_dict()
    return {prefix + name: array for name, array in arrays.items()}, metadata


def comparison_from_arrays(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], prefix: str = ""
) -> Comparison:
    """The inverse of `comparison_arrays`; KeyError or OptionError where they are none."""
    wiring = _wiring(metadata)
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    circuits = []
    for side in _SIDES:
        about = metadata[side]
        kept = np.unpackbits(own[f"{side}.in_graph"], count=wiring.n_edges).astype(bool)
        scores = None
        if f"{side}.score" in own:
            origin = about["scores_provenance"]
            scores = EdgeScores(wiring, own[f"{side}.score"], provenance=origin)
        circuit = Circuit(
            wiring, kept, scores, roles=about["roles"], provenance=about["provenance"]
        )
        circuits.append(circuit)
    changes, rediscovery = None, None
    if "changes" in metadata:
        changes = EdgeChanges.from_arrays(_part(own, _CHANGES), metadata["changes"])
    if "rediscovery" in metadata:
        about = metadata["rediscovery"]
        rediscovery = Rediscovery(
            jaccard=Interval.from_dict(about["jaccard"]),
            node_jaccard=Interval.from_dict(about["node_jaccard"]),
            floor=Interval.from_dict(about["floor"]),
            before=own[f"{_REDISCOVERY}before"],
            after=own[f"{_REDISCOVERY}after"],
            resamples=about["resamples"],
        )
    return compare(circuits[0], circuits[1], changes, rediscovery)


def check_comparison(layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
    """Refuse, by the header alone, arrays that do not fit the geometry that a file claims."""
    n_edges = _wiring(metadata).n_edges
    for name, layout in layouts.items():
        packed = name.endswith(".in_graph")
        expected = (-(-n_edges // 8),) if packed else (n_edges,)
        if layout.shape != expected or (packed and layout.dtype != np.uint8):
            raise ContentError(f"tensor {name!r:.60} does not fit a model of {n_edges} edges")


def _wiring(metadata: Mapping[str, Any]) -> Wiring:
    names = ("n_layers", "n_heads", "n_kv_heads", "kv")
    geometry = metadata.get("geometry")
    if not isinstance(geometry, dict) or set(geometry) != set(names):
        raise ContentError("lacks a model geometry")
    return checked_wiring(*(geometry[name] for name in names))


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
