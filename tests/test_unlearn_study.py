"""The study of unlearning: its sets do not overlap, and its scores are the model's own."""

from __future__ import annotations

import pytest

from circuits.base.choices import UnlearnMethod
from circuits.edits.parts.examples import fact_examples
from circuits.facts.facts import atlas
from circuits.model.model import Model, load
from experiments.studies.unlearn_study import FORGET, RETAIN, SETS, Draw, draw, one, rows, scores


@pytest.fixture(scope="module")
def model() -> Model:
    return load("facts-gpt2", device="cpu")


@pytest.fixture(scope="module")
def drawn() -> Draw:
    relations = [atlas()[name] for name in ("country_capital", "animal_class", "verb_past")]
    return draw(fact_examples(relations), 3, 20, seed=0)


def test_no_subject_stands_in_two_sets_and_other_wordings_are_of_the_facts_to_forget(drawn: Draw):
    subjects = [{each.subject for each in part} for part in drawn.sets().values()]
    forget, reworded, retain, unseen = subjects
    assert forget == reworded
    assert forget.isdisjoint(retain | unseen)
    assert retain.isdisjoint(unseen)
    assert {each.text for each in drawn.forget}.isdisjoint(each.text for each in drawn.reworded)
    facts = {(each.relation, each.subject, each.answer) for each in drawn.forget}
    assert {(each.relation, each.subject, each.answer) for each in drawn.reworded} == facts


def test_unlearning_lowers_the_forget_set_and_leaves_the_model_as_it_was(model: Model, drawn: Draw):
    before = scores(model, drawn.retain)
    result = one(model, UnlearnMethod.GA_GD, drawn, seed=0)
    assert result["after"][FORGET] < 0.3 < 0.9 < result["before"][FORGET]
    assert result["after"][RETAIN] > 0.9
    assert set(result["after"]) == set(SETS)
    assert scores(model, drawn.retain) == before


def test_a_row_holds_the_means_over_the_draws():
    def result(after: float) -> dict[str, object]:
        return {
            "model": "m",
            "method": "ga",
            "before": dict.fromkeys(SETS, 1.0),
            "after": dict.fromkeys(SETS, after),
        }

    ((model, method, *cells, n),) = rows([result(0.25), result(0.75)])
    assert (model, method, n) == ("m", "ga", "2")
    assert all(cell.startswith("1.000 -> 0.500 [") for cell in cells)
