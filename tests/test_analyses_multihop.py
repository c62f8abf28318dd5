"""Two hops: questions are what they say, overlaps obey laws, the report follows the numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base import plain
from circuits.base.errors import NothingFoundError, PromptError
from circuits.facts.facts import Fact, atlas, relation
from circuits.graph.circuit import Circuit
from circuits.graph.overlap import overlap
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.multihop import analysis
from experiments.analyses.multihop.analysis import ANALYSIS, Config, compute, steps, strongest
from experiments.analyses.multihop.prompts import (
    Asking,
    Chain,
    Form,
    TwoHops,
    chains_of,
    halves_of,
    pairs_of,
    reversed_facts,
    shown_of,
    two_hops,
    wording,
)
from experiments.analyses.multihop.report import REVERSAL
from locate.seen import subjects_of

CHAIN = "landmark_country > country_language"
QUICK = Config(
    chains=(CHAIN,),
    reversals=1,
    forms=(Form.WRITTEN,),
    pairs=6,
    steps=1,
    draws=4,
    unrelated=2,
    edges=150,
)


@pytest.fixture(scope="module")
def parts(context: Context) -> dict[str, Any]:
    return {CHAIN: plain.plain(compute(context, QUICK, CHAIN))}


def chain() -> Chain:
    return next(each for each in chains_of(atlas()) if each.name == CHAIN)


def asked_in(form: Form, shown: tuple[TwoHops, ...] = ()) -> Asking:
    return Asking(lambda hops: wording(chain(), form, hops), shown)


# --- questions -----------------------------------------------------------------------------------


def test_every_chain_meets_in_a_bridge() -> None:
    found = list(chains_of(atlas()))
    assert len(found) > 20
    for each in found:
        assert two_hops(each, lambda *_: True), each.name


def test_the_bridge_is_the_first_object_and_the_second_subject() -> None:
    first, second = relation("landmark_country"), relation("country_language")
    for hops in two_hops(chain(), lambda *_: True):
        assert hops.bridge in first.objects_of(hops.subject)
        assert hops.answer in second.objects_of(hops.bridge)


def test_only_facts_that_are_known_are_chained() -> None:
    known = two_hops(
        chain(), lambda asked, subject: subject in ("Louvre", "Eiffel Tower", "France")
    )
    assert known
    assert {hops.bridge for hops in known} == {"France"}


def test_the_bridge_is_named_in_every_form_but_the_nested_one() -> None:
    hops = two_hops(chain(), lambda *_: True)[0]
    nested, follow, written = (wording(chain(), form, hops) for form in Form)
    assert nested
    assert follow
    assert written
    assert hops.bridge not in nested
    assert hops.subject in nested
    assert follow.count(hops.bridge) == 1
    assert written.count(hops.bridge) == 2
    assert follow.split(". ")[0] == written.split(". ")[0]


def test_pairs_ask_the_same_of_another_subject_and_another_bridge(context: Context) -> None:
    facts = two_hops(chain(), lambda *_: True)[:20]
    made = pairs_of(context.model, facts, asked_in(Form.WRITTEN), 0)
    assert len(made) > 5
    bridges = {hops.subject: hops.bridge for hops in facts}
    for pair in made:
        assert len(pair.clean) == len(pair.corrupted)
        assert pair.answer != pair.foil
        assert bridges[pair.text.subject or ""] not in pair.text.corrupted


def test_what_is_shown_answered_is_never_asked_nor_its_bridge() -> None:
    facts = two_hops(chain(), lambda *_: True)
    asked = [hops for hops in facts if hops.bridge not in ("France", "Japan")]
    shown, rest = shown_of(facts, asked, 3, 0)
    assert len(shown) == len({hops.bridge for hops in shown}) == 3
    assert {"France", "Japan"} <= {hops.bridge for hops in shown}  # which cost nothing
    assert len({hops.answer for hops in shown}) == 3
    used = {name for hops in shown for name in (hops.subject, hops.bridge)}
    assert rest == [hops for hops in asked if used.isdisjoint((hops.subject, hops.bridge))]
    assert len(asked) - len(rest) == min(
        sum(hops.bridge == each for hops in asked) for each in {hops.bridge for hops in asked}
    )
    assert shown_of(facts, asked, 3, 0)[0] == shown
    assert shown_of(facts, asked, 0, 0) == ((), asked)
    with pytest.raises(PromptError, match="too few facts to show 99"):
        shown_of(facts, asked, 99, 0)


@pytest.mark.parametrize("form", list(Form))
def test_shown_facts_stand_answered_in_the_same_form_before_both_prompts(
    context: Context, form: Form
) -> None:
    facts = two_hops(chain(), lambda *_: True)
    shown, rest = shown_of(facts, facts[:20], 2, 0)
    bare, made = (pairs_of(context.model, rest, asked_in(form, each), 0) for each in ((), shown))
    before = "".join(f"{wording(chain(), form, hops)} {hops.answer}. " for hops in shown)
    assert made
    questions = {pair.text.clean for pair in bare}
    for pair in made:
        assert pair.text.start == len(before)
        assert pair.text.clean[: len(before)] == pair.text.corrupted[: len(before)] == before
        assert pair.text.clean[len(before) :] in questions
        assert pair.start > 5
        assert pair.subject is not None
        assert pair.subject.start >= pair.start


def test_halves_are_all_facts_and_have_no_bridge_in_common() -> None:
    facts = two_hops(chain(), lambda *_: True)
    one, other = halves_of(facts, 0)
    assert sorted(map(str, one + other)) == sorted(map(str, facts))
    assert not {hops.bridge for hops in one} & {hops.bridge for hops in other}
    largest = max(sum(each.bridge == hops.bridge for each in facts) for hops in facts)
    assert abs(len(one) - len(other)) <= largest
    assert halves_of(facts, 1) != (one, other)


@pytest.mark.slow
def test_the_hops_circuits_are_of_nobody_who_tests(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}
    tested: list[Any] = []
    plain_circuit, plain_runs = context.circuit, analysis.run_circuits
    monkeypatch.setattr(
        context,
        "circuit",
        lambda name, *rest, **more: (
            found.setdefault(name, more.get("examples")),
            plain_circuit(name, *rest, **more),
        )[1],
    )
    monkeypatch.setattr(
        analysis,
        "run_circuits",
        lambda model, pairs, *rest, **more: (
            tested.extend(pairs),
            plain_runs(model, pairs, *rest, **more),
        )[1],
    )
    compute(context, QUICK, CHAIN)
    bridges = {hops.subject: hops.bridge for hops in two_hops(chain(), lambda *_: True)}
    names = {pair.text.subject or "" for pair in tested}
    names |= {bridges[name] for name in names}
    assert tested
    for name in CHAIN.split(" > "):
        for pair in found[name].pairs:
            assert not subjects_of(pair.text) & names


def test_backwards_only_objects_of_one_subject_are_asked() -> None:
    facts = (Fact("r", "a", "x"), Fact("r", "b", "y"), Fact("r", "c", "y"))
    small = replace(relation("country_capital"), facts=facts)
    assert reversed_facts(small) == [TwoHops("x", "x", "a")]


def test_facts_without_chains_are_told_what_a_chain_takes(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("subject,object,prompt\nFrance,Paris,The capital of {} is\n")
    with pytest.raises(
        PromptError, match=r"objects of one are the subjects of another .*have none"
    ):
        steps(Context("facts-gpt2", tmp_path, facts=str(own)), Config())


def test_units_are_chains_then_relations_backwards(context: Context) -> None:
    keys = steps(context, Config(most=3, reversals=2))
    assert [key.startswith(REVERSAL) for key in keys] == [False] * 3 + [True] * 2
    with pytest.raises(PromptError, match="no chain"):
        steps(context, Config(chains=("country_capital > verb_past",)))


# --- overlap -------------------------------------------------------------------------------------


def scored(seed: int) -> Circuit:
    wiring = Wiring(3, 2, 2)
    values = np.random.default_rng(seed).normal(size=wiring.n_edges).astype(np.float32)
    kept = np.abs(values) > 1.2
    return Circuit(wiring, kept, EdgeScores(wiring, values))


def test_a_circuit_lies_wholly_in_itself() -> None:
    own = scored(0)
    found = overlap(own, [own, scored(1)])
    assert found.edges == found.nodes == found.hop_edges[0] == 1.0


def test_the_strongest_edges_of_one_circuit_are_its_own() -> None:
    own = scored(0)
    assert strongest([own], own.n_edges) == Circuit(own.wiring, own.kept)
    size = min(own.n_edges, scored(1).n_edges)
    both = strongest([own, scored(1)], size)
    assert both.n_edges == size
    assert overlap(both, [own, scored(1)]).edges == 1.0


def test_shares_of_the_parts_are_shares(parts: dict[str, Any]) -> None:
    found = parts[CHAIN]["forms"]["written"]
    for beside in ("hops", "again", "random", "unrelated"):
        for what in ("nodes", "edges"):
            assert 0 <= found[beside][what] <= 1
    assert found["hops"]["edges"] >= max(found["hops"]["each_edges"])
    assert found["random"]["edges"] < found["hops"]["edges"]
    assert found["chance"] <= 1


# --- the report ----------------------------------------------------------------------------------


def many(parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {f"chain {at}": copy.deepcopy(parts[CHAIN]) for at in range(5)}
    for part in made.values():
        for name, value in changes.items():
            part["forms"]["written"][name].update(value)
    return made


def test_an_unrelated_relation_whose_circuit_is_empty_is_passed_over(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = analysis._Chained(context, replace(QUICK, unrelated=2))
    asked: list[str] = []

    def circuit(name: str) -> Circuit:
        asked.append(name)
        if len(asked) == 1:
            raise NothingFoundError("no edge is on a path")
        return Circuit(context.model.wiring(), np.ones(context.model.wiring().n_edges, dtype=bool))

    monkeypatch.setattr(looking, "_of", circuit)
    assert len(looking._unrelated([relation("country_language")])) == 2
    assert len(set(asked)) == 3


@pytest.mark.parametrize(
    ("unrelated", "verdict"),
    [(0.1, Verdict.SUPPORTED), (0.9, Verdict.OPPOSITE), (0.5, Verdict.NO_EVIDENCE)],
)
def test_the_verdict_on_overlap_turns_with_the_control(
    parts: dict[str, Any], unrelated: float, verdict: Verdict
) -> None:
    changed = many(parts, hops={"edges": 0.5}, unrelated={"edges": unrelated})
    report = ANALYSIS.report(QUICK, changed)
    found = [claim for claim in report.answer if "unrelated" in claim.sentence]
    assert [claim.verdict for claim in found] == [verdict]
    assert ("points of the overlap" in report.lead) is (verdict is Verdict.SUPPORTED)


def test_faithfulness_to_questions_that_are_not_answered_is_left_out(
    parts: dict[str, Any],
) -> None:
    changed = many(parts, function={"whole": -1.0, "empty": -4.0, "hops": 5.0})
    table = next(t for t in ANALYSIS.report(QUICK, changed).tables if t.name == "function")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert np.isnan(row["circuits of the hops"].value)
    assert row["whole model"].value == -1.0


def test_the_report_draws_its_figures(parts: dict[str, Any], tmp_path: Path) -> None:
    figures = ANALYSIS.report(QUICK, many(parts)).figures
    assert {figure.name for figure in figures} == {"answers", "overlap"}
    for figure in figures:
        figure.draw(tmp_path / f"{figure.name}.svg")
        assert (tmp_path / f"{figure.name}.svg").stat().st_size > 2000
