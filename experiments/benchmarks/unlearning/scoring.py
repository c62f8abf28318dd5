"""What a model makes of rows: their scores, its greedy answers, and facts of neither set."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.base.errors import OptionError, PromptError
from circuits.edits.judge.generation import Speaker
from circuits.edits.parts.examples import fact_examples
from circuits.edits.parts.training import Passage, Trainee, chunks, passage, token_scores
from circuits.facts.facts import Relation
from circuits.facts.loaders import LeftOut
from circuits.model.model import Model
from experiments.benchmarks.unlearning.cases import AUTHORS, WORLD, Row
from experiments.benchmarks.unlearning.measures import (
    Scored,
    probability,
    probability_among,
    rouge_l_recall,
    truth_ratio,
    truth_ratio_script,
)

NEITHER = "neither set"
"""Facts that no method sees."""
AT_ONCE = 32
"""Of these at least so many are asked before the known ones are counted."""
TRIED = 10
"""Facts that are asked for each one of neither set, until enough are known."""


def usable(model: Model, rows: Sequence[Row]) -> tuple[list[Row], list[LeftOut]]:
    """The rows that the model can read whole, all their answers included, and the others."""
    found: list[Row] = []
    left_out: list[LeftOut] = []
    for each in rows:
        try:
            for answer in _answers(each):
                _encoded(model, each, answer)
        except (PromptError, OptionError) as error:
            left_out.append(each.left_out(str(error)))
        else:
            found.append(each)
    return found, left_out


def scored(model: Model, rows: Sequence[Row], batch_size: int) -> Scored:
    """The scores of usable rows, on the model as it is now."""
    passages = [_encoded(model, each, each.answer) for each in rows]
    log_p, accuracy = _log_p(model, passages, batch_size)
    tokens = tuple(len(each) - each.start for each in passages)
    said = _greedy(model, passages, batch_size)
    rouge = tuple(rouge_l_recall(s, row.answer) for s, row in zip(said, rows, strict=True))
    others = [_encoded(model, row, other) for row in rows for other in _others(row)]
    values = iter(_log_p(model, others, batch_size)[0] if others else ())
    chances, ratios, script = [], [], []
    for row, own in zip(rows, log_p, strict=True):
        paraphrased = next(values) if row.paraphrased else own
        wrong = [next(values) for _ in row.perturbed]
        if row.split not in (AUTHORS, WORLD):
            chances.append(probability(own))
        else:
            chances.append(probability_among(own, wrong) if wrong else np.nan)
        ratios.append(truth_ratio(paraphrased, wrong) if wrong else np.nan)
        script.append(truth_ratio_script(paraphrased, wrong) if wrong else np.nan)
    return Scored(accuracy, log_p, tokens, rouge, tuple(chances), tuple(ratios), tuple(script))


def scored_sets(
    model: Model, sets: Mapping[str, Sequence[Row]], batch_size: int
) -> dict[str, Scored]:
    """The scores of every set that has rows."""
    return {name: scored(model, rows, batch_size) for name, rows in sets.items() if rows}


def _answers(row: Row) -> list[str]:
    return [row.answer, *_others(row)]


def _others(row: Row) -> list[str]:
    return [*([row.paraphrased] if row.paraphrased else []), *row.perturbed]


def _encoded(model: Model, row: Row, answer: str) -> Passage:
    return passage(model, row.question, answer)


def _log_p(
    model: Model, passages: Sequence[Passage], batch_size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean log-probability of each passage's scored tokens, and their accuracy."""
    losses, shares = token_scores(Trainee(model), passages, batch_size)
    return tuple((-losses).tolist()), tuple(shares.tolist())


def _greedy(model: Model, passages: Sequence[Passage], batch_size: int) -> list[str]:
    """What the model says after each prompt: as many tokens as the answer has, or to EOS."""
    prompts = [each.ids[: each.start] for each in passages]
    counts = [len(each) - each.start for each in passages]
    speaker = Speaker(model, batch_size)
    return [_text(model, each.tokens) for each in speaker.replies(prompts, counts)]


def _text(model: Model, ids: Sequence[int]) -> str:
    """The tokens up to EOS as text."""
    end = model.tokenizer.hf.eos_token_id
    stop = list(ids).index(end) if end in ids else len(ids)
    return str(model.tokenizer.hf.decode(ids[:stop]))


# --- facts of neither set ------------------------------------------------------------------------


@dataclass(frozen=True)
class Neither:
    """Facts that the model says whole and that no row is about; `asked` were tried for them."""

    rows: tuple[Row, ...]
    asked: int

    def record(self) -> dict[str, Any]:
        """For the report."""
        return {"asked": self.asked, "known": len(self.rows)}


def neither(
    model: Model,
    relations: Mapping[str, Relation],
    rows: Sequence[Row],
    count: int,
    *,
    batch_size: int,
    seed: int,
) -> Neither:
    """So many known facts of the relations, in their first wording, drawn by the seed.

    A fact whose subject stands in a row's text is not drawn. Fewer where `TRIED` times as many
    hold no more that the model knows.
    """
    texts = "\n".join(f"{each.question} {each.answer}" for each in rows)
    first: dict[tuple[str, str], Row] = {}
    for each in fact_examples(relations.values()):
        key = str(each.relation), str(each.subject)
        if key not in first and str(each.subject) not in texts:
            first[key] = Row("", NEITHER, each.text, str(each.answer), "facts", len(first) + 1)
    drawn = list(first.values())
    random.Random(seed).shuffle(drawn)
    found: list[Row] = []
    asked = 0
    for part in chunks(drawn[: TRIED * count], max(AT_ONCE, count)):
        if len(found) >= count:
            break
        readable, _ = usable(model, part)
        asked += len(part)
        if not readable:
            continue
        passages = [_encoded(model, each, each.answer) for each in readable]
        right = _log_p(model, passages, batch_size)[1]
        found += [each for each, share in zip(readable, right, strict=True) if share == 1]
    return Neither(tuple(found[:count]), asked)
