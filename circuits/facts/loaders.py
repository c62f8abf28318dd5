"""Facts from files, directories and hub data sets, as the same `Relation`s that the atlas has.

The schemas are those of `circuits.facts.schemas`. Rows of public sets whose subject does not stand
exactly once in the prompt are left out and counted; in a plain file that is an error. Equal facts
collapse into one.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from circuits.base.errors import FileFormatError, PromptError
from circuits.base.records import MAX_BYTES, read_csv, read_json, read_jsonl
from circuits.facts.facts import Fact, Relation
from circuits.facts.schemas import (
    READERS,
    Place,
    Record,
    Schema,
    detect,
    lre_relation,
    usable_probes,
)

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeftOut:
    """What was of no use in a row: where that stands (counted from 1) and why."""

    path: str
    row: int
    reason: str


@dataclass(frozen=True)
class Slips:
    """What was passed over: `rows` that gave no fact, and `probes` of others that ask nothing."""

    rows: list[LeftOut] = field(default_factory=list)
    probes: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class FactFile:
    """What was read: relations, and the rows that were left out."""

    relations: tuple[Relation, ...]
    left_out: tuple[LeftOut, ...] = ()

    def describe(self) -> str:
        """One line with the counts."""
        facts = sum(len(relation.facts) for relation in self.relations)
        line = f"{facts} facts in {len(self.relations)} relations"
        if self.left_out:
            reasons = Counter(row.reason for row in self.left_out)
            listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            line += f"; {len(self.left_out)} rows left out ({listed})"
        return line


def load_facts(
    source: str | Path, schema: Schema | str | None = None, max_bytes: int = MAX_BYTES
) -> list[Relation]:
    """Relations from a file, a directory of files, or a data set's name on the hub.

    The schema is told from the keys unless given. Raises FileFormatError naming file and line.
    """
    read = read_facts(source, schema, max_bytes)
    if read.left_out:
        log.warning("%s: %s", source, read.describe())
    return list(read.relations)


def read_facts(
    source: str | Path, schema: Schema | str | None = None, max_bytes: int = MAX_BYTES
) -> FactFile:
    """As `load_facts`, with the rows that were left out."""
    schema = None if schema is None else Schema.of(schema)
    path, slips = _found(source), Slips()
    relations: list[Relation] = []
    for file in _files(path):
        relations.extend(_read_file(file, schema, max_bytes, slips))
    merged = _merge(relations)
    if not merged:
        reason = slips.rows[0].reason if slips.rows else "the file is empty"
        raise FileFormatError(path, f"holds no usable facts: {reason}")
    return FactFile(merged, tuple(slips.rows))


def list_facts(
    source: str | Path,
    schema: Schema | str | None = None,
    max_bytes: int = MAX_BYTES,
    lenient: bool = False,
) -> tuple[list[Fact], Slips]:
    """Facts one by one in the order of the rows, each with its wording, and what was passed over.

    `lenient` leaves out a malformed row too, instead of refusing the file.
    """
    schema = None if schema is None else Schema.of(schema)
    facts: list[Fact] = []
    slips = Slips()
    for file in _files(_found(source)):
        rows, has_lines = read_rows(file, max_bytes, slips if lenient else None)
        if rows:
            read = schema or _schema_of(rows, file)
            if read == Schema.LRE:
                raise FileFormatError(file, "holds relations, not single facts")
            facts.extend(_read_each(file, rows, has_lines, read, slips, lenient))
    slips.rows.sort(key=lambda each: (each.path, each.row))
    return facts, slips


def _found(source: str | Path) -> Path:
    """The file or directory; a hub data set's is fetched."""
    path = Path(os.path.expanduser(source))  # unlike Path.expanduser, leaves an unknown ~user alone
    if path.exists():
        return path
    if not _could_be_hub_name(source):
        raise FileFormatError(path, "no such file or directory")
    from circuits.model.hub import dataset_directory

    return dataset_directory(str(source), SUFFIXES)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    if not files:
        raise FileFormatError(path, f"holds no {', '.join(SUFFIXES)} file")
    return files


# --- one file ------------------------------------------------------------------------------------


def _read_file(
    path: Path, schema: Schema | None, max_bytes: int, slips: Slips
) -> Iterator[Relation]:
    rows, has_lines = read_rows(path, max_bytes)
    if not rows:
        raise FileFormatError(path, "holds no facts")
    schema = schema or _schema_of(rows, path)
    if schema == Schema.LRE:
        yield from (lre_relation(record, Place(path)) for _, record in rows)
        return
    yield from group_facts(_read_each(path, rows, has_lines, schema, slips), category=str(schema))


def _schema_of(rows: list[tuple[int, Record]], path: Path) -> Schema:
    """The schema of all keys that the rows have: any one of them may lack some."""
    return detect(dict.fromkeys(key for _, row in rows for key in row), path)


def _read_each(
    path: Path,
    rows: list[tuple[int, Record]],
    has_lines: bool,
    schema: Schema,
    slips: Slips,
    lenient: bool = False,
) -> list[Fact]:
    read, facts = READERS[schema], []
    for number, record in rows:
        place = place_of(path, number, has_lines)
        try:
            fact = read(record, place)
        except PromptError as error:
            if schema == Schema.PLAIN:
                raise FileFormatError(place.path, str(error), place.line) from None
            slips.rows.append(LeftOut(str(path), number, str(error)))
        except FileFormatError as error:
            if not lenient:
                raise
            slips.rows.append(LeftOut(str(path), number, error.reason))
        else:
            probes, lacking = usable_probes(fact.probes)
            facts.append(replace(fact, probes=probes))
            slips.probes.extend(LeftOut(str(path), number, each) for each in lacking)
    return facts


def place_of(path: Path, number: int, has_lines: bool) -> Place:
    """Where a row stands: a line of the file, or a place in its list."""
    return Place(path, number) if has_lines else Place(f"{path} (row {number})")


def read_rows(
    path: Path, max_bytes: int = MAX_BYTES, slips: Slips | None = None
) -> tuple[list[tuple[int, Record]], bool]:
    """A file's records, and whether their numbers are lines (else places in a JSON list).

    A row that is no object goes to `slips`, or is an error where there are none.
    """
    if path.suffix == ".csv":
        return list(read_csv(path, ("subject", "object"), max_bytes)), True
    if path.suffix == ".jsonl":
        return _objects_of(path, max_bytes, slips), True
    content = read_parquet(path) if path.suffix == ".parquet" else read_json(path, max_bytes)
    rows = []
    for number, record in enumerate(content if isinstance(content, list) else [content], start=1):
        if isinstance(record, dict):
            rows.append((number, record))
        elif slips is None:
            raise FileFormatError(place_of(path, number, False).path, "must be a JSON object")
        else:
            slips.rows.append(LeftOut(str(path), number, "must be a JSON object"))
    return rows, False


def _objects_of(
    path: Path, max_bytes: int = MAX_BYTES, slips: Slips | None = None
) -> list[tuple[int, Record]]:
    """The objects of a JSONL file; a line that is none goes to `slips`, where there are some."""
    errors: list[FileFormatError] = []
    rows = read_jsonl(path, max_bytes, None if slips is None else errors)
    if slips is not None:
        slips.rows.extend(LeftOut(str(path), each.line or 0, each.reason) for each in errors)
    return rows


def read_parquet(path: Path) -> list[Record]:
    """The rows of a Parquet file, the form in which the hub keeps many data sets."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FileFormatError(path, "Parquet needs pyarrow: pip install pyarrow") from None
    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FileFormatError(path, f"is not Parquet: {str(error).splitlines()[0]}") from None


# --- together ------------------------------------------------------------------------------------


def group_facts(facts: Iterable[Fact], category: str) -> Iterator[Relation]:
    """One relation a name; its templates are its facts' wordings, the most frequent first."""
    by_name: dict[str, list[Fact]] = {}
    for fact in facts:
        by_name.setdefault(fact.relation, []).append(fact)
    for name, members in by_name.items():
        counts = Counter(fact.template for fact in members if fact.template)
        templates = tuple(template for template, _ in counts.most_common())
        if len(templates) == 1:  # then the wording is the relation's, and each fact may be paired
            members = [replace(fact, template=None) for fact in members]
        yield Relation(name, category, "", tuple(members), templates)


def _merge(relations: Iterable[Relation]) -> tuple[Relation, ...]:
    """Relations of one name become one; facts that were read before are dropped."""
    merged: dict[str, Relation] = {}
    for each in relations:
        seen = merged.get(each.name)
        if seen:
            each = replace(
                seen,
                facts=seen.facts + each.facts,
                templates=tuple(dict.fromkeys(seen.templates + each.templates)),
                held_out=tuple(dict.fromkeys(seen.held_out + each.held_out)),
            )
        merged[each.name] = each
    unique = {}
    for name, each in merged.items():
        facts: dict[tuple[str | None, ...], Fact] = {}
        for fact in each.facts:
            facts.setdefault((fact.subject, fact.object, fact.template, fact.target), fact)
        if facts:
            unique[name] = replace(each, facts=tuple(facts.values()))
    return tuple(unique.values())


def _could_be_hub_name(source: str | Path) -> bool:
    return isinstance(source, str) and re.fullmatch(r"[\w-]+[\w.-]*/[\w.-]+", source) is not None
