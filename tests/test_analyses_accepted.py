"""Of the answers that a fact accepts an analysis takes the one that the model does best on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from circuits.base.plain import plain
from circuits.facts.demonstrations import Style
from circuits.facts.facts import Relation, relation
from circuits.facts.knowledge import in_best_words, known_facts
from experiments.analyses.engine.context import Context
from experiments.analyses.hallucination.recall import find_cases, says
from experiments.analyses.icl.prompts import shots_of
from experiments.analyses.mechanisms import analysis as mechanisms

pytestmark = pytest.mark.slow

CAPITALS = relation("country_capital")
TEMPLATE = CAPITALS.templates[0]


@pytest.fixture(scope="module")
def usual(context: Context) -> Relation:
    """Capitals that the model knows."""
    check = known_facts(context.model, CAPITALS, [TEMPLATE])
    return replace(CAPITALS, facts=tuple(question.fact for question in check.known[:24]))


def renamed(usual: Relation) -> Relation:
    """The same, with words for objects that nobody says, and the usual names as aliases."""
    facts = (
        replace(f, object=f"Zz{f.object[::-1].lower()}", aliases=(f.object,)) for f in usual.facts
    )
    return replace(usual, facts=tuple(facts))


def test_the_usual_name_is_taken_where_the_object_has_another(
    context: Context, usual: Relation
) -> None:
    assert in_best_words(context.model, renamed(usual), TEMPLATE) == usual
    assert in_best_words(context.model, usual, TEMPLATE) is usual


def test_facts_after_examples_are_the_same(context: Context, usual: Relation) -> None:
    asked = (TEMPLATE, Style.SENTENCE, (0, 2), 8, 0)
    plainly, aliased = (shots_of(context.model, each, *asked) for each in (usual, renamed(usual)))
    assert plainly == aliased


def test_a_probe_is_answered_by_any_accepted_name(
    context: Context, usual: Relation, tmp_path: Path
) -> None:
    found = []
    for name, each in {"usual": usual, "renamed": renamed(usual)}.items():
        path = tmp_path / f"{name}.jsonl"
        records = [
            {
                "subject": fact.subject,
                "object": fact.object,
                "aliases": list(fact.aliases),
                "relation": "capital",
                "prompt": TEMPLATE,
            }
            for fact in each.facts
        ]
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        asked = Context("facts-gpt2", tmp_path / name, facts=str(path))
        config = mechanisms.Config(relations=("capital",), facts=12, pairs=4, steps=1)
        found.append(plain(mechanisms.compute(asked, config, "exact: capital")))
        cloze = plain(mechanisms.compute(asked, config, "cloze: capital"))
        assert all(cloze["top"])
        assert all(cloze["right"])
        assert cloze["circuit"]
    assert found[0] == found[1]


def test_a_case_is_right_by_what_the_model_says(context: Context) -> None:
    model, wordings = context.model, (*CAPITALS.templates[:3], "{} =")
    found = find_cases(model, renamed(CAPITALS), wordings, 8, demonstrations=0)
    assert len(found.cases) == 8
    assert says(model, [each.right for each in found.cases], 4) == [
        each.answer for each in found.cases
    ]
    assert not any(each.fact.object.startswith("Zz") for each in found.cases)
