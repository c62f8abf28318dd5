"""`kc show`, `export`, and `models`: what there is, and in which form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.choices import ExportFormat, Sign
from circuits.base.errors import OptionError
from circuits.base.stamps import VERSION, stamped
from experiments.cli import options as o
from experiments.cli.console import Console, percent
from experiments.cli.signature import path

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit
    from circuits.model.packaged import PackagedModel

NODES = 10
"""Nodes of a circuit that are named."""
SUFFIXES = {
    "eap-ig": ".json",
    "graphml": ".graphml",
    "gexf": ".gexf",
    "dot": ".dot",
    "csv": ".csv",
    "node-link": ".node-link.json",
    "neuronpedia": ".neuronpedia.json",
    "html": ".html",
}


Shown = Annotated[
    int, typer.Option("--edges", "-n", min=1, help="How many edges, or other rows, to list.")
]
ResultPath = Annotated[
    Path,
    typer.Argument(
        help="A stored result (*.kc.safetensors, or a circuit's *.json), or a folder of them, "
        "also hf://OWNER/NAME/PATH.",
        metavar="RESULT",
        parser=path,
    ),
]
Repo = Annotated[
    str, typer.Argument(help="OWNER/NAME of the data set, or hf://OWNER/NAME/PATH.", metavar="REPO")
]
Private = Annotated[bool, typer.Option("--private", help="Nobody else sees a new repository.")]
Message = Annotated[str, typer.Option("--message", help="What the commit says.")]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="PATH", parser=path, help="File to write.")
]
Cdn = Annotated[
    bool,
    typer.Option(
        "--cdn", help="With html: a small file, whose reader fetches plotly.js from its host."
    ),
]
SchemaName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="A form, as `schema` in the object names it.")
]
Format = Annotated[ExportFormat, typer.Option("--to", help="Format to write.")]


def show(
    *,
    result: ResultPath,
    edges: Shown = 20,
    sign: o.SignOfScores = Sign.UNKNOWN,
    as_json: o.AsJson = False,
) -> None:
    """What a stored result holds: a circuit, a comparison, a trace, ...; of a folder, all in it."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import mixed

        result = _here(result)
        paths = _stored_in(result) if result.is_dir() else [result]
        found = [_opened(file, console if result.is_dir() else None, sign) for file in paths]
        if (warning := mixed(paths[0].parent)) is not None:
            console.warn(warning)
    records = []
    for file, each in zip(paths, found, strict=True):
        if each is None:
            continue
        if result.is_dir():
            console.say(f"\n{file}")
        records.append(_show(console, file, each, edges))
    if result.is_dir():
        said = f"{len(records):,} results can be read in {result}."
        record = {"folder": str(result), "results": records}
        console.result(stamped("show-folder", record, said))
    else:
        console.result(stamped("show", records[0]))


def _here(given: Path) -> Path:
    """A path as it is, or the local copy of what `hf://...` names, of which a path lost a slash."""
    scheme, _, rest = str(given).partition(":/")
    if scheme != "hf":
        return given
    from circuits.files.hub import fetched

    return fetched(f"hf://{rest}")


def _stored_in(folder: Path) -> list[Path]:
    """The stored results of a folder; OptionError where it has none."""
    found = sorted(folder.glob("*.kc.safetensors"))
    if not found:
        report = folder / "report.html"
        way = f"; what it found is in {report}" if report.is_file() else ""
        raise OptionError(f"{folder} holds no stored result (*.kc.safetensors){way}")
    return found


def _opened(path: Path, console: Console | None, sign: Sign) -> Any:
    """A result; with a console a file that cannot be read is a warning and None."""
    from circuits.base.errors import FileFormatError
    from circuits.files.attribution import load_graph
    from circuits.files.kinds import open_result
    from circuits.files.neuronpedia import is_graph
    from circuits.files.reading import read_circuit

    try:
        if path.suffix.lower() == ".json" and sign == Sign.UNKNOWN and is_graph(path):
            return load_graph(path)
        if path.suffix.lower() == ".json" or sign != Sign.UNKNOWN:
            return read_circuit(path, sign)
        return open_result(path)
    except FileFormatError as error:
        if console is None:
            raise
        console.warn(str(error))
        return None


def _show(console: Console, path: Path, found: Any, most: int) -> dict[str, Any]:
    """Say what a result holds, and give it as a record."""
    from circuits.base.plain import plain
    from circuits.graph.circuit import Circuit

    if isinstance(found, Circuit):
        return _show_circuit(console, path, found, most)
    summary, rows = found.shown(), found.rows()
    origin = dict(getattr(found, "provenance", {}))
    if summary.says:
        console.found(summary.says)
    console.say(summary.title)
    for name, value in summary.facts.items():
        console.say(f"{name}: {value}")
    if rows:
        console.say()
        console.table(tuple(rows[0]), [tuple(map(_cell, row.values())) for row in rows[:most]])
        if len(rows) > most:
            console.say(f"... {len(rows) - most:,} more rows; --edges {len(rows)} shows all")
    console.say()
    _provenance(console, origin)
    return {
        "says": summary.says,
        "file": str(path),
        "kind": found.KIND,
        "title": summary.title,
        "facts": dict(summary.facts),
        "rows": plain(rows[:most]),
        "n_rows": len(rows),
        "provenance": origin,
    }


def _cell(value: Any) -> str:
    """Four digits of a number, a list's items side by side, nothing for None."""
    if isinstance(value, list | tuple):
        return " ".join(map(_cell, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_circuit(console: Console, path: Path, stored: Circuit, edges: int) -> dict[str, Any]:
    from locate.report import edge_rows

    nodes = stored.nodes()
    console.found(stored.says())
    console.say(
        f"{stored.n_edges:,} of {stored.wiring.n_edges:,} edges, {stored.wiring.describe()}"
    )
    more = f" and {len(nodes) - NODES:,} more" if len(nodes) > NODES else ""
    console.say(f"{len(nodes):,} nodes: {', '.join(nodes[:NODES])}{more}")
    if stored.provenance.get("sign") == "unknown":
        console.say(
            "what a positive score means is not known: the file is another tool's (--sign says it)"
        )
    by_role: dict[str, list[str]] = {}
    for node, role in stored.roles.items():
        by_role.setdefault(role, []).append(node)
    for role, holders in by_role.items():
        console.say(f"{role}: {', '.join(holders)}")
    console.say()
    console.table(*edge_rows(stored, edges))
    console.say()
    _provenance(console, stored.provenance)
    return {
        "says": stored.says(),
        "file": str(path),
        "kind": stored.KIND,
        "geometry": _geometry(stored),
        "edges": stored.n_edges,
        "edges_in_model": stored.wiring.n_edges,
        "nodes": nodes,
        "roles": dict(stored.roles),
        "strongest_edges": stored.rows(edges),
        "provenance": dict(stored.provenance),
    }


def export(
    *,
    result: ResultPath,
    to: Format,
    out: OutFile = None,
    sign: o.SignOfScores = Sign.UNKNOWN,
    full_json: o.FullJson = False,
    cdn: Cdn = False,
    as_json: o.AsJson = False,
) -> None:
    """Write a circuit for another tool, or any result, or a folder, as one HTML page."""
    console = Console(as_json)
    with console.working():
        result = _here(result)
        stem = result.name.removesuffix(".safetensors").removesuffix(".kc").removesuffix(".json")
        from circuits.files.hub import in_cache

        # A copy of the hub's is no place of the user's.
        folder = Path() if in_cache(result) else result.parent
        target = out or folder / ((stem or result.resolve().name) + SUFFIXES[to])
        if target.exists() and target.samefile(result):
            raise OptionError(f"`out` {target} is the result itself; name another file")
        if cdn and to != ExportFormat.HTML:
            raise OptionError("`cdn` goes with `to` html alone")
        if full_json and to != ExportFormat.EAP_IG:
            raise OptionError(f"`full_json` goes with `to` {ExportFormat.EAP_IG} alone")
        if to == ExportFormat.HTML:
            said = _write_page(result, target, sign, cdn)
        else:
            said = _write_circuit(result, target, to, sign, full_json)
    console.say(said)
    record = {"file": str(result), "format": str(to), "files": [str(target)]}
    console.result(stamped("export", record, said))


def _write_page(path: Path, target: Path, sign: Sign, cdn: bool) -> str:
    """One page of a stored result, or of all in a folder; a sentence about it."""
    from circuits.base.display import paged
    from circuits.files.attribution import load_graph
    from circuits.files.neuronpedia import is_graph
    from circuits.files.reading import read_circuit

    if path.suffix.lower() == ".json" or sign != Sign.UNKNOWN:
        is_other = sign == Sign.UNKNOWN and is_graph(path)
        paged(load_graph(path) if is_other else read_circuit(path, sign), target, cdn=cdn)
    else:
        paged(path, target, cdn=cdn)
    return f"{path} is one page that works without this program: {target}."


def _write_circuit(path: Path, target: Path, to: ExportFormat, sign: Sign, full_json: bool) -> str:
    """A circuit for another tool; a sentence about it."""
    from circuits.files.exchange import export_circuit, save_eap_ig
    from circuits.files.reading import check_sign, read_circuit

    stored = check_sign(read_circuit(path, sign), path)
    if to == ExportFormat.EAP_IG:
        save_eap_ig(stored, target, full=full_json)
    else:
        export_circuit(stored, target, to)
    return f"{stored.n_edges:,} of {stored.wiring.n_edges:,} edges are in {target} as {to}."


def push(
    *,
    result: ResultPath,
    repo: Repo,
    private: Private = False,
    message: Message = "",
    as_json: o.AsJson = False,
) -> None:
    """Send a stored result, or a folder of one, to a data set on the Hugging Face hub."""
    console = Console(as_json)
    with console.working():
        from circuits.files.hub import push as send

        address = send(result, repo, private=private, message=message)
    said = f"{result} is at {address}."
    console.say(said)
    record = {"file": str(result), "repo": repo, "address": address}
    console.result(stamped("push", record, said))


def schema(*, name: SchemaName = None, as_json: o.AsJson = False) -> None:
    """The published form of a JSON object, as JSON Schema; without a NAME all there are."""
    console = Console(as_json)
    from circuits.files.schemas import schema as form
    from circuits.files.schemas import schemas

    if name is not None:
        print(json.dumps(form(name), indent=2))
        return
    known = schemas()
    console.say(f"{len(known)} forms of JSON, of version {VERSION}.\n")
    console.table(("name", "of"), list(known.items()))
    console.result(stamped("schemas", {"schemas": known}))


def models(*, as_json: o.AsJson = False) -> None:
    """The models that are there by name, and how to name others."""
    console = Console(as_json)
    with console.working():
        from circuits.model.architectures import ARCHITECTURES
        from circuits.model.packaged import PACKAGED, embedded_models

        records = [_packaged_record(each) for each in PACKAGED.values()]
        records += [_model_record(name, path) for name, path in embedded_models().items()]
    there = sum(record["directory"] is not None for record in records)
    said = f"{there} of {len(records)} models that have a name here are on this machine."
    console.found(said)
    console.table(
        (
            *("model", "architecture", "MB", "licence", "where"),
            *("training templates", "held-out", "three-shot"),
        ),
        [
            (
                record["model"],
                str(record["architecture"]),
                f"{record['bytes'] / 1e6:.1f}",
                record["licence"],
                record["where"],
                percent(record["accuracy"].get("train_top1")),
                percent(record["accuracy"].get("held_out_top1")),
                percent(record["accuracy"].get("three_shot_top1")),
            )
            for record in records
        ],
    )
    covered = ", ".join(sorted(ARCHITECTURES))
    console.say(
        f"\n--model also takes a hub name (gpt2, TinyLlama/TinyLlama_v1.1, ...), a local Hugging "
        f"Face directory or a .gguf file; covered architectures: {covered}"
    )
    record = {"models": records, "architectures": sorted(ARCHITECTURES)}
    console.result(stamped("models", record, said))


def _model_record(name: str, path: Path) -> dict[str, Any]:
    from circuits.base.records import read_json

    training = path / "training.json"
    record = read_json(training) if training.is_file() else {}
    return {
        "model": name,
        "architecture": read_json(path / "config.json").get("model_type"),
        "bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "licence": "MIT",
        "where": "ships with the project",
        "directory": str(path),
        "accuracy": _accuracy(record),
    }


def _packaged_record(model: PackagedModel) -> dict[str, Any]:
    there = model.is_cached
    return {
        "model": model.name,
        "architecture": model.architecture,
        "bytes": model.bytes,
        "licence": model.licence,
        "where": "in your cache" if there else f"package index ({model.package}), at first use",
        "directory": str(model.path.parent) if there else None,
        "accuracy": {},
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
