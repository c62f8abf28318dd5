"""Laws of what a picture draws and says of it: the edges asked for, what is left out, noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base.errors import OptionError
from circuits.files.kinds import KINDS
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.noise import DECISIONS, Decision, EdgeChanges, NoiseSettings
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune
from circuits.model.wiring import Wiring
from tests import results
from viz import theme
from viz.app.circuit_page import circuit_work
from viz.app.context import Context
from viz.app.difference_page import difference_work
from viz.app.exports import exported
from viz.app.library import Entry, Library
from viz.app.server import make_app
from viz.app.state import ViewState
from viz.layout import lay_out
from viz.marking import MARKED, NONE_TOLD, NOT_MARKED, marked
from viz.page.results import section
from viz.paper import about, difference
from viz.paper.circuit import draw_circuit
from viz.screen.difference import difference_figure

WIRING = Wiring(2, 2, 2)
PATH = ("input->m0", "m0->logits")
OFF_PATH = "a0.h0->m1"  # nothing leads to its head, and its MLP leads nowhere
NAMES = (*PATH, OFF_PATH, "input->logits")
BIG = Wiring(8, 8, 8)


def masked(*names: str) -> np.ndarray:
    return np.isin(np.arange(WIRING.n_edges), [WIRING.edge_index(name) for name in names])


def circuit(*names: str, sign: float = 1.0) -> Circuit:
    values = sign * np.arange(1.0, WIRING.n_edges + 1)
    origin = {"model": "m", "faithfulness": 0.5}
    return Circuit(WIRING, masked(*names), EdgeScores(WIRING, values), provenance=origin)


def floor(*changed: str) -> EdgeChanges:
    """A noise floor above which these edges alone changed."""
    zero = np.zeros(WIRING.n_edges)
    code = np.full(WIRING.n_edges, DECISIONS.index(Decision.UNDECIDED))
    code[masked(*changed)] = DECISIONS.index(Decision.CHANGED)
    return EdgeChanges(*[zero] * 8, code, 0.0, 1, 2, 2, NoiseSettings())


def compared(*changed: str) -> Comparison:
    """One edge stays, one is lost and two are gained, of which `changed` are told from noise."""
    before, after = circuit("input->logits", "input->m0"), circuit("input->logits", *PATH[1:])
    after = replace(after, kept=after.kept | masked("a0.h0->logits"))
    return Comparison(before, after, floor(*changed))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, dict[str, Any]], dict[str, str]]:
    """Exports a picture and gives the edges on it with their looks, and its caption."""
    seen: dict[str, Any] = {}

    def watch(module: str) -> None:
        plain = __import__(module, fromlist=["compose"]).compose

        def compose(circuit, layout, look, told, *rest):
            names = [WIRING.edge_name(edge) for edge in layout.edges.tolist()]
            seen.update(edges=dict(zip(names, look.styles, strict=True)), told=told)
            return plain(circuit, layout, look, told, *rest)

        monkeypatch.setattr(f"{module}.compose", compose)

    watch("viz.paper.circuit")
    watch("viz.paper.difference")

    def export(value: Any, **options: Any) -> dict[str, Any]:
        seen.clear()
        assert exported(value, "svg", "A title", **options).startswith(b"<?xml")
        return dict(seen)

    return export


@pytest.mark.parametrize("shown", [[OFF_PATH, "input->logits"], [OFF_PATH], list(NAMES), []])
def test_a_circuits_picture_that_leaves_the_app_has_the_edges_of_the_view(drawn, shown):
    found = drawn(circuit(*NAMES), shown=shown)
    assert sorted(found["edges"]) == sorted(shown)
    if len(shown) < len(NAMES):
        assert f"all 4 edges: faithfulness 0.50  ·  {len(shown)} drawn" in found["told"]
    else:
        assert "4 edges, faithfulness 0.50" in found["told"]
    assert "strongest" not in found["told"]


def test_of_edges_that_are_no_longer_there_a_picture_says_so():
    with pytest.raises(OptionError, match="a9"):
        exported(circuit(*NAMES), "svg", "", ["a9.h0->logits"])


def test_a_differences_picture_that_leaves_the_app_has_the_edges_and_the_noise_of_the_view(drawn):
    comparison = compared("m0->logits")
    shown = ["a0.h0->logits", "m0->logits"]
    on = drawn(comparison, shown=shown, noise="")
    looks = {"a0.h0->logits": theme.CANNOT_TELL, "m0->logits": theme.GAINED}
    assert on["edges"] == looks
    assert "2 of 4 drawn  ·" in on["told"]
    off = drawn(comparison, shown=shown, noise="off")
    assert off["edges"] == dict.fromkeys(shown, theme.GAINED)
    assert off["told"].endswith(NOT_MARKED)
    none = compared()
    assert drawn(none, shown=shown, noise="on")["edges"] == dict.fromkeys(shown, theme.CANNOT_TELL)
    assert drawn(none, shown=["input->m0"])["edges"] == {"input->m0": theme.LOST}


@pytest.mark.parametrize("name", ["trace", "lens", "average_lens"])
def test_edges_that_another_page_showed_have_no_say_in_a_picture_without_edges(name):
    value = getattr(results, name)()
    plain = exported(value, "svg", "t", None)
    assert exported(value, "svg", "t", ["a0.h0->a1.h0<q>"], [["g", ["a0.h0"]]], "off") == plain


def test_a_trace_is_exported_after_a_circuits_page_was_open(tmp_path: Path):
    results.trace().save(tmp_path / "trace.kc.safetensors")
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    app = make_app(context)
    (output,) = [each for each in app.callback_map if each.startswith("..download.data")]
    callback = app.callback_map[output]
    told = {
        "subject": {"r": entry.id},
        "shown-edges": ["a0.h0->a1.h0<q>"],
        "title": "t",
        "shown-boxes": [],
        "url": ViewState(view="trace", r=entry.id).search(),
    }
    pressed = {each["id"]: int(each["id"] == "export-svg") or None for each in callback["inputs"]}
    asked = {
        "output": output,
        "outputs": [
            {"id": "download", "property": "data"},
            {"id": "message", "property": "children"},
        ],
        "inputs": [{**each, "value": pressed[each["id"]]} for each in callback["inputs"]],
        "state": [{**each, "value": told[each["id"]]} for each in callback["state"]],
        "changedPropIds": ["export-svg.n_clicks"],
    }
    answer = app.server.test_client().post("/_dash-update-component", json=asked)
    assert answer.json["response"]["download"]["data"]["filename"] == "trace.svg"


def test_a_number_of_edges_beside_the_edges_themselves_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="not both"):
        draw_circuit(circuit(*NAMES), tmp_path / "a.svg", max_edges=3, only=masked(*PATH))


def test_a_layout_of_edges_asked_for_draws_these_of_the_circuits_and_no_others():
    layout = lay_out(circuit(*NAMES), only=masked(OFF_PATH, "a0.h1->m1"))
    assert [WIRING.edge_name(edge) for edge in layout.edges] == [OFF_PATH]
    assert layout.n_kept == 4
    assert "1 drawn" in about.describe(circuit(*NAMES), layout)


# --- noise -----------------------------------------------------------------------------------


def test_noise_is_marked_where_one_change_is_told_from_it_unless_asked_otherwise():
    told, none, bare = compared("m0->logits"), compared(), replace(compared(), changes=None)
    assert marked(told) == (told, MARKED)
    assert marked(none, True) == (none, MARKED)
    for (shown, said), expected in ((marked(none), NONE_TOLD), (marked(told, False), NOT_MARKED)):
        assert shown.changes is None
        assert said == expected
    assert marked(bare) == marked(bare, True) == (bare, "")


@pytest.mark.parametrize("changed", [[], ["m0->logits"]], ids=["none told", "one told"])
def test_app_page_paper_and_notebook_agree_on_what_became_of_an_edge(drawn, changed):
    comparison = compared(*changed)
    said = MARKED if changed else NONE_TOLD
    work = difference_work(Entry("x", "x", KINDS["comparison"]), comparison)
    page = section(comparison)
    paper = drawn(comparison)
    figure = difference_figure(comparison)
    app = dict(zip(work.scene.names, work.scene.classes, strict=True))
    edges = page.graph.scene["edges"]
    assert app == dict(zip(edges["name"], edges["class"], strict=True))
    assert set(app) == set(paper["edges"])
    legends = {style.legend for style in paper["edges"].values()}
    assert legends == {style.legend for _, style in work.legend}
    assert legends <= {trace.name for trace in figure.data if trace.showlegend}
    assert (theme.CANNOT_TELL.legend in legends) == bool(changed)
    assert said in work.notes
    assert said in page.says
    assert said in paper["told"]
    assert figure.layout.title.subtitle.text == said


# --- what is left out --------------------------------------------------------------------------


def dense(seed: int) -> Circuit:
    rng = np.random.default_rng(seed)
    values = EdgeScores(BIG, rng.normal(size=BIG.n_edges))
    return prune(Circuit(BIG, rng.random(BIG.n_edges) < 0.35, values))


@pytest.mark.slow
def test_a_large_difference_and_a_large_circuit_say_how_many_edges_are_in_no_picture():
    comparison = Comparison(dense(0), dense(1))
    n_edges = int((comparison.before.kept | comparison.after.kept).sum())
    work = difference_work(Entry("x", "x", KINDS["comparison"]), comparison)
    assert n_edges > 2000 >= work.scene.n_edges
    said = f"{n_edges - work.scene.n_edges:,} of {n_edges:,} edges are not drawn"
    assert any(note.startswith(said) for note in work.notes)
    assert said in section(comparison).says
    title = difference_figure(comparison, 100).layout.title.text
    assert title.endswith("; 100 drawn, what changed first")
    small = difference_figure(compared("m0->logits")).layout.title.text
    assert "drawn" in small  # a0.h0->logits lies on no path
    one = replace(dense(0), kept=comparison.before.kept | comparison.after.kept)
    for notes in (
        circuit_work(Context(Library(None)), Entry("x", "x", KINDS["circuit"]), one).notes,
        [section(one).says],
    ):
        assert f"of {n_edges:,} edges are not drawn: on no path" in " ".join(notes)


def test_a_whole_difference_says_nothing_of_edges_left_out():
    pair = Comparison(circuit(*PATH), circuit(*PATH, "input->logits"))
    work = difference_work(Entry("x", "x", KINDS["comparison"]), pair)
    assert list(work.notes) == []
    assert "not drawn" not in section(pair).says
    assert "drawn" not in difference_figure(pair).layout.title.text
    assert difference.describe(pair, lay_out(pair.after), "").count("drawn") == 0
