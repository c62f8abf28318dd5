"""`kc edit`, `kc unlearn` and `kc compare`: edits made, judged and looked into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuits.base.choices import (
    KeyValue,
    Metric,
    Ranking,
    Selection,
    Templates,
    UnlearnMethod,
)
from circuits.base.errors import OptionError
from experiments.cli import options as o
from experiments.cli.console import Console
from locate.edges.locators import Locator

if TYPE_CHECKING:
    from circuits.edits.edit import EditRequest, WeightDelta
    from circuits.model.model import Model
    from experiments.cli.finding import Look
    from locate.compare import BothSides

ABOUT_A_MODEL = (
    *("relation", "method", "steps", "metric", "edges", "select", "rank", "kv", "resamples"),
    *("draws", "roles", "n_pairs", "split", "bos", "device", "dtype"),
)
"""Options that say how circuits are found."""


def edit(
    model: o.ModelName,
    method: o.EditMethodName = "rome",
    prompt: o.EditPrompt = None,
    subject: o.EditSubject = None,
    target: o.EditTarget = None,
    ground_truth: o.GroundTruth = None,
    requests: o.RequestsFile = None,
    random: o.RandomEdits = None,
    relation: o.RelationName = None,
    layers: o.Layers = None,
    moments: o.MomentsSource = None,
    hparams: o.EasyEditFile = None,
    set_: o.Settings = None,
    cache: o.Cache = None,
    sequential: o.Sequential = None,
    fluency: o.FluencyTokens = 0,
    text: o.DriftText = None,
    bos: o.Bos = None,
    batch_size: o.BatchSize = 64,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    save_model: o.SaveModel = None,
    as_json: o.AsJson = False,
) -> None:
    """Edit facts, and measure whether the edit worked and what it cost."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import check_writable
        from circuits.edits.judge.counterfactuals import atlas_requests, with_atlas_probes
        from circuits.edits.judge.success import Judge
        from circuits.model.model import load
        from experiments.cli import edit_report
        from locate.edit import (
            EASYEDIT,
            Editor,
            Mode,
            check_method,
            chosen_layers,
            mode_for,
            parse_layers,
            parse_settings,
            run_edits,
            texts_for_drift,
            worst,
        )

        method = check_method(method)
        if hparams is not None and not method.startswith(EASYEDIT):
            raise OptionError("--hparams is EasyEdit's: it goes with --method easyedit:NAME")
        parse_layers(layers)
        settings = parse_settings(set_ or ())
        texts = texts_for_drift(text)
        asked = _requests(prompt, subject, target, ground_truth, requests, random, relation)
        for folder in (out, save_model):
            if folder is not None:
                check_writable(folder)
        with console.stage("model"):
            loaded = load(model, device=device, dtype=dtype)
        if random is not None:
            names = None if relation is None else [relation]
            asked = atlas_requests(random, seed, names, loaded.tokenizer)
        mode = mode_for(method, len(asked), sequential)
        if save_model is not None and mode is Mode.EACH and len(asked) > 1:
            raise OptionError("--save-model writes one model: use it with --sequential")
        asked = [with_atlas_probes(request, seed) for request in asked]
        with console.stage("questions"):
            judge = Judge(
                loaded,
                asked,
                bos=bos,
                batch_size=batch_size,
                fluency_tokens=fluency,
                texts=texts,
                seed=seed,
            )
        chosen, evidence = chosen_layers(loaded, layers, asked)
        editor = Editor(loaded, method, chosen, moments, seed, cache, hparams, settings)
        with console.stage("edits") as progress:
            run = run_edits(editor, judge, mode, progress)
        error = worst(run)
        if error is None and not run.deltas:
            raise OptionError(f"nothing to edit: {run.outcomes[0].reason}")
        look = edit_report.edit_look(run, judge, method, seed, evidence)
        if save_model is not None and run.deltas:
            edit_report.fill_in_model(run.delta or run.deltas[0], loaded, save_model)
    _finish(console, look, out, edit_report.OWNED)
    if error is not None:
        raise error


def unlearn(
    model: o.ModelName,
    forget: o.ForgetFile,
    retain: o.RetainFile,
    held_out: o.HeldOutFile = None,
    method: o.UnlearnName = UnlearnMethod.GA_GD,
    layers: o.Layers = None,
    set_: o.Settings = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    save_model: o.SaveModel = None,
    as_json: o.AsJson = False,
) -> None:
    """Unlearn a set of texts or facts while keeping another."""
    console = Console(as_json)
    with console.working():
        from circuits.base.choices import EditStatus
        from circuits.base.errors import NumericalError
        from circuits.base.origin import check_writable
        from circuits.edits.judge.success import norm_growth
        from circuits.edits.methods.unlearn import unlearn as forget_set
        from circuits.edits.parts.examples import read_examples
        from circuits.model.model import load
        from experiments.cli import edit_report
        from locate.edit import AUTO, parse_layers, parse_settings

        if layers == AUTO:
            raise OptionError("--layers auto traces single facts: for unlearning name the layers")
        chosen, settings = parse_layers(layers), parse_settings(set_ or ())
        sets = read_examples(forget), read_examples(retain)
        kept = read_examples(held_out) if held_out is not None else ()
        for folder in (out, save_model):
            if folder is not None:
                check_writable(folder)
        with console.stage("model"):
            loaded = load(model, device=device, dtype=dtype)
        with console.stage("unlearning") as progress:
            outcome = forget_set(
                loaded,
                *sets,
                method,
                layers=chosen,
                settings=settings,
                held_out=kept,
                seed=seed,
                progress=progress,
            )
        growth = norm_growth(loaded, outcome.delta) if outcome.delta is not None else {}
        look = edit_report.unlearn_look(outcome, loaded.name, seed, growth)
        if save_model is not None and outcome.delta is not None:
            edit_report.fill_in_model(outcome.delta, loaded, save_model)
    _finish(console, look, out, edit_report.OWNED)
    if outcome.status is EditStatus.DIVERGED:
        raise NumericalError(f"diverged: {outcome.reason}; the weights are as they were")


def compare(
    context: typer.Context,
    before: o.BeforeCircuit = None,
    after: o.AfterCircuit = None,
    model: o.ComparedModel = None,
    edit: o.EditFile = None,
    relation: o.RelationName = None,
    method: o.LocatorChoice = Locator.EAP_IG,
    steps: o.Steps = 5,
    metric: o.MetricChoice = Metric.LOGIT_DIFFERENCE,
    edges: o.Edges = None,
    select: o.Select = Selection.TOP,
    rank: o.Rank = Ranking.ABSOLUTE,
    kv: o.Kv = KeyValue.GROUPED,
    resamples: o.Resamples = 200,
    draws: o.Draws = 20,
    roles: o.Roles = True,
    n_pairs: o.NPairs = None,
    split: o.Split = Templates.FIRST,
    bos: o.Bos = None,
    batch_size: o.BatchSize = 16,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare two stored circuits, or a model's circuit before and after an edit.

    With --relation the pairs ask for that relation; without, for the facts that were edited.
    """
    console = Console(as_json)
    files, edited = (before, after), (model, edit)
    if any(files) == any(edited) or not (all(files) or all(edited)):
        raise OptionError("give --before and --after circuits, or --model and --edit")
    if all(files):
        o.refuse_unused(context, "on two stored circuits", *ABOUT_A_MODEL)
    elif method != Locator.EAP_IG:
        o.refuse_unused(context, f"with --method {method}", "steps")
    with console.working():
        from circuits.base.origin import check_writable
        from experiments.cli import comparing
        from locate.discover import Search

        if out is not None:
            check_writable(out)
        if before is not None and after is not None:
            from circuits.graph.compare import compare as compare_circuits
            from locate.evaluate import read_circuit

            both = compare_circuits(read_circuit(before), read_circuit(after))
            look = comparing.circuits_look(both, (before, after))
        else:
            from circuits.edits.edit import WeightDelta
            from circuits.facts.facts import relation as known_relation
            from circuits.model.model import load
            from locate.compare import compare_edit, foreign_weights

            search = Search(
                method=method,
                steps=steps,
                metric=metric,
                kv=kv,
                selection=select,
                ranking=rank,
                edges=edges,
                resamples=resamples,
                roles=roles,
                batch_size=batch_size,
                seed=seed,
            )
            delta = WeightDelta.load(str(edit))
            if relation is not None:
                known_relation(relation)
            with console.stage("model"):
                loaded = load(str(model), device=device, dtype=dtype)
            if (warning := foreign_weights(delta, loaded)) is not None:
                console.warn(warning)
            with console.stage("pairs"):
                asked = _sides(loaded, delta, relation, split, n_pairs, bos, seed, batch_size)
            with console.stage("circuits") as progress:
                found = compare_edit(loaded, delta, asked, search, draws, progress)
            look = comparing.edit_look(found)
    _finish(console, look, out, comparing.FILES)


def _sides(
    model: Model,
    delta: WeightDelta,
    relation: str | None,
    split: Templates,
    n_pairs: int | None,
    bos: bool | None,
    seed: int,
    batch_size: int,
) -> BothSides:
    from locate.compare import N_PAIRS, PARTNERS, about_a_relation, about_the_edit
    from locate.examples import Source, collect

    if relation is None:
        return about_the_edit(model, delta, n_pairs or PARTNERS, seed)
    source = Source(
        relation=relation,
        templates=split,
        limit=n_pairs or N_PAIRS,
        hold_out=0.0,
        bos=bos,
        seed=seed,
    )
    return about_a_relation(collect(model, source, batch_size))


def _requests(
    prompt: str | None,
    subject: str | None,
    target: str | None,
    ground_truth: str | None,
    requests: str | None,
    random: int | None,
    relation: str | None,
) -> list[EditRequest]:
    """What was asked for, in one of three ways; empty for --random, which needs the model."""
    from circuits.edits.edit import EditRequest
    from circuits.edits.requests import read_requests, slotted
    from circuits.facts.facts import relation as known_relation

    words = {"--prompt": prompt, "--subject": subject, "--target": target}
    ways = [any(words.values()), requests is not None, random is not None]
    if sum(ways) != 1:
        raise OptionError(
            "say what to edit: --prompt, --subject and --target, or --requests FILE, or --random N"
        )
    if relation is not None and requests is not None:
        raise OptionError("--relation goes with --prompt or --random; a file names its relations")
    if relation is not None:
        known_relation(relation)
    if requests is not None:
        return list(read_requests(requests).requests)
    if random is not None:
        return []
    missing = [name for name, value in words.items() if not value]
    if missing:
        raise OptionError(
            f"{' and '.join(missing)} missing: an edit needs all of {', '.join(words)}"
        )
    template = slotted(str(prompt), str(subject))
    return [EditRequest(template, str(subject), str(target), ground_truth, relation)]


def _finish(console: Console, look: Look, out: Path | None, owned: tuple[str, ...]) -> None:
    """Write, then show."""
    if out is not None:
        names = [*look.files, "summary.json"]
        look = replace(look, summary={**look.summary, "files": [str(out / n) for n in names]})
        owned = (*owned, *(path.name for path in out.glob("edit-*.kc.safetensors")))
    paths = look.write(out, owned)
    for note in look.summary["warnings"]:
        console.warn(note)
    look.show(console, paths)
