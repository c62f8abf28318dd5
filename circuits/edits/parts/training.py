"""Training a change of weights: what all methods that follow a gradient share.

1. A `Passage` is a text as token ids, with those that are scored.
2. A `Trainee` is the model as a function of a change of named weights. The change starts at zero
   and is what an optimiser moves, in fp32 whatever the model's type; the model's own weights are
   read and never written, and never track gradients, so there is nothing to restore.
3. `negative_log_likelihood` and `divergence` score passages, `descend` lowers an objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.base.progress import Progress
from circuits.edits.edit import WeightDelta
from circuits.model.holding import fitting
from circuits.model.model import Model

B = TypeVar("B")


class DivergenceError(NumericalError):
    """An objective or a weight is no longer finite; `losses` are the objective's values so far."""

    def __init__(self, message: str, losses: Sequence[float] = ()) -> None:
        super().__init__(message)
        self.losses = tuple(losses)


@dataclass(frozen=True)
class Passage:
    """Token ids, of which those from `start` on are scored; `start` is at least 1."""

    ids: tuple[int, ...]
    start: int

    def __len__(self) -> int:
        return len(self.ids)


def passage(model: Model, text: str, answer: str | None = None) -> Passage:
    """A prompt and its answer, of which the answer is scored; without answer all of the text.

    PromptError for a text of a single token, and OptionError for one that the model's context does
    not hold.
    """
    prompt, rest = model.tokenizer.encode(text).ids, tuple[int, ...]()
    if answer is not None:
        rest = model.tokenizer.continuation(text, answer)
    elif len(prompt) < 2:
        raise PromptError(f"{text!r} is a single token, of which nothing is predicted")
    model.check_length(len(prompt) + len(rest))
    return Passage(prompt + rest, 1 if answer is None else len(prompt))


class Trainee:
    """A model as a function of a change of some of its weights, which can be trained."""

    def __init__(self, model: Model) -> None:
        self.model, self._plain = model, model.to_hf(share=True)
        self.device = model.device
        self.changes: dict[str, Float[Tensor, "..."]] = {}

    @property
    def names(self) -> Iterable[str]:
        """Names of the weights that have a change."""
        return self.changes

    def train(self, names: Iterable[str]) -> list[Tensor]:
        """Let the changes of these weights, and no others, track gradients; returns them."""
        chosen = list(dict.fromkeys(names))
        if not chosen:
            raise OptionError("there is no weight to train")
        for name in chosen:
            if name not in self.changes:
                weight = self.model.parameter(name)
                self.changes[name] = torch.zeros_like(weight, dtype=torch.float32)
        for name, change in self.changes.items():
            change.requires_grad_(name in chosen).grad = None
        return [self.changes[name] for name in chosen]

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits after every position with the change in place; gradients flow to the change."""
        return self.run(input_ids=tokens).logits

    def run(self, **inputs: Any) -> Any:
        """Hugging Face's output with the change in place."""
        weights = {name: self._changed(name) for name in self.names}
        options = {"use_cache": False, **inputs}
        return torch.func.functional_call(self._plain, weights, (), options)

    @torch.no_grad()
    def original_logits(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the model as it is, without the change."""
        return self._plain(input_ids=tokens, use_cache=False).logits

    def states(
        self, tokens: Int[Tensor, "batch pos"], layer: int, changed: bool = True
    ) -> Float[Tensor, "batch pos d"]:
        """The residual stream after a layer, with the change in place or of the model as it is.

        After the last layer it is Hugging Face's, which has passed the final norm.
        """
        options = {"input_ids": tokens, "output_hidden_states": True}
        run = self.run if changed else partial(self._plain, use_cache=False)
        return run(**options).hidden_states[layer + 1]

    def delta(self, provenance: Mapping[str, Any] | None = None) -> WeightDelta:
        """The change so far, as a value."""
        changes = {name: change.detach().clone() for name, change in self.changes.items()}
        return WeightDelta(changes, provenance or {})

    def _changed(self, name: str) -> Tensor:
        weight = self.model.parameter(name)
        return (weight.to(torch.float32) + self._dense(name)).to(weight.dtype)

    def _dense(self, name: str) -> Tensor:
        return self.changes[name]


def block_matrices(model: Model, layers: Sequence[int]) -> list[str]:
    """Names of the attention and MLP matrices of these layers."""
    prefixes = {model.block_prefix(layer) for layer in layers}
    return [
        name
        for name in model.parameter_names
        if len(model.shape(name)) == 2 and any(map(name.startswith, prefixes))
    ]


# --- scores of passages --------------------------------------------------------------------------


def pad(
    passages: Sequence[Passage], device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids with padding on the right, and the positions whose successors are scored.

    A position sees what is before it only, so that the padding changes no score.
    """
    if not passages:
        raise OptionError("there are no texts to train on")
    width = max(map(len, passages))
    tokens = torch.zeros(len(passages), width, dtype=torch.long)
    predicts = torch.zeros(len(passages), width, dtype=torch.bool)
    for row, each in enumerate(passages):
        tokens[row, : len(each)] = torch.tensor(each.ids)
        predicts[row, each.start - 1 : len(each) - 1] = True
    return tokens.to(device), predicts.to(device)


def negative_log_likelihood(
    trainee: Trainee, passages: Sequence[Passage]
) -> Float[Tensor, " batch"]:
    """Mean over a passage's scored tokens of -log p(token | those before it), in nats."""
    tokens, predicts = pad(passages, trainee.device)
    logits = trainee.logits(tokens)[:, :-1].float()
    scores = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return -_mean(scores, predicts[:, :-1])


def likelihood_at_prompt(trainee: Trainee, passages: Sequence[Passage]) -> Float[Tensor, " batch"]:
    """As `negative_log_likelihood`, but all scored tokens are read at the prompt's last position.

    This is FT-L's loss as shipped with the ROME paper's code (EasyEdit's `prompt_last`).
    """
    tokens, predicts = pad(passages, trainee.device)
    rows = torch.arange(len(passages), device=trainee.device)
    last = torch.tensor([each.start - 1 for each in passages], device=trainee.device)
    scores = trainee.logits(tokens)[rows, last].float().log_softmax(-1)
    return -_mean(scores.gather(1, tokens[:, 1:]), predicts[:, :-1])


def divergence(trainee: Trainee, passages: Sequence[Passage]) -> Float[Tensor, " batch"]:
    """Mean over the scored places of KL(model as it is || model with the change), in nats.

    Gradients flow through the second; zero where there is no change.
    """
    tokens, predicts = pad(passages, trainee.device)
    before = trainee.original_logits(tokens).float().log_softmax(-1)
    after = trainee.logits(tokens).float().log_softmax(-1)
    return _mean((before.exp() * (before - after)).sum(-1), predicts)


@torch.no_grad()
def token_scores(
    trainee: Trainee, passages: Sequence[Passage], batch_size: int = 32
) -> tuple[Float[Tensor, " passage"], Float[Tensor, " passage"]]:
    """Each passage's negative log-likelihood (nats a token), and the share of its scored tokens
    that are the model's first choice given those before them.
    """
    return fitting(trainee.model, batch_size, partial(_scores, trainee, passages))


def _scores(
    trainee: Trainee, passages: Sequence[Passage], batch_size: int
) -> tuple[Float[Tensor, " passage"], Float[Tensor, " passage"]]:
    losses, shares = [], []
    for part in chunks(passages, batch_size):
        tokens, predicts = pad(part, trainee.device)
        logits, predicts = trainee.logits(tokens)[:, :-1].float(), predicts[:, :-1]
        scores = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        losses.append(-_mean(scores, predicts))
        shares.append(_mean((logits.argmax(-1) == tokens[:, 1:]).float(), predicts))
    return torch.cat(losses), torch.cat(shares)


def token_accuracy(
    trainee: Trainee, passages: Sequence[Passage], batch_size: int = 32
) -> tuple[float, float]:
    """Means of `token_scores` over the passages, which count alike."""
    losses, shares = token_scores(trainee, passages, batch_size)
    return float(losses.mean()), float(shares.mean())


def _mean(
    values: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)


def chunks(items: Sequence[B], size: int) -> list[Sequence[B]]:
    """The items in order, at most `size` at a time."""
    if size < 1:
        raise OptionError(f"the batch size must be at least 1, not {size}")
    return [items[start : start + size] for start in range(0, len(items), size)]


# --- the loop ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """What is lowered on a batch, with the values of its terms for the record.

    `enough` says that this batch needs no step.
    """

    total: Float[Tensor, ""]
    terms: Mapping[str, float]
    enough: bool = False


@dataclass(frozen=True)
class Descent:
    """How an objective is lowered.

    `clamp` bounds every entry of the change by its size, None leaves it free. Gradients of
    `accumulate` batches go into one step.
    """

    learning_rate: float
    clamp: float | None = None
    accumulate: int = 1


def descend(
    changes: Sequence[Tensor],
    epochs: Sequence[Sequence[B]],
    objective: Callable[[B], Objective],
    how: Descent,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Adam on the changes, in place; ends after an epoch in which every batch had enough.

    Returns each epoch's mean terms, among them `loss`, the objective before the steps.
    DivergenceError where the objective or a change is not finite.
    """
    optimiser = torch.optim.Adam(list(changes), lr=how.learning_rate)
    history: list[dict[str, float]] = []
    for number, batches in enumerate(epochs, start=1):
        values: list[dict[str, float]] = []
        steps = 0
        for group in chunks(batches, how.accumulate):
            wanting = 0
            for batch in group:
                found = objective(batch)
                values.append({"loss": float(found.total.detach()), **found.terms})
                if not all(map(isfinite, values[-1].values())):
                    reason = f"the loss is not finite in epoch {number}"
                    raise DivergenceError(reason, _losses(history))
                if not found.enough:
                    (found.total / len(group)).backward()
                    wanting += 1
            if wanting:
                _step(optimiser, changes, how.clamp)
                steps += 1
        history.append({name: sum(v[name] for v in values) / len(values) for name in values[0]})
        if not all(bool(torch.isfinite(change).all()) for change in changes):
            raise DivergenceError(f"a weight is not finite after epoch {number}", _losses(history))
        if progress is not None:
            progress(number, len(epochs))
        if not steps:
            break
    return history


@torch.no_grad()
def _step(optimiser: torch.optim.Optimizer, changes: Sequence[Tensor], clamp: float | None) -> None:
    optimiser.step()
    optimiser.zero_grad()
    if clamp is not None:
        for change in changes:
            change.clamp_(-clamp, clamp)


def _losses(history: Sequence[Mapping[str, float]]) -> list[float]:
    return [epoch["loss"] for epoch in history]
