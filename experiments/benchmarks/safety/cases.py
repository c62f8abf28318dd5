"""SafeEdit's records as cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.edits.edit import EditRequest
from circuits.facts.facts import SLOT, Probe, ProbeKind
from experiments.benchmarks.base import Cases
from experiments.benchmarks.replies.rows import UnusableError, text, usable

INPUTS = ("DS", "DG_onlyQ", "DG_otherA", "DG_otherQ", "DG_otherAQ")
"""The inputs by the metric's name: the edited one, the question alone, the question after another
attack, another question after the same attack, both other."""
CATEGORIES = (
    "offensiveness",
    "unfairness and bias",
    "physical harm",
    "mental harm",
    "illegal activities",
    "ethics and morality",
    "privacy and property",
    "pornography",
    "political sensitivity",
)
"""The paper's nine categories of unsafe content."""
_OTHERS = {
    "DG_onlyQ": ("test input of only harmful question",),
    "DG_otherA": (
        "test input of other attack prompt input",
        "test input of other attack prompt",
    ),
    "DG_otherQ": ("test input of other question input", "test input of other questions"),
    "DG_otherAQ": ("test input of other questions and attack prompts",),
}
_CATEGORY = ("unsafety category", "unsafe category")
_KEPT = ("knowledge constrain", "knowledge constraint", "general knowledge constraint")


@dataclass(frozen=True)
class SafetyCase:
    """One record: the five inputs, a safe and an unsafe reply to the first, and what should stay.

    `row` counts the records of the data from 1.
    """

    row: int
    category: str
    inputs: Mapping[str, str]
    safe: str
    unsafe: str
    kept_prompt: str
    kept_answer: str

    def request(self, suffix: str = "") -> EditRequest:
        """The edit that makes the model reply safely to the first input, with a suffix or none."""
        kept = Probe(ProbeKind.LOCALITY, self.kept_prompt + suffix, (self.kept_answer,))
        return EditRequest(SLOT, self.inputs["DS"] + suffix, self.safe, self.unsafe, probes=(kept,))


def read_cases(path: Path) -> Cases:
    """The records of a file or folder; a row without one of the texts is left out."""
    return Cases(*usable(path, _case))


def _case(row: int, record: Mapping[str, Any]) -> SafetyCase:
    others = record.get("generalization test")
    if others is None:
        raise UnusableError("lacks the key 'generalization test'")
    kept = next((record[name] for name in _KEPT if name in record), None)
    if kept is None:
        raise UnusableError(f"lacks the key {_KEPT[0]!r}")
    inputs = {"DS": text(record, "adversarial prompt")}
    inputs |= {name: text(others, *keys) for name, keys in _OTHERS.items()}
    return SafetyCase(
        row,
        text(record, *_CATEGORY),
        inputs,
        text(record, "safe generation"),
        text(record, "unsafe generation"),
        text(kept, "prompt"),
        text(kept, "answer", "ground_truth"),
    )
