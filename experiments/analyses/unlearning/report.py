"""The report of `unlearning`: what is left of each set of facts, by method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.base.intervals import UNDEFINED, Interval, bootstrap, mean
from circuits.base.plain import number
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.claims import Claim, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table
from viz.paper.charts import Bars

FORGET, REWORDED, RETAIN, UNSEEN = "forget", "forget, other wordings", "retain", "unseen facts"
SETS = (FORGET, REWORDED, RETAIN, UNSEEN)
OVER = "draws"
METHOD = (
    "Facts that the model answers right are drawn into three sets, no subject in two of them: "
    "those to forget and those to retain, each in its relation's first wording, and facts that no "
    "method sees. The facts to forget are also asked in held-out wordings. Scores are token "
    "accuracy: the share of an answer's tokens that are the argmax, each after the answer's own "
    "tokens before it.",
    "A draw in which a method came to nothing (it diverged, or changed nothing) counts with the "
    "unedited model's scores; the outcomes say how many those are.",
    "The control of what is forgotten, and of what is kept, is what happens to the unseen facts. "
    "Intervals are 95 % bootstrap intervals over draws.",
)
FORGETS = (
    "forgets [more|less] of the facts to forget, in other wordings, than of facts that it never saw"
)
KEEPS = "loses [more|less] of facts that it never saw than of the facts to retain"


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    methods = list(dict.fromkeys(each["method"] for p in parts.values() for each in p["methods"]))
    found = {method: _Scores(parts, method) for method in methods}
    rows: list[list[Any]] = [["unedited", *(found[methods[0]].mean(n, "before") for n in SETS), ""]]
    rows += [[named(m), *(own.mean(n) for n in SETS), own.outcomes] for m, own in found.items()]
    table = Table(
        "unlearning",
        ("method", *SETS, "outcomes"),
        rows,
        title=f"{config.forget} facts unlearned, {config.retain} retained, {len(parts)} draws",
        percent=set(SETS),
    )
    chart = Bars(
        SETS,
        {named(method): [own.mean(name) for name in SETS] for method, own in found.items()},
        "token accuracy",
        y_limits=(0.0, 1.05),
        width=5.6,
    )
    caption = "What is left of each set of facts, with 95 % intervals over draws."
    forgotten = _claims(found, FORGETS, REWORDED, UNSEEN)
    kept = _claims(found, KEEPS, UNSEEN, RETAIN)
    lead = "; ".join(
        f"{named(method)} leaves {own.percent(FORGET)} of the facts to forget, "
        f"{own.percent(RETAIN)} of those to retain and {own.percent(UNSEEN)} of those in neither "
        "set"
        for method, own in found.items()
    )
    figure = Figure("unlearning", caption, chart.draw)
    section = Section("What is left", "", (table,), (*forgotten, *kept), (figure,))
    return Report(f"{lead}.", (section,), kept, METHOD)


class _Scores:
    """One method's scores over the draws; those that came to nothing count as unedited."""

    def __init__(self, parts: Mapping[str, Part], method: str) -> None:
        runs = [(p["before"], e) for p in parts.values() for e in p["methods"]]
        own = [(before, each) for before, each in runs if each["method"] == method]
        self.sides = [
            (before, before if each["after"] is None else each["after"]) for before, each in own
        ]
        states = [each["status"] for _, each in own]
        self.outcomes = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))

    def values(self, name: str, side: str = "after") -> np.ndarray:
        """A set's scores, draw by draw."""
        return np.array([number(pair[side == "after"][name]) for pair in self.sides])

    def mean(self, name: str, side: str = "after") -> Interval:
        """A set's mean score over the draws in which it is not empty."""
        values = self.values(name, side)
        known = values[np.isfinite(values)]
        return bootstrap(mean, known, seed=0) if len(known) else UNDEFINED

    def percent(self, name: str) -> str:
        """The mean score in words."""
        value = self.mean(name).value
        return f"{100 * value:.0f} %" if np.isfinite(value) else "nothing known"

    def lost(self, name: str) -> np.ndarray:
        """By how much a set's scores fell, draw by draw."""
        return self.values(name, "before") - self.values(name)


def _claims(found: Mapping[str, _Scores], what: str, first: str, second: str) -> tuple[Claim, ...]:
    """Each method's losses on one set against those on another."""
    return tuple(
        difference(
            f"{named(method)} {what}", own.lost(first), own.lost(second), scale=100, over=OVER
        )
        for method, own in found.items()
    )
