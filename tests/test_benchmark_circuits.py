"""Circuits of a benchmark's cases beside their outcomes: statistics, and what is measured."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base.errors import NumericalError
from circuits.base.plain import plain
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.facts.facts import atlas
from circuits.model.model import Model, load
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import run_analysis
from experiments.benchmarks.base import NO_EDIT, Bench, Config, as_analysis
from experiments.benchmarks.circuits import rewired
from experiments.benchmarks.circuits.outcomes import (
    Beside,
    Looked,
    Outcome,
    auc,
    beside_outcomes,
    permutation_p,
    rank_correlation,
    section_of,
    together,
)
from experiments.benchmarks.circuits.rewired import LEFT_OUT, QUANTITIES
from experiments.benchmarks.pitfalls.asking import walk
from experiments.benchmarks.pitfalls.benchmark import CONFLICT_EDIT, ROUND_EDIT
from experiments.benchmarks.pitfalls.cases import Conflict
from experiments.benchmarks.pitfalls.circuits import (
    conflict_circuit,
    conflict_section,
    round_circuit,
)
from experiments.benchmarks.unlearning.benchmark import KNOW_UN_DO
from locate.changes.circuit_layers import same_words
from locate.changes.one_edit import unedited
from locate.changes.rewiring_summary import whole_numbers
from tests.edits import same, weights

FARE_WELL = Outcome("a", "a", "edits that fare well on a")


# --- statistics ----------------------------------------------------------------------------------


def test_a_quantity_that_tells_the_outcome_is_found() -> None:
    well = np.array([True, False] * 6)
    signal = np.where(well, 2.0, 1.0) + np.arange(12) / 100
    assert rank_correlation(signal, well.astype(float)).low > 0.5
    assert auc(signal, well).value == 1
    assert auc(-signal, well).value == 0
    assert permutation_p(signal, well) < 0.005
    noise = np.random.default_rng(0).normal(size=12)
    low, high = (getattr(rank_correlation(noise, well.astype(float)), x) for x in ("low", "high"))
    assert low < 0 < high
    assert np.isnan(rank_correlation(np.ones(12), well.astype(float)).value)
    assert np.isnan(auc(signal, np.ones(12, bool)).value)
    # Of the four pairs one is a tie, and in the others the one that fares well has less.
    few = np.array([1.0, 2.0, 2.0, 3.0]), np.array([True, False, True, False])
    assert auc(*few).value == 0.5 / 4
    both = Beside(FARE_WELL, {"changed": signal, "jaccard": -signal}, well * 1.0)
    higher, lower, predicted = beside_outcomes("MEMIT", [both])
    verdicts = [each.verdict for each in (higher, lower, predicted)]
    assert verdicts == [Verdict.SUPPORTED, Verdict.OPPOSITE, Verdict.SUPPORTED]
    begins = "After MEMIT, edits that fare well on a are"
    assert higher.sentence.startswith(f"{begins} higher in edges changed beyond noise: AUC")
    assert lower.sentence.startswith(f"{begins} lower in Jaccard of the circuits before and after:")
    assert predicted.sentence.startswith(
        "After MEMIT, these changes together predict “a” in cases left out: rank correlation"
    )


def test_cases_are_predicted_from_the_others_alone() -> None:
    generator = np.random.default_rng(3)
    quantities = {name: generator.normal(size=11) for name in ("changed", "jaccard", "recovered")}
    quantities["recovered"][[2, 7]] = np.nan
    outcome = quantities["changed"] + generator.normal(size=11)
    found, p = together(quantities, outcome)

    def standard(values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        ranks = np.array([(values[known] <= each).sum() for each in values[known]], dtype=float)
        filled = np.zeros(len(values))
        filled[known] = (ranks - ranks.mean()) / ranks.std()
        return filled

    x, y = np.stack([standard(each) for each in quantities.values()], 1), standard(outcome)
    predicted = []
    for case in range(11):
        rest = np.arange(11) != case
        others = x[rest].T @ (y[rest] - y[rest].mean())
        fit = np.linalg.solve(x[rest].T @ x[rest] + np.eye(3), others)
        predicted.append(float(x[case] @ fit))
    assert found.value == pytest.approx(np.corrcoef(predicted, y)[0, 1])
    assert found.low < found.value < found.high
    assert 0 < p < 1
    assert together({"changed": np.ones(11)}, outcome)[1] == 1
    few = []
    for _ in range(300):  # of noise, as often too high as too low
        noise = {name: generator.normal(size=8) for name in QUANTITIES}
        few.append(together(noise, generator.normal(size=8))[0].value)
    assert abs(float(np.mean(few))) < 0.1
    assert np.isnan(together(quantities, np.ones(11))[0].value)


@pytest.mark.slow
def test_the_p_of_a_joint_prediction_holds_its_level() -> None:
    generator, names = np.random.default_rng(5), ("changed", "switched", "recovered", "jaccard")
    found = []
    for _ in range(120):
        quantities = {name: generator.normal(size=14) for name in names}
        found.append(together(quantities, generator.normal(size=14))[1])
    assert (np.array(found) < 0.05).sum() <= 13  # more than 13 of 120 at 5 % come in 0.3 %
    assert 0.35 < float(np.mean(found)) < 0.65


def test_an_outcome_without_a_threshold_is_split_at_its_median() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4])
    assert Outcome("a", "a", "a", None).split(values).tolist() == [False, False, True, True]
    assert Outcome("a", "a", "a").split(values * 2).tolist() == [False, False, True, True]
    assert Outcome("a", "a", "a", 0.0).split(values * 0).tolist() == [False] * 4


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 20])
def test_noise_supports_claims_no_oftener_than_stated(n: int) -> None:
    """Twenty questions a method: any claim at all comes of noise in some 5 % of runs."""
    generator, well = np.random.default_rng(n), np.array([1.0, 0.0] * (n // 2))
    decided = 0
    names = ("changed", "switched", "recovered", "jaccard")
    for _ in range(60):
        noise = [{name: generator.normal(size=n) for name in names} for _ in range(4)]
        pairs = [Beside(FARE_WELL, each, well) for each in noise]
        found = {claim.verdict for claim in beside_outcomes("MEMIT", pairs)}
        decided += bool(found & {Verdict.SUPPORTED, Verdict.OPPOSITE})
    assert decided <= 7  # more than 7 of 60 at 5 % come in 1 % of cases


def test_few_cases_have_a_correlation_without_limits() -> None:
    found = rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.5, 1.0]))
    assert found.value == pytest.approx(1)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_kinds_of_cases_are_not_pooled() -> None:
    """A kind that rewires more and comes out otherwise would pass for a connection."""
    generator, units = np.random.default_rng(1), []
    for kind, level in ((Conflict.COVERAGE, 1.0), (Conflict.REVERSE, 0.0)):
        for _ in range(10):
            numbers = {name: level + generator.normal() / 9 for name in QUANTITIES}
            lost = {"magnitude_clamped": level + generator.normal() / 9}
            units.append({"conflict": kind, "circuit": numbers, "measures": {"edit": lost}})
    first, second = conflict_section({"rome": units})
    assert first.title == "The circuit beside the outcome in coverage"
    assert [table.name for table in second.tables] == ["reverse-circuits"]
    claims = [*first.claims, *second.claims]
    assert claims
    assert all(each.verdict != Verdict.SUPPORTED for each in claims)
    assert conflict_section({"rome": [{**unit, "circuit": None} for unit in units]}) == ()


def test_a_section_tells_what_is_left_out_and_what_is_alike() -> None:
    generator = np.random.default_rng(0)
    outcomes = (FARE_WELL, Outcome("b", "b", "edits with much b", None))

    def looked(case: int) -> Looked:
        if case > 9:
            return Looked({LEFT_OUT: "too few partners"}, {"a": 1.0, "b": 1.0})
        numbers = dict(zip(QUANTITIES, generator.normal(size=4).tolist(), strict=True))
        return Looked(numbers, {"a": 1.0, "b": float(case)})

    (section,) = section_of({"M": [looked(case) for case in range(12)]}, outcomes, "Of edits.", "d")
    assert section.title == "The circuit beside the outcome in d"
    assert section.text.startswith("Of edits. 2 circuits cannot be found, of a case and a method")
    (table,) = section.tables
    assert table.name == "d-circuits"
    assert {row[1] for row in table.rows} == {"b"}
    assert [row[2] for row in table.rows[:4]] == list(QUANTITIES.values())
    assert len(table.rows) == 5
    assert all(row[3] == 10 for row in table.rows)
    assert len(section.claims) == 5
    assert section_of({"M": []}, outcomes, "Of edits.") == ()
    (few,) = section_of({"M": [looked(case) for case in range(7)]}, outcomes, "Of edits.")
    assert len(few.tables[0].rows) == 5
    assert few.claims == ()
    assert few.text.startswith("Of edits. Nothing is claimed of fewer than 8 cases")


# --- what is measured ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts_gpt2() -> Model:
    return load("facts-gpt2", device="cpu")


def bench_of(benchmark: Any, model: Model, folder: Path) -> Bench:
    cases = benchmark.read(benchmark.own_data).items
    return Bench(Context.on(model, folder), Config(circuits=True), cases=cases)


def by_hand(model: Model, request: EditRequest, before: Any, delta: Any, everyone: Any) -> Any:
    """What `delta` does to the circuit of the question in a model that has what came before."""
    others = None if request.relation in atlas() else same_words(request, everyone)
    with ExitStack() as placed:
        if before is not None:
            placed.enter_context(before.applied(model))
        side = unedited(model, request, partners=8, seed=0, batch_size=16, others=others)
        numbers = whole_numbers(side.rewired(delta, 5))
    return pytest.approx({name: numbers[name] for name in QUANTITIES}, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(Conflict))
def test_a_conflicts_circuit_is_that_of_the_first_question_with_the_first_edit_made(
    facts_gpt2: Model, tmp_path: Path, kind: Conflict
) -> None:
    bench = bench_of(CONFLICT_EDIT, facts_gpt2, tmp_path)
    case = next(each for each in bench.cases if each.conflict == kind)
    first, second = case.edits
    done = walk(bench, EditMethod.ROME, [[first], [second]], case.facts)
    untouched = weights(facts_gpt2)
    found = conflict_circuit(bench, case, done.deltas)
    other = second.target if kind == Conflict.COVERAGE else first.ground_truth
    asked = EditRequest(first.prompt, first.subject, str(other), first.target, first.relation)
    everyone = [edit for each in bench.cases for edit in each.edits]
    assert found == by_hand(facts_gpt2, asked, *done.deltas, everyone)
    assert same(weights(facts_gpt2), untouched)
    for changes in ([None, done.deltas[1]], [done.deltas[0], None]):
        assert LEFT_OUT in conflict_circuit(bench, case, changes)


def test_scores_that_are_not_finite_leave_a_case_without_a_circuit(
    facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(*_: Any, **__: Any) -> Any:
        raise NumericalError("the scores are not finite")

    monkeypatch.setattr(rewired, "unedited", overflowing)
    bench = bench_of(ROUND_EDIT, facts_gpt2, tmp_path)
    found = rewired.rewired_by(bench, bench.cases[0].there, WeightDelta({}), ())
    assert found == {LEFT_OUT: "the scores are not finite"}


@pytest.mark.slow
def test_a_round_trips_circuit_is_that_of_both_ways_together(
    facts_gpt2: Model, tmp_path: Path
) -> None:
    bench = bench_of(ROUND_EDIT, facts_gpt2, tmp_path)
    everyone = [each.there for each in bench.cases]
    for case in bench.cases:
        done = walk(bench, EditMethod.ROME, [[case.there], [case.back]], case.facts)
        found = round_circuit(bench, case, done.deltas)
        if LEFT_OUT not in found:
            break
    there, back = done.deltas
    assert found == by_hand(facts_gpt2, case.there, None, there + back, everyone)
    assert LEFT_OUT in round_circuit(bench, case, [None, None])


@pytest.mark.slow
def test_facts_that_unlearning_forgets_have_their_circuits_beside(
    facts_gpt2: Model, tmp_path: Path
) -> None:
    cases = KNOW_UN_DO.read(KNOW_UN_DO.own_data)
    cases = replace(cases, items=tuple(each for each in cases.items if each.domain == "copyright"))
    config = Config((NO_EDIT, "ga"), settings=("neither=12",), circuits=True)
    run = run_analysis(as_analysis(KNOW_UN_DO, cases), config, Context.on(facts_gpt2, tmp_path))
    unit = run.parts.values["ga"]["domains"]["copyright"]
    circuits = unit["circuits"]
    assert len(circuits) == unit["neither"]["known"] == 12
    assert sum(LEFT_OUT not in each for each in circuits) >= 8
    assert any(each.get("changed", 0) > 0 for each in circuits)
    assert "circuits" not in plain(run.parts.values[NO_EDIT]["domains"]["copyright"])
    title = "The circuit beside the outcome in copyright"
    (section,) = (each for each in run.report.sections if each.title == title)
    assert section.text.startswith("The circuits are those of known facts of neither set")
