"""Laws of what the app finds while one waits: which question a result is of, how long it stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.facts.spans import batch_places
from circuits.files.kinds import KINDS
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.ask import Question, answers, without
from tests import results
from tests.oracles import plain_circuit_run
from tests.test_app import asked_live, wait_for
from tests.tiny import equal_length_pairs, tiny_model
from viz.app import try_page
from viz.app.callbacks import details_of
from viz.app.context import Context
from viz.app.details import answers_table
from viz.app.inline import context_of
from viz.app.jobs import KEPT
from viz.app.library import Entry, Library
from viz.app.live_callbacks import reading, reading_of
from viz.app.routes import page_of
from viz.app.state import ViewState

FRANCE = asked_live("")
JAPAN, PERU = "The capital of Japan is", "The capital of Peru is"


def asked(context: Context, state: ViewState) -> Entry:
    """The result that the page of this question shows, once it is found."""
    try_page.start(context, state)
    wait_for(context.jobs, try_page.job_key(state), "done", 60)
    _, entry, _ = page_of(context, state, "", {})
    assert entry is not None
    return entry


def test_another_contrast_or_model_is_another_result_beside_the_first():
    context = Context(Library(None))
    for kind in ("gpt2", "llama"):
        context.models.add(tiny_model(kind))
    first, second = context.models.names[-2:]
    states = [
        replace(FRANCE, model=first, against=JAPAN, foil="Tokyo"),
        replace(FRANCE, model=first, against=PERU, foil="Lima"),
        replace(FRANCE, model=second, against=JAPAN, foil="Tokyo"),
    ]
    entries = [asked(context, state) for state in states]
    assert len({each.name for each in entries}) == 1
    assert len({each.id for each in entries}) == 3
    for entry, state in zip(entries, states, strict=True):
        found = context.jobs.value(try_page.job_key(state)).circuit
        circuit = context.library.value(entry.id)
        assert circuit is found
        (pair,) = circuit.evidence["pairs"]
        told = (circuit.provenance["model"], pair["corrupted"], pair["foil"])
        assert told == (state.model, state.against, state.foil)


def test_a_live_result_stays_as_long_as_its_job_and_no_longer():
    context = Context(Library(None))
    model = tiny_model("gpt2")
    context.models.add(model)
    state = replace(FRANCE, model=model.name, against=JAPAN, foil="Tokyo")
    entry, key = asked(context, state), try_page.job_key(state)
    for job in range(KEPT - 1):
        context.start(f"job {job}", "another", lambda stage: 1)
        wait_for(context.jobs, f"job {job}", "done")
    assert context.library.value(entry.id) is context.jobs.value(key).circuit
    context.start("one more", "another", lambda stage: 1)
    wait_for(context.jobs, "one more", "done")
    assert context.jobs.value(key) is None
    with pytest.raises(OptionError, match="no such result"):
        context.library.entry(entry.id)


def test_a_notebook_keeps_the_result_it_was_opened_on_and_opens_that_one():
    found = results.circuit()
    context = context_of(found)
    for number in range(KEPT + 5):
        context.library.add(f"job {number}", "live", KINDS["circuit"], results.circuit(3), {})
    _, entry, _ = page_of(context, ViewState(), "", {})
    assert entry is not None
    assert context.library.value(entry.id) is found


# --- readings of a stored circuit ----------------------------------------------------------------

SPANS = ("subject", "last", "others")


def stored(context: Context, wiring: Wiring, **told: Any) -> tuple[Model, TokenPair, Entry]:
    """A tiny model, a pair, and in the library a whole circuit that says it was found on both."""
    model = tiny_model("gpt2")
    context.models.add(model)
    pair = equal_length_pairs(model)[0]
    origin = {**model.provenance, "model": model.name, **told}
    every = np.ones(wiring.n_edges, dtype=bool)
    circuit = Circuit(wiring, every, provenance=origin, evidence={"pairs": [pair.text.as_dict()]})
    return model, pair, context.library.add("c", "stored", KINDS["circuit"], circuit, {})


@pytest.mark.parametrize("spans", [(), SPANS], ids=["", "spans"])
def test_a_cut_edge_is_a_plain_run_without_it_also_where_spans_are_told_apart(spans):
    context = Context(Library(None))
    wiring = tiny_model("gpt2").wiring().with_spans(spans)
    model, pair, entry = stored(context, wiring)
    (batch,) = batches([pair], 1, model)
    places = batch_places([pair], batch, spans)
    question = Question((pair,), None)
    names = [wiring.edge_name(edge) for edge in range(wiring.n_edges)]
    for edge in ("m0->logits", "input->m1", "input->a1.h1<k>"):
        name = next(each for each in names if each.startswith(edge))
        cut = without(model, edges=[name], wiring=wiring)
        left = answers(model, question, cut)
        shares = plain_circuit_run(model, batch, cut, spans=places)[0].softmax(-1)
        np.testing.assert_allclose(left.probabilities, shares.topk(10).values, atol=1e-5)
        shown = reading(context, entry.id, {"edge": name}, 0)
        whole = answers(model, question)
        assert str(shown) == str([answers_table(whole, left, "Without this edge")])


def test_other_weights_are_warned_of_above_a_reading_and_the_circuits_own_are_not():
    for sha, n_warned in (("0" * 64, 1), (None, 0)):
        context = Context(Library(None))
        told = {} if sha is None else {"weights_sha256": sha}
        _, _, entry = stored(context, tiny_model("gpt2").wiring(), **told)
        for chosen in ({"edge": "m0->logits"}, {"node": "a0.h1"}, {"node": "m1"}):
            shown = str(reading(context, entry.id, chosen, 0))
            assert shown.count("whose weights differ from those of") == n_warned


@pytest.mark.parametrize("told", [{"edits": ["51b7"]}, {"patched": [{"parts": ["m0"]}]}], ids=str)
def test_no_reading_of_an_edited_or_patched_models_circuit_is_offered_or_taken(told):
    context = Context(Library(None))
    _, _, entry = stored(context, tiny_model("gpt2").wiring(), **told)
    offered = str(reading_of(context, context.library.value(entry.id)))
    assert "no live reading: the circuit was found with a" in offered
    assert "prompt-choice" not in offered
    with pytest.raises(OptionError, match="no live reading"):
        reading(context, entry.id, {"edge": "m0->logits"}, 0)


@pytest.mark.parametrize("chosen", [{"edge": "m8->logits"}, {"node": "a0.h1"}], ids=str)
def test_a_circuit_of_another_wiring_is_not_read_from_the_model(chosen):
    context = Context(Library(None))
    _, _, entry = stored(context, Wiring(9, 4, 4))
    with pytest.raises(KnowledgeCircuitsError, match="stored: the circuit is for 9 layers"):
        reading(context, entry.id, chosen, 0)


def test_of_a_difference_the_model_before_is_read_and_the_page_says_so():
    context = Context(Library(None))
    _, _, entry = stored(context, tiny_model("gpt2").wiring())
    before = context.library.value(entry.id)
    edited = replace(before, provenance={**before.provenance, "edits": ["51b7"]})
    for after, said in ((edited, "before the edit"), (before, "for the circuit before")):
        pair = context.library.add("d", "d", KINDS["comparison"], Comparison(before, after), {})
        for chosen in ({"edge": "m0->logits"}, {"node": "a0.h1"}):
            shown = str(details_of(context, pair.id, chosen))
            assert f"Live, on one prompt, {said}" in shown
    assert "Live, on one prompt'" in str(details_of(context, entry.id, {"edge": "m0->logits"}))
