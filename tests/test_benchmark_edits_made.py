"""What benchmarks of edits count: failed edits, requests made together, controls, lengths."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base.choices import EditStatus
from circuits.base.errors import PromptError
from circuits.base.plain import plain
from circuits.edits.edit import EditRequest
from circuits.edits.effects.control import control_seed
from circuits.edits.judge.in_context import in_context
from circuits.edits.judge.measures import SCORINGS, Measure, Rates
from circuits.edits.judge.success import Judge, RequestScore
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model, load
from experiments.analyses.edit_study import analysis as edit_study
from experiments.analyses.edit_study.stored import by_method, score_values
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import run_analysis
from experiments.benchmarks.base import NO_EDIT, Config, as_analysis
from experiments.benchmarks.editing import lifelong, run
from experiments.benchmarks.editing.report import known_share, report
from experiments.benchmarks.editing.run import RANDOM, fluency_length
from experiments.benchmarks.registry import benchmark

Editor = Callable[..., EditOutcome]


@pytest.fixture(scope="module")
def facts_gpt2() -> Model:
    return load("facts-gpt2", device="cpu")


def without(editor: Editor, subjects: Sequence[str]) -> Editor:
    """The editor, whose edits of these subjects diverge."""

    def edit(requests: Sequence[EditRequest], *args: Any, **options: Any) -> EditOutcome:
        if requests[0].subject in subjects:
            return EditOutcome(None, EditStatus.DIVERGED, "x", (), tuple(requests), "made to fail")
        return editor(requests, *args, **options)

    return edit


def fail(monkeypatch: pytest.MonkeyPatch, subjects: Sequence[str], by: str | None = None) -> None:
    """Edits of these subjects diverge; `by` is the method that makes the others."""
    made = run.editor_of
    for module in (run, lifelong):
        monkeypatch.setattr(
            module, "editor_of", lambda bench, method: without(made(bench, by or method), subjects)
        )


def done(name: str, model: Model, folder: Path, config: Config, data: Path | None = None) -> Run:
    found = benchmark(name)
    return run_analysis(
        as_analysis(found, found.read(data or found.own_data)), config, Context.on(model, folder)
    )


def row_of(found: Run, table: str, label: str) -> dict[str, Any]:
    (row,) = [row for row in found.tables[table].rows if row[0] == label]
    return dict(zip(found.tables[table].columns, row, strict=True))


# --- edits that are not made ----------------------------------------------------------------------


@pytest.mark.slow
def test_an_edit_that_diverged_counts_as_the_unedited_model(
    facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config((NO_EDIT, "memit"), 2)
    cases = benchmark("counterfact").read(benchmark("counterfact").own_data).items
    whole = done("counterfact", facts_gpt2, tmp_path / "whole", config)
    subjects = [cases[part["case"] - 1].requests[0].subject for part in _edited(whole)]
    fail(monkeypatch, subjects[:1])
    half = done("counterfact", facts_gpt2, tmp_path / "half", config)
    fail(monkeypatch, subjects)
    none = done("counterfact", facts_gpt2, tmp_path / "none", config)
    for found, made, said in ((whole, "2 of 2", 1), (half, "1 of 2", 0.5), (none, "0 of 2", 0)):
        for label in ("MEMIT", "MEMIT, random change"):
            row = row_of(found, "success_generation", label)
            assert row["edits made"] == made
            assert row["reliability"].value == (said if label == "MEMIT" else 0)
        assert row_of(found, "success_generation", "no edit")["edits made"] is None
        assert (f", {made} edits made" in found.report.lead) == (said < 1)
    unedited = row_of(none, "success_generation", "no edit")
    for label in ("MEMIT", "MEMIT, random change"):
        failed = row_of(none, "success_generation", label)
        del failed["edits made"], failed["method"]
        assert failed.items() <= unedited.items()
    assert row_of(none, "cost", "MEMIT")["outcomes"] == "2 diverged"


def _edited(found: Run) -> list[Mapping[str, Any]]:
    return [part for part in found.parts.values.values() if part["method"] != NO_EDIT]


def test_what_was_said_already_counts_as_said(facts_gpt2: Model, tmp_path: Path) -> None:
    row = {"prompt": "The capital of Peru is", "subject": "Peru", "target_new": "Lima"}
    data = tmp_path / "e.json"
    data.write_text(json.dumps([row]), encoding="utf-8")
    found = done("counterfact", facts_gpt2, tmp_path / "out", Config(("memit",)), data)
    assert found.parts.values["memit 1"]["status"] == {str(EditStatus.NO_CHANGE): 1}
    row = row_of(found, "success_generation", "MEMIT")
    assert (row["edits made"], row["reliability"].value) == ("0 of 1", 1)


@pytest.mark.slow
def test_a_sequence_counts_edits_that_were_not_made(
    facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(("memit",), settings=("every=3",))
    rows = json.loads(lifelong.LIFELONG.own_data.read_text(encoding="utf-8"))[:3]
    data = tmp_path / "c.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    subjects = [row["requested_rewrite"]["subject"] for row in rows]
    for count, said in ((0, "3 of 3"), (1, "2 of 3"), (3, "0 of 3")):
        with monkeypatch.context() as patch:
            fail(patch, subjects[:count])
            found = done("lifelong", facts_gpt2, tmp_path / str(count), config, data)
        part = found.parts.values["memit"]
        assert f"fter {said} edits by MEMIT" in found.report.lead
        assert len(part["right_after"]) == len(part["stops"][-1]["scores"]) == 3
        rates = rows_of(found, "sequence", "MEMIT", "generation")[0]
        said_of = [each["after"]["efficacy"]["generation"] for each in part["right_after"]]
        assert said_of[:count] == [0] * count
        assert sum(said_of) >= 2 - count
        assert rates["reliability"].value == pytest.approx(sum(said_of) / 3)
        (unedited,) = rows_of(found, "sequence", "no edit", "generation")
        before = [each["before"]["efficacy"]["generation"] for each in part["right_after"]]
        assert unedited["reliability"].value == pytest.approx(sum(before) / 3)
        beside = rows_of(found, "sequence", "MEMIT, random change", "tokens")
        assert len(beside) == (count < 3)
        if beside:
            assert [len(each["scores"]) for each in part["random"]] == [3] * lifelong.DRAWS
            assert len({each["drift"] for each in part["random"]}) == lifelong.DRAWS
            assert beside[0]["reliability"].value <= rates["reliability"].value
            assert all(0.9 < each["drift"] < 1.1 for each in part["random"])
        every = rows_of(found, "every_measure", "MEMIT", "likelihood")
        assert (3, "efficacy") in {(row["edits"], row["measure"]) for row in every}
        # What no report reads is not sampled.
        assert part["right_after"][0]["fluency"] == [None, None]


def test_what_a_sequence_spoils_is_held_beside_a_random_change_of_its_size() -> None:
    def scores(kept: float) -> list[dict[str, Any]]:
        def rates(value: float) -> dict[str, float]:
            return dict.fromkeys(SCORINGS, value)

        after = {"efficacy": rates(1.0), "locality": rates(kept)}
        before = {"efficacy": rates(0.0), "locality": rates(1.0)}
        return [{"before": before, "after": after}] * 8

    part = {
        **{"method": "ft", "status": {"done": 8}, "failed": [], "left_out": [], "growth": {}},
        "right_after": scores(0.75),
        "stops": [{"edits": 8, "made": 8, "scores": scores(0.25), "drift": 1.5}],
        "random": [{"scores": scores(kept), "drift": 1.0} for kept in (1.0, 0.7, 1.0)],
    }
    made = lifelong.report({"ft": part})
    claim = next(each for each in made.claims if "random changes of their size" in each.sentence)
    begins = "After all edits by FT-M less of the rest is as it was than after random changes"
    assert claim.sentence.startswith(begins)
    assert claim.estimate.value == pytest.approx(65)
    assert claim.verdict == Verdict.SUPPORTED
    falls = next(each for each in made.claims if "right after each edit than in" in each.sentence)
    assert falls.sentence.startswith("By FT-M more of the rest is as it was right after each edit")
    assert (falls.estimate.value, falls.verdict) == (50.0, Verdict.SUPPORTED)
    rows = {(row[0], row[2], row[3]): row for row in made.tables[0].rows}
    kept = {key: row[-2].value for key, row in rows.items() if key[2] == "generation"}
    assert kept == {
        ("no edit", "", "generation"): 1.0,
        ("FT-M", "right after", "generation"): 0.75,
        ("FT-M", "in the end", "generation"): 0.25,
        ("FT-M, random change", "in the end", "generation"): pytest.approx(0.9),
    }


def rows_of(found: Run, table: str, method: str, scoring: str) -> list[dict[str, Any]]:
    made = found.tables[table]
    rows = [dict(zip(made.columns, row, strict=True)) for row in made.rows]
    return [row for row in rows if (row["method"], row["scoring"]) == (method, scoring)]


def test_a_study_keeps_a_method_whose_edits_all_diverged(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def editor(*_: Any, **__: Any) -> Editor:
        return lambda requests, *a, **o: EditOutcome(
            None, EditStatus.DIVERGED, "ft", (), tuple(requests), "made to fail"
        )

    monkeypatch.setattr(edit_study, "Editor", editor)
    config = edit_study.Config(methods=(EditMethod.FT_M,), edits=2, rewired=0, fluency_tokens=0)
    found = run_analysis(edit_study.ANALYSIS, config, Context(tiny, tmp_path))
    part = by_method(found.parts.values)["ft"]
    assert part["made"] == "0 of 2"
    assert part["success"]["requests"] == 2
    assert part["success"]["after"] == part["success"]["before"]
    assert "FT-M (0 of 2 made)" in found.report.lead
    assert [row[:2] for row in found.tables["success_tokens"].rows] == [["FT-M", "0 of 2"]]


# --- requests made together -----------------------------------------------------------------------


@pytest.mark.slow
def test_requests_in_sequence_keep_their_own_numbers(
    facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROME takes one request at a time; the first of two diverges, the second is made."""

    def rewrite(subject: str, new: str, true: str) -> dict[str, Any]:
        texts = {"target_new": {"str": new}, "target_true": {"str": true}}
        return {"prompt": "The capital of {} is", "subject": subject, **texts}

    case = {
        "requested_rewrite": [rewrite("France", "Rome", "Paris"), rewrite("Peru", "Oslo", "Lima")],
        "questions": ["The capital of France is"],
        "new_answer": "Rome",
    }
    data = tmp_path / "m.json"
    data.write_text(json.dumps([case]), encoding="utf-8")
    fail(monkeypatch, ["France"], by="memit")
    found = done("mquake", facts_gpt2, tmp_path / "out", Config((NO_EDIT, "rome")), data)
    rows = [
        dict(zip(found.tables["cases"].columns, row, strict=True))
        for row in found.tables["cases"].rows
        if row[0] == "ROME"
    ]
    assert [row["prompt"] for row in rows] == ["The capital of France is", "The capital of Peru is"]
    assert [row["target"] in row["says after"] for row in rows] == [False, True]
    part = found.parts.values["rome 1"]
    assert part["made"] == 1
    assert len(part["scores"]) == len(part[RANDOM]) == 2


def score(said: float, by_category: float = 0.0) -> dict[str, Any]:
    whole = {measure: Rates(said, said, said) for measure in (Measure.EFFICACY, Measure.LOCALITY)}
    grouped = {Measure.LOCALITY: Rates(by_category, by_category, by_category)}
    made = RequestScore(
        EditRequest("{} is", "a", "b"), whole, whole, (0.0, said), ("", ""), by_category=grouped
    )
    return plain(score_values(made))  # type: ignore[no-any-return]


def part(case: int, *said: float, by_category: float = 0.0) -> dict[str, Any]:
    n = len(said)
    return {
        "method": "rome",
        "case": case,
        "prompts": ["a is"] * n,
        "targets": ["b"] * n,
        "known": [each > 0 for each in said],
        "scores": [score(each, by_category) for each in said],
        "left_out": [],
        "status": {"done": n},
        "made": n,
        "fluency_tokens": 60,
    }


def test_a_case_counts_once_whatever_requests_it_makes() -> None:
    parts = {"1": part(1, 1, 1, 1), **{str(case): part(case, 0) for case in range(2, 10)}}
    tables = {table.name: table for table in report(parts).tables}
    (row,) = tables["success_generation"].rows
    assert row[:3] == ["ROME", 9, "11 of 11"]
    assert row[3].value == pytest.approx(1 / 9)
    assert np.isfinite(row[3].low)
    assert known_share({"ROME": list(parts.values())}).value == pytest.approx(1 / 9)
    mixed = {"ROME": [part(1, 1, 0), part(2, 0)]}
    assert known_share(mixed).value == pytest.approx(0.25)


# --- columns --------------------------------------------------------------------------------------


def test_knowedit_has_its_own_aggregate() -> None:
    parts = {str(case): part(case, 1, by_category=0.25) for case in (1, 2)}
    for name, shown in (("knowedit", True), ("zsre", False)):
        tables = {table.name: table for table in benchmark(name).report(parts).tables}
        made = tables["success_tokens"]
        assert ("locality (KnowEdit)" in made.columns) == shown
        row = dict(zip(made.columns, made.rows[0], strict=True))
        assert row["locality"].value == 1
        if shown:
            assert row["locality (KnowEdit)"].value == 0.25


def test_counterfacts_own_numbers_are_on_the_page(facts_gpt2: Model, tmp_path: Path) -> None:
    row = {
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "subject": "France",
            "target_new": {"str": "Rome"},
            "target_true": {"str": "Paris"},
        },
        "paraphrase_prompts": ["In France the capital is"],
        "neighborhood_prompts": ["The capital of Peru is", "The capital of Norway is"],
    }
    data = tmp_path / "c.json"
    data.write_text(json.dumps([row]), encoding="utf-8")
    found = done("counterfact", facts_gpt2, tmp_path / "out", Config((NO_EDIT, "memit")), data)
    for label in ("no edit", "MEMIT"):
        shown = row_of(found, "success_likelihood", label)
        names = ("reliability", "generalisation", "neighbourhood success")
        values = [shown[name].value for name in names]
        wanted = 3 / sum(1 / value for value in values) if all(values) else 0.0
        assert shown["score"].value == pytest.approx(wanted)
    assert "neighbours" not in found.tables["success_likelihood"].columns
    assert "locality, correct" in found.tables["success_generation"].columns
    sizes = row_of(found, "magnitude", "MEMIT")
    assert sizes["reliability"].value > 0.5
    assert row_of(found, "magnitude", "no edit")["reliability"].value < -0.5
    assert set(sizes) == {"method", "cases", "edits made", *names}


@pytest.mark.slow
def test_every_edit_has_a_control_of_its_own(
    facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    made = run.control

    def control(delta: Any, model: Any, seed: int, kind: Any) -> Any:
        seen.append(seed)
        return made(delta, model, seed, kind)

    monkeypatch.setattr(run, "control", control)
    done("counterfact", facts_gpt2, tmp_path, Config(("ft", "memit"), 2))
    assert len(set(seen)) == 2
    assert seen[:2] == seen[2:]  # the same for every method
    one, other = EditRequest("{} is", "a", "b"), EditRequest("{} is", "a", "c")
    assert len({control_seed(0, one), control_seed(0, other), control_seed(0, one, 1)}) == 3
    assert control_seed(0, one) == control_seed(0, EditRequest("{} is", "a", "b"))


def test_fluency_is_of_the_published_length_where_it_fits() -> None:
    assert [fluency_length(each) for each in (1024, 200, 199, 120, 119)] == [100, 100, 60, 60, 0]
    parts = {"1": part(1, 1)}
    (cost,) = [table for table in report(parts).tables if table.name == "cost"]
    assert "fluency of 60 tokens before, bits" in cost.columns


# --- the fact in the prompt -----------------------------------------------------------------------


def test_a_probe_that_cannot_be_asked_does_not_drop_the_fact_in_the_prompt(
    facts_gpt2: Model,
) -> None:
    """One probe fits no model, one only without the fact before it: the others are compared."""
    short = Probe(ProbeKind.PARAPHRASE, "In Peru the capital is", ("Oslo",))

    def much(tokens: int) -> Probe:
        text = " and" * (tokens - 4)
        return Probe(ProbeKind.LOCALITY, f"The capital{text} of Cuba is", ("Havana",))

    limit = facts_gpt2.max_tokens
    probes = (much(2 * limit), short, much(limit - 6))
    request = EditRequest("The capital of {} is", "Peru", "Oslo", "Lima", None, probes)
    judge = Judge(facts_gpt2, [request])
    assert Measure.LOCALITY in judge.score()[0].after
    (found,), left_out = in_context(judge)
    assert len(left_out) == 2
    alone = Judge(facts_gpt2, [EditRequest(*_bare(request), (short,))])
    (wanted,), _ = in_context(alone)
    assert found.after == wanted.after
    assert found.before == wanted.before
    assert Measure.LOCALITY not in found.after
    long = EditRequest("The capital" + " and" * (limit - 12) + " of {} is", "Peru", "Oslo", "Lima")
    with pytest.raises(PromptError, match="501 tokens long; the model takes 256"):
        in_context(Judge(facts_gpt2, [long]))


def _bare(request: EditRequest) -> tuple[Any, ...]:
    return request.prompt, request.subject, request.target, request.ground_truth, request.relation


def test_of_few_cases_the_share_known_has_no_limits() -> None:
    lead = report({"1": part(1, 1, 0)}).lead
    assert "the model gives 50 % of the true answers." in lead
