"""The editing benchmarks: readers, units, baselines, sequences, and what their reports say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.base.choices import EditStatus
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.judge.generation import says
from circuits.edits.judge.in_context import in_context, with_facts
from circuits.edits.judge.measures import Measure
from circuits.edits.judge.success import Judge
from circuits.edits.requests import read_requests
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model, load
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import redraw, run_analysis
from experiments.benchmarks.base import NO_EDIT, Cases, Config, as_analysis, decided
from experiments.benchmarks.editing.cases import mquake, single_edits
from experiments.benchmarks.editing.lifelong import LIFELONG
from experiments.benchmarks.editing.run import IN_CONTEXT, RANDOM
from experiments.benchmarks.registry import BENCHMARKS, benchmark, chosen
from experiments.cli.main import main
from locate.changes.circuit_layers import same_words
from tests.edits import same, weights

QAEDIT = {
    "id": 4,
    "prompt": "who wrote Ernie",
    "target": "Benny Hill",
    "subject": "Ernie",
    "rephrase": "Whose is Ernie?",
    "locality": [{"loc": "who wrote Emma", "loc_ans": "Jane Austen"}],
}
MQUAKE = {
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Croatia"},
            "target_true": {"str": "France"},
            "subject": "Ellie",
        },
        {
            "prompt": "The head of {} is",
            "relation_id": "P35",
            "target_new": {"str": "Ana"},
            "target_true": {"str": "Ivo"},
            "subject": "Croatia",
        },
    ],
    "questions": ["Who heads the country of Ellie?", "Ellie's head of state is?"],
    "new_answer": "Ana",
    "new_answer_alias": ["Ana I"],
    "new_single_hops": [{"question": "Who heads Croatia?", "answer": "Ana", "answer_alias": []}],
}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- readers --------------------------------------------------------------------------------------


def test_a_row_of_qaedit_is_a_request_with_its_probes(tmp_path: Path) -> None:
    (request,) = read_requests(written(tmp_path / "q.json", [QAEDIT])).requests
    assert (request.prompt, request.target) == ("who wrote {}", "Benny Hill")
    assert request.ground_truth is None
    assert [(p.kind, p.answers) for p in request.probes] == [
        (ProbeKind.PARAPHRASE, ("Benny Hill",)),
        (ProbeKind.LOCALITY, ("Jane Austen",)),
    ]


def test_rows_that_cannot_be_used_are_listed_and_the_rest_read(tmp_path: Path) -> None:
    twice = {**QAEDIT, "prompt": "Ernie or Ernie"}
    empty = {**QAEDIT, "target": ""}
    absent = {**QAEDIT, "subject": "Bert"}
    found = single_edits(written(tmp_path / "q.json", [QAEDIT, twice, empty, absent]))
    assert len(found.items) == 1
    assert [row.row for row in found.left_out] == [2, 3, 4]
    assert [row.reason for row in found.left_out] == [
        "subject occurs twice",
        "'target' must be text and not empty",
        "subject is not in the prompt",
    ]
    with pytest.raises(OptionError, match="3 rows cannot be used, the first is row 2"):
        found.without_slips()
    with pytest.raises(FileFormatError, match="no usable"):
        single_edits(written(tmp_path / "none.json", [empty]))


def test_an_edit_request_without_a_true_answer_is_read(tmp_path: Path) -> None:
    row = {"prompt": "The capital of Peru is", "subject": "Peru", "target_new": "Oslo"}
    (case,) = single_edits(written(tmp_path / "e.json", [row])).items
    assert case.requests[0].ground_truth is None


def test_mquake_makes_its_rewrites_together_and_asks_over_hops(tmp_path: Path) -> None:
    broken = [{**MQUAKE, "questions": []}, {**MQUAKE, "requested_rewrite": []}, 7]
    bare = {**MQUAKE, "questions": [], "new_single_hops": []}
    found = mquake(written(tmp_path / "m.json", [MQUAKE, bare, *broken]))
    (case, hops) = found.items
    assert [each.subject for each in case.requests] == ["Ellie", "Croatia"]
    assert [each.target for each in case.requests] == ["Croatia", "Ana"]
    assert [probe.name for probe in case.requests[0].probes] == ["multi-hop"] * 2 + ["single hops"]
    assert case.requests[0].probes[0].answers == ("Ana", "Ana I")
    assert [probe.name for probe in hops.requests[0].probes] == ["single hops"]
    assert [(row.row, row.reason) for row in found.left_out] == [
        (2, "'questions' has no question"),
        (4, "'requested_rewrite' must be a list with an object"),
        (5, "must be a JSON object"),
    ]
    for nonsense in ({}, 3, []):
        with pytest.raises(FileFormatError):
            mquake(written(tmp_path / "n.json", nonsense))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_reads_its_own_cases(name: str) -> None:
    found = benchmark(name)
    assert found.name == name
    cases = found.read(found.own_data)
    assert len(cases.items) >= 4
    assert not cases.left_out
    for method in found.methods:
        found.edit_of(method)
    with pytest.raises(OptionError):
        found.edit_of("no such method")


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean counterfact"):
        benchmark("counterfacts")
    assert [each.name for each in chosen(["all"])] == list(BENCHMARKS)


# --- units ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts_gpt2() -> Model:
    return load("facts-gpt2", device="cpu")


@pytest.fixture(scope="module")
def done(facts_gpt2: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Context]:
    folder = tmp_path_factory.mktemp("benchmark")
    context = Context.on(facts_gpt2, folder)
    found = benchmark("counterfact")
    before = weights(facts_gpt2)
    analysis = as_analysis(found, found.read(found.own_data))
    config = decided(found, Config((NO_EDIT, IN_CONTEXT, "memit", "ft"), 2), found.own_data)
    run = run_analysis(analysis, config, context)
    assert same(weights(facts_gpt2), before)
    return run, context


@pytest.mark.slow
def test_a_unit_holds_what_the_judge_says(done: tuple[Run, Context], facts_gpt2: Model) -> None:
    run, _ = done
    for key, part in run.parts.values.items():
        assert key == f"{part['method']} {part['case']}"
        assert part["known"] == [True]
    edited = [part for part in run.parts.values.values() if part["method"] == "memit"]
    assert all(part["status"] == {str(EditStatus.DONE): 1} for part in edited)
    for part in edited:
        (score,), (beside,) = part["scores"], part[RANDOM]
        assert score["after"]["efficacy"]["generation"] == 1
        assert says(score["reply"][1], part["targets"][0])
        assert beside["after"]["efficacy"]["generation"] == 0
    (bare,) = [part for key, part in run.parts.values.items() if key.startswith(NO_EDIT)][:1]
    score = bare["scores"][0]
    assert score["before"]["efficacy"] == score["after"]["efficacy"]


def test_the_report_says_what_is_published_and_what_is_corrected(done: tuple[Run, Context]) -> None:
    run, context = done
    tables = run.tables
    assert "published" in tables["success_tokens"].title
    assert "corrected" in tables["success_generation"].title
    names = [row[0] for row in tables["success_generation"].rows]
    assert names == [
        "no edit",
        "fact in the prompt",
        *("MEMIT", "MEMIT, random change"),
        *("FT-M", "FT-M, random change"),
    ]
    assert "Before any edit the model gives 100 %" in run.report.lead
    assert "data: cases of our own" in (context.folder / "report.md").read_text()
    assert len(tables["cases"].rows) == 8
    assert "benchmark-counterfact" in (context.folder / "summary.json").read_text()


def test_a_run_is_resumed_by_case(done: tuple[Run, Context], facts_gpt2: Model) -> None:
    run, context = done
    found = benchmark("counterfact")
    analysis = as_analysis(found, found.read(found.own_data))
    again = run_analysis(analysis, run.config, Context.on(facts_gpt2, context.folder))
    assert again.parts.reused == len(run.parts.values)
    assert redraw(analysis, context.folder).report.lead == run.report.lead
    wider = replace(run.config, limit=3, methods=(NO_EDIT,))
    more = run_analysis(analysis, wider, Context.on(facts_gpt2, context.folder))
    assert (more.parts.reused, len(more.parts.values)) == (2, 3)


def test_a_case_that_fails_is_recorded_and_the_rest_goes_on(tiny: str, tmp_path: Path) -> None:
    path = written(tmp_path / "q.json", [QAEDIT, {**QAEDIT, "prompt": "Ernie " + "on " * 400}])
    found = benchmark("qaedit")
    analysis = as_analysis(found, found.read(path))
    run = run_analysis(analysis, Config((NO_EDIT,)), Context(tiny, tmp_path / "out"))
    assert list(run.parts.values) == [f"{NO_EDIT} 1"]
    assert "tokens" in run.parts.skipped[f"{NO_EDIT} 2"]
    with pytest.raises(PromptError, match="no case"):
        as_analysis(found, Cases(()))


def test_the_fact_stands_before_every_prompt(facts_gpt2: Model) -> None:
    """What the unedited model says to the prompts with the fact is judged as after an edit."""
    found = benchmark("counterfact")
    (request,) = found.read(found.own_data).items[0].requests
    told = with_facts(request, [request])
    front = f"{request.text} {request.target}. "
    assert told.text == front + request.text
    assert [each.prompt for each in told.probes] == [front + p.prompt for p in request.probes]
    judge = Judge(facts_gpt2, [request])
    (score,), left_out = in_context(judge)
    assert not left_out
    ids = facts_gpt2.tokenizer.encode(told.text).ids
    (answer,) = facts_gpt2.tokenizer.continuation(told.text, request.target)[:1]
    with torch.no_grad():
        best = int(facts_gpt2.last_logits(torch.tensor([ids])).argmax())
    assert (score.after[Measure.EFFICACY].tokens >= 1) == (best == answer)
    assert score.before == judge.score()[0].before


def test_all_facts_of_a_case_stand_before_every_prompt(facts_gpt2: Model) -> None:
    """What follows from several edits can be said only by who was told all of them."""
    probe = Probe(ProbeKind.PORTABILITY, "The capital of the country of Baikal is", ("Oslo",))
    first = EditRequest("Lake {} is in", "Baikal", "Spain", None, None, (probe,))
    second = EditRequest("The capital of {} is", "Spain", "Oslo", None, None, ())
    told = with_facts(first, [first, second])
    facts = "Lake Baikal is in Spain. The capital of Spain is Oslo. "
    assert told.text == f"{facts}Lake Baikal is in"
    assert told.probes[0].prompt == facts + probe.prompt
    long = replace(probe, prompt="on " * (facts_gpt2.max_tokens - 25) + probe.prompt)
    judge = Judge(facts_gpt2, [replace(first, probes=(long,)), second])
    scores, left_out = in_context(judge)
    assert len(scores) == 2
    assert not judge.left_out
    assert len(left_out) == 1
    assert "no room" in left_out[0]


# --- circuits -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_case_has_its_circuit_beside_its_outcome(facts_gpt2: Model, tmp_path: Path) -> None:
    found = benchmark("counterfact")
    analysis = as_analysis(found, found.read(found.own_data))
    config = Config(("memit",), 3, circuits=True)
    run = run_analysis(analysis, config, Context.on(facts_gpt2, tmp_path))
    told = [part["circuit"] for part in run.parts.values.values()]
    for each in told:
        assert "left_out" in each or (each["changed"] >= 0 and 0 <= each["jaccard"] <= 1)
    assert any("changed" in each for each in told)
    assert "circuits" in run.tables


def test_facts_in_the_same_words_are_partners_where_the_relation_is_unknown() -> None:
    def request(subject: str, truth: str | None, prompt: str = "{} is in") -> EditRequest:
        return EditRequest(prompt, subject, "Rome", truth, "P17")

    everyone = [
        request("Oslo", "Norway"),
        request("Lima", None),
        request("Bonn", "x", "{} lies in"),
        request("Oslo", "Sweden"),
    ]
    facts = same_words(request("Paris", "France"), everyone)
    assert [(fact.subject, fact.object) for fact in facts] == [("Oslo", "Norway")]


def test_a_question_over_hops_counts_in_each_wording_and_in_any(
    facts_gpt2: Model, tmp_path: Path
) -> None:
    """Of two questions one is right after the edit, as it asks the edited fact itself."""
    row = {
        "requested_rewrite": [
            {
                "prompt": "The capital of {} is",
                "subject": "France",
                "target_new": {"str": "Rome"},
                "target_true": {"str": "Paris"},
            }
        ],
        "questions": ["The capital of France is", "The capital of Peru is"],
        "new_answer": "Rome",
        "new_single_hops": [{"question": "The capital of Italy is", "answer": "Rome"}],
    }
    found = benchmark("mquake")
    analysis = as_analysis(found, found.read(written(tmp_path / "m.json", [row])))
    run = run_analysis(analysis, Config(("memit",)), Context.on(facts_gpt2, tmp_path / "out"))
    (score,) = run.parts.values["memit 1"]["scores"]
    after = {name: rates["generation"] for name, rates in score["after"].items()}
    assert after["multi-hop"] == 0.5
    assert after["multi-hop, any wording"] == 1
    assert after["single hops"] == 1
    assert "50 % over several hops" in run.report.lead


# --- in sequence ----------------------------------------------------------------------------------


def _leaves(value: Any) -> list[Any]:
    """All that stands in nested lists and objects, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in [key, *_leaves(value[key])]]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


@pytest.mark.slow
def test_edits_in_sequence_are_judged_as_they_pile_up(facts_gpt2: Model, tmp_path: Path) -> None:
    before = weights(facts_gpt2)
    analysis = as_analysis(LIFELONG, LIFELONG.read(LIFELONG.own_data))
    config = Config(("memit",), 3, settings=("every=2",))
    run = run_analysis(analysis, config, Context.on(facts_gpt2, tmp_path))
    assert same(weights(facts_gpt2), before)
    part = run.parts.values["memit"]
    assert [stop["edits"] for stop in part["stops"]] == [2, 3]
    assert [len(stop["scores"]) for stop in part["stops"]] == [2, 3]
    assert len(part["right_after"]) == len(part["done"]) == 3
    # The last edit's are one, but for what other prompts stand in its batches.
    alone, together = map(_leaves, (part["right_after"][-1], part["stops"][-1]["scores"][-1]))
    assert any(isinstance(value, float) for value in alone)
    for one, other in zip(alone, together, strict=True):
        same_size = pytest.approx(one, rel=2e-6, nan_ok=True) if isinstance(one, float) else one
        assert other == same_size
    assert set(part["growth"]) == {facts_gpt2.mlp_output_name(layer) for layer in (2, 3, 4, 5)}
    assert run.claims[0].verdict in (Verdict.NO_EVIDENCE, Verdict.SUPPORTED)
    assert {row[1] for row in run.tables["sequence"].rows if row[1]} == {"3 of 3"}
    judged = [row[2] for row in run.tables["sequence"].rows]
    assert judged == [""] * 2 + ["right after"] * 2 + ["in the end"] * 4


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a benchmark"),
        (["counterfct"], "did you mean counterfact"),
        (["zsre", "--data", "nowhere.json"], "nowhere.json"),
        (["all", "--data", "x.json"], "go with one benchmark"),
        (["zsre", "--methods", "rom"], "rome"),
        (["lifelong", "--set", "every"], "is not NAME=VALUE"),
        (["lifelong", "--set", "evry=3"], "did you mean every"),
        (["zsre", "--set", "every=3"], "every"),
        (["lifelong", "--set", "every=0"], "every is at least 1"),
        (["lifelong", "--circuits"], "does not look at circuits"),
        (["zsre", "--shard", "3/2"], "shard"),
    ],
)
def test_a_mistake_costs_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["benchmark", *arguments, "--out", str(tmp_path / "out")]) == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "cases of our own" not in line
    ]
    assert len(lines) == 1
    assert message in lines[0]


def test_the_list_says_where_data_is_and_under_which_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["benchmark", "--list"]) == 0
    text = capsys.readouterr().out
    for name in BENCHMARKS:
        found = benchmark(name)
        assert f"{name}: {found.title}" in text
        assert f"licence: {found.licence}" in text


def test_the_command_runs_a_file_and_counts_what_it_cannot_use(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "q.json", [QAEDIT, {**QAEDIT, "target": ""}])
    command = ["benchmark", "qaedit", "--model", tiny, "--data", str(path), "--methods", NO_EDIT]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    found = capsys.readouterr()
    slip = "1 rows cannot be used, the first is row 2"
    assert slip in found.err
    assert slip in (tmp_path / "out" / "report.md").read_text()
    assert "The file has no true answers" in found.out
    assert f"data: {path}" in (tmp_path / "out" / "report.md").read_text()
    assert main([*command, "--strict", "--out", str(tmp_path / "strict")]) == 2
    assert not (tmp_path / "strict").exists()
