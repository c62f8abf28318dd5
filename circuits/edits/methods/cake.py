"""CaKE: a low-rank change of whole layers, trained on sentences that use the fact early and late.

Yao et al. 2025, "CaKE: Circuit-aware Editing Enables Generalizable Knowledge Learners",
arXiv:2503.16356, by its released code.

1. Sentences in which the new fact is stated, is the first of two steps, and is the last of two
   (`circuits.edits.parts.uses`).
2. W' = W + (alpha / rank) B A in every attention and MLP matrix of `layers` (LoRA,
   `circuits.edits.parts.low_rank`).
3. Adam on A and B lowers, batch after batch, the mean over the batch's tokens of
   -log p(token | those before it).

Rank, alpha, learning rate, epochs, batch size, the matrices and the loss are those of the released
code (zjunlp/CaKE, `edit_utils.py`), which trains every layer, as `cake` does. What is not kept:
there a language model writes the sentences for each fact, other wordings of it among them; here
four fixed forms are filled in. There padding is scored, the learning rate falls to zero, inputs of
A are dropped out and the model is in bf16; here none of that is so.

`cake-circuit` changes only the layers that the fact's circuit says, which
`locate.changes.circuit_layers` finds. `cake-stated` trains on the stated fact alone: what is left
of the method without its sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from circuits.base.errors import OptionError
from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.memit import check_distinct
from circuits.edits.parts.examples import encode_examples
from circuits.edits.parts.low_rank import LowRankTrainee
from circuits.edits.parts.training import (
    Descent,
    Objective,
    Passage,
    Trainee,
    block_matrices,
    chunks,
    descend,
    negative_log_likelihood,
)
from circuits.edits.parts.uses import Use, sentences
from circuits.model.model import Model


@dataclass(frozen=True)
class CakeSettings(Options):
    """The released code's values; those of single models stand in `hyperparameters.toml`.

    `answers_only` scores what answers a sentence instead of all of it. A batch whose loss (nats a
    token) is below `stop_below` takes no step; the released code has no such end.
    """

    DEPTH: ClassVar[tuple[float, float]] = (1.0, 1.0)  # every layer

    layers: tuple[int, ...] = (0,)
    uses: tuple[Use, ...] = (Use.STATED, Use.FIRST, Use.LAST)
    rank: int = option(8, low=1)
    alpha: float = option(32.0, above=0)
    learning_rate: float = option(1e-4, above=0)
    epochs: int = option(40, low=1)
    batch_size: int = option(4, low=1)
    answers_only: bool = False
    stop_below: float = option(0.0, low=0)


def cake(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: CakeSettings,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """The change, and the mean loss of each epoch before its steps.

    The generator draws A and the order of the sentences. OptionError where no sentence can be made,
    DivergenceError where the loss is not finite.
    """
    check_distinct(requests)
    made = {
        use: [each for request in requests for each in sentences(request, [use])]
        for use in settings.uses
    }
    examples = [each for group in made.values() for each in group]
    if not examples:
        raise OptionError(
            "there is no sentence to train on: `uses` first needs requests that name the "
            "`ground_truth`"
        )
    texts = encode_examples(model, examples, "training")
    if not settings.answers_only:
        texts = [Passage(each.ids, 1) for each in texts]
    names = block_matrices(model, layers)
    scale = settings.alpha / settings.rank
    trainee = LowRankTrainee(model, names, settings.rank, scale, generator)

    def objective(batch: Sequence[Passage]) -> Objective:
        loss = token_loss(trainee, batch)
        return Objective(loss, {}, enough=float(loss.detach()) < settings.stop_below)

    history = descend(
        trainee.factors,
        list(_shuffled(texts, settings, generator)),
        objective,
        Descent(settings.learning_rate),
        progress,
    )
    return trainee.delta(), {
        "losses": [epoch["loss"] for epoch in history],
        "sentences": {str(use): len(group) for use, group in made.items()},
        "weights": names,
    }


def token_loss(trainee: Trainee, batch: Sequence[Passage]) -> torch.Tensor:
    """Mean over all scored tokens of a batch of -log p(token | those before it), in nats."""
    counts = torch.tensor([len(each) - each.start for each in batch], device=trainee.device)
    return (negative_log_likelihood(trainee, batch) * counts).sum() / counts.sum()


def _shuffled(
    texts: Sequence[Passage], settings: CakeSettings, generator: torch.Generator
) -> Iterator[list[Sequence[Passage]]]:
    """The batches of every epoch, each in an order of its own."""
    for _ in range(settings.epochs):
        order = torch.randperm(len(texts), generator=generator).tolist()
        yield chunks([texts[row] for row in order], settings.batch_size)
