"""Records of a benchmark's files: what can be used, and the rows that cannot, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from circuits.base.errors import FileFormatError
from circuits.base.records import read_json, read_jsonl, text_field
from circuits.facts.loaders import LeftOut

C = TypeVar("C")
SUFFIXES = (".json", ".jsonl")


class UnusableError(Exception):
    """This record cannot be used, and why; no mistake of the file's form."""


def records(path: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Every record with its file and its place there, from 1: of a JSON list, JSONL or a folder.

    FileFormatError names file and row of what is no record, and a file without any.
    """
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES)
        if not files:
            raise FileFormatError(path, "holds no .json and no .jsonl file")
    for file in files:
        if file.suffix == ".jsonl":
            rows: list[tuple[int, Any]] = list(read_jsonl(file))
        else:
            content = read_json(file)
            if not isinstance(content, list):
                raise FileFormatError(file, "must be a JSON list of records")
            rows = list(enumerate(content, start=1))
        if not rows:
            raise FileFormatError(file, "holds no records")
        for number, row in rows:
            if not isinstance(row, dict):
                raise FileFormatError(file, "must be a JSON object", number)
            yield file, number, row


def usable(
    path: Path, case: Callable[[int, Mapping[str, Any]], C]
) -> tuple[tuple[C, ...], tuple[LeftOut, ...]]:
    """Cases made of records, each given its number among all from 1, and the rows left out."""
    cases, left_out = [], []
    for index, (file, number, row) in enumerate(records(path), start=1):
        try:
            cases.append(case(index, row))
        except UnusableError as error:
            left_out.append(LeftOut(str(file), number, str(error)))
    return tuple(cases), tuple(left_out)


def text(record: Any, *names: str) -> str:
    """The text under the first of these keys that there is; UnusableError where it is none."""
    if not isinstance(record, Mapping):
        raise UnusableError(f"what should hold {names[0]!r} is no object")
    name = next((each for each in names if each in record), names[0])
    try:
        return text_field(dict(record), name, "")
    except FileFormatError as error:
        raise UnusableError(str(error).removeprefix(": ")) from None
