"""What stands on paper can be read: sizes, places and words of the figures, and their names."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from circuits.base.choices import KeyValue, TraceKind
from circuits.base.errors import OptionError
from circuits.base.origin import relabelled
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune
from circuits.model.model import Model
from circuits.model.tokens import Span
from circuits.model.wiring import Wiring, node_kind
from experiments.analyses.engine import registry
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import run_analysis
from experiments.cli import drawing, run_figures
from experiments.cli.run_figures import find_runs
from locate.states.lens_result import LensResult
from locate.states.trace_result import Trace
from tests import results
from tests.test_analyses_framework import Config, Counting
from tests.test_charts import SERIES
from tests.test_cli import refusal, run_json
from tests.test_viz import WIRINGS, circuit_of, curves_through_boxes
from viz import theme
from viz.asked import differing, question
from viz.groups import parse_groups
from viz.layout import lay_out
from viz.paper import about, canvas
from viz.paper.charts import Lines
from viz.paper.circuit import MAX_HEIGHT, draw_circuit
from viz.paper.curves import draw_average_trace, draw_faithfulness, draw_trace
from viz.paper.difference import draw_difference
from viz.paper.heads import draw_attention, draw_written
from viz.paper.layers import draw_layers
from viz.paper.lenses import draw_average_lens, draw_objects, draw_prompt_lens
from viz.routing import HALF_HEIGHT
from viz.strongest import FEW, strongest

DEEP = Wiring(30, 9, 3, KeyValue.GROUPED)
WIDE = Wiring(24, 32, 32)
FLAT = Wiring(3, 32, 32)
PAIR = {
    "clean": "The capital of France is",
    "corrupted": "The capital of Japan is",
    "answer": "Paris",
    "foil": "Tokyo",
}


def deep(wiring: Wiring = DEEP) -> Circuit:
    """A circuit of a real model's size, as `kc discover` stores it."""
    found = prune(strongest(circuit_of(wiring), 700))
    origin = {
        "model": "smollm2-135m",
        "relation": "country_capital",
        "method": "eap-ig",
        "faithfulness": 0.87,
        "faithfulness_on": "other subjects",
    }
    return replace(found, provenance=origin, evidence={"pairs": [PAIR] * 30})


def deep_trace(n_tokens: int, n_layers: int = 30) -> Trace:
    rng = np.random.default_rng(0)
    effects = {kind: rng.random((n_layers, n_tokens, 1)) for kind in TraceKind}
    tokens = tuple(f" token{place}" for place in range(n_tokens))
    return Trace(
        "a prompt", tokens, Span(1, 3), "x", 7, 0.9, np.array([0.1]), effects, results.ORIGIN
    )


def deep_lens(places: int = 2) -> LensResult:
    found, rng = results.lens(), np.random.default_rng(0)
    return replace(
        found,
        positions={f"place {place}": 1 for place in range(places)},
        rank=rng.integers(0, 40_000, (31, places, 2)),
        probability=1e-5 * rng.random((31, places, 2)),
        best=np.full((31, places, 5), 9),
    )


def draw_curves(path: Path, **options: Any) -> Path:
    return draw_faithfulness(results.STORED["curves"](), path, **options)


DRAWN: dict[str, Callable[..., Path]] = {
    "deep circuit": lambda path, **k: draw_circuit(deep(), path, **k),
    "wide circuit": lambda path, **k: draw_circuit(deep(WIDE), path, **k),
    "flat circuit": lambda path, **k: draw_circuit(deep(FLAT), path, **k),
    "grouped": lambda path, **k: draw_circuit(
        deep(), path, groups={"the layers in the middle": strong_nodes(4)}, **k
    ),
    "difference": lambda path, **k: draw_difference(
        Comparison(deep(), prune(circuit_of(DEEP, 0.1, 3))), path, **k
    ),
    "layers": lambda path, **k: draw_layers(deep(), path, **k),
    "trace": lambda path, **k: draw_trace(deep_trace(5), path, **k),
    "long trace": lambda path, **k: draw_trace(deep_trace(90), path, **k),
    "average trace": lambda path, **k: draw_average_trace(results.average_trace(), path, **k),
    "lens": lambda path, **k: draw_prompt_lens(deep_lens(), path, **k),
    "average lens": lambda path, **k: draw_average_lens(results.average_lens(), path, **k),
    "objects": lambda path, **k: draw_objects(results.rewiring(), path, **k),
    "curves": draw_curves,
    "attention": lambda path, **k: draw_attention(results.prompt_heads(), path, **k),
    "tokens": lambda path, **k: draw_written(results.prompt_heads(), path, **k),
}
EVERY = pytest.mark.parametrize("name", DRAWN)
WIDTHS = pytest.mark.parametrize("width", [theme.SINGLE_COLUMN, theme.DOUBLE_COLUMN])


def strong_nodes(n: int) -> list[str]:
    """Some heads and MLPs that the deep circuit's picture shows."""
    drawn = lay_out(deep()).nodes
    return [node for node in drawn if node_kind(node) in ("head", "mlp")][:n]


FIGURES: dict[str, Figure] = {}


@pytest.fixture
def figure_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Figure]:
    """The figure that a function draws, in place of its file; each is drawn once."""

    def draw(name: str, **options: Any) -> Figure:
        key = f"{name} {sorted(options.items())}"

        def keep(figure: Figure, path: Path, *about: Any) -> Path:
            figure.set_dpi(400)  # letters are moved to whole pixels
            figure.canvas.draw()
            FIGURES[key] = figure
            return path

        if key not in FIGURES:
            with monkeypatch.context() as patched:
                patched.setattr(canvas, "save", keep)
                DRAWN[name](tmp_path / "x.pdf", **options)
        return FIGURES[key]

    return draw


def texts(figure: Figure) -> Iterator[tuple[Text, Any]]:
    """Every text that shows something, with its box in pixels."""
    ticks = [tick for axes in figure.axes for tick in all_ticks(axes)]
    shown = [tick for axes in figure.axes for tick in visible_ticks(axes)]
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        # Ticks outside an axis exist, and are not drawn.
        drawn = text.get_visible() and (text not in ticks or text in shown)
        if drawn and text.get_text().strip() and box.width > 0:
            yield text, box


def all_ticks(axes: Any) -> list[Text]:
    """The labels of ticks, drawn or not."""
    ticks = [
        tick
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
    ]
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def visible_ticks(axes: Any) -> list[Text]:
    """The labels of ticks that are drawn."""
    found: list[Text] = []
    if not axes.axison:
        return found
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in axis.get_major_ticks():
            label = tick.label2 if tick.label2.get_visible() else tick.label1
            if low - slack <= tick.get_loc() <= high + slack and label.get_text():
                found.append(label)
    return found


@EVERY
@WIDTHS
@pytest.mark.slow
def test_a_pdf_has_no_letters_below_five_points(name: str, width: float, tmp_path: Path) -> None:
    data = DRAWN[name](tmp_path / "x.pdf", width=width).read_bytes()
    opened = b""
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            opened += zlib.decompress(stream)
        except zlib.error:
            continue
    sizes = {float(size) for size in re.findall(rb"/F\d+(?:-\S+)? ([\d.]+) Tf", opened)}
    assert sizes
    assert min(sizes) >= canvas.SMALLEST - 1e-6
    # Nothing is scaled down afterwards.
    assert not re.search(rb"\s0?\.\d+ 0 0 0?\.\d+ \S+ \S+ cm\s", opened.split(b"BT")[0])


@EVERY
@WIDTHS
def test_every_text_lies_on_the_page_and_the_page_is_no_higher_than_a_page(
    name: str, width: float, figure_of: Callable[..., Figure]
) -> None:
    figure = figure_of(name, width=width)
    assert figure.get_size_inches()[1] <= MAX_HEIGHT + 0.3
    right, top = figure.bbox.width + 2, figure.bbox.height + 2
    for text, box in texts(figure):
        where = (name, text.get_text())
        assert box.x0 >= -2, where
        assert box.x1 <= right, where
        assert box.y0 >= -2, where
        assert box.y1 <= top, where


@EVERY
@WIDTHS
def test_no_two_labels_of_an_axis_and_no_two_titles_overlap(
    name: str, width: float, figure_of: Callable[..., Figure]
) -> None:
    figure = figure_of(name, width=width)
    labels = []
    for axes in figure.axes:
        labels += [(label, label.get_window_extent()) for label in visible_ticks(axes)]
        heads = [axes.title, axes._left_title, axes._right_title]  # type: ignore[attr-defined]
        heads += [axes.xaxis.get_offset_text(), axes.yaxis.get_offset_text()]
        labels += [(head, head.get_window_extent()) for head in heads if head.get_text()]
    for (one, first), (other, second) in combinations(labels, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        up = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, up) <= 2.0, (one.get_text(), other.get_text())


@pytest.mark.parametrize(
    "name", ["deep circuit", "wide circuit", "flat circuit", "grouped", "difference"]
)
@WIDTHS
def test_a_nodes_name_never_leaves_its_box(
    name: str, width: float, figure_of: Callable[..., Figure]
) -> None:
    figure = figure_of(name, width=width)
    (axes,) = figure.axes
    boxes = [
        patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)
    ]
    named = [text for text in axes.texts if text.get_ha() == "center"]
    assert len(named) > 5
    for text in named:
        inner = text.get_window_extent()
        # The extent counts the room of letters that go below the line, which names do not have.
        middle, half = (inner.y0 + inner.y1) / 2, 0.38 * text.get_size() * figure.dpi / 72
        assert any(
            box.x0 <= inner.x0
            and inner.x1 <= box.x1
            and box.y0 <= middle - half
            and middle + half <= box.y1
            for box in boxes
        ), text.get_text()


def test_of_many_edges_asked_for_names_without_room_are_left_out_and_said(
    figure_of: Callable[..., Figure],
) -> None:
    figure = figure_of("flat circuit", width=theme.SINGLE_COLUMN, max_edges=300)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert about.UNNAMED in caption(figure)
    assert not any(re.fullmatch(r"(a\d+\.)?h\d+", each) for each in words)
    assert min(text.get_size() for text, _ in texts(figure)) >= canvas.SMALLEST


def test_by_default_sixty_edges_are_drawn_or_as_many_as_a_page_can_show(
    figure_of: Callable[..., Figure],
) -> None:
    words = caption(figure_of("deep circuit"))
    assert f"strongest {FEW} drawn" in words
    crowded = caption(figure_of("difference", width=theme.SINGLE_COLUMN))
    assert int(re.search(r"(\d+) of [\d,]+ drawn", crowded)[1]) < FEW  # type: ignore[index]


def caption(figure: Figure) -> str:
    """The texts of a circuit's page from the top of the caption down."""
    lines = sorted(figure.axes[0].texts, key=lambda text: -text.get_position()[1])
    return " ".join(text.get_text() for text in lines)


def test_the_picture_says_what_was_asked_of_whom_and_whose_faithfulness_it_is(
    figure_of: Callable[..., Figure],
) -> None:
    words = caption(figure_of("deep circuit"))
    assert "“The capital of France is” → Paris, against Japan → Tokyo, and 29 more pairs" in words
    n_edges = deep().n_edges
    assert f"all {n_edges} edges: faithfulness 0.87 on other subjects" in words
    assert "smollm2-135m" in words


@pytest.mark.slow
@EVERY
def test_without_notes_no_figure_names_its_model(
    name: str, figure_of: Callable[..., Figure]
) -> None:
    def words(**options: Any) -> str:
        return " ".join(text.get_text() for text, _ in texts(figure_of(name, **options)))

    known = ("smollm2-135m", canvas.visible(results.HOSTILE)[:12])
    assert any(model in words() for model in known)
    assert "95 %" not in words(notes=False)
    assert "edges: faithfulness 0." not in words(notes=False)
    assert "smollm2-135m" not in words(notes=False)
    assert len(words(notes=False)) < len(words())


@pytest.mark.parametrize(
    ("clean", "corrupted", "expected"),
    [
        (PAIR["clean"], PAIR["corrupted"], "Japan"),
        ("What is the capital of Italy? It is", "What is the capital of Russia? It is", "Russia"),
        ("The capital of South Korea is", "The capital of New Zealand is", "New Zealand"),
        ("Paris", "Tokyo", ""),
        ("The capital of France is", "The capital of is", ""),
        ("a b", "a b", ""),
    ],
)
def test_of_the_corrupted_prompt_the_words_that_differ_are_named(
    clean: str, corrupted: str, expected: str
) -> None:
    assert differing(clean, corrupted) == expected


def test_a_circuit_without_pairs_says_nothing_of_what_was_asked() -> None:
    for evidence in ({}, {"pairs": []}, {"pairs": 3}, {"pairs": [{"clean": "a"}]}):
        assert question(replace(deep(), evidence=evidence)) == ""


def test_layers_that_are_not_drawn_are_folded_and_each_is_in_a_row_or_in_one_fold() -> None:
    layout = lay_out(deep())
    shown = [row.layer for row in layout.rows]
    folded = [layer for fold in layout.folds for layer in range(fold.first, fold.last + 1)]
    assert sorted(shown + folded) == list(range(DEEP.n_layers))
    heights = sorted([(row.low + row.high) / 2, row.layer] for row in layout.rows)
    heights += [[fold.y, fold.first] for fold in layout.folds]
    assert [layer for _, layer in sorted(heights)] == sorted(layer for _, layer in heights)


# Groups


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Circuit, dict[str, list[str]]]:
    wiring = draw(WIRINGS)
    circuit = circuit_of(wiring, draw(st.floats(0.05, 1.0)), draw(st.integers(0, 99)))
    nodes = [node for node in wiring.src_names if node != "input"]
    mixed = draw(st.permutations(nodes))
    cut = draw(st.integers(1, len(nodes)))
    return circuit, {"one": list(mixed[:cut]), "two": list(mixed[cut : cut + 3])}


@settings(max_examples=25, deadline=None)
@given(grouped())
def test_groups_keep_every_edge_let_all_rise_and_no_curve_meets_another_box(
    given_: tuple[Circuit, dict[str, list[str]]],
) -> None:
    circuit, groups = given_
    apart, layout = lay_out(circuit, 80), lay_out(circuit, 80, groups=groups)
    assert layout.n_drawn == apart.n_drawn
    bundled = np.concatenate([np.zeros(0, dtype=int), *layout.bundles])
    assert set(bundled.tolist()) <= set(apart.edges.tolist())
    assert len(set(bundled.tolist())) + layout.n_inside == apart.n_drawn
    scores = circuit.scores.values  # type: ignore[union-attr]
    np.testing.assert_allclose(layout.totals(scores).sum(), scores[bundled].sum(), atol=1e-6)
    np.testing.assert_array_less(layout.y[layout.tail], layout.y[layout.head] - HALF_HEIGHT)
    assert curves_through_boxes(layout) == []
    members = [node for box in layout.boxes.values() for node in box.members]
    told = {node for nodes in groups.values() for node in nodes}
    assert sorted(members) == sorted(told & set(apart.nodes))
    assert set(layout.nodes) & told == set(layout.boxes)


def test_a_group_that_can_stand_at_one_height_is_one_box() -> None:
    wiring = Wiring(3, 2, 2)
    names = ["input->a0.h0<q>", "input->a0.h1<q>", "a0.h0->m2", "a0.h1->m2", "m2->logits"]
    kept = np.isin(np.arange(wiring.n_edges), [wiring.edge_index(name) for name in names])
    circuit = Circuit(wiring, kept, EdgeScores(wiring, np.ones(wiring.n_edges)))
    layout = lay_out(circuit, groups={"g": ["a0.h0", "a0.h1"]})
    assert [box.members for box in layout.boxes.values()] == [("a0.h0", "a0.h1")]
    assert sorted(layout.totals(np.ones(wiring.n_edges)).tolist()) == [1, 2, 2]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("movers", "is not NAME="),
        ("=a1.h1", "is not NAME="),
        ("m=a1.h1,,a1.h0", "is not NAME="),
        ("m=a9.h9", "no head or MLP"),
        ("m=logits", "no head or MLP"),
    ],
)
def test_a_group_that_makes_no_sense_is_one_line(
    told: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "circuit.kc.safetensors"
    results.circuit().save(path)
    assert expected in refusal(capsys, "figures", str(path), "--kind", "circuit", "--group", told)
    assert not (tmp_path / "figures").exists()


def test_a_group_without_a_drawn_node_or_without_a_picture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "circuit.kc.safetensors"
    results.circuit().save(path)
    group = ["--group", "x=a1.h1"]
    few = refusal(capsys, "figures", str(path), "--kind", "circuit", "--edges", "1", *group)
    assert "ask for more edges" in few
    for option in (group, ["--edges", "3"], ["--head", "a1.h1"]):
        said = refusal(capsys, "figures", str(path), "--kind", "layers", *option)
        assert option[0] in said
        assert "none is drawn" in said
    assert not (tmp_path / "figures").exists()
    with pytest.raises(OptionError, match="named twice"):
        parse_groups(["a=m0", "a=m1"])
    with pytest.raises(OptionError, match="in two groups"):
        lay_out(results.circuit(), groups={"a": ["m0"], "b": ["m0"]})


# Names and places of files


def test_a_figures_name_does_not_change_with_what_else_lies_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def names() -> set[str]:
        listed = drawing.plan(drawing.find_stored([tmp_path])[0])
        drawing.check_names(listed)
        return {each.name for each in listed}

    seen: set[str] = set()
    for place in ("a/compare", "b/compare", "b", "c/d/e", "."):
        results.circuit().save(tmp_path / place / "circuit.kc.safetensors")
        assert seen < names()
        seen = names()
    assert {"a-compare-circuit", "b-compare-circuit", "b-circuit", "circuit"} <= seen
    results.circuit().save(tmp_path / "figures" / "circuit.kc.safetensors")
    results.circuit().save(tmp_path / ".hidden" / "circuit.kc.safetensors")
    assert names() == seen
    out = tmp_path / "out"
    run_json(capsys, "figures", str(tmp_path), "--kind", "layers", "--out", str(out))
    assert {path.stem for path in out.iterdir()} == {
        f"{name}-layers" for name in seen if not name.endswith("layers")
    }


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_a_figure_is_drawn_over_its_earlier_self_and_never_over_a_picture_of_the_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    results.circuit().save(tmp_path / "circuit.kc.safetensors")
    asked = ("figures", str(tmp_path), "--kind", "circuit", "--format", suffix)
    [drawn] = run_json(capsys, *asked)["files"]
    first = Path(drawn).read_bytes()
    run_json(capsys, *asked, "--edges", "1")
    assert Path(drawn).read_bytes() != first
    Path(drawn).write_text("mine")
    assert "no figure that this program drew" in refusal(capsys, *asked)
    assert Path(drawn).read_text() == "mine"


def test_names_that_clash_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results.circuit().save(tmp_path / "a-b" / "c.kc.safetensors")
    results.circuit().save(tmp_path / "a" / "b-c.kc.safetensors")
    monkeypatch.setattr(drawing, "open_result", lambda path: pytest.fail("it was opened"))
    assert "both be drawn as a-b-c" in refusal(capsys, "figures", str(tmp_path))


def test_a_label_stands_in_captions_and_titles_and_the_models_name_in_the_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replace(
        results.circuit(), provenance={"model": "/home/me/runs/model-7", "relation": "r"}
    )
    assert found.heading() == "r in model-7"
    path = tmp_path / "circuit.kc.safetensors"
    found.save(path)
    named = relabelled(found, "My model")
    assert named.heading() == "r in My model"
    assert named.provenance["model"] == "/home/me/runs/model-7"
    assert relabelled(found, None) is found
    both = relabelled(results.rewiring(), "Mine")
    assert both.comparison.before.provenance["label"] == "Mine"
    options = ["--kind", "circuit", "--format", "svg", "--titles", "--label", "My model"]
    [drawn] = run_json(capsys, "figures", str(path), *options)["files"]
    assert "r in My model" in Path(drawn).read_text()


def test_the_figures_of_a_run_are_drawn_again_at_the_width_asked_for(
    tmp_path: Path,
    model: Model,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy, folder = Counting().analysis, tmp_path / "runs" / "first"
    monkeypatch.setitem(registry._ANALYSES, toy.name, toy)
    context = Context(model.name, folder)
    context._held.model = model
    run_analysis(toy, Config(), context)
    assert [each.name for each in find_runs([tmp_path])] == ["runs-first-toy-bars"]
    assert [each.name for each in find_runs([folder])] == ["toy-bars"]
    found = run_json(capsys, "figures", str(tmp_path), "--format", "svg", "--width", "5")
    [path] = found["files"]
    assert path == str(tmp_path / "figures" / "runs-first-toy-bars.svg")
    assert 'width="360pt"' in Path(path).read_text()
    assert "no stored result" in refusal(capsys, "figures", str(tmp_path), "--kind", "circuit")
    for flag in ("--titles", "--no-notes"):
        assert f"{flag} is of figures" in refusal(capsys, "figures", str(tmp_path), flag)
    drawn = len(list(folder.rglob("*.svg")))
    (folder / "parts" / "a.json").unlink()
    run_figures._reread.cache_clear()  # as another process would
    assert "is missing" in refusal(capsys, "figures", str(tmp_path), "--out", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
    assert len(list(folder.rglob("*.svg"))) == drawn


def test_panels_that_are_too_narrow_side_by_side_stand_in_rows(tmp_path: Path) -> None:
    panels = {f"panel {place}": SERIES for place in range(4)}
    wide = Lines([0, 1, 2], panels).draw(tmp_path / "wide.svg").read_text()
    narrow = (
        Lines([0, 1, 2], panels, width=theme.SINGLE_COLUMN).draw(tmp_path / "n.svg").read_text()
    )

    def height(text: str) -> float:
        return float(re.search(r'height="([\d.]+)pt"', text)[1])  # type: ignore[index]

    assert height(narrow) > 1.5 * height(wide)
