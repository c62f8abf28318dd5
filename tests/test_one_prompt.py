"""Laws of asking one prompt: nothing off is the model, edits leave no trace, mistakes are named."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from circuits.base.errors import OptionError, PromptError
from circuits.base.intervals import FEWEST
from circuits.graph.circuit import Circuit
from circuits.graph.noise import corrupted_subject
from circuits.model.model import Model, load
from locate.ask import (
    PARTNERS,
    Question,
    answers,
    ask,
    edit_fact,
    find_circuit,
    head_view,
    without,
)
from viz.app.details import edge_details

PROMPT, SUBJECT, ANSWER = "The capital city of South Korea is called", "South Korea", "Seoul"


@pytest.fixture(scope="module", params=["facts-gpt2", "facts-llama"])
def facts(request) -> Model:
    return load(request.param, device="cpu")


@pytest.fixture(scope="module")
def question(facts) -> Question:
    return ask(facts, PROMPT, SUBJECT, ANSWER)


def test_partners_ask_the_same_of_other_subjects_with_other_answers(facts, question):
    assert 2 <= len(question.pairs) <= PARTNERS
    assert question.relation == "country_capital"
    assert len({pair.text.corrupted for pair in question.pairs}) == len(question.pairs)
    for pair in question.pairs:
        assert pair.text.clean == PROMPT
        assert SUBJECT not in pair.text.corrupted
        assert pair.answer != pair.foil
        assert len(pair.clean) == len(pair.corrupted)
    assert ask(facts, PROMPT, SUBJECT, ANSWER) == question


def test_a_question_outside_the_atlas_takes_the_models_own_words_as_foils(facts):
    found = ask(facts, "South Korea lies in", "South Korea", "Asia")
    assert len(found.pairs) >= 2
    assert all(pair.foil != pair.answer for pair in found.pairs)


@pytest.mark.parametrize(
    ("prompt", "subject", "answer"),
    [("The capital of France is", "Spain", "Paris"), ("", "x", "y"), (PROMPT, SUBJECT, "")],
)
def test_a_question_that_cannot_be_asked_is_refused(facts, prompt, subject, answer):
    with pytest.raises((PromptError, OptionError)):
        ask(facts, prompt, subject, answer)


@pytest.mark.parametrize(
    ("prompt", "nth"), [("In France, the capital of {} is", 2), ("The capitals of {}s are", 1)]
)
def test_a_typed_contrast_tells_where_the_subject_stands(facts, prompt, nth):
    """Named twice, or with an ending; the edit is of the same place."""
    prompt, against = (prompt.replace("{}", each) for each in ("France", "Japan"))
    with pytest.raises(PromptError):
        ask(facts, prompt, "France", "Paris")
    found = ask(facts, prompt, "France", "Paris", against=against, foil="Tokyo")
    assert found.pairs[0].subject == found.pairs[0].clean.span_of("France", nth)
    assert corrupted_subject(found.pairs[0].text) == "Japan"


def test_nothing_off_is_the_model_and_everything_off_is_the_corrupted_prompt(facts, question):
    whole = answers(facts, question)
    assert whole.tokens[0].strip() == ANSWER
    assert whole.place == 0
    assert list(whole.probabilities) == sorted(whole.probabilities, reverse=True)
    same = answers(facts, question, without(facts))
    assert same.probability == pytest.approx(whole.probability, abs=1e-5)
    pair = question.pairs[0]
    corrupted = facts.last_logits(torch.tensor([pair.corrupted.ids]))[0].softmax(-1)
    none = answers(facts, question, Circuit.empty(facts.wiring()))
    assert none.probability == pytest.approx(float(corrupted[pair.answer]), abs=1e-5)


@pytest.mark.slow
def test_a_node_that_is_off_loses_all_edges_that_leave_it_and_no_other(facts):
    left = without(facts, ["a6.h1"], ["m2->logits"])
    cut = {facts.wiring().edge_name(edge) for edge in np.flatnonzero(~left.kept)}
    assert "m2->logits" in cut
    assert {name.partition("->")[0] for name in cut} == {"a6.h1", "m2"}
    assert sum(name.startswith("m2") for name in cut) == 1
    names = (facts.wiring().edge_name(edge) for edge in range(facts.wiring().n_edges))
    assert sum(name.startswith("a6.h1->") for name in names) == len(cut) - 1


@pytest.mark.parametrize("name", ["a99.h0", "input", "logits", "a0.h0<q>", "nonsense"])
def test_what_a_model_has_not_cannot_be_switched_off(facts, name):
    with pytest.raises(OptionError):
        without(facts, [name])


def test_the_circuit_has_an_interval_and_a_stability_for_every_edge(facts):
    question = ask(facts, "The capital of Portugal is", "Portugal", "Lisbon")
    assert len(question.pairs) == PARTNERS
    circuit = find_circuit(facts, question, n_edges=80)
    assert 0 < circuit.n_edges <= 80
    low, high = circuit.columns["low"], circuit.columns["high"]
    assert (low <= circuit.scores.values + 1e-4).all()
    assert (circuit.scores.values <= high + 1e-4).all()
    assert ((circuit.columns["inclusion"] >= 0) & (circuit.columns["inclusion"] <= 1)).all()
    assert circuit.provenance["prompt"] == question.prompt


def test_a_circuit_of_few_partners_has_no_intervals_and_says_so(facts, question):
    circuit = find_circuit(facts, question, n_edges=80)
    assert len(question.pairs) < FEWEST
    assert not {"low", "high", "inclusion"} & circuit.columns.keys()
    assert circuit.provenance["prompt"] == PROMPT
    details = str(edge_details(circuit, circuit.edge_names()[0]))
    assert f"none: {len(question.pairs)} pairs are too few to resample" in details


def test_a_heads_view_sums_to_one_and_its_loss_is_that_of_its_edges(facts, question):
    view = head_view(facts, question, "a6.h1")
    assert len(view.attention) == len(view.tokens) == len(question.pairs[0].clean)
    assert view.attention.sum() == pytest.approx(1, abs=1e-4)
    assert view.weighted.sum() == pytest.approx(1, abs=1e-4)
    assert (view.weighted >= 0).all()
    cut = answers(facts, question, without(facts, ["a6.h1"]))
    assert view.without == cut
    for wrong in ("m2", "a6.h99", "x"):
        with pytest.raises(OptionError, match="no head"):
            head_view(facts, question, wrong)


@pytest.mark.slow
def test_an_edit_answers_with_its_target_and_leaves_the_weights_bit_for_bit(facts, question):
    before = {name: facts.parameter(name).clone() for name in facts.parameter_names}
    steps: list[tuple[str, int, int]] = []

    @contextmanager
    def stages(title):
        yield lambda *step: steps.append((title, *step))

    trial = edit_fact(facts, question, "Tokyo", stages=stages)
    assert trial.before.tokens[0].strip() == ANSWER
    assert trial.after.tokens[0].strip() == "Tokyo"
    assert all(torch.equal(facts.parameter(name), value) for name, value in before.items())
    assert len({title for title, *_ in steps}) == 2, "the edit and its circuit say how far they are"
    with pytest.raises(OptionError, match="already"):
        edit_fact(facts, question, ANSWER)
