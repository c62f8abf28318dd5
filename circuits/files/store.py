"""Circuits in files: the arrays of `circuits.files.arrays`, with the geometry they must fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.choices import KeyValue
from circuits.base.errors import CircuitFileError
from circuits.files.arrays import (
    ContentError,
    Layout,
    describe_file,
    kind_of,
    load_arrays,
    read_intact,
    save_arrays,
    single_precision,
)
from circuits.graph.circuit import Circuit, EdgeScores, Wiring

__all__ = [
    "ContentError",
    "Layout",
    "checked_wiring",
    "describe_file",
    "edge_count",
    "kind_of",
    "load_arrays",
    "load_circuit",
    "save_arrays",
    "save_circuit",
    "single_precision",
]

EDGE_ORDER = "by-destination"
MAX_EDGES = 50_000_000
_COLUMN = "column."


def save_circuit(circuit: Circuit, path: str | Path, include_pairs: bool = False) -> None:
    """Write a circuit as `*.kc.safetensors`: scores (single precision), kept bits, columns, roles,
    provenance; the scores of the single examples only with `include_pairs`.
    """
    wiring = circuit.wiring
    arrays = {"in_graph": np.packbits(circuit.kept)}
    metadata: dict[str, Any] = {
        "geometry": {
            "n_layers": wiring.n_layers,
            "n_heads": wiring.n_heads,
            "n_kv_heads": wiring.n_kv_heads,
            "kv": wiring.kv,
        },
        "edge_order": EDGE_ORDER,
        "n_edges": circuit.n_edges,
        "roles": circuit.roles,
        "provenance": circuit.provenance,
    }
    if circuit.scores is not None:
        arrays["score"] = single_precision(circuit.scores.values)
        metadata["scores_provenance"] = circuit.scores.provenance
        if include_pairs and circuit.scores.per_pair is not None:
            arrays["per_pair"] = single_precision(circuit.scores.per_pair)
    arrays |= {_COLUMN + name: column for name, column in circuit.columns.items()}
    save_arrays(path, "circuit", arrays, metadata)


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit that `save_circuit` wrote; CircuitFileError names the file and the reason."""
    try:
        arrays, metadata = read_intact(Path(path), "circuit", _check_circuit)
    except ContentError as reason:
        raise CircuitFileError(path, str(reason)) from None
    wiring = _geometry(metadata)
    kept = np.unpackbits(arrays["in_graph"], count=wiring.n_edges).astype(bool)
    scores = None
    if "score" in arrays:
        provenance = metadata.get("scores_provenance", {})
        scores = EdgeScores(wiring, arrays["score"], arrays.get("per_pair"), provenance)
    columns = {
        name.removeprefix(_COLUMN): array
        for name, array in arrays.items()
        if name.startswith(_COLUMN)
    }
    return Circuit(wiring, kept, scores, columns, metadata["roles"], metadata["provenance"])


def edge_count(n_layers: int, n_heads: int, n_key_inputs: int) -> int:
    """Edges of a wiring by arithmetic alone, so that an absurd geometry allocates nothing."""
    attn = n_heads + 2 * n_key_inputs
    earlier = n_layers + (n_heads + 1) * n_layers * (n_layers - 1) // 2
    return attn * earlier + earlier + n_layers * n_heads + 1 + n_layers * (n_heads + 1)


def checked_wiring(n_layers: Any, n_heads: Any, n_kv_heads: Any, kv: Any) -> Wiring:
    """A wiring from numbers that a file claims; ContentError where they are absurd."""
    numbers = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads}
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ContentError(f"{name} must be a whole number of at least 1, not {number!r:.40}")
    if n_heads % n_kv_heads:
        raise ContentError(f"{n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    if kv not in tuple(KeyValue):
        raise ContentError(f"unknown key-value convention {kv!r:.40}")
    n_key_inputs = n_kv_heads if KeyValue.of(kv).is_shared else n_heads
    if max(numbers.values()) > MAX_EDGES or (
        edge_count(n_layers, n_heads, n_key_inputs) > MAX_EDGES
    ):
        raise ContentError(
            f"claims a model of {n_layers!r:.20} layers and {n_heads!r:.20} heads; "
            f"at most {MAX_EDGES} edges are read"
        )
    return Wiring(n_layers, n_heads, n_kv_heads, KeyValue(kv))


def _check_circuit(layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
    wiring = _geometry(metadata)
    if metadata.get("edge_order") != EDGE_ORDER:
        raise ContentError(f"has an unknown edge order {metadata.get('edge_order')!r:.40}")
    roles = metadata.get("roles")
    if not isinstance(roles, dict) or not all(isinstance(role, str) for role in roles.values()):
        raise ContentError("has malformed roles")
    if not all(isinstance(metadata.get(k, {}), dict) for k in ("provenance", "scores_provenance")):
        raise ContentError("has malformed provenance")
    if "in_graph" not in layouts or "provenance" not in metadata:
        raise ContentError("lacks the kept bits or the provenance of a circuit")
    if "per_pair" in layouts and "score" not in layouts:
        raise ContentError("has scores of examples but no scores")
    n_edges = edge_count(wiring.n_layers, wiring.n_heads, wiring.n_key_inputs)
    for name, layout in layouts.items():
        dtype, shape = layout.dtype, layout.shape
        if name == "in_graph":
            fits = dtype == np.uint8 and shape == (-(-n_edges // 8),)
        elif name == "score":
            fits = dtype == np.float32 and shape == (n_edges,)
        elif name == "per_pair":
            fits = dtype == np.float32 and len(shape) == 2 and shape[1] == n_edges
        elif name.startswith(_COLUMN):
            fits = shape == (n_edges,)
        else:
            raise ContentError(f"has an unknown tensor {name!r:.60}")
        if not fits:
            raise ContentError(
                f"tensor {name!r:.60} ({dtype}, shape {list(shape)}) does not fit "
                f"{wiring.describe()}, which has {n_edges} edges"
            )


def _geometry(metadata: Mapping[str, Any]) -> Wiring:
    names = ("n_layers", "n_heads", "n_kv_heads", "kv")
    geometry = metadata.get("geometry")
    if not isinstance(geometry, dict) or set(geometry) != set(names):
        raise ContentError("lacks a model geometry")
    return checked_wiring(*(geometry[name] for name in names))
