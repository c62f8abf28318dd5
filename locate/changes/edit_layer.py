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
from circuits.base.intervals import Interval, bootstrap_means
from circuits.edits.edit import EditRequest
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.states.tracing import trace_tokens, usual_window

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
        """The three strongest layers in a line, with 95 % intervals over enough requests."""
        parts = []
        for layer in np.argsort(-self.mean)[:3]:
            limits = bootstrap_means(self.effects[:, layer])
            parts.append(f"{layer}: {Interval(*map(float, limits))}")
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
) -> tuple[int, LayerEvidence]:
    """The layer to edit, and the effects that say so; PromptError where nothing can be traced.

    At most `MAX_TRACED` requests are traced: the layer is a property of the model rather than of a
    fact.
    """
    effects, left_out = [], []
    window = usual_window(model.n_layers)
    for request in requests[:MAX_TRACED]:
        try:
            prompt = model.tokenizer.encode(request.text)
            answer = request.ground_truth or _says(model, prompt)
            found = trace_tokens(
                model,
                prompt,
                prompt.span_of(request.subject, request.place),
                answer,
                model.tokenizer.first_token(request.text, answer),
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
def _says(model: Model, prompt: Prompt) -> str:
    """The likeliest next token, as text."""
    tokens = torch.tensor([prompt.ids], device=model.device)
    return model.tokenizer.token_string(int(model.last_logits(tokens).argmax()))
