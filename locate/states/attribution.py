"""Direct logit attribution: what each head and MLP adds to the logits at the last token.

It splits the final logit difference into what each of them wrote (Elhage et al. 2021); with the
final norm's denominator kept as it is in the run, the split is exact (of the logits before a soft
cap, where the model has one):

    logit difference = sum over sources of contribution + constant

where the constant is what belongs to no source: position embeddings, the attention blocks' output
biases, the final norm's shift and the output matrix's bias. TransformerLens' `logit_attrs` is not
used because on raw weights it leaves out the final norm's gain, so its parts do not sum to the
logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_hooks
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from circuits.model.tokens import Prompt
from locate.heads.observed import of_pairs
from locate.states.frozen_norm import FrozenNorm
from locate.states.logit_attribution import LogitAttribution


@dataclass(frozen=True)
class WrittenTokens:
    """The tokens whose logits a head raises and lowers most, with by how much (in logits)."""

    layer: int
    head: int
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]


@alone
@torch.no_grad()
def direct_logit_attribution(
    model: Model, pairs: Sequence[TokenPair], batch_size: int = 16
) -> LogitAttribution:
    """Each source's part in the clean prompt's logit difference at the last position."""
    if not pairs:
        raise OptionError("there are no prompt pairs to work on")
    wiring = model.wiring()
    contributions = np.empty((len(pairs), wiring.n_src))
    constant, difference = np.empty(len(pairs)), np.empty(len(pairs))
    unembedding, bias = model.unembedding().float(), model.unembedding_bias()
    for batch in batches(pairs, batch_size, model):
        read = _last_position(model, batch.clean)
        direction = unembedding[batch.answer] - unembedding[batch.foil]
        parts, rest = _contributions(model, read, direction)
        if bias is not None:
            rest = rest + (bias[batch.answer] - bias[batch.foil]).float()
        rows = list(batch.index)
        contributions[rows], constant[rows] = parts.cpu().numpy(), rest.cpu().numpy()
        answer, foil = batch.answer[:, None], batch.foil[:, None]
        logits = read["logits"].float()
        found = (logits.gather(1, answer) - logits.gather(1, foil))[:, 0]
        difference[rows] = found.cpu().numpy()
    if not np.isfinite(contributions).all() or not np.isfinite(difference).all():
        raise NumericalError(
            f"the parts of the logits are not all finite numbers; {model.why_not_finite()}"
        )
    asked = {"pairs": len(pairs), "bos": pairs[0].clean.bos}
    provenance = {**model.provenance, "method": "direct logit attribution", **asked}
    provenance |= of_pairs(pairs)
    return LogitAttribution(wiring, contributions, constant, difference, provenance)


@alone
@torch.no_grad()
def head_logits(
    model: Model, tokens: Int[Tensor, "batch pos"], heads: Sequence[tuple[int, int]]
) -> Float[Tensor, "batch head d_vocab"]:
    """What heads (layer, head) add to each logit at the last position.

    The final norm's denominator is the run's own. Only differences between tokens mean anything.
    """
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise OptionError(
                f"there is no head a{layer}.h{head} in a model of {model.wiring().describe()}"
            )
    read = _last_position(model, tokens)
    written = [
        _head_outputs(model, read, layer)[:, head] @ weight[head]
        for layer, head in heads
        for weight in [model.head_output_weights(layer).float()]
    ]
    norm = FrozenNorm.of_run(model, read["final"])
    return norm.apply(torch.stack(written, 1)) @ model.unembedding().float().T


@alone
def written_tokens(
    model: Model, prompt: Prompt, heads: Sequence[tuple[int, int]], top: int = 10
) -> list[WrittenTokens]:
    """The tokens that each head writes for and against at the prompt's last position."""
    if top < 1:
        raise OptionError(f"ask for at least 1 token, not {top}")
    if not heads:
        return []
    ids = torch.tensor([prompt.ids], device=model.device)
    logits = head_logits(model, ids, heads)[0]
    logits = logits - logits.mean(-1, keepdim=True)
    found = []
    for (layer, head), row in zip(heads, logits, strict=True):
        ends = []
        for largest in (True, False):
            values, indices = row.topk(min(top, len(row)), largest=largest)
            words = [model.tokenizer.token_string(index) for index in indices.tolist()]
            ends.append(tuple(zip(words, values.tolist(), strict=True)))
        found.append(WrittenTokens(layer, head, *ends))
    return found


def _last_position(model: Model, tokens: Int[Tensor, "batch pos"]) -> dict[str, Tensor]:
    """What the sources wrote at the last position, `final` and `logits`, by `source_hooks`' keys.

    The logits are those before a soft cap, which are linear in what was written.
    """
    read: dict[str, Tensor] = {}
    hooks: list[Hook] = []

    def keep(name: str, key: str) -> Hook:
        def store(value: Tensor, hook: Any) -> None:
            read[key] = value[:, -1].float()

        return (name, store)

    if model.architecture.has_positions:
        hooks = [keep(taps.POSITIONS, "positions")]
    hooks += source_hooks(model, lambda key, value: read.__setitem__(key, value[:, -1].float()))
    hooks.append(keep(taps.resid_post(model.n_layers - 1), "final"))
    hooks.append(keep(taps.UNEMBEDDED, "logits"))
    model.last_logits(tokens, hooks)
    return read


def _contributions(
    model: Model, read: Mapping[str, Tensor], direction: Float[Tensor, "batch d_model"]
) -> tuple[Float[Tensor, "batch src"], Float[Tensor, " batch"]]:
    """Every source's and the constant's part in the logits along a direction of the output."""
    reader = FrozenNorm.of_run(model, read["final"]).pull_back(direction)
    parts = [(read["embedding"] * reader).sum(-1, keepdim=True)]
    unowned = read.get("positions", torch.zeros_like(reader))
    for layer in range(model.n_layers):
        weight = model.head_output_weights(layer).float()
        into_heads = torch.einsum("hed,bd->bhe", weight, reader)
        parts.append((_head_outputs(model, read, layer) * into_heads).sum(-1))
        parts.append((read[f"mlp.{layer}"] * reader).sum(-1, keepdim=True))
        bias = model.head_output_bias(layer)
        if bias is not None:
            unowned = unowned + bias.float()
    constant = (unowned * reader).sum(-1)
    shift = model.final_norm()[1]
    if shift is not None:
        constant = constant + direction @ shift.float()
    return torch.cat(parts, 1), constant


def _head_outputs(
    model: Model, read: Mapping[str, Tensor], layer: int
) -> Float[Tensor, "batch head d_head"]:
    """Each head's output before the output matrix."""
    output = read[f"heads.{layer}"]
    return output.reshape(output.shape[0], model.n_heads, model.d_head)
