"""Laws of exports and imports."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from circuits.base.choices import ExportFormat, KeyValue
from circuits.base.errors import FileFormatError, NumericalError
from circuits.files.drawings import escape_text, to_csv, to_dot, to_gexf, to_graphml
from circuits.files.exchange import export_circuit, grouped_edges, load_eap_ig, save_eap_ig
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.graph.select import top_n
from circuits.model.wiring import Wiring
from tests.circuit_strategies import TEXT, assert_identical, circuits, wirings

LAW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def unescape_text(text: str) -> str:
    """The inverse of `escape_text`."""
    escaped = re.compile(r"\\(?:\\|u([0-9a-f]{4}))")
    return escaped.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "circuit.json"


def scored_circuit(wiring: Wiring, n: int = 12) -> Circuit:
    values = np.random.default_rng(0).standard_normal(wiring.n_edges).astype(np.float32)
    return top_n(EdgeScores(wiring, values), n)


def refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileFormatError) as caught:
        load_eap_ig(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def foreign(**edges: Any) -> dict[str, Any]:
    """A small file as EAP-IG writes it."""
    cfg = {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    named = {name.replace("_to_", "->"): info for name, info in edges.items()}
    plain = {"input->m0": {"score": 0.5, "in_graph": True}}
    return {"cfg": cfg, "nodes": {"input": {"in_graph": True}}, "edges": plain | named}


# --- EAP-IG's JSON -------------------------------------------------------------------------------


@LAW
@given(circuit=circuits())
def test_import_of_an_export_is_identity(circuit: Circuit, path: Path) -> None:
    save_eap_ig(circuit, path)
    assert_identical(load_eap_ig(path), circuit)


@LAW
@given(wiring=wirings(2))
def test_grouped_edges_are_where_their_names_say(wiring: Wiring) -> None:
    single, grouped = (wiring.with_kv(kv) for kv in (KeyValue.PER_QUERY_HEAD, KeyValue.GROUPED))
    places = grouped_edges(wiring)
    for edge in range(single.n_edges):
        source, _, destination = single.edge_name(edge).partition("->")
        shared_source, _, shared = grouped.edge_name(places[edge]).partition("->")
        assert shared_source == source
        assert destination.partition("<")[0] in grouped.heads_of(shared.partition("<")[0])
        assert destination.partition("<")[2] == shared.partition("<")[2]


def test_a_shared_key_is_written_once_a_query_head_and_the_parts_sum_to_its_score(
    path: Path,
) -> None:
    circuit = scored_circuit(Wiring(1, 6, 2))
    save_eap_ig(circuit, path)
    document = json.loads(path.read_text())
    edges = document["edges"]
    assert len(edges) == circuit.wiring.with_kv(KeyValue.PER_QUERY_HEAD).n_edges
    names = [f"input->a0.h{head}<k>" for head in (3, 4, 5)]
    assert circuit.scores is not None
    whole = circuit.scores["input->a0.kv1<k>"]
    assert sum(edges[name]["score"] for name in names) == pytest.approx(whole)
    single = {key: value for key, value in document.items() if key != "kc"}
    path.write_text(json.dumps(single))
    assert load_eap_ig(path).wiring == Wiring(1, 6, 6, KeyValue.PER_QUERY_HEAD)
    read = load_eap_ig(path, n_kv_heads=2).scores
    assert read is not None
    np.testing.assert_allclose(read.grouped().values, circuit.scores.values, rtol=1e-6)


def test_the_file_has_what_eap_ig_reads(path: Path) -> None:
    circuit = scored_circuit(Wiring(2, 2, 2))
    save_eap_ig(replace(circuit, provenance={**circuit.provenance, "d_model": 16}), path)
    document = json.loads(path.read_text())
    assert document["cfg"] == {
        "n_layers": 2,
        "n_heads": 2,
        "parallel_attn_mlp": False,
        "d_model": 16,
    }
    assert list(document["nodes"]) == [*circuit.wiring.src_names, "logits"]
    names = [circuit.wiring.edge_name(edge) for edge in range(circuit.wiring.n_edges)]
    assert list(document["edges"]) == names
    for edge, info in enumerate(document["edges"].values()):
        assert info["in_graph"] is bool(circuit.kept[edge])
        assert circuit.scores is not None
        assert np.float32(info["score"]) == circuit.scores.values[edge]


def test_a_node_is_in_the_graph_when_edges_go_in_and_out(path: Path) -> None:
    wiring = Wiring(1, 2, 2)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    for name in ("input->a0.h0<v>", "a0.h0->logits", "a0.h1->logits", "input->m0"):
        kept[wiring.edge_index(name)] = True
    save_eap_ig(Circuit(wiring, kept), path)
    nodes = json.loads(path.read_text())["nodes"]
    flags = {name: info["in_graph"] for name, info in nodes.items()}
    assert flags == {"input": True, "a0.h0": True, "a0.h1": False, "m0": False, "logits": True}


def test_above_the_limit_only_kept_edges_are_written_unless_all_are_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuits.files.exchange.FULL_LIMIT", 100)
    circuit = scored_circuit(Wiring(3, 4, 2))
    save_eap_ig(circuit, path)
    names = set(json.loads(path.read_text())["edges"])
    places = grouped_edges(circuit.wiring)
    assert len(names) == int(circuit.kept[places].sum())
    read = load_eap_ig(path)
    assert read == circuit
    assert read.scores is not None
    assert circuit.scores is not None
    np.testing.assert_array_equal(read.scores.values[read.kept], circuit.scores.values[read.kept])
    assert not read.scores.values[~read.kept].any()
    save_eap_ig(circuit, path, full=True)
    assert_identical(load_eap_ig(path), circuit)


def test_a_file_from_eap_ig_is_read_per_query_head(path: Path) -> None:
    more = {"m0_to_logits": {"score": -0.25, "in_graph": False}}
    path.write_text(json.dumps(foreign(**more)))
    circuit = load_eap_ig(path)
    assert circuit.wiring == Wiring(1, 2, 2, KeyValue.PER_QUERY_HEAD)
    assert circuit.edge_names() == ["input->m0"]
    assert circuit.scores is not None
    assert circuit.scores["input->m0"] == 0.5
    assert circuit.scores["m0->logits"] == -0.25
    assert circuit.scores["input->logits"] == 0.0


def test_a_file_without_scores_gives_a_circuit_without_scores(path: Path) -> None:
    document = foreign(input_to_m0={"score": None, "in_graph": True})
    document["nodes"] = {"input": True, "m0": True}  # as earlier versions of EAP-IG have it
    path.write_text(json.dumps(document))
    circuit = load_eap_ig(path)
    assert circuit.scores is None
    assert circuit.n_edges == 1


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ({"m9_to_logits": {"score": 1, "in_graph": True}}, "m9->logits"),
        ({"m0_to_m0": {"score": 1, "in_graph": True}}, "points down"),
        ({"nonsense": {"score": 1, "in_graph": True}}, "nonsense"),
        ({"m0_to_logits": {"score": "high", "in_graph": True}}, "a number belongs"),
        ({"m0_to_logits": {"score": True, "in_graph": True}}, "True"),
        ({"m0_to_logits": {"score": -1e300, "in_graph": True}}, "single-precision"),
        ({"m0_to_logits": {"score": 1}}, "in_graph"),
        ({"m0_to_logits": {"score": 1, "in_graph": 1}}, "in_graph"),
        ({"m0_to_logits": 3}, "in_graph"),
    ],
)
def test_a_bad_edge_is_refused_with_its_line(edge: Any, words: str, path: Path) -> None:
    text = json.dumps(foreign(**edge), indent=0)
    message = refusal(path, text)
    assert words in message
    name = next(iter(edge)).replace("_to_", "->")
    line = next(n for n, row in enumerate(text.split("\n"), 1) if f'"{name}"' in row)
    assert message.startswith(f":{line}: ")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_know_are_refused_with_their_line(
    constant: str, path: Path
) -> None:
    text = json.dumps(foreign(), indent=0).replace("0.5", constant)
    line = text.split("\n").index(f'"score": {constant},') + 1
    assert refusal(path, text).startswith(f":{line}: holds {constant}")


def test_a_number_beyond_all_numbers_is_refused(path: Path) -> None:
    text = json.dumps(foreign())
    assert "infinite" in refusal(path, text.replace("0.5", "1e999"))
    assert "out of range" in refusal(path, text.replace("0.5", "9" * 400))
    assert "not usable JSON" in refusal(path, text.replace("0.5", "9" * 5000))


def test_an_edge_named_twice_is_refused_with_its_second_line(path: Path) -> None:
    row = '"input->m0": {"score": 0.5, "in_graph": true}'
    text = json.dumps(foreign()).replace(row, f"{row},\n{row}")
    assert refusal(path, text) == ":2: 'input->m0' occurs twice"


@pytest.mark.parametrize(
    "cfg",
    [
        {"n_layers": 10**9},
        {"n_heads": 10**9},
        {"n_layers": 0},
        {"n_layers": None},
        {"n_layers": True},
        {"n_layers": 1.0},
        {"n_heads": -1},
        {"n_heads": "2"},
        {"parallel_attn_mlp": "yes"},
    ],
)
def test_a_wrong_configuration_is_refused(cfg: dict[str, Any], path: Path) -> None:
    document = foreign()
    document["cfg"].update(cfg)
    refusal(path, json.dumps(document))


@pytest.mark.parametrize(
    "own",
    [
        {"schema": 99},
        {"kv": "other"},
        {"n_kv_heads": 3},
        {"n_kv_heads": None},
        {"roles": {"m0": 1}},
        {"provenance": []},
        {"columns": {"x": "O"}},
        {"columns": {"x": "nonsense"}},
        {"columns": {"x": "<f4"}},
        {"columns": 3},
    ],
)
def test_a_malformed_key_of_our_own_is_refused(own: dict[str, Any], path: Path) -> None:
    whole = {"schema": 1, "n_kv_heads": 1, "kv": "grouped", "scored": True, "columns": {}}
    refusal(path, json.dumps(foreign() | {"kc": whole | own}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ('{"cfg": {}}', "'nodes'"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "UTF-8"),
        ('{"cfg": 1, "nodes": {}, "edges": {}}', "'cfg'"),
    ],
)
def test_what_is_no_circuit_is_refused(text: str | bytes, words: str, path: Path) -> None:
    assert words in refusal(path, text)


def test_an_unknown_node_is_refused(path: Path) -> None:
    assert "a7.h0" in refusal(path, json.dumps(foreign() | {"nodes": {"a7.h0": {}}}))


def test_a_missing_file_and_one_above_the_size_cap_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        load_eap_ig(path)
    monkeypatch.setattr("circuits.files.exchange.MAX_JSON_BYTES", 10)
    path.write_text(json.dumps(foreign()))
    with pytest.raises(FileFormatError, match="at most"):
        load_eap_ig(path)


def test_a_score_that_is_no_number_is_not_written(path: Path) -> None:
    wiring = Wiring(1, 2, 2)
    values = np.zeros(wiring.n_edges)
    values[wiring.edge_index("input->m0")] = np.nan
    with pytest.raises(NumericalError, match="input->m0"):
        save_eap_ig(Circuit.full(wiring, EdgeScores(wiring, values)), path)
    assert not path.exists()


def test_truncated_files_are_refused_wherever_they_end(path: Path) -> None:
    save_eap_ig(scored_circuit(Wiring(1, 1, 1), 2), path)
    text = path.read_text().rstrip()
    for length in range(0, len(text), 5):
        refusal(path, text[:length])


# --- graph formats -------------------------------------------------------------------------------


@LAW
@given(text=TEXT)
def test_escaped_text_is_printable_to_xml_and_comes_back(text: str) -> None:
    escaped = escape_text(text)
    assert unescape_text(escaped) == text
    assert not re.search("[\x00-\x1f\ud800-\udfff]", escaped)


def assert_read_back(graph: Any, circuit: Circuit) -> None:
    """A graph that networkx read has the circuit's nodes, edges, roles, scores and columns."""
    assert graph.is_directed()
    assert list(graph.nodes) == circuit.nodes()
    for node, data in graph.nodes(data=True):
        assert data["label"] == node
        assert unescape_text(data["role"]) == circuit.roles.get(node, "")
        assert data["kind"] in ("input", "head", "kv", "mlp", "logits")
        assert isinstance(data["layer"], int)
    edges = {data["label"]: data for *_, data in graph.edges(data=True) if data["kind"] == "edge"}
    assert set(edges) == set(circuit.edge_names())
    for source, destination, data in graph.edges(data=True):
        assert data["label"].startswith(f"{source}->{destination}")
        assert data["weight"] >= 0
    for name, data in edges.items():
        edge = circuit.wiring.edge_index(name)
        for column, values in circuit.columns.items():
            assert data[f"column.{escape_text(column)}"] == float(values[edge])
        if circuit.scores is None:
            assert "score" not in data
        else:
            assert data["score"] == float(circuit.scores.values[edge])
            assert data["weight"] == abs(data["score"])


@LAW
@given(circuit=circuits())
def test_networkx_reads_back_graphml(circuit: Circuit) -> None:
    graph = nx.read_graphml(io.BytesIO(to_graphml(circuit)), force_multigraph=True)
    assert_read_back(graph, circuit)
    assert json.loads(unescape_text(graph.graph["provenance"])) == circuit.provenance


@LAW
@given(circuit=circuits())
def test_networkx_reads_back_gexf(circuit: Circuit) -> None:
    assert_read_back(nx.read_gexf(io.BytesIO(to_gexf(circuit))), circuit)


@LAW
@given(circuit=circuits())
def test_networkx_reads_back_node_link_json(circuit: Circuit, path: Path) -> None:
    export_circuit(circuit, path, ExportFormat.NODE_LINK)
    graph = nx.node_link_graph(json.loads(path.read_text()), edges="edges")
    assert_read_back(graph, circuit)


@LAW
@given(circuit=circuits())
def test_csv_has_one_row_a_kept_edge(circuit: Circuit) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(circuit))))
    assert [row["edge"] for row in rows] == circuit.edge_names()
    for row, edge in zip(rows, circuit.edges(), strict=True):
        assert unescape_text(row["source_role"]) == circuit.roles.get(row["source"], "")
        assert float(row["weight"]) >= 0
        if circuit.scores is not None:
            assert float(row["score"]) == float(circuit.scores.values[edge])
        for column, values in circuit.columns.items():
            assert float(row[f"column.{escape_text(column)}"]) == float(values[edge])


STRING = r'"(?:[^"\\\n]|\\["\\n])*"'
FIELDS = rf"\[{STRING}={STRING}(?:, {STRING}={STRING})*\]"
DOT_LINE = {
    "head": r"digraph circuit \{",
    "setting": r"  (?:rankdir=BT|node \[shape=box\]);",
    "node": rf"  ({STRING}) ({FIELDS});",
    "rank": rf"  \{{ rank=same; ({STRING}(?:; {STRING})*); \}}",
    "edge": rf"  ({STRING}) -> ({STRING}) ({FIELDS});",
    "end": r"\}",
}


def dot_lines(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Kind and parts of each line of a DOT file; fails on a line of no kind."""
    assert text.endswith("}\n")
    parsed = []
    for line in text[:-1].split("\n"):
        found = {kind: re.fullmatch(pattern, line) for kind, pattern in DOT_LINE.items()}
        kind = next((kind for kind, match in found.items() if match), None)
        assert kind is not None, line
        parsed.append((kind, found[kind].groups()))  # type: ignore[union-attr]
    return parsed


@LAW
@given(circuit=circuits())
def test_dot_is_well_formed_whatever_the_names(circuit: Circuit) -> None:
    lines = dot_lines(to_dot(circuit))
    assert [kind for kind, _ in lines].count("head") == 1
    assert [kind for kind, _ in lines].count("end") == 1
    nodes = [json.loads(parts[0]) for kind, parts in lines if kind == "node"]
    assert nodes == circuit.nodes()
    ends = [
        (json.loads(a), json.loads(b))
        for kind, (a, b, *_) in ((kind, (*parts, "", "")) for kind, parts in lines)
        if kind == "edge"
    ]
    assert len(ends) == circuit.to_networkx().number_of_edges()
    for kind, parts in lines:
        if kind == "node":
            role = circuit.roles.get(json.loads(parts[0]), "")
            fields = dict(re.findall(rf"({STRING})=({STRING})", parts[1]))
            shown = fields['"role"'][1:-1].replace('\\"', '"').replace("\\\\", "\\")
            assert unescape_text(shown) == role


def test_dot_puts_each_layer_on_its_ranks() -> None:
    circuit = Circuit.full(Wiring(2, 4, 2))
    ranks = [parts[0] for kind, parts in dot_lines(to_dot(circuit)) if kind == "rank"]
    levels = [re.sub('"', "", rank).split("; ") for rank in ranks]
    heads = [[f"a{n}.h{h}" for h in range(4)] + [f"a{n}.kv{k}" for k in range(2)] for n in (0, 1)]
    assert levels == [["input"], heads[0], ["m0"], heads[1], ["m1"], ["logits"]]


@pytest.mark.parametrize("form", ExportFormat)
def test_every_format_is_written_whole_also_for_the_empty_circuit(
    form: ExportFormat, tmp_path: Path
) -> None:
    wiring = Wiring(2, 4, 2)
    for name, circuit in {"empty": Circuit.empty(wiring), "some": scored_circuit(wiring)}.items():
        export_circuit(circuit, tmp_path / name, form)
        assert (tmp_path / name).stat().st_size > 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "some"]


def test_the_sign_of_another_tools_scores_is_stated_and_never_assumed(tmp_path: Path):
    path = tmp_path / "circuit.json"
    ours = scored_circuit(Wiring(2, 4, 2))
    save_eap_ig(ours, path)
    assert "sign" not in load_eap_ig(path).provenance
    document = json.loads(path.read_text())
    del document["kc"]
    path.write_text(json.dumps(document))
    unknown = load_eap_ig(path)
    supports, opposes = (load_eap_ig(path, sign=sign) for sign in ("supports", "opposes"))
    assert unknown.provenance["sign"] == "unknown"
    assert "sign" not in supports.provenance | opposes.provenance
    assert np.array_equal(supports.scores.values, unknown.scores.values)
    assert np.array_equal(opposes.scores.values, -unknown.scores.values)
