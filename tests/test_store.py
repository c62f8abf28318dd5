"""Files are read back as they were written, or refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from circuits.base import arrays as array_files
from circuits.base import writing as files
from circuits.base.arrays import load_arrays, save_arrays
from circuits.base.choices import KeyValue
from circuits.base.errors import (
    CircuitFileError,
    FileFormatError,
    NumericalError,
    StoreError,
)
from circuits.base.writing import atomic_write, save_json, to_json
from circuits.graph import circuit as store
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.geometry import edge_count
from circuits.model.wiring import Wiring
from tests.circuit_strategies import assert_identical, circuits, wirings

LAW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def a_circuit() -> Circuit:
    wiring = Wiring(1, 2, 1)
    values = np.arange(wiring.n_edges, dtype=np.float32)
    scores = EdgeScores(wiring, values, np.stack([values, values]), {"method": "eap"})
    kept = values > 5
    return Circuit(
        wiring, kept, scores, {"inclusion": values / 100}, {"m0": "mover"}, {"model": "x"}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.kc.safetensors"


@pytest.fixture
def written(path: Path) -> bytes:
    a_circuit().save(path)
    return path.read_bytes()


def refusal(path: Path, data: bytes | None = None) -> str:
    """The one line with which a file is refused."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CircuitFileError) as caught:
        Circuit.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def rebuilt(written: bytes, change: Any) -> bytes:
    """The file with a changed header; `change` gets the header and the kc record."""
    length = struct.unpack("<Q", written[:8])[0]
    header = json.loads(written[8 : 8 + length])
    record = json.loads(header["__metadata__"]["kc"])
    change(header, record)
    header["__metadata__"] = {"kc": json.dumps(record)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + written[8 + length :]


def resealed(path: Path, change: Any) -> str:
    """The refusal of a file whose content is wrong though its hash is right."""
    circuit = a_circuit()
    arrays: dict[str, np.ndarray] = {}
    metadata: dict[str, Any] = {}

    def keep(_: Any, kind: str, saved: Any, data: Any) -> None:
        arrays.update(saved)
        metadata.update(json.loads(to_json(data)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_arrays", keep)
        circuit.save(path)
    change(arrays, metadata)
    save_arrays(path, "circuit", arrays, metadata)
    return refusal(path)


@LAW
@given(circuit=circuits())
def test_save_then_load_is_identity(circuit: Circuit, path: Path) -> None:
    circuit.save(path, include_pairs=True)
    assert_identical(Circuit.load(path), circuit, pairs=True)


@LAW
@given(circuit=circuits())
def test_the_same_circuit_gives_the_same_bytes(circuit: Circuit, path: Path) -> None:
    circuit.save(path)
    first = path.read_bytes()
    Circuit.load(path).save(path)
    assert path.read_bytes() == first


def test_scores_of_single_examples_are_stored_only_when_asked_for(path: Path) -> None:
    a_circuit().save(path)
    loaded = Circuit.load(path).scores
    assert loaded is not None
    assert loaded.per_pair is None


@given(wiring=wirings(6))
def test_the_edge_count_by_arithmetic_is_the_wirings_own(wiring: Wiring) -> None:
    assert edge_count(wiring.n_layers, wiring.n_heads, wiring.n_key_inputs) == wiring.n_edges


def test_every_truncation_is_refused(path: Path, written: bytes) -> None:
    for length in range(len(written)):
        message = refusal(path, written[:length])
        assert "truncated" in message or "empty" in message


def test_a_flipped_bit_anywhere_changes_nothing_that_is_read(path: Path, written: bytes) -> None:
    circuit, read = a_circuit(), 0
    bits = np.random.default_rng(0).integers(8, size=len(written))
    for place, bit in enumerate(bits.tolist()):
        data = bytearray(written)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            loaded = Circuit.load(path)
        except CircuitFileError:
            continue
        assert_identical(loaded, circuit)  # `E` for `e` in a number is no change
        read += 1
    assert read <= 2


def test_trailing_bytes_are_refused(path: Path, written: bytes) -> None:
    assert "trailing bytes" in refusal(path, written + b"\0")


def test_a_missing_file_and_a_folder_are_refused(path: Path, tmp_path: Path) -> None:
    assert "no such file" in refusal(path)
    assert "not a regular file" in refusal(tmp_path)


def test_a_named_pipe_is_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


def test_a_pickle_is_never_opened(path: Path) -> None:
    for protocol in range(6):
        message = refusal(path, pickle.dumps(Bomb(), protocol=protocol))
        assert protocol < 2 or "pickle" in message
    torch.save({"a": 1}, path)
    assert "pickle" in refusal(path)


def test_an_oversized_header_is_refused_before_it_is_read(path: Path) -> None:
    for length in (16 * 2**20 + 1, 2**40, 2**64 - 1):
        assert "header" in refusal(path, struct.pack("<Q", length) + b"{" + b" " * 64)


def test_deep_nesting_is_refused(path: Path) -> None:
    text = b'{"a":' + b"[" * 100_000
    assert "nested too deeply" in refusal(path, struct.pack("<Q", len(text)) + text)


def test_a_newer_schema_is_refused_by_name(path: Path, written: bytes) -> None:
    def newer(header: Any, record: Any) -> None:
        record.update(schema=99, surprise=1)

    assert "written by a newer version" in refusal(path, rebuilt(written, newer))


@pytest.mark.parametrize(
    "geometry",
    [
        {"n_layers": 10**9},
        {"n_heads": 10**9, "n_kv_heads": 10**9},
        {"n_layers": 10**400},
        {"n_layers": 0},
        {"n_layers": -1},
        {"n_layers": True},
        {"n_layers": "2"},
        {"n_layers": 2.0},
        {"n_layers": 2},
        {"n_kv_heads": 2},
        {"n_kv_heads": 3},
        {"kv": "other"},
        {"kv": "per-query-head"},
        {"more": 1},
    ],
)
def test_a_geometry_that_does_not_fit_is_refused_before_allocating(
    geometry: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        array_files.safetensors_numpy, "load", lambda data: pytest.fail("allocated")
    )
    resealed(path, lambda arrays, metadata: metadata["geometry"].update(geometry))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.update(extra=np.zeros(3)), "unknown tensor 'extra'"),
        (lambda arrays: arrays.pop("in_graph"), "lacks the kept bits"),
        (lambda arrays: arrays.update(per_pair=arrays.pop("score")[None]), "but no scores"),
        (lambda arrays: arrays.update(score=arrays["score"].astype(np.float64)), "float64"),
        (lambda arrays: arrays.update(score=arrays["score"][:-1]), "does not fit"),
        (lambda arrays: arrays.update(in_graph=arrays["in_graph"].astype(np.int32)), "int32"),
        (lambda arrays: arrays.update({"column.x": np.zeros(2)}), "does not fit"),
    ],
)
def test_tensors_that_are_unknown_missing_or_of_another_type_are_refused(
    change: Any, words: str, path: Path
) -> None:
    assert words in resealed(path, lambda arrays, _: change(arrays))


@pytest.mark.parametrize(
    "change",
    [
        {"roles": {"m0": 1}},
        {"roles": None},
        {"provenance": 3},
        {"scores_provenance": []},
        {"edge_order": "by-source"},
        {"geometry": None},
    ],
)
def test_malformed_metadata_is_refused(change: dict[str, Any], path: Path) -> None:
    resealed(path, lambda _, metadata: metadata.update(change))


def test_duplicate_tensors_are_refused(path: Path, written: bytes) -> None:
    header = written[8 : 8 + struct.unpack("<Q", written[:8])[0]].decode()
    entry = header[header.index('"score":') : header.index("}", header.index('"score":')) + 1]
    text = header.replace(entry, f"{entry},{entry}").encode()
    data = struct.pack("<Q", len(text)) + text + written[8 + len(header) :]
    assert "twice" in refusal(path, data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_neither_written_nor_read(
    value: float, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = a_circuit()
    assert circuit.scores is not None
    values = circuit.scores.values.copy()
    values[5] = value
    circuit = replace(circuit, scores=replace(circuit.scores, values=values))
    with pytest.raises(NumericalError, match="place 5"):
        circuit.save(path)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(array_files, "_storable", lambda path, name, array: array)
        circuit.save(path)
    assert "NaN" in refusal(path)


def test_scores_beyond_single_precision_are_refused(path: Path) -> None:
    wiring = Wiring(1, 1, 1)
    circuit = Circuit.full(wiring, EdgeScores(wiring, np.full(wiring.n_edges, 1e300)))
    with pytest.raises(NumericalError):
        circuit.save(path)


def test_arrays_of_any_kind_come_back(path: Path) -> None:
    arrays = {
        "effect": np.arange(6.0).reshape(2, 3).T,
        "big endian": np.arange(3, dtype=">i4"),
        "scalar": np.array(2.5),
        "none": np.zeros((0, 4), dtype=bool),
    }
    save_arrays(path, "trace", arrays, {"prompt": "a\nb", "window": np.int64(3), "path": path})
    loaded, metadata = load_arrays(path, "trace")
    assert metadata == {"prompt": "a\nb", "window": 3, "path": str(path)}
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)


def test_a_trace_is_no_circuit(path: Path) -> None:
    save_arrays(path, "trace", {"effect": np.zeros(3)}, {})
    assert "'trace', not a 'circuit'" in refusal(path)
    with pytest.raises(FileFormatError, match="not a 'lens'"):
        load_arrays(path, "lens")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("x", np.array(["text"])),
        ("x", np.array([None])),
        ("x", np.zeros(2, dtype=complex)),
        ("\n", np.zeros(2)),
        ("__metadata__", np.zeros(2)),
    ],
)
def test_arrays_that_the_format_cannot_hold_are_refused(
    name: str, array: np.ndarray, path: Path
) -> None:
    with pytest.raises(StoreError):
        save_arrays(path, "trace", {name: array}, {})
    assert not path.exists()


def test_a_foreign_safetensors_file_is_told_apart(path: Path) -> None:
    path.write_bytes(array_files.safetensors_numpy.save({"w": np.zeros(3)}))
    assert "none that Knowledge Circuits wrote" in refusal(path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(StoreError, match="No space left") as caught:
        atomic_write(path, b"new")
    assert caught.value.exit_code == 4
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("file/x", "folder", "n" * 300):
        with pytest.raises(StoreError) as caught:
            atomic_write(tmp_path / place, "text")
        assert str(caught.value).startswith(str(tmp_path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = open

    def open_full(name: Any, mode: str) -> Any:
        real_open(name, mode).close()
        return real_open("/dev/full", "wb")

    monkeypatch.setitem(vars(files), "open", open_full)
    with pytest.raises(StoreError, match="No space left"):
        atomic_write(tmp_path / "x", b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_made_and_the_umask_is_honoured(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    atomic_write(path, "é")
    assert path.read_text(encoding="utf-8") == "é"
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), -float("inf")])
def test_json_with_nan_is_never_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"metrics\.kl\[1\]"):
        save_json({"metrics": {"kl": [0.0, value]}}, tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_json_takes_what_results_are_made_of(tmp_path: Path) -> None:
    value = {"kv": KeyValue.GROUPED, "n": np.int64(3), "x": np.float32(0.5), "at": tmp_path}
    save_json(value, tmp_path / "x.json")
    read = json.loads((tmp_path / "x.json").read_text())
    assert read == {"kv": "grouped", "n": 3, "x": 0.5, "at": str(tmp_path)}
