"""Writes the prose that ships: documents sampled from smollm2-135m, from openings written here.

python -m experiments.workshop.prose FILE.jsonl [--documents N]

Second moments are taken over it where no text is named. It has to read like a language model's
training text, and nothing that it says need be true, so a language model writes it: temperature .8
among the 100 likeliest tokens. Each theme is put into openings of several kinds of text. One line
of JSON a document, with the key `text`. About 40 minutes on one thread; the seed decides every
document.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from circuits.base.writing import atomic_write
from circuits.model.loading import LoadedWeights, load_weights

MODEL = "smollm2-135m"
SEED = 20
N_TOKENS = 320
LEAST_TOKENS = 160
TEMPERATURE, TOP_K = 0.8, 100
LEAST_DIFFERENT = 0.35
BATCH, BLOCK = 48, 864
"""Openings that are continued together, and that are sorted by length."""
ENDS = (".", "!", "?", '."', '!"', '?"', ".\u201d", "!\u201d", "?\u201d", ".)")

OPENINGS = (
    "The history of {} goes back further than most people think.",
    "When people speak of {}, they often mean",
    "A beginner's guide to {}\n\nBefore you start,",
    "My grandmother never said much about {}, but on that evening",
    "Three questions about {} that scientists are still trying to answer:",
    "Local news. A small town became known for {} last week, after",
    "In the economy of the region, {} played a part that",
    "Chapter One\n\nNobody in the village had heard of {} until",
    "The book that she wrote about {} was first printed in",
    "Frequently asked questions on {}\n\nQ:",
    "The two brothers could not agree on {}. The elder",
    "Unlike its neighbours, the country invested early in {}, and",
)
"""Kinds of text; `{}` is the theme."""

THEMES = (
    *("lighthouses", "bridges", "canals", "railways", "sailing ships", "bicycles", "airports"),
    *("the printing press", "paper", "glass", "clocks", "telescopes", "steam engines", "radio"),
    *("computers", "satellites", "batteries", "robots", "maps", "dictionaries", "libraries"),
    *("bread", "cheese", "coffee", "tea", "chocolate", "olive oil", "salt", "rice", "honey"),
    *("soup", "street food", "vineyards", "orchards", "gardens", "farming", "fishing"),
    *("forests", "deserts", "rivers", "glaciers", "volcanoes", "earthquakes", "coral reefs"),
    *("the weather", "thunderstorms", "the tides", "the moon", "comets", "the planets", "gravity"),
    *("light", "sound", "magnets", "atoms", "metals", "crystals", "electricity", "energy"),
    *("bees", "whales", "wolves", "horses", "elephants", "owls", "snakes", "butterflies"),
    *("bacteria", "the heart", "the brain", "sleep", "memory", "vaccines", "surgery"),
    *("nursing", "exercise", "football", "tennis", "swimming", "chess", "the Olympic Games"),
    *("the violin", "the piano", "jazz", "opera", "folk songs", "dance", "the theatre"),
    *("painting", "sculpture", "photography", "film", "poetry", "novels", "fairy tales"),
    *("schools", "universities", "mathematics", "geometry", "statistics", "grammar"),
    *("translation", "handwriting", "newspapers", "elections", "parliaments", "courts"),
    *("taxes", "money", "banks", "insurance", "trade", "markets", "factories", "unions"),
    *("monasteries", "pilgrimages", "festivals", "weddings", "funerals", "holidays"),
    *("castles", "cathedrals", "harbours", "islands", "mountain villages", "capital cities"),
    *("refugees", "explorers", "engineers", "teachers", "carpenters", "tailors", "letters"),
    *("the post office", "housing", "drinking water", "waste", "solar power", "public parks"),
)


def prompts(n: int, seed: int = SEED) -> list[str]:
    """`n` different openings, every theme and every kind of text about equally often."""
    source = random.Random(seed)
    every = [opening.format(theme) for opening in OPENINGS for theme in THEMES]
    if n > len(every):
        raise SystemExit(f"there are {len(every)} openings, fewer than {n}")
    source.shuffle(every)
    return every[:n]


def continued(model: LoadedWeights, openings: Sequence[str], seed: int = SEED) -> Iterator[str]:
    """The openings, each with what the model writes after it, cut at the end of a sentence.

    A text that goes round in circles is left out. More openings leave the texts of a block as they
    are.
    """
    for number, start in enumerate(range(0, len(openings), BLOCK)):
        yield from _block(model, openings[start : start + BLOCK], seed + number)


def _block(model: LoadedWeights, openings: Sequence[str], seed: int) -> Iterator[str]:
    tokenizer = model.hf_tokenizer
    rows = [tokenizer(opening, add_special_tokens=False)["input_ids"] for opening in openings]
    rows.sort(key=len)
    torch.manual_seed(seed)
    for start in range(0, len(rows), BATCH):
        for ids in _drawn(model, rows[start : start + BATCH]):
            text = _whole_sentences(tokenizer.decode(ids, skip_special_tokens=True))
            words = text.split()
            if words and len(set(words)) >= LEAST_DIFFERENT * len(words):
                yield text


def _drawn(model: LoadedWeights, rows: Sequence[Sequence[int]]) -> Any:
    """The rows continued; shorter ones are padded in front, and the padding is not looked at."""
    end = model.hf_tokenizer.eos_token_id
    width = max(map(len, rows))
    missing = [width - len(row) for row in rows]
    tokens = torch.tensor([[end] * n + list(row) for n, row in zip(missing, rows, strict=True)])
    seen = torch.tensor([[0] * n + [1] * (width - n) for n in missing])
    with torch.inference_mode():
        return model.hf_model.generate(
            tokens,
            attention_mask=seen,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            top_p=1.0,
            max_new_tokens=N_TOKENS,
            min_new_tokens=LEAST_TOKENS,
            pad_token_id=end,
        )


def _whole_sentences(text: str) -> str:
    """The text up to its last full sentence."""
    stop = max((text.rfind(end) + len(end) for end in ENDS if end in text), default=0)
    return text[:stop].strip()


def main() -> None:
    """Write the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--documents", type=int, default=936)
    given = parser.parse_args()
    model = load_weights(MODEL)
    model.hf_model.set_attn_implementation("sdpa")  # half the time of what hooks need
    lines: list[str] = []
    for text in continued(model, prompts(given.documents)):
        lines.append(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        if len(lines) % BATCH == 0:
            print(f"{len(lines)} documents, {sum(map(len, lines))} characters", flush=True)
            atomic_write(given.file, "".join(lines).encode())
    random.Random(SEED).shuffle(lines)
    atomic_write(given.file, "".join(lines).encode())


if __name__ == "__main__":
    main()
