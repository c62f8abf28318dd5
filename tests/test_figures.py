"""`kc figures`: what is stored is drawn again, without a model, and says where it comes from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from circuits.base.arrays import kind_of, load_arrays, save_arrays
from circuits.base.choices import FigureKind
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.intervals import UNDEFINED, Interval
from circuits.files.kinds import KINDS
from circuits.graph.circuit import Circuit
from circuits.graph.curve import FaithfulnessCurves
from experiments.cli import drawing as figures
from experiments.cli.main import main
from locate.heads.heads_on_prompts import HeadsOnPrompts
from locate.heads.prompt_heads import heads_of, read_prompt
from locate.heads.role_report import RoleReport
from locate.heads.roles import head_roles
from locate.states.lens_result import LensResult
from locate.states.trace_result import Trace
from tests import results
from tests.test_cli import refusal, run_json, write_lines
from viz import theme
from viz.paper.layers import count_layers

SVG = "{http://www.w3.org/2000/svg}"


def write_lens(path: Path) -> None:
    save_arrays(path, "lens", results.lens().arrays(), results.lens().metadata())


def write_trace(path: Path) -> None:
    save_arrays(path, "trace", results.trace().arrays(), results.trace().metadata())


def write_average_trace(path: Path) -> None:
    found = results.average_trace()
    save_arrays(path, "average trace", found.arrays(), found.metadata())


def write_average_lens(path: Path) -> None:
    found = results.average_lens()
    save_arrays(path, "average lens", found.arrays(), found.metadata())


WRITERS: dict[str, Callable[[Path], None]] = {
    "circuit": lambda path: results.circuit().save(path),
    "spans": lambda path: results.circuit_of_spans().save(path),
    "comparison": lambda path: results.comparison().save(path),
    "rewiring": lambda path: results.rewiring().save(path),
    "curve": lambda path: FaithfulnessCurves(
        {"eap-ig": results.curve(), "random": results.curve()}, results.ORIGIN
    ).save(path),
    "heads": lambda path: HeadsOnPrompts((results.prompt_heads(),) * 2).save(path),
    "lens": write_lens,
    "average_lens": write_average_lens,
    "trace": write_trace,
    "average_trace": write_average_trace,
}
DRAWN = {
    "circuit",
    "circuit-layers",
    "spans",
    "spans-circuit",
    "spans-layers",
    "comparison-difference",
    "rewiring-objects",
    "curve-faithfulness",
    "heads-attention",
    "heads-attention-2",
    "heads-tokens",
    "heads-tokens-2",
    "lens",
    "average_lens-lens",
    "trace",
    "average_trace-trace",
}
"""What a folder with one file of every kind gives; the rewiring's comparison is there already."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    for name, write in WRITERS.items():
        write(folder / f"{name}.kc.safetensors")
    return folder


@pytest.fixture(scope="module")
def drawn(
    stored: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str | None], Path]:
    """All figures in a format and width, drawn once."""

    @cache
    def draw(format_: str, width: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("drawn")
        options = ["--format", format_, *(["--width", width] if width else [])]
        assert main(["figures", str(stored), *options, "--out", str(folder)]) == 0
        return folder

    return draw


def drawn_names(folder: Path, suffix: str) -> set[str]:
    return {path.name.removesuffix(suffix) for path in folder.iterdir()}


@pytest.mark.slow
def test_a_folder_gives_every_kind_of_figure(stored: Path, drawn):
    assert drawn_names(drawn("pdf"), ".pdf") == DRAWN
    planned = figures.plan(figures.find_stored([stored])[0])
    assert {each.kind for each in planned} == set(FigureKind)
    assert set(figures.WRITERS) == set(FigureKind)


def pdf_text(data: bytes) -> bytes:
    """The file with its compressed streams opened."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    opened = []
    for stream in streams:
        try:
            opened.append(zlib.decompress(stream))
        except zlib.error:
            opened.append(stream)
    return data + b"".join(opened)


def test_a_pdf_embeds_its_fonts_holds_no_bitmap_and_says_where_it_comes_from(drawn):
    for path in sorted(drawn("pdf").iterdir()):
        text = pdf_text(path.read_bytes())
        assert b"/FontFile2" in text, path.name  # TrueType, embedded
        assert b"/Type3" not in text, path.name
        assert b"/Subtype /Image" not in text, path.name  # vectors throughout
        assert b"/Subject" in text, path.name
        assert b"CreationDate" not in text, path.name


@pytest.mark.parametrize("format_", ["svg", "png"])
def test_the_origin_is_in_the_files_metadata(
    format_: str, stored: Path, drawn, tmp_path: Path, capsys
):
    paths = list(drawn("svg", "single").iterdir())
    if format_ == "png":
        found = run_json(
            capsys,
            "figures",
            str(stored / "heads.kc.safetensors"),
            "--format",
            "png",
            "--out",
            str(tmp_path),
        )
        assert sorted(found["files"]) == sorted(str(path) for path in tmp_path.iterdir())
        paths = list(tmp_path.iterdir())
    for path in paths:
        if format_ == "svg":
            root = ET.parse(path).getroot()
            [note] = [each.text for each in root.iter() if each.tag.endswith("description")]
        else:
            from PIL import Image

            note = Image.open(path).text["Description"]
        assert json.loads(note)["model"] == results.HOSTILE, path.name


@pytest.mark.parametrize("inches", [3.3, 5.0])
def test_every_figure_has_the_width_asked_for(
    inches: float, stored: Path, drawn, tmp_path: Path, capsys
):
    folder = drawn("svg", "single")
    if inches != theme.SINGLE_COLUMN:
        folder, options = tmp_path, ["--width", str(inches), "--kind", "layers", "--kind", "lens"]
        run_json(
            capsys, "figures", str(stored), *options, "--format", "svg", "--out", str(tmp_path)
        )
    for path in folder.iterdir():
        width = ET.parse(path).getroot().get("width")
        assert float(width.removesuffix("pt")) == pytest.approx(72 * inches), path.name


def test_kinds_heads_edges_and_titles_are_as_asked(stored: Path, tmp_path: Path, capsys):
    heads = ["--kind", "attention", "--kind", "tokens", "--head", "a1.h1", "--format", "svg"]
    run_json(capsys, "figures", str(stored), *heads, "--out", str(tmp_path / "heads"))
    names = {"heads-attention", "heads-attention-2", "heads-tokens", "heads-tokens-2"}
    assert drawn_names(tmp_path / "heads", ".svg") == names
    path = stored / "circuit.kc.safetensors"
    sizes = {}
    for n_edges in (3, 15):
        out = tmp_path / str(n_edges)
        options = ["--kind", "circuit", "--edges", str(n_edges), "--format", "svg", "--titles"]
        run_json(capsys, "figures", str(path), *options, "--out", str(out))
        root = ET.parse(out / "circuit.svg").getroot()
        sizes[n_edges] = len(list(root.iter(f"{SVG}path")))
        titles = [each.text for each in root.iter() if each.tag.endswith("title")]
        assert any(" in " in title for title in titles)
    assert sizes[3] < sizes[15]


def test_figures_land_beside_the_results_unless_told_otherwise(tmp_path: Path, capsys):
    path = tmp_path / "circuit.kc.safetensors"
    results.circuit().save(path)
    found = run_json(capsys, "figures", str(path), "--kind", "layers")
    assert found["files"] == [str(tmp_path / "figures" / "circuit-layers.pdf")]
    assert (tmp_path / "figures" / "circuit-layers.pdf").is_file()


def test_of_two_folders_equal_names_are_told_apart(tmp_path: Path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.circuit().save(tmp_path / name / "circuit.kc.safetensors")
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    out = tmp_path / "out"
    run_json(capsys, "figures", *folders, "--kind", "layers", "--out", str(out))
    assert drawn_names(out, ".pdf") == {"one-circuit-layers", "two-circuit-layers"}


def test_a_damaged_file_is_left_out_of_a_folder_with_a_word(tmp_path: Path, capsys):
    results.circuit().save(tmp_path / "circuit.kc.safetensors")
    (tmp_path / "broken.kc.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    assert main(["figures", str(tmp_path), "--kind", "layers", "--json"]) == 0
    captured = capsys.readouterr()
    assert "left out" in captured.err
    assert "broken.kc.safetensors" in captured.err
    [reason] = json.loads(captured.out)["left_out"]
    assert "is damaged" in reason


def test_an_altered_file_draws_nothing_at_all(tmp_path: Path, capsys):
    results.circuit().save(tmp_path / "a.kc.safetensors")
    path = tmp_path / "b.kc.safetensors"
    results.circuit().save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "does not match its hash" in refusal(capsys, "figures", str(tmp_path))
    assert not (tmp_path / "figures").exists()


def test_where_nothing_can_be_drawn_one_line_says_why(tmp_path: Path, stored: Path, capsys):
    assert "no stored result" in refusal(capsys, "figures", str(tmp_path))
    edit = tmp_path / "edit"
    results.delta().save(edit / "edit.kc.safetensors")
    assert "kc compare --edit" in refusal(capsys, "figures", str(edit))
    path = stored / "circuit.kc.safetensors"
    message = refusal(capsys, "figures", str(path), "--kind", "trace")
    assert "only circuit, layers" in message
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.kc.safetensors").write_bytes(b"")
    assert "is empty" in refusal(capsys, "figures", str(tmp_path / "broken"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a folder of results"),
        (["no-such-folder"], "no such file or folder"),
        (["README.md"], "is no stored result"),
        (["{stored}", "--width", "wide"], "neither single, double nor"),
        (["{stored}", "--width", "99"], "not between 2 and 20"),
        (["{stored}", "--width", "nan"], "not between 2 and 20"),
        (["{stored}", "--kind", "attention", "--head", "a9.h9"], "was not read"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], expected: str, stored: Path, capsys):
    told = [each.format(stored=stored) for each in arguments]
    assert expected in refusal(capsys, "figures", *told)
    assert not (stored / "figures").exists()


def test_the_list_says_what_can_be_drawn_and_draws_nothing(stored: Path, capsys):
    found = run_json(capsys, "figures", "--list")
    assert [row["kind"] for row in found["kinds"]] == [str(kind) for kind in FigureKind]
    found = run_json(capsys, "figures", str(stored), "--list")
    assert {row["kind"] for row in found["figures"]} == {str(kind) for kind in FigureKind}
    assert not (stored / "figures").exists()


def test_a_figure_loads_no_model(stored: Path, tmp_path: Path):
    code = f"""
import sys
from experiments.cli.main import main
only = ["--kind", "layers", "--kind", "objects", "--kind", "tokens", "--kind", "lens"]
assert main(["figures", {str(stored)!r}, *only, "--out", {str(tmp_path)!r}]) == 0
loaded = {{"transformer_lens.model_bridge", "transformers.modeling_utils", "dash"}}
assert not loaded & set(sys.modules), loaded & set(sys.modules)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


FACTS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Norway": "Oslo"}
SAID = ["The capital of France is", "--subject", "France", "--answer", "Paris"]
ABOUT = ["--facts", "{facts}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        (
            ["discover", *ABOUT, "--curve", "--resamples", "0", "--random", "0", "--edges", "60"],
            {"circuit", "layers", "faithfulness", "attention", "tokens"},
        ),
        (["roles", *ABOUT], {"attention", "tokens"}),
        (["lens", *SAID], {"lens"}),
        (["trace", *SAID, "--samples", "1"], {"trace"}),
    ],
    ids=["discover", "roles", "lens", "trace"],
)
def test_what_a_command_stores_is_enough_for_its_figures(arguments, kinds, tmp_path: Path, capsys):
    lines = [
        {"subject": s, "object": o, "relation": "capital", "prompt": "The capital of {} is"}
        for s, o in FACTS.items()
    ]
    facts = write_lines(tmp_path / "facts.jsonl", lines)
    out = tmp_path / "out"
    told = [each.format(facts=facts) for each in arguments]
    run_json(capsys, *told, "--model", "facts-gpt2", "--out", str(out))
    listed = run_json(capsys, "figures", str(out), "--list")["figures"]
    assert {row["kind"] for row in listed} == kinds
    found = run_json(capsys, "figures", str(out), "--format", "svg")
    assert len(found["files"]) >= len(kinds)
    for path in found["files"]:
        assert "facts-gpt2" in Path(path).read_text(), path


# Files from which figures are drawn again


def test_what_a_file_holds_is_told_by_its_header(stored: Path):
    kinds = {kind_of(stored / f"{name}.kc.safetensors") for name in WRITERS}
    assert kinds == {name for name, kind in KINDS.items() if kind.figures}
    with pytest.raises(FileFormatError, match="no such file"):
        kind_of(stored / "nothing.kc.safetensors")
    with pytest.raises(FileFormatError, match="not a regular file"):
        kind_of(stored)


def test_curves_come_back_as_they_were_stored_undefined_limits_included(tmp_path: Path):
    whole = results.curve()
    lone = type(whole)((0.5,), (3,), (Interval(0.2, np.nan, np.nan),), UNDEFINED, whole.distance)
    path = tmp_path / "c.kc.safetensors"
    FaithfulnessCurves({"eap-ig": whole, "random": lone}, {"seed": 3}).save(path)
    again = FaithfulnessCurves.load(path)
    curves, origin = again.curves, again.provenance
    assert list(curves) == ["eap-ig", "random"]
    assert curves["eap-ig"] == whole
    assert str(curves["random"]) == str(lone)
    assert origin == {"seed": 3}


def test_a_lens_comes_back_as_it_was_stored(tmp_path: Path):
    found = results.lens()
    write_lens(tmp_path / "lens.kc.safetensors")
    again = LensResult.from_arrays(*load_arrays(tmp_path / "lens.kc.safetensors", "lens"))
    assert again.prompt == found.prompt
    assert again.rows() == found.rows()
    assert (again.best == found.best).all()
    assert again.provenance == found.provenance
    broken = found.metadata() | {"labels": {"only": 1}}
    with pytest.raises(OptionError, match="shapes do not fit"):
        LensResult.from_arrays(found.arrays(), broken)


def test_the_kinds_of_a_stored_trace_keep_their_order(tmp_path: Path):
    write_trace(tmp_path / "trace.kc.safetensors")
    again = Trace.from_arrays(*load_arrays(tmp_path / "trace.kc.safetensors", "trace"))
    assert again.kinds == results.trace().kinds


def test_heads_on_prompts_come_back_as_they_were_stored(model, pairs, tmp_path: Path):
    heads = [name for name in model.wiring().src_names if ".h" in name]
    found = read_prompt(model, pairs[0], heads, {heads[0]: "mover"})
    np.testing.assert_allclose(found.attention.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found.weighted.sum(1), 1, atol=1e-5)
    HeadsOnPrompts((found, found)).save(tmp_path / "heads.kc.safetensors")
    again = HeadsOnPrompts.load(tmp_path / "heads.kc.safetensors").prompts[1]
    assert (again.weighted == found.weighted).all()
    assert (again.attention == found.attention).all()
    for name in ("prompt", "tokens", "subject", "answer", "answer_token", "heads", "raised"):
        assert getattr(again, name) == getattr(found, name), name
    assert (again.lowered, again.roles) == (found.lowered, {heads[0]: "mover"})
    with pytest.raises(OptionError, match="has no head"):
        read_prompt(model, pairs[0], ["a99.h0"])


def test_attention_by_token_sums_to_the_attention_by_region(model, pairs):
    from locate.heads.attention import read_heads
    from locate.heads.readings import REGIONS, Region

    pair, n_heads = pairs[0], model.n_heads
    readings = read_heads(model, pairs[:2])
    found = read_prompt(model, pair, [f"a1.h{head}" for head in range(n_heads)])
    span, place = pair.subject, REGIONS.index(Region.SUBJECT)
    for by_token, by_region in (("attention", "attention"), ("weighted", "weighted")):
        own = getattr(found, by_token)[:, span.start : span.stop].sum(1)
        np.testing.assert_allclose(own, getattr(readings, by_region)[0, 1, :, place], atol=1e-5)


def test_a_role_report_comes_back_as_it_was_stored(model, pairs, tmp_path: Path):
    report = head_roles(model, pairs)
    report.save(tmp_path / "roles.kc.safetensors")
    again = RoleReport.load(tmp_path / "roles.kc.safetensors")
    assert again.as_dict() == report.as_dict()
    assert again.roles == report.roles
    assert again.readings.written == report.readings.written
    for name, values in report.arrays().items():
        assert (again.arrays()[name] == values).all()


@pytest.mark.parametrize("holds", [FaithfulnessCurves, HeadsOnPrompts, RoleReport])
def test_a_file_of_the_right_kind_with_the_wrong_content_is_refused(holds, tmp_path: Path):
    path = tmp_path / "odd.kc.safetensors"
    for content in ({}, {"curves": 3, "prompts": 3, "heads": 3}, {"curves": [{}]}):
        save_arrays(path, holds.KIND, {"x": np.zeros(2)}, content)
        with pytest.raises(FileFormatError, match=rf"odd.kc.safetensors: is no {holds.KIND}"):
            holds.load(path)


def test_the_heads_of_a_circuit_are_ordered_by_what_leaves_them():
    circuit = results.circuit()
    heads = heads_of(circuit)
    assert set(heads) == {node for node in circuit.nodes() if node.startswith("a")}
    mass = dict.fromkeys(heads, 0.0)
    for edge in circuit.edges():
        source = circuit.wiring.edge_name(edge).partition("->")[0]
        if source in mass:
            mass[source] += abs(float(circuit.scores.values[edge]))
    assert [mass[name] for name in heads] == sorted(mass.values(), reverse=True)


# What is counted


def test_the_histogram_counts_every_node_and_edge_once():
    circuit = results.circuit()
    counts = count_layers(circuit)
    assert counts.nodes.sum() == len(set(circuit.nodes()) - {"logits"})
    assert counts.edges.sum() == circuit.n_edges
    assert counts.mass.sum() == pytest.approx(np.abs(circuit.scores.values[circuit.kept]).sum())
    mover = counts.roles.index("mover")
    assert counts.nodes[mover].tolist() == [0, 0, 1]
    assert counts.edges[:, 0].sum() == sum(
        name.startswith("input") for name in circuit.edge_names()
    )


def test_a_circuit_without_scores_has_no_score_mass(tmp_path: Path, capsys):
    bare = Circuit(results.WIRING, results.circuit().kept)
    assert count_layers(bare).mass is None
    path = tmp_path / "bare.kc.safetensors"
    bare.save(path)
    assert Circuit.load(path) == bare
    found = run_json(capsys, "figures", str(path))
    assert len(found["files"]) == 2
