"""Clean and corrupted prompts side by side, tokenised, checked and batched.

A pair asks the same question about two subjects: the clean prompt's object is the answer, the
corrupted prompt's is the foil. Both prompts have the same number of tokens. Batches hold prompts
of one length only, so nothing is ever padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.records import read_jsonl, text_field
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Span, Tokenizer


@dataclass(frozen=True)
class PromptPair:
    """One example as text; answer and foil without leading space.

    `start` is the character at which the question begins in both prompts, after demonstrations.
    """

    clean: str
    corrupted: str
    answer: str
    foil: str
    subject: str | None = None
    relation: str | None = None
    start: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set, as the lines of a `--pairs` file."""
        return {name: value for name, value in vars(self).items() if value not in (None, 0)}


@dataclass(frozen=True)
class TokenPair:
    """One example as tokens. `answer` and `foil` are the first continuation tokens that differ.

    What both continuations begin with stands at the end of both prompts. `start` is the token
    position at which the question begins, 0 where no demonstrations stand before it. `tokenizer` is
    the fingerprint of the one that made them.
    """

    text: PromptPair
    clean: Prompt
    corrupted: Prompt
    answer: int
    foil: int
    subject: Span | None
    tokenizer: str
    start: int = 0

    @property
    def first_difference(self) -> int:
        """First position at which the two prompts' tokens differ."""
        pairs = zip(self.clean.ids, self.corrupted.ids, strict=True)
        return next(i for i, (left, right) in enumerate(pairs) if left != right)


@dataclass(frozen=True)
class PairBatch:
    """Examples of one length as tensors; `index` gives each row's place in the caller's list."""

    index: tuple[int, ...]
    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    answer: Int[Tensor, " batch"]
    foil: Int[Tensor, " batch"]
    first_difference: int

    def __len__(self) -> int:
        return len(self.index)


def encode_pair(tokenizer: Tokenizer, pair: PromptPair, bos: bool | None = None) -> TokenPair:
    """Tokenise and check one pair; PromptError names the prompt and the mistake."""
    clean, corrupted = tokenizer.encode(pair.clean, bos), tokenizer.encode(pair.corrupted, bos)
    if len(clean) != len(corrupted):
        raise PromptError(
            f"clean and corrupted prompt differ in length: {len(clean)} tokens {_show(clean)} "
            f"against {len(corrupted)} tokens {_show(corrupted)}"
        )
    if clean.ids == corrupted.ids:
        raise PromptError(f"clean and corrupted prompt are the same: {pair.clean!r}")
    answer = tokenizer.continuation(pair.clean, pair.answer)
    foil = tokenizer.continuation(pair.corrupted, pair.foil)
    begun = shared_length(answer, foil)
    if begun == min(len(answer), len(foil)):
        raise PromptError(
            f"answer {pair.answer!r} and foil {pair.foil!r} of {pair.clean!r} begin with the same "
            f"token {tokenizer.token_string(answer[0])!r} and do not differ later, so no score can "
            "tell them apart"
        )
    subject = None if pair.subject is None else clean.span_of(pair.subject, pair.start)
    start = clean.span_at(pair.start, len(clean.text)).start if pair.start else 0
    if begun:
        clean = tokenizer.begun(clean, pair.answer, begun)
        corrupted = tokenizer.begun(corrupted, pair.foil, begun)
    made_by = tokenizer.fingerprint
    return TokenPair(pair, clean, corrupted, answer[begun], foil[begun], subject, made_by, start)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two continuations have in common at their beginning."""
    steps = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(steps) if a != b), min(len(one), len(other)))


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[PromptPair], bos: bool | None = None
) -> list[TokenPair]:
    """Tokenise and check pairs; an error says which pair it is, counted from 1."""
    if not pairs:
        raise OptionError("there are no prompt pairs to work on")
    encoded = []
    for number, pair in enumerate(pairs, start=1):
        try:
            encoded.append(encode_pair(tokenizer, pair, bos))
        except PromptError as error:
            raise PromptError(f"pair {number}: {error}") from None
    return encoded


def batches(
    pairs: Sequence[TokenPair], batch_size: int, model: Model | None = None
) -> Iterator[PairBatch]:
    """Batches of equal length, at most `batch_size` rows each, in order of length.

    They are on the model's device; PromptError for pairs that another tokenizer made.
    """
    if batch_size < 1:
        raise OptionError(f"batch size must be at least 1, not {batch_size}")
    device = "cpu" if model is None else model.device
    if model is not None and {pair.tokenizer for pair in pairs} - {model.tokenizer.fingerprint}:
        raise PromptError(
            f"these pairs were tokenised for another model than {model.name!r}; encode them again "
            "with its tokenizer"
        )
    by_length: dict[int, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_length.setdefault(len(pair.clean), []).append(index)
    for length in sorted(by_length):
        members = by_length[length]
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]

            def tensor(values: list[Any]) -> Tensor:
                return torch.tensor(values, device=device)

            yield PairBatch(
                index=tuple(rows),
                clean=tensor([pairs[i].clean.ids for i in rows]),
                corrupted=tensor([pairs[i].corrupted.ids for i in rows]),
                answer=tensor([pairs[i].answer for i in rows]),
                foil=tensor([pairs[i].foil for i in rows]),
                first_difference=min(pairs[i].first_difference for i in rows),
            )


def read_pairs(path: str | Path) -> list[PromptPair]:
    """Pairs from a JSONL file: clean, corrupted, answer, foil and optionally subject, relation."""
    pairs = [pair_from_record(record, path, line) for line, record in read_jsonl(path)]
    if not pairs:
        raise FileFormatError(path, "holds no pairs")
    return pairs


def pair_from_record(record: dict[str, Any], path: str | Path, line: int) -> PromptPair:
    """A pair from its fields; FileFormatError names what is missing or no text."""
    optional = [name for name in ("subject", "relation") if record.get(name) is not None]
    names = ["clean", "corrupted", "answer", "foil", *optional]
    checked = {name: text_field(record, name, path, line) for name in names}
    start = record.get("start", 0)
    if not isinstance(start, int) or not 0 <= start < len(record["clean"]):
        reason = f"'start' must be a character of the prompts, not {start!r:.40}"
        raise FileFormatError(path, reason, line)
    # White space at a prompt's end stays: it is a mistake, and tokenising reports it.
    words = {name: record[name] for name in ("clean", "corrupted")}
    return PromptPair(**checked | words, start=start)


def _show(prompt: Prompt) -> str:
    return "[" + "|".join(prompt.tokens) + "]"
