"""`kc bench`: our own methods measured where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from circuits.base.idle import Given, Idle
from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Like
from experiments.planted import NOISE
from locate.options import Loading, Source
from locate.search import Scoring, Search

Methods = Annotated[
    str | None,
    typer.Option("--methods", metavar="A,B", help="Locators; else all that give scores."),
]
Models = Annotated[
    str | None,
    typer.Option("--models", metavar="A,B", help="Planted models, tasks or builds; else all."),
]
Noise = Annotated[
    float, typer.Option("--noise", min=0, max=10, help="Size of random heads' and units' writes.")
]
Listing = Annotated[bool, typer.Option("--list", help="Explain the planted models.")]
Relations = Annotated[
    str | None,
    typer.Option("--relations", metavar="A,B", help="Relations; else all that are known."),
]
Splits = Annotated[int, typer.Option("--splits", min=1, max=10_000, help="Halves a relation.")]
Pairs = Annotated[int, typer.Option("--n-pairs", min=1, max=100_000, help="Pairs a relation.")]
TABLE, NULLS, SUMMARY = "locators.parquet", "noise.parquet", "summary.json"


def locators(
    *,
    given: Given,
    methods: Methods = None,
    models: Models = None,
    listing: Listing = False,
    noise: Noise = NOISE,
    scoring: Annotated[Scoring, Fixed("method", "options", "spans")],
    seed: Annotated[int, Like(Source, "seed")] = 0,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Score locators on models whose true circuit is known by construction."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import write_all
        from circuits.base.writing import save_json
        from experiments.planted.bench import bench, chosen_methods, chosen_models

        planted = chosen_models(_names(models))
        if listing:
            told = {each.program.name: each.program.text for each in planted}
            for name, text in told.items():
                builds = ", ".join(each.build for each in planted if each.program.name == name)
                console.say(f"{name} ({builds}): {text}")
            console.result(stamped("bench-list", {"models": told}))
            return
        folder = out or Path("out") / "bench-locators"
        o.check_files(None, folder, names=[TABLE, SUMMARY])
        scorings, left_out = chosen_methods(_names(methods), scoring)
        _refuse_unread(given, scorings)
        for text in left_out:
            console.warn(f"left out: {text}")
        found = bench(
            planted, scorings, noise=noise, seed=seed, batch_size=batch_size, stage=console.stage
        )
        files = write_all(
            folder,
            {
                TABLE: found.table().save_parquet,
                SUMMARY: lambda path: save_json(found.as_dict(), path),
            },
        )
    console.found(found.says())
    for table in (found.by_model(), found.by_method()):
        console.table(table.columns, table.texts())
        console.say()
    console.say("AUROC and average precision of |score|; signed: AUROC of the score itself;")
    console.say("means over models, 95 % intervals over programs")
    console.files(files)
    console.result({**found.as_dict(), "files": [str(path) for path in files]})


def noise(
    *,
    given: Given,
    model: o.ModelName,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="A,B", help="Locators; else all but exact patching."),
    ] = None,
    relations: Relations = None,
    n_pairs: Pairs = 32,
    splits: Splits = 40,
    shots: Annotated[int, Like(Source, "shots")] = 0,
    scoring: Annotated[Scoring, Fixed("method", "options", "memory")],
    seed: Annotated[int, Like(Source, "seed")] = 0,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare halves of a model's facts: how many edges are called changed where nothing is."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import write_all
        from circuits.base.writing import save_json
        from circuits.facts.facts import atlas, relation
        from experiments.nulls.bench import bench, chosen_methods

        scorings, left_out = chosen_methods(_names(methods), scoring)
        _refuse_unread(given, scorings)
        for text in left_out:
            console.warn(f"left out: {text}")
        asked = _names(relations) or list(atlas())
        for name in asked:
            relation(name)
        folder = out or Path("out") / "bench-noise"
        o.check_files(None, folder, names=[NULLS, SUMMARY])
        loaded = o.asked_model(console, model, loading)
        found = bench(
            loaded,
            asked,
            scorings,
            pairs=n_pairs,
            splits=splits,
            shots=shots,
            seed=seed,
            batch_size=batch_size,
            stage=console.stage,
        )
        files = write_all(
            folder,
            {
                NULLS: found.table().save_parquet,
                SUMMARY: lambda path: save_json(found.as_dict(), path),
            },
        )
    if found.skipped:
        console.warn(f"too few known facts: {', '.join(found.skipped)}")
    console.found(found.says())
    table = found.by_method()
    console.table(table.columns, table.texts())
    console.say()
    console.say("edges: share called changed; any: share of comparisons with one; single: share of")
    console.say("edges with p <= 0.05 before the control of false discoveries; the level is 0.05")
    console.files(files)
    console.result({**found.as_dict(), "files": [str(path) for path in files]})


def _refuse_unread(given: Given, scorings: Sequence[Scoring]) -> None:
    """OptionError where an option was given that none of these methods reads."""
    unread = [{name for each in s.idle() for name in each.names} for s in scorings]
    named = ", ".join(each.named for each in scorings)
    given.refuse(Idle(f"with `methods` {named}", tuple(set.intersection(*unread))))


def _names(text: str | None) -> list[str] | None:
    """What commas part; none where nothing was given."""
    return None if text is None else [each.strip() for each in text.split(",")]


COMMANDS: tuple[Callable[..., None], ...] = (locators, noise)
"""As `kc bench --help` lists them."""
