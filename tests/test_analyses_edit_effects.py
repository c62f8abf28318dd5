"""Edits and circuits: an edit of nothing changes nothing, and the report follows the numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base import plain
from circuits.base.errors import OptionError
from circuits.edits.edit import WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.facts.facts import atlas, relation
from experiments.analyses.edit_effects.analysis import (
    ANALYSIS,
    Config,
    candidates,
    chosen_layers,
    compute,
    steps,
)
from experiments.analyses.edit_effects.measures import EDITED, EditedFact
from experiments.analyses.edit_effects.numbers import (
    correlation,
    numbers,
    over_facts,
    rows_of,
    separation,
    swing,
    within,
)
from experiments.analyses.edit_effects.prompts import prompts_of, request_of, say
from experiments.analyses.engine.base import SkipError
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.groups import HEADS, MOVERS

pytestmark = pytest.mark.slow

RELATION = "country_capital"
KEY = "fact 1"
QUICK = Config(
    relations=(RELATION,), facts=1, methods=(EditMethod.FT_M,), partners=3, steps=1, role_pairs=4
)


@pytest.fixture(scope="module")
def parts(context: Context) -> dict[str, Any]:
    return {KEY: plain.plain(compute(context, QUICK, KEY))}


# --- requests and prompts ------------------------------------------------------------------------


def test_each_number_edits_another_subject_that_the_model_knows(context: Context) -> None:
    made = [request_of(context.model, relation("element_phase"), n, 0) for n in range(3)]
    assert len({each.subject for each in made if each}) == 3
    for each in made:
        assert each is not None
        assert each.ground_truth in relation("element_phase").objects_of(each.subject)
        assert each.target in relation("element_phase").objects()
        assert each.target != each.ground_truth
    again = request_of(context.model, relation("element_phase"), 1, 0)
    assert again == made[1]


def test_prompts_beside_the_edit_do_not_ask_for_it(context: Context) -> None:
    found = relation("country_language")
    request = request_of(context.model, found, 0, 0)
    assert request is not None
    asked = prompts_of(context.model, request, found, atlas().values(), 6, 0)
    by_kind = {
        kind: [each for each in asked if each.kind == kind] for kind in ("edit", "neighbour")
    }
    assert len(by_kind["edit"]) == 1
    assert by_kind["edit"][0].prompt.text == request.text
    assert 2 <= len(by_kind["neighbour"]) <= 6
    assert all(request.subject not in each.prompt.text for each in by_kind["neighbour"])
    own = [each for each in asked if each.kind in ("paraphrase", "same subject")]
    assert own
    assert all(request.subject in each.prompt.text for each in own)
    said = say(context.model, asked)
    assert said.best[0] == by_kind["edit"][0].old
    assert ((said.old >= 0) & (said.old + said.new <= 1 + 1e-6)).all()


def test_units_take_turns_among_relations(context: Context) -> None:
    names = ("country_capital", "verb_past")
    config = Config(relations=names, facts=5)
    assert steps(context, config) == [f"fact {at}" for at in range(1, 6)]
    found = [candidates(context, config, at) for at in range(5)]
    assert all(len(each) == 1 for each in found)
    assert sorted(number for ((_, number),) in found) == [0, 0, 1, 1, 2]
    assert {name for ((name, _),) in found} == set(names)


def test_a_unit_goes_on_to_a_relation_that_the_model_knows(context: Context, monkeypatch) -> None:
    config = replace(QUICK, relations=(), facts=4)
    every = [candidates(context, config, at) for at in range(4)]
    assert sorted(name for each in every for name, _ in each) == sorted(context.names())
    asked = []

    def none_but_capitals(context: Context, config: Config, name: str, number: int) -> dict:
        asked.append(name)
        if name != "country_capital":
            raise SkipError(f"{name}: unknown")
        return {"name": name}

    monkeypatch.setattr("experiments.analyses.edit_effects.analysis._of_fact", none_but_capitals)
    (own,) = [at for at in range(4) if ("country_capital", 0) in every[at]]
    assert compute(context, config, f"fact {own + 1}") == {"name": "country_capital"}
    assert asked == [name for name, _ in every[own]][: len(asked)]
    other = (own + 1) % 4
    with pytest.raises(SkipError) as refused:
        compute(context, config, f"fact {other + 1}")
    assert all(f"{name}: unknown" in str(refused.value) for name, _ in every[other])


def test_layers_that_the_model_lacks_are_refused(context: Context) -> None:
    early, usual, late = chosen_layers(context.model, Config())
    assert early < usual < late < context.model.n_layers
    for layers in ((1, 2), (0, 2, 99)):
        with pytest.raises(OptionError, match="layers takes three"):
            steps(context, Config(layers=layers))


# --- measures ------------------------------------------------------------------------------------


def test_an_edit_of_nothing_changes_nothing(context: Context) -> None:
    found = relation(RELATION)
    request = request_of(context.model, found, 0, 0)
    assert request is not None
    fact = EditedFact(
        context.model,
        request,
        found,
        [],
        {"a6.h1": "mover"},
        partners=3,
        neighbours=2,
        steps=1,
        seed=0,
        batch_size=16,
    )
    effect = fact.measured(WeightDelta({}), 2)
    assert effect["jaccard"] == effect["node_jaccard"] == 1.0
    assert effect["dissimilarity"] == effect["changed"] == 0
    assert effect["rates"] == fact.unedited()["known"]
    assert all(value == 0 for value in effect["swing"].values())
    assert effect["switched"] in (0.0, None)
    assert sum(fact.mass) == pytest.approx(1.0)
    # What comes out right only now was not kept: here every right answer is lost, and others won.
    old = np.array([each.old for each in fact.asked])
    right = fact.said.best == old
    turned = fact._rates(replace(fact.said, best=np.where(right, -1, old)))
    for kind, rates in turned.items():
        rows = [row for row, each in enumerate(fact.asked) if each.kind == kind]
        assert rates["old"] == 1 - right[rows].mean()
        assert rates["kept"] == (0 if right[rows].any() else None)


def test_the_edits_leave_the_model_as_it_was(context: Context, parts: dict[str, Any]) -> None:
    assert "edits" not in context.model.provenance
    known = parts[KEY]["unedited"]["known"]["edit"]
    assert known["old"] == 1.0


def test_edits_at_the_usual_layer_say_the_new_object(parts: dict[str, Any]) -> None:
    rows = {row.place: row for row in rows_of(parts)}
    assert rows["usual"].success == 1.0
    assert rows["usual"].probability > rows["usual"].before("edit", "p_new")
    assert rows["usual"].of("dissimilarity") > rows["usual"].of("dissimilarity", "control")


# --- numbers -------------------------------------------------------------------------------------


def test_separation_is_one_half_where_the_score_says_nothing() -> None:
    success = np.array([1.0, 0.0, 1.0, 0.0])
    assert separation(np.array([4.0, 1.0, 3.0, 2.0]), success) == 1.0
    assert separation(np.array([1.0, 4.0, 2.0, 3.0]), success) == 0.0
    assert separation(np.ones(4), success) == 0.5
    assert np.isnan(separation(np.arange(4.0), np.ones(4)))


def test_rank_correlation_is_blind_to_monotone_changes() -> None:
    values = np.random.default_rng(0).random(9)
    assert correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert correlation(values, -(values**3)) == pytest.approx(-1.0)
    assert np.isnan(correlation(values, np.ones(9)))


def several(parts: dict[str, Any], n: int = 6) -> dict[str, Any]:
    return {f"fact {at + 1}": copy.deepcopy(parts[KEY]) for at in range(n)}


def test_within_a_layer_only_facts_differ(parts: dict[str, Any]) -> None:
    many = several(parts)
    for place, part in enumerate(many.values()):
        for each in part["edits"]:
            each["in_circuit"] = 0.1 * place
            each["effect"]["rates"]["edit"]["p_new"] = 0.05 * place
    rows = rows_of(many)
    assert within(rows, correlation) == pytest.approx(1.0)
    assert np.isnan(within(rows_of(parts), correlation))
    whole = over_facts(rows, lambda some: float(numbers(some, lambda row: row.layer).mean()))
    assert whole.low == whole.value == whole.high  # all facts are edited at the same layers


# --- the report ----------------------------------------------------------------------------------


def test_the_verdict_on_mover_heads_turns_with_the_numbers(parts: dict[str, Any]) -> None:
    def verdict(own: float, beside: float) -> Verdict:
        many = several(parts)
        for part in many.values():
            for each in part["edits"]:
                each["effect"]["switched"], each["control"]["switched"] = own, beside
        return ANALYSIS.report(QUICK, many).answer[0].verdict

    assert verdict(0.9, 0.1) is Verdict.SUPPORTED
    assert verdict(0.1, 0.9) is Verdict.OPPOSITE
    assert verdict(0.5, 0.5) is Verdict.NO_EVIDENCE


def test_facts_without_mover_heads_say_nothing_of_kinds_of_heads(parts: dict[str, Any]) -> None:
    many = several(parts)
    many["fact 1"]["unedited"]["movers"] = 0
    rows = rows_of(many)
    for group in (MOVERS, HEADS):
        own = numbers(rows, swing(group))
        assert [row.fact for row, value in zip(rows, own, strict=True) if np.isnan(value)] == [
            row.fact for row in rows if row.fact == "fact 1"
        ]
    assert np.isfinite(numbers(rows, swing(EDITED))).all()


def test_failed_edits_count_as_failures(parts: dict[str, Any]) -> None:
    many = several(parts)
    for part in many.values():
        for each in part["edits"]:
            each["effect"] = each["control"] = None
    report = ANALYSIS.report(QUICK, many)
    assert "0 % at the usual layer" in report.lead
    assert all(row.success == 0.0 for row in rows_of(many))


def test_the_report_draws_its_figures(parts: dict[str, Any], tmp_path: Path) -> None:
    figures = ANALYSIS.report(QUICK, several(parts, 3)).figures
    assert {figure.name for figure in figures} == {"success", "ranks", "writers"}
    for figure in figures:
        figure.draw(tmp_path / f"{figure.name}.svg")
        assert (tmp_path / f"{figure.name}.svg").stat().st_size > 2000
