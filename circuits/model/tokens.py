"""From text to token ids: BOS, subject spans and continuation tokens, for any tokenizer.

Prompts are tokenised without the tokenizer's own special tokens, then one BOS is prepended where
asked for, so that a tokenizer that adds BOS by itself (Llama's) and one that does not (GPT-2's)
behave alike. Spans are found through character offsets and counted with the BOS.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any

from circuits.base.errors import PromptError

_BRACKETS = "([{“‘«„‚「『（《〈【〔"
_CLOSED_BY = dict(zip(_BRACKETS + "»", ")]}”’»“‘」』）》〉】〕«", strict=True))
_QUOTES = "\"'"
_UNSPACED = {
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO"), "。"),
    **{"THAI": " ", "LAO": " ", "KHMER": "\u17d4 ", "MYANMAR": "\u104b "},
}
"""How the names of characters begin whose script puts no spaces between words, and what stands
after a sentence of it."""


@dataclass(frozen=True)
class Span:
    """Token positions `start` to `stop` - 1."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def last(self) -> int:
        """Position of the last token."""
        return self.stop - 1


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    bos: bool
    offsets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.ids)

    def span_of(self, subject: str, nth: int = 0) -> Span:
        """Token positions of the one mention as a whole word, or of a place that is known.

        `nth` counts, from 1, the places where the text stands, also within words, so that a subject
        may have an ending attached and a word stand twice. PromptError where there is none such,
        or where several words are and none is chosen.
        """
        if nth:
            places = occurrences(self.text, subject)
            if nth > len(places):
                raise PromptError(
                    f"{subject!r} stands {len(places)} times in the prompt {self.text!r}, not {nth}"
                )
            return self.span_at(*places[nth - 1])
        mentions = find_mentions(self.text, subject)
        if not mentions:
            raise PromptError(f"subject {subject!r} is not in the prompt {self.text!r}")
        if len(mentions) > 1:
            raise PromptError(
                f"subject {subject!r} occurs {len(mentions)} times in the prompt {self.text!r}; "
                "word the prompt so that it occurs once"
            )
        return self.span_at(*mentions[0])

    def span_at(self, start: int, stop: int) -> Span:
        """Token positions of the characters `start` to `stop` - 1."""
        inside = [
            position
            for position, (left, right) in enumerate(self.offsets)
            # A blank token is the space in front, which some tokenizers map onto the first letter.
            if right > left and left < stop and right > start and self.tokens[position].strip()
        ]
        return Span(inside[0], inside[-1] + 1)


def find_mentions(text: str, subject: str) -> list[tuple[int, int]]:
    """Character ranges where the subject stands as whole words, in its Unicode form or another."""
    return [
        (start, stop)
        for start, stop in occurrences(text, subject)
        if is_boundary(text[start], text[max(0, start - 1) : start])
        and is_boundary(text[stop - 1], text[stop : stop + 1])
    ]


def occurrences(text: str, subject: str) -> list[tuple[int, int]]:
    """Character ranges where the subject stands, within words too.

    Letters with accents may be one character in the text and several in the subject, or the other
    way round (NFC and NFD); where the text has the subject as it is given, that counts alone.
    """
    subject = subject.strip()
    if not subject:
        raise PromptError("the subject is empty")
    forms = [subject, *(unicodedata.normalize(form, subject) for form in ("NFC", "NFD"))]
    for form in dict.fromkeys(forms):
        pattern = rf"(?={re.escape(form)})"  # looks ahead, so mentions may overlap
        if starts := [match.start() for match in re.finditer(pattern, text)]:
            return [(start, start + len(form)) for start in starts]
    return []


def is_boundary(inside: str, outside: str) -> bool:
    """Whether a word may end between its own character and the next, which may be empty.

    A letter ends it where the script puts no spaces between words, as Chinese and Japanese; a run
    of katakana is one word.
    """
    if not outside:
        return True
    if unicodedata.category(outside).startswith("M"):  # an accent
        return False
    scripts = [_script(inside), _script(outside)]
    if any(scripts):
        return scripts != ["KATAKANA", "KATAKANA"]
    return re.match(r"\w", outside) is None


def _script(character: str) -> str:
    """The script without spaces between words that a character is of; empty for any other."""
    name = unicodedata.name(character, "") if character else ""
    return next((script for script in _UNSPACED if name.startswith(script)), "")


def adds_bos(hf: Any) -> bool:
    """Whether the tokenizer itself puts its BOS token in front of a text, as its model expects."""
    return hf.bos_token_id is not None and hf("a")["input_ids"][:1] == [hf.bos_token_id]


def usual_bos(hf: Any, model_type: str) -> bool:
    """Whether prompts of this kind of model begin with BOS where nobody says otherwise.

    What the tokenizer does; but GPT-2's adds none, and the results that its users compare with
    were made by TransformerLens, which puts one in front.
    """
    return adds_bos(hf) or (model_type == "gpt2" and hf.bos_token_id is not None)


def _is_unspaced(character: str) -> bool:
    """Whether a word of a script without spaces follows this character directly."""
    name = unicodedata.name(character, "") if character else ""
    wide = name.startswith(("FULLWIDTH", "IDEOGRAPHIC", "RIGHT CORNER"))
    return bool(_script(character)) or wide


def ending(prompt: str, answer: str) -> str:
    """The answer with the space that stands between it and the prompt, where one does."""
    answer = answer.strip()
    if not answer:
        raise PromptError(f"the answer to {prompt!r} is empty")
    _check_unicode(prompt + answer)
    unspaced = _is_unspaced(prompt[-1:]) and (_script(answer[0]) or answer[0].isdigit())
    return answer if unspaced or _wants_no_space(prompt) else f" {answer}"


def sentence_end(prompt: str) -> str:
    """What stands after the prompt's answer, so that another sentence may follow.

    What closes the quotes and brackets that are open, and the full stop of the last letter's
    script.
    """
    letters = (each for each in reversed(prompt) if each.isalpha() or _script(each))
    return _closing(prompt) + _UNSPACED.get(_script(next(letters, "")), ". ")


def _closing(prompt: str) -> str:
    """What closes the quotes and brackets that are open at the prompt's end, the inner first.

    A single straight quote counts at the end alone: it may be an apostrophe elsewhere.
    """
    still: list[str] = []
    for stop, sign in enumerate(prompt, start=1):
        begins = sign in _QUOTES and _wants_no_space(prompt[:stop])
        if still and sign == still[-1] and not begins:  # „ is closed by what opens elsewhere
            still.pop()
        elif sign in _CLOSED_BY:
            still.append(_CLOSED_BY[sign])
        elif begins and (sign == '"' or stop == len(prompt)):
            still.append(sign)
    return "".join(reversed(still))


class Tokenizer:
    """A Hugging Face fast tokenizer with this project's conventions."""

    def __init__(
        self, hf: Any, default_bos: bool | None = None, max_tokens: int | None = None
    ) -> None:
        if not getattr(hf, "is_fast", False):
            raise PromptError(
                f"the tokenizer of {hf.name_or_path!r} has no fast version, which is needed "
                "for character offsets"
            )
        self.hf, self.max_tokens = hf, max_tokens
        self.default_bos = adds_bos(hf) if default_bos is None else default_bos

    def use_bos(self, bos: bool | None) -> bool:
        """The BOS choice in force: the argument, or the model's default where it is None."""
        wanted = self.default_bos if bos is None else bos
        if wanted and self.hf.bos_token_id is None:
            raise PromptError("this tokenizer has no BOS token; use `bos=False`")
        return wanted

    def encode(self, text: str, bos: bool | None = None) -> Prompt:
        """Token ids, token strings and character offsets of a prompt.

        PromptError where it is empty, longer than the model takes or begins with a BOS of its own.
        """
        if not text.strip():
            raise PromptError("the prompt is empty")
        _check_unicode(text)
        with_bos = self.use_bos(bos)
        encoding = self.hf(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoding["input_ids"]), [tuple(o) for o in encoding["offset_mapping"]]
        if with_bos:
            if ids[:1] == [self.hf.bos_token_id]:
                raise PromptError(
                    f"the prompt {_short(text)} begins with the BOS token, which is put in front "
                    "anyway; leave it out of the text, or use `bos=False`"
                )
            ids, offsets = [self.hf.bos_token_id, *ids], [(0, 0), *offsets]
        if self.max_tokens is not None and len(ids) > self.max_tokens:
            raise PromptError(
                f"the prompt {_short(text)} is {len(ids)} tokens long; the model takes "
                f"{self.max_tokens}"
            )
        return Prompt(text, tuple(ids), self.strings(ids), with_bos, tuple(offsets))

    def strings(self, ids: list[int] | tuple[int, ...]) -> tuple[str, ...]:
        """What each token reads as, for display."""
        return tuple(self.token_string(index) for index in ids)

    def token_string(self, index: int) -> str:
        """What one token reads as, with its leading space where it has one."""
        text = self.hf.decode([index], clean_up_tokenization_spaces=False)
        raw = self.hf.convert_ids_to_tokens(index)
        if raw is not None and raw.startswith("\u2581") and not text.startswith(" "):
            text = " " + text
        return text

    def continuation(self, prompt: str, answer: str, exact: bool = False) -> tuple[int, ...]:
        """Token ids of the answer as it would continue the prompt (answer without leading space).

        An `exact` answer is taken as it stands, with the space that it begins with or without one,
        and where its tokens would merge with the prompt's, as those that it has by itself.

        Found by tokenising prompt and answer together, so it is right for byte-level BPE and for
        Llama's metaspace alike. No space is put between them after an opening bracket or quote,
        where the prompt ends in white space, or within a script without spaces, its punctuation and
        digits after it. PromptError where the answer changes the prompt's own tokens.
        """
        if exact and answer:
            _check_unicode(prompt + answer)
            return _exact(self.hf, prompt, answer)
        return _continuation(self.hf, prompt, ending(prompt, answer))

    def begun(self, prompt: Prompt, answer: str, n: int) -> Prompt:
        """The prompt with the answer's first `n` tokens after it."""
        whole = self.encode(prompt.text + ending(prompt.text, answer), prompt.bos)
        stop = len(prompt) + n
        offsets = whole.offsets[:stop]
        text = whole.text[: max(right for _, right in offsets)]
        return Prompt(text, whole.ids[:stop], whole.tokens[:stop], prompt.bos, offsets)

    def followed(self, prompt: Prompt, ids: Sequence[int]) -> Prompt:
        """The prompt with these tokens after it, whatever text they would be read from."""
        text, offsets = prompt.text, list(prompt.offsets)
        tokens = tuple(self.token_string(token) for token in ids)
        for token in tokens:
            offsets.append((len(text), len(text) + len(token)))
            text += token
        return Prompt(
            text, (*prompt.ids, *ids), (*prompt.tokens, *tokens), prompt.bos, tuple(offsets)
        )

    def first_token(self, prompt: str, answer: str, exact: bool = False) -> int:
        """First continuation token of the answer: the one that scores count."""
        return self.continuation(prompt, answer, exact)[0]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer's full definition."""
        return sha256(self.hf.backend_tokenizer.to_str().encode()).hexdigest()


def _check_unicode(text: str) -> None:
    """Words from a command line that are not UTF-8 arrive as halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{_short(text)} is no valid Unicode text (not UTF-8?)") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}")


def _wants_no_space(prompt: str) -> bool:
    """Whether the next word follows directly: after white space, or what opens a quotation."""
    last, before = prompt[-1:], prompt[-2:-1]
    if last in _QUOTES:  # the same sign opens and closes: it opens where a word could begin
        return not before or before.isspace() or before in _BRACKETS + _QUOTES
    return not last or last.isspace() or last in _BRACKETS


@lru_cache(maxsize=65536)
def _exact(hf: Any, prompt: str, answer: str) -> tuple[int, ...]:
    """The tokens after the prompt's where these stay, else the text's own."""
    try:
        return _continuation(hf, prompt, answer)
    except PromptError:
        ids = hf(answer, add_special_tokens=False)["input_ids"]
        if hf.decode(ids, clean_up_tokenization_spaces=False) != answer:
            raise
        return tuple(ids)


@lru_cache(maxsize=65536)
def _continuation(hf: Any, prompt: str, ending: str) -> tuple[int, ...]:
    alone = hf(prompt, add_special_tokens=False)["input_ids"]
    joint = hf(prompt + ending, add_special_tokens=False)["input_ids"]
    if joint[: len(alone)] != alone or len(joint) == len(alone):
        hint = "it ends in white space" if prompt[-1:].isspace() else "their tokens merge"
        raise PromptError(f"{ending.strip()!r} cannot continue the prompt {prompt!r}: {hint}")
    return tuple(joint[len(alone) :])
