"""Groups drawn as one box on the screen: what a line is worth, and what is said of a box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.files.kinds import KINDS
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from tests import results
from tests.test_print import grouped
from viz.app.box_details import box_details, bundle_details
from viz.app.callbacks import still
from viz.app.circuit_page import circuit_work
from viz.app.context import Context
from viz.app.difference_page import difference_work
from viz.app.exports import exported
from viz.app.library import Library
from viz.app.state import ViewState, parse_state
from viz.app.workspace import node_rows, scene_data
from viz.layout import lay_out
from viz.paper.difference import edge_styles
from viz.screen.boxes import groups_of
from viz.screen.circuit import circuit_scene
from viz.screen.difference import difference_scene

WIRING = Wiring(3, 2, 2)
GROUP = {"early heads": ("a0.h0", "a0.h1")}
SCORES = {
    "input->a0.h0<q>": 1.0,
    "input->a0.h1<q>": -3.0,
    "a0.h0->m2": 2.0,
    "a0.h1->m2": 0.5,
    "m2->logits": 4.0,
}


def two_heads() -> Circuit:
    """Two heads between the input and an MLP."""
    values = np.zeros(WIRING.n_edges, dtype=np.float32)
    for name, score in SCORES.items():
        values[WIRING.edge_index(name)] = score
    return Circuit(WIRING, values != 0, EdgeScores(WIRING, values), provenance={"model": "two"})


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(grouped())
def test_a_line_is_worth_what_the_printed_picture_says_and_each_edge_stands_in_one(given_):
    circuit, groups = given_
    scene, printed = circuit_scene(circuit, 80, groups=groups), lay_out(circuit, 80, groups=groups)
    apart = circuit_scene(circuit, 80)
    own = dict(zip(apart.names, apart.size, strict=True))
    signs = dict(zip(apart.names, apart.classes, strict=True))
    sums = []
    for line, name in enumerate(scene.names):
        edges = scene.bundles.get(line, [name])
        sums.append(sum(own[each] * (1 if signs[each] == "supports" else -1) for each in edges))
        assert scene.classes[line] == ("supports" if sums[-1] >= 0 else "opposes")
    np.testing.assert_allclose(scene.size, np.abs(sums), rtol=1e-5, atol=1e-6)
    values = printed.totals(circuit.scores.values)
    np.testing.assert_allclose(sorted(np.abs(sums)), sorted(np.abs(values)), rtol=1e-5, atol=1e-6)
    standing = [each for line in range(scene.n_lines) for each in scene.bundles.get(line, ())]
    standing += [name for line, name in enumerate(scene.names) if line not in scene.bundles]
    assert len(standing) == len(set(standing)) == apart.n_edges - scene.layout.n_inside
    assert len(set(scene.names)) == scene.n_lines
    assert scene.n_edges == apart.n_edges


def test_a_box_has_its_groups_name_and_its_lines_the_signed_sums():
    scene = circuit_scene(two_heads(), groups=GROUP)
    assert set(scene.nodes) == {"input", "group early heads", "m2", "logits"}
    assert dict(zip(scene.names, scene.size, strict=True)) == {
        "input->group early heads<q>": 2.0,
        "group early heads->m2": 2.5,
        "m2->logits": 4.0,
    }
    assert scene.classes[scene.names.index("input->group early heads<q>")] == "opposes"
    title = scene.titles[scene.names.index("group early heads->m2")]
    assert "2 edges, summed" in title
    assert "score +2.5" in title


@settings(max_examples=20, deadline=None)
@given(grouped(), st.integers(0, 99))
def test_a_line_of_a_difference_stands_for_edges_of_which_the_same_became(given_, seed):
    circuit, groups = given_
    rng = np.random.default_rng(seed)
    kept = circuit.kept ^ (rng.random(len(circuit.kept)) < 0.3)
    values = circuit.scores.values * rng.choice([1.0, -1.0, 0.5], len(kept))
    after = Circuit(circuit.wiring, kept, EdgeScores(circuit.wiring, values))
    comparison = Comparison(circuit, after)
    scene = difference_scene(comparison, 80, groups=groups)
    for line, bundle in enumerate(scene.layout.bundles):
        became = set(edge_styles(comparison, bundle))
        assert len(became) == 1
        sums = [abs(float(side[bundle].sum())) for side in comparison.scores]
        assert scene.size[line] == pytest.approx(max(sums), abs=1e-6)
    assert len(set(scene.names)) == scene.n_lines
    apart = difference_scene(comparison, 80)
    bundled = sum(map(len, scene.layout.bundles))
    assert bundled + scene.layout.n_inside == apart.n_edges


def test_a_group_that_paths_leave_and_enter_again_is_said_to_stand_in_pieces():
    wiring = Wiring(4, 2, 2)
    names = ["input->m0", "m0->m1", "m1->m2", "m0->m2", "m2->m3", "m3->logits"]
    kept = np.isin(np.arange(wiring.n_edges), [wiring.edge_index(name) for name in names])
    circuit = Circuit(wiring, kept, EdgeScores(wiring, np.ones(wiring.n_edges)))
    context, entry = opened(circuit)
    told = [("split", ("m0", "m2")), ("whole", ("m3", "a3.h1")), ("none", ("a0.h0", "a0.h1"))]
    work = circuit_work(context, entry, circuit, told)
    assert work.scene.boxes == {}
    assert list(work.pieces) == [
        "split: 2 single nodes, for paths leave the group and enter it again.",
        "whole: one node alone is no box.",
        "none: none of its nodes is drawn.",
    ]
    assert circuit_work(context, entry, circuit, [("pair", ("m2", "m3"))]).pieces == []


def test_what_no_box_can_hold_is_left_out_of_a_group():
    told = [["a", ["a0.h0", "input", "a9.h9", "logits"]], ["b", ["a0.h0", "m1"]], ["c", ["kv"]]]
    assert groups_of(told, WIRING) == {"a": ("a0.h0",), "b": ("m1",)}


def test_a_groups_name_that_looks_like_an_edge_names_a_node():
    scene = circuit_scene(two_heads(), groups={"a->b<q>": ("a0.h0", "a0.h1")})
    assert [name for name in scene.nodes if "->" in name] == []
    assert len(set(scene.names)) == scene.n_lines == 3


def opened(circuit: Circuit):
    """A library that holds the circuit, and its entry."""
    library = Library(None)
    return Context(library), library.add("two", "two", KINDS["circuit"], circuit, {})


def test_details_and_tables_of_a_box_hold_its_nodes_and_all_its_edges():
    circuit = two_heads()
    context, entry = opened(circuit)
    work = circuit_work(context, entry, circuit, list(GROUP.items()))
    row = next(each for each in node_rows(circuit, work.scene) if each["node"].startswith("group"))
    assert (row["what"], row["in"], row["out"], row["mass"]) == ("group of 2", 2, 2, 6.5)
    edges = {each["edge"]: each["score"] for each in work.edge_rows}
    assert edges["input->group early heads<q>"] == -2.0
    box = str(box_details(circuit, work.scene, "group early heads"))
    for part in ("early heads: 2 nodes", "a0.h0, a0.h1", "a0.h1->m2", "Edges in: 2", "Expand"):
        assert part in box
    line = str(bundle_details(circuit, work.scene, "input->group early heads<q>"))
    for part in ("-2", "sum of |score|", "input->a0.h1<q>"):
        assert part in line
    data = scene_data(work)
    assert [each["members"] for each in data["boxes"].values()] == [["a0.h0", "a0.h1"]]
    assert sorted(map(len, data["bundles"].values())) == [2, 2]


def test_the_selection_follows_a_node_into_its_box_and_is_let_go_when_it_is_gone():
    circuit = two_heads()
    context, entry = opened(circuit)
    shut = circuit_work(context, entry, circuit, list(GROUP.items()))
    open_ = circuit_work(context, entry, circuit)
    assert still(shut, {"node": "a0.h1"}) == {"node": "group early heads"}
    assert still(shut, {"node": "m2"}) == {"node": "m2"}
    assert still(open_, {"node": "group early heads"}) == {}
    assert still(shut, {"edge": "a0.h0->m2"}) == {}


def test_a_link_says_which_groups_are_collapsed():
    state, notices = parse_state("?view=circuit&groups=x:a0.h0~a0.h1;y:m1&collapsed=x~gone")
    assert not notices
    assert state.boxes == (("x", ("a0.h0", "a0.h1")),)
    assert ViewState(groups=state.groups).boxes == ()


def test_an_exported_picture_has_the_boxes():
    shut = exported(two_heads(), "svg", "", list(SCORES), list(GROUP.items()))
    apart = exported(two_heads(), "svg", "", list(SCORES))
    assert shut != apart
    assert exported(two_heads(), "svg", "", ["m2->logits"], list(GROUP.items()))
    comparison = results.comparison()
    rows = list(GROUP.items())
    assert exported(comparison, "csv", "", None, rows) == exported(comparison, "csv", "", None)


def test_the_difference_view_draws_boxes_too():
    comparison = results.comparison()
    _, entry = opened(comparison.before)
    nodes = [name for name in comparison.before.wiring.src_names if name.startswith("a0.h")]
    work = difference_work(entry, comparison, groups=[("first", nodes)])
    assert "group first" in work.scene.nodes
    names = [row["edge"] for row in work.edge_rows]
    assert names == list(work.scene.names)
    layout = work.scene.layout
    assert max(map(len, layout.bundles)) > 1
    for line, row in enumerate(work.edge_rows):
        if len(layout.bundles[line]) > 1:
            said = str(bundle_details(comparison.before, work.scene, row["edge"], comparison))
            assert f"'{row['status']}'" in said
            assert f"{row['after']:+.4g}" in said
        sides = (float(values[layout.bundles[line]].sum()) for values in comparison.scores)
        assert (row["before"], row["after"]) == pytest.approx(tuple(sides))
