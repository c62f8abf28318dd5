"""ConflictEdit and RoundEdit: measures by hand, readers of odd files, and units on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.plain import plain
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.memit import MemitSettings, memit, write_values
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import target_scores
from circuits.edits.parts.contexts import ContextSettings, place
from circuits.edits.parts.keys import at_subject, residual_point
from circuits.edits.parts.moments import collect_moments
from circuits.edits.parts.value import ValueSettings, optimise_values
from circuits.model.model import Model
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import run_analysis
from experiments.benchmarks.base import (
    IN_CONTEXT,
    NO_EDIT,
    Bench,
    Benchmark,
    Cases,
    Config,
    as_analysis,
)
from experiments.benchmarks.pitfalls import benchmark as benchmark_module
from experiments.benchmarks.pitfalls import measures
from experiments.benchmarks.pitfalls.asking import (
    EDIT,
    RANDOM,
    RANDOM_LAST,
    Walk,
    asked,
    told,
    walk,
)
from experiments.benchmarks.pitfalls.benchmark import (
    CONFLICT_EDIT,
    ROUND_EDIT,
    compute_round,
    conflict_measures,
    round_measures,
)
from experiments.benchmarks.pitfalls.cases import Conflict
from experiments.benchmarks.pitfalls.reading import Question
from tests.edits import TEXT, same, weights

BENCHMARKS = pytest.mark.parametrize("benchmark", [CONFLICT_EDIT, ROUND_EDIT], ids=lambda b: b.name)
TRUE = ["Lima", "Seoul", "Paris"]
FREE = ValueSettings(steps=8, weight_decay=0.0, clamp=1e6)


# --- measures ------------------------------------------------------------------------------------


def test_a_relative_loss_is_clamped_only_as_the_code_clamps_it():
    assert measures.relative_loss(0.8, 0.2) == pytest.approx(0.75)
    assert measures.relative_loss(0.1, 0.5) == pytest.approx(-4)
    assert measures.clamped_loss(0.8, 0.2) == pytest.approx(0.75)
    assert measures.clamped_loss(0.1, 0.5) == -1
    assert math.isnan(measures.relative_loss(0, 0.5))
    assert math.isnan(measures.clamped_loss(0, 0.5))


def test_a_fact_wins_only_where_it_is_strictly_likelier():
    assert [measures.likelier(p, 0.3) for p in (0.2, 0.3, 0.4)] == [0, 0, 1]
    assert math.isnan(measures.likelier(math.nan, 0.3))


def test_the_distortion_is_the_divergence_of_the_shares_of_true_objects():
    # Shares 1:0 against 0:1 lie ln 2 apart; 1/2:1/2 against 1:0 has the middle 3/4:1/4.
    assert measures.distortion([0.2, 0.0], [0.0, 0.1]) == pytest.approx(math.log(2))
    half = (0.5 * math.log(2 / 3) + 0.5 * math.log(2) + math.log(4 / 3)) / 2
    assert measures.distortion([0.3, 0.3], [0.9, 0.0]) == pytest.approx(half)
    assert measures.distortion([0.1, 0.3], [0.2, 0.6]) == pytest.approx(0)
    assert measures.distortion_per_object([0.3, 0.3], [0.9, 0.0]) == pytest.approx(half / 2)
    assert math.isnan(measures.distortion([0.0, 0.0], [0.5, 0.5]))


def test_the_codes_distortion_is_pytorchs_batchmean_of_one_distribution():
    before, after = torch.tensor([0.5, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.4])
    p, q = before / before.sum(), after / after.sum()
    loss = torch.nn.KLDivLoss(reduction="batchmean")
    theirs = sum(loss(((p + q) / 2).log(), each) for each in (p, q)) / 2
    ours = measures.distortion_per_object(before.tolist(), after.tolist())
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_objects_are_ignored_that_fell_and_a_trip_fails_beyond_half():
    assert measures.ignored([0.3, 0.2, 0.1], [0.2, 0.2, 0.0]) == pytest.approx(2 / 3)
    assert measures.failed([0.3, 0.2, 0.1], [0.2, 0.2, 0.0]) == 1
    assert measures.failed([0.3, 0.2], [0.2, 0.2]) == 0  # half is not more than half


def test_the_measures_of_a_conflict_read_the_right_models():
    steps = [
        {"first": 0.1, "second": 0.2, "implied": 0.0, "tied": 0.8},
        {"first": 0.9, "second": 0.3, "implied": 0.1, "tied": 0.6},
        {"first": 0.3, "second": 0.5, "implied": 0.2, "tied": 0.2},
    ]
    alone = {"first": 0.4, "second": 0.3, "implied": 0.0, "tied": 0.4}
    found = conflict_measures(steps, alone)
    assert found["explicit"] == 1
    assert found["implicit"] == 0
    assert found["magnitude"] == pytest.approx(2 / 3)
    assert found["tied_damage"] == pytest.approx(0.75)
    assert found["tied_damage_alone"] == pytest.approx(0.5)
    assert "success" not in found
    bare = [{name: step[name] for name in ("first", "second")} for step in steps]
    assert conflict_measures(bare, alone)["success"] == 0
    assert not {"success", "implicit", "tied_damage"} & set(conflict_measures(bare))


def test_the_measures_of_a_round_trip_compare_its_end_with_its_beginning():
    steps = [
        {"new": 0.1, "old": 0.6, "other 1": 0.2, "other 2": 0.2},
        {"new": 0.9, "old": 0.0, "other 1": 0.0, "other 2": 0.0},
        {"new": 0.3, "old": 0.2, "other 1": 0.1, "other 2": 0.3},
    ]
    found = round_measures(steps)
    assert (found["there"], found["back"], found["success"]) == (1, 0, 0.5)
    assert (found["ignored"], found["failed"]) == (0.5, 0)
    expected = measures.distortion([0.6, 0.2, 0.2], [0.2, 0.1, 0.3])
    assert found["distortion"] == pytest.approx(expected)
    assert found["others_before"] == found["others_after"] == pytest.approx(0.2)


# --- readers -------------------------------------------------------------------------------------


def relation(prompt: str = "The capital of {} is", name: str = "capital") -> dict[str, str]:
    return {"id": name, "prompt": prompt, "query": "?", "label": name}


def edit(subject: str, old: str, new: str | None = None, **changed: Any) -> dict[str, Any]:
    labels = {"subject": subject, "object": old, **({"new_object": new} if new else {})}
    return {"relation": relation(), **{k: {"label": v} for k, v in labels.items()}, **changed}


def coverage() -> dict[str, Any]:
    edits = [edit("Peru", "Lima", "Oslo"), edit("Peru", "Oslo", "Paris")]
    return {"type": "coverage", "triples": [edit("Peru", "Lima")], "edits": edits}


def reverse() -> dict[str, Any]:
    back = relation("{} lies in", "in")
    edits = [edit("Peru", "Lima", "Oslo"), edit("Oslo", "Peru", "Cuba", relation=back)]
    triples = [edit("Peru", "Lima"), edit("Lima", "Peru", relation=back)]
    return {"type": "reverse", "triples": triples, "edits": edits}


def composite() -> dict[str, Any]:
    speaks, river = relation("People in {} speak", "speech"), relation("{} lies in", "in")
    edits = [
        edit("Peru", "Spanish", "French", relation=speaks),
        edit("Lima", "Spanish", "Japanese", relation=speaks),
    ]
    triples = [edit("Lima", "Peru", relation=river), edit("Peru", "Spanish", relation=speaks)]
    return {"type": "composite", "triples": triples, "edits": edits, "prerequisites": [0]}


def there_and_back() -> dict[str, Any]:
    true = [{"label": each} for each in TRUE]
    return {"type": "1-3@P", "edit": edit("Peru", "Lima", "Oslo"), "true_objects": true}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read(benchmark: Benchmark, folder: Path, *rows: Any) -> Cases:
    return benchmark.read(write(folder / "easy.json", list(rows)))


@BENCHMARKS
def test_the_fixture_is_read_whole_and_has_paraphrases(benchmark: Benchmark):
    cases = benchmark.read(benchmark.own_data).without_slips()
    assert len(cases.items) >= 8
    assert all(len(fact.prompts) > 1 for case in cases.items for fact in case.facts.values())
    if benchmark == CONFLICT_EDIT:
        assert {case.conflict for case in cases.items} == set(Conflict)


def test_each_conflict_has_its_facts(tmp_path: Path):
    found = read(CONFLICT_EDIT, tmp_path, coverage(), reverse(), composite()).without_slips()
    asked_of = [
        {name: (fact.subject, fact.object) for name, fact in case.facts.items()}
        for case in found.items
    ]
    assert asked_of == [
        {"first": ("Peru", "Oslo"), "second": ("Peru", "Paris")},
        {"first": ("Peru", "Oslo"), "second": ("Oslo", "Cuba"), "implied": ("Cuba", "Oslo")},
        {
            "first": ("Peru", "French"),
            "second": ("Lima", "Japanese"),
            "tied": ("Lima", "Peru"),
            "implied": ("Peru", "Japanese"),
        },
    ]
    assert found.items[1].facts["implied"].prompts == ("The capital of {} is",)


def test_a_round_trip_has_every_other_true_object_once(tmp_path: Path):
    row = there_and_back()
    row["true_objects"].append({"label": "Seoul"})
    (case,) = read(ROUND_EDIT, tmp_path, row).without_slips().items
    assert {name: fact.object for name, fact in case.facts.items()} == {
        "new": "Oslo",
        "old": "Lima",
        "other 1": "Seoul",
        "other 2": "Paris",
    }
    assert [each.target for each in case.all_back] == ["Lima", "Seoul", "Paris"]
    assert case.split == "easy"


def test_paraphrases_come_from_the_file_beside_and_only_usable_ones_are_asked(tmp_path: Path):
    prompts = ["{} has the capital ", "no subject", "In Peru, {} is ruled from"]
    write(tmp_path / "conflict_prompts.json", {"capital": prompts})
    found = read(CONFLICT_EDIT, tmp_path, coverage())
    (case,) = found.items
    # The last one names the subject twice when it is filled in.
    assert case.facts["first"].prompts == ("The capital of {} is", "{} has the capital")
    (left_out,) = found.left_out
    assert left_out.row == 1
    assert "capital: a paraphrase needs exactly one {}" in left_out.reason


def without(*path: Any) -> Callable[[dict[str, Any]], Any]:
    def change(row: dict[str, Any]) -> None:
        held: Any = row
        for key in path[:-1]:
            held = held[key]
        del held[path[-1]]

    return change


def with_(value: Any, *path: Any) -> Callable[[dict[str, Any]], Any]:
    def change(row: dict[str, Any]) -> None:
        held: Any = row
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = value

    return change


FIRST = ("edits", 0)


@pytest.mark.parametrize(
    ("make", "change", "reason"),
    [
        (coverage, with_("other", "type"), "'other' is no type of conflict"),
        (coverage, with_(["x"], "type"), "is no type of conflict"),
        (coverage, with_([], "edits"), "a list 'edits' of at least 2"),
        (coverage, without("triples"), "a list 'triples' of at least 1"),
        (coverage, with_("x", *FIRST), "must be a JSON object"),
        (coverage, without(*FIRST, "new_object"), "edit 1 lacks 'new_object'"),
        (coverage, with_({"label": ""}, *FIRST, "object"), "edit 1.object.* not empty"),
        (coverage, with_({"label": 3}, *FIRST, "object"), "must be text"),
        (coverage, with_("The capital is", *FIRST, "relation", "prompt"), "exactly one {}"),
        (coverage, with_("Peru, {}", *FIRST, "relation", "prompt"), "does not stand once"),
        (coverage, with_("Lima", *FIRST, "new_object", "label"), "'Lima' is the old one"),
        (coverage, with_("Cuba", "edits", 1, "subject", "label"), "asks one question twice"),
        (reverse, with_("Cuba", "edits", 1, "subject", "label"), "not the first one's new object"),
        (composite, without("prerequisites"), "a list 'prerequisites'"),
        (composite, with_([7], "prerequisites"), "the place of no triple"),
        (composite, with_([1], "prerequisites"), "does not tie"),
        (there_and_back, without("edit"), "lacks 'edit'"),
        (there_and_back, with_([{"label": "Lima"}], "true_objects"), "of at least 2"),
        (there_and_back, with_([{"label": "Lima"}] * 2, "true_objects"), "but the edited one"),
        (there_and_back, with_("Paris", "edit", "object", "label"), None),
        (there_and_back, with_("Cuba", "edit", "object", "label"), "must hold the old object"),
        (there_and_back, with_("Paris", "edit", "new_object", "label"), "not the new one"),
        (there_and_back, with_("Paris", "true_objects", 0), "must be a JSON object"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_with_its_reason(
    make: Callable[[], dict[str, Any]],
    change: Callable[[dict[str, Any]], Any],
    reason: str | None,
    tmp_path: Path,
):
    benchmark = ROUND_EDIT if make == there_and_back else CONFLICT_EDIT
    odd = deepcopy(make())
    change(odd)
    found = read(benchmark, tmp_path, make(), odd)
    if reason is None:
        assert len(found.items) == 2
        return
    (left_out,) = found.left_out
    assert left_out.row == 2
    assert len(found.items) == 1
    assert "\n" not in left_out.reason
    with pytest.raises(OptionError, match=reason):
        found.without_slips()


@BENCHMARKS
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nonsense", "not JSON"),
        ("{}", "must be a JSON list"),
        ("[]", "must be a JSON list"),
        ("[{}, 3]", "row 2 must be a JSON object"),
        ('[{"prompt": "x"}]', "row 1 has no"),
    ],
)
def test_a_file_of_something_else_is_refused(
    benchmark: Benchmark, content: str, reason: str, tmp_path: Path
):
    (tmp_path / "easy.json").write_text(content)
    for path in (tmp_path, tmp_path / "easy.json"):
        with pytest.raises(FileFormatError, match=rf"easy\.json.*{reason}"):
            benchmark.read(path)


@BENCHMARKS
def test_a_folder_without_cases_and_odd_paraphrases_are_refused(
    benchmark: Benchmark, tmp_path: Path
):
    with pytest.raises(FileFormatError, match=r"holds no \.json file"):
        benchmark.read(tmp_path)
    with pytest.raises(FileFormatError, match="no such file"):
        benchmark.read(tmp_path / "absent.json")
    write(tmp_path / "easy.json", [coverage() | there_and_back()])
    write(tmp_path / "round_prompts.json", {"capital": "one"})
    with pytest.raises(FileFormatError, match="row 1: 'capital' must list prompts"):
        benchmark.read(tmp_path)


def test_only_methods_of_editing_are_taken():
    for benchmark in (CONFLICT_EDIT, ROUND_EDIT):
        for method in benchmark.methods:
            benchmark.edit_of(method)
        with pytest.raises(OptionError):
            benchmark.edit_of("nonsense")
    with pytest.raises(OptionError):
        CONFLICT_EDIT.edit_of("memit-mle")
    with pytest.raises(OptionError):
        ROUND_EDIT.edit_of("rome-mle")


# --- units on a tiny model -----------------------------------------------------------------------

METHODS = dict.fromkeys((CONFLICT_EDIT, ROUND_EDIT), (NO_EDIT, IN_CONTEXT, "ft"))


@pytest.fixture(scope="module")
def tiny_context(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(tiny, tmp_path_factory.mktemp("pitfalls"))


@pytest.fixture(scope="module")
def runs(tiny_context: Context, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Both benchmarks; the weights are as before, bit for bit."""
    before, found = weights(tiny_context.model), {}
    rows = {CONFLICT_EDIT: [coverage(), reverse(), composite()], ROUND_EDIT: [there_and_back()]}
    for benchmark, given in rows.items():
        folder = tmp_path_factory.mktemp(benchmark.name)
        write(folder / "x_prompts.json", {"capital": ["{} has its capital in"]})
        cases = read(benchmark, folder, *given).without_slips()
        config = Config(methods=METHODS[benchmark])
        context = tiny_context.inside(folder / "out")
        found[benchmark.name] = run_analysis(as_analysis(benchmark, cases), config, context)
    assert same(weights(tiny_context.model), before)
    return found


def test_every_case_is_a_unit_of_every_method(runs: dict[str, Run]):
    for name, n in (("conflictedit", 9), ("roundedit", 3)):
        assert not runs[name].parts.skipped
        assert len(runs[name].parts.values) == n


def test_an_edit_has_both_controls_beside_it_and_no_edit_has_none(runs: dict[str, Run]):
    for run in runs.values():
        for unit in run.parts.values.values():
            if unit["method"] in (NO_EDIT, IN_CONTEXT):
                assert list(unit["p"]) == [EDIT]
                assert unit["edits"] == []
                changes = unit["p"][EDIT][0] != unit["p"][EDIT][-1]
                assert changes == (unit["method"] == IN_CONTEXT)
                continue
            assert set(unit["measures"]) == {EDIT, RANDOM, RANDOM_LAST}
            assert [each["status"] for each in unit["edits"]] == ["done", "done"]
            edit_p, random_p, last_p = (unit["p"][s] for s in (EDIT, RANDOM, RANDOM_LAST))
            assert edit_p[0] == random_p[0] == last_p[0]
            assert edit_p[1] == last_p[1] != random_p[1]
            assert edit_p[2] != last_p[2]


def test_a_unit_is_the_measures_of_its_probabilities(runs: dict[str, Run]):
    unit = runs["conflictedit"].parts.values["ft 3"]
    steps, alone = unit["p"][EDIT], unit["p_alone"][EDIT][-1]
    assert unit["measures"][EDIT] == plain(conflict_measures(steps, alone))
    assert steps[1]["first"] > steps[0]["first"]
    assert steps[2]["second"] > steps[1]["second"]
    back = runs["roundedit"].parts.values["ft 1"]
    assert back["measures"][RANDOM] == plain(round_measures(back["p"][RANDOM]))
    assert [each["target"] for each in back["edits"]] == ["Oslo", "Lima"]


def test_edits_before_the_last_are_in_the_model_when_it_is_made(tiny_context: Context):
    """The second edit is the one that the method makes on the model with the first applied."""
    bench = Bench(tiny_context, Config())
    first = EditRequest("The capital of {} is", "Peru", "Oslo")
    second = EditRequest("The capital of {} is", "Peru", "Paris")
    facts = {"second": Question((second.prompt,), "Peru", "Paris")}
    done = walk(bench, EditMethod.FT_M, [[first], [second]], facts)
    one, two = (outcome.delta for outcome in done.outcomes)
    assert one is not None
    assert two is not None
    model = bench.model
    with one.applied(model):
        (alone,) = walk(bench, EditMethod.FT_M, [[second]], facts).outcomes
        assert alone.delta is not None
        assert alone.delta.fingerprint() == two.fingerprint()
        with two.applied(model):
            score = target_scores(model, [place(model, second)]).probability
    assert done.p[EDIT][-1]["second"] == pytest.approx(float(score))


def test_in_context_what_the_edits_write_is_stated_before_each_prompt(tiny_context: Context):
    bench = Bench(tiny_context, Config())
    first = EditRequest("The capital of {} is", "Peru", "Oslo")
    second = EditRequest("{} has its capital in", "Peru", "Paris")
    facts = {"second": Question((second.prompt,), "Peru", "Paris")}
    found = told(bench, [[first], [second]], facts)
    fronts = ("", "The capital of Peru is Oslo. ")
    fronts += (f"{fronts[1]}Peru has its capital in Paris. ",)
    model = bench.model
    for step, front in zip(found.p[EDIT], fronts, strict=True):
        text = f"{front}Peru has its capital in"
        ids = model.tokenizer.encode(text).ids
        logs = []
        for token in model.tokenizer.continuation(text, "Paris"):
            logits = model.last_logits(torch.tensor([list(ids)]))
            logs.append(float(logits[0].log_softmax(-1)[token]))
            ids = (*ids, token)
        assert step["second"] == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-5)
    assert found.records() == []


def test_p_is_the_mean_over_the_prompts(tiny_context: Context):
    bench, prompts = (
        Bench(tiny_context, Config()),
        ("The capital of {} is", "{} has its capital in"),
    )
    single = [asked(bench, {"x": Question((each,), "Peru", "Lima")})["x"] for each in prompts]
    found = asked(
        bench, {"y": Question(("{} is",), "Cuba", "Oslo"), "x": Question(prompts, "Peru", "Lima")}
    )
    assert found["x"] == pytest.approx(sum(single) / 2)


def run_memit(function: Any, model: Model, *targets: str) -> WeightDelta:
    requests = [EditRequest("The capital of {} is", "Peru", target) for target in targets]
    moments = collect_moments(model, TEXT, [1])
    settings = MemitSettings((1,), FREE, ContextSettings(copies=0), 1e-6)
    seeded = torch.Generator().manual_seed(0)
    return function(model, requests, [1], settings, moments, seeded)[0]


def test_with_one_object_back_the_variant_is_memit(model: Model):
    found = [run_memit(each, model, "Oslo") for each in (memit, write_values)]
    assert found[0].fingerprint() == found[1].fingerprint()


def test_several_objects_of_one_prompt_write_the_mean_of_their_values(model: Model):
    requests = [EditRequest("The capital of {} is", "Peru", each) for each in ("Oslo", "Paris")]
    point, bare = residual_point(1), [place(model, each) for each in requests]
    start = at_subject(model, bare, [point], 1)[point]
    values = optimise_values(model, requests, 1, ("",), start, FREE)
    wanted = start[0] + (values[0].delta + values[1].delta) / 2
    with run_memit(write_values, model, "Oslo", "Paris").applied(model):
        written = at_subject(model, bare, [point], 1)[point][0]
    torch.testing.assert_close(written, wanted, rtol=1e-2, atol=1e-2)
    assert (wanted - start[0]).norm() > 0.3


@pytest.mark.parametrize(("method", "back"), [("memit", ["Lima"]), ("memit-mle", TRUE)])
def test_only_the_multi_label_variant_edits_back_to_every_true_object(
    method: str, back: list[str], tiny_context: Context, tmp_path: Path, monkeypatch: Any
):
    (case,) = read(ROUND_EDIT, tmp_path, there_and_back()).items
    seen: list[list[list[str]]] = []

    def watched(bench: Bench, method: Any, hops: Any, facts: Any) -> Walk:
        seen.append([[request.target for request in hop] for hop in hops])
        return walk(bench, None, hops, facts)

    monkeypatch.setattr(benchmark_module, "walk", watched)
    compute_round(Bench(tiny_context, Config()), case, method)
    assert seen == [[["Oslo"], back]]


def test_the_reports_say_what_the_model_knows_and_set_controls_beside(runs: dict[str, Run]):
    for run in runs.values():
        assert "does not know" in run.report.lead  # random weights know nothing
        assert run.report.lead.endswith(".")
        assert run.report.claims
    tables = runs["conflictedit"].tables
    assert {f"conflict_{each.value}" for each in Conflict} | {"cases"} == set(tables)
    names = [row[0] for row in tables["conflict_composite"].rows]
    assert names == ["unedited", "in-context", "FT-M", "FT-M, both random", "FT-M, second random"]
    made = {row[0]: row[2] for row in tables["conflict_composite"].rows}
    assert (made["in-context"], made["FT-M"]) == (None, "2 of 2")
    lead = runs["conflictedit"].report.lead
    assert lead.count("(a random change of its size") == 1
    assert "in-context" in lead
    assert "Succ" in tables["conflict_coverage"].columns
    assert "Succ" not in tables["conflict_reverse"].columns
    back = runs["roundedit"].tables["round_easy"]
    assert [row[0] for row in back.rows][:3] == ["unedited", "in-context", "FT-M"]


def test_the_way_back_to_all_objects_is_compared_with_the_way_to_one(runs: dict[str, Run]):
    values = dict(runs["roundedit"].parts.values)
    for method in ("memit", "memit-mle"):
        values[f"{method} 1"] = {**values["ft 1"], "method": method}
    made = ROUND_EDIT.report(values)
    assert any("all true objects at once" in each.sentence for each in made.claims)
    assert "MEMIT-MLE" in [row[0] for row in made.tables[0].rows]


def test_a_report_without_the_baseline_says_that_knowledge_was_not_asked(runs: dict[str, Run]):
    for name, benchmark in (("conflictedit", CONFLICT_EDIT), ("roundedit", ROUND_EDIT)):
        values = runs[name].parts.values
        made = benchmark.report({k: v for k, v in values.items() if v["method"] != NO_EDIT})
        assert "was not asked" in made.lead
        only = benchmark.report({k: v for k, v in values.items() if v["method"] == NO_EDIT})
        assert "the unedited model gives" in only.lead.lower()


def test_a_case_that_cannot_be_asked_is_left_out_with_its_reason(
    tiny_context: Context, tmp_path: Path
):
    long = coverage()
    for each in [*long["edits"], *long["triples"]]:
        each["relation"]["prompt"] = "word " * 80 + "{} is"
    cases = read(CONFLICT_EDIT, tmp_path, coverage(), long).without_slips()
    context = tiny_context.inside(tmp_path / "out")
    run = run_analysis(as_analysis(CONFLICT_EDIT, cases), Config(methods=(NO_EDIT,)), context)
    assert list(run.parts.values) == ["none 1"]
    assert list(run.parts.skipped) == ["none 2"]
