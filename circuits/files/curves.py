"""Faithfulness curves in a `*.kc.safetensors` file, so that their picture can be drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.errors import FileFormatError
from circuits.base.intervals import Interval
from circuits.files.store import load_arrays, save_arrays
from circuits.graph.evaluate import FaithfulnessCurve

KIND = "faithfulness curves"
BASELINE = "random"
"""The name of a curve of random circuits."""


def save_curves(
    curves: Mapping[str, FaithfulnessCurve], path: str | Path, provenance: Mapping[str, Any]
) -> None:
    """Write curves by name, in their order, with their origin."""
    arrays, records = {}, []
    for place, (name, curve) in enumerate(curves.items()):
        arrays[f"{place}.sizes"] = np.array(curve.sizes, dtype=np.int64)
        arrays[f"{place}.fractions"] = np.array(curve.fractions, dtype=np.float64)
        records.append(
            {
                "name": name,
                "faithfulness": [point.as_dict() for point in curve.faithfulness],
                "area": curve.area.as_dict(),
                "distance": curve.distance.as_dict(),
            }
        )
    save_arrays(path, KIND, arrays, {"curves": records, "provenance": provenance})


def load_curves(path: str | Path) -> tuple[dict[str, FaithfulnessCurve], dict[str, Any]]:
    """Curves by name and their origin; FileFormatError names the file and the reason."""
    arrays, metadata = load_arrays(path, KIND)
    try:
        curves = {
            record["name"]: FaithfulnessCurve(
                fractions=tuple(arrays[f"{place}.fractions"].tolist()),
                sizes=tuple(arrays[f"{place}.sizes"].tolist()),
                faithfulness=tuple(map(Interval.from_dict, record["faithfulness"])),
                area=Interval.from_dict(record["area"]),
                distance=Interval.from_dict(record["distance"]),
            )
            for place, record in enumerate(metadata["curves"])
        }
        provenance = dict(metadata["provenance"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(path, f"holds no faithfulness curves: {error}") from None
    if any(len(c.faithfulness) != len(c.sizes) for c in curves.values()):
        raise FileFormatError(path, "holds no faithfulness curves: their lengths do not fit")
    return curves, provenance
