"""Results show themselves: what a summary says is so, and no text of a model or file is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import viz.screen  # noqa: F401  # results are drawn by it
from circuits.base.display import Shown, Summary, token_name, visible
from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from tests.results import (
    WIRING,
    average_lens,
    average_trace,
    circuit,
    comparison,
    curve,
    delta,
    evaluation,
    lens,
    neurons,
    outcome,
    prompt_heads,
    rewiring,
    roles,
    scores,
    trace,
)

DRAWN = (
    scores,
    circuit,
    comparison,
    curve,
    trace,
    average_trace,
    lens,
    average_lens,
    roles,
    neurons,
)
DRAWN += (neurons, prompt_heads, rewiring)
SHOWN = (*DRAWN, evaluation, delta, outcome)
MAKERS = pytest.mark.parametrize("make", SHOWN, ids=lambda make: make.__name__)


class Tags(HTMLParser):
    """The tags of a fragment, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert {name for name, _ in attrs} <= {"style"}
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@MAKERS
def test_a_result_shows_itself_as_text_and_as_harmless_html(make):
    bundle = make()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    parsed = Tags(bundle["text/html"])
    assert set(parsed.tags) <= {"div", "strong", "table", "thead", "tbody", "tr", "td", "th"}
    for shown in (bundle["text/plain"], parsed.text):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", shown)
    assert len(bundle["text/plain"].splitlines()) < 30
    assert len(bundle["text/html"]) < 20_000


@MAKERS
def test_both_forms_say_the_same(make):
    bundle = make()._repr_mimebundle_()
    shown = Tags(bundle["text/html"]).text
    words = re.findall(r"[\w.]+", bundle["text/plain"])
    assert len(words) > 5
    assert all(word in shown for word in words)


@pytest.mark.parametrize("make", DRAWN, ids=lambda make: make.__name__)
def test_a_picture_is_a_plotly_figure_and_reads_no_markup_from_names(make):
    figure = make().plot()
    assert isinstance(figure, go.Figure)
    assert figure.data
    assert "<script" not in figure.to_json().replace("\\u003c", "<")


def test_without_a_room_that_draws_the_error_says_what_to_import(monkeypatch):
    monkeypatch.setattr("circuits.base.display._INSTALLED", {})
    for ask in (circuit().plot, circuit().explore, trace().plot):
        with pytest.raises(OptionError, match="import knowledge_circuits"):
            ask()


def test_what_has_no_picture_offers_none():
    assert not any(hasattr(make(), "plot") for make in (evaluation, delta, outcome))


def test_a_circuits_summary_counts_what_is_there():
    shown = circuit()
    summary = shown.summary()
    assert f"{shown.n_edges} of {WIRING.n_edges} edges" in summary.title
    assert summary.facts["nodes"] == str(len(shown.nodes()))
    sizes = [abs(float(score)) for _, score in summary.rows]
    assert sizes == sorted(sizes, reverse=True)
    strongest = np.abs(shown.scores.values[shown.kept]).max()
    assert sizes[0] == pytest.approx(strongest, rel=1e-3)


def test_the_strongest_edges_of_scores_are_those_of_largest_size():
    found = scores()
    strong = found.strongest(5)
    assert strong.n_edges == 5
    rest = np.abs(found.values[~strong.kept])
    assert np.abs(found.values[strong.kept]).min() >= rest.max()


def test_a_circuit_without_scores_or_edges_shows_itself():
    bare = Circuit.full(WIRING)
    assert bare.summary().header == ("edge",)
    assert "0 of" in Circuit.empty(WIRING).summary().as_text()


def test_a_delta_tells_rank_and_norm_of_every_parameter():
    rows = delta().summary().rows
    assert [row[2] for row in rows] == ["1", "full"]
    assert float(rows[0][3]) == pytest.approx(12**0.5, rel=1e-3)
    assert float(rows[1][3]) == 2


def test_an_undefined_measure_is_left_out():
    names = [name for name, _ in evaluation().summary().rows]
    assert "faithfulness" in names
    assert not any("random" in name for name in names)


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_a_token_is_never_empty_and_stays_on_its_line(text: str):
    name = token_name(text)
    assert name
    assert len(name.splitlines()) == 1
    assert visible(name) == name


def test_a_class_that_says_nothing_of_itself_is_a_programmers_mistake():
    with pytest.raises(NotImplementedError):
        Shown().summary()
    assert Summary("title").as_text() == "title"
