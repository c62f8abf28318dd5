"""Tables of the editing study, from its stored results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.base.intervals import Interval

SHOWN = (
    "efficacy",
    "paraphrase",
    "held-out paraphrase",
    "portability",
    "locality",
    "neighbours",
    "other relations",
)
"""Columns of the table."""

WHOLE = {
    "changed": "edges called changed",
    "jaccard": "Jaccard of the circuits",
    "switched": "heads switched to the new object",
    "recovered": "undone by old values on the changed edges",
    "random_recovered": "on as many random edges",
}
"""Numbers of the whole circuit, and what readers call them."""

PARTS = ("value", "low", "high")
"""What a stored interval is made of."""


def success_rows(results: Sequence[Mapping[str, Any]], scoring: str) -> list[tuple[str, ...]]:
    """One row a model and method, in one scoring."""
    rows = []
    for result in results:
        choices, success = result["choices"], result["success"]
        cells = [_cell(success["after"].get(name, {}).get(scoring)) for name in SHOWN]
        rows.append((choices["model"], choices["method"], *cells))
    return rows


def cost_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Side effects: fluency, drift, size of the change, and time."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        success, choices = result["success"], result["choices"]
        before, after = success["fluency"]
        rows.append(
            (
                choices["model"],
                choices["method"],
                f"{_cell(before)} -> {_cell(after)}",
                _cell(success["drift"]),
                _cell(success["change"]),
                f"{result['seconds_an_edit']:.2f}",
                ", ".join(f"{count} {status}" for status, count in result["status"].items()),
            )
        )
    return rows


def rewiring_rows(result: Mapping[str, Any], family: str, name: str) -> list[tuple[str, ...]]:
    """One row a layer or role: the edit, beyond each control, and the controls themselves."""
    found = result["rewiring"]
    if not found:
        return []

    def of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        return {row["group"]: row for row in rows if (row["family"], row["name"]) == (family, name)}

    edits = {kind: of(rows) for kind, rows in found["edit"].items()}
    controls = {kind: of(rows) for kind, rows in found["control"].items()}
    first = next(iter(edits.values()))
    return [
        (
            group,
            _cell(row),
            *(_cell(controls[kind].get(group)) for kind in controls),
            *(_beyond(edits[kind].get(group)) for kind in edits),
        )
        for group, row in first.items()
    ]


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """All tables as a page."""
    from locate.report import markdown_table

    n = results[0]["choices"]["edits"]
    lines = [f"# {n} random counterfactual edits a method and model", ""]
    for scoring, about in (
        ("tokens", "Teacher-forced: share of the answer's tokens that are the argmax"),
        ("generation", "Free generation: the greedy text begins with the answer"),
        ("likelihood", "Likelihood: the wanted answer is likelier than its rival"),
    ):
        lines += [f"{about}.", ""]
        lines += markdown_table(("model", "method", *SHOWN), success_rows(results, scoring))
        lines.append("")
    header = ("model", "method", "fluency (bits)", "perplexity x", "|dW|/|W|", "s an edit", "")
    lines += markdown_table(header, cost_rows(results))
    rewired = [result for result in results if result["rewiring"]]
    if rewired:
        counts = sorted({result["rewiring"]["n"] for result in rewired})
        lines += ["", f"## Rewiring, of the first {' or '.join(map(str, counts))} edits", ""]
        lines += markdown_table(("model", "method", "", *WHOLE.values()), whole_rows(rewired))
    for result in rewired:
        choices = result["choices"]
        kinds = list(result["rewiring"]["control"])
        head = ("edit", *kinds, *(f"edit - {kind}" for kind in kinds))
        lines += ["", f"### {choices['method']} in {choices['model']}", ""]
        for family, name, about in (
            ("layer", "moved_share", "share of score mass moved, by the layer that writes"),
            ("role", "moved_share", "share of score mass moved, by the kind of node that writes"),
            ("layer", "changed", "edges called changed, by the layer that writes"),
            ("layer", "written_share", "share of the direct swing to the new object, by layer"),
        ):
            lines += [*markdown_table((about, *head), rewiring_rows(result, family, name)), ""]
    return "\n".join(lines).rstrip() + "\n"


def whole_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What happened to the circuit as a whole, by the edits and by each kind of control."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        choices, found = result["choices"], result["rewiring"]
        sides = {"edit": next(iter(found["edit"].values())), **found["control"]}
        for side, records in sides.items():
            whole = {row["name"]: row for row in records if row["family"] == "whole"}
            cells = [_cell(whole.get(name)) or "undefined" for name in WHOLE]
            rows.append((choices["model"], choices["method"], side, *cells))
    return rows


def _cell(interval: Mapping[str, Any] | None) -> str:
    if not interval or interval["value"] is None:
        return ""
    return str(Interval.from_dict({name: interval[name] for name in PARTS}))


def _beyond(row: Mapping[str, Any] | None) -> str:
    return _cell(row and {name: row.get(f"beyond_control_{name}") for name in PARTS})
