"""The same facts asked after 0, 1, 2, ... examples, and as prompt pairs for a circuit."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from circuits.base.errors import PromptError
from circuits.facts.batches import batches_of
from circuits.facts.demonstrations import (
    Demonstrated,
    Style,
    can_demonstrate,
    demonstrated,
)
from circuits.facts.facts import Fact, Relation
from circuits.facts.knowledge import in_best_words
from circuits.facts.pairs import PromptPair, TokenPair
from circuits.model.holding import alone
from circuits.model.metrics import answer_probability, rank
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.states.transplant import Replies


@dataclass(frozen=True)
class Shot:
    """One fact after so many examples: the prompt, its pair, and what the model makes of it.

    The corrupted prompt asks about another subject after the same examples.
    """

    fact: Fact
    asked: Demonstrated
    pair: TokenPair

    @property
    def prompt(self) -> Prompt:
        """The tokens."""
        return self.pair.clean

    @property
    def answer(self) -> int:
        """The answer's first token."""
        return self.pair.answer


def shots_of(
    model: Model,
    relation: Relation,
    wording: str,
    style: Style,
    counts: Sequence[int],
    n: int,
    seed: int,
    avoid: Collection[str] = (),
) -> list[dict[int, Shot]]:
    """At most `n` facts, each asked after every number of examples.

    A fact's examples are drawn once, and fewer examples are the last ones of more. Facts for which
    there are too few examples, that do not fit the model, or that have no other subject with as
    many tokens are left out. The subjects to `avoid` are in no prompt. Of several accepted answers
    the one counts that the model does best on in the wording, without examples.
    """
    if wording:
        relation = in_best_words(model, relation, wording)
    generator = random.Random(f"{seed}/{relation.name}/{style}")
    facts = [fact for fact in relation.facts if fact.subject not in avoid]
    candidates = tuple(facts)
    generator.shuffle(facts)
    found: list[dict[int, Shot]] = []
    for fact in facts:
        if len(found) == n:
            break
        pool = [each for each in candidates if can_demonstrate(each, fact.subject, fact.object)]
        if len(pool) < max(counts):
            continue
        shown = generator.sample(pool, max(counts))
        taken = {each.subject for each in shown}
        others = [f for f in pool if f.subject not in taken]
        generator.shuffle(others)
        made = _asked(model, fact, wording, style, counts, shown, others)
        found += [made] if made else []
    return found


@alone
@torch.no_grad()
def ask(model: Model, shots: Sequence[Shot], batch_size: int = 16) -> Replies:
    """Rank and probability of every answer, as one run."""
    ranks, shares = np.empty((1, len(shots)), dtype=np.int64), np.empty((1, len(shots)))
    for rows, tokens in batches_of(model, [shot.prompt for shot in shots], batch_size):
        logits = model.last_logits(tokens).float()
        wanted = torch.tensor([shots[row].answer for row in rows], device=model.device)
        ranks[0, rows] = rank(logits, wanted).cpu().numpy()
        shares[0, rows] = answer_probability(logits, wanted).cpu().numpy()
    return Replies(ranks, shares.astype(np.float32))


def _asked(
    model: Model,
    fact: Fact,
    wording: str,
    style: Style,
    counts: Sequence[int],
    shown: Sequence[Fact],
    others: Sequence[Fact],
) -> dict[int, Shot] | None:
    """The fact after each number of examples, all with the same other subject; None of none."""
    for other in others:
        try:
            made = {
                count: _shot(model, fact, other, wording, style, shown[len(shown) - count :])
                for count in counts
            }
        except PromptError:
            continue
        if all(made.values()):
            return {count: shot for count, shot in made.items() if shot is not None}
    return None


def _shot(
    model: Model, fact: Fact, other: Fact, wording: str, style: Style, shown: Sequence[Fact]
) -> Shot | None:
    asked = demonstrated(wording, fact.subject, shown, style)
    beside = demonstrated(wording, other.subject, shown, style)
    tokenizer = model.tokenizer
    clean, corrupted = tokenizer.encode(asked.text), tokenizer.encode(beside.text)
    answer = tokenizer.first_token(asked.text, fact.object)
    foil = tokenizer.first_token(beside.text, other.object)
    if len(clean) != len(corrupted) or answer == foil:
        return None
    text = PromptPair(
        asked.text, beside.text, fact.object, other.object, fact.subject, fact.relation
    )
    span = clean.span_of(fact.subject)
    pair = TokenPair(text, clean, corrupted, answer, foil, span, tokenizer.fingerprint)
    return Shot(fact, asked, pair)
