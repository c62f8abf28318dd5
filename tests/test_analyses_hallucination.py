"""Wrong answers to known facts: cases are what they say, and the report follows the numbers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.base import plain
from circuits.facts.demonstrations import Style, can_demonstrate, with_demonstrations
from circuits.facts.facts import Fact, Relation, fill, relation
from circuits.facts.questions import KnowledgeCheck
from circuits.model.model import Model
from circuits.model.wiring import Wiring, node_kind
from experiments.analyses.engine.by_layer import parting
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.hallucination.analysis import ANALYSIS, Config, compute
from experiments.analyses.hallucination.circuit_report import writer_claims, writer_section
from experiments.analyses.hallucination.look import chance_of_attribute
from experiments.analyses.hallucination.numbers import gather, group_rows
from experiments.analyses.hallucination.recall import (
    Case,
    Cases,
    Kind,
    attributes,
    find_cases,
    kind_of,
    subject_at,
)
from experiments.analyses.hallucination.repair import OTHER_LAST, OTHER_WRONG, matched

pytestmark = pytest.mark.slow

RELATION = "noun_plural"
QUICK = Config(relations=(RELATION,), facts=4, edge_facts=6, draws=4, components=(1, 3), steps=1)


@pytest.fixture(scope="module")
def parts(context: Context) -> dict[str, Any]:
    return {RELATION: plain.plain(compute(context, QUICK, RELATION))}


@pytest.fixture(scope="module")
def cases(context: Context) -> Cases:
    asked = relation(RELATION)
    return find_cases(context.model, asked, (*asked.templates[:2], *asked.held_out), 5)


@torch.no_grad()
def best(model: Model, text: str) -> int:
    """The likeliest next token, by the plain Hugging Face model."""
    ids = [model.tokenizer.hf.bos_token_id, *model.tokenizer.hf(text)["input_ids"]]
    return int(model.to_hf(share=True)(torch.tensor([ids])).logits[0, -1].argmax())


# --- cases ---------------------------------------------------------------------------------------


def test_a_case_is_wrong_in_its_one_prompt_and_right_in_the_others(
    context: Context, cases: Cases
) -> None:
    model = context.model
    assert len(cases.cases) == 5
    for case in cases.cases:
        assert case.again is not None
        assert best(model, case.wrong.text) == case.said != case.answer
        assert best(model, case.right.text) == best(model, case.again.text) == case.answer
        assert len({case.wrong.text, case.right.text, case.again.text}) == 3


def test_counts_of_questions_add_up(cases: Cases) -> None:
    assert cases.questions == cases.facts * 4
    assert cases.wrong >= cases.recoverable + cases.never


def test_the_same_seed_gives_the_same_cases(context: Context, cases: Cases) -> None:
    asked = relation(RELATION)
    again = find_cases(context.model, asked, (*asked.templates[:2], *asked.held_out), 5)
    assert [case.wrong.text for case in again.cases] == [case.wrong.text for case in cases.cases]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Canberra", Kind.OTHER_RELATION),
        ("Toronto", Kind.OTHER_SUBJECT),
        ("Australia", Kind.SUBJECT),
        ("because", Kind.NO_OBJECT),
    ],
)
def test_a_wrong_answer_is_named_for_what_it_is(context: Context, said: str, kind: Kind) -> None:
    largest, tokenizer = relation("country_largest_city"), context.model.tokenizer
    fact = next(fact for fact in largest.facts if fact.subject == "Australia")
    wording = "The largest city of {} is"
    prompt = tokenizer.encode(fill(wording, "Australia"))
    true_of = attributes(largest, [relation("country_capital"), relation("city_country")])
    token = tokenizer.first_token(prompt.text, said)
    assert kind_of(tokenizer, fact, prompt, wording, token, largest, true_of) is kind


def test_a_subject_is_found_where_the_question_has_it(context: Context) -> None:
    """Named twice, with an ending, and after a fact in the same words."""
    tokenizer = context.model.tokenizer
    for wording, nth in (("In Peru, {} is", 2), ("Peruvian {}n is", 2)):
        fact = Fact("r", "Peru", "Lima")
        for before, more in (("", 0), ("Peru was. ", 1)):
            prompt = tokenizer.encode(before + fill(wording, fact.subject))
            assert subject_at(prompt, fact, wording) == prompt.span_of("Peru", nth + more)


def test_demonstrations_stand_before_a_question_that_mentions_its_subject_once() -> None:
    shown = [Fact("capital", "France", "Paris"), Fact("capital", "Peru", "Lima")]
    template = "The capital of {} is"
    text = with_demonstrations(template, "Japan", shown)
    assert text == "The capital of France is Paris. The capital of Peru is Lima. " + fill(
        template, "Japan"
    )
    assert with_demonstrations(template, "Japan", []) == fill(template, "Japan")
    assert with_demonstrations(template, "Japan", shown, Style.LIST) == (
        "France: Paris. Peru: Lima. Japan:"
    )


def test_an_example_that_names_the_subject_or_gives_the_answer_away_is_refused() -> None:
    assert can_demonstrate(Fact("capital", "France", "Paris"), "Japan", "Tokyo")
    assert not can_demonstrate(Fact("capital", "Japan", "Tokyo"), "Japan", "Kyoto")
    assert not can_demonstrate(Fact("city", "Kyoto", "Japan"), "Tokyo", "Japan")
    assert not can_demonstrate(Fact("capital", "Korea", "Seoul"), "South Korea", "Pyongyang")


# --- repairs -------------------------------------------------------------------------------------


def test_matched_components_are_others_of_the_same_kinds() -> None:
    wiring, generator = Wiring(4, 4, 4), np.random.default_rng(0)
    blamed = [wiring.mlp_src(0), wiring.head_src(2, 1), wiring.head_src(2, 3)]
    chosen = matched(wiring, blamed, generator)
    assert len(set(chosen)) == 3
    assert not set(chosen) & set(blamed)
    names = wiring.src_names
    assert [node_kind(names[a]) for a in chosen] == [node_kind(names[b]) for b in blamed]
    assert {names[src][:2] for src in chosen[1:]} == {"a2"}


def test_the_donors_own_last_state_repairs_every_case(parts: dict[str, Any]) -> None:
    followed = parts[RELATION]["followed"]
    assert all(row[-1] == 1.0 for row in followed["states"]["same fact"])


def test_shares_of_repairs_lie_between_none_and_all(parts: dict[str, Any]) -> None:
    found = parts[RELATION]["followed"]["components"]["same fact"]
    for kind in ("blamed", "random", "matched"):
        values = np.array(found[kind])
        assert values.shape == (2, 4)
        assert ((values >= 0) & (values <= 1)).all()
    assert set(np.unique(found["blamed"])) <= {0.0, 1.0}


def test_logits_favour_what_is_said_where_the_answer_is_wrong_and_the_truth_where_it_is_right(
    context: Context, parts: dict[str, Any]
) -> None:
    written = parts[RELATION]["followed"]["written"]
    for side, sign in (("wrong", -1), ("right", 1)):
        assert all(sign * each > 0 for each in written[f"{side}_difference"])


# --- the report ----------------------------------------------------------------------------------


def many(parts: dict[str, Any], n: int = 6) -> dict[str, Any]:
    """The same relation under several names, so that there is something to resample."""
    return {f"relation {place}": copy.deepcopy(parts[RELATION]) for place in range(n)}


def verdicts(parts: dict[str, Any]) -> dict[str, Verdict]:
    report = ANALYSIS.report(QUICK, parts)
    return {claim.sentence: claim.verdict for claim in report.claims}


def claimed(parts: dict[str, Any], words: str) -> Verdict:
    found = [verdict for text, verdict in verdicts(parts).items() if words in text.lower()]
    assert len(found) == 1, words
    return found[0]


def test_the_verdict_on_repairs_turns_with_the_numbers(parts: dict[str, Any]) -> None:
    turned, equal = many(parts), many(parts)
    for each in turned.values():
        states = each["followed"]["states"]
        states[OTHER_LAST] = [[1.0] * 8] * 4
        states[OTHER_WRONG] = [[0.0] * 8] * 4
    assert claimed(turned, "right wording than where it was") is Verdict.SUPPORTED
    for each in turned.values():
        states = each["followed"]["states"]
        states[OTHER_LAST], states[OTHER_WRONG] = states[OTHER_WRONG], states[OTHER_LAST]
    assert claimed(turned, "right wording than in the wrong one") is Verdict.OPPOSITE
    for each in equal.values():
        states = each["followed"]["states"]
        states[OTHER_WRONG] = states[OTHER_LAST]
    assert claimed(equal, "right wording than where it was") is Verdict.NO_EVIDENCE


def test_the_report_writes_its_figures(parts: dict[str, Any], tmp_path: Path) -> None:
    report = ANALYSIS.report(QUICK, parts)
    assert {figure.name for figure in report.figures} >= {"curves", "writers", "states"}
    for figure in report.figures:
        path = tmp_path / f"{figure.name}.svg"
        figure.draw(path)
        assert path.stat().st_size > 2000


def written_by(mover: float, roles: dict[str, str]) -> dict[str, Any]:
    """A relation of four cases in which one head alone writes, whatever is known of its role."""
    rows = [[0.0, mover, 0.0, 0.0]] * 4
    written = {"sources": ["input", "a0.h0", "a0.h1", "m0"], "wrong": rows, "right": rows}
    written |= {f"{side}_difference": [mover] * 4 for side in ("wrong", "right")}
    followed = {"cases": [{"kind": "no object", "paired": True}] * 4, "chance_of_attribute": 0.0}
    followed |= {"attention": {"wrong": [], "right": []}, "states": {}, "components": None}
    return {"followed": {**followed, "roles": roles, "written": written}}


def test_relations_without_mover_heads_say_nothing_of_kinds_of_heads() -> None:
    told = {f"told {place}": written_by(2.0, {"a0.h0": "mover"}) for place in range(5)}
    rows = gather(told | {f"untold {place}": written_by(6.0, {}) for place in range(5)})
    groups = group_rows(rows)
    assert np.nanmean(groups["mover heads"][0]) == 2.0
    assert "other heads" not in groups  # what unknown movers write is not theirs
    assert groups["all"][0].mean() == 4.0
    claim = writer_claims(rows)[0]
    assert (claim.estimate.value, claim.n) == (-2.0, 5)
    (note,) = (table.note for table in writer_section(rows).tables if table.name == "writers")
    assert "without the 5 relations in which none is known to be a mover" in note
    none = gather({f"untold {place}": written_by(6.0, {}) for place in range(5)})
    assert writer_claims(none)[0].verdict is Verdict.UNDEFINED


def test_donors_that_no_case_has_are_left_open(parts: dict[str, Any], tmp_path: Path) -> None:
    """Facts of one wording have no other subject that is answered right in another."""
    several = many(parts)
    for each in several.values():
        states = each["followed"]["states"]
        states[OTHER_LAST] = [None] * 4
    report = ANALYSIS.report(QUICK, several)
    assert "stays open" in report.lead
    open_ones = [claim.sentence for claim in report.claims if claim.verdict is Verdict.UNDEFINED]
    assert any("early state at the last token" in each for each in open_ones)
    (states_,) = (figure for figure in report.figures if figure.name == "states")
    states_.draw(tmp_path / "states.svg")


def test_facts_of_one_wording_make_a_report(context: Context, tmp_path: Path) -> None:
    """No wording but this one, which examples alone make right."""
    path = tmp_path / "facts.jsonl"
    facts = relation("country_capital").facts[:24]
    named = [{"subject": each.subject, "object": each.object} for each in facts]
    lines = [json.dumps({**each, "relation": "capital", "prompt": "Q: {}? A:"}) for each in named]
    path.write_text("\n".join(lines), encoding="utf-8")
    asked = Context("facts-gpt2", tmp_path / "run", facts=str(path), _held=context._held)
    config = replace(QUICK, relations=("capital",), draws=2)
    made = {"capital": plain.plain(compute(asked, config, "capital"))}
    report = ANALYSIS.report(config, made)
    assert made["capital"]["followed"] is not None
    assert any("cannot be said" in claim.sentence for claim in report.claims)


def test_the_chance_of_a_true_answer_is_that_of_the_other_cases(context: Context) -> None:
    """Always where each answer is true of both subjects, never where only of its own."""
    model = context.model
    chance = {}
    for name, true_of in {
        "own": {"Australia": {"Canberra"}, "Canada": {"Toronto"}},
        "both": {each: {"Canberra", "Toronto"} for each in ("Australia", "Canada")},
    }.items():
        made = []
        for subject, said in (("Australia", "Canberra"), ("Canada", "Toronto")):
            prompt = model.tokenizer.encode(f"The continent of {subject} is")
            made.append(
                Case(
                    fact=Fact("r", subject, "x"),
                    wrong=prompt,
                    right=prompt,
                    again=None,
                    answer=0,
                    said=model.tokenizer.first_token(prompt.text, said),
                    kind=Kind.OTHER_RELATION,
                    wordings=("The continent of {} is",) * 2 + (None,),
                    by_demonstrations=False,
                )
            )
        found = Cases(tuple(made), KnowledgeCheck(()), 2, 2, 0)
        asked = Relation("r", "c", "k", tuple(each.fact for each in made))
        chance[name] = chance_of_attribute(model, found, asked, true_of)
    assert chance == {"own": 0.0, "both": 1.0}
    alone = chance_of_attribute(model, replace(found, cases=found.cases[:1]), asked, true_of)
    assert np.isnan(alone)


def test_a_report_without_cases_says_so() -> None:
    counts = {"facts": 3, "recoverable": 0, "never": 0, "questions": 9, "wrong": 0, "wordings": 3}
    report = ANALYSIS.report(QUICK, {"easy": {"counts": counts, "followed": None}})
    assert "0 are answered wrong" in report.lead
    assert "No relation has enough" in report.lead


# --- where curves part ---------------------------------------------------------------------------


def test_equal_curves_part_nowhere() -> None:
    values = np.random.default_rng(0).random((20, 5))
    assert parting(values, values, [str(row) for row in range(20)]).first is None


def test_curves_part_where_the_difference_begins_and_stays() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(2, 24, 6)) * 0.1
    left[:, 1] += 1.0  # a difference that does not last is no parting
    left[:, 4:] += 1.0
    found = parting(left, right, [str(row) for row in range(24)])
    assert found.first == 4
    assert found.where == "after layer 3"
    assert parting(right, left, [str(row) for row in range(24)]).first is None


def test_one_cluster_says_nothing() -> None:
    left = np.ones((10, 3))
    assert parting(left, np.zeros((10, 3)), ["all"] * 10).first is None
