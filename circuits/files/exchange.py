"""Circuits for other tools: EAP-IG's JSON in both directions, graph formats outwards.

EAP-IG (Hanna et al. 2024; also MIB's format) names every edge `source->destination` and has a
query, key and value input a *query* head. A key or value that several query heads share is written
once for each of them, each with an equal part of the score, so that the parts sum to the whole as
`EdgeScores.grouped` has it. What EAP-IG does not know (grouping, roles, columns, provenance) goes
under the key `kc`, which its reader ignores; with it, reading gives back the circuit.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int

from circuits.base.arrays import ContentError, single_precision
from circuits.base.choices import ExportFormat, KeyValue, Sign
from circuits.base.display import paged
from circuits.base.errors import CircuitFileError, NumericalError, OptionError
from circuits.base.records import read_text
from circuits.base.writing import atomic_write, to_json
from circuits.files.drawings import to_csv, to_dot, to_gexf, to_graphml, to_node_link
from circuits.files.neuronpedia import to_neuronpedia
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.geometry import checked_wiring
from circuits.model.wiring import Wiring

FULL_LIMIT = 250_000
MAX_JSON_BYTES = 10**9
SCHEMA_VERSION = 1
LARGEST = float(np.finfo(np.float32).max)
"""Scores are in single precision; a larger one would become infinite."""


def export_circuit(circuit: Circuit, path: str | Path, format: ExportFormat | str) -> None:
    """Write a circuit's kept subgraph (EAP-IG: `save_eap_ig`) for another tool, or as a page."""
    format = ExportFormat.of(format)
    if format == ExportFormat.EAP_IG:
        save_eap_ig(circuit, path)
        return
    if format == ExportFormat.HTML:
        paged(circuit, path)
        return
    writers: dict[ExportFormat, Callable[[Circuit], bytes | str]] = {
        ExportFormat.GRAPHML: to_graphml,
        ExportFormat.GEXF: to_gexf,
        ExportFormat.DOT: to_dot,
        ExportFormat.CSV: to_csv,
        ExportFormat.NODE_LINK: to_node_link,
        ExportFormat.NEURONPEDIA: to_neuronpedia,
    }
    atomic_write(path, writers[format](circuit))


def save_eap_ig(circuit: Circuit, path: str | Path, full: bool = False) -> None:
    """Write EAP-IG's JSON, one edge a line.

    All edges are written where there are at most 250,000 of them or `full` asks for it, else the
    kept ones; EAP-IG takes an absent edge as one of score 0 outside the circuit. Scores are in
    single precision. `d_model` is the provenance's, as readers lay out single neurons by it; 0
    where it is not known.
    """
    try:
        text = "".join(_lines(circuit, full))
    except NumericalError as error:
        raise NumericalError(f"{path}: not written: {error}") from None
    atomic_write(path, text)


def load_eap_ig(
    path: str | Path, n_kv_heads: int | None = None, sign: Sign | str = Sign.UNKNOWN
) -> Circuit:
    """Read EAP-IG's JSON, from this project or another; an edge that is absent is not kept.

    The tools of the field differ in what a positive score means. A file of this project says it
    itself; of another's, `sign` says it: scores that oppose are turned round, and where it is
    unknown the provenance says so ("sign"), with the scores as they stand in the file.

    Without our key `kc`, keys and values are one a query head, and `n_kv_heads` tells what the file
    does not: how many key-value heads the model has (None: as many as heads). Of `nodes` only the
    names are looked at, as EAP-IG itself runs what its edges say. CircuitFileError (FileFormatError
    where the file cannot be read as text) names the line.
    """
    sign = Sign.of(sign)
    text = read_text(path, MAX_JSON_BYTES)
    document = _parse(text, path)
    try:
        for key in ("cfg", "nodes", "edges"):
            if not isinstance(document.get(key), dict):
                raise ContentError(f"is no EAP-IG circuit: it lacks the object {key!r}")
        own = document.get("kc", {})
        wiring = _wiring(document["cfg"], own, n_kv_heads)
        known = {*wiring.src_names, "logits"}
        for name in document["nodes"]:
            if name not in known:
                raise ContentError(f"unknown node {name!r:.60} for {wiring.describe()}")
        columns = _column_types(own)
    except ContentError as reason:
        raise CircuitFileError(path, str(reason)) from None
    edges = _read_edges(document["edges"], wiring, columns, path, text)
    circuit = _assemble(edges, wiring, own)
    return circuit if own else signed(circuit, sign)


def signed(circuit: Circuit, sign: Sign | str) -> Circuit:
    """The circuit with positive scores that support the answer, or a word that nobody knows.

    `sign` is what they say as they stand; those that oppose are turned round.
    """
    sign = Sign.of(sign)
    scores = circuit.scores
    if scores is not None and sign == Sign.OPPOSES:
        scores = replace(scores, values=-scores.values)
    origin = {name: value for name, value in circuit.provenance.items() if name != "sign"}
    record = {"sign": str(sign)} if sign == Sign.UNKNOWN else {}
    return replace(circuit, scores=scores, provenance=origin | record)


def grouped_edges(wiring: Wiring) -> Int[np.ndarray, " edge"]:
    """For each edge of the per-query-head wiring, the edge of the grouped wiring that holds it."""
    single = wiring.with_kv(KeyValue.PER_QUERY_HEAD)
    grouped = wiring.with_kv(KeyValue.GROUPED)
    size = grouped.queries_per_key
    shared = np.arange(grouped.n_key_inputs).repeat(size)
    layer = np.concatenate(
        [
            np.arange(grouped.n_heads),
            grouped.n_heads + shared,
            grouped.n_heads + grouped.n_key_inputs + shared,
            [grouped.n_attn],
        ]
    )
    starts = np.array([grouped.attn_dst(number) for number in range(grouped.n_layers)])
    dst = np.append((starts[:, None] + layer).ravel(), grouped.logits_dst)
    first = np.cumsum(grouped.n_sources_of_dst) - grouped.n_sources_of_dst
    return first[dst][single.edge_dst] + single.edge_src


def per_query_head(circuit: Circuit) -> Circuit:
    """The circuit with one key and value input a query head, as EAP-IG and MIB count edges.

    A shared input's score goes to its query heads in equal parts, in double precision, so that the
    parts sum to it; what else an edge has each of its parts has too. OptionError where spans are
    told apart, of which those formats know nothing.
    """
    if circuit.wiring.spans:
        raise OptionError(
            "EAP-IG's and MIB's files have no place for the spans that this circuit tells apart; "
            "`circuit.blind()` is the circuit without them, with the sums of its scores"
        )
    old, new = circuit.wiring, circuit.wiring.with_kv(KeyValue.PER_QUERY_HEAD)
    origin = grouped_edges(old) if old.is_grouped else np.arange(new.n_edges)
    scores = circuit.scores
    if scores is not None:
        whole = single_precision(scores.values).astype(np.float64)
        parts = (whole / np.bincount(origin, minlength=old.n_edges))[origin]
        scores = EdgeScores(new, parts, provenance=scores.provenance)
    columns = {name: column[origin] for name, column in circuit.columns.items()}
    return replace(circuit, wiring=new, kept=circuit.kept[origin], scores=scores, columns=columns)


def _lines(circuit: Circuit, full: bool) -> Iterator[str]:
    single = per_query_head(circuit)
    wiring, kept = single.wiring, single.kept
    values = np.zeros(wiring.n_edges) if single.scores is None else single.scores.values
    if not np.isfinite(values).all():
        edge = wiring.edge_name(int(np.argmin(np.isfinite(values))))
        raise NumericalError(f"the score of edge {edge} is NaN or infinite")
    everything = full or wiring.n_edges <= FULL_LIMIT
    chosen = np.arange(wiring.n_edges) if everything else np.flatnonzero(kept)
    extra = _column_texts(single, chosen)

    d_model = circuit.provenance.get("d_model")
    cfg = {
        "n_layers": wiring.n_layers,
        "n_heads": wiring.n_heads,
        "parallel_attn_mlp": wiring.parallel,
        "d_model": d_model if type(d_model) is int else 0,
    }
    yield f'{{"cfg": {to_json(cfg)},\n"kc": {to_json(_own(circuit))},\n"nodes": {{\n'
    in_graph = _nodes_in_graph(wiring, kept)
    yield ",\n".join(f'"{name}": {{"in_graph": {_bool(on)}}}' for name, on in in_graph.items())
    yield '\n},\n"edges": {\n'
    sources, destinations = wiring.src_names, wiring.dst_names
    rows = zip(
        wiring.edge_src[chosen].tolist(),
        wiring.edge_dst[chosen].tolist(),
        values[chosen].tolist(),
        kept[chosen].tolist(),
        extra,
        strict=True,
    )
    yield ",\n".join(
        f'"{sources[src]}->{destinations[dst]}": '
        f'{{"score": {score!r}, "in_graph": {_bool(on)}{more}}}'
        for src, dst, score, on, more in rows
    )
    yield "\n}}\n"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _own(circuit: Circuit) -> dict[str, Any]:
    """What EAP-IG's format has no place for."""
    own: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "n_kv_heads": circuit.wiring.n_kv_heads,
        "kv": circuit.wiring.kv.value,
        "scored": circuit.scores is not None,
        "columns": {name: column.dtype.str for name, column in circuit.columns.items()},
        "roles": circuit.roles,
        "provenance": circuit.provenance,
    }
    if circuit.scores is not None:
        own["scores_provenance"] = circuit.scores.provenance
    return own


def _column_texts(circuit: Circuit, edges: Int[np.ndarray, " some"]) -> list[str]:
    """The columns of each edge as a further JSON field, or nothing."""
    if not circuit.columns:
        return [""] * edges.size
    for name, column in circuit.columns.items():
        if column.dtype.kind not in "fiub" or not np.isfinite(column).all():
            raise NumericalError(f"column {name!r} holds what is no finite number")
    rows = zip(*(column[edges].tolist() for column in circuit.columns.values()), strict=True)
    names = list(circuit.columns)
    return [f', "kc": {json.dumps(dict(zip(names, row, strict=True)))}' for row in rows]


def _nodes_in_graph(wiring: Wiring, kept: np.ndarray) -> dict[str, bool]:
    """EAP-IG's node flags: a source has a kept edge out and (but for `input`) one in."""
    matrix = wiring.to_matrix(kept, fill=False)
    leaves, enters = np.logical_or.reduce(matrix, axis=1), np.logical_or.reduce(matrix, axis=0)
    fed = {node for node, read in zip(wiring.dst_nodes, enters, strict=True) if read} | {"input"}
    flags = zip(wiring.src_names, leaves, strict=True)
    return {name: bool(out) and name in fed for name, out in flags} | {"logits": True}


def _parse(text: str, path: str | Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise CircuitFileError(path, f"{twice!r:.60} occurs twice", _line_of(text, twice, 1))
        return record

    def refuse(constant: str) -> NoReturn:
        found = re.search(rf"[\[:,]\s*{re.escape(constant)}", text)
        line = text.count("\n", 0, found.end()) + 1 if found else None
        raise CircuitFileError(path, f"holds {constant}, which is no score", line)

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise CircuitFileError(path, f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise CircuitFileError(path, "not usable JSON: nested too deeply") from None
    except ValueError as error:
        raise CircuitFileError(path, f"not usable JSON: {error}") from None
    if not isinstance(document, dict):
        raise CircuitFileError(path, "is no EAP-IG circuit: it is no JSON object")
    return document


def _line_of(text: str, name: str, occurrence: int = 0) -> int | None:
    """Line of a key, counted from 1; None where it is written in another way (escapes)."""
    places = re.finditer(re.escape(json.dumps(name)) + r"\s*:", text)
    found = [match.start() for _, match in zip(range(occurrence + 1), places, strict=False)]
    return text.count("\n", 0, found[-1]) + 1 if found else None


def _wiring(cfg: Mapping[str, Any], own: Any, n_kv_heads: int | None) -> Wiring:
    """The circuit's wiring, in this project's terms where the file has them."""
    parallel = cfg.get("parallel_attn_mlp", False)
    n_heads = cfg.get("n_heads")
    single = KeyValue.PER_QUERY_HEAD
    if own == {}:
        shared = n_heads if n_kv_heads is None else n_kv_heads
        return checked_wiring(cfg.get("n_layers"), n_heads, shared, single, parallel)
    if not isinstance(own, dict) or type(own.get("schema")) is not int or own["schema"] < 1:
        raise ContentError("has a malformed key 'kc'")
    if own["schema"] > SCHEMA_VERSION:
        raise ContentError("was written by a newer version; upgrade knowledge-circuits")
    roles = own.get("roles", {})
    if not isinstance(roles, dict) or not all(isinstance(role, str) for role in roles.values()):
        raise ContentError("has malformed roles")
    if not all(isinstance(own.get(key, {}), dict) for key in ("provenance", "scores_provenance")):
        raise ContentError("has malformed provenance")
    geometry = cfg.get("n_layers"), n_heads, own.get("n_kv_heads")
    checked_wiring(*geometry, single, parallel)
    return checked_wiring(*geometry, own.get("kv"), parallel)


def _column_types(own: Mapping[str, Any]) -> dict[str, np.dtype]:
    columns = own.get("columns", {})
    try:
        types = {name: np.dtype(str(code)) for name, code in columns.items()}
    except (AttributeError, TypeError, ValueError):
        raise ContentError("has malformed columns") from None
    if any(dtype.kind not in "fiub" for dtype in types.values()) or len(types) > 32:
        raise ContentError("has malformed columns")
    return types


class _EdgeValues:
    """Values by edge of the per-query-head wiring, as read from a file."""

    def __init__(self, wiring: Wiring, columns: Mapping[str, np.dtype]) -> None:
        self.kept = np.zeros(wiring.n_edges, dtype=bool)
        self.score = np.zeros(wiring.n_edges)
        self.columns = {name: np.zeros(wiring.n_edges, dtype) for name, dtype in columns.items()}
        self.scored = False


def _read_edges(
    edges: Mapping[str, Any],
    wiring: Wiring,
    columns: Mapping[str, np.dtype],
    path: str | Path,
    text: str,
) -> _EdgeValues:
    single = wiring.with_kv(KeyValue.PER_QUERY_HEAD)
    values = _EdgeValues(single, columns)
    for name, info in edges.items():
        try:
            edge = single.edge_index(name)
            _read_edge(values, edge, info)
        except (OptionError, ContentError) as error:
            reason = str(error) if name in str(error) else f"edge {name!r:.60} {error}"
            raise CircuitFileError(path, reason, _line_of(text, name)) from None
    return values


def _read_edge(values: _EdgeValues, edge: int, info: Any) -> None:
    if not isinstance(info, dict) or not isinstance(info.get("in_graph"), bool):
        raise ContentError("needs `in_graph`, true or false")
    score = info.get("score")
    values.kept[edge] = info["in_graph"]
    if score is not None:
        if isinstance(score, bool) or abs(_number(score)) > LARGEST:
            raise ContentError(f"has the score {score!r:.40}, which is no single-precision number")
        values.score[edge] = score
        values.scored = True
    own = info.get("kc", {})
    if values.columns and (not isinstance(own, dict) or set(own) != set(values.columns)):
        raise ContentError(f"needs the columns {', '.join(values.columns)}")
    for name, column in values.columns.items():
        try:
            with np.errstate(over="raise"):
                column[edge] = _number(own[name])
        except (OverflowError, FloatingPointError):
            raise ContentError(f"has a value out of range in column {name!r:.40}") from None


def _number(value: Any) -> int | float | bool:
    if not isinstance(value, int | float):
        raise ContentError(f"has {value!r:.40} where a number belongs")
    if isinstance(value, float) and not math.isfinite(value):
        raise ContentError("has an infinite value")
    if isinstance(value, int) and abs(value) > 2**63:
        raise ContentError("has a value out of range")
    return value


def _assemble(values: _EdgeValues, wiring: Wiring, own: Mapping[str, Any]) -> Circuit:
    kept, score, columns = values.kept, values.score, values.columns
    if wiring.is_grouped:
        groups = grouped_edges(wiring)
        score = np.bincount(groups, score, wiring.n_edges).astype(np.float64)
        kept = np.bincount(groups, kept, wiring.n_edges) > 0
        firsts = np.unique(groups, return_index=True)[1]
        columns = {name: column[firsts] for name, column in columns.items()}
    scores = None
    if own.get("scored", values.scored):
        provenance = own.get("scores_provenance", {})
        scores = EdgeScores(wiring, single_precision(score), provenance=provenance)
    roles, provenance = own.get("roles", {}), own.get("provenance", {})
    return Circuit(wiring, kept, scores, columns, roles, provenance)
