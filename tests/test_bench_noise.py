"""`kc bench noise`: its counts by hand, what it leaves out, its command."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from circuits.base.choices import Metric
from circuits.base.errors import NothingFoundError, OptionError
from circuits.graph.noise import NoiseSettings
from circuits.model.model import Model, load
from experiments.cli.main import main
from experiments.nulls import bench as nulls
from experiments.nulls.bench import Null, NullBench, bench, chosen_methods
from locate.edges.locators import Locator
from locate.examples import Examples, collect
from locate.options import Source
from locate.search import Scoring
from tests.forms import check_form


@contextmanager
def silent(name: str):
    yield lambda done, total: None


def test_means_are_over_relations_with_an_interval_from_eight_on():
    few = [Null(f"r{at}", "eap", 20, 20, 0.01 * at, float(at % 2), 0.02) for at in range(7)]
    found = NullBench(tuple(few))
    assert found.mean("eap", "edges").value == pytest.approx(0.03)
    assert found.mean("eap", "any").low != found.mean("eap", "any").low  # none
    many = NullBench((*few, Null("r7", "eap", 20, 20, 0.07, 1.0, 0.02)))
    assert many.mean("eap", "any").low < 0.5 < many.mean("eap", "any").high
    assert many.by_method().rows[0][0] == "eap"


def test_all_locators_with_scores_of_single_pairs_are_looked_at_exact_patching_if_named():
    found, left_out = chosen_methods(None, Scoring())
    usual = {each.method for each in found}
    assert not left_out
    assert usual == {each for each in Locator if each.per_pair} - {Locator.EXACT}
    assert [each.method for each in chosen_methods(["exact"], Scoring())[0]] == [Locator.EXACT]
    with pytest.raises(OptionError, match="acdc gives no scores of single pairs"):
        chosen_methods(["eap", "acdc"], Scoring())


@pytest.mark.parametrize(
    ("scoring", "fits", "why"),
    [
        (
            Scoring(metric=Metric.KL),  # gim and relp are members of the ensemble
            lambda each: not each.at_clean and each != Locator.ENSEMBLE,
            "eap takes the gradient",
        ),
        (Scoring(spans="auto"), lambda each: each.spans, "not by eap-ig-activations"),
    ],
)
def test_locators_that_options_do_not_go_with_are_left_out_unless_they_are_named(
    scoring: Scoring, fits: Any, why: str
):
    usual = [each.method for each in chosen_methods(None, Scoring())[0]]
    found, left_out = chosen_methods(None, scoring)
    assert [each.method for each in found] == [each for each in usual if fits(each)]
    assert len(left_out) == len(usual) - len(found) > 0
    assert any(why in each for each in left_out)
    with pytest.raises(OptionError):
        chosen_methods([str(each) for each in usual], scoring)


@pytest.mark.slow
def test_a_relation_of_too_few_facts_to_show_some_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
):
    def collected(model: Model, source: Source, batch_size: int) -> Examples:
        if source.relation == "small":
            raise NothingFoundError("too few for 5 demonstrations")
        return collect(model, source, batch_size)

    monkeypatch.setattr(nulls, "collect", collected)
    model = load("facts-gpt2", device="cpu")
    ((scoring,), _) = chosen_methods(["eap"], Scoring())
    asked = ["small", "country_capital"]
    found = bench(model, asked, [scoring], pairs=24, splits=2, stage=silent)
    assert found.skipped == ("small: too few for 5 demonstrations",)
    assert [each.relation for each in found.nulls] == ["country_capital"]


@pytest.mark.slow
def test_a_level_that_is_none_calls_edges_changed_and_relations_of_few_facts_are_left_out():
    """With a false discovery rate of .999 nearly every comparison finds something."""
    model = load("facts-gpt2", device="cpu")
    asked = ["country_capital"]
    ((scoring,), _) = chosen_methods(["eap"], Scoring())
    options = {"pairs": 24, "splits": 5, "stage": silent}
    loose = bench(model, asked, [scoring], settings=NoiseSettings(0.999, 0.0), **options)
    strict = bench(model, asked, [scoring], **options)
    assert loose.nulls[0].any > strict.nulls[0].any
    assert loose.nulls[0].edges > strict.nulls[0].edges
    assert strict.nulls[0].any <= 0.2
    with pytest.raises(OptionError, match="fewer than 16 facts"):
        bench(model, asked, [scoring], **{**options, "pairs": 8})


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "noise"
    given = ["bench", "noise", "--model", "facts-gpt2", "--relations", "country_capital"]
    given += ["--methods", "eap,gim", "--n-pairs", "24", "--splits", "3", "--json"]
    assert main([*given, "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in said["relations"]] == ["eap", "gim"]
    assert {*said["methods"]} == {"eap", "gim"}
    most = 100 * max(row["any"] for row in said["relations"])
    assert f"calls an edge changed in {most:.1f} % of the comparisons of facts-gpt2" in said["says"]
    assert said["says"].endswith("with itself (1 relation); the level allows 5 %.")
    stored = json.loads((out / "summary.json").read_text())
    assert (stored["schema"], stored["says"]) == (said["schema"], said["says"])
    check_form(stored)
    rows = pq.read_table(out / "noise.parquet").to_pylist()
    assert [row["any"] for row in rows] == [row["any"] for row in said["relations"]]
    assert main([*given[:4], "--relations", "nonsense", "--out", str(tmp_path / "no")]) != 0
    assert not (tmp_path / "no").exists()
