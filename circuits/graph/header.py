"""What a circuit's file must hold, told from its header before an array is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.base.arrays import ContentError, Layout
from circuits.model.geometry import edge_count, stored_wiring

EDGE_ORDER = "by-destination"
COLUMN = "column."
_RECORDS = ("provenance", "scores_provenance", "evidence")


def check_circuit(layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
    """ContentError where arrays do not fit the geometry that a file claims."""
    wiring = stored_wiring(metadata)
    if metadata.get("edge_order") != EDGE_ORDER:
        raise ContentError(f"has an unknown edge order {metadata.get('edge_order')!r:.40}")
    roles = metadata.get("roles")
    if not isinstance(roles, dict) or not all(isinstance(role, str) for role in roles.values()):
        raise ContentError("has malformed roles")
    if not all(isinstance(metadata.get(k, {}), dict) for k in _RECORDS):
        raise ContentError("has malformed provenance or evidence")
    if "in_graph" not in layouts or "provenance" not in metadata:
        raise ContentError("lacks the kept bits or the provenance of a circuit")
    if "per_pair" in layouts and "score" not in layouts:
        raise ContentError("has scores of examples but no scores")
    once = edge_count(wiring.n_layers, wiring.n_heads, wiring.n_key_inputs, wiring.parallel)
    n_edges = wiring.n_spans * once
    for name, layout in layouts.items():
        dtype, shape = layout.dtype, layout.shape
        if name == "in_graph":
            fits = dtype == np.uint8 and shape == (-(-n_edges // 8),)
        elif name == "score":
            fits = dtype == np.float32 and shape == (n_edges,)
        elif name == "per_pair":
            fits = dtype == np.float32 and len(shape) == 2 and shape[1] == n_edges
        elif name.startswith(COLUMN):
            fits = shape == (n_edges,)
        else:
            raise ContentError(f"has an unknown tensor {name!r:.60}")
        if not fits:
            raise ContentError(
                f"tensor {name!r:.60} ({dtype}, shape {list(shape)}) does not fit "
                f"{wiring.describe()}, which has {n_edges} edges"
            )
