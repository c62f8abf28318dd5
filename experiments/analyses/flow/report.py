"""The report of `flow`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval, number
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.by_layer import powers_of_ten, state_name
from experiments.analyses.engine.claims import Claim, across, average, measured, so_many
from experiments.analyses.engine.tables import Table, shown
from viz.paper.charts import Lines

LAST, SUBJECT = "last token", "subject's last token"
ANSWER, OTHERS, ITSELF = "answer", "other objects", "subject"
NAMES = {ANSWER: "object", OTHERS: "best other object", ITSELF: "subject itself"}
OVER = "relations"
MULTIPLES_PER_ROW = 5

METHOD = (
    "The logit lens applies the final norm and the output matrix to the residual stream after "
    "every layer. Rank 1 is the most likely token. The object is followed by its first token, the "
    "subject by the best of its own tokens, the best other object by the best of the relation's "
    "objects that belong to other subjects. The sharpest layer is the one in which the object's "
    "probability at the last token, averaged over the facts, rises most.",
    "Direct logit attribution splits the logit difference between the answer and the corrupted "
    "prompt's answer among the heads and MLPs that write at the last token, with the final norm as "
    "it is in the run. The layer of recall is the one whose heads and MLP add most to it, averaged "
    "over the facts; its interval resamples facts. The strongest components are "
    "named on one half of the subjects and tested on the other: there they write what they write "
    "for the corrupted prompt. Random sets hold other components of the same layers, or of the "
    "nearest that have any left.",
    "Curves of a relation have 95 % bootstrap intervals over facts; averages and sentences "
    "resample relations.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    sections = (
        Section(
            "Rank and probability, layer by layer",
            _rank_text(parts),
            figures=(_lens_figure(parts, "rank"), _lens_figure(parts, "probability")),
            tables=(_recall_table(parts), _curve_table(parts)),
        ),
        Section(
            "What pushes the answer",
            _push_text(parts),
            figures=(_push_figure(parts),),
            tables=(_component_table(parts, config),),
        ),
        Section("Every relation", "", figures=(_multiples(parts),)),
    )
    return Report(_lead(parts), sections, tuple(_answer(parts, config)), METHOD)


# --- numbers -------------------------------------------------------------------------------------


def curve_of(part: Part, place: str, followed: str, statistic: str) -> list[Interval]:
    """A stored curve by state; state 0 is the embedding. Empty where there is none."""
    for curve in part["curves"]:
        if (curve["place"], curve["followed"]) == (place, followed):
            return [interval(each) for each in curve[statistic]]
    return []


def _n_layers(parts: Mapping[str, Part]) -> int:
    return len(next(iter(parts.values()))["pushes"]["heads"])


def _layers(parts: Mapping[str, Part], which: str) -> np.ndarray:
    return np.array([int(interval(part[which]).value) for part in parts.values()])


def _lead(parts: Mapping[str, Part]) -> str:
    layers = _layers(parts, "recall")
    counts = np.bincount(layers, minlength=_n_layers(parts))
    most = int(counts.argmax())
    there = [part for part, layer in zip(parts.values(), layers, strict=True) if layer == most]
    push = np.mean([interval(part["push"]).value for part in there])
    total = np.mean([number(part["total"]) for part in there])
    reached = [state for part in parts.values() if (state := first_on_top(part)) is not None]
    text = (
        f"In {counts[most]} of {len(parts)} relations the object is recalled in layer {most} of "
        f"{_n_layers(parts)} (counted from 0): its heads and MLP add most to the logit of the "
        f"answer over that of the foil, {shown(float(push), 1)} of {shown(float(total), 1)} on "
        "average."
    )
    if reached:
        state = int(np.median(reached))
        end = state == _n_layers(parts)
        where = "only after the last layer" if end else f"{state_name(state)} and later"
        text += (
            f" By the logit lens the object is the likeliest token {where} (median "
            f"of the {so_many(len(reached), OVER)} in which it ever is)."
        )
    return text


def first_on_top(part: Part) -> int | None:
    """The state from which on the object's median rank at the last token is 1; None for none."""
    ranks = [point.value for point in curve_of(part, LAST, ANSWER, "rank")]
    first = len(ranks)
    while first and ranks[first - 1] == 1:
        first -= 1
    return None if first == len(ranks) else first


def _answer(parts: Mapping[str, Part], config: Any) -> list[Claim]:
    layers = _layers(parts, "recall")
    costs = [
        average(
            np.array(test["without_random"], dtype=float) - np.array(test["without"], dtype=float)
        )
        for test in (part["test"] for part in parts.values())
    ]
    claims = [
        measured("the mean layer of recall is", average(layers), len(parts), over=OVER),
        across(
            "[heads|MLPs] push the answer more than [MLPs|heads] do at the last token",
            [interval(part["heads_over_mlps"]) for part in parts.values()],
            unit="logits",
            over=OVER,
        ),
        across(
            f"giving the {config.components} strongest components the corrupted prompt's output "
            "costs the answer more probability than giving it to random ones of the same layers",
            costs,
            scale=100,
            over=OVER,
        ),
    ]
    ahead = [interval(part["ahead"]) for part in parts.values()]
    if any(np.isfinite(each.value) for each in ahead):
        claims.append(
            across(
                "just before the layer of recall the object ranks [higher|lower] at the subject's "
                "last token than it does in the embedding",
                ahead,
                unit="decades of rank",
                over=OVER,
            )
        )
    return claims


def _rank_text(parts: Mapping[str, Part]) -> str:
    texts = []
    for which, name in (("recall", "layer of recall"), ("sharpest", "sharpest layer")):
        layers = _layers(parts, which)
        pieces = [f"{layer} ({int((layers == layer).sum())})" for layer in np.unique(layers)]
        texts.append(f"Relations by their {name}: {', '.join(pieces)}.")
    return " ".join(texts)


def _push_text(parts: Mapping[str, Part]) -> str:
    counts: dict[str, int] = {}
    for part in parts.values():
        for component in part["components"]:
            counts[component["name"]] = counts.get(component["name"], 0) + 1
    common = sorted(counts.items(), key=lambda item: -item[1])[:5]
    named = ", ".join(f"{name} ({count})" for name, count in common)
    return f"Most often among a relation's strongest, with the number of relations: {named}."


# --- tables --------------------------------------------------------------------------------------


def _recall_table(parts: Mapping[str, Part]) -> Table:
    def recalled_there(part: Part) -> float:
        by_fact = np.bincount(part["recall_by_fact"])
        return float(by_fact[int(interval(part["recall"]).value)] / by_fact.sum())

    def on_top(part: Part) -> float:
        state = first_on_top(part)
        return np.nan if state is None else float(state - 1)

    return Table.of(
        "recall",
        parts,
        {
            "relation": lambda name, _: name,
            "category": lambda _, part: part["category"],
            "facts": lambda _, part: part["facts"],
            "layer of recall": lambda _, part: interval(part["recall"]),
            "its push": lambda _, part: interval(part["push"]),
            "facts recalled there": lambda _, part: recalled_there(part),
            "on top after layer": lambda _, part: on_top(part),
            "sharpest layer": lambda _, part: interval(part["sharpest"]),
            "p at the end": lambda _, part: curve_of(part, LAST, ANSWER, "probability")[-1],
        },
        title="The layer of recall, by relation",
        note=(
            "Push: logits added to the answer over the foil. Facts recalled there: share of facts "
            "whose own strongest layer is this one. On top: the layer from which on the median "
            "rank at the last token is 1 (-1: the embedding). p: mean probability of the object. "
            "95 % intervals over facts."
        ),
        percent={"facts recalled there"},
        default_digits=2,
        digits={
            "layer of recall": 0,
            "facts recalled there": 0,
            "its push": 1,
            "on top after layer": 0,
            "sharpest layer": 0,
        },
        long=len(parts) > 12,
    )


def _curve_table(parts: Mapping[str, Part]) -> Table:
    rows = []
    for name, part in parts.items():
        for curve in part["curves"]:
            pairs = zip(curve["rank"], curve["probability"], strict=True)
            for state, (rank, probability) in enumerate(pairs):
                where = [name, curve["place"], curve["followed"], state - 1]
                rows.append([*where, interval(rank), interval(probability)])
    columns = ("relation", "position", "followed", "layer", "rank", "probability")
    return Table("curves", columns, rows, stored_only=True)


def _component_table(parts: Mapping[str, Part], config: Any) -> Table:
    def named(part: Part) -> str:
        found = part["components"]
        return ", ".join(f"{each['name']} {shown(number(each['push']), 1)}" for each in found)

    return Table.of(
        "components",
        parts,
        {
            "relation": lambda name, _: name,
            "logit difference": lambda _, part: number(part["total"]),
            "strongest components and their push": lambda _, part: named(part),
            "facts tested": lambda _, part: part["test"]["facts"],
            "p": lambda _, part: average(part["test"]["whole"]),
            "p without them": lambda _, part: average(part["test"]["without"]),
            "p without random ones": lambda _, part: average(part["test"]["without_random"]),
        },
        title="The strongest components, and what their loss costs",
        note=(
            f"Means over facts of the other half with 95 % intervals; random: mean of "
            f"{config.draws} sets of the same layers."
        ),
        default_digits=2,
        digits={"logit difference": 1},
        long=len(parts) > 12,
    )


# --- figures -------------------------------------------------------------------------------------


def _states(parts: Mapping[str, Part]) -> tuple[list[int], list[str]]:
    layers = range(_n_layers(parts))
    return [-1, *layers], ["emb.", *map(str, layers)]


def _over_relations(
    parts: Mapping[str, Part], place: str, followed: str, statistic: str
) -> list[Interval]:
    """The mean over relations by state, of ranks the geometric mean."""
    curves = [curve_of(part, place, followed, statistic) for part in parts.values()]
    stack = np.array([[point.value for point in curve] for curve in curves if curve])
    if statistic == "probability":
        return [average(column) for column in stack.T]
    return powers_of_ten([average(column) for column in np.log10(stack).T])


def _lens_figure(parts: Mapping[str, Part], statistic: str) -> Figure:
    x, names = _states(parts)
    wanted = {LAST: (ANSWER, OTHERS), SUBJECT: (ANSWER, ITSELF)}
    panels = {
        f"at the {place}": {
            NAMES[followed]: _over_relations(parts, place, followed, statistic)
            for followed in each
            if any(curve_of(part, place, followed, statistic) for part in parts.values())
        }
        for place, each in wanted.items()
    }
    panels = {title: panel for title, panel in panels.items() if panel}
    faint = {
        f"at the {LAST}": [
            [point.value for point in curve_of(part, LAST, ANSWER, statistic)]
            for part in parts.values()
        ]
    }
    is_rank = statistic == "rank"
    chart = Lines(
        x,
        panels,
        "layer",
        (statistic if not is_rank else "rank (1 is the top)",),
        faint=faint,
        x_names=names,
        logarithmic=tuple(panels) if is_rank else (),
        flipped=tuple(panels) if is_rank else (),
        y_limits=(None, None) if is_rank else (-0.02, 1.02),
    )
    mean = "Geometric mean over relations of the median rank" if is_rank else "Mean probability"
    caption = (
        f"{mean} by layer (emb.: the embedding), with 95 % intervals over {len(parts)} relations. "
        "Grey: the object in single relations."
    )
    return Figure(statistic, caption, chart.draw)


def _push_figure(parts: Mapping[str, Part]) -> Figure:
    layers = list(range(_n_layers(parts)))
    series = {}
    for label, kind in (("heads together", "heads"), ("MLP", "mlp")):
        stack = np.array([[number(x) for x in part["pushes"][kind]] for part in parts.values()])
        series[label] = [average(column) for column in stack.T]
    chart = Lines(layers, {"": series}, "layer", ("logits, answer against foil",), width=4.6)
    return Figure(
        "pushes",
        "What the heads and the MLP of each layer add at the last token to the logit difference, "
        f"mean over {len(parts)} relations with 95 % intervals over relations.",
        chart.draw,
    )


def _multiples(parts: Mapping[str, Part]) -> Figure:
    x, names = _states(parts)
    panels = {}
    for name, part in parts.items():
        curves = {
            "object, last token": curve_of(part, LAST, ANSWER, "rank"),
            "object, subject's last token": curve_of(part, SUBJECT, ANSWER, "rank"),
            "subject, subject's last token": curve_of(part, SUBJECT, ITSELF, "rank"),
        }
        panels[name.replace("_", " ")] = {key: curve for key, curve in curves.items() if curve}
    chart = Lines(
        x,
        panels,
        "layer",
        ("rank",),
        x_names=["e", *names[1:]],
        logarithmic=tuple(panels),
        flipped=tuple(panels),
        per_row=min(MULTIPLES_PER_ROW, max(2, len(panels))),
        height=1.2,
    )
    caption = (
        "Median rank by layer in every relation (e: the embedding), with 95 % intervals over facts."
    )
    return Figure("relations", caption, chart.draw)
