"""Through which attention heads an edge between two features runs.

With attention patterns and norm denominators frozen and MLPs cut (`locate.features.frozen_run`), an
edge from feature s (layer l, position p) to feature t (layer m > l, position q) weighs

    total(s, t) = a_s  e_t . J . d_s

where a_s is the activation of s, d_s its decoder, e_t the encoder of t, and J what a write at l, p
becomes at m, q, summed over all paths through heads in between (Ameisen et al. 2025). J splits by
the number of heads on the path:

    total = direct + sum over heads of head + rest
    direct  = a_s  e_t . N_t d_s                        where p = q, else 0
    head    = a_s  A[q, p]  e_t . N_t W_O W_V N_h d_s   of every head between
    rest    = total - direct - heads

N are the norms with their denominators frozen, N_t the target's at q (and position q's norm after
attention, where a model has one), N_h the head's at p; A is the head's pattern. The total comes
from a backward pass and not from its parts, so that the rest is exact: it is what paths through two
heads and more carry, and none there is where one layer of attention lies between. A head's part is
what the frozen model's pre-activation of t loses where s is hidden from that head and t does not
read it through any other: Kamath et al. 2025 call it the head's loading.

What is frozen is not explained: why heads look from q to p, and what s does to that, to the norms
and to MLPs on the way, is in no number here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.files.attribution import AttributionGraph
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.features.carriers import Carriers
from locate.features.directions import Directions, Reads, Writes
from locate.features.frozen_run import FrozenRun, Reader
from locate.features.neurons import HINT, neuron_directions
from locate.features.nodes import Edge, FeatureLinks, Node, check_edges, prompt_of

USUAL = 20
"""Edges that are taken apart where nothing else is said."""


@alone
def carriers(
    model: Model,
    prompt: Prompt,
    edges: Sequence[Edge],
    directions: Directions | None = None,
    activation: Mapping[Node, float] | None = None,
    weight: Mapping[Edge, float] | None = None,
    progress: Progress | None = None,
) -> Carriers:
    """Take edges apart at a prompt; without `directions` features are the model's own neurons.

    `activation` is that of every source, by default 1 (then a total is per unit of it), of neurons
    the run's own; `weight` is what a graph's file says of the edges. Edges come in the order given.
    OptionError for an edge or a feature that is not there, or directions of another width.
    """
    if not edges:
        raise OptionError("there are no edges to take apart")
    check_edges(edges, model.n_layers, len(prompt))
    neurons = directions is None
    if directions is None:
        directions = neuron_directions(model, [node.feature for edge in edges for node in edge])
    elif directions.d_model != model.d_model:
        raise OptionError(
            f"the directions are of width {directions.d_model}, {model.name!r} of {model.d_model}"
        )
    run = FrozenRun(model, prompt)
    if neurons:
        levels = _levels(run, [source for source, _ in edges])
    elif activation is None:
        levels = dict.fromkeys((source for source, _ in edges), 1.0)
    else:
        levels = dict(activation)
    if lost := [source.name for source, _ in edges if source not in levels]:
        raise OptionError(f"the activation of {lost[0]} is not known")
    shape = (len(edges), model.n_layers, model.n_heads)
    direct, heads, total = np.zeros(shape[0]), np.zeros(shape), np.zeros(shape[0])
    targets = list(dict.fromkeys(target for _, target in edges))
    for done, target in enumerate(targets):
        places = [at for at, edge in enumerate(edges) if edge[1] == target]
        sources = [edges[at][0] for at in places]
        found = _into(run, directions, target, sources)
        for at, source, parts in zip(places, sources, zip(*found, strict=True), strict=True):
            level = levels[source]
            direct[at], heads[at], total[at] = (level * part.cpu().numpy() for part in parts)
        if progress is not None:
            progress(done + 1, len(targets))
    own = "1" if activation is None and not neurons else "the run's" if neurons else "the graph's"
    return Carriers(
        source=np.array([edge[0] for edge in edges]),
        target=np.array([edge[1] for edge in edges]),
        activation=np.array([levels[source] for source, _ in edges]),
        direct=direct,
        heads=heads,
        total=total,
        weight=np.array([] if weight is None else [weight[edge] for edge in edges]),
        prompt=prompt.text,
        tokens=prompt.tokens,
        provenance={
            **model.provenance,
            "method": "carriers",
            "bos": prompt.bos,
            "features": "directions",
            "reads": str(directions.reads),
            "writes": str(directions.writes),
            "activation": own,
            **directions.provenance,
        },
    )


@alone
def strongest_sources(model: Model, prompt: Prompt, target: Node, n: int = USUAL) -> list[Edge]:
    """The n edges into a neuron with the largest |total| of all from neurons of earlier layers."""
    model.check_neurons(HINT)
    if n < 1:
        raise OptionError(f"ask for at least 1 edge, not {n}")
    if target.layer == 0:
        raise OptionError(f"{target.name} is in the first layer: no feature is before it")
    if target.layer >= model.n_layers or target.at >= len(prompt):
        raise OptionError(
            f"{target.name} is not within {model.n_layers} layers and {len(prompt)} tokens"
        )
    run = FrozenRun(model, prompt)
    reader = _reader(run, neuron_directions(model, [target.feature]), target)
    totals = []
    for layer in range(target.layer):
        decoders = run.wide(model.mlp_output_matrix(layer))
        acts = reader.states[layer + 1]
        totals.append(run.activations(layer) * (run.received(layer, acts) @ decoders))
    stacked = torch.stack(totals)[:, : target.at + 1]
    order = stacked.abs().flatten().topk(min(n, stacked.numel())).indices.cpu().numpy()
    found = zip(*np.unravel_index(order, tuple(stacked.shape)), strict=True)
    return [(Node(int(layer), int(number), int(at)), target) for layer, at, number in found]


def carriers_of(
    model: Model,
    prompt: str | None = None,
    graph: AttributionGraph | None = None,
    directions: Directions | None = None,
    edges: Sequence[tuple[str, str]] = (),
    into: str | None = None,
    n: int = USUAL,
    bos: bool | None = None,
    progress: Progress | None = None,
) -> Carriers:
    """What carries the `edges` that are named, the strongest `into` a feature, or of a graph.

    Features are named 3_17_5, layer, number and position. With a `graph` the edges are its links
    between features, at its own prompt if no other is given; without one, the model's neurons'.
    Without `directions` features are neurons. OptionError where too little is said.
    """
    chosen, wanted = asked_for(graph, directions, edges, into)
    asked = prompt_of(model, prompt, graph, bos)
    if graph is not None:
        links = FeatureLinks.of(graph)
        if directions is None and not links.are_neurons:
            raise OptionError(
                f"the graph's features are of type {', '.join(sorted(links.types))!r:.80}: give "
                "their `directions`, a safetensors file"
            )
        chosen = _chosen(links, chosen, wanted, n)
        activation = None if directions is None else links.activation
        return carriers(model, asked, chosen, directions, activation, links.weight, progress)
    if wanted is not None:
        chosen = strongest_sources(model, asked, wanted, n)
    return carriers(model, asked, chosen, directions, progress=progress)


def asked_for(
    graph: AttributionGraph | None,
    directions: Directions | None,
    edges: Sequence[tuple[str, str]],
    into: str | None,
) -> tuple[list[Edge], Node | None]:
    """The edges that are named, or the feature that they are `into`; needs no model.

    OptionError where too much or too little is said.
    """
    if edges and into is not None:
        raise OptionError("name each `edge`, or the feature that all are `into`, not both")
    if graph is None and not edges and into is None:
        raise OptionError("name an `edge`, or a feature that edges are `into`, or give a graph")
    if graph is None and into is not None and directions is not None:
        raise OptionError(
            "without a graph, `into` ranks the model's neurons: leave out `directions`, or name "
            "each `edge`"
        )
    named = [(Node.of(source), Node.of(target)) for source, target in edges]
    return named, None if into is None else Node.of(into)


def _chosen(links: FeatureLinks, named: Sequence[Edge], into: Node | None, n: int) -> list[Edge]:
    """The links that are named, else the n strongest, of those into a feature if there is one."""
    for source, target in named:
        if (source, target) not in links.weight:
            raise OptionError(
                f"the graph has no link from a feature {source.name} to a feature {target.name}"
            )
    if named:
        return list(named)
    found = [edge for edge in links.weight if into is None or edge[1] == into]
    if not found and into is not None:
        raise OptionError(f"the graph has no link from a feature into {into.name}")
    return found[:n]


def _into(
    run: FrozenRun, directions: Directions, target: Node, sources: Sequence[Node]
) -> tuple[Any, Any, Any]:
    """Direct part, heads' parts and total of edges into one target, per unit of activation."""
    reader = _reader(run, directions, target)
    rows = directions.rows_of([source.feature for source in sources])
    places = [source.at for source in sources]
    vectors = run.wide(directions.decoder[rows])
    if directions.writes == Writes.MLP:
        vectors = torch.cat(
            [
                run.written(source.layer, [source.at], vector[None])
                for source, vector in zip(sources, vectors, strict=True)
            ]
        )
    here = torch.tensor([place == target.at for place in places], device=vectors.device)
    direct = torch.where(here, vectors @ reader.here, 0.0)
    ends = zip(sources, vectors, strict=True)
    total = torch.stack([reader.states[a.layer + 1][a.at] @ vector for a, vector in ends])
    heads = vectors.new_zeros(len(sources), run.model.n_layers, run.model.n_heads)
    first = min(source.layer for source in sources)
    for layer in run.heads_between(first, target.layer):
        own = [at for at, source in enumerate(sources) if source.layer < layer]
        heads[own, layer] = run.through_heads(
            layer, [places[at] for at in own], vectors[own], target.at, reader.here
        )
    return direct, heads, total


def _reader(run: FrozenRun, directions: Directions, target: Node) -> Reader:
    [row] = directions.rows_of([target.feature])
    encoder = run.wide(directions.encoder[row])
    return run.reader(target.layer, target.at, encoder, Reads.of(directions.reads))


def _levels(run: FrozenRun, sources: Sequence[Node]) -> dict[Node, float]:
    """The activations of neurons in the run."""
    return {each: float(run.activations(each.layer)[each.at, each.number]) for each in set(sources)}
