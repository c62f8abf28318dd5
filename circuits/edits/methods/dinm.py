"""DINM: find the layer where a safe and an unsafe response differ most, and tune its MLP.

Wang et al. 2024, "Detoxifying Large Language Models via Knowledge Editing". For each record:

1. The toxic layer is the one where the hidden states of the two responses are furthest apart.
2. The matrix from which its MLP writes is tuned, by Adam, on 0.1 x the loss of the safe response
   plus the KL divergence from the model before on a text that should stay as it is.

`shipped` follows EasyEdit's code instead, which differs from its paper: the layer is found for the
first record only, on the responses without their prompt; the KL term is computed without
gradient, so that it changes nothing, and (with a tokenizer that adds no BOS) one position late,
from the answer's first token to what would follow its last; the response is set off by two spaces.

A record is an `EditRequest`: `target` is the safe response, `ground_truth` the unsafe one, probes
of the locality kind are the texts that should stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.generation import Speaker
from circuits.edits.parts.training import (
    Descent,
    Objective,
    Passage,
    Trainee,
    descend,
    divergence,
    negative_log_likelihood,
    pad,
    passage,
)
from circuits.facts.facts import ProbeKind
from circuits.model import taps
from circuits.model.model import Model


@dataclass(frozen=True)
class DinmSettings(Options):
    """EasyEdit's values for Llama-2-7B and GPT-2 XL. `layers` are candidates for the toxic layer.

    `edit_weight` and `locality_weight` are the factors of the two terms; no step is taken where
    the loss is below `stop_below`.
    """

    DEPTH: ClassVar[tuple[float, float]] = (1.0, 1.0)  # every layer

    layers: tuple[int, ...] = (0,)
    learning_rate: float = option(5e-4, above=0)
    steps: int = option(10, low=1)
    edit_weight: float = option(0.1, above=0)
    locality_weight: float = option(1.0, low=0)
    stop_below: float = option(1e-4, low=0)
    clamp: float | None = option(None, above=0)
    shipped: bool = False


@dataclass(frozen=True)
class Record:
    """A record as DINM takes it."""

    prompt: str
    safe: str
    unsafe: str
    locality: tuple[Passage, ...]


def dinm(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: DinmSettings,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """Tune the toxic layer of one record after the other.

    Details give each record's layer, the distances by layer and the terms of the loss (`edit`,
    `locality`; nats a token) before each step. KL is to the model before all records. A record
    without unsafe response takes what the model says by itself, one without locality text has no
    KL term. Nothing is drawn from the generator. DivergenceError where a loss is not finite.
    """
    trainee, found = Trainee(model), []
    chosen: int | None = None
    for number, request in enumerate(requests, start=1):
        with trainee.delta().applied(model):
            record = _record(model, request, settings.shipped)
            distances = _distances(model, record, settings.shipped)
        if chosen is None or not settings.shipped:
            chosen = max(layers, key=lambda layer: distances[layer])
        terms = _tune(model, trainee, chosen, record, settings)
        found.append(
            {
                "layer": chosen,
                "distances": distances,
                "unsafe": record.unsafe,
                "locality_texts": len(record.locality),
                "losses": [step["loss"] for step in terms],
                "terms": terms,
            }
        )
        if progress is not None:
            progress(number, len(requests))
    return trainee.delta(), {"records": found, "toxic_layers": [each["layer"] for each in found]}


def _tune(
    model: Model, trainee: Trainee, layer: int, record: Record, settings: DinmSettings
) -> list[dict[str, float]]:
    """Loss terms before each step of tuning a layer on a record."""
    if settings.shipped:
        safe = _shipped_passage(model, record)
    else:
        safe = passage(model, record.prompt, record.safe)

    def objective(batch: Sequence[Passage]) -> Objective:
        edit = negative_log_likelihood(trainee, batch).mean()
        locality = torch.zeros_like(edit)
        if record.locality:
            # The shipped code's `with torch.no_grad()`: the term enters the loss, not the gradient.
            with torch.set_grad_enabled(not settings.shipped):
                locality = divergence(trainee, record.locality).mean()
        total = settings.edit_weight * edit + settings.locality_weight * locality
        terms = {"edit": float(edit.detach()), "locality": float(locality.detach())}
        return Objective(total, terms, enough=float(total.detach()) < settings.stop_below)

    names = [model.mlp_output_name(layer)]
    how = Descent(settings.learning_rate, settings.clamp)
    return descend(trainee.train(names), [[[safe]]] * settings.steps, objective, how)


def _record(model: Model, request: EditRequest, shipped: bool = False) -> Record:
    texts = []
    for probe in request.probes:
        if probe.kind == ProbeKind.LOCALITY:
            answer = probe.answers[0] if probe.answers else None
            text = passage(model, probe.prompt, answer)
            texts.append(_one_late(text) if shipped else text)
    unsafe = request.ground_truth or _says(model, request)
    return Record(request.text, request.target, unsafe, tuple(texts))


def _says(model: Model, request: EditRequest) -> str:
    """The model's own greedy continuation, as long as the target."""
    ids = model.tokenizer.encode(request.text).ids
    count = len(model.tokenizer.continuation(request.text, request.target))
    said = Speaker(model).replies([ids], count)[0].tokens
    return model.tokenizer.hf.decode(said).strip() or model.tokenizer.token_string(said[-1])


def _one_late(text: Passage) -> Passage:
    """The predictions one place on; the token that is added is not read, only what precedes it."""
    return Passage((*text.ids, text.ids[-1]), text.start + 1)


# --- the toxic layer -----------------------------------------------------------------------------


@torch.no_grad()
def _distances(model: Model, record: Record, shipped: bool) -> list[float]:
    if shipped:
        return _shipped_distances(model, record)
    safe, unsafe = (_response_states(model, record, text) for text in (record.safe, record.unsafe))
    return [float((s - u).norm()) for s, u in zip(safe, unsafe, strict=True)]


def _response_states(model: Model, record: Record, response: str) -> list[Tensor]:
    """Each layer's residual stream after the block, mean over the response's tokens.

    The paper leaves open how responses of different lengths are compared.
    """
    text = passage(model, record.prompt, response)
    found, keep = taps.keeping(map(taps.resid_post, range(model.n_layers)))
    model.last_logits(torch.tensor([text.ids], device=model.device), keep)
    return [residual[0, text.start :].float().mean(0) for residual in found.values()]


def _shipped_distances(model: Model, record: Record) -> list[float]:
    """Over the whole padded sequence of the bare responses; the last is after the final norm."""
    encode = model.tokenizer.encode
    pair = [Passage(encode(text).ids, 1) for text in (record.safe, record.unsafe)]
    tokens, _ = pad(pair, model.device)
    mask = torch.zeros_like(tokens)
    filler = model.tokenizer.hf.pad_token_id or model.tokenizer.hf.eos_token_id or 0
    for row, each in enumerate(pair):
        mask[row, : len(each)] = 1
    tokens = tokens.masked_fill(mask == 0, filler)
    states = model.to_hf(share=True)(
        input_ids=tokens, attention_mask=mask, output_hidden_states=True, use_cache=False
    ).hidden_states[1:]
    return [float(torch.dist(state[0].float(), state[1].float())) for state in states]


def _shipped_passage(model: Model, record: Record) -> Passage:
    """Prompt, two spaces, response; as many of the last tokens are scored as the response has."""
    ids = model.tokenizer.encode(f"{record.prompt}  {record.safe}").ids
    response = model.tokenizer.hf(f" {record.safe}", add_special_tokens=False)["input_ids"]
    return Passage(ids, max(1, len(ids) - len(response)))
