"""What a benchmark passes over: rows, probes and cases that are of no use, counted, not fatal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from circuits.base.errors import FileFormatError, NumericalError, OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.judge.generation import Speaker
from circuits.edits.judge.measures import Asked, Measure, Observation, measures
from circuits.edits.judge.success import Judge
from circuits.edits.methods.run import EditOutcome
from circuits.edits.requests import Heading, read_requests
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model, load
from experiments.analyses.engine.base import Run, SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import run_analysis
from experiments.benchmarks.base import Bench, Config, as_analysis
from experiments.benchmarks.editing import lifelong
from experiments.benchmarks.editing.cases import mquake, single_edits
from experiments.benchmarks.editing.lifelong import LIFELONG
from experiments.benchmarks.registry import benchmark
from locate.edit import Editor

KNOWEDIT = {
    "subject": "Peru",
    "prompt": "The capital of Peru is",
    "target_new": "Oslo",
    "ground_truth": "Lima",
    "portability": {"Reasoning": [{"prompt": "In Peru they govern from", "ground_truth": "Oslo"}]},
    "locality": {"Other": [{"prompt": "The capital of Cuba is", "ground_truth": [["Havana"]]}]},
}


@pytest.fixture(scope="module")
def facts_gpt2() -> Model:
    return load("facts-gpt2", device="cpu")


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


# --- rows and probes ------------------------------------------------------------------------------


def test_a_row_that_is_no_object_is_counted_and_the_others_are_used(tmp_path: Path) -> None:
    for path in (
        written(tmp_path / "k.json", [KNOWEDIT, 7, KNOWEDIT]),
        lines(tmp_path / "k.jsonl", KNOWEDIT, "7", KNOWEDIT),
    ):
        found = single_edits(path)
        assert len(found.items) == 2
        assert [(row.row, row.reason) for row in found.left_out] == [(2, "must be a JSON object")]
        assert found.told() == ("1 rows cannot be used, the first is row 2: must be a JSON object",)
        with pytest.raises(FileFormatError, match="must be a JSON object"):
            read_requests(path)
    cut = single_edits(lines(tmp_path / "cut.jsonl", KNOWEDIT, json.dumps(KNOWEDIT)[:-3]))
    assert [row.row for row in cut.left_out] == [2]
    assert "not JSON" in cut.left_out[0].reason


def test_in_the_projects_own_format_too(tmp_path: Path) -> None:
    own = {"prompt": "The capital of {} is", "subject": "Peru", "target": "Oslo"}
    path = lines(tmp_path / "own.jsonl", own, {**own, "target": ""}, "[]", own)
    found = single_edits(path)
    assert len(found.items) == 2
    assert [(row.row, row.reason) for row in found.left_out] == [
        (2, "'target' must be text and not empty"),
        (3, "must be a JSON object"),
    ]
    with pytest.raises(FileFormatError, match=r"own.jsonl:2: 'target' must be text"):
        read_requests(path)
    listed = written(tmp_path / "own.json", [own, {**own, "target": ""}])
    with pytest.raises(FileFormatError, match=r"own.json \(row 2\): 'target' must be text"):
        read_requests(listed)


def test_an_empty_probe_does_not_cost_its_row(tmp_path: Path) -> None:
    row = {
        **KNOWEDIT,
        "rephrase": ["", "Peru is governed from"],
        "portability": {
            "Reasoning": [
                {"prompt": "", "ground_truth": "Oslo"},
                {"prompt": "In Peru they govern from", "ground_truth": [[]]},
            ]
        },
        "locality": {"Other": [{"prompt": "The capital of Cuba is", "ground_truth": [[]]}]},
    }
    found = single_edits(written(tmp_path / "k.json", [KNOWEDIT, row]))
    assert not found.left_out
    assert [(each.row, each.reason) for each in found.empty_probes] == [
        (2, "a prompt of 'rephrase' is empty"),
        (2, "a prompt of 'Reasoning' is empty"),
        (2, "a prompt of 'Reasoning' has no answer"),
    ]
    # What should stay needs no answer: the model's own, before the edit, is one.
    kept = found.items[1].requests[0].probes
    assert [(each.kind, each.prompt) for each in kept] == [
        (ProbeKind.PARAPHRASE, "Peru is governed from"),
        (ProbeKind.LOCALITY, "The capital of Cuba is"),
    ]
    assert found.told() == (
        "3 prompts of the other rows cannot be asked, the first is in row 2: "
        "a prompt of 'rephrase' is empty",
    )
    with pytest.raises(OptionError, match="3 prompts of the other rows"):
        found.without_slips()


def test_of_zsre_and_mquake_too(tmp_path: Path) -> None:
    zsre = {
        "subject": "Ed",
        "src": "Where did Ed study?",
        "alt": "Yale",
        "answers": ["Bonn"],
        "rephrase": "",
        "loc": "nq question: who sang it",
        "loc_ans": "",
    }
    (case,) = single_edits(written(tmp_path / "z.json", [zsre])).items
    assert case.requests[0].probes == (Probe(ProbeKind.LOCALITY, "who sang it", (), "loc"),)
    hop = {"question": "The capital of Italy is", "answer": "Rome"}
    row = {
        "requested_rewrite": [
            {"prompt": "The capital of {} is", "subject": "Peru", "target_new": "Rome"}
            | {"target_true": "Lima"}
        ],
        "questions": ["", "Who rules Peru's capital?"],
        "new_answer": "Ann",
        "new_single_hops": [hop, {**hop, "answer": ""}],
    }
    found = mquake(written(tmp_path / "m.json", [row]))
    assert [each.name for each in found.items[0].requests[0].probes] == ["multi-hop", "single hops"]
    assert [each.reason for each in found.empty_probes] == [
        "a prompt of 'multi-hop' is empty",
        "a prompt of 'single hops' has no answer",
    ]


# --- single hops are no portability ---------------------------------------------------------------


def test_a_chains_single_hops_are_not_what_follows_from_an_edit() -> None:
    from circuits.edits.judge.generation import Forced

    def seen(right: bool) -> Observation:
        return Observation((Forced((3,), (-1.0,), (3 if right else 4,)),), None, (3,), "Ann")

    def asked(heading: Heading) -> Asked:
        return Asked(ProbeKind.PORTABILITY, heading, (1,), ((3,),), ("Ann",), None)

    probes = [asked(h) for h in (Heading.MULTI_HOP, Heading.SINGLE_HOP, Heading.SINGLE_HOP)]
    told = [seen(False), seen(True), seen(True)]
    found = measures(probes, told, told)
    assert found[Measure.PORTABILITY].tokens == found[Measure.MULTI_HOP].tokens == 0
    assert found[Measure.SINGLE_HOP].tokens == 1


# --- in sequence ----------------------------------------------------------------------------------


def in_sequence(model: Model, folder: Path, rows: Sequence[Any], method: str = "memit") -> Run:
    data = written(folder / "c.json", rows)
    analysis = as_analysis(LIFELONG, LIFELONG.read(data))
    config = Config((method,), settings=("every=2",))
    return run_analysis(analysis, config, Context.on(model, folder / "out"))


def own_rows(count: int) -> list[Any]:
    return json.loads(LIFELONG.own_data.read_text(encoding="utf-8"))[:count]


def too_long(row: Any) -> Any:
    rewrite = {**row["requested_rewrite"], "prompt": "very " * 500 + "well, {} is"}
    return {**row, "requested_rewrite": rewrite}


@pytest.mark.slow
def test_a_case_that_cannot_be_asked_has_no_part_in_the_sequence(
    facts_gpt2: Model, tmp_path: Path
) -> None:
    one, two = own_rows(2)
    run = in_sequence(facts_gpt2, tmp_path, [one, too_long(two), two])
    part = run.parts.values["memit"]
    assert len(part["right_after"]) == len(part["done"]) == 2
    assert len(part["left_out"]) == 1
    assert "the model takes 256" in part["left_out"][0]
    (section,) = run.report.sections
    assert "1 prompts of the cases cannot be asked, the first" in section.text
    assert {row[1] for row in run.tables["sequence"].rows if row[1]} == {"2 of 2"}


@pytest.mark.slow
def test_an_edit_that_cannot_be_made_leaves_the_sequence_going(
    facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = own_rows(3)
    made = lifelong.editor_of
    fails = {rows[1]["requested_rewrite"]["subject"]}

    def editor_of(bench: Bench, method: str) -> Any:
        editor: Editor = made(bench, method)

        def edit(requests: Sequence[EditRequest], earlier: Sequence[EditRequest]) -> EditOutcome:
            if requests[0].subject in fails:
                raise NumericalError("made to fail")
            return editor(requests, earlier)

        return edit

    monkeypatch.setattr(lifelong, "editor_of", editor_of)
    run = in_sequence(facts_gpt2, tmp_path, rows)
    part = run.parts.values["memit"]
    assert part["status"] == {"done": 2, "failed": 1}
    assert part["failed"] == ["made to fail"]
    assert len(part["stops"][-1]["scores"]) == 3
    (section,) = run.report.sections
    assert "1 edits by MEMIT cannot be made, the first: made to fail." in section.text
    fails |= {row["requested_rewrite"]["subject"] for row in rows}
    bench = Bench(Context.on(facts_gpt2, tmp_path / "b"), Config(), LIFELONG.settings())
    with pytest.raises((SkipError, PromptError), match="no edit can be made, the first: made to"):
        lifelong.compute(bench, LIFELONG.read(tmp_path / "c.json").items, "memit")


def test_a_judge_that_is_lenient_keeps_the_requests_that_can_be_asked(facts_gpt2: Model) -> None:
    good = EditRequest("The capital of {} is", "Peru", "Oslo")
    full, long = (EditRequest("very " * n + "well, {} is", "Peru", "Oslo") for n in (125, 500))
    with pytest.raises(PromptError, match="no room"):
        Judge(facts_gpt2, [good, full])
    judge = Judge(facts_gpt2, [full, good, long], lenient=True)
    assert judge.requests == (good,)
    assert ["no room" in each for each in judge.left_out] == [True, False]
    (score,) = judge.score()
    assert score.request == good
    with pytest.raises(PromptError, match="no room"):
        Judge(facts_gpt2, [long, full], lenient=True)


# --- what a run is told ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["counterfact", "conflictedit", "safeedit", "personality"])
def test_the_batch_size_is_that_of_the_run(
    name: str, facts_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    made = Speaker.__init__

    def init(self: Speaker, model: Model, batch_size: int = 64) -> None:
        seen.add(batch_size)
        made(self, model, batch_size)

    monkeypatch.setattr(Speaker, "__init__", init)
    found = benchmark(name)
    config = Config(("none",) if name != "personality" else ("in-context",), 1)
    context = Context.on(facts_gpt2, tmp_path, batch_size=3)
    run_analysis(as_analysis(found, found.read(found.own_data)), config, context)
    assert seen == {3}


@pytest.mark.slow
def test_a_table_of_rates_says_of_how_many_cases(facts_gpt2: Model, tmp_path: Path) -> None:
    found = benchmark("counterfact")
    config = Config(("none", "memit"), 2)
    run = run_analysis(
        as_analysis(found, found.read(found.own_data)), config, Context.on(facts_gpt2, tmp_path)
    )
    for name in ("success_generation", "success_likelihood", "magnitude"):
        table = run.tables[name]
        assert table.columns[:3] == ("method", "cases", "edits made")
        assert {row[1] for row in table.rows} == {2}
