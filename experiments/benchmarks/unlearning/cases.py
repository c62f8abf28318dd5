"""Rows of KnowUnDo and TOFU: questions and answers, each in the set that its file names.

A row that lacks a text is left out with its reason; a file that holds no rows of questions and
answers is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError
from circuits.base.records import read_json, read_jsonl, text_field
from circuits.edits.parts.examples import Example
from circuits.facts.loaders import LeftOut
from experiments.benchmarks.base import Cases

FORGET, FORGET_VAL = "unlearn_train", "unlearn_val"
RETAIN, RETAIN_VAL = "retention_train", "retention_val"
KNOW_UN_DO_SPLITS = (FORGET, FORGET_VAL, RETAIN, RETAIN_VAL)
SHARES = ("10", "05", "01")
"""Percent of TOFU's authors that a file `forgetNN` holds; the largest that is there is used."""
TOFU_FORGET, TOFU_RETAIN = "forget", "retain"
AUTHORS, WORLD = "real_authors", "world_facts"
SUFFIXES = (".json", ".jsonl")
Keyed = tuple[tuple[str, ...], int, Any]
"""The names above a row (its file's and those in the file), its number, and the row."""


@dataclass(frozen=True)
class Row:
    """One question and answer of a benchmark.

    `split` is its set, `domain` the group that is unlearned as one. `paraphrased` is the answer in
    other words, `perturbed` wrong answers of its form. `row` counts in the file `path` from 1.
    """

    domain: str
    split: str
    question: str
    answer: str
    path: str
    row: int
    paraphrased: str | None = None
    perturbed: tuple[str, ...] = ()

    @property
    def example(self) -> Example:
        """As the methods read it: the answer is scored."""
        return Example(self.question, self.answer)

    def left_out(self, reason: str) -> LeftOut:
        """A note that the row is not used."""
        return LeftOut(self.path, self.row, reason)


# --- KnowUnDo ------------------------------------------------------------------------------------


def read_know_un_do(path: Path) -> Cases:
    """KnowUnDo's rows {text, labels} of a domain's folder, of a folder of domains, or of one file.

    A file is a JSON list named as its split, or an object with lists under domain and split keys;
    `full.json` repeats the others' rows and is passed over.
    """
    found, left_out = _collected(path, _know_un_do_row)
    _needs(path, found, left_out, (FORGET, RETAIN))
    return _without_overlap(found, left_out, FORGET, RETAIN)


def _know_un_do_row(keys: tuple[str, ...], path: Path, number: int, row: Any) -> Row | None:
    names = [key.lower() for key in keys]
    joined = "_".join(names)
    split = next((each for each in KNOW_UN_DO_SPLITS if joined.endswith(each)), None)
    if split is None:
        # A domain's key may stand below the split's: {"unlearn_train" file: {"privacy": [...]}}.
        split = next((each for each in KNOW_UN_DO_SPLITS if each in names), None)
    if split is None:
        return None
    parts = {*split.split("_"), split}
    domain = next((key for key in reversed(keys) if key.lower() not in parts), "all")
    return Row(
        domain,
        split,
        text_field(row, "text", path, number),
        text_field(row, "labels", path, number),
        str(path),
        number,
    )


# --- TOFU ----------------------------------------------------------------------------------------


def read_tofu(path: Path) -> Cases:
    """TOFU's rows {question, answer} with `paraphrased_answer` and `perturbed_answer` as far as
    they are there, of a folder of files forget10, retain90, real_authors and world_facts, or of one
    file with lists under these names.

    A file NAME_perturbed has the rows of NAME with more answers: where both are there a question's
    answers are joined. Of several forget files the largest share is used, with its retain file.
    """
    found, left_out = _collected(path, _tofu_row)
    shares = {each.split.removeprefix(TOFU_FORGET) for each in found}
    share = next((each for each in SHARES if each in shares), None)
    if share is not None:
        names = {f"forget{share}": TOFU_FORGET, f"retain{100 - int(share)}": TOFU_RETAIN}
        kept = {*names, TOFU_RETAIN, AUTHORS, WORLD}
        found = [replace(r, split=names.get(r.split, r.split)) for r in found if r.split in kept]
    joined: dict[tuple[str, str, str], Row] = {}
    for each in found:
        key = each.split, each.question, each.answer
        joined[key] = _joined(joined[key], each) if key in joined else each
    rows = list(joined.values())
    _needs(path, rows, left_out, (TOFU_FORGET, TOFU_RETAIN))
    return _without_overlap(rows, left_out, TOFU_FORGET, TOFU_RETAIN)


def _tofu_row(keys: tuple[str, ...], path: Path, number: int, row: Any) -> Row | None:
    named = (key.lower().removesuffix("_perturbed") for key in reversed(keys))
    split = next((each for each in named if _is_tofu(each)), None)
    if split is None:
        return None
    wrong = row.get("perturbed_answer", [])
    if isinstance(wrong, str):
        wrong = [wrong]
    if not isinstance(wrong, list):
        raise FileFormatError(path, "'perturbed_answer' must be a list of texts", number)
    perturbed = tuple(
        text_field({"perturbed_answer": each}, "perturbed_answer", path, number) for each in wrong
    )
    return Row(
        "tofu",
        split,
        text_field(row, "question", path, number),
        text_field(row, "answer", path, number),
        str(path),
        number,
        text_field(row, "paraphrased_answer", path, number)
        if row.get("paraphrased_answer")
        else None,
        perturbed,
    )


def _is_tofu(name: str) -> bool:
    shares = {f"{TOFU_FORGET}{each}" for each in SHARES}
    rests = {f"{TOFU_RETAIN}{100 - int(each)}" for each in SHARES}
    return name in {TOFU_FORGET, TOFU_RETAIN, AUTHORS, WORLD} | shares | rests


def _joined(first: Row, second: Row) -> Row:
    return replace(
        first,
        paraphrased=first.paraphrased or second.paraphrased,
        perturbed=first.perturbed or second.perturbed,
    )


# --- files ---------------------------------------------------------------------------------------


def _collected(
    path: Path, read: Callable[[tuple[str, ...], Path, int, Any], Row | None]
) -> tuple[list[Row], list[LeftOut]]:
    """The rows that `read` understands, in the files' order, and those that it cannot use.

    `read` gives None for rows of no split; FileFormatError of a row's field leaves the row out.
    """
    found: list[Row] = []
    left_out: list[LeftOut] = []
    for file in _files(path):
        for keys, number, row in _rows(file):
            if not isinstance(row, dict):
                raise FileFormatError(file, "must be a JSON object", number)
            try:
                made = read((file.parent.name, file.stem, *keys), file, number, row)
            except FileFormatError as error:
                reason = str(error).removeprefix(f"{file}:{number}: ")
                left_out.append(LeftOut(str(file), number, reason))
                continue
            if made is not None:
                found.append(made)
    return found, left_out


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES)
    if not files:
        raise FileFormatError(path, f"holds no {' or '.join(SUFFIXES)} file")
    return files


def _rows(file: Path) -> list[Keyed]:
    """The rows of a file: JSON lines, one JSON list, or lists under keys, nested as they are.

    TOFU's files are called .json and hold a row a line.
    """
    if file.suffix == ".jsonl":
        return [((), number, row) for number, row in read_jsonl(file)]
    try:
        content = read_json(file)
    except FileFormatError as error:
        try:
            return [((), number, row) for number, row in read_jsonl(file)]
        except FileFormatError:
            raise error from None
    if isinstance(content, dict) and {"question", "text"} & set(content):
        return [((), 1, content)]  # JSON lines with a single line
    return list(_under(content, (), file))


def _under(content: Any, keys: tuple[str, ...], file: Path) -> Iterator[Keyed]:
    if isinstance(content, list):
        yield from ((keys, number, row) for number, row in enumerate(content, start=1))
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _under(value, (*keys, key), file)
    else:
        where = f" under {'/'.join(keys)}" if keys else ""
        raise FileFormatError(file, f"must hold lists of rows{where}, not {content!r:.40}")


def _needs(path: Path, rows: list[Row], left_out: list[LeftOut], splits: tuple[str, ...]) -> None:
    """FileFormatError where a set that every method needs has no usable row."""
    for split in splits:
        if not any(each.split == split for each in rows):
            first = f": row {left_out[0].row}: {left_out[0].reason}" if left_out else ""
            raise FileFormatError(path, f"holds no usable row of {split}{first}")


def _without_overlap(rows: list[Row], left_out: list[LeftOut], forget: str, retain: str) -> Cases:
    """The cases; what is to be forgotten cannot be retained, so that such rows are left out."""
    unwanted = {(e.domain, e.question, e.answer) for e in rows if e.split == forget}
    kept: list[Row] = []
    for each in rows:
        if each.split == retain and (each.domain, each.question, each.answer) in unwanted:
            left_out.append(each.left_out(f"stands in {forget} too"))
        else:
            kept.append(each)
    return Cases(tuple(kept), tuple(left_out))
