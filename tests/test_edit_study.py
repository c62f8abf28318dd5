"""The study of many edits, on a tiny model; and the picture of a difference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuits.graph.circuit import Circuit, EdgeScores, Wiring
from circuits.graph.compare import compare
from experiments.studies import edit_study
from experiments.studies.edit_study import Choices, run
from experiments.studies.edit_tables import markdown, rewiring_rows
from tests.tiny import byte_level_tokenizer, gpt2_hf
from viz import theme
from viz.paper.difference import draw_difference, edge_styles


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    gpt2_hf().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_study_is_computed_once_and_told_in_tables(tiny, tmp_path, monkeypatch):
    choices = Choices(tiny, "ft", edits=2, rewired=1, fluency_tokens=0)
    page = run(tmp_path, [choices], None)
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert sum(result["status"].values()) == len(result["requests"]) == 2
    assert result["rewiring"]["n"] == 1
    shares = [
        row["value"]
        for row in result["rewiring"]["edit"]["random"]
        if (row["family"], row["name"]) == ("layer", "moved_share")
    ]
    assert sum(shares) == pytest.approx(1)
    assert len(rewiring_rows(result, "layer", "moved_share")) == 4  # the embedding and 3 layers
    text = page.read_text()
    assert markdown([result]) == text
    assert f"| {tiny} | ft |" in text

    def never(*_):
        pytest.fail("computed again")

    monkeypatch.setattr(edit_study, "study", never)
    run(tmp_path, [choices], None)
    with pytest.raises(pytest.fail.Exception):
        run(tmp_path, [replace(choices, seed=1)], None)


def test_a_difference_is_drawn_by_what_became_of_each_edge(tmp_path: Path):
    wiring = Wiring(2, 2, 2)
    before = np.ones(wiring.n_edges)
    after = before.copy()
    after[0] = -1
    kept = np.ones(wiring.n_edges, dtype=bool)
    lost, gained = kept.copy(), kept.copy()
    gained[1], lost[2] = False, False
    comparison = compare(
        Circuit(wiring, gained, EdgeScores(wiring, before)),
        Circuit(wiring, lost, EdgeScores(wiring, after)),
    )
    styles = edge_styles(comparison, np.arange(4))
    assert styles == [theme.FLIPPED, theme.GAINED, theme.LOST, theme.KEPT]
    text = draw_difference(comparison, tmp_path / "difference.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    unscored = compare(Circuit(wiring, gained), Circuit(wiring, lost))
    assert draw_difference(unscored, tmp_path / "unscored.pdf").stat().st_size > 1000


def test_what_became_of_an_edge_is_told_by_colour_and_by_line():
    styles = (theme.KEPT, theme.GAINED, theme.LOST, theme.FLIPPED)
    assert len({style.colour for style in styles}) == 4
    assert len({style.dash for style in styles}) >= 3
