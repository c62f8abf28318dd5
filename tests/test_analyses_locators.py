"""Locators against exact patching: what is sampled, what agrees, and what the report says of it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from circuits.base.choices import Metric
from circuits.base.errors import OptionError
from circuits.base.plain import plain
from circuits.base.writing import to_json
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import top_n
from circuits.model.model import load
from circuits.model.wiring import Wiring
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.locators.agreement import agreement
from experiments.analyses.locators.analysis import Config, compute, scoring
from experiments.analyses.locators.report import report
from experiments.analyses.locators.sample import READERS, best_places, draw, reader
from experiments.cli.main import main
from locate.edges.score import score_edges

pytestmark = pytest.mark.slow

WIRING = Wiring(4, 4, 4)


def test_the_sample_holds_what_any_locator_ranks_first_and_all_kinds_of_readers():
    random = np.random.default_rng(0)
    scores = [random.standard_normal(WIRING.n_edges) for _ in range(3)]
    drawn = draw(WIRING, scores, 300)
    assert len(drawn) == len(set(drawn.tolist())) <= 300
    assert len(drawn) > 290
    first = np.argsort(best_places(scores))[: round(0.01 * WIRING.n_edges)]
    assert set(first) <= set(drawn)
    kinds = [reader(WIRING, edge) for edge in drawn.tolist()]
    assert set(kinds) == set(READERS)
    assert np.array_equal(drawn, draw(WIRING, scores, 300))
    assert not np.array_equal(drawn, draw(WIRING, scores, 300, seed=1))
    assert np.array_equal(draw(WIRING, scores, 10**6), np.arange(WIRING.n_edges))


def test_every_edge_has_the_reader_of_its_name():
    for name, kind in {
        "input->a0.h1<q>": "q",
        "a0.h0->a1.h3<v>": "v",
        "m0->m2": "mlp",
        "a1.h1->logits": "logits",
    }.items():
        assert reader(WIRING, WIRING.edge_index(name)) == kind


def test_agreement_on_numbers_worked_out_by_hand():
    exact = np.array([4.0, -3.0, 1.0, 0.0])
    guess = np.array([2.0, 3.0, -1.0, 0.0])
    found = agreement(guess, exact, largest=2)
    # Sizes are 2 3 1 0 and 4 3 1 0: ranks 3 4 2 1 and 4 3 2 1, whose squared differences sum to 2.
    assert found.spearman_size == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found.recall == 1.0
    assert found.sign == 0.5
    assert found.slope == pytest.approx((8 - 9 - 1) / 26)
    centred = guess - 1.0, exact - 0.5
    product = (centred[0] * centred[1]).sum()
    norm = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    assert found.pearson == pytest.approx(product / norm)
    assert np.isnan(agreement(np.zeros(4), exact, 2).pearson)


def test_options_of_a_locator_follow_its_name():
    assert scoring("atp-star:drop=false", Metric.LOGIT_DIFFERENCE).options.drop is False
    with pytest.raises(OptionError, match="gives no scores"):
        Config(locators=("acdc",))
    with pytest.raises(OptionError, match="none"):
        Config(locators=("none",))
    with pytest.raises(OptionError, match="there is no locator"):
        Config(locators=())


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> dict:
    context = Context.on(load("facts-gpt2", device="cpu"), tmp_path_factory.mktemp("locators"))
    config = Config(locators=("eap", "eap-ig", "atp-star:drop=false"), pairs=2, edges=60)
    return json.loads(to_json(plain(compute(context, config, "country_capital"))))


def test_attention_computed_anew_is_nearer_to_exact_patching_for_queries(part: dict):
    anew, plain = (part["locators"][n]["by_reader"]["q"] for n in ("atp-star:drop=false", "eap"))
    assert anew > plain
    assert part["edges"] <= 60
    assert all(each["cost"] > 0 for each in part["locators"].values())


def test_a_report_claims_what_its_numbers_carry(part: dict):
    better = {
        name: {**each, "recall": each["recall"] if name == "eap-ig" else 1.0}
        for name, each in part["locators"].items()
    }
    worse = {**better["eap-ig"], "recall": 0.1}
    parts = {f"r{i}": {**part, "locators": {**better, "eap-ig": worse}} for i in range(6)}
    made = report(Config(), parts)
    claims = {claim.sentence.split(" than")[0]: claim for claim in made.claims}
    assert claims["Eap finds more of the truly largest edges"].verdict == Verdict.SUPPORTED
    assert "largest 20 % of the edges patched" in made.lead
    assert "patched eap and atp-star:drop=false find 100 %" in made.lead
    agree = next(table for table in made.tables if table.name == "agreement")
    assert [row[0] for row in agree.rows] == ["eap", "eap-ig", "atp-star:drop=false"]
    few = report(Config(), {"r0": part})
    assert all(claim.verdict == Verdict.NO_EVIDENCE for claim in few.claims)


def test_of_one_relation_the_numbers_stand_without_an_interval(part: dict):
    one = report(Config(), {"r0": part})
    found = max(100 * each["recall"] for each in part["locators"].values())
    assert f" {found:.1f}".removesuffix(".0") + " %, the most of 3 locators" in one.lead
    assert "[" not in one.lead
    assert one.tables[0].title.endswith("edges patched in 1 relation, 2 pairs each")


def test_the_largest_are_fewer_than_the_edges_patched_and_the_report_says_how_many(part: dict):
    assert part["counted"] == round(0.2 * part["edges"]) < part["edges"]
    assert f"largest 20 % of a relation's patched edges ({part['counted']})." in (
        report(Config(), {"r0": part}).tables[0].note
    )
    with pytest.raises(OptionError, match="largest"):
        Config(largest=200)
    with pytest.raises(OptionError, match="largest is above 0"):
        Config(largest=0)


def test_every_size_but_the_whole_model_has_a_column_though_half_the_edges_are_a_little_more(
    part: dict,
):
    part = deepcopy(part)
    for each in part["locators"].values():
        shares = each["curve"]["absolute"]["fractions"]
        shares[shares.index(pytest.approx(0.5, abs=0.001))] = 0.5000071
    (sizes,) = [each for each in report(Config(), {"r0": part}).tables if each.name == "sizes"]
    assert len(sizes.columns) == 1 + 9
    assert sizes.columns[-1] == "50 %"


def test_circuits_by_size_are_measured_by_the_metric_of_the_scores(tmp_path: Path):
    context = Context.on(load("facts-gpt2", device="cpu"), tmp_path)
    config = Config(locators=("eap",), pairs=2, edges=20, metric=Metric.LOG_PROBABILITY)
    found = compute(context, config, "country_capital")["locators"]["eap"]["curve"]["absolute"]
    examples = context.examples("country_capital", 2)
    scores = score_edges(context.model, examples.pairs, scoring("eap", config.metric))
    size = round(found["fractions"][4] * scores.wiring.n_edges)
    for metric, same in ((Metric.LOG_PROBABILITY, True), (Metric.LOGIT_DIFFERENCE, False)):
        runs = run_circuits(context.model, examples.held_out, [top_n(scores, size)], metric=metric)
        empty = runs.empty.metric.mean()
        kept = runs.circuits[0].metric.mean() - empty
        share = kept / (runs.model.metric.mean() - empty)
        assert (found["faithfulness"][4] == pytest.approx(share, rel=1e-4)) == same


def test_a_run_writes_its_report(tmp_path: Path):
    command = ["run", "locators", "--model", "facts-gpt2", "--set", "relations=country_capital"]
    more = ["--set", "pairs=2", "--set", "edges=20", "--set", "locators=eap,relp"]
    assert main([*command, *more, "--out", str(tmp_path / "found")]) == 0
    assert (tmp_path / "found/report.html").is_file()
    assert "nan" not in (tmp_path / "found/report.md").read_text()
