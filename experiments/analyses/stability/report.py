"""The report of `stability`: what stays, what each choice costs, and which choice decides most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import UNDEFINED, Interval
from circuits.base.plain import interval
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, Verdict, across, measured
from experiments.analyses.engine.tables import shown
from experiments.analyses.stability.choices import FACTORS, FEWEST_DRAWS, Config
from experiments.analyses.stability.numbers import (
    OUTCOMES,
    Reads,
    among,
    core_share,
    counted,
    mean_known,
    over_relations,
    part_of,
    pooled,
    readers,
    reads,
    span_of,
)
from experiments.analyses.stability.tables import (
    circuits_table,
    edges_table,
    factor_table,
    labels_table,
    level_table,
    settings_table,
    variance_table,
)

METHOD = (
    "A base circuit is found with EAP-IG of five steps, the logit difference, patching, and the "
    "run's own wordings, precision and number of answered questions. Then one "
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
    "where a choice does nothing, so that it may fall below 0). It is taken among the combinations "
    "that read the choice: the number of steps does nothing where the locator takes none, and "
    "other corrupted subjects do nothing where neither what replaces a cut edge is theirs nor the "
    "metric asks for the foil. Of fewer than eight such combinations there is no part. What the "
    "parts leave to 100 % is of all combinations, also those that do not read a choice; it is what "
    "choices do together, and chance. The choice that is held against the draw of subjects is the "
    "one with the largest part of all, which flatters it a little.",
    "Intervals are over relations (bootstrap). Of fewer than five relations those of parts and of "
    "differences in faithfulness are about these, and come from leaving out one combination at a "
    "time (jackknife) or from the pairs; means of other numbers then have none.",
)


def report(config: Config, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    values = list(parts.values())
    read = [reads(part, config) for part in values]
    factors = [name for name in FACTORS if any(name in part["factors"] for part in values)]
    shares = {
        outcome: {
            name: [
                part_of(part, outcome, name, own) for part, own in zip(values, read, strict=True)
            ]
            for name in factors
        }
        for outcome in OUTCOMES
    }
    decides = {name: pooled(each).value for name, each in shares["edges"].items()}
    order = sorted(factors, key=lambda name: -np.nan_to_num(decides[name], nan=-np.inf))
    claims = {name: _decides(name, shares["edges"][name], read) for name in order}
    stays = _stays(values)
    lacks = _lacks(values)
    between = _against_subjects(order, values, read)
    empty = settings_table(
        parts,
        "empty",
        "Settings whose circuit is empty",
        "Their selected edges are compared like those of the others; faithfulness is 0.",
    )
    left_out = settings_table(
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
                labels_table(parts),
                circuits_table(parts),
                *(each for each in (empty, left_out) if each.rows),
                edges_table(parts),
            ),
            (stays, *lacks),
        ),
        Section(
            "One choice at a time",
            "",
            (factor_table(order, values), level_table(order, values)),
        ),
        Section(
            "All choices together",
            "",
            (variance_table(order, shares, values, read),),
            (*claims.values(), *between),
        ),
    )
    top = (stays, *lacks, *(claims[name] for name in order[:3]), *between)
    return Report(_lead(values, order, claims, read), sections, top, METHOD)


def _lead(
    values: Sequence[Part],
    order: Sequence[str],
    claims: Mapping[str, Claim],
    read: Sequence[Reads],
) -> str:
    core = mean_known(np.array([core_share(part) for part in values]))
    overlap = mean_known(np.concatenate([part["draws"]["jaccard"] for part in values]))
    drawn = span_of([len(part["draws"]["jaccard"]) for part in values])
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
        f"{FACTORS[name]} ({shown(claims[name].estimate.value, 0)} %{among(name, read)})"
        for name in shown_to
    )
    return f"{text} Of the differences between circuits a part goes with {named}."


def _stays(values: Sequence[Part]) -> Claim:
    shares = [100 * core_share(part) for part in values]
    return measured(
        "the share of the base circuit's edges that nearly all combinations keep (core) is",
        over_relations(shares),
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


def _decides(name: str, units: Sequence[Interval], read: Sequence[Reads]) -> Claim:
    what = f"{FACTORS[name]} decides which edges are kept"
    if max(readers(name, read)) < FEWEST_DRAWS:
        said = f"Whether {what} cannot be said: {counted(name, read)} combinations read it, and "
        said += f"{FEWEST_DRAWS} are needed."
        return Claim(said, UNDEFINED, Verdict.UNDEFINED, 0, "relations")
    return across(
        f"{what}{among(name, read)}",
        units,
        scale=100,
        unit="% of the variance",
        quantity="its part is",
        opposite=(
            f"{FACTORS[name]} explains less of the differences than chance would{among(name, read)}"
        ),
        over="relations",
        within="combinations",
    )


def _against_subjects(
    order: Sequence[str], values: Sequence[Part], read: Sequence[Reads]
) -> list[Claim]:
    """The choice that decides most against the draw of subjects, which is mere sampling."""
    first = next((name for name in order if name != "subjects"), None)
    if first is None or "subjects" not in order:
        return []
    apart = [
        part_of(part, "edges", first, own, against="subjects")
        for part, own in zip(values, read, strict=True)
    ]
    return [
        across(
            f"{FACTORS[first]} decides [more|less] than which subjects are asked about"
            f"{among(first, read)}",
            apart,
            scale=100,
            unit="% of the variance",
            over="relations",
            within="combinations",
        )
    ]
