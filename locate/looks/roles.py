"""What is printed and stored of heads: their roles, and what they do on a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuits.base.display import token_name
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from locate.heads.head_role import HeadRole
from locate.heads.heads_on_prompts import HeadsOnPrompts
from locate.heads.prompt_heads import read_prompts
from locate.heads.role_report import RoleReport
from locate.heads.span_roles import SpanRoles
from locate.looks.look import Look, Table, describe, warnings_of
from locate.looks.says import says

FILES = ("roles.kc.safetensors", "heads.kc.safetensors")
WITH_EXAMPLES = 3
"""Heads whose examples are printed."""
UNLABELLED = 5
"""Heads that are shown where none has a role."""


def on_prompts(model: Model, report: RoleReport, pairs: Sequence[TokenPair]) -> HeadsOnPrompts:
    """The labelled heads, or the strongest where none has a role, on the first few prompts."""
    heads = [head.name for head in report.labelled or report.heads[:UNLABELLED]]
    return HeadsOnPrompts(tuple(read_prompts(model, pairs, heads, report.roles)))


def roles(report: RoleReport | SpanRoles, shown: HeadsOnPrompts | None = None) -> Look:
    """The labelled heads with their evidence; the strongest ones where no head has a role.

    `shown` are the heads on a few prompts.
    """
    if isinstance(report, SpanRoles):
        return roles_by_span(report)
    origin = report.provenance
    summary: dict[str, Any] = {
        "model": origin["model"],
        "relation": origin.get("relation"),
        "pairs": origin["pairs"],
        "warnings": warnings_of(origin),
        **report.as_dict(),
    }
    heads = report.labelled or report.heads[:UNLABELLED]
    regions = [str(region) for region in report.heads[0].weighted] if report.heads else []
    table = Table(
        "",
        ("head", "role", "score", *regions, "answer", "range", "writes", "ablation"),
        [_row(head) for head in heads],
    ).first("roles.kc.safetensors (`--out`) and `--json`")
    checked = origin.get("checked_on") if report.baseline is not None else None
    notes = [] if checked is None else [f"labels are checked by ablation on {checked}"]
    told = [head.by_example for head in heads if head.by_example is not None]
    if told:
        notes.append(
            "writes: in how many pairs the answer, and the foil, are among the "
            f"{told[0].n_best} tokens that a head raises most"
        )
    return Look(
        "roles",
        says(report),
        summary,
        tables=(table, *_examples(heads)),
        lines=(*describe(origin, origin["pairs"]), *notes),
        files={
            "roles.kc.safetensors": report.save,
            **(on_prompts_look(shown).files if shown is not None and shown.prompts else {}),
        },
    )


def on_prompts_look(found: HeadsOnPrompts) -> Look:
    """Heads on single prompts: where each looks and what it raises."""
    return Look(
        "heads-on-prompts",
        says(found),
        {"model": found.provenance.get("model"), "heads": found.rows()},
        files={"heads.kc.safetensors": found.save},
    )


def roles_by_span(report: SpanRoles) -> Look:
    """Heads by the spans of a task; the strongest ones where no head has a role."""
    origin = report.provenance
    summary = {
        "model": origin["model"],
        "relation": origin.get("relation"),
        "pairs": origin["pairs"],
        "warnings": warnings_of(origin),
        **report.as_dict(),
    }
    table = Table("", *report.table())
    return Look(
        "roles-by-span",
        says(report),
        summary,
        tables=(table,),
        lines=describe(origin, origin["pairs"]),
    )


def _examples(heads: Sequence[HeadRole]) -> list[Table]:
    """What the first of the heads raise in single pairs; no table where no examples were kept."""
    rows = [
        (head.name, each.subject, token_name(each.answer), " ".join(map(token_name, each.best)))
        for head in heads[:WITH_EXAMPLES]
        if head.by_example is not None
        for each in head.by_example.examples
    ]
    title = "By example: the tokens that a head raises most, best first"
    return [Table(title, ("head", "subject", "answer", "raises most"), rows)] if rows else []


def _row(head: HeadRole) -> tuple[str, ...]:
    return (
        head.name,
        str(head.role),
        f"{head.score:.2f}",
        *(f"{share:.2f}" for share in head.weighted.values()),
        f"{head.answer_gain.value:.2f}",
        f"{head.range_gain.value:.2f}",
        head.writes,
        "" if head.check is None else str(head.check.verdict),
    )
