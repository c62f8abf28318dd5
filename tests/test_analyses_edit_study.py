"""The study of many edits, on a tiny model; and the picture of a difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuits.base.errors import OptionError
from circuits.base.plain import plain
from circuits.edits.judge.counterfactuals import atlas_requests
from circuits.edits.judge.success import Judge
from circuits.edits.methods.registry import EditMethod
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from experiments.analyses.edit_study.analysis import ANALYSIS, Config, steps
from experiments.analyses.edit_study.report import CONTROLS
from experiments.analyses.edit_study.stored import as_score, by_method, score_values
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import redraw, run_analysis
from locate.edit import Editor, Mode, run_edits, texts_for_drift
from viz import theme
from viz.paper.difference import draw_difference, edge_styles

FEW = Config(methods=(EditMethod.FT_M,), edits=2, rewired=1, fluency_tokens=0)


@pytest.fixture(scope="module")
def done(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Context]:
    context = Context(tiny, tmp_path_factory.mktemp("study"))
    return run_analysis(ANALYSIS, FEW, context), context


def test_what_edits_move_is_told_in_shares_of_the_layers(done: tuple[Run, Context]):
    run, _ = done
    part = by_method(run.parts.values)["ft"]
    assert sum(part["status"].values()) == len(part["requests"]) == 2
    assert part["rewiring"]["n"] == 1
    tables = {table.name: table for table in run.report.tables}
    by_layer = tables["layer_moved_share"]
    assert [row[1] for row in by_layer.rows] == ["input", "0", "1", "2"]
    assert sum(row[2].value for row in by_layer.rows) == pytest.approx(1)
    assert [row[1] for row in tables["rewiring"].rows] == ["edit", "random", "same-keys"]
    assert len(tables["requests"].rows) == 2


def test_what_edits_rewire_is_claimed_beside_both_controls(done: tuple[Run, Context]):
    run, _ = done
    for beside in CONTROLS.values():
        found = [claim for claim in run.report.claims if beside in claim.sentence]
        assert [claim.n for claim in found] == [1, 1]  # heads switched, edges changed
        assert all("Too few requests to say whether" in claim.sentence for claim in found)


def test_a_study_is_computed_once(done: tuple[Run, Context], tiny: str):
    run, context = done
    again = run_analysis(ANALYSIS, FEW, Context(tiny, context.folder))
    assert again.parts.reused == 2
    assert again.report.lead == run.report.lead
    assert redraw(ANALYSIS, context.folder).report.claims == run.report.claims


def test_edits_judged_one_by_one_are_judged_as_together(done: tuple[Run, Context]):
    """The table that is gathered from stored units is that of `run_edits` on all requests."""
    run, context = done
    requests = atlas_requests(FEW.edits, 0, tokenizer=context.model.tokenizer)
    texts = texts_for_drift(context.model, None)
    judge = Judge(context.model, requests, texts=texts)
    together = run_edits(Editor(context.model, "ft"), judge, Mode.EACH)
    found = by_method(run.parts.values)["ft"]["success"]
    assert found == plain(together.table().as_dict())
    for score in together.final:
        again = as_score(plain(score_values(score)))
        assert plain(score_values(again)) == plain(score_values(score))


def test_only_facts_of_the_atlas_have_what_judges_an_edit(tiny: str, tmp_path: Path):
    with pytest.raises(OptionError, match="takes no others"):
        steps(Context(tiny, tmp_path, facts="facts.jsonl"), FEW)


def test_a_difference_is_drawn_by_what_became_of_each_edge(tmp_path: Path):
    wiring = Wiring(2, 2, 2)
    before = np.ones(wiring.n_edges)
    after = before.copy()
    after[0] = -1
    kept = np.ones(wiring.n_edges, dtype=bool)
    lost, gained = kept.copy(), kept.copy()
    gained[1], lost[2] = False, False
    comparison = Comparison(
        Circuit(wiring, gained, EdgeScores(wiring, before)),
        Circuit(wiring, lost, EdgeScores(wiring, after)),
    )
    styles = edge_styles(comparison, np.arange(4))
    assert styles == [theme.FLIPPED, theme.GAINED, theme.LOST, theme.KEPT]
    text = draw_difference(comparison, tmp_path / "difference.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    unscored = Comparison(Circuit(wiring, gained), Circuit(wiring, lost))
    assert draw_difference(unscored, tmp_path / "unscored.pdf").stat().st_size > 1000


def test_what_became_of_an_edge_is_told_by_colour_and_by_line():
    styles = (theme.KEPT, theme.GAINED, theme.LOST, theme.FLIPPED)
    assert len({style.colour for style in styles}) == 4
    assert len({style.dash for style in styles}) >= 3
