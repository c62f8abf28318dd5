"""Circuits of spans as users meet them: commands, tables, pictures, opposite signs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from circuits.base.errors import OptionError
from circuits.graph.by_span import by_layer, opposed, opposed_edges, span_rows
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from experiments.cli.main import main
from tests import results
from viz.layout import lay_out
from viz.paper.circuit import draw_circuit
from viz.paper.legend import score_look
from viz.paper.spans import draw_spans
from viz.screen import figure

WIRING = Wiring(2, 2, 2).with_spans(("subject", "last", "others"))


def scored(**values: float) -> EdgeScores:
    numbers = np.zeros(WIRING.n_edges, dtype=np.float32)
    for name, value in values.items():
        numbers[WIRING.edge_index(f"input->m0@{name}")] = value
    return EdgeScores(WIRING, numbers)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"subject": 2.0, "last": -1.0}, True),
        ({"subject": 2.0, "last": -0.1}, False),
        ({"subject": -2.0, "last": -1.0}, False),
        ({"subject": -0.3, "last": 1.0, "others": 1.0}, True),
    ],
)
def test_an_edge_is_opposed_where_the_lesser_sign_is_a_tenth_of_the_greater(scores, expected):
    found = opposed(scored(**scores))
    assert found.any() == expected
    assert found[WIRING.with_spans().edge_index("input->m0")] == expected
    named = opposed_edges(scored(**scores))
    assert [each.edge for each in named] == (["input->m0"] if expected else [])
    for each in named:
        assert each.whole == pytest.approx(sum(scores.values()))
        assert each.as_row()["sum"] == each.whole
    with pytest.raises(OptionError, match="no spans"):
        opposed(scored(**scores).blind())


def test_tables_by_span_and_by_layer_add_up_to_the_circuit() -> None:
    circuit = results.circuit_of_spans()
    kept = circuit.scores.values[circuit.kept].astype(float)
    rows = span_rows(circuit)
    assert [row["span"] for row in rows] == list(circuit.wiring.spans)
    assert sum(row["edges"] for row in rows) == circuit.n_edges
    total = sum(row["supporting"] + row["opposing"] for row in rows)
    assert total == pytest.approx(kept.sum(), abs=1e-4)
    table = by_layer(circuit)
    assert table.sum() == pytest.approx(kept.sum(), abs=1e-4)
    sums = [row["supporting"] + row["opposing"] for row in rows]
    np.testing.assert_allclose(table.sum(1), sums, atol=1e-4)
    bare = Circuit(circuit.wiring, circuit.kept)
    assert by_layer(bare).sum() == circuit.n_edges
    assert "supporting" not in span_rows(bare)[0]
    assert span_rows(circuit.blind()) == []


def test_edges_of_several_spans_lie_beside_each_other_and_have_the_span_s_colour(tmp_path: Path):
    names = [f"m0->a1.h0<v>@{span}" for span in WIRING.spans]
    kept = np.zeros(WIRING.n_edges, dtype=bool)
    kept[[WIRING.edge_index(name) for name in names]] = True
    circuit = Circuit(WIRING, kept, scored())
    layout = lay_out(circuit)
    ends = layout.curves[:, [0, -1], 0]
    assert len(np.unique(ends[:, 0])) == len(np.unique(ends[:, 1])) == 3
    look = score_look(circuit, layout)
    assert len({style.colour for style in look.styles}) == 3
    assert [entry[0] for entry in look.legend][:3] == list(WIRING.spans)
    for path in (tmp_path / "circuit.svg", tmp_path / "circuit.pdf"):
        draw_circuit(circuit, path)
        assert path.stat().st_size > 1000


def test_the_heat_map_by_span_is_drawn_of_circuits_of_spans_only(tmp_path: Path) -> None:
    circuit = results.circuit_of_spans()
    draw_spans(circuit, tmp_path / "spans.svg")
    heat = figure(circuit, "spans").data[0]
    np.testing.assert_allclose(heat.z, by_layer(circuit))
    for draw in (lambda: draw_spans(circuit.blind(), tmp_path / "no.svg"), None):
        with pytest.raises(OptionError, match="no spans apart"):
            draw() if draw else figure(circuit.blind(), "spans")
    assert not (tmp_path / "no.svg").exists()


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_discover_evaluate_compare_and_show_take_spans(tmp_path: Path, capsys) -> None:
    ask = ("--model", "facts-gpt2", "--relation", "country_capital", "--n-pairs", "8")
    usual = ("--no-roles", "--resamples", "0", "--random", "1", "--edges", "60", "--steps", "2")
    found = run_json(
        capsys, "discover", *ask, *usual, "--spans", "auto", "--out", str(tmp_path / "a")
    )
    assert found["spans"] == "auto"
    assert found["edges_in_model"] == 4 * 6637
    assert [row["span"] for row in found["by_span"]] == ["subject", "relation", "last", "others"]
    assert sum(row["edges"] for row in found["by_span"]) == found["edges"]
    assert all("@" in row["edge"] for row in found["strongest_edges"])
    assert not (tmp_path / "a" / "circuit.json").exists()
    path = tmp_path / "a" / "circuit.kc.safetensors"
    again = run_json(capsys, "evaluate", str(path), *ask, "--random", "1")
    assert again["faithfulness"] > 0.7
    run_json(capsys, "discover", *ask, *usual, "--spans", "subject", "--out", str(tmp_path / "b"))
    other = tmp_path / "b" / "circuit.kc.safetensors"
    assert Circuit.load(other).wiring.spans == ("subject", "last", "others")
    both = run_json(capsys, "compare", "--before", str(path), "--after", str(path))
    assert both["comparison"]["jaccard"] == 1.0
    spans = [mass["group"] for mass in both["comparison"]["by_span"]]
    assert spans == ["subject", "relation", "last", "others"]
    assert run_json(capsys, "show", str(path))["geometry"]
    assert main(["compare", "--before", str(path), "--after", str(other)]) == 2
    assert main(["export", str(path), "--to", "eap-ig"]) == 2
    assert "no place for the spans" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "acdc", "--spans", "auto"), "--spans"),
        (("--spans", "a,,b"), "a span's name is a word"),
    ],
)
def test_refusals_are_one_line_and_leave_no_file(arguments, said, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    ask = ("discover", "--model", "facts-gpt2", "--relation", "country_capital", "--out", str(out))
    assert main([*ask, *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not out.exists()
