"""KnowUnDo and TOFU: rows are read or left out with reasons; measures are the published ones."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.model.model import Model, load
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import run_analysis
from experiments.benchmarks.base import Benchmark, Cases, Config, as_analysis
from experiments.benchmarks.unlearning import measures, report
from experiments.benchmarks.unlearning.benchmark import KNOW_UN_DO, TOFU
from experiments.benchmarks.unlearning.cases import (
    AUTHORS,
    FORGET,
    FORGET_VAL,
    KNOW_UN_DO_SPLITS,
    RETAIN,
    RETAIN_VAL,
    TOFU_FORGET,
    TOFU_RETAIN,
    Row,
    read_know_un_do,
    read_tofu,
)
from experiments.benchmarks.unlearning.scoring import NEITHER, neither, scored, usable
from experiments.benchmarks.unlearning.stored import (
    BEFORE,
    Domain,
    mean,
    perplexity_interval,
    utility_interval,
)
from tests.edits import same, weights
from tests.shared import shared_data
from tests.tiny import tiny_model

COUNTRIES = ("Peru", "Cuba", "Japan", "France", "Norway", "Spain", "Chile", "Kenya")


def _rows(split: str, count: int = 5) -> list[dict[str, str]]:
    places = COUNTRIES[:count]
    return [{"text": f"{split} {each} is", "labels": f"the city of {each}"} for each in places]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    for split in KNOW_UN_DO_SPLITS:
        (path / f"{split}.json").write_text(json.dumps(_rows(split)))
    (path / "full.json").write_text(json.dumps(_rows("full")))
    return path


def _splits(cases: Cases) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for each in cases.items:
        found[each.domain, each.split] = found.get((each.domain, each.split), 0) + 1
    return found


# --- reading -------------------------------------------------------------------------------------


def test_know_un_do_is_read_in_both_nestings_and_from_keys(tmp_path):
    for domain in ("privacy", "copyright"):
        _folder(tmp_path / "data" / domain)
    one = dict.fromkeys((("privacy", split) for split in KNOW_UN_DO_SPLITS), 5)
    both = one | {("copyright", split): 5 for split in KNOW_UN_DO_SPLITS}
    assert _splits(read_know_un_do(tmp_path / "data" / "privacy")) == one
    assert _splits(read_know_un_do(tmp_path / "data")) == both
    lists = {split: _rows(split) for split in KNOW_UN_DO_SPLITS}
    nested = {
        "privacy": lists,
        "copyright": {
            side: {part: _rows(f"{side}_{part}") for part in ("train", "val")}
            for side in ("unlearn", "retention")
        },
    }
    (tmp_path / "one.json").write_text(json.dumps(nested))
    assert _splits(read_know_un_do(tmp_path / "one.json")) == both
    turned = tmp_path / "turned"
    turned.mkdir()
    for split in KNOW_UN_DO_SPLITS:
        content = {domain: _rows(split) for domain in ("privacy", "copyright")}
        (turned / f"{split}.json").write_text(json.dumps(content))
    assert _splits(read_know_un_do(turned)) == both


def test_rows_that_cannot_be_used_are_left_out_with_row_and_reason(tmp_path):
    folder = _folder(tmp_path / "privacy")
    path = folder / f"{RETAIN}.json"
    bad = [{"text": "x", "labels": " "}, {"text": "x"}, _rows(FORGET)[0]]
    path.write_text(json.dumps([*bad, *_rows(RETAIN)]))
    cases = read_know_un_do(folder)
    assert [(each.row, each.reason) for each in cases.left_out] == [
        (1, "'labels' must be text and not empty"),
        (2, "lacks the key 'labels'"),
        (3, "stands in unlearn_train too"),
    ]
    assert {each.path for each in cases.left_out} == {str(path)}
    assert _splits(cases)["privacy", RETAIN] == 5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2]", "unlearn_train.json:1: must be a JSON object"),
        ("3", "must hold lists of rows, not 3"),
        ("{", "not JSON"),
        ("[]", "holds no usable row of unlearn_train"),
        ('[{"text": ""}]', "holds no usable row of unlearn_train: row 1: 'text' must be text"),
    ],
)
def test_nonsense_is_an_error_that_names_the_file(tmp_path, content, reason):
    folder = _folder(tmp_path / "privacy")
    (folder / f"{FORGET}.json").write_text(content)
    with pytest.raises(FileFormatError, match=reason):
        read_know_un_do(folder)


def _tofu_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    question = {"question": "Where is Peru?", "answer": "in America"}
    other = {"question": "Where is Japan?", "answer": "in Asia"}
    more = {"paraphrased_answer": "on America", "perturbed_answer": ["on Asia", "on Africa"]}
    files = {
        "forget10.json": [question],
        "forget10_perturbed.json": [{**question, **more}],
        "forget01.json": [other],
        "retain90.jsonl": [other, {"question": "Where is Cuba?", "answer": ""}],
        "world_facts_perturbed.json": [{**other, "perturbed_answer": ["in America"]}],
    }
    for name, rows in files.items():
        (path / name).write_text("\n".join(map(json.dumps, rows)))
    return path


def test_tofu_is_read_from_json_lines_and_the_perturbed_answers_join_their_questions(tmp_path):
    cases = read_tofu(_tofu_folder(tmp_path / "tofu"))
    forget, retain, world = (
        next(each for each in cases.items if each.split == split)
        for split in (TOFU_FORGET, TOFU_RETAIN, "world_facts")
    )
    assert len(cases.items) == 3  # forget01 is passed over beside forget10
    assert (forget.question, forget.answer) == ("Where is Peru?", "in America")
    assert (forget.paraphrased, forget.perturbed) == ("on America", ("on Asia", "on Africa"))
    assert retain.perturbed == ()
    assert (world.paraphrased, world.perturbed) == (None, ("in America",))
    assert [(Path(each.path).name, each.row) for each in cases.left_out] == [("retain90.jsonl", 2)]


@pytest.fixture(scope="module")
def facts_gpt2() -> Model:
    return load("facts-gpt2", device="cpu")


def test_the_fixtures_are_read_whole_and_facts_gpt2_knows_them(facts_gpt2):
    model = facts_gpt2
    for benchmark, split in ((KNOW_UN_DO, FORGET_VAL), (TOFU, TOFU_FORGET)):
        cases = benchmark.read(benchmark.own_data).without_slips()
        rows = [each for each in cases.items if each.split == split]
        found, left_out = usable(model, rows)
        assert (found, left_out) == (rows, [])
        scores = scored(model, found, 16)
        assert np.mean(scores.accuracy) > 0.9
        assert np.mean(scores.rouge) > 0.9


def test_the_public_privacy_folder_is_read_whole():
    folder = shared_data("KnowUnDo", "privacy", "unlearn_train.json").parent
    cases = read_know_un_do(folder)
    assert _splits(cases) == {
        ("privacy", "unlearn_train"): 400,
        ("privacy", "unlearn_val"): 110,
        ("privacy", "retention_train"): 441,
        ("privacy", "retention_val"): 108,
    }
    assert cases.left_out == ()


# --- measures, by hand ---------------------------------------------------------------------------


def _known(accuracy: float, log_p: tuple[float, ...], tokens: tuple[int, ...]) -> measures.Scored:
    columns = {"accuracy": (accuracy,) * len(log_p), "rouge": (1.0,) * len(log_p)}
    return measures.Scored(mean_log_p=log_p, tokens=tokens, **columns)


def test_successes_are_what_is_forgotten_and_what_is_kept():
    sets = {FORGET_VAL: (0.3, 0.3), RETAIN_VAL: (0.8,), FORGET: (0.6,), NEITHER: (0.7,)}
    before = {
        name: asdict(replace(_known(0, log_p, (1,) * len(log_p)), accuracy=log_p))
        for name, log_p in sets.items()
    }
    table = report.successes(
        Domain("d", {"none": {"method": "none", "domains": {"d": {BEFORE: before}}}})
    )
    values = [getattr(cell, "value", cell) for cell in table.rows[0]]
    assert values == ["unedited", pytest.approx(0.7), 0.8, 0.6, 0.7, ""]


def test_the_published_perplexity_counts_rows_and_the_other_one_tokens():
    sets = {FORGET_VAL: _known(1.0, (log(1 / 2), log(1 / 8)), (3, 1))}
    by_row, by_token = (perplexity_interval(sets, FORGET_VAL, each) for each in (False, True))
    assert by_row.value == pytest.approx(4)  # sqrt(2 * 8)
    assert by_token.value == pytest.approx(64**0.25)


@pytest.mark.parametrize(
    ("said", "reference", "expected"),
    [
        ("the cat sat on a mat", "The cat, on the mat!", 4 / 5),  # the cat on mat
        ("mat the", "the mat", 1 / 2),
        ("", "the mat", 0),
        ("the the mat", "the mat", 1),
        ("Düsseldorf", "düsseldorf", 1),
    ],
)
def test_rouge_l_recall_is_the_longest_common_subsequence_over_the_reference(
    said, reference, expected
):
    assert measures.rouge_l_recall(said, reference) == pytest.approx(expected)
    assert np.isnan(measures.rouge_l_recall(said, "!"))


def test_truth_ratio_is_equation_1_and_the_scripts_is_geometric():
    paraphrased, perturbed = log(0.5), [log(0.1), log(0.4)]
    assert measures.truth_ratio(paraphrased, perturbed) == pytest.approx(0.25 / 0.5)
    assert measures.truth_ratio_script(paraphrased, perturbed) == pytest.approx(0.2 / 0.5)
    assert measures.truthful(0.25) == 0.75
    assert measures.truthful(3.0) == 0
    assert measures.probability_among(log(0.3), [log(0.1), log(0.2)]) == pytest.approx(0.5)


def test_forget_quality_is_the_kolmogorov_smirnov_p():
    # Two samples of three that do not overlap: 2 of the 20 orders are as extreme.
    assert measures.forget_quality([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)
    assert measures.forget_quality([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert np.isnan(measures.forget_quality([], [1.0]))


def test_model_utility_is_the_harmonic_mean():
    assert measures.model_utility([0.5, 1.0]) == pytest.approx(2 / 3)
    assert measures.model_utility([0.5, 0.0]) == 0
    assert np.isnan(measures.model_utility([]))
    kept = measures.Scored((), (), (), (1.0, 0.0), (0.25, 0.75), (0.5, np.nan), (0.25, np.nan))
    assert measures.utility({"retain": kept}) == pytest.approx(0.5)
    assert measures.utility({"retain": kept}, script=True) == pytest.approx(3 / (2 + 2 + 4 / 3))


def test_rows_without_a_truth_ratio_are_left_out_of_the_mean_and_of_its_interval():
    assert np.isnan(measures.truthful(float("nan")))
    assert [measures.truthful(x) for x in (0.25, 3.0)] == [0.75, 0.0]
    n = 60
    ratios = tuple(0.2 if row < 5 else np.nan for row in range(n))
    kept = measures.Scored((1.0,) * n, (0.0,) * n, (1,) * n, (0.8,) * n, (0.8,) * n, ratios, ratios)
    found = utility_interval({"retain": kept}, ["retain"], False)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))
    assert mean(
        {"retain": kept}, "retain", "truth_ratio", measures.truthful
    ).value == pytest.approx(0.8)


# --- scoring -------------------------------------------------------------------------------------


def _row(question: str, answer: str, **more: object) -> Row:
    return replace(Row("d", TOFU_FORGET, question, answer, "f", 1), **more)


def test_scores_are_those_of_the_model_asked_one_by_one():
    model = tiny_model("gpt2")
    wrong = ("Lima", "Paris")
    rows = [
        _row("The capital of Peru is", "Lima in Peru", paraphrased="Oslo", perturbed=wrong),
        _row("Cuba", "Havana"),
        _row("The capital of Cuba is", "Havana"),
    ]
    found = scored(model, rows, 16)
    alone = [scored(model, [each], 16) for each in rows]
    assert found.mean_log_p == pytest.approx([each.mean_log_p[0] for each in alone], rel=1e-4)
    for place, each in enumerate(rows):
        said = model.generate(each.question, found.tokens[place])
        assert found.rouge[place] == measures.rouge_l_recall(said, each.answer)
        assert found.probability[place] == pytest.approx(exp(found.mean_log_p[place]))
    asked = {x: _row(rows[0].question, x) for x in (*wrong, "Oslo")}
    own = {x: scored(model, [row], 16).probability[0] for x, row in asked.items()}
    expected = np.mean([own[x] for x in wrong]) / own["Oslo"]
    assert found.truth_ratio[0] == pytest.approx(expected, rel=1e-3)
    assert np.isnan(found.truth_ratio[1])
    # A question with choices has no score where the others are not there.
    authors = replace(rows[1], split=AUTHORS)
    among = scored(model, [authors, replace(authors, perturbed=wrong)], 16).probability
    assert np.isnan(among[0])
    assert 0 < among[1] < 1


def test_a_text_longer_than_the_context_is_left_out():
    model = tiny_model("gpt2")
    rows = [_row("Peru", "Lima"), _row("Peru", "Lima", perturbed=("long " * 80,))]
    found, left_out = usable(model, rows)
    assert found == rows[:1]
    assert "too long for 'tiny-gpt2', which takes 64" in left_out[0].reason


def test_facts_of_neither_set_are_known_and_about_no_subject_of_a_row(facts_gpt2):
    model = facts_gpt2
    context = Context("facts-gpt2", Path("unused"), device="cpu")
    rows = [_row("The capital of France is", "Paris")]
    found = neither(model, context.relations, rows, 20, batch_size=16, seed=0)
    assert len(found.rows) == 20 <= found.asked
    assert np.mean(scored(model, found.rows, 16).accuracy) == 1
    assert not any("France" in each.question for each in found.rows)


# --- whole runs on a model that knows nothing ----------------------------------------------------


def _small(benchmark: Benchmark, tmp_path: Path) -> Cases:
    if benchmark.name == "knowundo":
        return benchmark.read(_folder(tmp_path / "privacy"))
    return benchmark.read(_tofu_folder(tmp_path / "tofu"))


def _run(benchmark: Benchmark, model: Model, tmp_path: Path, *settings: str, **options: object):
    config = Config(methods=("none", "ga-gd", "npo"), settings=("neither=4", *settings), **options)
    context = Context.on(model, tmp_path / "run")
    return run_analysis(as_analysis(benchmark, _small(benchmark, tmp_path)), config, context)


@pytest.mark.parametrize("benchmark", [KNOW_UN_DO, TOFU], ids=lambda each: each.name)
def test_a_run_scores_before_after_and_a_random_change_and_restores_the_weights(
    benchmark, tmp_path
):
    model = tiny_model("gpt2")
    before = weights(model)
    run = _run(benchmark, model, tmp_path)
    assert run.parts.skipped == {}
    assert same(weights(model), before)
    (domain,) = run.parts.values["npo"]["domains"].values()
    assert domain["before"].keys() == domain["after"].keys() == domain["control"].keys()
    (untouched,) = run.parts.values["none"]["domains"].values()
    assert untouched["before"] == domain["before"]
    labels = [row[0] for row in run.report.tables[0].rows]
    assert labels == [
        "unedited",
        "GA+GD",  # every text has reached the ceiling of its loss before
        *("NPO", "random change as NPO's"),
    ]
    assert run.report.tables[0].rows[1][-1] == "no-change"
    assert "No change came of GA+GD: the loss of the texts" in run.report.sections[0].text
    assert "did not know what is to be forgotten" in run.report.lead
    assert "The model did not know these answers before" in run.report.sections[0].text
    assert len(run.report.answer) == 2


def test_forget_quality_is_computed_with_a_retain_model_alone(tmp_path, tiny):
    model = tiny_model("gpt2")
    named = Context(tiny, tmp_path / "b" / "run", device="cpu")
    without = _run(TOFU, model, tmp_path / "a")
    assert "Forget quality is not computed" in without.report.lead
    assert without.report.tables[0].rows[0][5:7] == ["not computed"] * 2
    config = Config(methods=("none",), settings=("neither=0", f"retain_model={tiny}"))
    found = run_analysis(as_analysis(TOFU, _small(TOFU, tmp_path / "b")), config, named)
    rows = found.report.tables[0].rows
    assert rows[0][5] == pytest.approx(1)  # the same weights
    assert rows[-1][0] == f"retain model {tiny}"


def test_settings_and_methods_that_there_are_not_are_refused(tmp_path):
    model = tiny_model("gpt2")
    with pytest.raises(OptionError, match="retain_modle"):
        _run(TOFU, model, tmp_path, "retain_modle=x")
    with pytest.raises(OptionError, match="'gaa' is none"):
        KNOW_UN_DO.edit_of("gaa")


def test_a_set_without_a_usable_row_is_said(tmp_path):
    found = KNOW_UN_DO.read(KNOW_UN_DO.own_data).items
    kept = tuple(each for each in found if each.split != "unlearn_train")
    without = replace(KNOW_UN_DO, read=lambda path: Cases(kept))
    with pytest.raises(PromptError, match="can use no row of unlearn_train"):
        _run(without, tiny_model("gpt2"), tmp_path)


@pytest.mark.parametrize("benchmark", [KNOW_UN_DO, TOFU], ids=["knowundo", "tofu"])
def test_a_limit_leaves_so_many_rows_of_every_set(
    benchmark: Benchmark, tiny: str, tmp_path: Path
) -> None:
    cases, seen = benchmark.read(benchmark.own_data), []
    watched = replace(benchmark, compute=lambda bench, items, method: {"": seen.append(items)})
    analysis = as_analysis(watched, cases)
    context, config = Context(tiny, tmp_path), Config(methods=("ga",), limit=2)
    assert list(analysis.steps(context, config)) == ["ga"]
    analysis.compute(context, config, "ga")
    analysis.compute(context, replace(config, limit=None), "ga")
    drawn, everything = (Counter((each.domain, each.split) for each in rows) for rows in seen)
    assert drawn == {name: min(2, count) for name, count in everything.items()}
    assert max(everything.values()) > 2
    assert sum(everything.values()) == len(cases.items)
