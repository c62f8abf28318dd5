"""The report of `locators`: agreement with exact patching, and circuits by size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, Verdict, average, difference, so_many
from experiments.analyses.engine.tables import Table
from experiments.analyses.locators.sample import READERS
from locate.looks.says.words import and_so_on, count, figures, percent, percents

BASE = "eap-ig"
"""What the others are compared with: the default."""
AGREEMENT = {
    "Pearson": "pearson",
    "Pearson of sizes": "pearson_size",
    "Spearman of sizes": "spearman_size",
    "sign": "sign",
    "recall": "recall",
    "slope": "slope",
    "cost": "cost",
}
METHOD = (
    "Every locator scores all edges on the same pairs. Edges are then drawn in five bands by the "
    "best place that any of the locators gives them, in each band as many into queries, keys, "
    "values, MLPs and the logits as there are, and each is patched exactly: one run in which only "
    "that edge carries its replaced value. The bands end at 0.3, 1, 5, 25 and 100 % of all edges "
    "and as many are drawn from each, or all where a band has fewer: of the edges that some "
    "locator ranks highest the sample holds a far larger share than of those that all of them rank "
    "low, but not all. Correlations are over the sample.",
    "Recall is the share of the truly largest edges of the sample that are among as many largest "
    "estimates; a random ranking finds the share of the edges that counts as the largest. Sign is "
    "the share of the truly largest whose sign is right. Cost is the processor time of the scores "
    "over that of one forward pass of the clean prompts without a shared beginning, in the same "
    "process. CPR and CMD are the areas of circuits of ten sizes on subjects that did not find "
    "them, in the metric of the scores: CPR by the signed ranking, CMD by the absolute.",
    "Intervals are 95 % bootstrap intervals over relations.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    names = list(dict.fromkeys(name for part in parts.values() for name in part["locators"]))
    values = _Values(parts)
    edges = sum(int(part["edges"]) for part in parts.values())
    agree = Table(
        "agreement",
        ("locator", *AGREEMENT),
        [[name, *(values.mean(name, key) for key in AGREEMENT.values())] for name in names],
        title=f"{edges:,} edges patched in {so_many(len(parts), 'relations')}, "
        f"{_range([part['pairs'] for part in parts.values()])} pairs each",
        note=f"Recall and sign are of the truly largest {percent(config.largest)} of a relation's "
        f"patched edges ({_range([part['counted'] for part in parts.values()])}).",
        default_digits=2,
        digits={"cost": 1},
        percent=("sign", "recall"),
    )
    readers = Table(
        "by_reader",
        ("locator", *READERS),
        [[name, *(values.mean(name, "by_reader", kind) for kind in READERS)] for name in names],
        title="Pearson of sizes, by what the edge ends in",
        default_digits=2,
    )
    circuits = _circuits(values, names)
    claims = tuple(
        claim for name in names if name != BASE and BASE in names for claim in _claims(values, name)
    )
    sections = (
        Section("Single edges", "", (agree, readers), claims[::2]),
        Section("Circuits", "", circuits, claims[1::2]),
    )
    better = tuple(claim for claim in claims if claim.verdict == Verdict.SUPPORTED)
    return Report(_lead(values, names, config.largest), sections, better or claims[:2], METHOD)


class _Values:
    """Numbers of the units, by locator."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = list(parts.values())

    def of(self, name: str, *keys: str | int) -> np.ndarray:
        """A locator's number, relation by relation; NaN where one lacks it."""
        found = []
        for part in self.parts:
            value: Any = part["locators"].get(name)
            for key in keys:
                missing = value is None or (isinstance(value, Mapping) and key not in value)
                value = None if missing else value[key]
            found.append(np.nan if value is None else number(value))
        return np.array(found)

    def mean(self, name: str, *keys: str | int) -> Interval:
        """Its mean over relations."""
        return average(self.of(name, *keys))

    def area(self, name: str, family: str, key: str) -> np.ndarray:
        """CPR or CMD, relation by relation."""
        return self.of(name, "curve", family, key, "value")


def _circuits(values: _Values, names: list[str]) -> tuple[Table, Table]:
    first = next(iter(values.parts[0]["locators"].values()))
    shares = first["curve"]["absolute"]["fractions"]
    places = [place for place, share in enumerate(shares) if share < 1]
    rows = [*((name, name, "absolute") for name in names), ("random", names[0], "random")]
    sizes = Table(
        "sizes",
        ("ranking", *(f"{100 * shares[place]:.3g} %" for place in places)),
        [
            [
                label,
                *(values.mean(name, "curve", family, "faithfulness", place) for place in places),
            ]
            for label, name, family in rows
        ],
        title="Faithfulness on other subjects, by share of edges kept (largest |score|)",
        default_digits=2,
    )
    areas = Table(
        "areas",
        ("ranking", "CPR", "CMD"),
        [
            [
                label,
                average(values.area(name, "signed" if label != "random" else family, "area")),
                average(values.area(name, family, "distance")),
            ]
            for label, name, family in rows
        ],
        title="Areas over all sizes",
        note="Of a locator without signs CPR ranks by size.",
    )
    return areas, sizes


def _claims(values: _Values, name: str) -> tuple[Claim, Claim]:
    """One locator against the default: what it finds, and how good its circuits are."""
    finds = difference(
        f"{name} finds [more|fewer] of the truly largest edges than {BASE}",
        values.of(name, "recall"),
        values.of(BASE, "recall"),
        scale=100,
        over="relations",
    )
    closer = difference(
        f"circuits of {name} are [nearer to|farther from] the model than those of {BASE} (CMD)",
        values.area(BASE, "absolute", "distance"),
        values.area(name, "absolute", "distance"),
        unit="",
        over="relations",
    )
    return finds, closer


def _range(counts: Sequence[int]) -> str:
    """`16`, or `12 to 16`."""
    return " to ".join(str(each) for each in dict.fromkeys((min(counts), max(counts))))


def _lead(values: _Values, names: list[str], largest: float) -> str:
    def best(key: Callable[[str], float]) -> list[str]:
        reached = {name: value for name in names if np.isfinite(value := key(name))}
        return [name for name in reached if reached[name] == max(reached.values())] or names[:1]

    recall = best(lambda name: values.mean(name, "recall").value)
    found = values.mean(recall[0], "recall")
    near = best(lambda name: -average(values.area(name, "absolute", "distance")).value)
    distance = average(values.area(near[0], "absolute", "distance"))
    return (
        f"Of the truly largest {percent(largest)} of the edges patched {and_so_on(recall)} "
        f"find{'s' * (len(recall) == 1)} {percents(found)}, the most of "
        f"{count(len(names), 'locator')}; the circuits nearest to the model are those of "
        f"{and_so_on(near)}, CMD {figures(distance, 3)}."
    )
