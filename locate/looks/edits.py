"""What edits and unlearning say and store: tables, a summary, a page; no decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import plain
from circuits.base.writing import atomic_write
from circuits.edits.judge.measures import SCORINGS
from circuits.edits.judge.success import RequestScore
from circuits.edits.judge.table import SuccessTable, summarise
from circuits.edits.methods.run import EditOutcome
from locate.edit import EditRun
from locate.edited import DELTA, Edited, origin
from locate.looks.look import Look, Table, page
from locate.looks.says import says
from locate.report import number

OWNED = (DELTA, "requests.jsonl", "summary.md")
"""What an earlier run may have left in the folder."""
MOST_SHOWN = 8


def owned_in(folder: Path | None) -> tuple[str, ...]:
    """What an earlier run may have left there, edits that stand by themselves included."""
    numbered = "edit-[0-9][0-9][0-9][0-9].kc.safetensors"
    return OWNED if folder is None else (*OWNED, *(path.name for path in folder.glob(numbered)))


_LEGEND = (
    "tokens: share of the answer's tokens that are the argmax, teacher-forced (KnowEdit). "
    "likelihood: the wanted answer is likelier than its rival (CounterFact). generation: greedy "
    "text begins with the answer. In brackets: 95 % bootstrap intervals over requests. Locality, "
    "neighbours and other relations: the edited model says what the model said before; `correct`: "
    "it says what is true."
)


def edit_look(edited: Edited) -> Look:
    """One `kc edit`: how the requests fared, the delta and the requests as files."""
    run, method, model = edited.run, edited.method, edited.model.name
    table = run.table() if run.made else None
    first = run.outcomes[0]
    tables = []
    if table is not None:
        tables.append(measure_table(table, "after everything" if run.right_after else ""))
    if run.made and run.right_after:
        tables.append(measure_table(summarise(run.right_after), "right after each edit"))
    lines = [f"{method}: {_counted(run)}; layers {', '.join(map(str, edited.layers))}"]
    if edited.evidence:
        lines.append(f"why these layers: {edited.evidence}")
    if "moments" in first.provenance:
        lines.append(f"second moments: {_moments(first.provenance['moments'])}")
    if len(run.made) < len(run.final):
        made = f"{len(run.made)} of {len(run.final)}"
        lines.append(f"edits made: {made}; the others count as the model is without them")
    lines += [_said(score) for score in run.final[:MOST_SHOWN]]
    if table is not None:
        lines.append(side_effects(table))
    files = edited.writers()
    title = f"{method} in {model}"
    files["summary.md"] = lambda path: atomic_write(
        path, page(title, says(edited), lines, tables, _LEGEND)
    )
    return Look("edit", says(edited), edited.as_dict(), tables, lines, files)


def measure_table(table: SuccessTable, title: str = "") -> Table:
    """Measures down, scorings across."""
    rows = [
        (
            str(measure),
            _short(table.before[measure]["tokens"]),
            *(_cell(row[scoring]) for scoring in SCORINGS),
        )
        for measure, row in table.after.items()
    ]
    return Table(title, ("", "before", *SCORINGS), rows)


def side_effects(table: SuccessTable) -> str:
    """What the edits cost, in one line."""
    parts = [
        f"target's probability {_short(table.probability[0])} -> {_cell(table.probability[1])}",
        f"perplexity x{_cell(table.drift)}",
        f"norm of the change {_cell(table.change)} of the weight's",
    ]
    if np.isfinite(table.fluency[0].value):
        parts.append(f"fluency {_short(table.fluency[0])} -> {_cell(table.fluency[1])} bits")
    if np.isfinite(table.score):
        parts.append(f"CounterFact's score {table.score:.3f}")
    return "; ".join(parts)


def unlearn_look(outcome: EditOutcome, model: str, seed: int, growth: Mapping[str, Any]) -> Look:
    """One `kc unlearn`: loss and accuracy of both sets before and after."""
    details = outcome.details
    rows = [
        (
            name.replace("_", "-"),
            *(
                f"{details[name][when][what]:.3f}" if when in details[name] else ""
                for what in ("loss", "accuracy")
                for when in ("before", "after")
            ),
        )
        for name in ("forget", "retain", "held_out")
        if name in details
    ]
    header = ("", "loss before", "after", "token accuracy before", "after")
    table = Table("", header, rows)
    kept = details.get("retain_kept")
    margin = outcome.provenance.get("settings", {}).get("margin")
    lines = [f"{outcome.method}: {outcome.status}" + (f", {outcome.reason}" * bool(outcome.reason))]
    if kept is not None:
        word = "within" if kept else "NOT within"
        lines.append(f"the retain set's accuracy is {word} {margin} of what it was")
    if details.get("retain", {}).get("after") and "held_out" not in details:
        lines.append("the retain set is trained on; `held_out` scores texts that are not")
    summary = {
        "model": model,
        "method": outcome.method,
        "status": str(outcome.status),
        "layers": list(outcome.layers),
        "retain_kept": kept,
        "norm": None if outcome.delta is None else number(outcome.delta.norm()),
        "weights": {name: dict(sizes) for name, sizes in growth.items()},
        "details": plain(dict(details)),
        "provenance": origin(outcome.provenance, seed),
        "warnings": [outcome.reason] if outcome.reason else [],
    }
    files: dict[str, Callable[[Path], Any]] = {}
    if outcome.delta is not None:
        fared = {name: summary[name] for name in ("status", "retain_kept", "details")}
        files[DELTA] = outcome.delta.judged(fared).save
    title = f"{outcome.method} in {model}"
    files["summary.md"] = lambda path: atomic_write(
        path, page(title, says(outcome), lines, [table])
    )
    return Look("unlearn", says(outcome), summary, [table], lines, files)


def _counted(run: EditRun) -> str:
    return ", ".join(f"{count} {status}" for status, count in run.counts().items())


def _moments(source: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{source[key]}" for key in ("kind", "corpus", "file", "tokens") if source.get(key)
    )


def _said(score: RequestScore) -> str:
    before, after = (repr(text.strip()) for text in score.reply)
    return (
        f"{score.request.text} {before} -> {after} (wanted {score.request.target!r}: "
        f"probability {score.probability[0]:.3g} -> {score.probability[1]:.3g})"
    )


def _cell(value: Interval) -> str:
    return "" if not np.isfinite(value.value) else str(value)


def _short(value: Interval) -> str:
    return "" if not np.isfinite(value.value) else f"{value.value:.3g}"
