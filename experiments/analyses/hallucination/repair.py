"""What repairs a wrong answer: parts of a right run, put into the wrong one.

1. The residual stream at one token, layer by layer, from a donor that is answered right: the same
   fact in another wording (at the last token, and at the subject's), or another subject in that
   wording, whose run holds the question but not the answer. The control is another subject in the
   *wrong* wording.
2. Single heads and MLPs at the last token. The components that repair most on one half of the
   cases are blamed, and tried together on the other half, beside as many random ones.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from circuits.model.model import Model
from circuits.model.tokens import Prompt
from circuits.model.wiring import Wiring, node_kind
from experiments.analyses.hallucination.look import other_prompt
from experiments.analyses.hallucination.recall import Case, Cases
from locate.states.transplant import (
    RUNS_AT_ONCE,
    LastOutputs,
    last_outputs,
    transplant_outputs,
    transplant_states,
)

SAME_LAST = "same fact"
SAME_SUBJECT = "same fact, at the subject"
OTHER_LAST = "other subject, right wording"
OTHER_WRONG = "other subject, wrong wording"
"""Donors of a state: at the last token, but for the one at the subject's last token."""
FEWEST_CASES = 4
"""Cases on which blame can be laid on one half and tried on the other."""


def repair_by_state(
    model: Model, cases: Cases, seed: int, batch_size: int
) -> dict[str, list[list[float] | None]]:
    """By donor, for each case whether the state after each layer repairs it; None without donor."""
    generator, given = random.Random(seed), cases.cases
    right: list[Prompt | None] = [case.right for case in given]
    ends = [len(case.wrong) - 1 for case in given]
    others = [_other(model, cases, case, 1, True, generator) for case in given]
    beside = [_other(model, cases, case, 0, False, generator) for case in given]
    kinds = {
        SAME_LAST: (right, ends, _ends(right)),
        SAME_SUBJECT: (
            right,
            [case.subjects[0].last for case in given],
            [case.subjects[1].last for case in given],
        ),
        OTHER_LAST: (others, ends, _ends(others)),
        OTHER_WRONG: (beside, ends, _ends(beside)),
    }
    found: dict[str, list[list[float] | None]] = {name: [None] * len(given) for name in kinds}
    asked = [
        (name, row, donor, at, origin)
        for name, columns in kinds.items()
        for row, (donor, at, origin) in enumerate(zip(*columns, strict=True))
        if donor is not None
    ]
    replies = transplant_states(
        model,
        [given[row].wrong for _, row, *_ in asked],
        [donor for _, _, donor, _, _ in asked],
        [at for *_, at, _ in asked],
        [origin for *_, origin in asked],
        [given[row].answer for _, row, *_ in asked],
        batch_size=RUNS_AT_ONCE * batch_size,
    )
    for column, (name, row, *_) in enumerate(asked):
        found[name][row] = replies.right[:, column].astype(float).tolist()
    return found


def repair_by_component(
    model: Model, cases: Cases, counts: Sequence[int], draws: int, seed: int, batch_size: int
) -> dict[str, Any] | None:
    """How many cases are repaired by blamed, by random and by matched components.

    Donors are the same fact in the right wording, and another subject in that wording. Blame is
    the mean gain in log-probability when a component alone is taken from the donor, on the other
    half of the cases. `random` sets are drawn from all heads and MLPs, `matched` ones are of the
    same kinds and layers as the blamed ones, without these. None where there are too few cases.
    """
    if len(cases.cases) < FEWEST_CASES:
        return None
    generator = random.Random(seed)
    donors: dict[str, list[Prompt | None]] = {
        "same fact": [case.right for case in cases.cases],
        "other subject": [_other(model, cases, case, 1, True, generator) for case in cases.cases],
    }
    found: dict[str, Any] = {}
    for name, prompts in donors.items():
        kept = [place for place, prompt in enumerate(prompts) if prompt is not None]
        if len(kept) < FEWEST_CASES:
            continue
        chosen = [cases.cases[place] for place in kept]
        given = last_outputs(model, [p for p in prompts if p is not None], batch_size)
        found[name] = _Repairs(model, chosen, given, seed, batch_size).tried(counts, draws)
    return found or None


def matched(wiring: Wiring, blamed: Sequence[int], generator: np.random.Generator) -> list[int]:
    """For each blamed source another of its kind, from the nearest layer that has one left."""
    free = {src: name for src, name in enumerate(wiring.src_names) if src and src not in blamed}
    chosen, layers = [], np.maximum(wiring.src_layers, 0)
    for src in blamed:
        name = wiring.src_names[src]
        alike = [other for other, label in free.items() if node_kind(label) == node_kind(name)]
        if not alike:
            continue
        distance = {each: abs(layers[each] - layers[src]) for each in alike}
        nearest = [each for each in alike if distance[each] == min(distance.values())]
        chosen.append(int(generator.choice(nearest)))
        del free[chosen[-1]]
    return chosen


class _Repairs:
    """Cases with one donor each, and what every component does alone."""

    def __init__(
        self, model: Model, cases: Sequence[Case], donors: LastOutputs, seed: int, batch_size: int
    ) -> None:
        self.model, self.donors, self.seed, self.batch_size = model, donors, seed, batch_size
        self.targets = [case.wrong for case in cases]
        self.answers = [case.answer for case in cases]
        self.wiring = model.wiring()
        self.half = np.arange(len(cases)) % 2
        self.gain = self._alone()

    def tried(self, counts: Sequence[int], draws: int) -> dict[str, Any]:
        """By number of components: repaired or not by case, and the controls' shares by case."""
        generator = np.random.default_rng(self.seed)
        everything = np.arange(1, self.wiring.n_src)
        names: Counter[str] = Counter()
        runs: list[list[list[int]]] = []
        for count in counts:
            sets = [self._blamed(half, count) for half in (0, 1)]
            names.update(self.wiring.src_names[src] for chosen in sets for src in chosen)
            size = len(sets[0])
            runs.append(sets)
            runs += [
                [generator.choice(everything, size, replace=False).tolist() for _ in sets]
                for _ in range(draws)
            ]
            runs += [
                [matched(self.wiring, chosen, generator) for chosen in sets] for _ in range(draws)
            ]
        right = self._right(runs).reshape(len(counts), 1 + 2 * draws, -1)
        return {
            "counts": list(counts),
            "blamed": right[:, 0].tolist(),
            "random": right[:, 1 : 1 + draws].mean(1).tolist(),
            "matched": right[:, 1 + draws :].mean(1).tolist(),
            "names": dict(names.most_common()),
        }

    def _alone(self) -> Float[np.ndarray, "case src"]:
        """Gain in log-probability of the answer when one component is taken from the donor."""
        n_src, n = self.wiring.n_src, len(self.targets)
        masks = np.zeros((n_src, n, n_src), dtype=bool)
        for src in range(1, n_src):
            masks[src, :, src] = True
        shares = self._run(masks).probability.astype(float)
        logs = np.log(np.maximum(shares, 1e-12))
        return (logs - logs[0]).T  # run 0 takes nothing

    def _blamed(self, half: int, count: int) -> list[int]:
        """For the cases of one half, the components that repair most in the other half."""
        mean = self.gain[self.half != half].mean(0)
        mean[0] = -np.inf  # the embedding is no component
        return np.argsort(-mean, kind="stable")[:count].tolist()

    def _right(self, runs: Sequence[Sequence[Sequence[int]]]) -> Float[np.ndarray, "run case"]:
        masks = np.zeros((len(runs), len(self.targets), self.wiring.n_src), dtype=bool)
        for run, sets in enumerate(runs):
            for half, chosen in enumerate(sets):
                masks[run][np.ix_(self.half == half, chosen)] = True
        return self._run(masks).right.astype(float)

    def _run(self, masks: Bool[np.ndarray, "run case src"]) -> Any:
        return transplant_outputs(
            self.model,
            self.targets,
            self.donors,
            masks,
            self.answers,
            batch_size=self.batch_size,
        )


def _other(
    model: Model, cases: Cases, case: Case, side: int, known: bool, generator: random.Random
) -> Prompt | None:
    """Another subject in the case's wrong (side 0) or right (side 1) wording."""
    wording = case.wordings[side]
    if wording is None or (case.by_demonstrations and side):
        return None
    return other_prompt(model, cases, case, wording, known, generator)


def _ends(prompts: Sequence[Prompt | None]) -> list[int]:
    return [0 if prompt is None else len(prompt) - 1 for prompt in prompts]
