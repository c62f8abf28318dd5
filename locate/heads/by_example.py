"""What a head writes, by example: in how many pairs its best tokens hold that pair's answer.

A mover writes something else for every subject, so that the tokens which it raises most on average
over many subjects are nobody's answer. Here every pair is read by itself, and what is counted is
whether the answer's first token is among the few that the head raises most there. The foil, the
answer to the other prompt of the pair, is the control: it is of the same kind and wrong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits.base.display import token_name
from circuits.base.errors import OptionError
from circuits.base.results import texts


@dataclass(frozen=True)
class Example:
    """One pair: its subject, its answer's first token, and the tokens raised most, best first."""

    subject: str
    answer: str
    best: tuple[str, ...]

    @property
    def hit(self) -> bool:
        """Whether the answer is among the best tokens."""
        return self.answer in self.best

    def __str__(self) -> str:
        return f"{token_name(self.subject)} → {' '.join(map(token_name, self.best))}"


@dataclass(frozen=True)
class ByExample:
    """In how many of `pairs` a head's `n_best` best tokens hold the answer, and the foil.

    Answer and foil count by their tokens in the pair (`TokenPair.answer`, `TokenPair.foil`), the
    first that differ. `examples` are the first pairs of different subjects, chosen before anything
    is known of the head; heads that nobody labelled may have none.
    """

    n_best: int
    pairs: int
    answers: int
    foils: int
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        for name in ("answers", "foils"):
            if not 0 <= getattr(self, name) <= self.pairs:
                raise OptionError(f"{name} in {getattr(self, name)} of {self.pairs} pairs")

    @property
    def counts(self) -> str:
        """The counts as a table has them, the answer's first: `11 of 12, foil 1`."""
        return f"{self.answers} of {self.pairs}, foil {self.foils}"

    def __str__(self) -> str:
        return (
            f"the answer is among its {self.n_best} best tokens in {self.answers} of {self.pairs} "
            f"pairs, the foil in {self.foils}"
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ByExample:
        """From its record as JSON; an error of Python's or OptionError where it is none."""
        counts = {name: record[name] for name in ("n_best", "pairs", "answers", "foils")}
        if any(type(count) is not int for count in counts.values()):
            raise OptionError("a count is no whole number")
        examples = (
            Example(subject, answer, texts(each["best"]))
            for each in record["examples"]
            for subject, answer in [texts([each["subject"], each["answer"]])]
        )
        return cls(**counts, examples=tuple(examples))


def of_record(record: Mapping[str, Any]) -> ByExample | None:
    """What a stored head's record says by example; None where it says nothing that can be read.

    Older files have none, and the evidence that a circuit carries may hold anything.
    """
    found = record.get("by_example")
    try:
        return ByExample.from_dict(found) if isinstance(found, Mapping) else None
    except (OptionError, KeyError, TypeError):
        return None
