"""Wirings from what files claim: checked by arithmetic before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuits.base.arrays import ContentError
from circuits.base.choices import KeyValue
from circuits.base.errors import OptionError
from circuits.model.wiring import GEOMETRY, Wiring

MAX_EDGES = 50_000_000


def edge_count(n_layers: int, n_heads: int, n_key_inputs: int, parallel: bool = False) -> int:
    """Edges of a wiring by arithmetic alone, so that an absurd geometry allocates nothing."""
    attn = n_heads + 2 * n_key_inputs
    earlier = n_layers + (n_heads + 1) * n_layers * (n_layers - 1) // 2
    own = 0 if parallel else n_layers * n_heads
    return attn * earlier + earlier + own + 1 + n_layers * (n_heads + 1)


def checked_wiring(
    n_layers: Any,
    n_heads: Any,
    n_kv_heads: Any,
    kv: Any,
    parallel: Any = False,
    spans: Any = (),
) -> Wiring:
    """A wiring from numbers that a file claims; ContentError where they are absurd."""
    numbers = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads}
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ContentError(f"{name} must be a whole number of at least 1, not {number!r:.40}")
    if n_heads % n_kv_heads:
        raise ContentError(f"{n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    if kv not in tuple(KeyValue):
        raise ContentError(f"unknown key-value convention {kv!r:.40}")
    if not isinstance(parallel, bool):
        raise ContentError(f"parallel must be true or false, not {parallel!r:.40}")
    if not isinstance(spans, list | tuple) or not all(isinstance(each, str) for each in spans):
        raise ContentError(f"spans must be names, not {spans!r:.40}")
    n_key_inputs = n_kv_heads if kv == KeyValue.GROUPED else n_heads
    if max(numbers.values()) > MAX_EDGES or (
        max(1, len(spans)) * edge_count(n_layers, n_heads, n_key_inputs, parallel) > MAX_EDGES
    ):
        raise ContentError(
            f"claims a model of {n_layers!r:.20} layers and {n_heads!r:.20} heads; "
            f"at most {MAX_EDGES} edges are read"
        )
    try:
        return Wiring(n_layers, n_heads, n_kv_heads, KeyValue(kv), parallel, tuple(spans))
    except OptionError as error:
        raise ContentError(f"has spans that cannot be: {error}") from None


def stored_wiring(metadata: Mapping[str, Any]) -> Wiring:
    """The wiring of a file's `geometry`; ContentError where it has none."""
    geometry = metadata.get("geometry")
    further = {"parallel", "spans"}
    if not isinstance(geometry, dict) or set(geometry) - further != set(GEOMETRY):
        raise ContentError("lacks a model geometry")
    return checked_wiring(**geometry)
