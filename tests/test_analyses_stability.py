"""The analysis of stability: parts of the variance, pairs, and a report on a few facts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.base.choices import Templates
from circuits.base.errors import NumericalError, OptionError
from circuits.base.plain import plain
from circuits.edits.edit import WeightDelta
from circuits.graph.select import top_n
from experiments.analyses.engine.base import SkipError
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.stability import analysis as stability
from experiments.analyses.stability.choices import (
    Config,
    base_of,
    drawn,
    idle,
    levels,
    one_at_a_time,
    search_of,
)
from experiments.analyses.stability.prompts import examples_of
from experiments.analyses.stability.report import report
from experiments.analyses.stability.variance import part, part_interval, products
from locate.edges.score import score_edges
from locate.seen import subjects_of
from locate.states.steering import patched

pytestmark = pytest.mark.slow

RELATION = "country_capital"
ASKED = Context("facts-gpt2", Path())
NOTHING: dict[str, Any] = dict.fromkeys(
    ("wordings", "shots", "steps", "locators", "metrics", "ablations", "dtypes"), ()
)
FEW = Config(
    pairs=4,
    draws=8,
    random_circuits=2,
    **{**NOTHING, "steps": (1,), "locators": ("eap",)},
    foils=1,
    subjects=0,
)


# --- parts of the variance -----------------------------------------------------------------------


def test_parts_are_those_that_made_the_data_and_0_where_a_choice_does_nothing():
    """Two levels 1 apart have a variance of 1/4, two 2 apart one of 1, the noise one of 1."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        one, two, idle = generator.integers(2, size=(3, 40))
        values = one + 2.0 * two + generator.normal(size=40)
        gram = products(values[:, None])
        found.append([part(gram, list(map(str, each))) for each in (one, two, idle)])
    assert np.mean(found, 0) == pytest.approx([0.25 / 2.25, 1 / 2.25, 0.0], abs=0.02)


def test_the_part_of_one_number_is_that_of_an_analysis_of_variance():
    generator = np.random.default_rng(1)
    values, names = generator.normal(size=12), ["a", "b", "c"] * 4
    groups = [values[place::3] for place in range(3)]
    whole = ((values - values.mean()) ** 2).sum()
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    expected = (whole - within - 2 * within / 9) / whole
    assert part(products(values[:, None]), names) == pytest.approx(expected)


def test_an_interval_covers_the_part_about_as_often_as_it_says():
    generator, covered = np.random.default_rng(2), 0
    for _ in range(200):
        levels_of = generator.integers(2, size=40)
        values = 2.0 * levels_of + generator.normal(size=40)
        limits = part_interval(products(values[:, None]), list(map(str, levels_of)))
        covered += limits.low <= 0.5 <= limits.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_choice_is_no_larger_than_itself_however_few_the_draws():
    """Both parts are of the same draws, and so is the interval of their difference."""
    generator = np.random.default_rng(0)
    levels, other = ([str(each) for each in generator.integers(3, size=24)] for _ in range(2))
    values = np.array([float(each) for each in levels])[:, None] + generator.standard_normal(
        (24, 1)
    )
    gram = products(values)
    same = part_interval(gram, levels, levels)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    apart = part_interval(gram, levels, other)
    assert apart.value == pytest.approx(part(gram, levels) - part(gram, other))
    assert apart.low < apart.value < apart.high


def test_a_choice_of_one_level_and_results_that_are_all_alike_have_no_part():
    same = products(np.ones((6, 3)))
    assert np.isnan(part(same, ["a", "b"] * 3))
    assert np.isnan(part(products(np.arange(6.0)[:, None]), ["a"] * 6))


# --- choices -------------------------------------------------------------------------------------


def test_choices_that_exclude_each_other_are_never_drawn_together():
    config = Config(metrics=("kl",), draws=64)
    known = levels(config, ASKED)
    assert known["metric"] == ["logit-diff", "kl"]
    for setting in [*drawn(known, config, 0), *(each for *_, each in one_at_a_time(known, config))]:
        search_of(setting, config)
    with pytest.raises(OptionError, match="gradient at the clean run"):
        search_of({**base_of(known), "locator": "gim", "metric": "kl"}, config)


def test_where_nothing_is_varied_nothing_is_called_stable():
    names = ("metrics", "ablations", "locators", "dtypes", "steps", "shots", "wordings")
    with pytest.raises(OptionError, match="nothing is varied"):
        levels(Config(foils=0, subjects=0, **dict.fromkeys(names, ())), ASKED)


def test_the_base_is_what_the_run_asks_for():
    asked = replace(ASKED, templates=Templates.TRAIN, shots=2, dtype="bf16")
    base = base_of(levels(Config(shots=(5,), dtypes=("fp32",)), asked))
    assert (base["wording"], base["shots"], base["dtype"]) == ("train", "2", "bf16")


def test_one_change_at_a_time_is_one_change():
    known = levels(Config(), ASKED)
    base = base_of(known)
    for factor, level, setting in one_at_a_time(known, Config()):
        assert {name for name in base if setting[name] != base[name]} == {factor}
        assert setting[factor] == level


@pytest.mark.parametrize(
    "wrong", [{"locators": ("acdc",)}, {"metrics": ("tact",)}, {"shots": (-1,)}, {"dtypes": ("x",)}]
)
def test_what_is_no_level_is_refused(wrong: dict[str, Any]):
    with pytest.raises(OptionError):
        Config(**wrong)


# --- choices that a combination does not read ----------------------------------------------------


def test_a_combination_reads_a_choice_where_another_level_of_it_gives_other_scores(
    context: Context,
):
    """Steps and corrupted subjects, under locators, metrics and ablations."""
    tested = context.examples(RELATION, 4).held_out
    others = {"steps": "3", "foils": "1"}
    for locator in ("eap-ig", "eap", "relp"):
        for ablation in ("patch", "zero"):
            for metric in ("logit-diff", "log-prob"):
                setting = {"steps": "1", "foils": "0", "locator": locator}
                setting |= {"ablation": ablation, "metric": metric}
                unread = idle(setting, Config())
                base = scores_of(context, tested, setting)
                for name, level in others.items():
                    other = scores_of(context, tested, {**setting, name: level})
                    assert np.array_equal(base, other) == (name in unread), (setting, name)


def scores_of(context: Context, tested: Any, setting: dict[str, str]) -> np.ndarray:
    pairs = examples_of(context, RELATION, tested, setting, 4).pairs
    return score_edges(context.model, pairs, search_of(setting, Config())).values


def made_up(n: int) -> dict[str, Any]:
    """A relation of which the steps decide which edge is kept, where the locator reads them."""
    generator = np.random.default_rng(0)
    known = {"steps": ["5", "20"], "locator": ["eap-ig", "eap", "relp", "gim"]}
    levels = {name: [str(each) for each in generator.choice(of, n)] for name, of in known.items()}
    kept = np.zeros((n, 5))
    for draw, (steps, locator) in enumerate(zip(*levels.values(), strict=True)):
        read = locator == "eap-ig"
        kept[draw, known["steps"].index(steps) if read else known["locator"].index(locator) + 1] = 1
    single = {"jaccard": 0.5, "node_jaccard": 0.5, "spearman": 0.5, "faithfulness": 0.8}
    measured = {"edges": 1, "nodes": 1, "faithfulness": {"value": 0.9, "low": 0.8, "high": 1.0}}
    counts = {"core": 1, "contingent": 0, "noise": 2}
    return {
        "edges": 3,
        "all_edges": 30,
        "factors": known,
        "base": measured,
        "consensus": measured,
        "core": measured,
        "random": 0.1,
        "consensus_gains": {"value": 0.0, "low": -0.1, "high": 0.1},
        "core_lacks": {"value": 0.0, "low": -0.1, "high": 0.1},
        "single": [{"factor": "steps", "level": "20", **single}],
        "survive": {"steps": {"all": 1, "some": 0, "none": 2}},
        "draws": {
            "levels": levels,
            "jaccard": [0.5] * n,
            "faithfulness": [0.5] * n,
            "products": dict.fromkeys(("edges", "ranks", "faithfulness"), products(kept).tolist()),
        },
        "labels": dict.fromkeys(("edges", "base_edges", "nodes", "base_nodes"), counts),
        "listed": [],
    }


def test_a_choice_is_judged_by_the_combinations_that_read_it():
    """Where they are read steps decide all; of all combinations that is a small part."""
    stored = made_up(64)
    n = stored["draws"]["levels"]["locator"].count("eap-ig")
    diluted = part(
        np.array(stored["draws"]["products"]["edges"]), stored["draws"]["levels"]["steps"]
    )
    assert 8 <= n < 32
    assert diluted < 0.3
    made = report(Config(), {RELATION: stored})
    table = next(each for each in made.tables if each.name == "variance")
    row = next(each for each in table.rows if each[0] == "steps")
    assert row[1] == f"{n} of 64"
    assert row[2].value == pytest.approx(1)
    said = f"decides which edges are kept, among the {n} of 64 combinations that read it: its part "
    assert any(f"steps {said}" in each.sentence for each in made.claims)


def test_of_a_choice_that_hardly_any_combination_reads_nothing_is_said():
    stored = made_up(16)
    n = stored["draws"]["levels"]["locator"].count("eap-ig")
    assert 0 < n < 8
    made = report(Config(), {f"{RELATION}_{place}": stored for place in range(6)})
    (said,) = (each for each in made.claims if "steps" in each.sentence)
    assert said.verdict == Verdict.UNDEFINED
    assert f"cannot be said: {n} of 16 combinations read it, and 8 are needed" in said.sentence


def test_edges_that_are_not_listed_are_counted():
    made = report(Config(), {RELATION: made_up(16)})
    table = next(each for each in made.tables if each.name == "edges")
    assert table.note == (
        f"Of {RELATION} the 0 that most combinations keep are listed, and 3 others are not."
    )


@pytest.mark.parametrize(("n", "resampled"), [(4, False), (5, True)])
def test_relations_are_resampled_from_five_on(n: int, resampled: bool):
    """Of four values that differ resamples reach no further than these: no 95 %."""
    parts = {str(place): copy.deepcopy(made_up(16)) for place in range(n)}
    for place, each in enumerate(parts.values()):
        each["single"][0]["jaccard"] = place / 10
        each["labels"]["base_edges"] = {"core": place, "contingent": 0, "noise": 3}
    made = report(Config(), parts)
    tables = {each.name: each for each in made.tables}
    (stays,) = (each for each in made.claims if "(core)" in each.sentence)
    steps = next(row for row in tables["factors"].rows if row[0] == "steps")
    for found in (steps[1], tables["levels"].rows[0][2], stays.estimate):
        assert np.isfinite(found.value)
        assert bool(np.isfinite(found.low)) == resampled


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", [{}, {"subjects": "1"}, {"foils": "1"}, {"wording": "held-out"}, {"shots": "2"}]
)
def test_no_setting_asks_about_a_subject_that_the_test_asks_about(
    context: Context, setting: dict[str, str]
):
    tested = context.examples(RELATION, 6).held_out
    names = {name for pair in tested for name in subjects_of(pair.text)}
    found = examples_of(context, RELATION, tested, setting, 6)
    assert len(found.pairs) == 6
    assert not names & {name for pair in found.pairs for name in subjects_of(pair.text)}


def test_other_partners_leave_the_clean_prompts_and_change_the_corrupted_ones(context: Context):
    tested = context.examples(RELATION, 6).held_out
    base, other = (
        examples_of(context, RELATION, tested, {"foils": level}, 6).pairs for level in "01"
    )
    assert [each.clean for each in base] == [each.clean for each in other]
    assert [each.text.answer for each in base] == [each.text.answer for each in other]
    changed = [a.corrupted != b.corrupted for a, b in zip(base, other, strict=True)]
    assert np.mean(changed) > 0.5
    for pair in other:
        assert pair.answer != pair.foil
        assert len(pair.clean) == len(pair.corrupted)


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(context: Context) -> dict[str, Any]:
    made = plain(stability.compute(context, FEW, RELATION))
    assert isinstance(made, dict)
    return made


def test_a_single_change_is_compared_as_two_circuits_that_were_found_by_hand(
    context: Context, found: dict[str, Any]
):
    tested = context.examples(RELATION, FEW.pairs).held_out
    pairs = examples_of(context, RELATION, tested, {}, FEW.pairs).pairs
    sets = []
    for locator in ("eap-ig", "eap"):
        search = search_of({"locator": locator}, FEW)
        scores = score_edges(context.model, pairs, search)
        sets.append(set(np.flatnonzero(top_n(scores, found["edges"]).kept).tolist()))
    stored = next(each for each in found["single"] if each["level"] == "eap")
    assert stored["jaccard"] == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))


def test_counts_add_up_and_all_settings_select_as_many_edges(found: dict[str, Any]):
    assert sum(found["labels"]["base_edges"].values()) == found["edges"]
    for each in found["survive"].values():
        assert sum(each.values()) == found["edges"]
    kept = np.array(found["draws"]["products"]["edges"])
    assert kept.shape == (FEW.draws, FEW.draws)
    assert found["consensus"]["edges"] <= found["edges"]
    combined = [
        tuple(each[place] for each in found["draws"]["levels"].values())
        for place in range(FEW.draws)
    ]
    for one in range(FEW.draws):  # equal combinations have equal circuits
        for other in range(one):
            if combined[one] == combined[other]:
                assert found["draws"]["jaccard"][one] == found["draws"]["jaccard"][other]


def test_a_found_circuit_is_nearer_to_the_model_than_random_ones(found: dict[str, Any]):
    assert found["base"]["faithfulness"]["value"] > found["random"] + 0.3


def test_what_the_report_says_follows_from_its_numbers(found: dict[str, Any]):
    same = {f"{RELATION}_{place}": copy.deepcopy(found) for place in range(6)}
    made = report(FEW, same)
    assert {table.name for table in made.tables} >= {"labels", "factors", "variance", "edges"}
    core = found["labels"]["base_edges"]["core"] / found["edges"]
    assert f"{100 * core:.0f} % are kept by nearly all" in made.lead
    supported = [each for each in made.claims if each.verdict == Verdict.SUPPORTED]
    assert ("No single choice" in made.lead) == (
        not any("decides which edges" in each.sentence for each in supported)
    )
    assert "empty" not in {table.name for table in made.tables}
    only = report(FEW, {RELATION: found})
    assert only.lead.split(". ")[0] == made.lead.split(". ")[0]


def test_a_setting_whose_circuit_is_empty_is_recorded_and_the_others_go_on(context: Context):
    """Of seven edges some selections hold a path from the input to the logits, and some none."""
    made: Any = plain(stability.compute(context, replace(FEW, edges=7), RELATION))
    named = [each["circuit"] for each in made["empty"]]
    assert "base" in named
    assert 0 < sum(name.startswith("combination") for name in named) < FEW.draws
    for place, faithful in enumerate(made["draws"]["faithfulness"], 1):
        assert (f"combination {place}" in named) == (faithful == 0)
    for each in made["single"]:
        assert (f"{each['factor']} {each['level']}" in named) == (each["faithfulness"] == 0)
        assert 0 < each["jaccard"] <= 1
    assert all(
        "no edge of the selection lies on a path" in each["reason"] for each in made["empty"]
    )
    tables = {table.name: table for table in report(FEW, {RELATION: made}).tables}
    assert [row[:2] for row in tables["empty"].rows] == [[RELATION, name] for name in named]
    search = search_of(base_of(made["factors"]), replace(FEW, edges=7))
    tested = context.examples(RELATION, FEW.pairs).held_out
    examples = examples_of(context, RELATION, tested, {}, FEW.pairs)
    with pytest.raises(OptionError, match="lies on a path"):  # though it is stored by now
        context.circuit(RELATION, None, search, examples=examples)


def test_a_setting_without_finite_scores_is_left_out_and_the_others_go_on(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    whole: Any = plain(stability.compute(context, replace(FEW, draws=20), RELATION))
    find = Context.circuit

    def overflowing(self: Context, key: str, config: Any, search: Any, **options: Any) -> Any:
        if (search.method, search.steps) == ("eap-ig", 1):
            raise NumericalError("the scores are not finite")
        return find(self, key, config, search, **options)

    monkeypatch.setattr(Context, "circuit", overflowing)
    config = replace(FEW, draws=20)
    made: Any = plain(stability.compute(context, config, RELATION))
    named = [each["circuit"] for each in made["left_out"]]
    assert "steps 1" in named
    changes, left = (
        [(each["factor"], each["level"]) for each in found["single"]] for found in (whole, made)
    )
    assert left == [change for change in changes if change != ("steps", "1")]
    assert set(whole["survive"]) - set(made["survive"]) == {"steps"}  # its only other level
    drawn_levels, kept = whole["draws"]["levels"], []
    for place in range(20):
        lost = (drawn_levels["steps"][place], drawn_levels["locator"][place]) == ("1", "eap-ig")
        assert (f"combination {place + 1}" in named) == lost
        kept += [] if lost else [place]
    assert 8 <= len(kept) < 20
    for name in ("jaccard", "faithfulness"):
        expected = [whole["draws"][name][place] for place in kept]
        assert made["draws"][name] == pytest.approx(expected, abs=1e-6)
    page = report(config, {RELATION: made, "other": whole})
    assert f"nearly all of {len(kept)} to 20 combinations" in page.lead
    told = {table.name: table for table in report(config, {RELATION: made}).tables}
    (row,) = (row for row in told["factors"].rows if row[0] == "steps")
    assert not any(np.isfinite(cell.value) for cell in row[1:])
    assert [row[1] for row in told["left_out"].rows] == named
    assert {row[3] for row in told["left_out"].rows} == {"left out: the scores are not finite"}
    with pytest.raises(SkipError, match="combinations of choices have finite scores, and 8 are"):
        stability.compute(context, FEW, RELATION)
    monkeypatch.setattr(Context, "circuit", lambda *_, **__: overflow_always())
    with pytest.raises(NumericalError):  # of the base's nothing can be compared
        stability.compute(context, config, RELATION)


def overflow_always() -> Any:
    raise NumericalError("the scores are not finite")


def test_precisions_are_those_of_the_model_that_is_run(context: Context):
    """Of an edited model, or one that no name loads, the weights are cast; a patched one is not."""
    config, model = Config(**{**NOTHING, "dtypes": ("bf16",)}), context.model
    loaded = context.in_dtype("bf16").model
    assert loaded.provenance["weights_sha256"] != model.provenance["weights_sha256"]
    weight = model.mlp_output_name(1)
    delta = WeightDelta({weight: torch.ones(model.shape(weight))}, {})
    with delta.applied(model):
        edited = Context.on(model, context.folder)
        assert stability.steps(edited, config)
        cast = edited.in_dtype("bf16").model
    expected = (loaded.parameter(weight).float() + 1).bfloat16()
    assert not torch.equal(expected, loaded.parameter(weight))
    torch.testing.assert_close(cast.parameter(weight), expected, atol=0, rtol=2**-7)
    with patched(model, "m1", to=0):
        held = Context.on(model, context.folder)
        with pytest.raises(OptionError, match=r"is patched.*or leave `dtypes` empty"):
            stability.steps(held, config)
