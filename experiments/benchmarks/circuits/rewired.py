"""What a change of weights did to the circuit of one fact, as the numbers that a unit keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.facts.facts import Fact, atlas
from experiments.benchmarks.base import Bench
from locate.changes.circuit_layers import same_words
from locate.changes.one_edit import Unedited, unedited
from locate.changes.rewiring_summary import whole_numbers

PARTNERS, DRAWS = 8, 5
QUANTITIES = {
    "changed": "edges changed beyond noise",
    "switched": "heads switched to the new object",
    "recovered": "share undone by old values there",
    "jaccard": "Jaccard of the circuits before and after",
}
LEFT_OUT = "left_out"
"""Where a unit says why a fact has no such numbers."""


def rewired_by(
    bench: Bench,
    request: EditRequest,
    delta: WeightDelta | None,
    everyone: Sequence[EditRequest],
    earlier: WeightDelta | None = None,
) -> dict[str, Any]:
    """The quantities of what `delta` does to the circuit of the request's question.

    As `kc compare` finds them: the request names what is answered before and what after, and
    partners are other subjects of its relation, from the atlas or from what `everyone` asks in the
    same words. With `earlier` both sides have that change too. Under `LEFT_OUT` stands why there
    are none.
    """
    if delta is None:
        return {LEFT_OUT: "nothing was changed"}
    try:
        if earlier is None:
            key = ("unedited", request)
            before = bench.once(key, lambda: _unedited(bench, request, everyone))
            return _numbers(before, delta)
        with earlier.applied(bench.model):
            return _numbers(_unedited(bench, request, everyone), delta)
    except (NumericalError, OptionError, PromptError) as error:
        return {LEFT_OUT: str(error)}


def _numbers(before: Unedited, delta: WeightDelta) -> dict[str, Any]:
    numbers = whole_numbers(before.rewired(delta, DRAWS))
    return {name: numbers[name] for name in QUANTITIES}


def _unedited(bench: Bench, request: EditRequest, everyone: Sequence[EditRequest]) -> Unedited:
    others: list[Fact] | None = None
    if request.relation not in atlas():
        others = same_words(request, everyone)
    return unedited(
        bench.model,
        request,
        partners=PARTNERS,
        others=others,
        seed=bench.seed,
        batch_size=bench.context.batch_size,
    )
