"""Reading JSON, JSONL and CSV that others wrote, and saying which line is wrong.

Refused: files above a size cap, NaN and infinity (which Python's parser would accept), nesting
that exhausts the stack, text that is no UTF-8 or holds half a surrogate pair.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from circuits.base.errors import FileFormatError

MAX_BYTES = 256 * 2**20


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """A UTF-8 file's text, without a byte order mark; FileFormatError where it is none."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise FileFormatError(path, "is not a regular file")
        size = path.stat().st_size
        if size > max_bytes:
            raise FileFormatError(
                path, f"is {size / 2**20:.0f} MiB; at most {max_bytes / 2**20:.0f} are read"
            )
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise FileFormatError(path, "no such file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FileFormatError(path, f"is not UTF-8 ({error.reason})", line) from None
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror or error}") from None


def read_json(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """The one JSON value in a file."""
    return parse_json(read_text(path, max_bytes), path)


def read_jsonl(
    path: str | Path, max_bytes: int = MAX_BYTES, slips: list[FileFormatError] | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, each with its line number; blank lines are passed over.

    The error of a line that is none goes to `slips`, and the rest is read, where they are given.
    """
    records = []
    # Only "\n" ends a line: str.splitlines would also cut at U+2028, which JSON strings may hold.
    for number, line in enumerate(read_text(path, max_bytes).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, path, number)
            if not isinstance(record, dict):
                raise FileFormatError(path, "must be a JSON object", number)
        except FileFormatError as error:
            if slips is None:
                raise
            slips.append(error)
        else:
            records.append((number, record))
    return records


def read_csv(
    path: str | Path, required: Sequence[str], max_bytes: int = MAX_BYTES
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, each with its line number and its cells stripped."""
    reader = csv.DictReader(io.StringIO(read_text(path, max_bytes), newline=""), strict=True)
    try:
        for column, count in Counter(reader.fieldnames or ()).items():
            if count > 1:
                raise FileFormatError(path, f"has {count} columns {column!r}", 1)
        for column in required:
            if column not in (reader.fieldnames or ()):
                raise FileFormatError(path, f"has no column {column!r}", 1)
        for row in reader:
            if None in row or None in row.values():
                raise FileFormatError(path, "has too few or too many cells", reader.line_num)
            yield reader.line_num, {key: cell.strip() for key, cell in row.items()}
    except csv.Error as error:
        raise FileFormatError(path, f"is not CSV: {error}", reader.reader.line_num) from None


def parse_json(text: str, path: str | Path, line: int | None = None) -> Any:
    """One JSON value; FileFormatError names the path and the line (the parser's where None)."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = line if line is not None else error.lineno
        reason = f"not JSON: {error.msg} (column {error.colno})"
        raise FileFormatError(path, reason, where) from None
    except RecursionError:
        raise FileFormatError(path, "not usable JSON: nested too deeply", line) from None
    except ValueError as error:
        raise FileFormatError(path, f"not usable JSON: {error}", line) from None


def text_field(record: dict[str, Any], key: str, path: str | Path, line: int | None = None) -> str:
    """A required key's text, stripped; FileFormatError where it is absent, empty or no text."""
    if key not in record:
        raise FileFormatError(path, f"lacks the key {key!r}", line)
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise FileFormatError(path, f"{key!r} must be text and not empty", line)
    if "\0" in value:
        raise FileFormatError(path, f"{key!r} holds a NUL character", line)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FileFormatError(path, f"{key!r} holds half of a surrogate pair", line)
    return value.strip()


def given_text(record: dict[str, Any], key: str, path: str | Path, line: int | None = None) -> str:
    """A key's text as `text_field` takes it, or nothing where it is absent or empty."""
    value = record.get(key)
    empty = value is None or (isinstance(value, str) and not value.strip())
    return "" if empty else text_field(record, key, path, line)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the constant {constant} is no number")
