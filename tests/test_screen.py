"""Laws of the figures on the screen: what is shown, in which order, and that text stays text."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.base.choices import TraceKind
from circuits.base.display import visible
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.curve import FaithfulnessCurve, FaithfulnessCurves
from circuits.graph.noise import Decision
from circuits.graph.scores import EdgeScores
from circuits.model.tokens import Span
from circuits.model.wiring import Wiring, node_kind
from locate.states.lens_curves import AverageLens, Followed, Place
from locate.states.trace_result import Trace
from tests.test_viz import WIRINGS, circuit_of
from viz import theme
from viz.layout import lay_out
from viz.screen import (
    attribution_figure,
    circuit_figure,
    curve_figure,
    difference_figure,
    lens_figure,
    trace_figure,
)
from viz.screen.circuit import circuit_scene
from viz.screen.difference import STATUS, difference_scene
from viz.screen.drawing import as_dict, figure_of
from viz.screen.style import plain
from viz.strongest import on_paths

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script> <b>x</b> $\\frac12$ \x00\n\u202e & \"'"


def circuits() -> st.SearchStrategy[Circuit]:
    return st.builds(circuit_of, WIRINGS, st.floats(0.05, 1.0), st.integers(0, 500))


def shown_names(figure, part: str) -> set[str]:
    return {
        name
        for trace in figure.data
        if trace.meta and trace.meta["part"] == part
        for name in (trace.customdata if trace.customdata is not None else ())
    }


@settings(max_examples=60, deadline=None)
@given(circuits(), st.integers(1, 300))
def test_the_first_edges_of_a_scene_are_those_that_strong_edges_join_to_paths(circuit, taken):
    """For any number of strongest edges, what lies on paths among them is what comes first."""
    scene = circuit_scene(circuit, 10_000)
    assert sorted(scene.order) == list(range(scene.n_edges))
    edges = scene.layout.edges
    if not len(edges) or not on_paths(circuit.wiring, edges).all():
        return
    size = np.abs(circuit.scores.values[edges])
    strong = edges[np.argsort(-size, kind="stable")][:taken]
    joined = strong[on_paths(circuit.wiring, strong)]
    assert set(edges[scene.order < len(joined)]) == set(joined)


@settings(max_examples=25, deadline=None)
@given(circuits(), st.integers(1, 150))
def test_a_figure_shows_the_edges_of_the_layout_and_the_nodes_they_touch(circuit, k):
    layout = lay_out(circuit, k)
    figure = circuit_figure(circuit, k)
    names = {circuit.wiring.edge_name(edge) for edge in layout.edges}
    assert shown_names(figure, "handles") == names
    assert shown_names(figure, "nodes") == set(layout.nodes)


def test_a_figure_says_what_it_shows_and_what_its_lines_and_boxes_mean():
    wiring = Wiring(2, 4, 2)
    values = np.random.default_rng(0).normal(size=wiring.n_edges)
    origin = {"model": "facts-gpt2", "relation": "country_capital"}
    circuit = EdgeScores(wiring, values, provenance=origin).top(40)
    figure = circuit_figure(circuit, 20)
    assert figure.layout.title.text.startswith("country_capital in facts-gpt2: ")
    assert "20 strongest drawn" in figure.layout.title.text
    assert figure.layout.showlegend
    named = {trace.name for trace in figure.data if trace.showlegend}
    assert {theme.SUPPORTS.legend, theme.OPPOSES.legend, theme.KINDS["head"].legend} <= named
    assert circuit_figure(circuit, 20, title="").layout.title.text is None
    other = EdgeScores(wiring, -values, provenance=origin).top(60)
    changed = difference_figure(Comparison(circuit, other), 20)
    assert f"{circuit.n_edges} edges before, {other.n_edges} after" in changed.layout.title.text
    named = {trace.name for trace in changed.data if trace.showlegend}
    drawn = difference_scene(Comparison(circuit, other), 20)
    assert {group.style.legend for group in drawn.groups} <= named


@settings(max_examples=25, deadline=None)
@given(circuits(), st.integers(0, 50))
def test_hiding_edges_moves_nothing(circuit, seed):
    scene = circuit_scene(circuit, 200)
    visible_edges = np.random.default_rng(seed).random(scene.n_edges) < 0.5
    some, every = figure_of(scene, visible_edges), figure_of(scene)
    assert some.layout.xaxis.range == every.layout.xaxis.range
    places = {}
    curves = "".join(shape.path for shape in every.layout.shapes if shape.path)
    for shape in some.layout.shapes:
        assert all(piece in curves for piece in (shape.path or "").split("M"))
    for figure in (every, some):
        nodes = next(trace for trace in figure.data if trace.meta["part"] == "nodes")
        for name, x, y in zip(nodes.customdata, nodes.x, nodes.y, strict=True):
            assert places.setdefault(name, (x, y)) == (x, y)
    handles = shown_names(some, "handles") - {""}
    assert handles == {n for n, on in zip(scene.names, visible_edges, strict=True) if on}


def test_sign_is_said_by_colour_and_by_line_and_size_by_width():
    scene = circuit_scene(circuit_of(Wiring(4, 4, 4), 0.8, 3), 150)
    supports = [group for group in scene.groups if group.style is theme.SUPPORTS]
    opposes = [group for group in scene.groups if group.style is theme.OPPOSES]
    assert supports
    assert opposes
    shapes = {shape.name: shape for shape in figure_of(scene).layout.shapes}
    for index, group in enumerate(scene.groups):
        line = shapes[f"edges {index}"].line
        assert (line.dash == "solid") == (group.style is theme.SUPPORTS)
    sizes = np.array([scene.size[scene.group_of == g].mean() for g in range(len(scene.groups))])
    for style in (theme.SUPPORTS, theme.OPPOSES):
        mine = [g for g, group in enumerate(scene.groups) if group.style is style]
        widths = np.array([scene.groups[g].width for g in mine])
        assert (np.diff(widths[np.argsort(sizes[mine])]) >= 0).all()


def test_the_browser_gets_plain_json_with_every_edge_once():
    circuit = circuit_of(Wiring(3, 4, 2), 0.7, 1)
    scene = circuit_scene(circuit)
    data = json.loads(json.dumps(as_dict(scene), allow_nan=False))
    assert data["edges"]["name"] == list(scene.names)
    assert len(set(scene.names)) == scene.n_edges
    assert all(len(x) == len(y) for x, y in zip(*(data["edges"][a] for a in "xy"), strict=True))
    assert [node_kind(name) for name in data["nodes"]["name"]] == data["nodes"]["kind"]


def test_a_comparison_with_itself_is_all_kept_and_the_inverse_swaps_gained_and_lost():
    wiring = Wiring(3, 4, 4)
    one, other = circuit_of(wiring, 0.3, 1), circuit_of(wiring, 0.3, 2)
    assert set(difference_scene(Comparison(one, one)).classes) == {"kept"}
    there = difference_scene(Comparison(one, other), 10_000)
    back = difference_scene(Comparison(other, one), 10_000)
    swap = {"gained": "lost", "lost": "gained"}
    left = dict(zip(there.names, there.classes, strict=True))
    right = dict(zip(back.names, back.classes, strict=True))
    assert left == {name: swap.get(status, status) for name, status in right.items()}
    assert {"gained", "lost"} <= set(left.values()) <= set(STATUS.values())


class _Undecided:
    """A noise floor that can tell nothing."""

    def called(self, decision: Decision) -> np.ndarray:
        return np.zeros(Wiring(3, 4, 4).n_edges, dtype=bool)

    def decision(self, edge: int) -> Decision:
        return Decision.UNDECIDED


def test_what_the_noise_hides_is_drawn_as_cannot_tell_and_what_both_have_stays_kept():
    wiring = Wiring(3, 4, 4)
    one, other = circuit_of(wiring, 0.3, 1), circuit_of(wiring, 0.3, 2)
    comparison = Comparison(one, other)
    object.__setattr__(comparison, "changes", _Undecided())
    assert set(difference_scene(comparison).classes) <= {"kept", "cannot tell"}
    assert "cannot tell" in difference_scene(comparison).classes


def hostile_trace() -> Trace:
    rng = np.random.default_rng(0)
    kinds = {kind: rng.random((3, 4, 2)) for kind in TraceKind}
    tokens = (HOSTILE, " %{z}", "<a href='x'>", " ok")
    return Trace("p", tokens, Span(1, 3), "a", 1, 0.9, rng.random(2), kinds)


def strings(value) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict):
        return [text for part in value.items() for each in part for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_no_text_of_a_model_or_file_becomes_markup():
    origin = {"model": HOSTILE, "relation": HOSTILE}
    circuit = circuit_of(Wiring(2, 2, 2), 1.0, 0)
    circuit = Circuit(
        circuit.wiring,
        circuit.kept,
        circuit.scores,
        columns={HOSTILE: np.ones(circuit.wiring.n_edges)},
        roles={"a0.h0": HOSTILE},
        provenance=origin,
    )
    lens = AverageLens(
        (Place.LAST,),
        (Followed.ANSWER,),
        np.ones((3, 4, 1, 1), dtype=np.int64),
        np.full((3, 4, 1, 1), 0.5, dtype=np.float32),
        origin,
    )
    curve = FaithfulnessCurve(
        (0.1,), (5,), (Interval(0.5, 0.4, 0.6),), Interval(0.5, 0.4, 0.6), Interval(0.5, 0.4, 0.6)
    )
    figures = [
        circuit_figure(circuit, title=HOSTILE),
        difference_figure(Comparison(circuit, circuit), title=HOSTILE),
        trace_figure(hostile_trace(), title=HOSTILE),
        lens_figure(lens, title=HOSTILE),
        curve_figure(FaithfulnessCurves({HOSTILE: curve}), title=HOSTILE),
        attribution_figure([HOSTILE], [1.0]),
    ]
    for figure in figures:
        text = "".join(strings(json.loads(figure.to_json())))
        for bad in ("<script", "<a href", "<b>x", "$\\frac", "\x00", "\u202e"):
            assert bad not in text, bad


@given(st.text())
def test_plain_text_shows_every_character_and_nothing_else(text):
    import html

    assert html.unescape(plain(text)) == visible(text)
    assert not set("<>$") & set(plain(text))


def test_the_traces_rows_are_its_tokens_and_the_scale_is_one_for_all_kinds():
    trace = hostile_trace()
    figure = trace_figure(trace)
    assert len(figure.data) == len(trace.kinds)
    for panel, kind in zip(figure.data, trace.kinds, strict=True):
        np.testing.assert_allclose(panel.z, trace.effect(kind).T)
    assert {panel.coloraxis for panel in figure.data} == {"coloraxis"}
    scale = figure.layout.coloraxis
    assert scale.cmin == pytest.approx(-scale.cmax / 2)


def test_a_position_that_was_not_read_is_refused_by_name():
    lens = AverageLens(
        (Place.LAST,),
        (Followed.ANSWER,),
        np.ones((3, 4, 1, 1), dtype=np.int64),
        np.full((3, 4, 1, 1), 0.5, dtype=np.float32),
        {},
    )
    with pytest.raises(OptionError, match="no position 'elsewhere'"):
        lens_figure(lens, "elsewhere")


def test_scores_of_zero_and_empty_circuits_have_a_picture():
    wiring = Wiring(2, 2, 2)
    zero = EdgeScores(wiring, np.zeros(wiring.n_edges))
    assert circuit_figure(Circuit.full(wiring, zero), 20).data
    assert circuit_figure(Circuit.empty(wiring)).data
    assert circuit_figure(Circuit.full(wiring)).data
