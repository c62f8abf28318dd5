"""`kc mib`: the circuit track of MIB, from its tasks' pairs to scores and a submission."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from circuits.base.choices import BoardModel, BoardTask, KeyValue, Ranking, Sign, Submission
from circuits.base.idle import Given, Idle
from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Like, path
from locate.options import Loading, Source
from locate.search import Search

Pairs = Annotated[Source, Fixed(hold_out=0.0)]
"""All pairs on one side: MIB's splits are files of their own."""
Scores = Annotated[
    Search,
    Fixed(
        *("selection", "ranking", "faithfulness", "edges", "share", "threshold", "n_random"),
        *("curve", "roles", "spans"),
        kv=KeyValue.PER_QUERY_HEAD,
        resamples=0,
    ),
]
Folder = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="PATH", parser=path, help="Folder for the results."),
]
Submitted = Annotated[
    Path,
    typer.Argument(
        help="Importances (.kc.safetensors or EAP-IG .json), or a submission's folder of a task "
        "and model.",
        metavar="CIRCUITS",
        parser=path,
    ),
]
Scored = Annotated[
    Path,
    typer.Argument(
        help="Importances of edges: .kc.safetensors or EAP-IG .json.", metavar="IMPORTANCES"
    ),
]
Task = Annotated[BoardTask, typer.Option("--task", help="The board's name of the task.")]
OfModel = Annotated[
    BoardModel, typer.Option("--model", "-m", help="The board's name of the model.")
]
Form = Annotated[
    Submission,
    typer.Option("--form", help="One file of importances, or nine circuits of the board's sizes."),
]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples", min=0, max=100_000, help="Resamples of the pairs for intervals; 0: none."
    ),
]


def discover(
    *,
    model: o.ModelName,
    source: Pairs,
    search: Scores,
    loading: Loading,
    out: Folder,
    as_json: o.AsJson = False,
) -> None:
    """Importances of all edges, counted as MIB does: a key and value input a query head."""
    console = Console(as_json)
    with console.working():
        from locate.mib.board import FOUND, importances, importances_record, save_importances

        o.check_files(source, out, names=FOUND)
        loaded = o.asked_model(console, model, loading, source.bos)
        examples = o.pairs_of(console, loaded, o.limited(source), search.batch_size)
        with console.stage("scores") as progress:
            found = importances(loaded, examples, search, progress)
        files = save_importances(found, examples, out)
        record = importances_record(found, examples)
    console.warn(*examples.notes)
    console.found(record["says"])
    console.say(f"scores of {found.n_edges:,} edges on {len(examples.pairs):,} pairs")
    console.files(files)
    console.result({**record, "files": list(map(str, files))})


def evaluate(
    *,
    circuits: Submitted,
    model: o.ModelName,
    source: Pairs,
    sign: o.SignOfScores = Sign.UNKNOWN,
    resamples: Resamples = 1000,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """CPR and CMD of importances, or of nine circuits, as MIB's board computes them."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import SUMMARY
        from locate.evaluate import bos_of, fitted, mismatches
        from locate.mib.board import CURVES, board_scores
        from locate.mib.submission import read_submission

        read = read_submission(circuits, sign)
        bos = bos_of(read[0], source.bos, allow_mismatch=None)
        source = replace(source, bos=bos)
        inputs = [*circuits.iterdir()] if circuits.is_dir() else [circuits]
        o.check_files(source, out, inputs=inputs, names=[CURVES, SUMMARY])
        loaded = o.asked_model(console, model, loading, source.bos)
        read = [fitted(each, loaded, circuits) for each in read]
        warnings = mismatches(read[0], loaded, bos, allow_mismatch=None)
        examples = o.pairs_of(console, loaded, o.limited(source), batch_size)
        with console.stage("circuits") as progress:
            done = board_scores(
                loaded,
                read,
                examples,
                batch_size=batch_size,
                resamples=resamples,
                seed=source.seed,
                warnings=warnings,
                progress=progress,
            )
        files = [] if out is None else done.save(out, circuits)
    told = {**done.as_dict(), "file": str(circuits)}
    console.warn(*told["warnings"])
    console.found(told["says"])
    console.table(*done.table())
    asked, over = f"{len(examples.pairs):,} pairs", done.sample.over
    asked += "" if over == "pairs" else f", intervals over {over}"
    console.say(f"\non {asked}: CPR {done.cpr}, CMD {done.cmd}")
    if files:
        console.files(files)
    console.result({**told, "files": list(map(str, files))})


def export(
    *,
    given: Given,
    circuit: Scored,
    task: Task,
    model: OfModel,
    form: Form = Submission.IMPORTANCES,
    ranking: Annotated[Ranking, Like(Search, "ranking")] = Ranking.SIGNED,
    sign: o.SignOfScores = Sign.UNKNOWN,
    out: Folder,
    as_json: o.AsJson = False,
) -> None:
    """Write importances, or nine circuits, into the folder of a submission to MIB's board."""
    console = Console(as_json)
    if form == Submission.IMPORTANCES:
        given.refuse(Idle("with `form` importances, which the board ranks itself", ("ranking",)))
    with console.working():
        from circuits.files.reading import check_sign, read_circuit
        from locate.mib.submission import lacking, save_submission

        stored = check_sign(read_circuit(circuit, sign), circuit)
        files = save_submission(stored, out, task, model, form, ranking)
        lacks = lacking(out)
    said = f"{stored.n_edges:,} edges as {form} of {task} and {model} are in {out}"
    told = f"{said}, which lacks {lacks} to count as a submission" if lacks else said
    console.found(f"{told}.")
    console.files(files)
    record = {"file": str(circuit), "form": str(form), "lacks": lacks, "files": [*map(str, files)]}
    console.result(stamped("mib-export", record, f"{told}."))
