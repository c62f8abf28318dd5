"""`kc show`, `export` and `models`: what there is, and in which form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.choices import ExportFormat
from circuits.base.errors import OptionError
from experiments.cli import options as o
from experiments.cli.console import Console, percent
from experiments.cli.signature import path

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit

SUFFIXES = {
    "eap-ig": ".json",
    "graphml": ".graphml",
    "gexf": ".gexf",
    "dot": ".dot",
    "csv": ".csv",
    "node-link": ".node-link.json",
}
Shown = Annotated[int, typer.Option("--edges", "-n", min=1, help="How many edges to list.")]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="PATH", parser=path, help="File to write.")
]
Format = Annotated[ExportFormat, typer.Option("--to", help="Format to write.")]


def show(*, circuit: o.CircuitFile, edges: Shown = 20, as_json: o.AsJson = False) -> None:
    """What a circuit file holds: size, strongest edges, nodes, where it comes from."""
    console = Console(as_json)
    with console.working():
        from locate.evaluate import read_circuit
        from locate.report import edge_rows

        stored = read_circuit(circuit)
        nodes = stored.nodes()
        summary: dict[str, Any] = {
            "file": str(circuit),
            "geometry": _geometry(stored),
            "edges": stored.n_edges,
            "edges_in_model": stored.wiring.n_edges,
            "nodes": nodes,
            "roles": dict(stored.roles),
            "strongest_edges": stored.rows(edges),
            "provenance": dict(stored.provenance),
        }
    console.say(f"{stored.n_edges} of {stored.wiring.n_edges} edges, {stored.wiring.describe()}")
    console.say(f"{len(nodes)} nodes: {', '.join(nodes)}")
    if stored.provenance.get("sign") == "unknown":
        console.say("what a positive score means is not known: the file is another tool's")
    for node, role in stored.roles.items():
        console.say(f"{node}: {role}")
    console.say()
    console.table(*edge_rows(stored, edges))
    console.say()
    _provenance(console, stored.provenance)
    console.result(summary)


def export(
    *,
    circuit: o.CircuitFile,
    to: Format,
    out: OutFile = None,
    full_json: o.FullJson = False,
    as_json: o.AsJson = False,
) -> None:
    """Write a circuit for another tool; eap-ig can be read back."""
    console = Console(as_json)
    with console.working():
        from circuits.files.exchange import export_circuit, save_eap_ig
        from locate.evaluate import read_circuit

        stored = read_circuit(circuit)
        stem = circuit.name.removesuffix(".safetensors").removesuffix(".kc").removesuffix(".json")
        target = out or circuit.with_name(stem + SUFFIXES[to])
        if target.exists() and target.samefile(circuit):
            raise OptionError(f"`out` {target} is the circuit itself; name another file")
        if to is ExportFormat.EAP_IG:
            save_eap_ig(stored, target, full=full_json)
        else:
            export_circuit(stored, target, to)
    console.say(str(target))
    console.result({"file": str(circuit), "format": str(to), "files": [str(target)]})


def models(*, as_json: o.AsJson = False) -> None:
    """The models that ship with the project, and how to name others."""
    console = Console(as_json)
    with console.working():
        from circuits.model.loading import SUPPORTED, embedded_models

        records = [_model_record(name, path) for name, path in embedded_models().items()]
    console.table(
        ("model", "architecture", "MB", "training templates", "held-out", "three-shot"),
        [
            (
                record["model"],
                str(record["architecture"]),
                f"{record['bytes'] / 1e6:.1f}",
                percent(record["accuracy"].get("train_top1")),
                percent(record["accuracy"].get("held_out_top1")),
                percent(record["accuracy"].get("three_shot_top1")),
            )
            for record in records
        ],
    )
    covered = ", ".join(sorted(SUPPORTED))
    console.say(
        f"\n--model also takes a hub name (gpt2, TinyLlama/TinyLlama_v1.1, ...) or a local Hugging "
        f"Face directory; covered architectures: {covered}"
    )
    console.result({"models": records, "architectures": sorted(SUPPORTED)})


def _model_record(name: str, path: Path) -> dict[str, Any]:
    from circuits.base.records import read_json

    training = path / "training.json"
    record = read_json(training) if training.is_file() else {}
    return {
        "model": name,
        "architecture": read_json(path / "config.json").get("model_type"),
        "bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "directory": str(path),
        "accuracy": _accuracy(record),
    }


def _accuracy(record: dict[str, Any]) -> dict[str, float]:
    """Accuracy by kind of template, from a model's `training.json` where it has that."""
    found = record.get("accuracy")
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _geometry(circuit: Circuit) -> dict[str, Any]:
    wiring = circuit.wiring
    names = ("n_layers", "n_heads", "n_kv_heads")
    return {**{name: getattr(wiring, name) for name in names}, "kv": str(wiring.kv)}


def _provenance(console: Console, provenance: Any, indent: str = "") -> None:
    for name, value in provenance.items():
        if isinstance(value, dict):
            console.say(f"{indent}{name}:")
            _provenance(console, value, indent + "  ")
        else:
            console.say(f"{indent}{name}: {value}")
