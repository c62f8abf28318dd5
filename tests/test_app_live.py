"""Laws of what the app finds while one waits: which question a result is of, how long it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuits.base.errors import OptionError
from tests import results
from tests.test_app import asked_live, wait_for
from tests.tiny import tiny_model
from viz.app import try_page
from viz.app.context import Context
from viz.app.inline import context_of
from viz.app.jobs import KEPT
from viz.app.library import Entry, Library
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
        kind = results.circuit(3)
        context.library.add(f"job {number}", "live", context.library.entries()[-1].kind, kind, {})
    _, entry, _ = page_of(context, ViewState(), "", {})
    assert entry is not None
    assert context.library.value(entry.id) is found
