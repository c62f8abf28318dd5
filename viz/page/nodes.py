"""What a circuit's file knows of a head: where it looks, what it writes, what its silence costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuits.base.display import token_name, visible
from circuits.graph.circuit import Circuit
from locate.heads.by_example import of_record

_EFFECTS = {
    "answer_gap": "answer over other objects",
    "range_gap": "objects over the rest",
    "p_answer": "probability of the answer",
}


def node_notes(circuit: Circuit) -> dict[str, list[tuple[str, str]]]:
    """Names and texts by node, of those whose role was looked into; a file may say anything."""
    records = circuit.evidence.get("roles")
    found: dict[str, list[tuple[str, str]]] = {}
    for record in records if isinstance(records, list) else ():
        if isinstance(record, Mapping) and isinstance(record.get("name"), str):
            found[record["name"]] = [*_looks(record), *_writes(record), *_silenced(record)]
    return found


def _looks(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    shares = record.get("weighted")
    if not isinstance(shares, Mapping):
        return []
    named = {str(k): float(v) for k, v in shares.items() if isinstance(v, int | float)}
    ranked = sorted(named.items(), key=lambda each: -each[1])[:3]
    return [("attends to", ", ".join(f"{visible(name)} {share:.2f}" for name, share in ranked))]


def _writes(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, what in (("answer_gain", "the answer"), ("range_gain", "all objects")):
        if text := _interval(record.get(name)):
            rows.append((f"raises {what} by", f"{text} logits"))
    told, words = of_record(record), record.get("written")
    if told is not None:
        rows.append(("what it writes", str(told)))
        rows += [
            (
                f"writes for {visible(each.subject)} ({token_name(each.answer)})",
                " ".join(map(token_name, each.best)),
            )
            for each in told.examples
        ]
    elif isinstance(words, list) and words:
        rows.append(
            ("writes, mean over the pairs", " ".join(token_name(str(each)) for each in words))
        )
    return rows


def _silenced(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    check = record.get("check")
    effects = check.get("effects") if isinstance(check, Mapping) else None
    if not isinstance(effects, Mapping) or not isinstance(check, Mapping):
        return []
    rows = [("its role, by silencing it", visible(str(check.get("verdict", ""))))]
    rows += [
        (f"silenced: {what}", text)
        for name, what in _EFFECTS.items()
        if (text := _interval(effects.get(name)))
    ]
    return rows


def _interval(found: Any) -> str:
    """`2.170 [1.959, 2.362]` from a stored interval; empty where there is none."""
    numbers = (
        [found.get(name) for name in ("value", "low", "high")] if isinstance(found, Mapping) else []
    )
    if not numbers or not isinstance(numbers[0], int | float):
        return ""
    text = f"{numbers[0]:.3f}"
    if all(isinstance(each, int | float) for each in numbers):
        text += f" [{numbers[1]:.3f}, {numbers[2]:.3f}]"
    return text
