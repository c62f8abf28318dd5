"""The verbs that look into a model: where a fact passes, what heads do, what adds to the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.idle import Given
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from knowledge_circuits.options import ONE_SIDE, split, takes
from knowledge_circuits.values import circuit_of, is_path, loaded_model
from locate.asked import examples_of
from locate.features.carriers import Carriers
from locate.features.directions import Directions
from locate.heads.heads_on_prompts import HeadsOnPrompts
from locate.heads.role_report import RoleReport
from locate.heads.span_roles import SpanRoles
from locate.idle import (
    LENS_OF_A_PROMPT,
    NAMED_EDGES,
    PATCHED_TRACE,
    TRACE_OF_A_PROMPT,
)
from locate.neurons.options import NeuronSearch
from locate.neurons.report import NeuronReport
from locate.options import Batched, Source, Tracing
from locate.states.lens_curves import AverageLens
from locate.states.lens_result import LensResult
from locate.states.logit_attribution import LogitAttribution
from locate.states.trace_result import Trace
from locate.states.trace_roles import AverageTrace


@takes(Tracing, Source, fixed=ONE_SIDE, known_only=True)
def trace(
    model: Model | str,
    what: Any,
    subject: str | None = None,
    answer: str | None = None,
    **options: Any,
) -> Trace | AverageTrace:
    """Where a fact passes: which state, restored, brings the answer back after noise.

    `what` is a prompt, with its `subject` and `answer`; or what `discover` takes, for the average
    over facts.

    >>> found = trace("facts-gpt2", "The capital of France is", "France", "Paris", samples=2)
    >>> found.p_clean > 0.9
    True
    """
    from locate.looks.look import about
    from locate.states.trace_average import trace_facts
    from locate.states.tracing import trace as trace_prompt

    source, (chosen,), given = split(options, Source, Tracing, fixed=ONE_SIDE, known_only=True)
    with loaded_model(model).alone() as loaded:
        settings = chosen.asked(loaded.n_layers)
        if subject is None and answer is None:
            asked: dict[str, Any] = {"given": given, **source}
            examples = examples_of(loaded, what, chosen.pairs_a_pass, **asked)
            if examples.pairs[0].subject is None:
                given.refuse(PATCHED_TRACE)
            return about(trace_facts(loaded, examples.pairs, **settings), examples)
        if subject is None or answer is None:
            raise OptionError("a prompt needs `subject` and `answer`")
        given.refuse(TRACE_OF_A_PROMPT)
        return trace_prompt(loaded, what, subject, answer, bos=source.get("bos"), **settings)


@takes(Source, Batched, fixed=ONE_SIDE)
def lens(
    model: Model | str,
    what: Any,
    answer: str | None = None,
    subject: str | None = None,
    foil: str | None = None,
    **options: Any,
) -> LensResult | AverageLens:
    """What the model would say after every layer: rank and probability of the answer.

    `what` is a prompt, with its `answer`; or what `discover` takes, for the average over facts.

    >>> found = lens("facts-gpt2", "The capital of France is", answer="Paris")
    >>> int(found.rank[-1, 0, 0])
    0
    """
    from locate.looks.look import about
    from locate.states.lens import lens_on_prompt
    from locate.states.lens_average import average_lens

    source, (batched,), given = split(options, Source, Batched, fixed=ONE_SIDE)
    size = batched.batch_size
    with loaded_model(model).alone() as loaded:
        if answer is None:
            if subject is not None or foil is not None:
                raise OptionError("a prompt needs `answer`")
            examples = examples_of(loaded, what, size, given=given, **source)
            return about(average_lens(loaded, examples.pairs, batch_size=size), examples)
        given.refuse(LENS_OF_A_PROMPT)
        words = {"answer": answer, "foil": foil, "subject": subject}
        return lens_on_prompt(loaded, what, words, source.get("bos"))


@takes(Source, Batched, fixed=ONE_SIDE)
def attribution(model: Model | str, what: Any, **options: Any) -> LogitAttribution:
    """What each head and MLP adds, directly, to the answer's logit over the foil's.

    `what` is as for `discover`; pairs are taken as they are, whether the model knows them or not.

    >>> found = attribution("facts-gpt2", "country_capital", n_pairs=8)
    >>> largest = found.rows()[0]
    >>> largest["source"].startswith("a6.")
    True
    """
    from locate.looks.look import about
    from locate.states.attribution import direct_logit_attribution

    source, (batched,), given = split(options, Source, Batched, fixed=ONE_SIDE)
    loaded, size = loaded_model(model), batched.batch_size
    examples = examples_of(loaded, what, size, given=given, **source)
    return about(direct_logit_attribution(loaded, examples.pairs, size), examples)


@takes(Source, Batched, fixed=ONE_SIDE)
def roles(
    model: Model | str,
    what: Any,
    circuit: Any = None,
    ablation: Ablation | str = Ablation.ZERO,
    **options: Any,
) -> RoleReport | SpanRoles:
    """Which heads move the answer from the subject, and which say what is asked for.

    With a `circuit` only its heads are reported. Labels are checked by `ablation`. Of pairs without
    a subject, heads by the spans that the pairs name, without either.

    >>> report = roles("facts-gpt2", "country_capital", n_pairs=8)
    >>> report.roles["a6.h1"]
    'mover'
    """
    from locate.roles import roles_of

    source, (batched,), given = split(options, Source, Batched, fixed=ONE_SIDE)
    ablation, size = Ablation.of(ablation, "ablation"), batched.batch_size
    with loaded_model(model).alone() as loaded:
        stored = None if circuit is None else _looked_into(loaded, circuit, source)
        examples = examples_of(loaded, what, size, given=given, **source)
        asked: dict[str, Any] = {"batch_size": size, "seed": source.get("seed", 0), "given": given}
        return roles_of(loaded, examples, stored, ablation, **asked)


def _looked_into(model: Model, circuit: Any, source: dict[str, Any]) -> Circuit:
    """The circuit on the model's wiring; the source then asks with the BOS that it was found with.

    Errors and warnings are those of `locate.evaluate.looked_into`.
    """
    from locate.evaluate import looked_into

    path = Path(str(circuit) if is_path(circuit) else "the circuit")
    stored, source["bos"] = looked_into(circuit_of(circuit), model, path, source.get("bos"))
    return stored


@takes(Source, fixed=ONE_SIDE)
def heads(
    model: Model | str, what: Any, which: Any, n_prompts: int = 3, **options: Any
) -> HeadsOnPrompts:
    """Where heads look at the last token of single prompts, and which tokens they write there.

    `which` are names, as `a6.h1`, or the roles that `roles` found: the heads that have one. They
    are read on the first `n_prompts` prompts of `what`, which is as for `discover`.

    >>> found = heads("facts-gpt2", "country_capital", ["a6.h1"], n_prompts=1, n_pairs=4)
    >>> row = found.rows()[0]
    >>> row["looks at"] in found.prompts[0].prompt
    True
    """
    from locate.heads.prompt_heads import read_prompts

    source, _, given = split(options, Source, fixed=ONE_SIDE)
    known = which.roles if isinstance(which, RoleReport) else {}
    if isinstance(which, str | RoleReport):
        which = [which] if isinstance(which, str) else known
    if not isinstance(which, Iterable):
        raise OptionError(f"`which` are names of heads, as a6.h1, not {which!r:.40}")
    if n_prompts < 1:
        raise OptionError(f"`n_prompts` is at least 1, not {n_prompts}")
    with loaded_model(model).alone() as loaded:
        pairs = examples_of(loaded, what, given=given, **source).pairs
        return HeadsOnPrompts(tuple(read_prompts(loaded, pairs, list(which), known, n_prompts)))


def carriers(
    model: Model | str,
    prompt: str | None = None,
    *,
    graph: Any = None,
    directions: Directions | str | Path | None = None,
    edges: Sequence[tuple[str, str]] = (),
    into: str | None = None,
    n: int | None = None,
    bos: bool | None = None,
) -> Carriers:
    """Which heads carry edges between features: of a graph, or of the model's own neurons.

    Features are named LAYER_FEATURE_POSITION, as `3_17_5`. The edges are those that are named, the
    `n` strongest (20 unless given) `into` a feature, or the `n` strongest of a `graph`, an
    `AttributionGraph` or its file, whose prompt it then is. `directions` are the features' encoders
    and decoders, or a file of them; without any, features are neurons.

    >>> found = carriers("facts-gpt2", "The capital of France is", into="6_200_4", n=3)
    >>> bool(abs(sum(found.carried(0).values()) - found.total[0]) < 1e-6)
    True
    """
    from circuits.files.attribution import AttributionGraph
    from circuits.files.neuronpedia import read_graph
    from locate.features.carrying import USUAL, carriers_of

    if edges:
        Given().also(n=n).refuse(NAMED_EDGES)
    n = USUAL if n is None else n
    read = graph if isinstance(graph, AttributionGraph | None) else None
    if read is None and graph is not None:
        read = AttributionGraph.of(read_graph(graph))
    if isinstance(directions, str | Path):
        directions = Directions.load(directions)
    return carriers_of(loaded_model(model), prompt, read, directions, edges, into, n, bos)


@takes(Source, NeuronSearch)
def neurons(model: Model | str, what: Any, which: Any = None, **options: Any) -> NeuronReport:
    """Which neurons of MLPs do what these do, and how much of it a few of them carry.

    `which` is a circuit (or a discovery, or a file), whose MLPs are looked into, or names, as `m5`;
    all MLPs unless given. `what` is as for `discover`: half of the subjects choose the neurons, the
    others test them.

    >>> report = neurons("facts-gpt2", "country_capital", "m2", n_pairs=8, sizes=(16, 64))
    >>> best, more = report.shares("m2")
    >>> more.share.value > more.random.value
    True
    """
    from locate.looks.look import about
    from locate.neurons.find import find_neurons

    source, (search,), given = split(options, Source, NeuronSearch)
    named = isinstance(which, list | tuple) or (isinstance(which, str) and not is_path(which))
    with loaded_model(model).alone() as loaded:
        if named:
            mlps: Any = [which] if isinstance(which, str) else list(which)
        else:
            mlps = () if which is None else _looked_into(loaded, which, source)
        examples = examples_of(loaded, what, given=given, **source)
        return about(find_neurons(loaded, examples, mlps, search), examples)
