"""Circuits over training, and what a model can do with its facts, on a few facts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.base.errors import NothingFoundError, OptionError, PromptError
from circuits.base.plain import plain
from circuits.facts.facts import Fact, atlas, relation
from circuits.facts.pairs import PromptPair
from circuits.facts.questions import demonstrations_of
from circuits.facts.wordings import wordings
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from experiments.analyses.engine import context as surroundings
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.parts import fingerprint
from experiments.analyses.evolution import analysis as evolution
from experiments.analyses.evolution.analysis import checkpoints, score_entropy
from experiments.analyses.evolution.numbers import (
    FINAL,
    FOUND,
    RUN,
    overlaps,
    recall_times,
    share_of_both,
)
from experiments.analyses.mechanisms import analysis as mechanisms
from experiments.analyses.mechanisms.analysis import Reply, constant_guess, is_right
from experiments.analyses.mechanisms.probes import Probe, bases, probe_set

pytestmark = pytest.mark.slow

RELATION = "country_capital"
SHORT = evolution.Config(
    relations=(RELATION,), revisions=("step00275",), pairs=3, steps=1, random_circuits=4
)
FEW = mechanisms.Config(facts=8, pairs=4, steps=1, random_circuits=4)
CHAIN = "city_country+country_currency"

PAIR = PromptPair("France has", "Japan has", "Paris", "Tokyo")


@pytest.fixture(scope="module")
def grown(context: Context) -> dict[str, Any]:
    keys = evolution.steps(context, SHORT)
    return {key: plain(evolution.compute(context, SHORT, key)) for key in keys}


@pytest.fixture(scope="module")
def probed(context: Context) -> dict[str, Any]:
    keys = [f"{probe}: {RELATION}" for probe in ("cloze", "exact", "paraphrase", "negation")]
    keys += [f"two hops: {CHAIN}", f"unseen combination: {CHAIN}", "comparison: animal_class"]
    return {key: plain(mechanisms.compute(context, FEW, key)) for key in keys}


# --- evolution -----------------------------------------------------------------------------------


def test_the_last_circuit_overlaps_wholly_with_itself(grown: Mapping[str, Any]) -> None:
    found = {part["checkpoint"]: part["relations"] for k, part in grown.items() if FOUND in k}
    for what in ("edges", "nodes"):
        assert overlaps(found, FINAL, what).tolist() == [1.0]
        assert overlaps(found, "step00275", what)[0] < 1.0
        assert found[FINAL][RELATION]["chance"][what] < overlaps(found, FINAL, what, True)[0]


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_overlap_is_symmetric_and_whole_only_for_equal_sets(one: set[int], other: set[int]) -> None:
    found = share_of_both(list(one), list(other))
    assert found == share_of_both(list(other), list(one))
    assert 0.0 <= found <= 1.0
    assert (found == 1.0) == (one == other)


def test_entropy_is_log2_of_the_edges_where_all_scores_are_equal() -> None:
    wiring = Wiring(2, 2, 2)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[:8] = True
    equal = EdgeScores(wiring, np.where(np.arange(wiring.n_edges) % 2, -2.0, 2.0))
    assert score_entropy(Circuit(wiring, kept, equal)) == pytest.approx(3.0)
    single = np.zeros(wiring.n_edges)
    single[0] = 5.0
    assert score_entropy(Circuit(wiring, kept, EdgeScores(wiring, single))) == pytest.approx(0.0)
    assert np.isnan(score_entropy(Circuit(wiring, kept)))


def test_a_transplant_into_its_own_checkpoint_is_that_circuits_run(
    context: Context, grown: Mapping[str, Any]
) -> None:
    from circuits.graph.evaluate import run_circuits
    from locate.search import Search

    examples = context.examples(RELATION, SHORT.pairs)
    circuit = context.circuit(
        RELATION, SHORT.pairs, Search(steps=1, resamples=0), examples=examples
    )
    runs = run_circuits(context.model, examples.held_out, [circuit])
    stored = grown[f"{RUN} {FINAL}"]["relations"][RELATION]["circuits"][FINAL]["metric"]
    np.testing.assert_allclose(stored, runs.circuits[0].metric, rtol=1e-4)


def test_circuits_of_other_checkpoints_are_not_found_twice(context: Context) -> None:
    folder = context.folder / "circuits"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    evolution.compute(context, SHORT, f"{RUN} step00275")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_fact_counts_from_when_it_stays_recalled() -> None:
    ranks = {"one": [0, 3, 0], "two": [3, 3, 0], "last": [0, 3, 0]}
    found = {label: {"r": {"ranks": each}} for label, each in ranks.items()}
    found[FINAL] = found.pop("last")
    assert recall_times(found)["r"] == [2, 3, 0]


def test_checkpoints_are_in_order_of_training_and_end_in_the_model(context: Context) -> None:
    names = checkpoints(context, evolution.Config())
    assert names[0] == "facts-gpt2@step00000"
    assert names == [*sorted(names[:-1]), "facts-gpt2"]
    llama = Context("facts-llama", context.folder)
    with pytest.raises(OptionError, match="name some as the option revisions"):
        checkpoints(llama, evolution.Config())


def test_the_report_of_training_follows_its_numbers(grown: Mapping[str, Any]) -> None:
    """One relation leaves every comparison open; others that agree decide it."""
    report = evolution.report(SHORT, grown)
    assert {claim.verdict for claim in report.claims} <= {Verdict.MEASURED, Verdict.NO_EVIDENCE}
    twice = copy.deepcopy(dict(grown))
    for part in twice.values():
        for i in range(4):
            part["relations"][f"again{i}"] = part["relations"][RELATION]
    decided = evolution.report(SHORT, twice)
    entropy = next(claim for claim in decided.answer if "scores gather" in claim.sentence)
    labels = [twice[f"{FOUND} {label}"]["relations"] for label in ("step00275", FINAL)]
    falls = labels[0][RELATION]["entropy"] > labels[1][RELATION]["entropy"]
    assert entropy.verdict is (Verdict.SUPPORTED if falls else Verdict.OPPOSITE)


def test_units_are_of_the_checkpoints_that_are_held_against_each_other(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, marks = evolution.embedded_checkpoints("facts-gpt2"), []
    for steps in (("step00275",), ("step00275", "step01125"), ("step01125",)):
        chosen = {name: real[name] for name in steps}
        monkeypatch.setattr(evolution, "embedded_checkpoints", lambda _, found=chosen: found)
        marks.append(fingerprint(evolution.ANALYSIS, evolution.Config(), context))
    assert len(set(marks)) == 3


def test_a_report_bears_relations_and_checkpoints_that_are_missing(
    grown: Mapping[str, Any],
) -> None:
    several = copy.deepcopy(dict(grown))
    several[f"{FOUND} {FINAL}"]["relations"]["other"] = {}
    several[f"{RUN} step00275"]["left_out"] = {"other": "its scores are not finite"}
    several[f"{FOUND} step00703"] = {**several[f"{FOUND} step00275"], "checkpoint": "step00703"}
    made = evolution.report(SHORT, several)
    assert "Left out: other (its scores are not finite)." in made.sections[0].text
    assert [row[0] for row in made.tables[0].rows] == ["275", FINAL]
    without_last = {key: part for key, part in several.items() if FINAL not in key}
    assert evolution.report(SHORT, without_last).sections == ()
    last_alone = {key: part for key, part in grown.items() if FINAL in key}
    assert not evolution.report(SHORT, last_alone).answer


def test_a_relation_without_pairs_and_an_empty_circuit_cost_no_others(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "facts.jsonl"
    known, template = relation(RELATION).facts[:16], relation(RELATION).templates[0]
    odd = [Fact("odd", "Zorblax", "Quux"), Fact("odd", "Frobnitz", "Blarg")]
    lines = [(each, RELATION, template) for each in known]
    lines += [(each, "odd", "The odd thing of {} is") for each in odd]
    path.write_text(
        "\n".join(
            json.dumps({"subject": x.subject, "object": x.object, "relation": r, "prompt": t})
            for x, r, t in lines
        ),
        encoding="utf-8",
    )
    asked = Context("facts-gpt2", tmp_path / "run", facts=str(path))
    find = surroundings.find

    def early_are_empty(model: Any, *args: Any, **how: Any) -> Circuit:
        found = find(model, *args, **how)
        if model is asked.model:
            return found
        assert how["empty"]
        return Circuit(found.wiring, np.zeros_like(found.kept), found.scores)

    monkeypatch.setattr(surroundings, "find", early_are_empty)
    config = replace(SHORT, relations=(RELATION, "odd"))
    keys = evolution.steps(asked, config)
    made = {key: plain(evolution.compute(asked, config, key)) for key in keys}
    assert all(set(part["relations"]) == {RELATION} for part in made.values())
    assert "odd" in made[keys[0]]["left_out"]
    assert made[f"{FOUND} step00275"]["relations"][RELATION]["edges"] == []
    assert "Left out: odd (" in evolution.report(config, made).sections[0].text


# --- mechanisms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", list(Probe))
def test_every_probe_asks_about_facts_of_the_atlas(probe: Probe) -> None:
    known = atlas()
    names = bases(probe, known, ["country_capital", "noun_plural"])
    assert names
    for name in names:
        asked = probe_set(probe, name, known)
        assert asked.base in known
        assert asked.pairs or asked.relation.facts
        values = {fact.object for fact in asked.relation.facts}
        if probe is not Probe.COMPARISON:
            assert values <= set(asked.candidates)
            assert asked.template.count("{}") == 1


@pytest.mark.parametrize("probe", [each for each in Probe if each is not Probe.COMPARISON])
def test_answered_questions_stand_before_others_of_the_same_kind(probe: Probe) -> None:
    known = atlas()
    name = bases(probe, known, ["country_capital", "noun_plural"])[0]
    bare, asked = (probe_set(probe, name, known, 3, shots) for shots in (0, 2))
    told = [part for part in asked.before.split(". ") if part]
    assert len(told) == 2
    true = {(fact.subject, fact.object) for fact in bare.relation.facts}
    begin, end = asked.template.split("{}")
    for text in told:
        subjects = [s for s in bare.relation.subjects() if text.startswith(f"{begin}{s}{end} ")]
        answers = {text.removeprefix(f"{begin}{subject}{end} ") for subject in subjects}
        assert len(subjects) == 1
        assert not set(subjects) & set(asked.relation.subjects())
        assert answers <= set(asked.candidates)
        assert ((subjects[0], *answers) in true) == (probe is not Probe.NEGATION)
        if probe in (Probe.TWO_HOP, Probe.UNSEEN):
            assert not answers & set(asked.relation.objects())
    assert set(asked.relation.facts) < set(bare.relation.facts)
    with pytest.raises(PromptError, match="too few facts to show 5000"):
        probe_set(probe, name, known, 3, 5000)


def test_answered_comparisons_stand_before_both_prompts_of_the_others() -> None:
    bare, asked = (probe_set(Probe.COMPARISON, "animal_class", atlas(), 3, n) for n in (0, 2))
    before = "".join(f"{pair.clean} {pair.answer}. " for pair in bare.pairs[:2])
    assert asked.before == before
    assert len(asked.pairs) == len(bare.pairs) - 2
    for pair, plainly in zip(asked.pairs, bare.pairs[2:], strict=True):
        assert (pair.clean, pair.corrupted) == (before + plainly.clean, before + plainly.corrupted)
        assert pair.start == len(before)
        assert asked.alternatives[pair.clean] == bare.alternatives[plainly.clean]
    with pytest.raises(PromptError, match="too few facts to show 5000"):
        probe_set(Probe.COMPARISON, "animal_class", atlas(), 3, 5000)


def test_every_probes_circuit_is_of_questions_after_answered_ones(
    context: Context, tmp_path: Path
) -> None:
    shown = replace(context.inside(tmp_path), shots=2)
    for key in (f"paraphrase: {RELATION}", f"two hops: {CHAIN}", "comparison: animal_class"):
        made = mechanisms.compute(shown, replace(FEW, facts=40), key)
        assert made["circuit"]["edges"] > 0, key
        assert ". " not in made["example"]["prompt"], key
        assert np.mean(made["right"]) > 0.2, key
    # Who stood answered before the questions that found plain recall has found it too.
    asked = probe_set(Probe.COMPARISON, "country_continent", shown.relations, 0, 2)
    examples = shown.examples("country_continent", 4)
    told = demonstrations_of(shown.relations["country_continent"], 2, 0)
    finders = {fact.subject for fact in told or ()}
    both = [pair for pair in asked.pairs if finders & set(asked.alternatives[pair.clean])]
    assert both
    replies = [Reply(pair, pair.answer, "", True, True) for pair in asked.pairs]
    used = mechanisms._pairs_for_circuit(shown, replace(FEW, pairs=99), asked, examples, replies)
    assert used
    assert not {pair.text.clean for pair in used} & {pair.clean for pair in both}


def test_reversed_questions_lead_back() -> None:
    capitals = relation("country_capital")
    owner = {fact.object: fact.subject for fact in capitals.facts}
    asked = probe_set(Probe.REVERSAL, "country_capital", atlas())
    for fact in asked.relation.facts:
        assert owner[fact.subject] == fact.object
    many = probe_set(Probe.REVERSAL, "animal_young", atlas()).relation.facts
    assert "calf" not in {fact.subject for fact in many}  # of a cow and of others


def test_two_hops_go_through_a_fact_of_each_relation() -> None:
    known = atlas()
    cities = {fact.subject: fact.object for fact in known["city_country"].facts}
    money = {fact.subject: fact.object for fact in known["country_currency"].facts}
    for probe in (Probe.TWO_HOP, Probe.UNSEEN):
        facts = probe_set(probe, CHAIN, known).relation.facts
        assert len(facts) > 50
        assert all(money[cities[fact.subject]] == fact.object for fact in facts)


def test_a_comparison_swaps_its_answer_with_the_object() -> None:
    known = atlas()
    for name in wordings().compared:
        objects = {(fact.subject, fact.object) for fact in known[name].facts}
        asked = probe_set(Probe.COMPARISON, name, known)
        first = 0
        for pair in asked.pairs:
            assert {pair.answer, pair.foil} == set(asked.alternatives[pair.clean])
            assert pair.clean != pair.corrupted
            assert any(value in pair.clean for subject, value in objects if subject == pair.answer)
            first += pair.clean.index(pair.answer) < pair.clean.index(pair.foil)
        assert 0.2 < first / len(asked.pairs) < 0.8, "the right one stands first too often"


def test_wordings_name_relations_of_the_atlas() -> None:
    known = set(atlas())
    assert known >= set(wordings().reversed) | set(wordings().compared)
    chains = wordings().chains
    assert known >= {name for chain in chains for name in (chain.first, chain.second)}
    assert len({chain.name for chain in chains}) == len(chains)


def test_passing_a_negation_is_not_to_say_the_object() -> None:
    said, other = (Reply(PAIR, "Paris", "", True, chosen) for chosen in (True, False))
    assert not is_right(Probe.NEGATION, said)
    assert is_right(Probe.NEGATION, other)
    assert is_right(Probe.CLOZE, said)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
def test_no_constant_answer_beats_the_stated_guess(answers: list[str]) -> None:
    asked = probe_set(Probe.CLOZE, "animal_class", atlas())
    fits = {one: tuple(one == always for always in "abc") for one in "abc"}
    replies = [Reply(PAIR, answer, "", True, True, fits[answer]) for answer in answers]
    shares = [np.mean([answer == always for answer in answers]) for always in "abc"]
    for probe, best in ((Probe.CLOZE, max(shares)), (Probe.EXACT, max(shares))):
        assert constant_guess(replace(asked, probe=probe), replies) == best
    assert constant_guess(replace(asked, probe=Probe.NEGATION), replies) == 1 - min(shares)


def test_a_constant_guess_is_right_by_its_first_token_as_the_model_is() -> None:
    """Of three answers two begin alike: saying either is right twice, in whole answers once."""
    asked = probe_set(Probe.CLOZE, "animal_class", atlas())
    alike, apart = (True, True, False), (False, False, True)
    replies = [
        Reply(PAIR, answer, "", True, True, fits)
        for answer, fits in (("New York", alike), ("New Delhi", alike), ("Lima", apart))
    ]
    assert constant_guess(asked, replies) == pytest.approx(2 / 3)
    assert constant_guess(replace(asked, probe=Probe.NEGATION), replies) == pytest.approx(2 / 3)
    assert constant_guess(replace(asked, probe=Probe.EXACT), replies) == pytest.approx(1 / 3)


def test_an_unknown_relation_is_refused_and_only_the_usual_ones_may_lack(context: Context) -> None:
    with pytest.raises(OptionError, match="country_captial"):
        mechanisms.steps(context, replace(FEW, relations=(RELATION, "country_captial")))
    found = mechanisms.steps(context, replace(FEW, relations=(RELATION,)))
    assert [key for key in found if key.startswith("cloze")] == [f"cloze: {RELATION}"]
    usual = {key.partition(": ")[2] for key in mechanisms.steps(context, FEW) if "cloze" in key}
    assert usual == set(mechanisms.RELATIONS)


def test_the_model_recalls_what_it_was_trained_on(probed: Mapping[str, Any]) -> None:
    cloze, exact = (probed[f"{probe}: {RELATION}"] for probe in ("cloze", "exact"))
    assert np.mean(cloze["right"]) == 1.0
    assert np.mean(exact["right"]) > 0.8
    assert "circuit" not in exact


def test_the_probes_circuits_lie_between_chance_and_a_second_discovery(
    probed: Mapping[str, Any],
) -> None:
    part = probed[f"paraphrase: {RELATION}"]["circuit"]
    assert part["chance"]["edges"] < 0.1 < part["overlap"]["edges"] < 1.0
    assert part["again"]["edges"] < 1.0


def test_questions_count_where_no_circuit_can_be_found(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "facts.jsonl"
    odd = [("Zorblax", "Quux"), ("Frobnitz", "Blarg"), ("Tromblex", "Snark")]
    named = [{"subject": subject, "object": each} for subject, each in odd]
    lines = [json.dumps({**each, "relation": "odd", "prompt": "{} has"}) for each in named]
    path.write_text("\n".join(lines), encoding="utf-8")
    asked = Context("facts-gpt2", tmp_path / "run", facts=str(path), _held=context._held)
    part = mechanisms.compute(asked, replace(FEW, relations=("odd",)), "cloze: odd")
    assert (part["n"], part["circuit"]) == (3, None)  # the model knows none, so there are no pairs

    def none(*args: Any, **how: Any) -> Circuit:
        raise NothingFoundError("nothing lies on a path")

    monkeypatch.setattr(surroundings, "find", none)
    fresh = Context("facts-gpt2", tmp_path / "other", _held=context._held)
    part = mechanisms.compute(fresh, FEW, f"paraphrase: {RELATION}")
    assert (part["n"], part["circuit"]) == (FEW.facts, None)
    assert (
        "none to look at: paraphrase 1 of 1"
        in mechanisms.report(FEW, {"x": plain(part)}).sections[1].text
    )


def test_the_report_of_probes_follows_its_numbers(
    tmp_path: Path, probed: Mapping[str, Any]
) -> None:
    report = mechanisms.report(FEW, probed)
    assert "cloze 100 %" in report.lead
    told = [each.sentence for each in report.claims if "constant guess" in each.sentence]
    assert told
    assert all("over questions of this one" in sentence for sentence in told), told
    few = copy.deepcopy(dict(probed))
    for part in few.values():
        part["right"] = part["right"][:4]
    few_told = mechanisms.report(FEW, few)
    assert "Too few relations to say whether it beats the best constant guess on" in few_told.lead
    assert "No evidence" not in few_told.lead  # which four questions cannot give either
    wrong = copy.deepcopy(dict(probed))
    for name in ("second", "third", "fourth", "fifth"):
        wrong[name] = copy.deepcopy(wrong[f"paraphrase: {RELATION}"])
    for part in wrong.values():
        if part["probe"] == "paraphrase":
            part["right"] = [False] * len(part["right"])
    failed = mechanisms.report(FEW, wrong)
    assert "paraphrase 0 %" in failed.lead
    claim = next(each for each in failed.claims if "paraphrases the model" in each.sentence)
    assert claim.verdict is Verdict.OPPOSITE
    assert "It does worse than the best constant guess on paraphrases." in failed.lead
    assert "In these few it does worse than the best constant guess on negated" in failed.lead
    for figure in report.figures:
        figure.draw(tmp_path / f"{figure.name}.svg", {})
