"""One table of kinds: every name in it exists, and a user's own kind is opened, shown and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from circuits.base.arrays import save_arrays
from circuits.base.choices import FigureKind
from circuits.base.display import Summary
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.results import Result, numeric
from circuits.edits.edit import WeightDelta
from circuits.files.kinds import KINDS, add_kind, kind_of_result, named, open_result
from experiments.cli import drawing
from tests import results
from viz import paper, screen
from viz.app.context import Context
from viz.app.library import Library
from viz.app.routes import page_of
from viz.app.state import ViewState


@dataclass(frozen=True, eq=False)
class Norms(Result):
    """A user's result: one norm a layer."""

    KIND = "norms"
    values: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        return [{"layer": at, "norm": float(each)} for at, each in enumerate(self.values)]

    def summary(self) -> Summary:
        return Summary("Norms by layer", {"layers": str(len(self.values))})

    def arrays(self) -> dict[str, np.ndarray]:
        return {"values": self.values}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Norms:
        return cls(numeric(arrays, "values", "f", 1))


def on_screen(norms: Norms) -> go.Figure:
    return go.Figure(go.Bar(y=norms.values))


def on_paper(norms: Norms, path: Path) -> None:
    path.write_text("<svg/>")


@pytest.fixture
def own_kind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FigureKind, "_known", dict(FigureKind._known))
    yield add_kind(Norms, screen=on_screen, paper=on_paper)
    del KINDS["norms"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_name_in_the_table_is_there(kind):
    assert kind.name == named(kind.holds).KIND
    for target in (*kind.figures.values(), *kind.screen.values()):
        assert callable(named(target))


def test_what_a_file_holds_comes_in_the_same_order_at_every_reading(tmp_path: Path):
    names = [f"parameter.{place:02}" for place in range(12)]
    path = tmp_path / "edit.kc.safetensors"
    WeightDelta({name: torch.ones(1) for name in reversed(names)}).save(path)
    for _ in range(4):
        assert [row["parameter"] for row in open_result(path).rows()] == sorted(names)


@pytest.mark.parametrize("name", results.STORED)
def test_a_stored_result_is_opened_by_its_header_and_is_whole(name: str, tmp_path: Path):
    found = results.STORED[name]()
    path, again = tmp_path / "a.kc.safetensors", tmp_path / "b.kc.safetensors"
    found.save(path)
    opened = open_result(path)
    assert type(opened) is type(found)
    assert str(opened.rows()) == str(open_result(path).rows())
    opened.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert list(opened.to_pandas().columns) == list(opened.rows()[0])


@pytest.mark.parametrize("name", [name for name in results.STORED if name != "delta"])
def test_a_result_is_drawn_by_what_it_is_and_has_a_page(name: str, tmp_path: Path):
    found = results.STORED[name]()
    assert screen.figure(found).data
    if kind_of_result(found).figures:
        for part in found.parts():
            if part is found:
                assert paper.draw(found, tmp_path / "x.svg").exists()
    found.save(tmp_path / "a.kc.safetensors")
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    page, _, _ = page_of(context, ViewState(view=entry.kind.view, r=entry.id), "", {})
    assert page is not None


def test_a_comparison_keeps_the_columns_of_its_circuits(tmp_path: Path):
    from dataclasses import replace

    from circuits.graph.comparison import Comparison

    shares = np.linspace(0, 1, results.WIRING.n_edges, dtype=np.float32)
    before = replace(results.circuit(0), columns={"inclusion": shares})
    Comparison(before, results.circuit(1)).save(tmp_path / "c.kc.safetensors")
    again = Comparison.load(tmp_path / "c.kc.safetensors")
    np.testing.assert_array_equal(again.before.columns["inclusion"], shares)


def test_a_users_own_kind_is_opened_listed_shown_and_drawn(own_kind, tmp_path: Path):
    Norms(np.arange(3.0)).save(tmp_path / "mine.kc.safetensors")
    assert open_result(tmp_path / "mine.kc.safetensors").rows()[2] == {"layer": 2, "norm": 2.0}
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    assert entry.kind is own_kind
    page, _, title = page_of(context, ViewState(view="rows", r=entry.id), "", {})
    assert title == "mine.kc.safetensors"
    assert "Norms by layer" in str(page)
    stored, _ = drawing.find_stored([tmp_path])
    look = drawing.Look(format=drawing.FigureFormat.SVG)
    drawn = drawing.draw_all(drawing.plan(stored), tmp_path / "out", look)
    assert [path.name for path in drawn] == ["mine-norms.svg"]


def test_a_kind_that_is_taken_or_unknown_is_refused_in_one_line(tmp_path: Path):
    class Circuit(Norms):
        KIND = "circuit"

    with pytest.raises(OptionError, match="already"):
        add_kind(Circuit)
    save_arrays(tmp_path / "x.kc.safetensors", "strange", {"x": np.zeros(1)}, {})
    with pytest.raises(FileFormatError, match="no class reads"):
        open_result(tmp_path / "x.kc.safetensors")
    with pytest.raises(OptionError, match="no stored kind"):
        screen.figure(3)
