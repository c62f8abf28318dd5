"""Pairs are checked before any model runs, and batching loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.facts.batches import batches
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair, encode_pairs, read_pairs
from circuits.model.tokens import Tokenizer
from tests.tiny import byte_level_tokenizer, metaspace_tokenizer, prompt_pairs

TOKENIZERS = {
    "gpt2": Tokenizer(byte_level_tokenizer()),
    "llama": Tokenizer(metaspace_tokenizer()),
}
PAIR = PromptPair("The capital of France is", "The capital of Japan is", "Paris", "Tokyo", "France")


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


@pytest.mark.parametrize("bos", [True, False])
def test_a_pair_keeps_its_answer_foil_span_and_first_difference(tokenizer: Tokenizer, bos: bool):
    pair = encode_pair(tokenizer, PAIR, bos)
    assert pair.clean == tokenizer.encode(PAIR.clean, bos)
    assert pair.answer == tokenizer.first_token(PAIR.clean, "Paris")
    assert pair.foil == tokenizer.first_token(PAIR.corrupted, "Tokyo")
    assert pair.subject == pair.clean.span_of("France")
    assert pair.first_difference == pair.subject.start
    assert pair.clean.ids[: pair.first_difference] == pair.corrupted.ids[: pair.first_difference]


def test_different_lengths_show_both_tokenisations(tokenizer: Tokenizer):
    longer = PromptPair(PAIR.clean, "The capital of South Korea is", "Paris", "Seoul")
    with pytest.raises(PromptError, match="differ in length") as caught:
        encode_pair(tokenizer, longer)
    for text in (longer.clean, longer.corrupted):
        prompt = tokenizer.encode(text)
        assert f"{len(prompt)} tokens [{'|'.join(prompt.tokens)}]" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrupted": PAIR.clean}, "are the same"),
        ({"foil": "Paris"}, "begin with the same token"),
        ({"subject": "Japan"}, "subject 'Japan' is not in the prompt"),
        ({"answer": ""}, "is empty"),
        ({"clean": " "}, "prompt is empty"),
    ],
)
def test_a_senseless_pair_is_refused_and_its_number_named(
    tokenizer: Tokenizer, change: dict[str, str], message: str
):
    bad = PromptPair(**{**PAIR.as_dict(), **change})
    with pytest.raises(PromptError, match=rf"pair 2: .*{message}"):
        encode_pairs(tokenizer, [PAIR, bad])


def test_no_pairs_is_an_error():
    with pytest.raises(OptionError, match="no prompt pairs"):
        encode_pairs(TOKENIZERS["gpt2"], [])


def _many(tokenizer: Tokenizer) -> list[TokenPair]:
    encoded = []
    for pair in prompt_pairs() * 2:
        try:
            encoded.append(encode_pair(tokenizer, pair))
        except PromptError:
            continue
    return encoded


MANY = {name: _many(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", list(TOKENIZERS))
@given(order=st.randoms(use_true_random=False), batch_size=st.integers(1, 12))
def test_batches_hold_every_row_once_whatever_their_order_and_size(
    name: str, order, batch_size: int
):
    pairs = list(MANY[name])
    assert len({len(pair.clean) for pair in pairs}) > 1, "several lengths are needed here"
    order.shuffle(pairs)
    seen = []
    for batch in batches(pairs, batch_size):
        assert 1 <= len(batch) <= batch_size
        for row, index in enumerate(batch.index):
            pair = pairs[index]
            assert tuple(batch.clean[row].tolist()) == pair.clean.ids
            assert tuple(batch.corrupted[row].tolist()) == pair.corrupted.ids
            assert (int(batch.answer[row]), int(batch.foil[row])) == (pair.answer, pair.foil)
            assert batch.first_difference <= pair.first_difference
        shared = slice(None, batch.first_difference)
        assert (batch.clean[:, shared] == batch.corrupted[:, shared]).all()
        assert (batch.clean[:, batch.first_difference] !=
                batch.corrupted[:, batch.first_difference]).any()  # fmt: skip
        seen.extend(batch.index)
    assert sorted(seen) == list(range(len(pairs)))


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_size_below_one_is_refused(size: int):
    with pytest.raises(OptionError, match="at least 1"):
        list(batches(MANY["gpt2"], size))


def test_pairs_written_as_lines_are_read_back(tmp_path: Path):
    pairs = [*prompt_pairs(), PromptPair("Q: a?\u2028A:", "Q: b?\u2028A:", "é", "ö")]
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(pair.as_dict(), ensure_ascii=False) for pair in pairs]
    path.write_text("\ufeff" + "\r\n\n".join(lines), encoding="utf-8")
    assert read_pairs(path) == pairs


GOOD = json.dumps(PAIR.as_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.jsonl: holds no pairs"),
        (f"{GOOD}\n\n{{", "p.jsonl:3: not JSON"),
        (f"{GOOD}\n[]", "p.jsonl:2: must be a JSON object"),
        (f"{GOOD}\n{{}}", "p.jsonl:2: lacks the key 'clean'"),
        (f"{GOOD}\n{GOOD.replace('foil', 'fool')}", "p.jsonl:2: lacks the key 'foil'"),
        (GOOD.replace('"Paris"', '""'), "p.jsonl:1: 'answer' must be text and not empty"),
        (GOOD.replace('"Paris"', "3"), "p.jsonl:1: 'answer' must be text and not empty"),
        (GOOD.replace('"Paris"', "NaN"), "p.jsonl:1: not usable JSON: the constant NaN"),
        (GOOD.replace('"Paris"', "9" * 5000), "p.jsonl:1: not usable JSON"),
        (GOOD.replace('"Paris"', "[" * 200_000), "p.jsonl:1: .*nested too deeply"),
        (GOOD.replace("Paris", "\\udc00"), "p.jsonl:1: 'answer' holds half of a surrogate"),
    ],
)
def test_a_mistake_in_a_pairs_file_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "p.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        read_pairs(path)


def test_a_missing_or_unreadable_pairs_file_is_named(tmp_path: Path):
    with pytest.raises(FileFormatError, match=r"gone\.jsonl: no such file"):
        read_pairs(tmp_path / "gone.jsonl")
    with pytest.raises(FileFormatError, match="not a regular file"):
        read_pairs(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b"\n\xe9")
    with pytest.raises(FileFormatError, match=r"latin\.jsonl:2: is not UTF-8"):
        read_pairs(tmp_path / "latin.jsonl")
