"""The report of `stability`: what stays, what each choice costs, and which choice decides most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval, number
from circuits.graph.resample import Stability
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, Verdict, across, average, measured
from experiments.analyses.engine.tables import Table, shown
from experiments.analyses.stability.choices import FACTORS
from experiments.analyses.stability.numbers import (
    chance_jaccard,
    core_share,
    mean_known,
    part_of,
    pooled,
    singles,
)

OUTCOMES = {
    "edges": "which edges are kept",
    "ranks": "the ranks of the scores",
    "faithfulness": "how faithful the circuit is",
}
LABELS = tuple(str(label) for label in Stability)
METHOD = (
    "A base circuit is found with the first three wordings, EAP-IG of five steps, the logit "
    "difference, patching, and the run's own precision and number of answered questions. Then one "
    "choice at a time is changed, and in the sampled combinations every choice is drawn at random, "
    "each level alike; combinations whose choices exclude each other are drawn again. All settings "
    "select the same number of edges by |score|, so that overlap is not a matter of size: Jaccard "
    "is edges of both over edges of either. Nodes and faithfulness are of the pruned circuit, "
    "which is empty, with faithfulness 0, where no selected edge lies on a path; such a setting "
    "counts like the others.",
    "Every circuit is measured alike, with the logit difference and patching, on the same pairs of "
    "subjects that had no part in finding any circuit, in whatever setting.",
    "Core edges are kept by at least 95 % of the sampled combinations, contingent ones by at least "
    "half, noise by fewer. The consensus circuit has as many edges as the base: those that most "
    "combinations keep.",
    "A choice's part of the variance is the sum of squares between its levels over the whole sum "
    "of squares of the sampled combinations, by distances between edge sets, between ranks or "
    "between faithfulness, corrected for what chance would explain (epsilon squared; 0 on average "
    "where a choice does nothing, so that it may fall below 0). What the parts leave to 100 % is "
    "what choices do together, and chance. The choice that is held against the draw of subjects is "
    "the one with the largest part of all, which flatters it a little.",
    "Intervals are over relations (bootstrap); of fewer than five relations they are about these, "
    "and come from leaving out one combination at a time (jackknife) or from the pairs.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    values = list(parts.values())
    factors = [name for name in FACTORS if any(name in part["factors"] for part in values)]
    shares = {
        outcome: {name: [part_of(part, outcome, name) for part in values] for name in factors}
        for outcome in OUTCOMES
    }
    decides = {name: pooled(each).value for name, each in shares["edges"].items()}
    order = sorted(factors, key=lambda name: -np.nan_to_num(decides[name], nan=-np.inf))
    claims = {name: _decides(name, shares["edges"][name]) for name in order}
    stays = _stays(values)
    lacks = _lacks(values)
    between = _against_subjects(order, values)
    empty = _settings_table(
        parts,
        "empty",
        "Settings whose circuit is empty",
        "Their selected edges are compared like those of the others; faithfulness is 0.",
    )
    left_out = _settings_table(
        parts,
        "left_out",
        "Settings that are left out",
        "Their scores are not finite, so that they select no edges; nothing counts them.",
    )
    sections = (
        Section(
            "What stays",
            "",
            (
                _labels_table(parts),
                _circuits_table(parts),
                *(each for each in (empty, left_out) if each.rows),
                _edges_table(parts),
            ),
            (stays, *lacks),
        ),
        Section(
            "One choice at a time",
            "",
            (_factor_table(order, values), _level_table(order, values)),
        ),
        Section(
            "All choices together",
            "",
            (_variance_table(order, shares),),
            (*claims.values(), *between),
        ),
    )
    top = (stays, *lacks, *(claims[name] for name in order[:3]), *between)
    return Report(_lead(values, order, claims), sections, top, METHOD)


# --- words ---------------------------------------------------------------------------------------


def _lead(values: Sequence[Part], order: Sequence[str], claims: Mapping[str, Claim]) -> str:
    core = mean_known(np.array([core_share(part) for part in values]))
    overlap = mean_known(np.concatenate([part["draws"]["jaccard"] for part in values]))
    counts = sorted({len(part["draws"]["jaccard"]) for part in values})
    drawn = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    text = (
        f"Of a circuit's edges {shown(core, 0, 100)} % are kept by nearly all of "
        f"{drawn} combinations of an analyst's choices; on average "
        f"a circuit found with other choices shares {shown(overlap, 0, 100)} % of the edges of "
        "either with it."
    )
    shown_to = [name for name in order if claims[name].verdict == Verdict.SUPPORTED]
    if not shown_to:
        return f"{text} No single choice is shown to explain the differences between circuits."
    named = ", ".join(
        f"{FACTORS[name]} ({shown(claims[name].estimate.value, 0)} %)" for name in shown_to
    )
    return f"{text} Of the differences between circuits a part goes with {named}."


def _stays(values: Sequence[Part]) -> Claim:
    shares = [100 * core_share(part) for part in values]
    return measured(
        "the share of the base circuit's edges that nearly all combinations keep (core) is",
        average(shares),
        len(values),
        unit="%",
        over="relations",
    )


def _lacks(values: Sequence[Part]) -> list[Claim]:
    """The core and the consensus circuit against the base."""
    words: dict[str, Any] = {
        "unit": "of faithfulness",
        "over": "relations",
        "within": "prompt pairs",
    }
    consensus = across(
        "the consensus circuit is [more|less] faithful than the base circuit of as many edges",
        [interval(part["consensus_gains"]) for part in values],
        **words,
    )
    found = [interval(part["core_lacks"]) for part in values if part["core"]]
    core = "the core edges alone are [less|more] faithful than the base circuit"
    return [*([across(core, found, **words)] if found else []), consensus]


def _decides(name: str, units: Sequence[Interval]) -> Claim:
    return across(
        f"{FACTORS[name]} decides which edges are kept",
        units,
        scale=100,
        unit="% of the variance",
        quantity="its part is",
        opposite=f"{FACTORS[name]} explains less of the differences than chance would",
        over="relations",
        within="combinations",
    )


def _against_subjects(order: Sequence[str], values: Sequence[Part]) -> list[Claim]:
    """The choice that decides most against the draw of subjects, which is mere sampling."""
    first = next((name for name in order if name != "subjects"), None)
    if first is None or "subjects" not in order:
        return []
    apart = [part_of(part, "edges", first, against="subjects") for part in values]
    return [
        across(
            f"{FACTORS[first]} decides [more|less] than which subjects are asked about",
            apart,
            scale=100,
            unit="% of the variance",
            over="relations",
            within="combinations",
        )
    ]


# --- tables --------------------------------------------------------------------------------------


def _labels_table(parts: Mapping[str, Part]) -> Table:
    def counted(what: str, label: str) -> Any:
        return lambda _, part: part["labels"][what][label]

    return Table.of(
        "labels",
        parts,
        {
            "relation": lambda name, _: name,
            **{f"base edges: {label}": counted("base_edges", label) for label in LABELS},
            **{f"edges of any: {label}": counted("edges", label) for label in LABELS},
            **{f"base nodes: {label}": counted("base_nodes", label) for label in LABELS},
            **{f"nodes of any: {label}": counted("nodes", label) for label in LABELS},
        },
        title="Edges and nodes by how many sampled combinations keep them",
        note="Of any: kept by at least one combination.",
    )


def _circuits_table(parts: Mapping[str, Part]) -> Table:
    def measured_of(name: str) -> Any:
        return lambda _, part: interval(part[name]["faithfulness"]) if part[name] else None

    return Table.of(
        "circuits",
        parts,
        {
            "relation": lambda name, _: name,
            "edges selected": lambda _, part: part["edges"],
            "core edges": lambda _, part: part["core"]["edges"] if part["core"] else 0,
            "base": measured_of("base"),
            "consensus": measured_of("consensus"),
            "core": measured_of("core"),
            "combinations": lambda _, part: mean_known(
                np.array([number(each) for each in part["draws"]["faithfulness"]])
            ),
            "random": lambda _, part: number(part["random"]),
        },
        title="Faithfulness on subjects that found none of the circuits",
        note=(
            "In brackets: 95 % bootstrap intervals over prompt pairs. Core edges are counted after "
            "pruning."
        ),
        default_digits=2,
    )


def _settings_table(parts: Mapping[str, Part], name: str, title: str, note: str) -> Table:
    """Settings that are recorded with a reason."""
    rows = [
        [
            relation,
            each["circuit"],
            ", ".join(f"{factor} {level}" for factor, level in each["setting"].items()),
            each["reason"],
        ]
        for relation, part in parts.items()
        for each in part.get(name, ())
    ]
    return Table(name, ("relation", "circuit", "choices", "why"), rows, title=title, note=note)


def _edges_table(parts: Mapping[str, Part]) -> Table:
    rows = [
        [
            name,
            each["edge"],
            each["inclusion"],
            each["label"],
            each["in_base"],
            ", ".join(each["lost"]),
        ]
        for name, part in parts.items()
        for each in part["listed"]
    ]
    return Table(
        "edges",
        ("relation", "edge", "inclusion", "label", "in base", "lost with another"),
        rows,
        title="Edges of the base circuit, and edges that half of the combinations keep",
        percent=("inclusion",),
        digits={"inclusion": 0},
        long=True,
    )


def _factor_table(order: Sequence[str], values: Sequence[Part]) -> Table:
    def over(factor: str, what: str) -> Interval:
        return average([mean_known(singles(part, factor, what)) for part in values])

    def change(factor: str) -> Interval:
        base = [number(part["base"]["faithfulness"]["value"]) for part in values]
        found = [mean_known(singles(part, factor, "faithfulness")) for part in values]
        return average(np.array(found) - np.array(base))

    def stay(factor: str, how: str) -> Interval:
        found = [part["survive"][factor] for part in values if factor in part["survive"]]
        return average([each[how] / sum(each.values()) for each in found])

    rows: list[list[Any]] = [
        [
            factor,
            over(factor, "jaccard"),
            over(factor, "node_jaccard"),
            over(factor, "spearman"),
            change(factor),
            *(stay(factor, how) for how in ("all", "some", "none")),
        ]
        for factor in order
    ]
    unlike = average([chance_jaccard(part) for part in values])
    rows.append(["random edges", unlike, *([None] * 6)])
    return Table(
        "factors",
        (
            *("choice", "Jaccard", "of nodes", "Spearman", "faithfulness"),
            *("kept by all levels", "by some", "by none"),
        ),
        rows,
        title="The base circuit against circuits with one choice changed",
        note=(
            "Means over a choice's other levels; faithfulness is the change. Kept: of the base's "
            "edges. In brackets: 95 % bootstrap intervals over relations."
        ),
        default_digits=2,
        percent=("kept by all levels", "by some", "by none"),
        totals=("random edges",),
    )


def _level_table(order: Sequence[str], values: Sequence[Part]) -> Table:
    names = dict.fromkeys(
        (each["factor"], each["level"]) for part in values for each in part["single"]
    )
    measures = ("jaccard", "node_jaccard", "spearman", "faithfulness")

    def over(key: tuple[str, str], what: str) -> Interval:
        return average(
            [
                number(each[what])
                for part in values
                for each in part["single"]
                if (each["factor"], each["level"]) == key
            ]
        )

    rows = [
        [*key, *(over(key, what) for what in measures)]
        for key in sorted(names, key=lambda key: order.index(key[0]))
    ]
    return Table(
        "levels",
        ("choice", "changed to", "Jaccard", "of nodes", "Spearman", "faithfulness"),
        rows,
        title="Every single change",
        default_digits=2,
        long=True,
    )


def _variance_table(
    order: Sequence[str], shares: Mapping[str, Mapping[str, Sequence[Interval]]]
) -> Table:
    rows: list[list[Any]] = [
        [name, *(pooled(shares[outcome][name]) for outcome in OUTCOMES)] for name in order
    ]
    rest = [
        1 - float(np.nansum([pooled(shares[outcome][name]).value for name in order]))
        for outcome in OUTCOMES
    ]
    rows.append(["together, and chance", *rest])
    return Table(
        "variance",
        ("choice", *OUTCOMES.values()),
        rows,
        title="Parts of the variance over sampled combinations",
        percent=tuple(OUTCOMES.values()),
        digits=dict.fromkeys(OUTCOMES.values(), 0),
        totals=("together, and chance",),
    )
