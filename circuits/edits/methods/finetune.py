"""Fine-tuning one layer's MLP on the new facts: FT-L and FT-M.

Both move the matrix from which the MLP of each chosen layer writes, by Adam, until the loss is
low. FT-L (the loss of the ROME paper's code; `prompt_last` in EasyEdit) reads all target tokens at
the prompt's last position, FT-M (EasyEdit's `target_new`) each from those before it. `clamp` is the
bound on every entry of the change with which the ROME paper's FT is FT+L. EasyEdit selects weights
by substring and so trains the bias too; here only the matrix is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.parts.training import (
    Descent,
    Objective,
    Passage,
    Trainee,
    chunks,
    descend,
    likelihood_at_prompt,
    negative_log_likelihood,
    passage,
)
from circuits.model.model import Model


@dataclass(frozen=True)
class FineTuneSettings(Options):
    """EasyEdit's defaults; what it sets for single models stands in `hyperparameters.toml`.

    `batch_size` None takes all facts into each step. A batch whose loss (nats a token) is below
    `stop_below` takes no step.
    """

    layers: tuple[int, ...] = (0,)
    learning_rate: float = option(5e-4, above=0)
    steps: int = option(25, low=1)
    stop_below: float = option(1e-2, low=0)
    clamp: float | None = option(None, above=0)
    batch_size: int | None = option(None, low=1)
    at_prompt_only: bool = False


def fine_tune(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: FineTuneSettings,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """The change that makes the model say the targets, and the loss before each step.

    Nothing is drawn from the generator. DivergenceError where the loss is not finite.
    """
    texts = [passage(model, each.text, each.target) for each in requests]
    trainee = Trainee(model)
    names = [model.mlp_output_name(layer) for layer in layers]
    score = likelihood_at_prompt if settings.at_prompt_only else negative_log_likelihood

    def objective(batch: Sequence[Passage]) -> Objective:
        loss = score(trainee, batch).mean()
        return Objective(loss, {}, enough=float(loss.detach()) < settings.stop_below)

    history = descend(
        trainee.train(names),
        [chunks(texts, settings.batch_size or len(texts))] * settings.steps,
        objective,
        Descent(settings.learning_rate, settings.clamp),
        progress,
    )
    with torch.no_grad():
        after = float(score(trainee, texts).mean())
    losses = [epoch["loss"] for epoch in history]
    return trainee.delta(), {"losses": losses, "loss": after, "weights": names}
