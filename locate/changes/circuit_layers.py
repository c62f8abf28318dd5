"""Which layers to edit, from the fact's circuit: where the MLPs write that recall it.

1. Pairs ask for the request's old object, clean, and for those of other subjects, corrupted, in the
   request's own words. EAP-IG scores the edges and the best ones are the circuit, as `kc discover`
   has it. Clean and corrupted run differ from the subject on, so that nothing before it counts.
2. A layer's weight is the sum of |score| over the circuit's edges that leave its MLP, as a share of
   all layers'. The fewest layers that hold half of it are taken.
3. The same once more in sentences that give the subject another name first and ask of that
   (`circuits.edits.parts.uses`), for the requests that the model answers there: the fact as the
   last of two steps, which CaKE (Yao et al. 2025, arXiv:2503.16356) finds in later layers. Both
   sets of layers are edited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from circuits.base.choices import Contrast
from circuits.base.errors import OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.effects.pairs import edit_pairs
from circuits.edits.methods.run import target_scores
from circuits.edits.parts.contexts import place
from circuits.edits.parts.uses import Use, by_another_name
from circuits.facts.facts import Fact, atlas
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edges.eap import attribute
from locate.search import Scoring, Search

SHARE = 0.5
PARTNERS = 8
MOST_REQUESTS = 20


@dataclass(frozen=True, eq=False)
class CircuitLayers:
    """What was found for one way of asking: `weights` sum to 1 over the layers, `chosen` ascend."""

    use: Use
    weights: Float[np.ndarray, " layer"]
    chosen: tuple[int, ...]
    pairs: int


@dataclass(frozen=True, eq=False)
class CircuitEvidence:
    """The layers of both ways of asking; `left_out` says why a request has no part in one."""

    found: tuple[CircuitLayers, ...]
    left_out: tuple[str, ...] = ()

    @property
    def layers(self) -> list[int]:
        """All layers that were chosen, ascending."""
        return sorted({layer for each in self.found for layer in each.chosen})

    def describe(self) -> str:
        """Both sets in a line, with what each layer's MLP holds of the circuit."""
        asked = {Use.STATED: "asked directly", Use.LAST: "asked through another name"}
        parts = []
        for each in self.found:
            shares = ", ".join(f"{layer}: {each.weights[layer]:.0%}" for layer in each.chosen)
            parts.append(f"{asked[each.use]} ({each.pairs} pairs) {shares}")
        if len(self.found) == 1:
            parts.append("the model does not answer through another name")
        return "MLPs of the fact's circuit, " + "; ".join(parts)


@alone
def layers_by_circuit(
    model: Model,
    requests: Sequence[EditRequest],
    *,
    everyone: Iterable[EditRequest] = (),
    share: float = SHARE,
    partners: int = PARTNERS,
    seed: int = 0,
    batch_size: int = 16,
) -> CircuitEvidence:
    """The layers to edit, and the circuits that say so; of the first `MOST_REQUESTS` requests.

    Corrupted subjects are of the request's relation in the atlas, or, for a relation that is not
    there, of those requests of `everyone` that ask in the same words. PromptError where no request
    has two of them.
    """
    if not 0 < share <= 1:
        raise OptionError(f"`share` is above 0 and at most 1, not {share:g}")
    everyone = list(everyone)
    few = {
        each: None if each.relation in atlas() else same_words(each, everyone)
        for each in requests[:MOST_REQUESTS]
    }
    left_out: list[str] = []
    pairs = _pairs(model, list(few.items()), partners, seed, left_out)
    if not pairs:
        reason = left_out[0] if left_out else "there is no request"
        raise PromptError(f"no circuit can be found to choose layers: {reason}")
    found = [_layers(model, Use.STATED, pairs, share, batch_size)]
    again = [
        (each, others)
        for request, others in few.items()
        for prompt in by_another_name(request.prompt)
        if _answers(model, each := replace(request, prompt=prompt), left_out)
    ]
    if later := _pairs(model, again, partners, seed, left_out):
        found.append(_layers(model, Use.LAST, later, share, batch_size))
    return CircuitEvidence(tuple(found), tuple(left_out))


def mlp_weights(circuit: Circuit) -> Float[np.ndarray, " layer"]:
    """By layer the sum of |score| over the circuit's edges that leave its MLP; they sum to 1.

    PromptError where no such edge has a score.
    """
    if circuit.scores is None:
        raise OptionError("the circuit has no scores to weigh its layers by")
    wiring = circuit.wiring
    kept = np.where(circuit.matrix(), np.abs(circuit.scores.matrix()), 0.0).sum(1)
    by_name = dict(zip(wiring.src_names, kept, strict=True))
    weights = np.array([by_name[f"m{layer}"] for layer in range(wiring.n_layers)])
    if not weights.sum() > 0:
        raise PromptError("no MLP is in the fact's circuit; name the layers")
    return weights / weights.sum()


def fewest(weights: Float[np.ndarray, " layer"], share: float) -> tuple[int, ...]:
    """The fewest layers that hold this share of the weights, ascending."""
    order = np.argsort(-weights, kind="stable")
    count = int(np.searchsorted(weights[order].cumsum(), share * weights.sum() - 1e-9)) + 1
    return tuple(sorted(map(int, order[:count])))


def _layers(
    model: Model, use: Use, pairs: Sequence[TokenPair], share: float, batch_size: int
) -> CircuitLayers:
    scores = attribute(model, pairs, Scoring(), batch_size=batch_size)
    weights = mlp_weights(Search().selected(scores))
    return CircuitLayers(use, weights, fewest(weights, share), len(pairs))


def _pairs(
    model: Model,
    asked: Sequence[tuple[EditRequest, list[Fact] | None]],
    partners: int,
    seed: int,
    left_out: list[str],
) -> list[TokenPair]:
    found: list[TokenPair] = []
    for request, others in asked:
        try:
            made = edit_pairs(
                model.tokenizer,
                [request],
                contrast=Contrast.ANSWER,
                partners=partners,
                others=others,
                seed=seed,
            )
        except (OptionError, PromptError) as error:
            left_out.append(str(error))
            continue
        found += made.encode(model.tokenizer)[0]
    return found


def same_words(request: EditRequest, everyone: Iterable[EditRequest]) -> list[Fact]:
    """The facts of other requests that ask in the same words, one a subject.

    A subject that is asked about twice would be the same corrupted prompt twice.
    """
    facts: dict[str, Fact] = {}
    for each in everyone:
        if each.prompt == request.prompt and each.ground_truth is not None:
            facts.setdefault(each.subject, Fact(request.prompt, each.subject, each.ground_truth))
    return list(facts.values())


def _answers(model: Model, request: EditRequest, left_out: list[str]) -> bool:
    """Whether the model says the old object, token by token."""
    if request.ground_truth is None:
        return False
    try:
        old = place(model, replace(request, target=request.ground_truth))
    except PromptError as error:  # too long for the model
        left_out.append(str(error))
        return False
    return bool(target_scores(model, [old]).said.all())
