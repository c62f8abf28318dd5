"""How a wrong answer comes about: layer by layer, component by component, edge by edge.

Every case (`experiments.analyses.hallucination.recall`) is read where it is answered wrong and
where it is answered right. Numbers are kept case by case, so that a report can put intervals on
them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from circuits.facts.facts import Relation, fill
from circuits.facts.pairs import TokenPair
from circuits.facts.questions import Answer
from circuits.graph.noise import Decision, NoiseSettings, edge_changes, sample_of
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from circuits.model.wiring import head_site
from experiments.analyses.engine.groups import is_mover
from experiments.analyses.hallucination.recall import Case, Cases, Kind, kind_of, partners
from locate.edges.eap import attribute
from locate.heads.attention import read_heads
from locate.heads.readings import REGIONS, Region
from locate.search import Scoring
from locate.states.attribution import direct_logit_attribution
from locate.states.lens import logit_lens

FEWEST_FACTS = 4
"""Fewer facts with partners than this give no edge a chance to be called changed."""
MOST_EDGES = 400
"""Of the edges called changed, so many are listed, the largest changes first."""

Sides = list[tuple[TokenPair, TokenPair, TokenPair | None]]


def curves(model: Model, cases: Cases, seed: int) -> dict[str, Any]:
    """Rank and probability of the true object, and of what was said, by state at the last token.

    `wrong` and `right` are the case's two prompts, `others` another subject that is answered right
    in the wording in which the case is wrong (None where there is none). State 0 is the embedding.
    """
    right_in: dict[str, list[Answer]] = {}
    for answer in cases.check.answers:
        if answer.known:
            right_in.setdefault(answer.question.template, []).append(answer)
    generator, tokenizer = random.Random(seed), model.tokenizer
    found: dict[str, list[Any]] = {"wrong": [], "right": [], "others": []}
    for case in cases.cases:
        for side, prompt in (("wrong", case.wrong), ("right", case.right)):
            found[side].append(_followed(model, prompt, {"true": case.answer, "said": case.said}))
        beside, other = right_in.get(case.wordings[0]), None
        if beside:
            chosen = generator.choice(beside)
            text = chosen.question.prompt
            token = tokenizer.first_token(text, chosen.answer)
            other = _followed(model, tokenizer.encode(text), {"true": token})
        found["others"].append(other)
    return found


def chance_of_attribute(
    model: Model, cases: Cases, relation: Relation, true_of: Mapping[str, set[str]]
) -> float:
    """How often a wrong answer would be true of *another* subject under another relation.

    Each answer that was given, as if it had been given in every other case; NaN of a single case.
    """
    hits = [
        kind_of(
            model.tokenizer, case.fact, case.wrong, case.wordings[0], other.said, relation, true_of
        )
        == Kind.OTHER_RELATION
        for case, other in permutations(cases.cases, 2)
    ]
    return float(np.mean(hits)) if hits else float("nan")


def paired(
    model: Model, cases: Sequence[Case], relation: Relation, n: int, seed: int
) -> list[Sides]:
    """For each case its prompt pairs with `n` other subjects; none where there are no partners."""
    generator = random.Random(seed)
    return [partners(model, case, relation, n, generator) for case in cases]


def written(model: Model, sides: Sequence[Sides], batch_size: int) -> dict[str, Any]:
    """What each source adds to the logit of the true object over that of the wrong answer.

    One row a case that has partners: `wrong` and `right` by source, and the whole difference.
    """
    firsts = [each[0] for each in sides if each]
    found: dict[str, Any] = {"sources": list(model.wiring().src_names)}
    for place, side in enumerate(("wrong", "right")):
        pairs = [pair for first in firsts if (pair := first[place]) is not None]
        parts = direct_logit_attribution(model, pairs, batch_size) if pairs else None
        found[side] = [] if parts is None else _rounded(parts.contributions)
        found[f"{side}_difference"] = [] if parts is None else _rounded(parts.logit_difference)
    return found


def attention_to_subject(
    model: Model, sides: Sequence[Sides], roles: Mapping[str, str], batch_size: int
) -> dict[str, list[float]]:
    """Share of value-weighted attention that mover heads pay to the subject, one row a case."""
    heads = [name for name, role in roles.items() if is_mover(role)]
    firsts = [each[0] for each in sides if each]
    if not heads or not firsts:
        return {"wrong": [], "right": []}
    layers, numbers = (list(axis) for axis in zip(*map(head_site, heads), strict=True))
    found = {}
    for place, side in enumerate(("wrong", "right")):
        read = read_heads(
            model,
            [pair for first in firsts if (pair := first[place]) is not None],
            batch_size=batch_size,
        )
        weighted = read.weighted[..., REGIONS.index(Region.SUBJECT)]
        found[side] = _rounded(weighted[:, layers, numbers].mean(1))
    return found


def edges(
    model: Model, sides: Sequence[Sides], steps: int, level: float, batch_size: int
) -> dict[str, Any] | None:
    """Which edges score otherwise where the answer is wrong than where it is right.

    Scores are those of the true object's logit over the wrong answer's, in both prompts. `control`
    holds the same test between two wordings that are both answered right: what a change of wording
    alone does. None where too few cases have partners.
    """
    flat = [each for case in sides for each in case if each[2] is not None]
    if len({pairs[0].text.named_subject for pairs in flat}) < FEWEST_FACTS:
        return None
    options = Scoring(steps=steps)
    scores, samples = [], []
    for place in range(3):
        pairs = [each for group in flat if (each := group[place]) is not None]
        found = attribute(model, pairs, options, batch_size=batch_size, keep_pairs=True)
        scores.append(found)
        samples.append(sample_of(pairs))
    settings = NoiseSettings(level=level)
    wrong, right, again = scores
    changes = edge_changes(right, wrong, samples[1], samples[0], settings)
    control = edge_changes(right, again, samples[1], samples[2], settings)
    called, elsewhere = changes.called(Decision.CHANGED), control.called(Decision.CHANGED)
    order = np.argsort(np.where(called, -np.abs(changes.change), np.inf), kind="stable")
    wiring = model.wiring()
    chosen = order[: min(int(called.sum()), MOST_EDGES)]
    return {
        "facts": changes.facts,
        "partners": changes.partners,
        "tested": wiring.n_edges,
        "changed": int(called.sum()),
        "control": int(elsewhere.sum()),
        "beyond_control": int((called & ~elsewhere).sum()),
        "dissimilarity": _dissimilarity(right.values, wrong.values),
        "control_dissimilarity": _dissimilarity(right.values, again.values),
        "sources": list(wiring.src_names),
        "moved": _rounded(_moved(right, wrong)),
        "control_moved": _rounded(_moved(right, again)),
        "rows": [
            {
                "edge": wiring.edge_name(edge),
                "right": float(right.values[edge]),
                "wrong": float(wrong.values[edge]),
                "low": float(changes.low[edge]),
                "high": float(changes.high[edge]),
                "q": float(changes.q_changed[edge]),
                "control": float(control.change[edge]),
            }
            for edge in chosen.tolist()
        ],
    }


def kinds(cases: Cases) -> dict[str, int]:
    """How many wrong answers are of which kind."""
    counts = Counter(case.kind for case in cases.cases)
    return {str(kind): counts.get(kind, 0) for kind in Kind}


def records(model: Model, cases: Cases, sides: Sequence[Sides]) -> list[dict[str, Any]]:
    """The cases in words."""
    return [
        {
            "subject": case.fact.subject,
            "object": case.fact.object,
            "said": model.tokenizer.token_string(case.said),
            "kind": str(case.kind),
            "wrong": case.wrong.text,
            "right": case.right.text,
            "wording": case.wordings[0],
            "by_demonstrations": case.by_demonstrations,
            "paired": bool(side),
        }
        for case, side in zip(cases.cases, sides, strict=True)
    ]


def other_prompt(
    model: Model, cases: Cases, case: Case, wording: str, known: bool, generator: random.Random
) -> Prompt | None:
    """Another subject with another object in a wording, answered right (or wrong); None of none."""
    pool = [
        answer.question.fact
        for answer in cases.check.answers
        if answer.question.template == wording
        and answer.known is known
        and answer.question.fact.subject != case.fact.subject
        and case.fact.object not in answer.question.fact.accepted
    ]
    if not pool:
        return None
    return model.tokenizer.encode(fill(wording, generator.choice(pool).subject))


def _followed(model: Model, prompt: Prompt, tokens: Mapping[str, int]) -> dict[str, Any]:
    lens = logit_lens(model, prompt, tokens, top=1)
    return {
        label: {
            "rank": lens.rank[:, 0, column].tolist(),
            "probability": _rounded(lens.probability[:, 0, column]),
        }
        for column, label in enumerate(tokens)
    }


def _moved(left: EdgeScores, right: EdgeScores) -> np.ndarray:
    """Score mass that moved on the edges that leave each source, in units of the metric."""
    wiring, change = left.wiring, np.abs(right.values - left.values).astype(float)
    return np.bincount(wiring.edge_src, change, wiring.n_src)


def _dissimilarity(left: np.ndarray, right: np.ndarray) -> float:
    """Score mass moved over the mass of both sides: 0 for equal scores, 1 for nothing in common."""
    mass = np.abs(left).sum(dtype=float) + np.abs(right).sum(dtype=float)
    return float(np.abs(right - left).sum(dtype=float) / mass) if mass else 0.0


def _rounded(values: np.ndarray, digits: int = 6) -> Any:
    """So many digits: enough for every table, and a fraction of the file."""
    if values.ndim == 1:
        return [float(f"{x:.{digits}g}") for x in values]
    return [_rounded(row, digits) for row in values]
