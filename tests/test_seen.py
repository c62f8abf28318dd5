"""Who had a part in finding a circuit is known, told, and kept out of tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

import knowledge_circuits as kc
from circuits.base.errors import OptionError, PromptError
from circuits.facts.pairs import SUBJECT, PromptPair, TokenPair, encode_pair
from circuits.graph.circuit import Circuit
from circuits.graph.noise import Sample
from circuits.model.model import Model
from locate.discovery import Discovery
from locate.evaluate import evaluate_stored
from locate.options import Evaluating
from locate.seen import (
    FOUND_IT,
    OTHER_PAIRS,
    OTHERS,
    SUBJECTS_FOUND_IT,
    Finders,
    held_apart,
    side_beside,
    subjects_of,
)
from locate.states.patching import patch_prompt
from locate.states.trace_average import trace_facts

pytestmark = pytest.mark.slow

RELATION = "country_capital"


@pytest.fixture(scope="module")
def model() -> Model:
    return kc.load("facts-gpt2", device="cpu")


@pytest.fixture(scope="module")
def found(model: Model) -> Discovery:
    return kc.discover(model, RELATION, n_pairs=6, edges=60, resamples=0, n_random=1, roles=True)


def test_both_sides_of_a_pair_had_a_part():
    pair = PromptPair(
        "The capital of France is", "The capital of Peru is", "Paris", "Lima", "France"
    )
    assert subjects_of(pair) == {"France", "Peru"}
    assert subjects_of(replace(pair, subject=None)) == {pair.clean, pair.corrupted}


def test_a_discovery_says_which_pairs_its_numbers_are_of(found: Discovery):
    assert list(found.sides()) == [FOUND_IT, OTHERS]
    assert found.circuit.provenance["faithfulness_on"] == OTHERS
    assert found.as_dict()["measured_on"] == FOUND_IT
    assert f"on {OTHERS}" in found.circuit.summary().facts["faithfulness"]
    assert found.roles is not None
    assert found.roles.provenance["checked_on"] == "other pairs"
    assert "checked by ablation on other pairs" in found.page()


def test_the_sides_of_a_discovery_are_told_apart_by_its_circuit(found: Discovery):
    finders = Finders.of(found.circuit)
    assert finders is not None
    assert finders.side(found.pairs) == FOUND_IT
    assert finders.side(found.examples.held_out) == OTHERS
    swapped = [
        replace(each, text=replace(each.text, clean=each.text.corrupted)) for each in found.pairs
    ]
    assert finders.side(swapped) == SUBJECTS_FOUND_IT


def test_an_evaluation_of_both_gives_that_of_the_others_beside_it(model: Model, found: Discovery):
    both = kc.evaluate(model, found, [*found.pairs, *found.examples.held_out], n_random=1)
    assert list(both.sides()) == ["all pairs", OTHERS]
    alone = kc.evaluate(model, found, list(found.examples.held_out), n_random=1)
    assert alone.measured_on == OTHERS
    assert both.faithfulness == both.others.faithfulness
    assert both.others.faithfulness.value == pytest.approx(alone.faithfulness.value, abs=1e-5)
    record = both.as_dict()
    assert (record["measured_on"], record["pairs"]) == (OTHERS, len(found.examples.held_out))
    assert record["faithfulness"] == both.faithfulness.value
    assert record["all_pairs"]["pairs"] == len(found.pairs) + record["pairs"]
    assert record["all_pairs"]["faithfulness"] == both.evaluation.faithfulness.value
    assert alone.as_dict()["all_pairs"] is None


def test_others_asks_about_nobody_who_found_it(model: Model, found: Discovery):
    done = kc.evaluate(model, found, RELATION, others=True, n_pairs=8, n_random=0)
    names = {name for pair in found.pairs for name in subjects_of(pair.text)}
    asked = {name for pair in done.examples.pairs for name in subjects_of(pair.text)}
    assert done.measured_on == OTHERS
    assert not names & asked
    with pytest.raises(PromptError, match="had a part in finding"):
        kc.evaluate(model, found, list(found.pairs), others=True)


def test_tests_are_on_the_others_alone(model: Model, found: Discovery):
    mixed = replace(found.examples, pairs=(*found.pairs[:2], *found.examples.held_out[:4]))
    done = evaluate_stored(model, found.circuit, mixed, Evaluating(tests=True, draws=29))
    assert done.tests is not None
    assert done.tests.n_pairs == 4
    assert done.as_dict()["tests"]["measured_on"] == OTHERS
    assert done.tests["size"].sentence in done.summary().facts["size"]
    with pytest.raises(OptionError, match="nothing can be tested"):
        evaluate_stored(model, found.circuit, found.examples, Evaluating(tests=True))


def test_of_a_circuit_from_elsewhere_it_is_said_not_to_be_known(model: Model, found: Discovery):
    bare = Circuit(found.circuit.wiring, found.circuit.kept)
    done = kc.evaluate(model, bare, list(found.pairs), n_random=0)
    assert done.as_dict()["measured_on"] is None
    assert any("does not say which subjects found it" in line for line in done.warnings)
    with pytest.raises(OptionError, match="leave `others` out"):
        kc.evaluate(model, bare, RELATION, others=True)
    asked = Evaluating(tests=True, minimality=True, draws=29, n_random=0)
    tested = evaluate_stored(model, bare, found.examples, asked).as_dict()
    assert tested["tests"]["measured_on"] is tested["minimality"]["measured_on"] is None


def test_the_hash_of_its_pairs_tells_of_a_circuit_that_they_found_it(
    model: Model, found: Discovery
):
    hashed = replace(found.circuit, evidence={})
    own = kc.evaluate(model, hashed, list(found.pairs), n_random=0)
    assert own.measured_on == FOUND_IT
    fewer = kc.evaluate(model, hashed, list(found.pairs)[1:], n_random=0)
    assert fewer.as_dict()["measured_on"] is None


def test_a_subject_that_a_span_alone_names_is_the_subject(model: Model):
    """Wherever subjects count, it is no matter how a pair names its own."""
    prompts = "The capital of Peru is", "The capital of Chile is"
    named = PromptPair(*prompts, "Lima", "Santiago", "Peru")
    spanned = replace(named, subject=None, spans=((SUBJECT, "Peru", 0),))
    assert subjects_of(spanned) == subjects_of(named) == {"Peru", "Chile"}
    assert Sample.of([spanned]) == Sample.of([named])
    by_name, by_span = (encode_pair(model.tokenizer, each) for each in (named, spanned))
    assert by_span.subject == by_name.subject
    traces = [
        trace_facts(model, [each], samples=2, noise_unit="subjects").provenance["embedding_std"]
        for each in (by_name, by_span)
    ]
    assert traces[0] == traces[1]


def test_patching_takes_the_place_that_a_pair_names(model: Model):
    sides = (f"{name}, like {name}, has the capital" for name in ("Peru", "Chile"))
    pair = PromptPair(*sides, "Lima", "Santiago", spans=((SUBJECT, "Peru", 2),))
    encoded = encode_pair(model.tokenizer, pair)
    assert encoded.subject is not None
    assert patch_prompt(model, encoded).subject == encoded.subject


def _pair(clean: str, corrupted: str) -> PromptPair:
    objects = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana"}
    text = "The capital of {} is"
    return PromptPair(
        text.format(clean), text.format(corrupted), objects[clean], objects[corrupted], clean
    )


def test_own_pairs_are_kept_apart_by_subject_or_called_other_pairs(model: Model):
    quick = {"method": "eap", "resamples": 0, "roles": False, "n_random": 0, "edges": 60}
    two = [_pair("France", "Japan"), _pair("Peru", "Cuba"), _pair("Japan", "France")]
    two += [_pair("Cuba", "Peru")]
    apart = kc.discover(model, two, hold_out=0.5, **quick)
    sides = (apart.pairs, apart.examples.held_out)
    names = [{name for pair in side for name in subjects_of(pair.text)} for side in sides]
    assert names[0].isdisjoint(names[1])
    assert [len(side) for side in sides] == [2, 2]
    assert list(apart.sides()) == [FOUND_IT, OTHERS]
    mixed = kc.discover(model, [two[0], two[2], _pair("France", "Peru")], hold_out=0.4, **quick)
    assert list(mixed.sides()) == [FOUND_IT, OTHER_PAIRS]
    assert mixed.circuit.provenance["faithfulness_on"] == OTHER_PAIRS


def _unnamed(model: Model, pairs: list[tuple[str, str]]) -> list[TokenPair]:
    """The same question of two prompts each, which name no subject."""
    return [encode_pair(model.tokenizer, replace(_pair(*each), subject=None)) for each in pairs]


def test_held_out_pairs_without_subjects_share_no_prompt_with_the_others(model: Model):
    """Two groups of prompts: France and Japan, Peru and Cuba; mirrored pairs are one group."""
    names = [("France", "Japan"), ("Peru", "Cuba"), ("Japan", "France"), ("Cuba", "Peru")]
    pairs = _unnamed(model, names)
    for seed in range(5):
        held, apart = held_apart(pairs, 2, seed)
        assert apart
        assert held in ([0, 2], [1, 3])
    texts = [pair.text for pair in pairs]
    quick = {"method": "eap", "resamples": 0, "roles": False, "n_random": 0, "edges": 60}
    done = kc.discover(model, texts, hold_out=0.5, **quick)
    assert list(done.sides()) == [FOUND_IT, OTHER_PAIRS]
    assert not done.examples.notes
    chain = [("France", "Japan"), ("Japan", "Peru"), ("Peru", "Cuba"), ("Cuba", "France")]
    held, apart = held_apart(_unnamed(model, chain), 2, 0)
    assert (len(held), apart) == (2, False)
    linked = [pair.text for pair in _unnamed(model, chain)]
    done = kc.discover(model, linked, hold_out=0.5, **quick)
    assert any("share prompts with those that found" in note for note in done.examples.notes)


def test_where_subjects_link_all_pairs_prompts_keep_them_apart(model: Model):
    """The language of a country is asked beside its capital: one subject, and no prompt twice."""
    ask = "The language of {} is"
    two = _pair("France", "Japan")
    other = PromptPair(ask.format("Japan"), ask.format("France"), "Japanese", "French", "Japan")
    pairs = [encode_pair(model.tokenizer, each) for each in (two, other)]
    held, apart = held_apart(pairs, 1, 0)
    assert (len(held), apart) == (1, True)
    assert side_beside([pairs[1 - held[0]]], [pairs[held[0]]]) == OTHER_PAIRS


def test_other_subjects_are_said_only_where_every_pair_names_its_own(model: Model):
    named = [encode_pair(model.tokenizer, _pair("Peru", "Cuba"))]
    bare = _unnamed(model, [("France", "Japan")])
    circuit = Circuit.full(model.wiring())

    def finders(pairs: list[TokenPair]) -> Finders:
        told = {"pairs": [pair.text.as_dict() for pair in pairs]}
        found = Finders.of(replace(circuit, evidence=told))
        assert found is not None
        return found

    assert finders(named).side(bare) == finders(bare).side(named) == OTHER_PAIRS
    assert side_beside(named, bare) == side_beside(bare, named) == OTHER_PAIRS
    assert finders(bare).split([*named, *bare]) == ([1], [0])
    same = [encode_pair(model.tokenizer, _pair("France", "Cuba"))]  # names what the other does not
    assert finders(bare).split(same) == ([0], [])


def test_a_fact_that_was_shown_answered_had_a_part(model: Model):
    """It is never asked while its circuit is sought, but a later evaluation may ask it."""
    quick = {"n_pairs": 6, "edges": 60, "resamples": 0, "roles": False, "n_random": 0}
    found = kc.discover(model, RELATION, shots=3, **quick)
    shown = found.examples.counts["asked_as"]["demonstrations"][RELATION]
    names = {subject for subject, _ in shown}
    asked = {name for pair in found.pairs for name in subjects_of(pair.text)}
    assert len(names) == 3
    assert not names & asked
    finders = Finders.of(found.circuit)
    assert finders is not None
    prompts = {text for pair in found.pairs for text in (pair.text.clean, pair.text.corrupted)}
    assert finders.names == names | asked | prompts
    assert finders.side(found.pairs) == FOUND_IT
    done = kc.evaluate(model, found, RELATION, n_pairs=90, n_random=0)
    sides = [subjects_of(pair.text) for pair in done.examples.pairs]
    assert any(each & names and not each & asked for each in sides)
    assert done.others is not None
    assert done.others.n_pairs == sum(not each & (names | asked) for each in sides)
    others = kc.evaluate(model, found, RELATION, others=True, n_pairs=90, n_random=0)
    assert not names & {x for pair in others.examples.pairs for x in subjects_of(pair.text)}


def test_shown_facts_that_are_none_leave_it_unknown_who_found_the_circuit(found: Discovery):
    for nonsense in (3, {RELATION: 4}, {RELATION: ["France"]}, {RELATION: [["France"]]}):
        counts = {"asked_as": {"shots": 1, "demonstrations": nonsense}}
        about = {**found.circuit.provenance, "facts": counts}
        assert Finders.of(replace(found.circuit, provenance=about)) is None
    for silent in (None, 4, {}, {"asked_as": None}, {"asked_as": {"shots": 0}}):
        about = {**found.circuit.provenance, "facts": silent}
        assert Finders.of(replace(found.circuit, provenance=about)) == Finders.of(found.circuit)
