"""Whether a model knows what a benchmark is about, said before anything is changed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from circuits.base.errors import PromptError
from circuits.edits.judge.generation import Speaker
from circuits.model.model import Model

Truth = tuple[str, tuple[str, ...]]
"""A prompt, and the answers that are true before any change, one of which is enough."""
MOST = 100
"""So many are asked, drawn by the seed: more would tell little more, and cost their time."""
FEW = 0.5
"""Below this share of tokens a model is said not to know most of what a benchmark is about."""


def knowledge(model: Model, speaker: Speaker, truths: Sequence[Truth], seed: int) -> str:
    """That the model does not know most of the answers, with how many it gives; empty if it does.

    Teacher-forced: an answer is given where each of its tokens is the likeliest after those before.
    """
    drawn = list(truths)
    if len(drawn) > MOST:
        drawn = random.Random(seed).sample(drawn, MOST)
    questions, owners = [], []
    for owner, (prompt, answers) in enumerate(drawn):
        for answer in answers:
            try:
                ids = model.tokenizer.encode(prompt).ids
                answered = model.tokenizer.continuation(prompt, answer)
                model.check_length(len(ids) + len(answered) - 1)
            except PromptError:
                continue
            questions.append((ids, answered))
            owners.append(owner)
    if not questions:
        return ""
    best: dict[int, float] = {}
    for owner, read in zip(owners, speaker.forced(questions), strict=True):
        best[owner] = max(best.get(owner, 0.0), read.accuracy)
    shares = np.array(list(best.values()))
    if shares.mean() >= FEW:
        return ""
    return (
        f"before any change {model.name} gives {100 * (shares == 1).mean():.0f} % of "
        f"{len(shares)} true answers and {100 * shares.mean():.0f} % of their tokens: it does not "
        "know most of what is changed here"
    )
