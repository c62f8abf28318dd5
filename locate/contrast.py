"""Is a contrast one? What the model must say for a corrupted prompt and its foil to be a rival.

A circuit is found by what tells an answer from a foil. Where the foil is no word, where the model
prefers it on the clean prompt already, or where it still prefers the answer on the corrupted one,
the scores speak of something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from circuits.base.display import token_name
from circuits.base.errors import PromptError
from circuits.facts.batches import batches
from circuits.facts.pairs import SUBJECT, PromptPair, TokenPair, encode_pair
from circuits.graph.noise import corrupted_subject
from circuits.model.holding import alone
from circuits.model.metrics import logit_difference
from circuits.model.model import Model
from circuits.model.tokens import find_mentions, occurrences

SHOWN = 4


def is_word(text: str) -> bool:
    """Whether there is a letter or digit in it: punctuation is nobody's answer."""
    return any(char.isalnum() for char in text)


@torch.no_grad()
def said_next(model: Model, texts: Sequence[str]) -> list[str]:
    """The likeliest next token of prompts of one length, as text without leading space."""
    if not texts:
        return []
    ids = [model.tokenizer.encode(text).ids for text in texts]
    best = model.last_logits(torch.tensor(ids, device=model.device)).argmax(-1)
    return [model.tokenizer.token_string(token).strip() or "?" for token in best.tolist()]


@alone
def given_pair(
    model: Model, prompt: str, subject: str, answer: str, against: str, foil: str
) -> TokenPair:
    """The pair of a prompt and a corrupted one that was typed; an empty foil is what is said to it.

    PromptError where the two prompts are one, differ in length, or the foil is no rival by itself.
    """
    if against == prompt.strip():
        raise PromptError("the corrupted prompt is the prompt itself; ask about something else")
    lengths = [len(model.tokenizer.encode(text)) for text in (prompt, against)]
    if lengths[0] != lengths[1]:
        raise PromptError(
            f"the corrupted prompt has {lengths[1]} tokens and the prompt {lengths[0]}; word it "
            "with as many"
        )
    foil = foil or said_next(model, [against])[0]
    if not is_word(foil):
        raise PromptError(f"asked {against!r}, the model says {foil!r}; give a foil that is a word")
    spans = _place(prompt, subject, against)
    pair = PromptPair(prompt, against, answer, foil, subject, None, spans=spans)
    return encode_pair(model.tokenizer, pair)


def _place(prompt: str, subject: str, against: str) -> tuple[tuple[str, str, int], ...]:
    """The subject's place, where its words do not tell it but the corrupted prompt does."""
    if len(find_mentions(prompt, subject)) != 1:
        for nth, _ in enumerate(occurrences(prompt, subject), start=1):
            spans = ((SUBJECT, subject, nth),)
            pair = PromptPair(prompt, against, "", "", subject, spans=spans)
            if corrupted_subject(pair) != against:
                return spans
    return ()


@alone
@torch.no_grad()
def no_rivals(model: Model, pairs: Sequence[TokenPair], relation: str | None) -> tuple[str, ...]:
    """Warnings where contrasts are none, each with its prompt and foil.

    Of a fact that no relation of the atlas knows, the foils that were made up are named as well.
    """
    found: list[str] = []
    if relation is None and len(pairs) > 1:
        foils = Counter(pair.text.foil for pair in pairs)
        listed = ", ".join(repr(word) for word, _ in foils.most_common(SHOWN))
        found.append(
            "the atlas does not know this fact: other subjects stand in for its own, and the foils "
            f"are what the model says of them ({listed}); type a corrupted prompt and its answer "
            "to choose the contrast"
        )
    clean, corrupted = _differences(model, pairs)
    liked = [pair.text.foil for pair, value in zip(pairs, clean, strict=True) if value <= 0]
    same = [pair.text for pair, value in zip(pairs, corrupted, strict=True) if value >= 0]
    answer = token_name(pairs[0].text.answer)
    if liked:
        found.append(
            f"on the prompt itself the model does not prefer {answer!r} to {_listed(liked)}: there "
            "is nothing that a circuit could keep up against that"
        )
    if same:
        text = same[0]
        found.append(
            f"asked {text.corrupted!r}, the model prefers {answer!r} to {text.foil!r} still: that "
            "prompt is no rival"
        )
    return tuple(found)


def _differences(model: Model, pairs: Sequence[TokenPair]) -> tuple[list[float], list[float]]:
    """Logits of the answer over the foil, on the clean and on the corrupted prompt."""
    sides: tuple[list[float], list[float]] = ([0.0] * len(pairs), [0.0] * len(pairs))
    for batch in batches(pairs, len(pairs), model):
        for side, tokens in zip(sides, (batch.clean, batch.corrupted), strict=True):
            logits = model.last_logits(tokens)
            values = logit_difference(logits, batch.wanted, batch.unwanted).tolist()
            for place, value in zip(batch.index, values, strict=True):
                side[place] = float(value)
    return sides


def _listed(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in dict.fromkeys(words[:SHOWN]))
