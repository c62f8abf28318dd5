"""One analysis from options to files: compute what is missing, report, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, KnowledgeCircuitsError, OptionError, PromptError
from circuits.base.options import as_dict, changed
from circuits.base.origin import SUMMARY, code_commit, staged, timestamp
from circuits.base.plain import plain
from circuits.base.progress import Stages, silent
from circuits.base.records import read_json
from circuits.base.stamps import stamped
from circuits.base.writing import atomic_write, save_json
from experiments.analyses.engine.base import (
    Analysis,
    Parts,
    Run,
    asked_of,
    check_asked,
    check_bound,
)
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.output import check_place, write_report
from experiments.analyses.engine.page import index_page
from experiments.analyses.engine.parts import (
    Shard,
    UnfinishedError,
    compute_parts,
    owner_of,
    stored_parts,
)

INDEX_FILES = ("report.html", SUMMARY)
"""The page over several reports, and their summaries in one file."""
Spread = Callable[[Analysis, Any, Context], Callable[[Sequence[str]], None] | None]


def run_analysis(
    analysis: Analysis,
    config: Any,
    context: Context,
    stages: Stages = silent,
    note: Callable[[str], Any] = lambda text: None,
    shard: Shard = Shard(),
    spread: Callable[[Sequence[str]], None] | None = None,
) -> Run:
    """Compute what is not stored, make the report and write everything into the context's folder.

    `spread` as in `compute_parts`. PromptError where no unit could be looked at; UnfinishedError
    where other shards' units miss.
    """
    check_place(context.folder, "run")
    check_asked(context, analysis)
    _check_own(context.folder, analysis, context.model.provenance)
    start = time.perf_counter()
    parts = compute_parts(analysis, config, context, stages, note, shard, spread)
    if not parts.values:
        reasons = "; ".join(dict.fromkeys(parts.skipped.values())) or "there is nothing to look at"
        raise PromptError(f"{analysis.name} on {context.model_name!r}: {reasons}")
    provenance = {
        **context.model.provenance,
        "analysis": analysis.name,
        "version": analysis.version,
        "seed": context.seed,
        "bos": context.model.tokenizer.use_bos(None),
        "known": str(context.known),
        "shots": context.shots,
        "templates": str(context.asked_in),
        **({"label": context.label} if context.label else {}),
        "facts": context.facts or "the atlas",
        "facts_sha256": context.facts_sha256,
        "config": as_dict(config),
        "units": [*parts.values, *parts.skipped],
        "fingerprint": parts.fingerprint,
        "commit": code_commit(),
        "created": timestamp(),
        "seconds_computing": round(sum(parts.seconds.values()), 1),
        "seconds_this_run": round(time.perf_counter() - start, 1),
    }
    with stages(f"{analysis.name} report"):
        return _reported(analysis, config, parts, provenance, context.folder)


def folder_for(model: str, names: Sequence[str]) -> Path:
    """Where a run goes unless a folder is named."""
    return Path("out") / f"{Path(model).name.replace('@', '-')}-{'-'.join(names)}"


def run_all(
    analyses: Sequence[Analysis],
    context: Context,
    stages: Stages = silent,
    note: Callable[[str], Any] = lambda text: None,
    again: bool = False,
    shard: Shard = Shard(),
    spread: Spread | None = None,
) -> tuple[list[Run], dict[str, str]]:
    """Every analysis with its defaults, in a folder of its own; circuits are shared.

    Returns the runs, and the reasons of analyses that cannot be made with this model. `again` only
    makes the reports of an earlier run again. `spread(analysis, config, context)` says how the
    units of one are computed elsewhere. A bound on memory is for those that score edges, if any
    does; what is asked is for those in which it changes something, if any is. PromptError where
    nothing is left, UnfinishedError where units of other shards miss, OptionError where the folder
    holds what another command wrote or the user.
    """
    check_place(context.folder, "run-index", INDEX_FILES)
    check_bound(context.memory, *((each, each.config()) for each in analyses))
    if idle := check_asked(context, *analyses):
        note(idle)

    def make(name: str) -> Run:
        each = next(one for one in analyses if one.name == name)
        own = asked_of(each, context.inside(context.folder / name))
        if again:
            return redraw(each, own.folder, stages, own.label)
        config = each.config()
        elsewhere = None if spread is None else spread(each, config, own)
        return run_analysis(each, config, own, stages, note, shard, elsewhere)

    runs, left_out, unfinished = in_turn([each.name for each in analyses], make, note)
    if unfinished:
        raise UnfinishedError("; ".join(unfinished.values()))
    if not runs:
        raise PromptError(f"no analysis could be made: {'; '.join(left_out.values())}")
    return runs, left_out


def in_turn(
    names: Sequence[str], make: Callable[[str], Run], note: Callable[[str], Any]
) -> tuple[list[Run], dict[str, str], dict[str, str]]:
    """Several runs, one after the other, of which one that fails does not stop the rest.

    Returns the runs, and the reasons of those that could not be made or that wait for units of
    other shards. These are tried again in the end: others may have done their units since.
    """
    runs: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    unfinished: dict[str, str] = {}

    def attempt(name: str) -> None:
        unfinished.pop(name, None)
        try:
            runs[name] = make(name)
        except UnfinishedError as error:
            unfinished[name] = str(error)
        except KnowledgeCircuitsError as error:
            left_out[name] = str(error)
            note(f"{name} left out: {error}")

    for name in names:
        attempt(name)
    for name in list(unfinished):
        attempt(name)
    return [runs[name] for name in names if name in runs], left_out, unfinished


def _check_own(folder: Path, analysis: Analysis, model: Mapping[str, Any]) -> None:
    """OptionError where another analysis, or one of another model, has its results in the folder.

    Weights that changed under their name are the same model's, whose run is made again.
    """
    try:
        summary = read_json(folder / SUMMARY)
        other, origin = summary["analysis"], summary["provenance"]
        before = origin["model"], origin["weights_sha256"]
    except (FileFormatError, KeyError, TypeError):
        # A run that was stopped has no summary yet, and its units are as dear.
        if (owner := owner_of(folder)) is None:
            return
        other, before = owner[0], owner[1:]
    if other != analysis.name:
        raise OptionError(f"`out` {folder} holds a run of {other}; name another folder")
    if before[0] != model.get("model") and before[1] != model.get("weights_sha256"):
        raise OptionError(f"`out` {folder} holds a run of {before[0]}; name another folder")


def write_index(
    runs: Sequence[Run], left_out: Mapping[str, str], folder: Path
) -> tuple[dict[str, Any], Path]:
    """A page that leads to the reports of several analyses, and their summaries in one file."""
    record = {
        "model": runs[0].model,
        "analyses": {run.analysis.name: run.as_dict() for run in runs},
        "left_out": dict(left_out),
    }
    said = f"{len(runs)} of {len(runs) + len(left_out)} analyses of {runs[0].model} are done."
    summary = stamped("run-index", record, said)
    with staged(folder) as stage:
        atomic_write(stage / "report.html", index_page(runs, left_out))
        save_json(plain(summary), stage / SUMMARY)
    return summary, folder / "report.html"


def redraw(
    analysis: Analysis, folder: Path, stages: Stages = silent, label: str | None = None
) -> Run:
    """The report made again from the stored units, without the model; under another label if given.

    FileFormatError where there is no earlier run, one of another version, or not all of its units.
    """
    with stages(f"{analysis.name} report"):
        run = reread(analysis, folder, label)
        return replace(run, files=write_report(run, folder))


def reread(analysis: Analysis, folder: Path, label: str | None = None) -> Run:
    """An earlier run with its report, from the stored units alone; nothing is written.

    Errors as of `redraw`.
    """
    path = folder / SUMMARY
    try:
        provenance = read_json(path)["provenance"]
        owner, mark, units = (provenance[name] for name in ("analysis", "fingerprint", "units"))
        settings = dict(provenance["config"])
    except (FileFormatError, ValueError, KeyError, TypeError):
        raise FileFormatError(path, "is no summary of an earlier run; run it first") from None
    if owner != analysis.name:
        raise OptionError(f"{folder} holds a run of {owner}")
    if provenance.get("version") != analysis.version:
        raise FileFormatError(path, f"is of another version of {analysis.name}; run it again")
    provenance |= {"label": label} if label else {}
    config = changed(analysis.config(), settings)
    parts = stored_parts(folder, mark, units)
    return Run(analysis, config, analysis.report(config, parts.values), parts, provenance)


def _reported(
    analysis: Analysis, config: Any, parts: Parts, provenance: dict[str, Any], folder: Path
) -> Run:
    run = Run(analysis, config, analysis.report(config, parts.values), parts, provenance)
    return replace(run, files=write_report(run, folder))
