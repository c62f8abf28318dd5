"""Which layer to edit, from causal tracing: where the MLP's output brings the fact back.

Each request's prompt is traced with what the model says now, over MLP outputs only; the layer is
the one whose effect at the subject's last token, averaged over the requests, is largest (Meng et
al. 2022, section 2.2). It is advice: where recall sits in attention, another layer may be better to
write to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from circuits.base.choices import TraceKind
from circuits.base.errors import PromptError
from circuits.base.intervals import bootstrap_means
from circuits.edits.edit import EditRequest
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.states.tracing import trace, usual_window

MAX_TRACED = 20


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """Indirect effects of the MLP outputs at the subject's last token, one row a request.

    In units of the answer's probability; positive supports it. `left_out` says why a request was
    not traced.
    """

    effects: Float[np.ndarray, "request layer"]
    window: int
    left_out: tuple[str, ...] = ()

    @property
    def mean(self) -> Float[np.ndarray, " layer"]:
        """Average effect a layer."""
        return self.effects.mean(0)

    def describe(self) -> str:
        """The three strongest layers in a line, with 95 % intervals over requests."""
        parts = []
        for layer in np.argsort(-self.mean)[:3]:
            value, low, high = bootstrap_means(self.effects[:, layer])
            parts.append(f"{layer}: {float(value):.3f} [{float(low):.3f}, {float(high):.3f}]")
        return f"MLP effect at the subject's last token, {len(self.effects)} traces: " + ", ".join(
            parts
        )


@alone
def layer_by_trace(
    model: Model,
    requests: Sequence[EditRequest],
    *,
    samples: int = 10,
    seed: int = 0,
    limit: int = MAX_TRACED,
) -> tuple[int, LayerEvidence]:
    """The layer to edit, and the effects that say so; PromptError where nothing can be traced.

    At most `limit` requests are traced: the layer is a property of the model rather than of a fact.
    """
    effects, left_out = [], []
    window = usual_window(model.n_layers)
    for request in requests[:limit]:
        try:
            found = trace(
                model,
                request.text,
                request.subject,
                request.ground_truth or _says(model, request),
                kinds=[TraceKind.MLP],
                window=window,
                samples=samples,
                seed=seed,
            )
        except PromptError as error:
            left_out.append(str(error))
            continue
        effects.append(found.effect(TraceKind.MLP)[:, found.subject.last])
    if not effects:
        raise PromptError(f"no request can be traced to choose a layer: {left_out[0]}")
    evidence = LayerEvidence(np.stack(effects), window, tuple(left_out))
    return int(evidence.mean.argmax()), evidence


@torch.no_grad()
def _says(model: Model, request: EditRequest) -> str:
    """The likeliest next token, as text."""
    tokens = torch.tensor([model.tokenizer.encode(request.text).ids], device=model.device)
    return model.tokenizer.token_string(int(model.last_logits(tokens).argmax()))
