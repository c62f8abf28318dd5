"""Hallucination: facts that a model gets wrong in one wording and right in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuits.base.options import Options, option
from circuits.facts.facts import Relation
from experiments.analyses.engine.base import Analysis, Part, SkipError
from experiments.analyses.engine.config import relations_drawn
from experiments.analyses.engine.context import Context
from experiments.analyses.hallucination import look
from experiments.analyses.hallucination.recall import Cases, attributes, find_cases
from experiments.analyses.hallucination.repair import repair_by_component, repair_by_state
from experiments.analyses.hallucination.report import report


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    relations: tuple[str, ...] = option((), "relations to look at; none named: all", selects=True)
    most: int | None = relations_drawn()
    wordings: int = option(
        3, "training wordings to ask in, beside the held-out ones; 0: all", low=0
    )
    facts: int = option(8, "facts a relation that are followed, of those answered wrong", low=1)
    edge_facts: int = option(24, "facts a relation on which edges are compared", low=1)
    fewest: int = option(4, "relations with fewer such facts are counted, and not followed", low=1)
    demonstrations: int = option(3, "examples that help a fact that no wording gets right", low=0)
    partners: int = option(1, "corrupted subjects a fact, for the edges' scores", low=1)
    steps: int = option(3, "integration steps of EAP-IG", low=1)
    level: float = option(
        0.05, "false discovery rate at which an edge is called changed", low=0, high=1
    )
    components: tuple[int, ...] = option(
        (1, 2, 5, 10), "how many blamed components to transplant", low=1
    )
    draws: int = option(20, "random sets of as many components", low=1)
    role_pairs: int = option(
        24, "prompt pairs a relation from which roles of heads are read", low=1
    )


def steps(context: Context, config: Config) -> Sequence[str]:
    """The relations."""
    return context.names(config.relations, config.most)


def compute(context: Context, config: Config, key: str) -> Part:
    """One relation: its wrong answers, and what repairs them."""
    model, relation = context.model, context.relations[key]
    training = relation.templates[: config.wordings or None]
    wordings = tuple(dict.fromkeys((*training, *relation.held_out)))
    if not wordings:
        raise SkipError(f"{key} has no wordings of its own")
    others = list(context.relations.values())
    cases = find_cases(
        model,
        relation,
        wordings,
        max(config.facts, config.edge_facts),
        others=others,
        demonstrations=config.demonstrations,
        seed=context.seed,
        batch_size=2 * context.batch_size,
    )
    counts = {"facts": cases.facts, "recoverable": cases.recoverable, "never": cases.never}
    counts |= {"questions": cases.questions, "wrong": cases.wrong, "wordings": len(wordings)}
    if len(cases.cases) < config.fewest:
        return {"counts": counts, "followed": None}
    return {"counts": counts, "followed": _followed(context, config, key, cases, others)}


def _followed(
    context: Context, config: Config, key: str, found: Cases, others: Sequence[Relation]
) -> dict[str, Any]:
    """Edges on all cases found, which a test of so many needs; the rest on the first ones."""
    model, relation, seed = context.model, context.relations[key], context.seed
    size = context.batch_size
    every = look.paired(model, found.cases, relation, config.partners, seed)
    cases = replace(found, cases=found.cases[: config.facts])
    sides = every[: config.facts]
    roles = context.roles(key, config.role_pairs)
    true_of = attributes(relation, others)
    return {
        "kinds": look.kinds(cases),
        "chance_of_attribute": look.chance_of_attribute(model, cases, relation, true_of),
        "cases": look.records(model, cases, sides),
        "curves": look.curves(model, cases, seed),
        "roles": roles,
        "written": look.written(model, sides, size),
        "attention": look.attention_to_subject(model, sides, roles, size),
        "edges": look.edges(model, every[: config.edge_facts], config.steps, config.level, size),
        "states": repair_by_state(model, cases, seed, size),
        "components": repair_by_component(
            model, cases, config.components, config.draws, seed, size
        ),
    }


ANALYSIS = Analysis(
    name="hallucination",
    title="Where a known fact goes wrong",
    question="When a model gets a fact wrong that it can get right, where does its circuit fail?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=2,
)
