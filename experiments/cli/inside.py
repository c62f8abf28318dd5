"""`kc neurons` and `kc carriers`: below the nodes of a circuit, at neurons and features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from circuits.base.idle import Given
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Like, path
from locate.idle import NAMED_EDGES
from locate.neurons.options import NeuronSearch, Within
from locate.options import Loading, Source

MlpsOf = Annotated[
    Path | None, typer.Option("--circuit", help="Look into the MLPs of this stored circuit only.")
]
Mlps = Annotated[
    list[str] | None, typer.Option("--mlp", help="Look into this MLP, as m5; repeatable.")
]
Graph = Annotated[
    Path | None,
    typer.Argument(
        help="An attribution graph's JSON file; its links are the edges.",
        metavar="GRAPH",
        parser=path,
    ),
]
GraphPrompt = Annotated[
    str | None, typer.Option("--prompt", "-p", help="The prompt; by default the graph's.")
]
DirectionsFile = Annotated[
    Path | None,
    typer.Option(
        "--directions",
        metavar="FILE",
        parser=path,
        help="Encoders and decoders of the features (safetensors); default: the model's neurons.",
    ),
]
EdgeNames = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--edge",
        metavar="SOURCE TARGET",
        help="One edge by its features, as 3_17_5 6_20_9 (layer, number, position).",
    ),
]
Into = Annotated[
    str | None, typer.Option("--into", metavar="TARGET", help="The strongest edges into a feature.")
]
MostEdges = Annotated[
    int, typer.Option("--edges", "-n", min=1, help="How many edges, the strongest first.")
]


def neurons(
    *,
    model: o.ModelName,
    source: Source,
    circuit: MlpsOf = None,
    mlp: Mlps = None,
    search: NeuronSearch,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Which neurons of MLPs do what these do: found on some pairs, patched on others."""
    console = Console(as_json)
    within = Within(circuit, tuple(mlp or ()))
    with console.working():
        from locate.looks import neurons as looks
        from locate.looks.look import about
        from locate.neurons.find import find_neurons

        within.stored()  # what is no circuit is refused before a model is loaded
        o.check_files(source, out, inputs=[circuit], names=looks.FILES)
        loaded = o.load_model(console, model, loading)
        mlps, bos = within.mlps(loaded, source.bos)
        o.note_bos(console, loaded.tokenizer.use_bos(bos))
        asked = o.limited(replace(source, bos=bos))
        examples = o.pairs_of(console, loaded, asked, search.batch_size)
        found = find_neurons(loaded, examples, mlps, search, console.stage)
        look = looks.neurons(about(found, examples))
        paths = look.write(out, looks.FILES)
    console.show(look, paths)


def carriers(
    *,
    given: Given,
    graph: Graph = None,
    model: o.ModelName,
    prompt: GraphPrompt = None,
    directions: DirectionsFile = None,
    edge: EdgeNames = None,
    into: Into = None,
    n: MostEdges = 20,
    bos: Annotated[bool | None, Like(Source, "bos")] = None,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Which heads carry an edge between features: of a GRAPH, of directions, or of neurons.

    Patterns and norms are frozen, MLPs cut: what an edge weighs goes through no head, through one
    or through several, and the parts sum to it.
    """
    console = Console(as_json)
    with console.working():
        from circuits.files.attribution import AttributionGraph
        from circuits.files.neuronpedia import read_graph
        from locate.features.carrying import asked_for, carriers_of
        from locate.features.directions import Directions
        from locate.looks import carriers as looks

        if edge:
            given.refuse(NAMED_EDGES)
        o.check_files(None, out, inputs=(graph, directions), names=looks.FILES)
        links = None if graph is None else AttributionGraph.of(read_graph(graph))
        vectors = None if directions is None else Directions.load(directions)
        named = [edge] if edge else []
        asked_for(links, vectors, named, into)
        loaded = o.load_model(console, model, loading)
        with console.stage("carriers") as progress:
            found = carriers_of(loaded, prompt, links, vectors, named, into, n, bos, progress)
        o.note_bos(console, found.provenance["bos"])
        if (misfit := found.misfit()) is not None and misfit > looks.FITS:
            console.warn(
                f"totals are off the graph's weights by {100 * misfit:.3g} %: directions, model or "
                "prompt may be others than the graph's"
            )
        look = looks.carriers(found, graph)
        paths = look.write(out, looks.FILES)
    console.show(look, paths)
