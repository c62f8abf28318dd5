"""Texts over which second moments are taken: a file of the user's, or one that ships."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from circuits.base.errors import FileFormatError
from circuits.base.records import read_jsonl, read_text, text_field
from circuits.facts.facts import atlas, fill
from circuits.model.model import Model

MAX_BYTES = 2**30
SENTENCES_PER_TEXT = 12
WORDINGS_PER_FACT = 3
PIECE = 100_000
_BREAK = re.compile(r"(?<=\S)\s")
ATLAS_NAME = "atlas sentences"
PROSE_NAME = "sampled prose"
PROSE = Path(__file__).parent.parent / "prose.jsonl"


@dataclass(frozen=True)
class Corpus:
    """Texts with a name for the record."""

    name: str
    texts: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash of the texts, whatever the file they came from is called."""
        digest = sha256()
        for text in self.texts:
            digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        return digest.hexdigest()


def read_corpus(path: str | Path) -> Corpus:
    """A text file, its texts parted by blank lines, or a JSONL file with a key `text`.

    A line of nothing but white space is blank.
    """
    path = Path(path)
    if path.suffix in (".jsonl", ".ndjson"):
        records = read_jsonl(path, MAX_BYTES)
        texts = tuple(text_field(record, "text", path, line) for line, record in records)
    else:
        blocks = re.split(r"\n[^\S\n]*\n", read_text(path, MAX_BYTES).replace("\r\n", "\n"))
        texts = tuple(block.strip() for block in blocks if block.strip())
    if not texts:
        raise FileFormatError(path, "holds no text")
    return Corpus(path.name, texts)


def token_windows(
    model: Model, texts: Sequence[str], width: int, max_tokens: int
) -> Iterator[list[int]]:
    """The texts' first `max_tokens` tokens in windows of at most `width`, without BOS.

    A window never spans two texts. Long texts are tokenised a piece at a time, cut at white space,
    so that time and memory grow with what is read.
    """
    left = max_tokens
    for text in texts:
        rest: list[int] = []
        for piece in _pieces(text):
            if left <= 0:
                break
            ids = model.tokenizer.hf(piece, add_special_tokens=False)["input_ids"][:left]
            left -= len(ids)
            rest += ids
            full = len(rest) // width * width
            yield from (rest[start : start + width] for start in range(0, full, width))
            rest = rest[full:]
        if rest:
            yield rest
        if left <= 0:
            return


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of about PIECE characters; each begins with the white space before it."""
    start = 0
    while start < len(text):
        found = _BREAK.search(text, start + PIECE)
        stop = found.start() if found else len(text)
        yield text[start:stop]
        start = stop


@cache
def atlas_corpus(seed: int = 0) -> Corpus:
    """Every fact of the atlas in a few of its training templates, shuffled into short texts.

    It is the kind of text that the embedded models were trained on. Held-out templates are left
    out, so that paraphrases by which an edit is judged are not among what it preserves.
    """
    source = random.Random(seed)
    sentences = [
        f"{fill(template, fact.subject)} {fact.object}."
        for relation in atlas().values()
        for fact in relation.facts
        for template in source.sample(
            relation.templates, min(WORDINGS_PER_FACT, len(relation.templates))
        )
    ]
    source.shuffle(sentences)
    texts = (
        " ".join(sentences[start : start + SENTENCES_PER_TEXT])
        for start in range(0, len(sentences), SENTENCES_PER_TEXT)
    )
    return Corpus(ATLAS_NAME, tuple(texts))


@cache
def prose_corpus() -> Corpus:
    """A megabyte of English that a language model wrote, for models that have read such text.

    Sampled from SmolLM2-135M; what it says is not true (`experiments/workshop/prose.py`).
    """
    return Corpus(PROSE_NAME, read_corpus(PROSE).texts)


def usual_corpus(model: Model) -> Corpus:
    """What is read where no text is named: text like that which the model was trained on."""
    return atlas_corpus() if model.is_embedded else prose_corpus()
