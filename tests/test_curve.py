"""The curve of circuit sizes: whose circuits it is of, and what its areas are called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import knowledge_circuits as kc
from circuits.base.choices import Ablation, Ranking, Selection
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.graph.curve import FaithfulnessCurve, FaithfulnessCurves
from circuits.graph.evaluate import run_circuits
from experiments.cli.main import main
from locate.discover import discover, find
from locate.edges.locators import Locator
from locate.examples import Examples
from locate.report import curve_summary
from locate.search import Search
from tests.tiny import equal_length_pairs, tiny_model
from viz.screen.curves import curve_figure

POINTS = tuple(Interval(value, value, value) for value in (0.0, 0.5, 1.0))
AREA, DISTANCE = Interval(0.5, 0.4, 0.6), Interval(0.25, 0.2, 0.3)
CURVE = FaithfulnessCurve((0.0, 0.5, 1.0), (0, 50, 100), POINTS, AREA, DISTANCE)
NAMED = {Ranking.SIGNED: ("CPR", AREA, "CMD"), Ranking.ABSOLUTE: ("CMD", DISTANCE, "CPR")}


@pytest.mark.parametrize("ranking", Ranking)
def test_an_area_is_called_cpr_or_cmd_only_of_its_own_ranking(ranking: Ranking):
    curve = replace(CURVE, ranking=ranking)
    name, value, other = NAMED[ranking]
    assert curve.areas == {name: value}
    told = curve_summary(curve)
    assert told["ranking"] == str(ranking)
    assert (told[name.lower()], told[other.lower()]) == (value.as_dict(), None)
    assert (told["area"], told["distance"]) == (AREA.as_dict(), DISTANCE.as_dict())
    both = FaithfulnessCurves({"eap": curve, "random": curve})
    text = curve.summary().as_text() + both.summary().as_text() + curve_figure(both).to_json()
    assert f"eap: {name} {value.value:.2f}" in text
    assert other not in text


def test_of_a_curve_of_unknown_ranking_no_area_has_a_name_of_the_boards():
    text = CURVE.summary().as_text() + FaithfulnessCurves({"eap": CURVE}).summary().as_text()
    assert "CPR" not in text
    assert "CMD" not in text
    assert (curve_summary(CURVE)["cpr"], curve_summary(CURVE)["cmd"]) == (None, None)


def test_curves_keep_their_ranking_and_those_of_older_files_have_none(tmp_path: Path):
    curves = {str(by): replace(CURVE, ranking=by) for by in Ranking}
    FaithfulnessCurves(curves).save(tmp_path / "c.kc.safetensors")
    assert kc.open(tmp_path / "c.kc.safetensors").curves == curves
    arrays, metadata = FaithfulnessCurves(curves).arrays(), FaithfulnessCurves(curves).metadata()
    for record in metadata["curves"]:
        del record["ranking"]
    older = FaithfulnessCurves.from_arrays(arrays, metadata)
    assert [curve.ranking for curve in older.curves.values()] == [None, None]


@pytest.mark.parametrize("selection", [Selection.TOP, Selection.GREEDY])
@pytest.mark.parametrize("ablation", Ablation)
def test_a_point_of_the_curve_is_the_circuit_of_so_many_edges(ablation, selection):
    model = tiny_model("gpt2")
    pairs = tuple(equal_length_pairs(model))
    about = {"ablation": ablation, "selection": selection, "method": Locator.EAP, "resamples": 0}
    search = Search(edges=20, n_random=0, curve=True, **about)
    found = discover(model, Examples("x", pairs), search)
    chosen = [search.of_size(n).selected(found.scores) for n in found.curve.sizes]
    runs = run_circuits(model, pairs, chosen, ablation=ablation)
    expected = [runs.faithfulness(n, 0).value for n in range(len(chosen))]
    shown = [point.value for point in found.curve.faithfulness]
    assert shown == pytest.approx(expected, abs=1e-5)
    n = found.curve.sizes[5]
    asked = find(model, Examples("x", pairs), Search(edges=n, **about))
    assert (asked.kept == chosen[5].kept).all()
    assert found.curve.fractions[5] == n / asked.wiring.n_edges
    assert found.random_curve.sizes == found.curve.sizes


def test_a_curve_goes_on_from_a_threshold_and_not_from_a_search_that_selects():
    model = tiny_model("gpt2")
    pairs = tuple(equal_length_pairs(model))
    above = {"selection": Selection.THRESHOLD, "threshold": 1e-3, "method": Locator.EAP}
    found = discover(model, Examples("x", pairs), Search(**above, n_random=0, curve=True))
    assert found.curve.faithfulness[-1].value == pytest.approx(1, abs=1e-5)
    with pytest.raises(OptionError, match=r"acdc selects edges itself.*`curve`"):
        Search(method=Locator.ACDC, curve=True)


@pytest.mark.slow
@pytest.mark.parametrize("ranking", Ranking)
def test_discover_prints_the_area_of_its_ranking(ranking: Ranking, tmp_path: Path, capsys):
    ask = ("--model", "facts-gpt2", "--relation", "country_capital", "--n-pairs", "8")
    quick = ("--method", "eap", "--no-roles", "--resamples", "0", "--random", "1", "--edges", "60")
    options = ("discover", *ask, *quick, "--curve", "--rank", str(ranking), "--out", str(tmp_path))
    assert main([*options]) == 0
    printed = capsys.readouterr().out
    name, _, other = NAMED[ranking]
    assert f"on other subjects: {name} " in printed
    page = (tmp_path / "summary.md").read_text()
    picture = (tmp_path / "curve.svg").read_text()
    assert name in page
    assert other not in printed + page + picture
    told = json.loads((tmp_path / "summary.json").read_text())
    for curve in ("curve", "random_curve"):
        assert told[curve][name.lower()] == told[curve]["area" if name == "CPR" else "distance"]
        assert told[curve][other.lower()] is None
