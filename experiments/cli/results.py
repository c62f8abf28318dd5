"""Writing results: each command's files, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from circuits.base.choices import ExportFormat
from circuits.base.errors import StoreError
from circuits.base.origin import staged
from circuits.base.writing import atomic_write, save_json
from circuits.files.curves import BASELINE, save_curves
from circuits.files.exchange import export_circuit, save_eap_ig
from circuits.files.store import save_arrays, save_circuit
from circuits.graph.evaluate import FaithfulnessCurve
from experiments.cli.report import discovery_page, discovery_summary
from locate.discover import Discovery
from locate.examples import as_jsonl
from locate.heads.prompt_heads import save_prompt_heads

Writers = Mapping[str, Callable[[Path], Any]]

OPTIONAL_FILES = (
    "held_out.jsonl",
    "curve.svg",
    "curve.kc.safetensors",
    "roles.json",
    "heads.kc.safetensors",
)
"""What some discoveries write and others do not."""


def write_all(folder: Path, writers: Writers, owned: Iterable[str] = ()) -> list[Path]:
    """Have every file written, then put all into the folder; returns their paths there.

    Files of the names in `owned` that an earlier run left and this one does not write go.
    """
    with staged(folder, owned) as stage:
        for name, write in writers.items():
            write(stage / name)
        if lost := [name for name in writers if not (stage / name).exists()]:
            raise StoreError(f"{folder / lost[0]} vanished while it was written")
    return [folder / name for name in writers]


def write_discovery(
    found: Discovery, folder: Path, full_json: bool = False
) -> tuple[dict[str, Any], list[Path]]:
    """The circuit in all its forms, its pairs and its summary; returns the summary as well."""
    circuit = found.circuit
    title = f"{found.examples.name} in {found.model}"
    writers: dict[str, Callable[[Path], Any]] = {
        "circuit.kc.safetensors": lambda path: save_circuit(circuit, path),
        "circuit.json": lambda path: save_eap_ig(circuit, path, full=full_json),
        "circuit.graphml": lambda path: export_circuit(circuit, path, ExportFormat.GRAPHML),
        "circuit.svg": lambda path: _draw(found, path, title),
        "pairs.jsonl": lambda path: atomic_write(path, as_jsonl(found.examples.pairs)),
    }
    if found.examples.held_out:
        held_out = as_jsonl(found.examples.held_out)
        writers["held_out.jsonl"] = lambda path: atomic_write(path, held_out)
    if found.curve is not None:
        origin = circuit.provenance
        curves = _curves(found)
        writers["curve.kc.safetensors"] = lambda path: save_curves(curves, path, origin)
        writers["curve.svg"] = lambda path: _draw_curve(found, path, title)
    if found.roles is not None:
        writers["roles.json"] = lambda path: save_json(found.roles.as_dict(), path)
    if found.heads:
        writers["heads.kc.safetensors"] = lambda path: save_prompt_heads(found.heads, path)
    names = [*writers, "summary.md", "summary.json"]
    summary = discovery_summary(found, [folder / name for name in names])
    writers["summary.md"] = lambda path: atomic_write(path, discovery_page(found))
    writers["summary.json"] = lambda path: save_json(summary, path)
    return summary, write_all(folder, writers, OPTIONAL_FILES)


def write_summary(summary: Mapping[str, Any], folder: Path | None) -> list[Path]:
    """`summary.json`, where a folder was asked for."""
    if folder is None:
        return []
    return write_all(folder, {"summary.json": lambda path: save_json(dict(summary), path)})


def write_arrays(kind: str, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    """A writer of named arrays, for `write_all`."""
    return lambda path: save_arrays(path, kind, arrays, metadata)


def _draw(found: Discovery, path: Path, title: str) -> None:
    from viz.paper.circuit import draw_circuit

    draw_circuit(found.circuit, path, title)


def _curves(found: Discovery) -> dict[str, FaithfulnessCurve]:
    """The curve by the name of its method, and that of random circuits."""
    curves = {str(found.search.locator): found.curve, BASELINE: found.random_curve}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _draw_curve(found: Discovery, path: Path, title: str) -> None:
    from viz.paper.curves import draw_faithfulness

    draw_faithfulness(_curves(found), path, title, found.circuit.provenance)
