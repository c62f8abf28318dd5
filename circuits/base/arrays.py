"""Arrays in files that are read only where they prove intact.

A `*.kc.safetensors` file is a safetensors file (8 bytes of header length, a JSON header, raw
tensors) whose header carries one JSON text, `__metadata__["kc"]`: the schema, the kind of the
content, whatever describes it (geometry, provenance), and a sha256 over all of that and over the
tensors. Reading checks, in this order and before anything large is allocated: length of the
header, header, schema and kind, that tensors and file have the sizes that the header announces,
that these fit the content (a circuit's geometry); then the hash and that all numbers are finite.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from circuits.base.errors import FileFormatError, NumericalError, StoreError
from circuits.base.writing import atomic_write, to_json

SCHEMA_VERSION = 1
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 4096
MAX_AXES = 8
_NUMPY_OF: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Layout:
    """A tensor as the header announces it."""

    dtype: np.dtype
    shape: tuple[int, ...]


class ContentError(Exception):
    """Raised by a content check of `load_arrays`; becomes one line that names the file."""


def save_arrays(
    path: str | Path, kind: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write named arrays with what describes them; the same content gives the same bytes.

    `kind` says what it is (`circuit`, `trace`, ...). NumericalError for NaN or infinity, StoreError
    for what the format cannot hold.
    """
    tensors = {name: _storable(path, name, array) for name, array in arrays.items()}
    try:
        # Read back, so that the hash is taken over what a reader will see (tuples become lists).
        plain = json.loads(to_json(dict(metadata)))
    except NumericalError as error:
        raise NumericalError(f"{path}: not written: {error}") from None
    record = {"schema": SCHEMA_VERSION, "kind": kind, "content": plain}
    record["payload_sha256"] = _payload_hash(record, tensors)
    data = safetensors_numpy.save(tensors, metadata={"kc": _canonical(record)})
    if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES or len(tensors) > MAX_TENSORS:
        raise StoreError(f"{path}: not written: too much metadata for one file")
    atomic_write(path, data)


def load_arrays(
    path: str | Path,
    kind: str,
    check: Callable[[Mapping[str, Layout], Mapping[str, Any]], None] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and metadata that `save_arrays` wrote; FileFormatError says why not.

    `check(layouts, metadata)` sees only the header, before any array is allocated, and refuses by
    raising `ContentError(reason)`.
    """
    try:
        return read_intact(Path(path), kind, check)
    except ContentError as reason:
        raise FileFormatError(path, str(reason)) from None


def single_precision(values: np.ndarray) -> np.ndarray:
    """Values as float32; what float32 cannot hold becomes infinite and is refused on writing."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def kind_of(path: str | Path) -> str:
    """What a file holds (`circuit`, `trace`, ...), by its header; FileFormatError if nothing."""
    return describe_file(path)[0]


def describe_file(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Kind and metadata of a file by its header alone, for lists of many files.

    FileFormatError where the header or the file's length is wrong; the arrays are neither read nor
    checked against their hash: that they are intact is for `load_arrays` to say.
    """
    try:
        with _opened(Path(path)) as file:
            size = os.fstat(file.fileno()).st_size
            head, header = _read_header(file, size)
            _layouts(header, size - len(head))
            record = _record(header, None)
    except ContentError as reason:
        raise FileFormatError(path, str(reason)) from None
    return record["kind"], record["content"]


def read_intact(
    path: Path,
    kind: str | None,
    check: Callable[[Mapping[str, Layout], Mapping[str, Any]], None] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a file of one kind, None for any; ContentError says what is wrong."""
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            head, header = _read_header(file, size)
            layouts = _layouts(header, size - len(head))
            record = _record(header, kind)
            if check is not None:
                check(layouts, record["content"])
            data = head + file.read(size - len(head))
        arrays = safetensors_numpy.load(data)
        intact = _payload_hash(record, arrays) == record["payload_sha256"]
    except SafetensorError as error:
        raise ContentError(f"is damaged: {error}") from None
    except RecursionError:
        raise ContentError("is damaged: metadata nested too deeply") from None
    if not intact:
        raise ContentError("is damaged: its content does not match its hash")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ContentError(f"tensor {name!r:.60} holds NaN or infinity")
    return dict(sorted(arrays.items())), record["content"]  # safetensors keeps no order


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; ContentError for anything else."""
    try:
        # Looked at before it is opened: opening a named pipe would wait for ever.
        if "\0" in str(path) or not stat.S_ISREG(path.stat().st_mode):
            raise ContentError("is not a regular file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise ContentError("no such file") from None
    except OSError as error:
        raise ContentError(f"cannot be read: {error.strerror or error}") from None


def _read_header(file: BinaryIO, size: int) -> tuple[bytes, dict[str, Any]]:
    if size == 0:
        raise ContentError("is empty")
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{":
        if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
            raise ContentError("looks like a pickle or a torch.save file, which is never opened")
        if size >= 9:
            raise ContentError("is not a safetensors file")
    if size < 9 or (length <= MAX_HEADER_BYTES and length > size - 8):
        raise ContentError(f"is truncated: {size} bytes")
    if length > MAX_HEADER_BYTES:
        raise ContentError(f"has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    text = start[8:] + file.read(length - 1)
    return start[:8] + text, _parse(text, "header")


def _layouts(header: Mapping[str, Any], n_data_bytes: int) -> dict[str, Layout]:
    layouts: dict[str, Layout] = {}
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            layout = Layout(_NUMPY_OF[entry["dtype"]], tuple(entry["shape"]))
            begin, stop = entry["data_offsets"]
            numbers = (*layout.shape, begin, stop)
            whole = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
            if (
                not whole
                or len(layout.shape) > MAX_AXES
                or stop - begin != math.prod(layout.shape) * layout.dtype.itemsize
            ):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ContentError(f"tensor {name!r:.60} is of no known type or shape") from None
        layouts[name], end = layout, max(end, stop)
    if len(layouts) > MAX_TENSORS:
        raise ContentError(f"holds {len(layouts)} tensors; at most {MAX_TENSORS} are read")
    if end != n_data_bytes:
        word = "is truncated" if end > n_data_bytes else "has trailing bytes"
        raise ContentError(f"{word}: {n_data_bytes} bytes of data, {end} announced")
    return layouts


def _record(header: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """What describes the content; of any kind where `kind` is None."""
    outer = header.get("__metadata__")
    text = outer.get("kc") if isinstance(outer, dict) else None
    if not isinstance(text, str):
        raise ContentError("is a safetensors file, but none that Knowledge Circuits wrote")
    record = _parse(text, "metadata")
    schema = record.get("schema")
    if type(schema) is not int or schema < 1:
        raise ContentError("does not say of which schema it is")
    if schema > SCHEMA_VERSION:
        raise ContentError(
            f"was written by a newer version (schema {schema}; this one reads up to "
            f"{SCHEMA_VERSION}); upgrade knowledge-circuits"
        )
    if set(record) != {"schema", "kind", "content", "payload_sha256"}:
        raise ContentError("has malformed metadata")
    if not (isinstance(record["kind"], str) and isinstance(record["content"], dict)):
        raise ContentError("has malformed metadata")
    if kind is not None and record["kind"] != kind:
        raise ContentError(f"holds a {record['kind']!r:.40}, not a {kind!r}")
    return record


def _parse(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ContentError(f"is damaged: {what}: {reason}") from None
    if not isinstance(value, dict):
        raise ContentError(f"is damaged: {what} is no JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{twice!r:.60} occurs twice")
    return record


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is no number that fits")
    return number


def _payload_hash(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = sha256(_canonical({k: v for k, v in record.items() if k != "payload_sha256"}).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(_canonical([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _storable(path: str | Path, name: str, array: np.ndarray) -> np.ndarray:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if native.dtype not in _NUMPY_OF.values():
        raise StoreError(f"{path}: not written: array {name!r} is of type {array.dtype}")
    if not name.isprintable() or name == "__metadata__":
        raise StoreError(f"{path}: not written: an array cannot be named {name!r}")
    bad = np.flatnonzero(~np.isfinite(native))
    if bad.size:
        raise NumericalError(
            f"{path}: not written: {name!r} holds NaN or infinity, first at place {bad[0]}"
        )
    return native.reshape(array.shape)
