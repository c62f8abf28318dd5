"""Charts of analyses: files that are whole, say where they come from, and show what they hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from circuits.base.errors import OptionError
from circuits.base.intervals import UNDEFINED, Interval
from viz.paper.chart_parts import arranged, labels, longest, need_turning, thinned
from viz.paper.charts import Bars, Dots, Lines, Matrix, Stacked


def at(value: float, width: float = 0.1) -> Interval:
    return Interval(value, value - width, value + width)


BARE = Interval(0.5, np.nan, np.nan)
NAMES = ["one", "a much longer name", "$x_1$ \n and \t more"]
SERIES = {"found": [at(0.2), at(0.9), UNDEFINED], "random": [at(0.1), BARE, at(0.0, 0.0)]}
CHARTS: dict[str, Any] = {
    "bars": Bars(NAMES, SERIES, "share", muted=("random",), level=0.5),
    "dots": Dots(NAMES, SERIES, "share", muted=("random",), level=0.5),
    "lines": Lines(
        [0, 1, 2],
        {"left": SERIES, "right": {"found": SERIES["found"]}},
        "layer",
        ("rank", "share"),
        faint={"left": [[0.1, 0.2, 0.3]]},
        logarithmic=("left",),
        flipped=("left",),
    ),
    "many lines": Lines(
        [0, 1, 2], {str(i): SERIES for i in range(7)}, x_names=NAMES, per_row=3, height=1.0
    ),
    "stacked": Stacked(NAMES, {"a": [1.0, 2.0, np.nan], "b": [0.0, 1.0, 1.0]}, "layer", "edges"),
    "matrix": Matrix(NAMES, NAMES[:2], np.array([[0.0, 1.0], [np.nan, 0.4], [-0.001, 2.0]]), "f"),
    "centred": Matrix(["r"], ["c", "d"], np.array([[-1.0, 0.5]]), "change", centred=True),
}


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_a_chart_is_drawn_in_every_format_with_its_origin(
    tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f"chart{suffix}"
    assert CHARTS[name].draw(path, {"model": "facts-gpt2"}) == path
    content = path.read_bytes()
    assert b"facts-gpt2" in content or suffix == ".pdf"
    assert len(content) > 1000


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_chart_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    files = [CHARTS[name].draw(tmp_path / f"{i}.svg").read_bytes() for i in range(2)]
    assert files[0] == files[1]


def test_baselines_are_grey_and_do_not_take_a_colour(tmp_path: Path) -> None:
    def colours(chart: Bars) -> list[str]:
        text = chart.draw(tmp_path / "x.svg").read_text()
        return re.findall(r"fill: (#\w{6})", text)

    with_control = colours(Bars(["g"], {"control": [at(1)], "new": [at(2)]}, muted=("control",)))
    alone = colours(Bars(["g"], {"new": [at(2)]}))
    assert "#0072b2" in with_control
    assert "#9aa5b1" in with_control
    assert "#9aa5b1" not in alone


def test_every_series_is_in_the_legend_whatever_panel_it_is_in(tmp_path: Path) -> None:
    panels = {"a": {"x": [at(1)], "y": [at(1)]}, "b": {"x": [at(1)], "z": [at(1)]}}
    both = Lines([0], panels).draw(tmp_path / "a.svg").read_text()
    assert both.count('<g id="legend_1">') == 1
    legend = both[both.index('<g id="legend_1">') :]
    assert legend.count('<g id="line2d') == 3


def test_numbers_in_a_matrix_have_no_minus_before_zero(tmp_path: Path) -> None:
    path = CHARTS["matrix"].draw(tmp_path / "m.svg")
    assert "−0.00" not in path.read_text()
    assert "-0.00" not in path.read_text()


@pytest.mark.parametrize(
    "chart",
    [
        Bars([], {}),
        Bars(["a"], {"x": []}),
        Dots(["a"], {"x": [BARE, BARE]}),
        Lines([0], {"a": {}}),
        Stacked(["a"], {"x": [1.0, 2.0]}),
        Matrix([], [], np.zeros((0, 0))),
    ],
)
def test_nothing_or_uneven_series_cannot_be_drawn(tmp_path: Path, chart: Any) -> None:
    with pytest.raises(OptionError):
        chart.draw(tmp_path / "x.svg")
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="ends in"):
        CHARTS["bars"].draw(tmp_path / "x.jpg")


def test_labels_break_at_spaces_before_they_turn() -> None:
    names = ["unseen combination", "two hops"]
    wide, turned, extra = arranged(names, 6.0)
    assert (wide, turned, extra) == (names, False, 0.0)
    broken, turned, extra = arranged(names, 2 * longest(["combination"]) + 0.2)
    assert (broken, turned) == (["unseen\ncombination", "two\nhops"], False)
    assert extra > 0
    assert arranged(names, 0.5)[1]
    assert len(labels(["x" * 99])[0]) < 40


def test_no_panels_title_is_cut_at_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[str, float] = {}
    titles = ("short", "another short one", "us state largest city")

    def measured(figure: Any, path: Path, *given: Any) -> Path:
        figure.canvas.draw()
        for axes in figure.axes:
            for text in axes.findobj(Text):
                if text.get_text() in titles:
                    ends[text.get_text()] = text.get_window_extent().x1 / figure.bbox.width
        return path

    monkeypatch.setattr("viz.paper.charts.saved", measured)
    panels = {title: {"a": [Interval(1.0, 0.5, 1.5)] * 3} for title in titles}
    Lines(range(3), panels, width=4.2).draw(tmp_path / "l.svg")
    assert set(ends) == set(titles)
    assert max(ends.values()) <= 1


def test_the_layers_of_a_deep_model_stand_apart_and_upright(tmp_path: Path) -> None:
    """Every k-th layer is named, as many as have room; long names are turned instead."""
    layers = ["emb.", *map(str, range(30))]
    shown = thinned(layers, 2.7)
    named = [name for name in shown if name]
    assert len(shown) == len(layers)
    assert 5 < len(named) < 31
    assert named == layers[:: layers.index(named[1])]
    assert not need_turning(named, 2.7)
    assert thinned(layers[:4], 2.7) == layers[:4]
    steps = ["1,125 steps", "2,250 steps"] * 8
    assert thinned(steps, 1.0) == steps
    assert thinned([], 1.0) == []
    series = [Interval(1.0, 0.5, 1.5)] * 31
    path = Lines(range(31), {"": {"a": series}}, x_names=layers, width=3.3).draw(tmp_path / "l.svg")
    assert "rotate(-45" not in path.read_text()
