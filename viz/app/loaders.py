"""From files to results, one function a kind; errors name the file's fault in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.errors import FileFormatError, OptionError
from circuits.files.store import describe_file, load_arrays, load_circuit
from viz.app.library import Kind
from viz.screen.curves import LensLines


@dataclass(frozen=True, eq=False)
class StoredLens:
    """A lens as it was stored: its curves, with a record a state for the table.

    `average` is the averaged lens itself, where it is one.
    """

    lines: LensLines
    rows: list[dict[str, Any]]
    metadata: Mapping[str, Any]
    average: Any = None


@dataclass(frozen=True, eq=False)
class StoredAttribution:
    """What each source adds to the logit difference."""

    names: list[str]
    values: list[float]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Record:
    """A file that has no picture of its own: what it says about itself."""

    kind: str
    metadata: Mapping[str, Any]


def record(path: Path) -> Record:
    """Kind and metadata of any file of ours."""
    return Record(*describe_file(path))


def _comparison(path: Path) -> Any:
    from circuits.files.comparisons import load_comparison

    return load_comparison(path)


def _rewiring(path: Path) -> Any:
    from locate.changes.rewiring_files import load_rewiring

    return load_rewiring(path)


def _trace(path: Path) -> Any:
    from locate.states.tracing import Trace

    return _made(path, "trace", Trace.from_arrays)


def _average_trace(path: Path) -> Any:
    from locate.states.trace_average import AverageTrace

    return _made(path, "average trace", AverageTrace.from_arrays)


def _made(path: Path, kind: str, make: Callable[..., Any]) -> Any:
    arrays, metadata = load_arrays(path, kind)
    try:
        return make(arrays, metadata)
    except OptionError as error:
        raise FileFormatError(path, str(error)) from None


def _lens(path: Path) -> StoredLens:
    arrays, metadata = load_arrays(path, "lens")
    try:
        rank, probability = arrays["rank"], arrays["probability"]
        labels = [str(label) for label in metadata["followed"]]
        places = ["last token", "subject's last token"][: rank.shape[1]]
        if rank.shape != probability.shape or rank.shape[1:] != (len(places), len(labels)):
            raise ValueError("shapes do not fit")
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise FileFormatError(path, f"is no lens: {error}") from None
    rows = [
        {
            "layer": state - 1,
            "position": place,
            "token": label,
            "rank": int(rank[state, row, column]) + 1,
            "probability": float(probability[state, row, column]),
        }
        for row, place in enumerate(places)
        for column, label in enumerate(labels)
        for state in range(len(rank))
    ]
    return StoredLens(LensLines.of_arrays(places, labels, rank, probability), rows, metadata)


def _average_lens(path: Path) -> StoredLens:
    from locate.states.lens_average import AverageLens

    average = _made(path, "average lens", AverageLens.from_arrays)
    rows = [
        {
            "layer": row["layer"],
            "position": row["position"],
            "token": row["label"],
            "rank": row["median_rank"] + 1,
            "probability": row["mean_probability"],
        }
        for row in average.rows()
    ]
    return StoredLens(LensLines.of_average(average), rows, average.metadata(), average)


def _attribution(path: Path) -> StoredAttribution:
    _, metadata = load_arrays(path, "attribution")
    try:
        parts = [
            (str(each["source"]), float(each["contribution"])) for each in metadata["contributions"]
        ]
    except (KeyError, TypeError, ValueError):
        raise FileFormatError(path, "is no attribution") from None
    if not all(np.isfinite(value) for _, value in parts):
        raise FileFormatError(path, "is no attribution: a contribution is not finite")
    return StoredAttribution([name for name, _ in parts], [value for _, value in parts], metadata)


def _pictured(name: str) -> Callable[[Path], Any]:
    def load(path: Path) -> Any:
        from viz.app import pictured

        return getattr(pictured, name)(path)

    return load


LOADERS: dict[Kind, Callable[[Path], Any]] = {
    Kind.CIRCUIT: load_circuit,
    Kind.COMPARISON: _comparison,
    Kind.REWIRING: _rewiring,
    Kind.TRACE: _trace,
    Kind.AVERAGE_TRACE: _average_trace,
    Kind.LENS: _lens,
    Kind.AVERAGE_LENS: _average_lens,
    Kind.ATTRIBUTION: _attribution,
    Kind.CURVES: _pictured("curves"),
    Kind.ROLES: _pictured("roles"),
    Kind.HEADS: _pictured("heads"),
}
