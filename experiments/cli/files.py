"""`kc show`, `export`, `models` and `facts`: what there is, and in which form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.choices import ExportFormat
from circuits.base.errors import OptionError
from circuits.base.plain import plain
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Like, path
from locate.options import Loading, Source
from locate.search import Search

if TYPE_CHECKING:
    from circuits.facts.facts import Relation
    from circuits.graph.circuit import Circuit
    from circuits.model.packaged import PackagedModel

SUFFIXES = {
    "eap-ig": ".json",
    "graphml": ".graphml",
    "gexf": ".gexf",
    "dot": ".dot",
    "csv": ".csv",
    "node-link": ".node-link.json",
}
Shown = Annotated[
    int, typer.Option("--edges", "-n", min=1, help="How many edges, or other rows, to list.")
]
ResultPath = Annotated[
    Path,
    typer.Argument(
        help="A stored result (*.kc.safetensors, or a circuit's *.json), or a folder of them.",
        metavar="RESULT",
        parser=path,
    ),
]
RelationArgument = Annotated[
    str | None, typer.Argument(help="List the facts of this relation.", metavar="[RELATION]")
]
AskedModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Ask this model which of the facts it knows.")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="PATH", parser=path, help="File to write.")
]
Format = Annotated[ExportFormat, typer.Option("--to", help="Format to write.")]
AtlasOrFile = Annotated[
    Source,
    Fixed(
        "relation",
        "pairs",
        "task",
        "wordings",
        "limit",
        "hold_out",
        "known_only",
        "seed",
        "corrupt",
    ),
]


def show(*, result: ResultPath, edges: Shown = 20, as_json: o.AsJson = False) -> None:
    """What a stored result holds: a circuit, a comparison, a trace, ...; of a folder, all in it."""
    console = Console(as_json)
    with console.working():
        paths = _stored_in(result) if result.is_dir() else [result]
        found = [_opened(file, console if result.is_dir() else None) for file in paths]
    records = []
    for file, each in zip(paths, found, strict=True):
        if each is None:
            continue
        console.say(*([f"\n{file}"] if result.is_dir() else ()))
        records.append(_show(console, file, each, edges))
    console.result({"folder": str(result), "results": records} if result.is_dir() else records[0])


def _stored_in(folder: Path) -> list[Path]:
    """The stored results of a folder; OptionError where it has none."""
    found = sorted(folder.glob("*.kc.safetensors"))
    if not found:
        raise OptionError(f"{folder} holds no stored result (*.kc.safetensors)")
    return found


def _opened(path: Path, console: Console | None) -> Any:
    """A result; with a console a file that cannot be read is a warning and None."""
    from circuits.base.errors import FileFormatError
    from circuits.files.kinds import open_result
    from locate.evaluate import read_circuit

    try:
        return read_circuit(path) if path.suffix.lower() == ".json" else open_result(path)
    except FileFormatError as error:
        if console is None:
            raise
        console.warn(str(error))
        return None


def _show(console: Console, path: Path, found: Any, most: int) -> dict[str, Any]:
    """Say what a result holds, and give it as a record."""
    from circuits.graph.circuit import Circuit

    if isinstance(found, Circuit):
        return _show_circuit(console, path, found, most)
    summary, rows = found.summary(), found.rows()
    origin = dict(getattr(found, "provenance", {}))
    console.say(summary.title)
    for name, value in summary.facts.items():
        console.say(f"{name}: {value}")
    if rows:
        console.say()
        console.table(tuple(rows[0]), [tuple(map(_cell, row.values())) for row in rows[:most]])
        console.say(*([f"... {len(rows) - most} more rows"] if len(rows) > most else ()))
    console.say()
    _provenance(console, origin)
    return {
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
    return {
        "file": str(path),
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
    """The models that are there by name, and how to name others."""
    console = Console(as_json)
    with console.working():
        from circuits.model.architectures import ARCHITECTURES
        from circuits.model.loading import embedded_models
        from circuits.model.packaged import PACKAGED

        records = [_packaged_record(each) for each in PACKAGED.values()]
        records += [_model_record(name, path) for name, path in embedded_models().items()]
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
                _percent(record["accuracy"].get("train_top1")),
                _percent(record["accuracy"].get("held_out_top1")),
                _percent(record["accuracy"].get("three_shot_top1")),
            )
            for record in records
        ],
    )
    covered = ", ".join(sorted(ARCHITECTURES))
    console.say(
        f"\n--model also takes a hub name (gpt2, TinyLlama/TinyLlama_v1.1, ...), a local Hugging "
        f"Face directory or a .gguf file; covered architectures: {covered}"
    )
    console.result({"models": records, "architectures": sorted(ARCHITECTURES)})


def facts(
    *,
    relation: RelationArgument = None,
    source: AtlasOrFile,
    model: AskedModel = None,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 32,
    loading: Loading,
    as_json: o.AsJson = False,
) -> None:
    """The relations of the atlas or a fact file; one relation's facts; what a model knows."""
    console = Console(as_json)
    with console.working():
        relations = _relations(replace(source, relation=relation))
        checks: dict[str, Any] = {}
        if model is not None:
            from circuits.facts.questions import known_facts

            loaded = o.load_model(console, model, loading)
            asked = (source.templates, source.bos, batch_size)
            with console.stage("facts") as progress:
                for index, each in enumerate(relations, start=1):
                    checks[each.name] = known_facts(loaded, each, *asked)
                    progress(index, len(relations))
            bos = loaded.tokenizer.use_bos(source.bos)
            o.note_bos(console, bos)
        records = [_relation_record(each, checks.get(each.name)) for each in relations]
        known = _known_by_fact(checks)
    if relation is None:
        _print_relations(console, records)
    else:
        _print_facts(console, relations[0], known)
    if relation is not None or model is not None:
        for record, each in zip(records, relations, strict=True):
            record["list"] = [_fact_record(fact, known) for fact in each.facts]
    asked_with = {} if model is None else {"bos": bos}
    console.result({"model": model, **asked_with, "relations": records})


def _relations(source: Source) -> list[Relation]:
    if not source.asks:
        from circuits.facts.facts import atlas

        return list(atlas().values())
    from locate.examples import relations_of

    return relations_of(source)


def _relation_record(relation: Relation, check: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "relation": relation.name,
        "category": relation.category,
        "kind": relation.kind,
        "facts": len(relation.facts),
        "templates": list(relation.templates),
        "held_out_templates": list(relation.held_out),
    }
    if check is not None:
        record["questions"] = len(check.answers)
        record["answered_right"] = len(check.known)
        record["accuracy"] = check.accuracy if check.answers else None
        record["known"] = len({question.fact for question in check.known})
        record["cannot_be_asked"] = len(check.unusable)
    return record


def _known_by_fact(checks: dict[str, Any]) -> dict[Any, tuple[int, int, float]]:
    """For each fact: templates answered right, templates asked, best probability."""
    counts: dict[Any, tuple[int, int, float]] = {}
    for check in checks.values():
        for answer in check.answers:
            right, asked, best = counts.get(answer.question.fact, (0, 0, 0.0))
            counts[answer.question.fact] = (
                right + answer.known,
                asked + 1,
                max(best, answer.probability),
            )
    return counts


def _fact_record(fact: Any, known: dict[Any, tuple[int, int, float]]) -> dict[str, Any]:
    record = {"subject": fact.subject, "object": fact.object}
    if fact in known:
        right, asked, best = known[fact]
        record |= {"known": right > 0, "right": right, "asked": asked, "best_probability": best}
    return record


def _print_relations(console: Console, records: list[dict[str, Any]]) -> None:
    asked = any("known" in record for record in records)
    header = ("relation", "category", "facts", *(("known", "accuracy") if asked else ()))
    rows = []
    for record in records:
        cells = [record["relation"], record["category"], str(record["facts"])]
        if asked:
            cells += [str(record["known"]), _percent(record["accuracy"])]
        rows.append(cells)
    console.table(header, rows)
    n_facts, n = sum(r["facts"] for r in records), len(records)
    console.say(f"\n{n_facts} facts in {n} relation{'s' * (n != 1)}")


def _print_facts(
    console: Console, relation: Relation, known: dict[Any, tuple[int, int, float]]
) -> None:
    for heading, templates in (("templates", relation.templates), ("held out", relation.held_out)):
        for template in templates:
            console.say(f"{heading}: {template}")
    console.say()
    header = ("subject", "object", *(("right", "best probability") if known else ()))
    rows = []
    for fact in relation.facts:
        cells = [fact.subject, fact.object]
        if known:
            right, asked, best = known.get(fact, (0, 0, 0.0))
            cells += [f"{right} of {asked}", f"{best:.3f}"]
        rows.append(cells)
    console.table(header, rows)


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


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
