"""`kc edit`, `kc unlearn` and `kc compare`: edits made, judged and looked into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuits.base.choices import (
    KeyValue,
    Locator,
    Metric,
    Ranking,
    Selection,
    Templates,
    UnlearnMethod,
)
from circuits.base.errors import OptionError
from experiments.cli import options as o
from experiments.cli.console import Console

if TYPE_CHECKING:
    from circuits.edits.edit import EditRequest, WeightDelta
    from circuits.model.model import Model
    from experiments.cli.comparing import Question
    from experiments.cli.finding import Look

N_PAIRS = 32
PARTNERS = 8
"""Corrupted subjects for each edited fact."""
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
        _check_other(save_model, model)
        asked = _requests(prompt, subject, target, ground_truth, requests, random, relation)
        for folder in (out, save_model):
            if folder is not None:
                check_writable(folder, [requests])
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
    _finish(console, look, out, edit_report.OWNED)
    if save_model is not None and run.deltas:
        edit_report.fill_in_model(run.delta or run.deltas[0], loaded, save_model)
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
        _check_other(save_model, model)
        chosen, settings = parse_layers(layers), parse_settings(set_ or ())
        sets = read_examples(forget), read_examples(retain)
        kept = read_examples(held_out) if held_out is not None else ()
        for folder in (out, save_model):
            if folder is not None:
                check_writable(folder, [forget, retain, held_out])
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
    _finish(console, look, out, edit_report.OWNED)
    if save_model is not None and outcome.delta is not None:
        edit_report.fill_in_model(outcome.delta, loaded, save_model)
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
    elif method is not Locator.EAP_IG:
        o.refuse_unused(context, f"with --method {method}", "steps")
    with console.working():
        from circuits.base.origin import check_writable
        from experiments.cli import comparing
        from locate.discover import Search

        if out is not None:
            check_writable(out, [before, after, edit])
        if before is not None and after is not None:
            look = comparing.circuits_look(comparing.load_pair(before, after), (before, after))
        else:
            from circuits.edits.edit import WeightDelta
            from circuits.facts.facts import relation as known_relation
            from circuits.model.model import load

            search = Search(
                locator=method,
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
            _check_origin(console, delta, loaded)
            with console.stage("pairs"):
                question = _question(loaded, delta, relation, split, n_pairs, bos, seed, batch_size)
            with console.stage("circuits") as progress:
                found, notes = comparing.compare_edit(
                    loaded, delta, question, search, draws, progress
                )
            look = comparing.edit_look(found, question, notes, seed)
    _finish(console, look, out, comparing.FILES)


def _question(
    model: Model,
    delta: WeightDelta,
    relation: str | None,
    split: Templates,
    n_pairs: int | None,
    bos: bool | None,
    seed: int,
    batch_size: int,
) -> Question:
    from experiments.cli import comparing
    from locate.examples import Source, collect

    if relation is None:
        return comparing.about_the_edit(model, delta, n_pairs or PARTNERS, seed)
    source = Source(
        relation=relation,
        templates=split,
        limit=n_pairs or N_PAIRS,
        hold_out=0.0,
        bos=bos,
        seed=seed,
    )
    return comparing.about_a_relation(collect(model, source, batch_size))


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


def _check_other(folder: Path | None, model: str) -> None:
    """Refuse to write an edited model over the one that it is made from."""
    if folder is not None and folder.exists() and folder.resolve() == Path(model).resolve():
        raise OptionError(f"--save-model {folder} is the model's own directory; name another")


def _check_origin(console: Console, delta: WeightDelta, model: Model) -> None:
    """A word of warning where an edit was made for other weights."""
    made_for = _weights_of(delta.provenance)
    if made_for and model.provenance["weights_sha256"] not in made_for:
        console.warn(f"the edit was made for other weights than those of {model.name!r}")


def _weights_of(provenance: object) -> set[str]:
    if not isinstance(provenance, dict):
        return set()
    own = {str(provenance["weights_sha256"])} if "weights_sha256" in provenance else set()
    return own.union(*(_weights_of(part) for part in provenance.get("sum", ())))


def _finish(console: Console, look: Look, out: Path | None, owned: tuple[str, ...]) -> None:
    """Write, then show."""
    if out is not None:
        owned = (*owned, *(path.name for path in out.glob("edit-*.kc.safetensors")))
    paths = look.write(out, owned)
    for note in look.summary["warnings"]:
        console.warn(note)
    look.show(console, paths)
