"""Clean and corrupted prompts side by side, tokenised and checked.

A pair asks the same question about two subjects: the clean prompt's object is the answer, the
corrupted prompt's is the foil. Or it is a task that is no fact, such as which verb agrees: then it
names no subject, and may name spans of the clean prompt instead, take several answers and foils,
and have them exact to the token. Both prompts have the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.records import read_jsonl, text_field
from circuits.model.tokens import Prompt, Span, Tokenizer, find_mentions, occurrences

SUBJECT = "subject"
"""The span that says where the subject stands."""
_LISTS = ("answers", "foils", "tokens")


@dataclass(frozen=True)
class PromptPair:
    """One example as text; answer and foil without leading space, unless they are `exact`.

    `answers` and `foils` are all that count as such, with the first of each as `answer` and `foil`;
    none: these alone. `spans` are (name, text, which of its occurrences, counted from 1; 0: its one
    mention as a whole word) in the clean prompt; one named "subject" is the subject's place.
    `start` is the character at which the question begins in both prompts, after demonstrations or
    the beginning of a chat.
    `tokens` are answer and foil as token ids of one model, where a file of pairs names them so;
    then they are not tokenised, and `answer` and `foil` are what these tokens read as.
    """

    clean: str
    corrupted: str
    answer: str
    foil: str
    subject: str | None = None
    relation: str | None = None
    answers: tuple[str, ...] = ()
    foils: tuple[str, ...] = ()
    spans: tuple[tuple[str, str, int], ...] = ()
    exact: bool = False
    start: int = 0
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clean", "corrupted", "answer", "foil"):
            if not isinstance(value := getattr(self, name), str):
                raise OptionError(f"`{name}` of a pair is a text, not {value!r:.40}")
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("answer", "foil"):
            several = getattr(self, f"{name}s")
            if several and several[0] != getattr(self, name):
                raise OptionError(f"`{name}` of a pair is the first of its `{name}s`")
        spans = self.spans.items() if isinstance(self.spans, Mapping) else self.spans
        object.__setattr__(self, "spans", tuple(map(_span, spans)))

    @property
    def named_subject(self) -> str | None:
        """The subject's text, by its span where that alone names it; None where none is named."""
        spans = {name: text for name, text, _ in self.spans}
        found = self.subject or spans.get(SUBJECT)
        return (found or "").strip() or None

    @property
    def subject_places(self) -> list[tuple[int, int]]:
        """Character ranges of the clean prompt that the subject may stand at, in order.

        The one that its span counts, else its mentions as whole words; none where none is named.
        """
        text, nth = next(
            ((text, nth) for name, text, nth in self.spans if name == SUBJECT), ("", 0)
        )
        text = (text or self.subject or "").strip()
        if not text:
            return []
        return (
            occurrences(self.clean, text)[nth - 1 : nth] if nth else find_mentions(self.clean, text)
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set, as the lines of a pair file, without those of a subclass."""
        names = [each.name for each in fields(PromptPair)]
        found: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name)}
        found |= {name: list(found[name]) for name in _LISTS if name in found}
        if self.spans:
            found["spans"] = {name: [text, nth] for name, text, nth in self.spans}
        return found


@dataclass(frozen=True)
class TokenPair:
    """One example as tokens. `answer` and `foil` are the first continuation tokens that differ.

    What both continuations begin with stands at the end of both prompts. `answers` and `foils` are
    all that count, these included. `tokenizer` is the fingerprint of the one that made them.
    `start` is the token position at which the question begins, 0 where nothing stands
    before it.
    """

    text: PromptPair
    clean: Prompt
    corrupted: Prompt
    answer: int
    foil: int
    subject: Span | None
    tokenizer: str
    answers: tuple[int, ...] = ()
    foils: tuple[int, ...] = ()
    spans: tuple[tuple[str, Span], ...] = ()
    start: int = 0

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """All tokens that count as the answer, and all that count as the foil."""
        return self.answers or (self.answer,), self.foils or (self.foil,)

    @property
    def first_difference(self) -> int:
        """First position at which the two prompts' tokens differ."""
        pairs = zip(self.clean.ids, self.corrupted.ids, strict=True)
        return next(i for i, (left, right) in enumerate(pairs) if left != right)


def clean_prompts(pairs: Sequence[TokenPair]) -> list[int]:
    """For each pair the number of its clean prompt, equal where the same question is asked."""
    numbers: dict[tuple[int, ...], int] = {}
    return [numbers.setdefault(tuple(pair.clean.ids), len(numbers)) for pair in pairs]


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
    answers, foils = _named(tokenizer, pair) if pair.tokens else _continuations(tokenizer, pair)
    # Sets and exact answers count by their first token; a single answer by the first that differs.
    single = not (pair.answers or pair.foils or pair.exact or pair.tokens)
    begun = shared_length(answers[0], foils[0]) if single else 0
    wanted, unwanted = (
        tuple(dict.fromkeys(each[begun] for each in side if len(each) > begun))
        for side in (answers, foils)
    )
    shared = [token for token in wanted if token in unwanted]
    if shared or not (wanted and unwanted):
        first = tokenizer.token_string(shared[0] if shared else answers[0][0])
        raise PromptError(
            f"answer {pair.answer!r} and foil {pair.foil!r} of {pair.clean!r} begin with the same "
            f"token {first!r}, so no score can tell them apart"
        )
    spans = {name: clean.span_of(text, nth) for name, text, nth in pair.spans}
    subject = spans.pop(SUBJECT, None)
    if subject is None and pair.subject is not None:
        subject = clean.span_of(pair.subject)
    start = clean.span_at(pair.start, len(clean.text)).start if pair.start else 0
    if begun:
        clean = tokenizer.begun(clean, pair.answer, begun)
        corrupted = tokenizer.begun(corrupted, pair.foil, begun)
    sets = (wanted, unwanted) if pair.answers or pair.foils else ((), ())
    return TokenPair(
        pair,
        clean,
        corrupted,
        wanted[0],
        unwanted[0],
        subject,
        tokenizer.fingerprint,
        *sets,
        tuple(spans.items()),
        start,
    )


Sides = tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]


def _continuations(tokenizer: Tokenizer, pair: PromptPair) -> Sides:
    """The tokens of every answer after the clean prompt, and of every foil after the other."""
    answers, foils = (
        tuple(dict.fromkeys(tokenizer.continuation(prompt, each, pair.exact) for each in chosen))
        for prompt, chosen in (
            (pair.clean, pair.answers or (pair.answer,)),
            (pair.corrupted, pair.foils or (pair.foil,)),
        )
    )
    return answers, foils


def _named(tokenizer: Tokenizer, pair: PromptPair) -> Sides:
    """Answer and foil by their ids; PromptError where these read otherwise in this tokenizer."""
    for token, text in zip(pair.tokens, (pair.answer, pair.foil), strict=True):
        if (read := read_token(tokenizer, token)) != text:
            raise PromptError(
                f"token {token} reads {read!r} in this tokenizer and not {text!r}: the pair is of "
                "another model"
            )
    answer, foil = pair.tokens
    return ((answer,),), ((foil,),)


def read_token(tokenizer: Tokenizer, token: int) -> str:
    """What a token id reads as, without space; PromptError where there is none or it is blank."""
    text = tokenizer.token_string(token).strip() if token < len(tokenizer.hf) else ""
    if not text:
        raise PromptError(f"token {token} is none of this tokenizer that reads as a word")
    return text


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


def _span(given: Any) -> tuple[str, str, int]:
    """A span as (name, text, which), also from what a file has: a name, and a text or [text, n]."""
    name, *rest = given if isinstance(given, tuple | list) else (None,)
    if len(rest) == 1 and isinstance(rest[0], tuple | list):
        rest = list(rest[0])
    text, which = (*rest, 0)[:2] if len(rest) in (1, 2) else (None, 0)
    if not (isinstance(name, str) and isinstance(text, str) and type(which) is int):
        raise OptionError(f"a span is its name, text and mention's number, not {given!r:.60}")
    return name, text, which


def read_pairs(path: str | Path) -> list[PromptPair]:
    """Pairs from a JSONL file: clean, corrupted, answer, foil and what else a pair may have."""
    pairs = [pair_from_record(record, path, line) for line, record in read_jsonl(path)]
    if not pairs:
        raise FileFormatError(path, "holds no pairs")
    return pairs


def pair_from_record(record: dict[str, Any], path: str | Path, line: int) -> PromptPair:
    """A pair from its fields; FileFormatError names what is missing or no text."""
    sets = {name: _texts(record, name, path, line) for name in ("answers", "foils")}
    firsts = {name[:-1]: chosen[0] for name, chosen in sets.items() if chosen}
    record = {**firsts, **record}
    optional = [name for name in ("subject", "relation") if record.get(name) is not None]
    names = ["clean", "corrupted", "answer", "foil", *optional]
    checked = {name: text_field(record, name, path, line) for name in names}
    start = record.get("start", 0)
    if not isinstance(start, int) or not 0 <= start < len(record["clean"]):
        reason = f"'start' must be a character of the prompts, not {start!r:.40}"
        raise FileFormatError(path, reason, line)
    # White space at a prompt's end stays: it is a mistake, and tokenising reports it.
    exact = record.get("exact", False)
    if not isinstance(exact, bool):
        raise FileFormatError(path, "'exact' is true or false", line)
    kept = ("clean", "corrupted", *(("answer", "foil") if exact else ()))
    for name, first in firsts.items():
        if record[name] != first:
            raise FileFormatError(path, f"{name!r} is not the first of {name + 's'!r}", line)
    tokens = record.get("tokens") or []
    if not isinstance(tokens, list) or len(tokens) not in (0, 2) or not all(map(_is_id, tokens)):
        raise FileFormatError(path, "'tokens' must be the ids of answer and foil", line)
    if tokens and (exact or sets["answers"] or sets["foils"]):
        raise FileFormatError(path, "'tokens' name one answer and one foil, as they are", line)
    return PromptPair(
        **checked | {name: record[name] for name in kept},
        answers=sets["answers"],
        foils=sets["foils"],
        spans=_spans(record, path, line),
        exact=exact,
        start=start,
        tokens=tuple(tokens),
    )


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0


def _texts(record: dict[str, Any], name: str, path: str | Path, line: int) -> tuple[str, ...]:
    """A list of texts, empty where there is none."""
    value = record.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise FileFormatError(path, f"{name!r} must be a list of texts that are not empty", line)
    return tuple(value)


def _spans(record: dict[str, Any], path: str | Path, line: int) -> tuple[tuple[str, str, int], ...]:
    """Spans by name: a text, or a text and which of its mentions."""
    value = record.get("spans") or {}
    if not isinstance(value, dict):
        raise FileFormatError(path, "'spans' must be texts by name", line)
    found = []
    for name, each in value.items():
        text, nth = each if isinstance(each, list) and len(each) == 2 else (each, 0)
        if not (isinstance(text, str) and text.strip() and type(nth) is int and nth >= 0):
            raise FileFormatError(
                path, f"the span {name!r} must be a text, or a text and its mention's number", line
            )
        found.append((str(name), text, nth))
    return tuple(found)


def _show(prompt: Prompt) -> str:
    return "[" + "|".join(prompt.tokens) + "]"
