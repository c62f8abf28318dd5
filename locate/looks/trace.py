"""What a trace of one prompt, or an average over facts, says and stores."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.base.choices import TraceKind
from circuits.base.display import drawn
from circuits.base.intervals import Interval, bootstrap, mean
from locate.looks.look import Look, Table, describe, warnings_of
from locate.looks.says import says
from locate.states.trace_result import Trace
from locate.states.trace_roles import AverageTrace, Place, PositionRole

FILES = ("trace.kc.safetensors", "trace.svg", "average_trace.kc.safetensors", "average_trace.svg")
WIDEST = 16
"""Most layers in a printed table."""


def prompt_trace(found: Trace) -> Look:
    """One prompt's trace: its ten largest effects, the arrays and the heat maps."""
    rows = sorted(found.rows(), key=lambda row: -row["effect"])[:10]
    summary = {
        "model": found.provenance["model"],
        **found.metadata(),
        "p_corrupted": found.p_corrupted,
        "total_effect": found.total_effect,
        "effects": {str(kind): found.effect(kind).tolist() for kind in found.kinds},
        "warnings": warnings_of(found.provenance),
    }
    table = Table(
        "largest indirect effects:",
        ("kind", "layer", "token", "effect", "standard error"),
        [(r["kind"], str(r["layer"]), r["token"], f"{r['effect']:.4f}", _error(r)) for r in rows],
    )

    return Look(
        "trace",
        says(found),
        summary,
        tables=(table,),
        lines=(f"p clean {found.p_clean:.4f}, p corrupted {found.p_corrupted:.4f}",),
        files={
            "trace.kc.safetensors": found.save,
            "trace.svg": lambda path: drawn(found, path, title=found.prompt),
        },
    )


def average_trace(found: AverageTrace) -> Look:
    """The average over facts: a table a kind of state, its peaks, the arrays, the heat maps."""
    origin = found.provenance
    model, relation = origin["model"], origin.get("relation")
    ends = found.p_clean, found.p_corrupted
    clean, corrupted = (bootstrap(mean, each, groups=found.groups) for each in ends)
    peaks = _peaks(found)
    summary: dict[str, Any] = {
        "model": model,
        "relation": relation,
        "facts": len(found.p_clean),
        "counts": origin.get("counts"),
        "p_clean": clean.as_dict(),
        "p_corrupted": corrupted.as_dict(),
        "peaks": [
            {"kind": kind, "role": role, "layer": layer, **value.as_dict()}
            for kind, role, layer, value in peaks
        ],
        "effects": found.rows(),
        "warnings": warnings_of(origin),
        "provenance": dict(found.provenance),
    }

    peak_table = Table(
        "peaks by place:"
        if found.places
        else "peaks at the subject's last token (early site) and at the last token (late site):",
        ("state", "position", "layer", "effect"),
        [(kind.label, role, str(layer), str(value)) for kind, role, layer, value in peaks],
    )
    return Look(
        "average-trace",
        says(found),
        summary,
        tables=(*(_table(found, kind) for kind in found.kinds), peak_table),
        lines=(
            *describe(origin, len(found.p_clean)),
            f"{found.measure} clean {clean}, {found.measure} corrupted {corrupted}",
        ),
        files={
            "average_trace.kc.safetensors": found.save,
            "average_trace.svg": lambda path: drawn(found, path, title=found.heading()),
        },
    )


def _peaks(found: AverageTrace) -> list[tuple[TraceKind, PositionRole | Place, int, Interval]]:
    """Each kind's largest mean effect in the roles that are sites."""
    sites = [role for role in found.roles if role.is_site]
    peaks = [(kind, role, found.peak(kind, role)) for kind in found.kinds for role in sites]
    return [(kind, role, *peak) for kind, role, peak in peaks if peak is not None]


def _table(found: AverageTrace, kind: TraceKind) -> Table:
    """Mean effects, roles by layers, the peak of each site starred; not all of many layers."""
    effects = found.mean(kind)
    present = np.flatnonzero(found.counts)
    step = -(-effects.shape[1] // WIDEST)
    peaks = {role: int(effects[role].argmax()) for role in present if found.roles[role].is_site}
    shown = sorted({*range(0, effects.shape[1], step), *peaks.values()})
    rows = [
        (
            found.roles[role],
            str(found.counts[role]),
            *(_cell(effects[role, layer], peaks.get(role) == layer) for layer in shown),
        )
        for role in present
    ]
    return Table(
        f"{kind.label}: indirect effect by layer, the mean over {found.unit}s (* a site's peak):",
        ("position", f"{found.unit}s", *map(str, shown)),
        rows,
    )


def _cell(value: float, starred: bool) -> str:
    text = f"{round(float(value), 2) + 0.0:.2f}"  # + 0.0: no minus before a zero
    return text + "*" if starred else text


def _error(row: dict[str, Any]) -> str:
    return "" if row["standard_error"] != row["standard_error"] else f"{row['standard_error']:.4f}"
