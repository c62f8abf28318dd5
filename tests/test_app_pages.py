"""Laws of the app's pages: one entry a result, what a page begins with, contrasts, token views."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.base.errors import OptionError, PromptError
from circuits.edits.edit import WeightDelta
from circuits.edits.provenance import changed, identity
from circuits.files.kinds import REPORT
from circuits.graph.circuit import Circuit
from circuits.model.model import Model, load
from circuits.model.wiring import Wiring
from locate.ask import ask
from locate.contrast import is_word
from locate.heads.weighted import head_pattern, read_sites
from locate.looks.says import says
from locate.states.lens import lens_on_prompt
from locate.states.lens_grid import lens_grid
from locate.states.patching import patch_prompt
from tests import results
from tests.results import rewiring as a_rewiring
from tests.test_app import stored
from tests.test_viz import circuit_of
from viz.app import inside_page, try_page
from viz.app.circuit_page import asked_table, summary_of
from viz.app.context import Context
from viz.app.details import node_details
from viz.app.groups import group_of, groups, tab_name
from viz.app.lead import lead_of
from viz.app.library import Library
from viz.app.parts import NUMBER
from viz.app.routes import page_of, siblings
from viz.app.server import make_app
from viz.app.state import LOOKS, ViewState, parse_state
from viz.asked import question

PROMPT, SUBJECT, ANSWER = "The capital of France is", "France", "Paris"
REQUEST = {
    "prompt": "The capital of {} is",
    "subject": "France",
    "target": "Rome",
    "ground_truth": "Paris",
}
HOSTILE = "<script>alert(1)</script>"


def texts(component: Any) -> str:
    """All that a page holds; numbers of its pictures as they print."""

    def plain(each: Any) -> Any:
        return each.to_plotly_json() if hasattr(each, "to_plotly_json") else str(each)

    return json.dumps(component.to_plotly_json(), default=plain)


def sentence(component: Any) -> str:
    """What a page begins with, its terms as they stand in it and without their notes."""
    if getattr(component, "className", None) == "lead":
        return "".join(
            each if isinstance(each, str) else each.children[0].children
            for each in component.children
        )
    inner = getattr(component, "children", None)
    several = inner if isinstance(inner, list) else [inner]
    return next(filter(None, map(sentence, several)), "") if inner is not None else ""


@pytest.fixture(scope="module")
def model() -> Model:
    return load("facts-gpt2", device="cpu")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A discovery's folder, an analysis', and two files that stand for themselves."""
    root = tmp_path / "out"
    for folder in ("found", "flow"):
        (root / folder).mkdir(parents=True)
    stored(root / "found")
    stored(root / "found", "curve-like", 1)
    (root / "found" / "summary.json").write_text("{}")
    summary = {
        "analysis": "flow",
        "question": "Where is it recalled?",
        "model": "facts-gpt2",
        "lead": f"In layer 6. {HOSTILE}",
        "claims": [{"sentence": "Heads push more than MLPs."}],
        "provenance": {"created": "2026-11-28T10:00:00+00:00"},
    }
    (root / "flow" / "summary.json").write_text(json.dumps(summary))
    (root / "flow" / "report.html").write_text(f"<h1>flow</h1>{HOSTILE}")
    stored(root, "alone", 2)
    stored(root, "other", 3)
    return root


# --- one entry a result ------------------------------------------------------------------------


def test_what_one_command_wrote_is_one_entry_and_other_files_stand_for_themselves(runs):
    entries = Library(runs).entries()
    found = {each.name: each for each in groups(entries)}
    assert set(found) == {"found", "flow", "alone", "other"}
    assert len(found["found"].entries) == 2
    assert sum(len(each.entries) for each in found.values()) == len(entries)


def test_a_report_is_listed_with_its_question_and_opened_by_its_id_alone(runs):
    context = Context(Library(runs))
    (entry,) = [each for each in context.library.entries() if each.kind is REPORT]
    assert entry.about["relation"] == "Where is it recalled?"
    page, shown, _ = page_of(context, ViewState(view="report", r=entry.id), "", {})
    assert shown is entry
    assert "In layer 6." in texts(page)
    assert "Heads push more than MLPs." in texts(page)
    client = make_app(context).server.test_client()
    answer = client.get(f"/report/{entry.id}")
    assert answer.status_code == 200
    assert b"<h1>flow</h1>" in answer.data
    for other in (stored_id(context), "nothing", "..%2fflow", "flow"):
        assert b"<h1>flow</h1>" not in client.get(f"/report/{other}").data


def stored_id(context: Context) -> str:
    return next(each.id for each in context.library.entries() if each.name.startswith("alone"))


def test_the_page_of_a_report_may_run_nothing_and_be_framed_by_the_app_alone(runs):
    context = Context(Library(runs))
    (entry,) = [each for each in context.library.entries() if each.kind is REPORT]
    policy = make_app(context).server.test_client().get(f"/report/{entry.id}")
    text = policy.headers["Content-Security-Policy"]
    assert text.startswith("sandbox;")
    assert "script-src" not in text
    assert "default-src 'none'" in text
    assert "frame-ancestors 'self'" in text


def test_a_report_that_leads_out_of_the_folder_is_not_read(runs, tmp_path):
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    (runs / "flow" / "report.html").unlink()
    (runs / "flow" / "report.html").symlink_to(secret)
    context = Context(Library(runs))
    client = make_app(context).server.test_client()
    for entry in context.library.entries():
        assert b"secret" not in client.get(f"/report/{entry.id}").data


def test_an_edit_and_what_was_found_of_it_lead_to_each_other(tmp_path):
    origin = {"method": "rome", "model": "m", "weights_sha256": "0", "requests": [REQUEST]}
    for folder in ("edit", "compare"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "summary.json").write_text("{}")
    WeightDelta({"w": torch.ones(2, 2)}, origin).save(tmp_path / "edit" / "edit.kc.safetensors")
    found = a_rewiring()
    noted = {**origin, "sha256": "1", "norm": 2.0, "judged": {"success": {}}}
    told = {**found.provenance, "edit": noted}
    type(found)(**{**vars(found), "provenance": told}).save(
        tmp_path / "compare" / "rewiring.kc.safetensors"
    )
    context = Context(Library(tmp_path))
    entries = context.library.entries()
    edit, rewired = sorted(entries, key=lambda each: each.kind.name != "weight-delta")
    assert edit.about["relation"] == rewired.about["relation"] == "France: Paris → Rome"
    for one, other in ((edit, rewired), (rewired, edit)):
        assert [each.id for each in group_of(entries, one).entries] == [one.id, other.id]
        assert other.id in texts_of(siblings(context, one))
    page = texts(page_of(context, ViewState(view="record", r=edit.id), "", {})[0])
    for head in found.heads:
        assert head.name in page


def texts_of(components: list[Any]) -> str:
    return "".join(texts(each) for each in components)


def test_a_tab_says_its_kind_and_which_where_there_are_two(runs):
    entries = Library(runs).entries()
    group = next(each for each in groups(entries) if each.name == "found")
    names = [tab_name(group, each) for each in group.entries]
    assert sorted(names) == ["circuit: circuit", "circuit: curve-like"]


def test_the_same_edit_has_one_identity_however_it_was_judged_and_others_another():
    origin = {"method": "rome", "requests": [REQUEST], "seed": 0}
    assert identity(origin) == identity({**origin, "judged": {"x": 1}, "norm": 3.0, "sha256": "a"})
    assert identity(origin) != identity({**origin, "seed": 1})
    assert identity({"method": "eap-ig", "relation": "x"}) == ""
    assert changed({"requests": [REQUEST, REQUEST]}) == "France: Paris → Rome and 1 more"
    texts_forgotten = {"forget": [{"text": PROMPT, "answer": ANSWER}]}
    assert changed(texts_forgotten) == f"forget {PROMPT} → {ANSWER}"


# --- what a page begins with -------------------------------------------------------------------


def test_the_page_of_an_edit_begins_with_what_its_command_said_of_it(tmp_path):
    success = {
        side: {"efficacy": {"tokens": {"value": value, "low": None, "high": None}}}
        for side, value in (("before", 0.0), ("after", 1.0))
    }
    origin = {"method": "rome", "model": "facts-gpt2", "requests": [REQUEST]}
    delta = WeightDelta({"w": torch.ones(2, 2)}, origin).judged({"success": success})
    delta.save(tmp_path / "edit.kc.safetensors")
    scores = [{**REQUEST, "reply": [" Paris. The", " Rome. The"], "probability": [0.1, 0.9]}]
    (tmp_path / "summary.json").write_text(json.dumps({"says": "It took.", "scores": scores}))
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    page = texts(page_of(context, ViewState(view="record", r=entry.id), "", {})[0])
    assert "It took." in page
    assert "France: Paris \\u2192 Rome" in page
    assert "Rome. The" in page
    assert "0.00 \\u2192 1.00" in page
    assert "0.1 \\u2192 0.9" in page
    # A summary of other requests has no say on what this edit's model answers.
    other = {"says": "It took.", "scores": [{**scores[0], "subject": "X"}]}
    (tmp_path / "summary.json").write_text(json.dumps(other))
    page = texts(page_of(context, ViewState(view="record", r=entry.id), "", {})[0])
    assert "It took." not in page
    said = "facts-gpt2 say the new object in 100 % of its requests, before in 0 %."
    assert said in page
    assert delta.says().endswith(said)


def test_unlearning_has_a_picture_of_each_set_before_and_after(tmp_path):
    sides = {
        "forget": {"before": {"accuracy": 1.0, "loss": 0.1}, "after": {"accuracy": 0, "loss": 7}},
        "held_out": {
            "before": {"accuracy": 1.0, "loss": 0.2},
            "after": {"accuracy": 0.75, "loss": 1},
        },
    }
    origin = {"method": "ga-gd", "model": "m", "forget": [{"text": PROMPT, "answer": ANSWER}]}
    delta = WeightDelta({"w": torch.ones(2, 2)}, origin).judged({"details": sides})
    delta.save(tmp_path / "edit.kc.safetensors")
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    value = context.library.value(entry.id)
    page = texts(page_of(context, ViewState(view="record", r=entry.id), "", {})[0])
    assert lead_of(value) in page
    assert "100 %" in lead_of(value)
    assert "75 %" in lead_of(value)
    for measure in ("to forget", "to stay, not trained on", "token accuracy"):
        assert measure in page


def test_a_circuit_begins_with_the_sentence_that_the_command_prints(runs):
    context = Context(Library(runs))
    for entry in context.library.entries():
        if entry.kind.view != "circuit":
            continue
        value = context.library.value(entry.id)
        assert lead_of(value) == says(value)
        page, _, _ = page_of(context, ViewState(view="circuit", r=entry.id), "", {})
        assert says(value) == sentence(page)


def test_whole_numbers_are_parted_by_thousands():
    assert "',.0f'" in NUMBER["function"]
    assert ".3~g" in NUMBER["function"]


# --- contrasts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["other subjects", "other pairs"])
def test_a_circuit_page_calls_the_pairs_that_tested_it_as_its_record_does(side: str):
    found = results.circuit()
    evidence = {"held_out": {"n_pairs": 8}}
    told = {**found.provenance, "faithfulness_on": side}
    shown = str(summary_of(replace(found, evidence=evidence, provenance=told)))
    assert f"{side} (8 pairs)" in shown
    assert ("subjects" in shown) == (side == "other subjects")


def test_a_circuit_page_shows_every_corrupted_prompt_and_foil(tmp_path):
    pairs = [
        {
            "clean": f"The capital of {subject} is",
            "corrupted": f"The capital of {other} is",
            "answer": "Paris",
            "foil": foil,
            "subject": subject,
        }
        for subject, other, foil in (("France", "Japan", "Tokyo"), ("Gaul", "Peru", "Lima"))
    ]
    circuit = circuit_of(Wiring(2, 2, 2), 0.6, 0)
    circuit = Circuit(circuit.wiring, circuit.kept, circuit.scores, evidence={"pairs": pairs})
    circuit.save(tmp_path / "circuit.kc.safetensors")
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    page = texts(page_of(context, ViewState(view="circuit", r=entry.id), "", {})[0])
    asked = "\\u201cThe capital of France is\\u201d \\u2192 Paris, against Japan \\u2192 Tokyo"
    assert asked in page
    for pair in pairs:
        assert pair["corrupted"] in page
        assert pair["foil"] in page


def test_demonstrations_do_not_stand_before_every_question_of_a_circuits_page(tmp_path):
    shown = "The capital of Peru is Lima. "
    pair = {
        "clean": f"{shown}The capital of France is",
        "corrupted": f"{shown}The capital of Japan is",
        "answer": "Paris",
        "foil": "Tokyo",
        "subject": "France",
        "start": len(shown),
    }
    circuit = circuit_of(Wiring(2, 2, 2), 0.6, 0)
    circuit = Circuit(circuit.wiring, circuit.kept, circuit.scores, evidence={"pairs": [pair]})
    assert question(circuit) == "“The capital of France is” → Paris, against Japan → Tokyo"
    table = texts(asked_table(circuit))
    assert "What was asked, less what stands before:" in table
    assert "Peru" not in table


def test_a_contrast_that_is_typed_is_the_one_that_is_asked(model):
    found = ask(model, PROMPT, SUBJECT, ANSWER, against="The capital of Japan is", foil="Tokyo")
    (pair,) = found.pairs
    assert (pair.text.corrupted, pair.text.foil) == ("The capital of Japan is", "Tokyo")
    assert found.warnings == ()
    said = ask(model, PROMPT, SUBJECT, ANSWER, against="The capital of Japan is")
    assert said.pairs[0].text.foil == "Tokyo"


@pytest.mark.parametrize(
    ("against", "foil", "why"),
    [
        (PROMPT, "Rome", "the prompt itself"),
        ("The capital city of Japan is", "Tokyo", "tokens"),
        ("The capital of Japan is", "?!", "a word"),
        ("The capital of Japan is", "Paris", "same token"),
        ("", "Tokyo", "give that prompt too"),
    ],
)
def test_what_is_no_contrast_is_refused_in_a_line(model, against, foil, why):
    with pytest.raises((PromptError, OptionError), match=why):
        ask(model, PROMPT, SUBJECT, ANSWER, against=against, foil=foil)


def test_a_contrast_that_is_no_rival_is_warned_of(model):
    weak = ask(model, PROMPT, SUBJECT, "Rome", against="The capital of Japan is", foil="Paris")
    assert any("does not prefer 'Rome'" in line for line in weak.warnings)
    still = ask(model, "The capital of Japan is", "Japan", "Tokyo", against=PROMPT, foil="Oslo")
    assert any("that prompt is no rival" in line for line in still.warnings)
    unknown = ask(model, "The flag of South Korea is", "South Korea", "white")
    assert "does not know this fact" in unknown.warnings[0]
    assert all(is_word(pair.text.foil) for pair in unknown.pairs)
    assert ask(model, PROMPT, SUBJECT, ANSWER).warnings == ()


def test_an_edit_that_is_refused_leaves_the_circuit_on_the_page(model):
    context = Context(Library(None))
    context.models.add(model)
    words = {"prompt": PROMPT, "subject": SUBJECT, "answer": ANSWER}
    state = ViewState(view="try", model=model.name, **words)
    run(context, state)
    refused = ViewState(view="try", model=model.name, target=ANSWER, **words)
    run(context, refused, "failed")
    page, entry, _ = page_of(context, refused, "", {})
    assert entry is not None
    assert entry.kind.view == "circuit"
    assert "already" in texts(page)
    assert "scene" in texts(page)


def run(context: Context, state: ViewState, until: str = "done") -> Any:
    from tests.test_app import wait_for

    try_page.start(context, state)
    wait_for(context.jobs, try_page.job_key(state), until, 120)
    return context.jobs.value(try_page.job_key(state))


# --- token by token ----------------------------------------------------------------------------


def test_the_grid_ends_with_what_the_model_says_at_every_token(model):
    prompt = model.tokenizer.encode(PROMPT)
    answer = model.tokenizer.first_token(PROMPT, ANSWER)
    grid = lens_grid(model, prompt, {"answer": answer})
    assert grid.best.shape[:2] == (model.n_layers + 1, len(prompt))
    for length in range(1, len(prompt) + 1):
        logits = model.last_logits(torch.tensor([prompt.ids[:length]]))[0]
        shares = logits.float().softmax(-1)
        assert int(grid.best[-1, length - 1, 0]) == int(shares.argmax())
        assert grid.shares[-1, length - 1, 0] == pytest.approx(float(shares.max()), abs=1e-4)
        assert grid.probability[-1, length - 1, 0] == pytest.approx(float(shares[answer]), abs=1e-4)


def test_the_grid_agrees_with_the_lens_where_that_looks_as_well(model):
    prompt = model.tokenizer.encode(PROMPT)
    grid = lens_grid(model, prompt, {"answer": model.tokenizer.first_token(PROMPT, ANSWER)})
    lens = lens_on_prompt(model, PROMPT, {"answer": ANSWER})
    here = grid.at(len(prompt) - 1)
    assert np.array_equal(here.rank[:, 0, 0], lens.rank[:, 0, 0])
    assert here.probability[:, 0, 0] == pytest.approx(lens.probability[:, 0, 0], abs=1e-5)
    assert says(here).startswith("The answer 'Paris' leads after 'The capital of France is'")


@pytest.mark.parametrize(("labels", "top"), [({"answer": -1}, 5), ({"answer": 10**9}, 5), ({}, 0)])
def test_a_grid_of_nothing_is_refused(model, labels, top):
    with pytest.raises(OptionError):
        lens_grid(model, model.tokenizer.encode(PROMPT), labels, top)


def test_the_whole_pattern_ends_with_the_last_tokens_and_looks_back_alone(model):
    tokens = torch.tensor([model.tokenizer.encode(PROMPT).ids])
    pattern = head_pattern(model, tokens, 6, 1)
    assert pattern.sum(-1) == pytest.approx(np.ones(tokens.shape[1]), abs=1e-4)
    assert float(pattern.triu(1).abs().max()) == 0
    plain = read_sites(model, tokens, [(6, 1)])[0, 0]
    assert torch.allclose(pattern[-1], plain, atol=1e-6)


def test_all_clean_states_of_the_last_token_bring_the_whole_answer_back(model):
    pair = ask(model, PROMPT, SUBJECT, ANSWER).pairs[0]
    found = patch_prompt(model, pair, kinds=["resid"], window=1)
    probabilities = found.probability("resid")
    assert probabilities[-1, -1] == pytest.approx(found.p_clean, abs=1e-4)
    before = pair.first_difference
    assert probabilities[:, :before] == pytest.approx(found.p_corrupted, abs=1e-5)
    place = pair.clean.span_of(SUBJECT).last
    assert probabilities[0, place] > 0.5 * found.p_clean, "the subject's state carries the answer"


def test_a_link_knows_every_view_inside_a_prompt():
    assert set(inside_page.LOOKS) == set(LOOKS)
    assert all(parse_state(f"?look={look}") == (ViewState(look=look), []) for look in LOOKS)


@pytest.mark.parametrize("look", list(inside_page.LOOKS))
def test_every_view_inside_a_prompt_is_worked_out_once_and_shown(model, look):
    context = Context(Library(None))
    context.models.add(model)
    words = {"prompt": PROMPT, "subject": SUBJECT, "answer": ANSWER}
    state = ViewState(view="try", model=model.name, look=look, **words)
    found = run(context, state)
    page, entry, _ = page_of(context, state, "", {})
    assert entry is None
    assert inside_page.LOOKS[look].title in texts(page)
    assert context.jobs.value(try_page.job_key(state)) is found
    plain = ViewState(view="try", model=model.name, **words)
    assert try_page.job_key(plain) != try_page.job_key(state)


def test_a_click_on_a_cell_projects_that_state(model):
    prompt = model.tokenizer.encode(PROMPT)
    grid = lens_grid(model, prompt, {"answer": model.tokenizer.first_token(PROMPT, ANSWER)})
    last = len(prompt) - 1
    assert inside_page.chosen_cell(grid, f"0:{last}") == (0, last)
    assert inside_page.chosen_cell(grid, "999:999") == (model.n_layers, last)
    state, position = inside_page.chosen_cell(grid, "nonsense")
    assert position == last
    assert grid.rank[state, last, 0] == 0
    assert grid.rank[state - 1, last, 0] > 0
    shown = texts_of(inside_page.projection(grid, *inside_page.chosen_cell(grid, "")))
    assert "Paris" in shown


def test_a_heads_panel_lists_what_the_key_value_head_reads_that_it_shares():
    wiring = Wiring(2, 4, 2)
    kept = np.ones(wiring.n_edges, dtype=bool)
    shown = texts_of(node_details(Circuit(wiring, kept), "a1.h3", {}))
    assert "Edges into a1.kv1, which it shares" in shown
    assert "a1.kv0" not in shown
    own = Wiring(2, 4, 4)
    alone = texts_of(node_details(Circuit(own, np.ones(own.n_edges, dtype=bool)), "a1.h3", {}))
    assert "which it shares" not in alone
