"""`kc roles`: what is printed and stored of the heads' roles."""

from __future__ import annotations

from typing import Any

from circuits.store import save_arrays
from experiments.examples import Examples
from experiments.look import Look, Table, describe
from locate.roles import HeadRole, RoleReport

FILES = ("roles.kc.safetensors",)
UNLABELLED = 5
"""Heads that are shown where none has a role."""


def roles(report: RoleReport, examples: Examples) -> Look:
    """The labelled heads with their evidence; the strongest ones where no head has a role."""
    summary: dict[str, Any] = {
        "model": report.provenance["model"],
        "relation": examples.name,
        "pairs": len(examples.pairs),
        **report.as_dict(),
    }
    heads = report.labelled or report.heads[:UNLABELLED]
    regions = [str(region) for region in report.heads[0].weighted] if report.heads else []
    table = Table(
        "",
        ("head", "role", "score", *regions, "answer", "range", "writes", "ablation"),
        [_row(head) for head in heads],
    )
    nothing = () if report.labelled else ("no head meets the criterion of a role",)
    return Look(
        summary,
        tables=(table,),
        lines=(describe(examples), *nothing),
        files={
            "roles.kc.safetensors": lambda path: save_arrays(
                path, "roles", report.arrays(), summary
            )
        },
    )


def _row(head: HeadRole) -> tuple[str, ...]:
    return (
        head.name,
        str(head.role),
        f"{head.score:.2f}",
        *(f"{share:.2f}" for share in head.weighted.values()),
        f"{head.answer_gain.value:.2f}",
        f"{head.range_gain.value:.2f}",
        " ".join(word.strip() for word in head.written),
        "" if head.check is None else str(head.check.verdict),
    )
