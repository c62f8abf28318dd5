"""Laws of the layout, and of the files that pictures are written to."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import matplotlib
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.base.choices import KeyValue, TraceKind
from circuits.base.errors import OptionError, StoreError
from circuits.base.intervals import Interval
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.curve import FaithfulnessCurve, FaithfulnessCurves
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune
from circuits.model.tokens import Span
from circuits.model.wiring import Wiring, node_kind, node_layer
from locate.states.lens_curves import AverageLens, Followed, Place
from locate.states.trace_result import Trace
from locate.states.trace_roles import ROLES, AverageTrace
from tests import results
from viz import theme
from viz.layout import Layout, Placement, lay_out
from viz.paper import canvas
from viz.paper.about import describe
from viz.paper.circuit import draw_circuit
from viz.paper.curves import draw_average_trace, draw_faithfulness, draw_trace
from viz.paper.difference import draw_difference, shown_circuit
from viz.paper.heads import draw_attention, draw_written
from viz.paper.heat_maps import layer_ticks
from viz.paper.layers import draw_layers
from viz.paper.lenses import draw_average_lens, draw_objects, draw_prompt_lens
from viz.routing import HALF_HEIGHT, HALF_WIDTH, sample_curves
from viz.strongest import strongest

WIRINGS = st.builds(
    lambda layers, groups, size, kv: Wiring(layers, groups * size, groups, kv),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(KeyValue),
)
HOSTILE = "<script>alert(1)</script> --> $\\frac{ & \x00\n\u202e漢 ]]>"
SVG = "{http://www.w3.org/2000/svg}"


def circuit_of(wiring: Wiring, share: float = 1.0, seed: int = 0) -> Circuit:
    """A random share of the edges, with hubs: some sources and destinations matter more."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(0, 1.5, wiring.n_src))[wiring.edge_src]
    values = values * np.exp(rng.normal(0, 1.5, wiring.n_dst))[wiring.edge_dst]
    values = values * rng.choice([-1.0, 1.0, 1.0], wiring.n_edges)
    return Circuit(wiring, rng.random(wiring.n_edges) < share, EdgeScores(wiring, values))


def samples() -> st.SearchStrategy[Circuit]:
    return st.builds(circuit_of, WIRINGS, st.floats(0.02, 1.0), st.integers(0, 1000))


def curves_through_boxes(layout: Layout) -> list[tuple[int, str]]:
    points = sample_curves(layout.curves, 240)
    hits = []
    for index, node in enumerate(layout.nodes):
        across = np.abs(points[..., 0] - layout.x[index]) < layout.half_width[index]
        inside = across & (np.abs(points[..., 1] - layout.y[index]) < HALF_HEIGHT)
        foreign = (layout.tail != index) & (layout.head != index)
        hits += [(edge, node) for edge in np.flatnonzero(inside.any(axis=1) & foreign).tolist()]
    return hits


@settings(max_examples=60, deadline=None)
@given(samples(), st.sampled_from(Placement), st.integers(1, 16))
def test_no_curve_runs_through_the_box_of_another_node(circuit, placement, columns):
    layout = lay_out(circuit, 400, placement, columns)
    assert curves_through_boxes(layout) == []


@pytest.mark.parametrize("wiring", [Wiring(12, 12, 12), Wiring(22, 32, 4), Wiring(48, 25, 25)])
def test_the_curves_of_two_thousand_edges_stay_clear_of_nodes_in_real_geometries(wiring):
    layout = lay_out(circuit_of(wiring), 2000)
    assert layout.n_drawn > 1500
    assert curves_through_boxes(layout) == []


@settings(max_examples=40, deadline=None)
@given(samples(), st.sampled_from(Placement))
def test_a_curve_rises_from_the_top_of_its_source_to_the_bottom_of_its_destination(
    circuit, placement
):
    layout = lay_out(circuit, 300, placement)
    points = sample_curves(layout.curves, 50)
    assert (np.diff(points[..., 1], axis=1) >= -1e-9).all()
    for end, nodes, side in ((0, layout.tail, 1), (-1, layout.head, -1)):
        offset = points[:, end] - np.stack([layout.x[nodes], layout.y[nodes]], axis=-1)
        np.testing.assert_allclose(offset[:, 1], side * HALF_HEIGHT, atol=1e-9)
        assert (np.abs(offset[:, 0]) <= layout.half_width[nodes]).all()


@settings(max_examples=40, deadline=None)
@given(samples(), st.sampled_from(Placement), st.integers(1, 16))
def test_boxes_never_overlap_and_lie_within_the_bounds(circuit, placement, columns):
    layout = lay_out(circuit, 300, placement, columns)
    apart_x = np.abs(layout.x[:, None] - layout.x) > layout.half_width[:, None] + HALF_WIDTH
    apart_y = np.abs(layout.y[:, None] - layout.y) > 2 * HALF_HEIGHT
    assert (apart_x | apart_y | np.eye(len(layout.nodes), dtype=bool)).all()
    left, right, low, high = layout.bounds
    assert ((layout.x - layout.half_width >= left - 1e-9) & (layout.y >= low)).all()
    assert ((layout.x + layout.half_width <= right + 1e-9) & (layout.y <= high)).all()


@settings(max_examples=40, deadline=None)
@given(samples())
def test_rows_are_layers_columns_are_heads_and_mlps_stand_on_the_right(circuit):
    layout = lay_out(circuit, 300)
    place = {node: layout.position(node) for node in layout.nodes}
    inner = [node for node in layout.nodes if node_layer(node) is not None]
    for low in inner:
        for high in inner:
            if node_layer(low) < node_layer(high):
                assert place[low][1] < place[high][1]
            elif node_layer(low) == node_layer(high):
                kinds = node_kind(low), node_kind(high)
                if kinds == ("head", "mlp"):
                    assert place[low][0] < place[high][0]
                    assert place[low][1] < place[high][1]
                if kinds == ("kv", "head"):
                    assert place[low][1] < place[high][1]
                if kinds == ("head", "head") and int(low.split("h")[1]) < int(high.split("h")[1]):
                    assert place[low][0] < place[high][0]
    assert place["input"][1] == min(y for _, y in place.values())
    assert place["logits"][1] == max(y for _, y in place.values())


@settings(max_examples=25, deadline=None)
@given(WIRINGS, st.integers(0, 99), st.integers(0, 99))
def test_a_fixed_place_depends_on_the_wiring_alone(wiring, one, other):
    first = lay_out(circuit_of(wiring, 0.3, one), 100, Placement.FIXED)
    second = lay_out(circuit_of(wiring, 0.7, other), 30, Placement.FIXED)
    for node in set(first.nodes) & set(second.nodes):
        assert first.position(node) == second.position(node)


def edges_on_paths(circuit: Circuit) -> set[str]:
    """Names of the edges on paths from input to logits, found by NetworkX."""
    graph = circuit.to_networkx()
    if not {"input", "logits"} <= set(graph):
        return set()
    above = nx.descendants(graph, "input") | {"input"}
    below = nx.ancestors(graph, "logits") | {"logits"}
    names = set()
    for source, destination, slot in graph.edges(keys=True):
        if slot != "group" and source in above and destination in below:
            names.add(f"{source}->{destination}<{slot}>" if slot else f"{source}->{destination}")
    return names


@settings(max_examples=40, deadline=None)
@given(samples(), st.integers(1, 120))
def test_what_is_drawn_lies_on_paths_from_input_to_logits(circuit, limit):
    drawn = strongest(circuit, limit)
    assert drawn <= circuit
    assert drawn.n_edges <= limit
    whole = edges_on_paths(circuit)
    if whole and len(whole) <= limit:
        assert set(drawn.edge_names()) == whole
    elif edges_on_paths(drawn):
        assert set(drawn.edge_names()) == edges_on_paths(drawn)
    else:  # no path, or none that fits into the limit
        sizes = np.abs(circuit.scores.values)
        left_out = sizes[(circuit - drawn).kept].max(initial=0.0)
        assert sizes[drawn.kept].min(initial=np.inf) >= left_out


def test_the_strongest_edges_are_the_ones_drawn():
    wiring = Wiring(2, 2, 2)
    values = np.full(wiring.n_edges, 0.01)
    for edge, score in (("input->a0.h1<q>", 3.0), ("a0.h1->logits", -2.0), ("m0->logits", 9.0)):
        values[wiring.edge_index(edge)] = score
    drawn = strongest(Circuit.full(wiring, EdgeScores(wiring, values)), 2)
    # m0's strong edge hangs in the air: nothing as strong reaches m0.
    assert drawn.edge_names() == ["input->a0.h1<q>", "a0.h1->logits"]


def test_the_difference_of_two_circuits_is_drawn_though_it_has_no_path():
    wiring = Wiring(3, 2, 2)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[wiring.edge_index("a0.h0->a2.h1<k>")] = True
    layout = lay_out(Circuit(wiring, kept))
    assert layout.nodes == ("input", "a0.h0", "a2.h1", "logits")
    assert (layout.n_drawn, layout.n_kept) == (1, 1)


@settings(max_examples=40, deadline=None)
@given(samples())
def test_no_two_curves_coincide_so_none_hides_another(circuit):
    layout = lay_out(circuit, 150)
    points = np.round(sample_curves(layout.curves, 13), 6).reshape(-1, 26)
    assert len(np.unique(points, axis=0)) == layout.n_drawn


def test_an_edge_past_all_layers_leaves_room_for_others_in_its_channel():
    wiring = Wiring(3, 2, 2)
    names = ["input->logits", "input->a0.h0<q>", "a0.h0->a1.h0<q>", "input->a1.h0<k>"]
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[[wiring.edge_index(name) for name in [*names, "a1.h0->logits"]]] = True
    layout = lay_out(Circuit(wiring, kept))
    past = {
        wiring.edge_name(edge): curve
        for edge, curve in zip(layout.edges, layout.curves, strict=True)
    }
    assert abs(past["input->logits"][0, 0] - past["input->a1.h0<k>"][0, 0]) > 0.04


def test_a_picture_of_no_edges_or_of_an_undrawn_node_is_answered():
    empty = Circuit.empty(Wiring(2, 2, 2))
    assert lay_out(empty).nodes == ("input", "logits")
    with pytest.raises(OptionError, match=r"m1.*not drawn"):
        lay_out(empty).position("m1")
    with pytest.raises(OptionError, match="at least one edge"):
        lay_out(empty, 0)


# Pictures


def picture(path: Path, **options) -> Path:
    circuit = circuit_of(Wiring(4, 4, 2), seed=3)
    roles = {"a3.h0": "mover", "a2.h1": "relation", "a3.h2": "<i>"}
    origin = {"model": HOSTILE, "method": "eap-ig", "faithfulness": 0.5}
    circuit = Circuit(circuit.wiring, circuit.kept, circuit.scores, {}, roles, origin)
    return draw_circuit(circuit, path, title=HOSTILE, max_edges=60, **options)


def traced(path: Path) -> Path:
    rng = np.random.default_rng(0)
    effects = {kind: rng.random((3, 4, 2)) for kind in TraceKind}
    tokens = ("The", " Space", HOSTILE, "\n")
    trace = Trace(HOSTILE, tokens, Span(1, 3), " $a$", 7, 0.9, np.array([0.1, 0.2]), effects)
    return draw_trace(trace, path, title=HOSTILE)


def measured(path: Path) -> Path:
    points = tuple(Interval(value, value - 0.1, value + 0.1) for value in (0.0, 0.4, 0.9))
    unknown = tuple(Interval(0.1, float("nan"), float("nan")) for _ in points)
    curves = {
        name: FaithfulnessCurve((0.0, 0.1, 0.5), (0, 10, 50), values, values[0], values[1])
        for name, values in ((HOSTILE, points), ("random", unknown))
    }
    return draw_faithfulness(FaithfulnessCurves(curves), path, title=HOSTILE)


def traced_average(path: Path) -> Path:
    rng = np.random.default_rng(0)
    effects = {kind: rng.random((3, len(ROLES), 4)) - 0.3 for kind in TraceKind}
    for values in effects.values():
        values[:, 2], values[1:, 4] = np.nan, np.nan
    average = AverageTrace(effects, np.full(3, 0.9), np.full(3, 0.1), {"model": HOSTILE})
    return draw_average_trace(average, path, title=HOSTILE)


def lensed_average(path: Path) -> Path:
    rng = np.random.default_rng(0)
    shape = (5, 4, len(Place), len(Followed))
    lens = AverageLens(
        tuple(Place), tuple(Followed), rng.integers(0, 900, shape), rng.random(shape), {}
    )
    return draw_average_lens(lens, path, title=HOSTILE)


def layered(path: Path) -> Path:
    return draw_layers(results.circuit(), path, title=HOSTILE)


def attended(path: Path) -> Path:
    return draw_attention(results.prompt_heads(), path, title=HOSTILE)


def written(path: Path) -> Path:
    return draw_written(results.prompt_heads(), path, title=HOSTILE)


def followed(path: Path) -> Path:
    return draw_objects(results.rewiring(), path, title=HOSTILE)


def differing(path: Path) -> Path:
    return draw_difference(results.comparison(), path, title=HOSTILE, max_edges=12)


def lensed_prompt(path: Path) -> Path:
    return draw_prompt_lens(results.lens(), path, title=HOSTILE)


DRAWN = pytest.mark.parametrize(
    "draw",
    [
        picture,
        differing,
        layered,
        traced,
        traced_average,
        measured,
        lensed_prompt,
        lensed_average,
        followed,
        attended,
        written,
    ],
)


@DRAWN
def test_hostile_text_stays_text_and_the_svg_is_valid(draw, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = ET.parse(draw(tmp_path / "picture.svg")).getroot()
    assert root.tag == f"{SVG}svg"
    assert list(root.iter(f"{SVG}path"))
    assert {element.tag for element in root.iter()}.isdisjoint({f"{SVG}script", "script"})
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert set(titles) == {canvas.visible(HOSTILE), canvas.SOFTWARE}
    assert "\\u0000" in canvas.visible(HOSTILE)


@pytest.mark.slow
@DRAWN
@pytest.mark.parametrize("suffix", canvas.SUFFIXES)
def test_the_same_input_gives_the_same_bytes_whatever_the_users_settings(draw, suffix, tmp_path):
    first = draw(tmp_path / f"one{suffix}").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none"}):
        second = draw(tmp_path / f"two{suffix}").read_bytes()
    assert first == second
    assert first.startswith({".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}[suffix])
    assert b"CreationDate" not in first


@DRAWN
def test_drawing_leaves_matplotlibs_settings_alone_and_no_temporary_file(draw, tmp_path):
    before = dict(matplotlib.rcParams)
    draw(tmp_path / "picture.png")
    assert dict(matplotlib.rcParams) == before
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


@DRAWN
def test_a_wrong_suffix_or_an_unwritable_place_is_one_line_and_writes_nothing(draw, tmp_path):
    with pytest.raises(OptionError, match=r"\.svg, \.pdf, \.png"):
        draw(tmp_path / "picture.jpeg")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        draw(tmp_path / "file" / "picture.svg")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_circuits_picture_carries_its_provenance_and_embeds_its_fonts(tmp_path):
    root = ET.parse(picture(tmp_path / "picture.svg")).getroot()
    notes = [element.text for element in root.iter() if element.tag.endswith("description")]
    assert json.loads(notes[0]) == {"model": HOSTILE, "method": "eap-ig", "faithfulness": 0.5}
    pdf = picture(tmp_path / "picture.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_the_page_has_the_journals_width(tmp_path):
    for width in (theme.SINGLE_COLUMN, theme.DOUBLE_COLUMN):
        root = ET.parse(picture(tmp_path / "picture.svg", width=width)).getroot()
        assert float(root.get("width").removesuffix("pt")) == pytest.approx(72 * width)


def dashed(path: Path) -> int:
    return path.read_text().count("stroke-dasharray: ")


def test_an_opposing_edge_is_told_by_line_style_as_well_as_colour(tmp_path):
    wiring = Wiring(2, 2, 2)
    for signs, colour in ((1.0, theme.SUPPORTS.colour), (-1.0, theme.OPPOSES.colour)):
        scores = EdgeScores(wiring, np.full(wiring.n_edges, signs))
        path = draw_circuit(Circuit.full(wiring, scores), tmp_path / "picture.svg", max_edges=40)
        assert (dashed(path) > 0) == (signs < 0)
        assert colour.lower() in path.read_text()


def test_the_caption_says_how_many_of_the_edges_are_drawn():
    circuit = circuit_of(Wiring(4, 4, 4))
    layout = lay_out(circuit, 50)
    assert f"strongest {layout.n_drawn} of {circuit.n_edges:,} edges" in describe(circuit, layout)
    whole = lay_out(strongest(circuit, 50), 50)
    assert f"{layout.n_drawn} edges" in describe(strongest(circuit, 50), whole)


def test_widths_rise_with_the_size_of_the_score_and_ignore_its_sign():
    widths = theme.edge_widths(np.array([0.0, 0.5, -1.0, 4.0]))
    assert (np.diff(widths) > 0).all()
    assert widths[[0, -1]].tolist() == [theme.THINNEST, theme.WIDEST]
    assert theme.edge_widths(np.zeros(3)).tolist() == [theme.THINNEST] * 3


def test_role_and_sign_share_no_colour():
    signs = {theme.SUPPORTS.colour, theme.OPPOSES.colour}
    nodes = {colour for style in theme.ROLES.values() for colour in (style.fill, style.line)}
    assert not signs & nodes
    assert theme.SUPPORTS.dash != theme.OPPOSES.dash


@settings(max_examples=30, deadline=None)
@given(WIRINGS, st.integers(0, 99), st.integers(0, 99), st.integers(1, 60))
def test_what_changed_is_drawn_before_what_stayed(wiring, one, other, limit):
    sides = [prune(circuit_of(wiring, 0.5, seed)) for seed in (one, other)]
    comparison = Comparison(*sides)
    shown = shown_circuit(comparison, limit)
    assert shown <= (comparison.before | comparison.after)
    assert shown.n_edges <= limit
    # Every edge has its path, so that laying it out leaves none away.
    assert lay_out(shown, limit).n_drawn == shown.n_edges
    changed = comparison.gained | comparison.lost | comparison.flipped
    longest_path = 2 * wiring.n_layers + 1
    if changed.sum() * longest_path <= limit:
        assert not (changed & ~shown.kept).any()


def test_a_change_too_weak_for_the_picture_is_drawn_all_the_same():
    wiring = Wiring(3, 2, 2)
    strong = Circuit.full(wiring, EdgeScores(wiring, np.full(wiring.n_edges, 5.0)))
    weak = wiring.edge_index("a0.h0->a1.h1<q>")
    values = strong.scores.values.copy()
    values[weak] = 1e-6
    before = Circuit(wiring, strong.kept, EdgeScores(wiring, values))
    after = before - Circuit(wiring, np.arange(wiring.n_edges) == weak)
    assert not strongest(before, 20).kept[weak]
    assert shown_circuit(Comparison(before, after), 20).kept[weak]


def test_a_few_layers_are_labelled_evenly_from_the_first():
    for n_layers in range(1, 100):
        ticks = layer_ticks(n_layers, 8)
        assert ticks[0] == 0
        assert len(ticks) <= 8
        assert ticks[-1] < n_layers
        assert len({after - before for before, after in pairwise(ticks)}) <= 1
    assert layer_ticks(8, 8) == list(range(8))


def test_drawing_needs_neither_pyplot_nor_torch():
    code = "import sys, viz.paper.circuit, viz.paper.curves\n"
    code += "print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
