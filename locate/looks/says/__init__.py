"""What was found, in one plain sentence with its number and its control: a function a kind.

`says(result)` is what commands, JSON, summaries and pages begin with. A sentence is computed from
the result alone, so that no text outlives the numbers it was written for. Where evidence lacks it
says so, "No evidence that ...". A class of a plugin has a method `says` of its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_SENTENCES = {
    "circuits.graph.circuit:Circuit": "circuits:circuit",
    "circuits.files.attribution:AttributionGraph": "circuits:graph",
    "circuits.graph.scores:EdgeScores": "circuits:scores",
    "circuits.graph.evaluate:Evaluation": "circuits:evaluation",
    "circuits.graph.hypothesis:CircuitTests": "circuits:tests",
    "circuits.graph.curve:FaithfulnessCurve": "circuits:curve",
    "circuits.graph.curve:FaithfulnessCurves": "circuits:curves",
    "circuits.graph.comparison:Comparison": "changes:comparison",
    "circuits.edits.methods.run:EditOutcome": "changes:outcome",
    "circuits.edits.edit:WeightDelta": "changes:delta",
    "circuits.edits.parts.moments:Moments": "changes:moments",
    "circuits.files.units:Record": "changes:unit",
    "circuits.model.saying:NextTokens": "states:next_tokens",
    "locate.discovery:Discovery": "circuits:discovery",
    "locate.evaluate:StoredEvaluation": "circuits:stored_evaluation",
    "locate.mib.board:BoardScores": "circuits:board",
    "locate.ask:Asked": "circuits:asked",
    "locate.changes.rewired:Rewiring": "changes:rewiring",
    "locate.edited:Edited": "changes:edited",
    "locate.interchange:Interchange": "changes:interchange",
    "locate.features.carriers:Carriers": "features:carriers",
    "locate.heads.role_report:RoleReport": "heads:roles",
    "locate.heads.span_roles:SpanRoles": "heads:span_roles",
    "locate.heads.heads_on_prompts:PromptHeads": "heads:prompt_heads",
    "locate.heads.heads_on_prompts:HeadsOnPrompts": "heads:heads_on_prompts",
    "locate.neurons.report:NeuronReport": "neurons:neurons",
    "locate.states.trace_result:Trace": "states:trace",
    "locate.states.trace_roles:AverageTrace": "states:average_trace",
    "locate.states.lens_result:LensResult": "states:lens",
    "locate.states.lens_curves:AverageLens": "states:average_lens",
    "locate.states.logit_attribution:LogitAttribution": "states:attribution",
}
"""The function in a module here, by the class; names, so that nothing is imported for the table."""


def says(result: Any) -> str:
    """The sentence that a result begins with; empty for what has none, as a class of a plugin."""
    for kind in type(result).__mro__:
        target = _SENTENCES.get(f"{kind.__module__}:{kind.__qualname__}")
        if target is not None:
            module, _, name = target.partition(":")
            found: str = getattr(import_module(f"{__name__}.{module}"), name)(result)
            return found
    return ""
