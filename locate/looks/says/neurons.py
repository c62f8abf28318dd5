"""What neurons do: a sentence on how few of an MLP's carry what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locate.looks.says.circuits import WHERE
from locate.looks.says.words import count, figures, model_of, percents, sentence

if TYPE_CHECKING:
    from locate.neurons.report import NeuronReport


def neurons(found: NeuronReport) -> str:
    """Of the MLP that matters most: how few neurons carry half of it, beside as many random ones.

    Where patching that MLP does not change the metric for certain there is no share to speak of.
    """
    origin, mlp = found.provenance, found.order[0]
    where = WHERE.get(str(origin.get("measured_on")), "pairs that may have found them")
    relation = origin.get("relation")
    asked = f"{relation}, {where}" if isinstance(relation, str) else where
    metric = origin.get("metric", "the metric")
    costs = f"patching {mlp} costs {figures(found.cost(mlp))} of {metric}"
    if not found.matters(mlp):
        return sentence(f"no evidence that neurons of {mlp} matter ({asked}): {costs}")
    each = found.shares(mlp)[found.fewest(mlp)]
    n = f"{each.size:,}"
    return sentence(
        f"{n} of {count(found.d_mlp, 'neuron')} of {mlp} carry {percents(each.share)} of what it "
        f"does in {model_of(origin)} ({asked}), {n} random ones {percents(each.random)}; {costs}"
    )
