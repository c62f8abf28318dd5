"""Files of prompt pairs: this project's lines, EAP-IG's CSV, and the rows of MIB's tasks.

- Lines (JSONL) with `clean`, `corrupted`, `answer`, `foil` and what else a pair has.
- EAP-IG's CSV (Hanna et al. 2024) has the columns `clean` and `corrupted` and one of: `correct_idx`
  and `incorrect_idx`, token ids of the model that it was made for; `label`, the last two digits of
  the year that later ones are told from (Greater-Than); `answer` and `foil`.
- MIB's tasks (Mueller et al. 2025) as JSONL, a JSON list or Parquet, told by their fields, with the
  counterfactual that its circuit track uses: IOI's names exchanged (`s2_io_flip_counterfactual`),
  MCQA's and ARC's symbols (`symbol_counterfactual`), arithmetic's `random_counterfactual`. Answer
  and foil are the first tokens of the texts by themselves, as there; IOI's names get a space. Rows
  that MIB leaves out for a tokenizer are left out: names or symbols of different lengths, results
  of several tokens.

A row that a tokenizer cannot ask, above all with prompts of different length, is an error in lines
of this project, and left out and counted in the others', which were made for another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, PromptError
from circuits.base.records import parse_json, read_csv, read_json, read_jsonl, text_field
from circuits.facts.loaders import read_parquet
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair, pair_from_record, read_token
from circuits.facts.tasks import has_whole_endings, year_ends
from circuits.model.tokens import Tokenizer

Record = dict[str, Any]
Maker = Callable[[Tokenizer], PromptPair]
"""A row as a pair for a tokenizer; PromptError where that cannot ask it."""
_FLIP, _SYMBOL, _RANDOM = (
    *("s2_io_flip_counterfactual", "symbol_counterfactual"),
    "random_counterfactual",
)


@dataclass(frozen=True)
class PairFile:
    """The rows of a file of pairs by line, or by place in a JSON list or a table.

    `lenient`: what cannot be asked is left out. `by_id`: answers are token ids and nothing else.
    """

    path: Path
    rows: tuple[tuple[int, Maker], ...]
    lenient: bool = False
    by_id: bool = False

    def texts(self, tokenizer: Tokenizer) -> list[PromptPair]:
        """The pairs as text; rows that cannot be asked are left out of a lenient file."""
        return [pair for _, pair in self._made(tokenizer, lambda pair: pair)[0]]

    def encoded(
        self, tokenizer: Tokenizer, bos: bool | None = None
    ) -> tuple[list[TokenPair], tuple[str, ...]]:
        """The pairs as tokens, and notes on what was left out; FileFormatError names the line."""
        tokenizer.use_bos(bos)  # a wrong choice is no line's mistake
        made, left_out = self._made(tokenizer, lambda pair: encode_pair(tokenizer, pair, bos))
        pairs, notes = [pair for _, pair in made], []
        if left_out:
            line, reason = left_out[0]
            notes.append(
                f"{self.path}: {len(left_out)} of {len(self.rows)} rows cannot be asked of this "
                f"model and are left out, the first at {line}: {reason}"
            )
        if self.by_id and not any(_shows_an_answer(pair.text) for pair in pairs):
            notes.append(
                f"{self.path}: its token ids read as words of which none stands in its prompts; "
                "are they this model's?"
            )
        return pairs, tuple(notes)

    def _made(
        self, tokenizer: Tokenizer, finish: Callable[[PromptPair], Any]
    ) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
        made: list[tuple[int, Any]] = []
        left_out: list[tuple[int, str]] = []
        for line, make in self.rows:
            try:
                made.append((line, finish(make(tokenizer))))
            except PromptError as error:
                if not self.lenient:
                    raise FileFormatError(self.path, str(error), line) from None
                left_out.append((line, str(error)))
        if not made:
            line, reason = left_out[0]
            raise FileFormatError(self.path, f"no row can be asked of this model: {reason}", line)
        return made, left_out


def read_pair_file(path: str | Path) -> PairFile:
    """A file of pairs of any of the forms; FileFormatError names the line that is of none."""
    path = Path(path)
    if path.suffix.lower() == ".csv":
        found = _read_csv(path)
    elif path.suffix.lower() in (".json", ".parquet"):
        rows = tuple((number, _mib(record, path, number)) for number, record in _listed(path))
        found = PairFile(path, rows, lenient=True)
    else:
        found = _read_lines(path)
    if not found.rows:
        raise FileFormatError(path, "holds no pairs")
    return found


def holds_pairs(path: Path) -> bool:
    """Whether the first row of a CSV or JSONL file is a prompt pair and no fact."""
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in islice(file, 100) if line.strip()), "{}")
    if path.suffix == ".csv":
        return {"clean", "corrupted"} <= {name.strip() for name in first.split(",")}
    record = parse_json(first, path, 1)
    return isinstance(record, dict) and ("clean" in record or _is_mib(record))


def _shows_an_answer(pair: PromptPair) -> bool:
    return pair.answer in pair.clean or pair.foil in pair.clean


def _read_lines(path: Path) -> PairFile:
    """JSONL: this project's lines or MIB's rows, by what the first is."""
    records = read_jsonl(path)
    if records and _is_mib(records[0][1]):
        return PairFile(path, tuple((n, _mib(row, path, n)) for n, row in records), lenient=True)
    return PairFile(path, tuple((n, _always(pair_from_record(row, path, n))) for n, row in records))


def _always(pair: PromptPair) -> Maker:
    return lambda _: pair


# --- EAP-IG's CSV --------------------------------------------------------------------------------


def _read_csv(path: Path) -> PairFile:
    rows = list(read_csv(path, ("clean", "corrupted")))
    columns = set(rows[0][1]) if rows else set()
    if {"correct_idx", "incorrect_idx"} <= columns:
        made = [(line, _of_ids(row, path, line)) for line, row in rows]
        return PairFile(path, tuple(made), lenient=True, by_id=True)
    if "label" in columns:
        return PairFile(path, tuple((n, _of_year(row, path, n)) for n, row in rows), lenient=True)
    if rows and not {"answer", "foil"} <= columns:
        raise FileFormatError(
            path,
            "needs the columns correct_idx and incorrect_idx (token ids), label (a year's last two "
            "digits), or answer and foil",
            1,
        )
    kept = ("clean", "corrupted", "answer", "foil", "subject", "relation")
    filled = [(n, {name: row[name] for name in kept if row.get(name)}) for n, row in rows]
    return PairFile(path, tuple((n, _always(pair_from_record(row, path, n))) for n, row in filled))


def _of_ids(row: Mapping[str, str], path: Path, line: int) -> Maker:
    clean, corrupted = (text_field(dict(row), name, path, line) for name in ("clean", "corrupted"))
    answer, foil = (
        _whole(row[name], name, path, line, 2**31) for name in ("correct_idx", "incorrect_idx")
    )

    def make(tokenizer: Tokenizer) -> PromptPair:
        if max(answer, foil) >= len(tokenizer.hf):  # then all its ids are another model's
            reason = f"token {max(answer, foil)} is none of this model's: the file is for another"
            raise FileFormatError(path, reason, line)
        return _by_id(tokenizer, clean, corrupted, answer, foil)

    return make


def _of_year(row: Mapping[str, str], path: Path, line: int) -> Maker:
    clean, corrupted = (text_field(dict(row), name, path, line) for name in ("clean", "corrupted"))
    year = _whole(row["label"], "label", path, line, 99)

    def make(tokenizer: Tokenizer) -> PromptPair:
        later, earlier = year_ends(year, has_whole_endings(tokenizer))
        if not later or not earlier:
            raise PromptError(f"no ending of a year is both sides of {year:02d} in this tokenizer")
        first = later[0], earlier[0]
        return PromptPair(clean, corrupted, *first, answers=later, foils=earlier, exact=True)

    return make


def _whole(text: str, name: str, path: Path, line: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:12]) > most:
        raise FileFormatError(path, f"{name!r} must be a whole number, not {text!r:.40}", line)
    return int(text)


def _by_id(tokenizer: Tokenizer, clean: str, corrupted: str, answer: int, foil: int) -> PromptPair:
    if answer == foil:
        raise PromptError(f"answer and foil of {clean!r} are the same token {answer}")
    texts = read_token(tokenizer, answer), read_token(tokenizer, foil)
    return PromptPair(clean, corrupted, *texts, tokens=(answer, foil))


# --- MIB's tasks ---------------------------------------------------------------------------------


def _listed(path: Path) -> list[tuple[int, Record]]:
    content = read_parquet(path) if path.suffix.lower() == ".parquet" else read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise FileFormatError(path, "is no list of rows")
    return list(enumerate(content, start=1))


def _is_mib(record: Mapping[str, Any]) -> bool:
    return "prompt" in record and any(name in record for name in (_FLIP, _SYMBOL, _RANDOM))


def _mib(record: Record, path: Path, line: int) -> Maker:
    """A row of one of MIB's tasks."""
    if not isinstance(record.get("prompt"), str) or not _is_mib(record):
        raise FileFormatError(
            path,
            f"row {line} is none of MIB's tasks: it lacks the key 'prompt' or a counterfactual",
        )
    clean = str(record["prompt"])
    try:
        if _FLIP in record:
            return _names(record, clean)
        if _SYMBOL in record:
            other = record[_SYMBOL]
            sides = _symbol(record), _symbol(other)
            return _first_tokens(clean, other["prompt"], sides, alike=True)
        other = record[_RANDOM]
        if not other or not other.get("prompt"):
            return _refusing("the row has no counterfactual, and MIB leaves it out")
        sides = str(record["label"]), str(other["label"])
        return _first_tokens(clean, other["prompt"], sides, alike=False)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        reason = f"row {line} lacks what a row of MIB's task has: {error!s:.60}"
        raise FileFormatError(path, reason) from None


def _names(record: Record, clean: str) -> Maker:
    about, corrupted = record["metadata"], record[_FLIP]["prompt"]
    answer, foil, third = (f" {about[name]}" for name in ("indirect_object", "subject", "random_c"))
    return _first_tokens(clean, corrupted, (answer, foil), alike=True, also=(third,))


def _symbol(row: Record) -> str:
    return str(row["choices"]["label"][row["answerKey"]])


def _refusing(reason: str) -> Maker:
    def make(tokenizer: Tokenizer) -> PromptPair:
        raise PromptError(reason)

    return make


def _first_tokens(
    clean: str,
    corrupted: Any,
    sides: tuple[str, str],
    alike: bool,
    also: tuple[str, ...] = (),
) -> Maker:
    """A pair of the first tokens; all must be `alike` in length, or a single token each."""
    if not isinstance(corrupted, str):
        raise TypeError("the counterfactual's prompt")

    def make(tokenizer: Tokenizer) -> PromptPair:
        ids = [
            tokenizer.hf(text, add_special_tokens=False)["input_ids"] for text in (*sides, *also)
        ]
        lengths = {len(each) for each in ids}
        if 0 in lengths or (len(lengths) > 1 if alike else lengths != {1}):
            wanted = "as many tokens" if alike else "one token"
            names = ", ".join(repr(text) for text in (*sides, *also))
            raise PromptError(f"{names} are not {wanted} each, and MIB leaves the row out")
        return _by_id(tokenizer, clean, corrupted, ids[0][0], ids[1][0])

    return make
