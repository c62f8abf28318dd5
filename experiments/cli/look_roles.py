"""`kc roles`: what is printed and stored of the heads' roles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.model.model import Model
from experiments.cli.finding import Look, Table, describe
from locate.examples import Examples
from locate.heads.prompt_heads import HeadsOnPrompts, PromptHeads, read_prompts
from locate.heads.roles import HeadRole, RoleReport
from locate.heads.span_roles import SpanRoles

FILES = ("roles.kc.safetensors", "heads.kc.safetensors")
UNLABELLED = 5
"""Heads that are shown where none has a role."""


def on_prompts(model: Model, report: RoleReport, examples: Examples) -> list[PromptHeads]:
    """The labelled heads, or the strongest where none has a role, on the first few prompts."""
    heads = [head.name for head in report.labelled or report.heads[:UNLABELLED]]
    return read_prompts(model, examples.pairs, heads, report.roles)


def roles(report: RoleReport, examples: Examples, shown: Sequence[PromptHeads] = ()) -> Look:
    """The labelled heads with their evidence; the strongest ones where no head has a role.

    `shown` are the heads on a few prompts.
    """
    report = replace(report, provenance={**report.provenance, "relation": examples.name})
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
    files: dict[str, Callable[[Path], Any]] = {"roles.kc.safetensors": report.save}
    if shown:
        files["heads.kc.safetensors"] = HeadsOnPrompts(tuple(shown)).save
    return Look(
        summary,
        tables=(table,),
        lines=(describe(examples), *nothing),
        files=files,
    )


def roles_by_span(report: SpanRoles, examples: Examples) -> Look:
    """Heads by the spans of a task; the strongest ones where no head has a role."""
    summary = {
        "model": report.provenance["model"],
        "relation": examples.name,
        "pairs": len(examples.pairs),
        **report.as_dict(),
    }
    nothing = () if report.labelled else ("no head meets the criterion of a role",)
    table = Table("", *report.table())
    return Look(summary, tables=(table,), lines=(describe(examples), *nothing))


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
