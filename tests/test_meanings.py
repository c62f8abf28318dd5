"""Pictures say what their numbers are: of which measure, and what a sign means where known."""

from __future__ import annotations

import re
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest

from circuits.base.errors import OptionError
from circuits.files.kinds import KINDS, named
from circuits.graph.circuit import Circuit
from circuits.graph.meaning import reading
from tests import results
from viz import theme
from viz.app.details import edge_details
from viz.layout import lay_out
from viz.page.results import section
from viz.paper import draw
from viz.paper.legend import score_look
from viz.screen.circuit import circuit_figure
from viz.screen.heat_maps import trace_figure
from viz.series import effect_maps

SAID = {theme.SUPPORTS.legend, theme.OPPOSES.legend}
UNKNOWN = {theme.POSITIVE.legend, theme.NEGATIVE.legend}


@pytest.mark.parametrize(
    ("metric", "said"),
    [(None, "probability"), ("logit-diff", "logit difference"), ("mine", "mine")],
)
def test_effects_are_in_what_they_are_differences_of(metric: str | None, said: str) -> None:
    average = results.average_trace()
    origin = {name: value for name, value in average.provenance.items() if name != "metric"}
    average = replace(average, provenance=origin | ({"metric": metric} if metric else {}))
    assert effect_maps(average).measure == said
    bar = trace_figure(average).layout.coloraxis.colorbar
    assert bar.title.text == f"indirect effect ({said})"


@pytest.mark.parametrize("what", ["average_trace", "average_lens"])
def test_pairs_of_a_task_are_not_called_facts(what: str, tmp_path: Path) -> None:
    found = {"average_trace": results.average_trace, "average_lens": results.average_lens}[what]()
    of_pairs = replace(
        found, provenance={"model": "x", "relation": "ioi", "counts": {"lines": 9, "known": 3}}
    )
    for each, unit, other in ((found, "fact", "pair"), (of_pairs, "pair", "fact")):
        drawn = draw(each, tmp_path / f"{unit}.svg").read_text()
        summary = str(each.summary().title) if what == "average_lens" else each.says()
        for text in (summary, each.says(), re.sub(r"<!--\s*(.*?)\s*-->", r"\1", drawn)):
            assert re.search(rf"\d {unit}s?\b", text), text[:300]
            assert not re.search(rf"\d {other}s?\b", text)


def test_an_option_that_a_picture_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    with pytest.raises(OptionError, match="no option max_edgse; it has title, max_edges, "):
        draw(results.circuit(), path, max_edgse=3)
    assert not path.exists()
    assert draw(results.average_trace(), path, max_edges=None) == path


def test_every_picture_on_paper_can_leave_its_notes_out(tmp_path: Path) -> None:
    figures = {name for kind in KINDS.values() for name in kind.figures.values()}
    assert len(figures) > 9
    assert [name for name in figures if "notes" not in signature(named(name)).parameters] == []
    heights = []
    for notes in (True, False):
        path = draw(results.circuit_of_spans(), tmp_path / f"{notes}.svg", "spans", notes=notes)
        heights.append(float(re.search(r'height="([\d.]+)pt"', path.read_text())[1]))
    assert heights[1] < heights[0]


def legends(circuit: Circuit) -> list[set[str]]:
    """What the circuit's edges are said to do on paper, on the screen and in the app."""
    look = score_look(circuit, lay_out(circuit, 60))
    screen = {trace.name for trace in circuit_figure(circuit).data if trace.showlegend}
    told = str([edge_details(circuit, name) for name in circuit.edge_names()])
    ours = SAID | UNKNOWN
    return [
        {text for text, *_ in look.legend} & ours,
        screen & ours,
        {text for text in ours if text in told},
    ]


def of_meaning(meaning: str, **origin: str) -> Circuit:
    """The circuit with scores that say this."""
    circuit = results.circuit()
    about = {**circuit.provenance, **origin}
    scores = replace(circuit.scores, provenance={**about, "meaning": meaning})
    return replace(circuit, scores=scores, provenance=about)


def test_scores_without_a_sign_are_said_neither_to_support_nor_to_oppose() -> None:
    circuit = of_meaning("size")
    assert (circuit.scores.values < 0).any()
    assert legends(circuit) == [set(), set(), set()]
    assert theme.COUNTS.legend in {
        text for text, *_ in score_look(circuit, lay_out(circuit)).legend
    }
    part = section(circuit)
    assert [line["says"] for line in part.graph.legend] == [theme.COUNTS.legend]
    assert "has no sign" in part.says
    edge = circuit.wiring.edge_name(int(circuit.kept.argmax()))
    assert "has no sign" in str(edge_details(circuit, edge))
    assert not re.search("supports|opposes", part.lead + part.says + circuit.scores.says())


@pytest.mark.parametrize(
    ("ablation", "instead"),
    [("patch", "the corrupted prompt's value"), ("zero", "nothing"), ("mean", "the mean over")],
)
def test_what_a_score_estimates_follows_the_ablation_and_its_unit(ablation, instead) -> None:
    circuit = of_meaning("effect", ablation=ablation)
    assert f"what the metric loses where this edge alone carries {instead}" in reading(circuit)
    ranks = reading(of_meaning("sign", ablation=ablation))
    assert "positive supports the answer" in ranks
    assert "not in units of the metric" in ranks
    assert all(found <= SAID for found in legends(of_meaning("sign")))
    assert reading(of_meaning("a word of tomorrow")) == ""


def test_a_sign_of_unknown_meaning_is_not_called_support() -> None:
    circuit = results.circuit()
    assert all(found and found <= SAID for found in legends(circuit))
    foreign = replace(circuit, provenance={**circuit.provenance, "sign": "unknown"})
    assert all(found and found <= UNKNOWN for found in legends(foreign))
