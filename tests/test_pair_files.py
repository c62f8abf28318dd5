"""Pairs from EAP-IG's CSV and the rows of MIB's tasks, beside this project's own lines."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from circuits.base.errors import FileFormatError, PromptError
from circuits.facts.facts import Fact, relation
from circuits.facts.pair_files import holds_pairs, read_pair_file
from circuits.facts.pairs import PromptPair, encode_pair, read_pairs
from circuits.model.tokens import Tokenizer
from locate.asked import examples_of
from locate.examples import as_jsonl
from tests.tiny import byte_level_tokenizer, equal_length_pairs, tiny_model

CLEAN = "When Oslo and Lima met, Oslo wrote to"
FLIPPED = "When Oslo and Lima met, Lima wrote to"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_level_tokenizer())


def ids(tokenizer: Tokenizer, *words: str) -> list[int]:
    return [tokenizer.hf(word, add_special_tokens=False)["input_ids"][0] for word in words]


def table(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ioi(**more: Any) -> dict[str, Any]:
    """A row of MIB's IOI."""
    about = {"indirect_object": "Lima", "subject": "Oslo", "random_c": "Peru"}
    flip = {"prompt": FLIPPED}
    return {"prompt": CLEAN, "metadata": about, "s2_io_flip_counterfactual": flip} | more


def symbols(answer: int, prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "choices": {"label": ["A", "B"]}, "answerKey": answer}


# --- EAP-IG's CSV --------------------------------------------------------------------------------


def test_ids_of_a_csv_are_answer_and_foil_as_they_are(tokenizer: Tokenizer, tmp_path: Path):
    right, wrong = ids(tokenizer, " Lima", " Oslo")
    row = {"": 7, "clean": CLEAN, "corrupted": FLIPPED, "correct_idx": right}
    path = table(tmp_path / "ioi.csv", row | {"incorrect_idx": wrong})
    [pair], notes = read_pair_file(path).encoded(tokenizer)
    assert (pair.answer, pair.foil) == (right, wrong)
    assert (pair.text.answer, pair.text.foil) == ("Lima", "Oslo")
    assert notes == ()
    again = tmp_path / "pairs.jsonl"
    again.write_text(as_jsonl([pair]))
    assert encode_pair(tokenizer, read_pairs(again)[0]) == pair


def test_ids_of_another_model_are_no_answer(tokenizer: Tokenizer, tmp_path: Path):
    row = {"clean": CLEAN, "corrupted": FLIPPED}
    far = row | {"correct_idx": 47764, "incorrect_idx": 26757}
    with pytest.raises(FileFormatError, match=r"far\.csv:2: token 47764 is none of this model's"):
        read_pair_file(table(tmp_path / "far.csv", far)).encoded(tokenizer)
    right, wrong = ids(tokenizer, " krone", " Tokyo")
    odd = row | {"correct_idx": right, "incorrect_idx": wrong}
    _, notes = read_pair_file(table(tmp_path / "odd.csv", odd)).encoded(tokenizer)
    assert "of which none stands in its prompts" in notes[0]
    pair = PromptPair(CLEAN, FLIPPED, "Lima", "Oslo", tokens=(right, wrong))
    with pytest.raises(PromptError, match="not 'Lima': the pair is of another model"):
        encode_pair(tokenizer, pair)


def test_a_label_sets_later_years_against_the_others(tokenizer: Tokenizer, tmp_path: Path):
    texts = [f"The war lasted from the year 13{end} to the year 13" for end in (52, 99, "01")]
    rows = [{"clean": texts[i], "corrupted": texts[2], "label": n} for i, n in ((0, 52), (1, 99))]
    file = read_pair_file(table(tmp_path / "years.csv", *rows))
    pairs, notes = file.encoded(tokenizer)
    assert [pair.text.clean for pair in pairs] == [texts[0]]
    assert "1 of 2 rows cannot be asked" in notes[0]
    [pair] = pairs
    endings = {ending for side in (pair.text.answers, pair.text.foils) for ending in side}
    whole = all(len(ending) == 2 for ending in endings)
    year = 52 if whole else 5
    assert all(int(each) > year for each in pair.text.answers)
    assert all(int(each) <= year for each in pair.text.foils)
    assert len(endings) == (100 if whole else 9)


def test_a_csv_may_hold_texts(tokenizer: Tokenizer, tmp_path: Path):
    row = {"clean": CLEAN, "corrupted": FLIPPED, "answer": "Lima", "foil": "Oslo"}
    path = table(tmp_path / "pairs.csv", row)
    assert read_pair_file(path).texts(tokenizer) == [PromptPair(**row)]
    assert holds_pairs(path)
    assert not holds_pairs(table(tmp_path / "facts.csv", {"subject": "Peru", "object": "Lima"}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"corrupted": "b"}, ":1: has no column 'clean'"),
        ({"clean": "a", "corrupted": "b"}, ":1: needs the columns correct_idx"),
        ({"clean": "a", "corrupted": "b", "label": "soon"}, ":2: 'label' must be a whole number"),
        ({"clean": "a", "corrupted": "b", "label": "100"}, ":2: 'label' must be a whole number"),
        ({"clean": "", "corrupted": "b", "label": "3"}, ":2: 'clean' must be text"),
    ],
)
def test_a_csv_of_no_form_is_refused_by_line(row: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(FileFormatError, match=f"bad.csv{said}"):
        read_pair_file(table(tmp_path / "bad.csv", row))


# --- MIB's tasks ---------------------------------------------------------------------------------


def test_rows_of_mib_have_the_first_tokens_that_its_track_takes(
    tokenizer: Tokenizer, tmp_path: Path
):
    choice = symbols(0, "What is it? A or B, answer:")
    other = symbols(1, "What is it? B or A, answer:")
    sums = {"prompt": "4 + 5 =", "label": 9, "operator": "+"}
    rows = (
        (ioi(), (" Lima", " Oslo")),
        (choice | {"symbol_counterfactual": other}, ("A", "B")),
        (sums | {"random_counterfactual": {"prompt": "3 + 5 =", "label": 8}}, ("9", "8")),
    )
    for number, (row, sides) in enumerate(rows):
        paths = [lines(tmp_path / f"{number}.jsonl", row), tmp_path / f"{number}.json"]
        paths[1].write_text(json.dumps([row]))
        for path in paths:
            [pair] = read_pair_file(path).texts(tokenizer)
            assert (pair.clean, list(pair.tokens)) == (row["prompt"], ids(tokenizer, *sides))
    assert holds_pairs(tmp_path / "0.jsonl")


def test_rows_that_mib_leaves_out_and_unequal_prompts_are_counted(
    tokenizer: Tokenizer, tmp_path: Path
):
    uneven = {"indirect_object": "Wolverhampton", "subject": "Oslo", "random_c": "Lima"}
    longer = {"prompt": f"{FLIPPED} his brother"}
    rows = ioi(), ioi(metadata=uneven), ioi(s2_io_flip_counterfactual=longer)
    pairs, notes = read_pair_file(lines(tmp_path / "ioi.jsonl", *rows)).encoded(tokenizer)
    assert len(pairs) == 1
    assert "2 of 3 rows cannot be asked of this model and are left out, the first at 2" in notes[0]
    file = read_pair_file(lines(tmp_path / "none.jsonl", *rows[1:]))
    with pytest.raises(FileFormatError, match="no row can be asked of this model"):
        file.encoded(tokenizer)


@pytest.mark.parametrize("lost", ["metadata", "prompt", "s2_io_flip_counterfactual"])
def test_a_row_that_lacks_what_the_task_has_is_refused(lost: str, tmp_path: Path):
    row = {name: value for name, value in ioi().items() if name != lost}
    (tmp_path / "rows.json").write_text(json.dumps([ioi(), row]))
    with pytest.raises(FileFormatError, match=r"rows\.json: row 2 "):
        read_pair_file(tmp_path / "rows.json")


# --- everywhere ----------------------------------------------------------------------------------


def test_a_line_of_our_own_that_cannot_be_asked_is_an_error(tokenizer: Tokenizer, tmp_path: Path):
    good = PromptPair(CLEAN, FLIPPED, "Lima", "Oslo").as_dict()
    path = lines(tmp_path / "own.jsonl", good, good | {"corrupted": "Short"})
    with pytest.raises(FileFormatError, match=r"own\.jsonl:2: .* differ in length"):
        read_pair_file(path).encoded(tokenizer)


@pytest.mark.parametrize("tokens", [[1], [1, -2], "12", [1, True], [1, 2, 3]])
def test_tokens_of_a_line_are_two_ids(tokens: Any, tmp_path: Path):
    good = PromptPair(CLEAN, FLIPPED, "Lima", "Oslo").as_dict()
    with pytest.raises(FileFormatError, match="'tokens' must be the ids"):
        read_pairs(lines(tmp_path / "own.jsonl", good | {"tokens": tokens}))


def test_a_file_of_another_tool_is_asked_about_by_its_path(tmp_path: Path):
    model = tiny_model("gpt2")
    right, wrong = ids(model.tokenizer, " Lima", " Oslo")
    row = {"clean": CLEAN, "corrupted": FLIPPED, "correct_idx": right, "incorrect_idx": wrong}
    found = examples_of(model, table(tmp_path / "ioi.csv", row))
    assert [(pair.answer, pair.foil) for pair in found.pairs] == [(right, wrong)]
    assert found.pairs == examples_of(model, lines(tmp_path / "ioi.jsonl", ioi())).pairs


@dataclass(frozen=True)
class Noted(PromptPair):
    """A user's own pairs, with what only the user knows of them."""

    note: object = None


@dataclass(frozen=True)
class Sourced(Fact):
    """A user's own facts."""

    source: str = ""


def test_pairs_and_facts_of_ones_own_classes_are_pairs_and_facts():
    model = tiny_model("gpt2")
    pairs = [pair.text for pair in equal_length_pairs(model)]
    own = [Noted(**vars(pair), note=object()) for pair in pairs]
    plain = examples_of(model, pairs)
    for mixed in (own, [*own[:1], *pairs[1:]]):
        found = examples_of(model, mixed)
        assert as_jsonl(found.pairs) == as_jsonl(plain.pairs)
        assert found.fingerprint == plain.fingerprint
    facts = relation("country_capital").facts[:12]
    asked: dict[str, Any] = {"known_only": False, "hold_out": 0.0}
    plain = examples_of(model, facts, **asked)
    found = examples_of(model, [Sourced(**vars(each), source="mine") for each in facts], **asked)
    assert found.pairs == plain.pairs
    assert len(found.pairs) > 3
