"""What neurons do: a sentence on how few of an MLP's carry what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locate.looks.says.circuits import where
from locate.looks.says.words import count, figures, model_of, percents, sentence

if TYPE_CHECKING:
    from locate.neurons.report import NeuronReport


def neurons(found: NeuronReport) -> str:
    """Of the MLP that matters most: how few neurons carry half of it, beside as many random ones.

    Where patching that MLP does not change the metric for certain there is no share to speak of.
    """
    origin, mlp = found.provenance, found.order[0]
    pairs = where(origin.get("measured_on"))
    relation = origin.get("relation")
    asked = f"{relation}, {pairs}" if isinstance(relation, str) else pairs
    metric = origin.get("metric", "the metric")
    costs = f"patching {mlp} costs {figures(found.cost(mlp))} of {metric}"
    if not found.matters(mlp):
        return sentence(f"no evidence that neurons of {mlp} matter ({asked}): {costs}")
    each, other = found.shares(mlp)[found.fewest(mlp)], found.sparsest
    verb, ones = _number(each.size)
    text = (
        f"{each.size:,} of {count(found.d_mlp, 'neuron')} of {mlp} {verb} {percents(each.share)} "
        f"of what it does in {model_of(origin)} ({asked}), {each.size:,} random {ones} "
        f"{percents(each.random)}; {costs}"
    )
    if other not in (None, mlp) and found.matters(str(other)):
        few = found.shares(str(other))[found.fewest(str(other))]
        _, ones = _number(few.size)
        text += (
            f"; where they were chosen, {few.size:,} of {other} carried half of it, fewest of "
            f"{len(found.mlps)} MLPs: here {percents(few.share)}, {few.size:,} random {ones} "
            f"{percents(few.random)}"
        )
    return sentence(text)


def _number(size: int) -> tuple[str, str]:
    """The verb and the noun after so many."""
    return ("carries", "one") if size == 1 else ("carry", "ones")
