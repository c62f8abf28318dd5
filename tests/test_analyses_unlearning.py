"""The study of unlearning: its sets do not overlap, and its scores are the model's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuits.base.choices import UnlearnMethod
from circuits.base.intervals import bootstrap, mean
from circuits.edits.parts.examples import Example, fact_examples
from circuits.facts.facts import atlas
from circuits.model.model import Model, load
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.unlearning.analysis import (
    Config,
    accuracy,
    draw,
    scores,
    seed_of,
    unlearned,
)
from experiments.analyses.unlearning.report import (
    FORGET,
    RETAIN,
    REWORDED,
    SETS,
    UNSEEN,
    report,
)

Sets = dict[str, list[Example]]


@pytest.fixture(scope="module")
def model() -> Model:
    return load("facts-gpt2", device="cpu")


@pytest.fixture(scope="module")
def drawn() -> Sets:
    relations = [atlas()[name] for name in ("country_capital", "animal_class", "verb_past")]
    return draw(fact_examples(relations), relations, 3, 20, seed=0)


def test_no_subject_stands_in_two_sets_and_other_wordings_are_of_the_facts_to_forget(drawn: Sets):
    forget, reworded, retain, unseen = ({each.subject for each in drawn[name]} for name in SETS)
    assert forget == reworded
    assert forget.isdisjoint(retain | unseen)
    assert retain.isdisjoint(unseen)
    assert {each.text for each in drawn[FORGET]}.isdisjoint(each.text for each in drawn[REWORDED])
    facts = {(each.relation, each.subject, each.answer) for each in drawn[FORGET]}
    assert {(each.relation, each.subject, each.answer) for each in drawn[REWORDED]} == facts


def test_relations_without_held_out_wordings_have_none_of_them():
    capitals, classes = atlas()["country_capital"], atlas()["animal_class"]
    relations = [replace(capitals, held_out=()), classes]
    asked = fact_examples(relations)
    found = draw(asked, relations, 20, 20, seed=0)
    assert {each.relation for each in found[FORGET]} == {"country_capital", "animal_class"}
    assert {each.relation for each in found[REWORDED]} == {"animal_class"}
    bare = [replace(each, held_out=()) for each in relations]
    assert draw(asked, bare, 20, 20, seed=0)[REWORDED] == []


def test_another_seed_has_other_draws():
    """Consecutive seeds shared all draws but one where these were the seed and those after it."""
    seeds = [[seed_of(seed, f"draw {n}") for n in range(1, 11)] for seed in range(4)]
    assert len({each for draws in seeds for each in draws}) == 40
    assert seeds[0] == [seed_of(0, f"draw {n}") for n in range(1, 11)]


def test_unlearning_lowers_the_forget_set_and_leaves_the_model_as_it_was(model: Model, drawn: Sets):
    before, kept = accuracy(model, drawn), scores(model, drawn[RETAIN])
    after = unlearned(model, UnlearnMethod.GA_GD, drawn, seed=0)["after"]
    assert after[FORGET] < 0.3 < 0.9 < before[FORGET]
    assert after[RETAIN] > 0.9
    assert set(after) == set(before) == set(SETS)
    assert scores(model, drawn[RETAIN]) == kept


def test_a_row_holds_the_means_over_the_draws_and_a_claim_its_control():
    def part(after: float, unseen: float) -> dict[str, object]:
        left = {**dict.fromkeys(SETS, after), RETAIN: 1.0, UNSEEN: unseen}
        result = {"method": "ga", "status": "done", "after": left}
        diverged = {"method": "ga-gd", "status": "diverged", "after": None}
        return {"before": dict.fromkeys(SETS, 1.0), "methods": [result, diverged]}

    after = [0.25, 0.75, 0.5, 0.25, 0.5]
    found = report(Config(), {str(n): part(each, 0.9) for n, each in enumerate(after)})
    unedited, row, empty = found.tables[0].rows
    assert [cell.value for cell in unedited[1:5]] == [1.0] * 4
    assert row[1] == bootstrap(mean, np.array(after), seed=0)
    assert (row[0], row[-1]) == ("GA", "5 done")
    assert (empty[0], empty[-1]) == ("GA+GD", "5 diverged")
    assert [cell.value for cell in empty[1:5]] == [1.0] * 4
    kept, nothing = found.answer
    assert kept.verdict is Verdict.SUPPORTED
    assert kept.sentence.startswith("GA loses more of facts that it never saw than of the facts to")
    assert nothing.verdict is Verdict.NO_EVIDENCE


def test_a_set_that_is_empty_in_one_draw_has_the_mean_of_the_others():
    def part(after: float) -> dict[str, object]:
        left = {**dict.fromkeys(SETS, 0.5), REWORDED: after}
        made = {"method": "ga", "status": "done", "after": left}
        return {"before": {**dict.fromkeys(SETS, 1.0), REWORDED: 1.0}, "methods": [made]}

    found = report(Config(), {str(n): part(x) for n, x in enumerate((0.2, 0.4, float("nan")))})
    _, row = found.tables[0].rows
    assert row[1 + SETS.index(REWORDED)].value == pytest.approx(0.3)
    none = report(Config(), {"1": part(float("nan"))})
    assert np.isnan(none.tables[0].rows[1][1 + SETS.index(REWORDED)].value)


def test_a_draw_that_came_to_nothing_counts_as_the_unedited_model():
    """Of four draws one diverged, where 0.8 was right before: (0.2 + 0.2 + 0.4 + 0.8) / 4 = 0.4."""

    def part(after: float | None) -> dict[str, object]:
        left = None if after is None else dict.fromkeys(SETS, after)
        status = "diverged" if after is None else "done"
        made = {"method": "ga", "status": status, "after": left}
        return {"before": dict.fromkeys(SETS, 0.8), "methods": [made]}

    found = report(Config(), {str(n): part(x) for n, x in enumerate((0.2, 0.2, 0.4, None))})
    _, row = found.tables[0].rows
    assert row[1].value == pytest.approx(0.4)
    assert row[-1] == "3 done, 1 diverged"
    assert found.answer[0].n == 4
    assert any("counts with the unedited" in text for text in found.method)
