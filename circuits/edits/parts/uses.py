"""Sentences in which a fact is used: as it is, first in a chain of two steps, and last in one.

A chain of two facts is recalled in two places: the first one at the subject, in early layers; the
second one where the entity between them has arrived, in later layers (Yao et al. 2025, CaKE,
arXiv:2503.16356). A fact that is to be used in both places is trained in both. The sentences are
our own, and need the request alone: what else a chain takes stands in the sentence itself.

- STATED: the request's prompt and target.
- FIRST: the object is what a second step, which the sentence states, starts from. The old object
  starts another one, so that the sentence is answered by who knows the new object. Both orders and
  answers occur. A request without `ground_truth`, or one that asks for it, has none.
- LAST: the fact is asked of another name, and the sentence says first whose name it is.

No sentence holds the target in its question but those of FIRST, and none is of a probe.
"""

from __future__ import annotations

from collections.abc import Sequence

from circuits.base.choices import Choice
from circuits.edits.edit import EditRequest
from circuits.edits.parts.examples import Example
from circuits.facts.facts import SLOT, fill


class Use(Choice):
    """How a sentence uses a fact; the module says more."""

    STATED = "stated"
    FIRST = "first"
    LAST = "last"


NAMES = ("Alder", "Rowan")
"""What a subject is called beside its own name."""
_ANSWERS = ("red", "blue")
_NAMING = (
    "{name} is another name for {subject}. {asked}",
    "What is true of {subject} is true of {name}. {asked}",
)
_SECOND_STEPS = (
    'Say red for {one} and blue for {other}. For what completes "{asked}", say',
    'Here {one} is written red and {other} is written blue. What completes "{asked}" is written',
)


def sentences(request: EditRequest, uses: Sequence[Use | str]) -> list[Example]:
    """The request's fact in sentences of these uses, each as what is asked and its answer."""
    made = {Use.STATED: _stated, Use.FIRST: _first, Use.LAST: _last}
    chosen = dict.fromkeys(Use.of(use, "uses") for use in uses)
    return [each for use in chosen for each in made[use](request)]


def by_another_name(prompt: str, subject: str = SLOT) -> tuple[str, ...]:
    """The prompt asked of another name that the sentence gives the subject; by default templates,
    with `{}` in the subject's place.
    """
    return tuple(
        naming.replace("{name}", name)
        .replace("{asked}", fill(prompt, name))
        .replace("{subject}", subject)
        for naming in _NAMING
        for name in NAMES
    )


def _stated(request: EditRequest) -> list[Example]:
    return [Example(request.text, request.target)]


def _last(request: EditRequest) -> list[Example]:
    return [
        Example(text, request.target) for text in by_another_name(request.prompt, request.subject)
    ]


def _first(request: EditRequest) -> list[Example]:
    old, new = request.ground_truth, request.target
    if old is None or old == new:
        return []
    return [
        Example(
            step.replace("{one}", pair[0])
            .replace("{other}", pair[1])
            .replace("{asked}", request.text),
            answer,
        )
        for step in _SECOND_STEPS
        for pair, answer in zip(((new, old), (old, new)), _ANSWERS, strict=True)
    ]
