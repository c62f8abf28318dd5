"""Unlearning: raise the loss of a forget set, and keep that of a retain set where it was.

Every method lowers  retain_weight x R - forget_weight x F  by Adam, where F is the mean loss (nats
a token) of the texts to forget:

- GA: no R. Jang et al. 2023.
- GA+GD: R is the loss of the texts to retain.
- GA+KL: R is the KL divergence from the model before, on the texts to retain.
- MemFlex: as GA+GD, on the weights that `circuits.edits.methods.memflex` selects.

A text that has reached `ceiling` is not pushed further: without a bound, ascent destroys the model.

Three methods have a loss B of their own that is bounded below, and lower
retain_weight x R + forget_weight x B, whatever the ceiling:

- NPO: `circuits.edits.methods.preference.npo_loss`, with the model before as reference.
- SimNPO: `circuits.edits.methods.preference.simnpo_loss`, without a reference.
- RMU: `circuits.edits.methods.rmu`, on activations; R is their drift, weighed by alpha too.

NPO and SimNPO have the loss of the texts to retain as R, as their published scripts for TOFU do;
`retain_weight` 0 is the bare loss.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.base.choices import EditStatus, UnlearnMethod
from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import WeightDelta
from circuits.edits.methods.memflex import LocalisationSettings, localise
from circuits.edits.methods.preference import (
    NpoSettings,
    SimNpoSettings,
    npo_loss,
    simnpo_loss,
)
from circuits.edits.methods.rmu import (
    RmuSettings,
    Steering,
    check_before,
    direction,
    layer_of,
    layers_up_to,
)
from circuits.edits.methods.run import EditOutcome, check_size
from circuits.edits.parts.examples import Example, encode_examples
from circuits.edits.parts.training import (
    Descent,
    DivergenceError,
    Objective,
    Passage,
    Trainee,
    block_matrices,
    chunks,
    descend,
    divergence,
    negative_log_likelihood,
    token_accuracy,
    token_scores,
)
from circuits.edits.settings import as_mapping, settings_for
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tensors import check_double

Batch = tuple[Sequence[Passage], Sequence[Passage]]
Terms = dict[str, float]
_RETAIN = {
    UnlearnMethod.GA: None,
    UnlearnMethod.GA_GD: negative_log_likelihood,
    UnlearnMethod.GA_KL: divergence,
    UnlearnMethod.MEMFLEX: negative_log_likelihood,
    UnlearnMethod.NPO: negative_log_likelihood,
    UnlearnMethod.SIMNPO: negative_log_likelihood,
}
"""What keeps the texts to retain."""


@dataclass(frozen=True)
class UnlearnSettings(Options):
    """How a set is unlearned, in the matrices (attention and MLP) of `layers`.

    Each step takes `batch_size` texts to forget and `retain_batch_size` to retain. `ceiling` is
    the loss, in nats a token, at which a text counts as forgotten (5 is a probability of 0.7 % a
    token); None leaves ascent unbounded, as published. `margin` is by how much the retain set's
    token accuracy may fall.
    """

    layers: tuple[int, ...] = (0,)
    learning_rate: float = option(5e-5, above=0)
    epochs: int = option(2, low=1)
    batch_size: int = option(4, low=1)
    retain_batch_size: int = option(16, low=1)
    accumulate: int = option(1, low=1)
    forget_weight: float = option(1.0, above=0)
    retain_weight: float = option(1.0, low=0)
    ceiling: float | None = option(5.0, above=0)
    margin: float = option(0.05, low=0, high=1)
    localisation: LocalisationSettings = option(LocalisationSettings())
    npo: NpoSettings = option(NpoSettings())
    simnpo: SimNpoSettings = option(SimNpoSettings())
    rmu: RmuSettings = option(RmuSettings())


@alone
def unlearn(
    model: Model,
    forget: Sequence[Example],
    retain: Sequence[Example],
    method: UnlearnMethod | str,
    *,
    layers: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    bos: bool | None = None,
    held_out: Sequence[Example] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> EditOutcome:
    """The weight change that forgets one set and keeps another; the model itself is not changed.

    `layers` None is those in `settings`, or else all of them. Details hold loss (nats a token) and
    token accuracy of the sets before and after, whether the retain set is within the margin, and
    each epoch's terms. Texts
    `held_out` should stay too but are scored only: the retain set is trained on, so its own score
    flatters. `bos` is whether every text begins with the BOS token, None for the model's way. The
    outcome has diverged where a number is not finite, and is no change where the
    forget set's loss did not rise. OptionError and PromptError for sets that cannot be used.
    """
    model.patching.check_free(model.name)
    check_double(model.device)
    chosen, model = UnlearnMethod.of(method), model.with_bos(bos)
    named = layers is not None or "layers" in as_mapping(settings)
    wanted = layers if named else range(model.n_layers)
    found, origin = settings_for(model, str(chosen), UnlearnSettings, wanted, settings)
    if not named:
        origin = replace(origin, layers="all")
    if chosen == UnlearnMethod.RMU:
        read = layer_of(model, found.rmu)
        if not named:
            found = replace(found, layers=layers_up_to(read))
            origin = replace(origin, layers=f"up to layer {read}, which RMU reads")
        check_before(found.layers, read)
    provenance = {
        **model.provenance,
        "method": str(chosen),
        "settings": asdict(found),
        "settings_origin": asdict(origin),
        "bos": model.tokenizer.use_bos(None),
        "seed": seed,
        "forget": [asdict(each) for each in forget],
        "retain": [asdict(each) for each in retain],
    }
    sets = {"forget": forget, "retain": retain}
    sets |= {"held_out": held_out} if held_out else {}
    run = _Run(model, chosen, found, sets, seed)
    start, status, reason = time.monotonic(), EditStatus.DONE, ""
    delta: WeightDelta | None = None
    try:
        run.train(progress)
        delta = run.trainee.delta(provenance)
        check_size(model, delta)
        if not run.details["forget"]["after"]["loss"] > run.details["forget"]["before"]["loss"]:
            delta, status = None, EditStatus.NO_CHANGE
            reason = "the loss of the texts to forget did not rise"
    except NumericalError as error:
        delta = None
        status, reason = EditStatus.DIVERGED, str(error)
        if isinstance(error, DivergenceError):
            run.details["losses"] = list(error.losses)
    return EditOutcome(
        delta,
        status,
        str(chosen),
        found.layers,
        (),
        reason,
        {**run.details, "seconds": time.monotonic() - start},
        provenance,
    )


class _Run:
    """One unlearning: the encoded sets, the trainee, and what is recorded on the way."""

    def __init__(
        self,
        model: Model,
        method: UnlearnMethod,
        settings: UnlearnSettings,
        sets: Mapping[str, Sequence[Example]],
        seed: int,
    ) -> None:
        self.model, self.method, self.settings = model, method, settings
        self.sets = {n: encode_examples(model, s, n) for n, s in sets.items()}
        self.forget, self.retain = self.sets["forget"], self.sets["retain"]
        for name, passages in self.sets.items():
            if name != "forget" and set(self.forget) & set(passages):
                raise OptionError(f"a text stands in both the forget and the {name} set")
        self.seed, self.random = seed, np.random.default_rng(seed)
        self.trainee = Trainee(model)
        self.details: dict[str, Any] = {}

    def train(self, progress: Progress | None) -> None:
        """Select weights, train them, and score both sets before and after."""
        self._score("before")
        names = self._names()
        self.details["weights"] = names
        settings = self.settings
        epochs = [self._batches() for _ in range(settings.epochs)]
        how = Descent(settings.learning_rate, accumulate=settings.accumulate)
        self.details["epochs"] = descend(
            self.trainee.train(names), epochs, self._objective, how, progress
        )
        self._score("after")
        before, after = (self.details["retain"][when]["accuracy"] for when in ("before", "after"))
        self.details["retain_kept"] = after >= before - settings.margin

    def _objective(self, batch: Batch) -> Objective:
        if self.method == UnlearnMethod.RMU:
            return self._steered(batch)
        forget, retain = batch
        settings = self.settings
        losses = negative_log_likelihood(self.trainee, forget)
        if self.method in (UnlearnMethod.NPO, UnlearnMethod.SIMNPO):
            return self._preferred(losses, batch)
        ceiling = inf if settings.ceiling is None else settings.ceiling
        total = -settings.forget_weight * losses.clamp(max=ceiling).mean()
        terms = {"forget": float(losses.detach().mean())}
        total = self._with_retain(total, retain, terms)
        return Objective(total, terms, enough=bool((losses >= ceiling).all()))

    def _preferred(self, losses: Tensor, batch: Batch) -> Objective:
        """NPO and SimNPO, from the texts' losses (nats a token)."""
        forget, retain = batch
        settings = self.settings
        tokens = torch.tensor([float(len(each) - each.start) for each in forget]).to(losses)
        if self.method == UnlearnMethod.NPO:
            before = torch.tensor([self.reference[each] for each in forget]).to(losses)
            found = npo_loss(-losses * tokens, before, settings.npo.beta)
        else:
            found = simnpo_loss(-losses * tokens, tokens, settings.simnpo)
        terms = {
            "forget": float(losses.detach().mean()),
            "preference": float(found.detach().mean()),
        }
        total = self._with_retain(settings.forget_weight * found.mean(), retain, terms)
        return Objective(total, terms)

    def _steered(self, batch: Batch) -> Objective:
        """RMU."""
        forget, retain = batch
        settings = self.settings
        away = self.steering.away(forget).mean()
        terms = {"forget": float(away.detach())}
        total = settings.forget_weight * away
        weight = settings.retain_weight * settings.rmu.alpha
        if weight:
            drift = self.steering.drift(retain).mean()
            total = total + weight * drift
            terms["retain"] = float(drift.detach())
        return Objective(total, terms)

    def _with_retain(self, total: Tensor, retain: Sequence[Passage], terms: Terms) -> Tensor:
        """The objective with the term that keeps the texts to retain, which is recorded."""
        score = _RETAIN[self.method]
        if score is None or not self.settings.retain_weight:
            return total
        kept = score(self.trainee, retain).mean()
        terms["retain"] = float(kept.detach())
        return total + self.settings.retain_weight * kept

    @cached_property
    def reference(self) -> dict[Passage, float]:
        """Log-probability of each text to forget under the model before, in nats."""
        losses = token_scores(Trainee(self.model), self.forget)[0].tolist()
        found = zip(self.forget, losses, strict=True)
        return {each: -loss * (len(each) - each.start) for each, loss in found}

    @cached_property
    def steering(self) -> Steering:
        """RMU's layer and the point to which its activations are led."""
        settings, model = self.settings.rmu, self.model
        target = settings.steering * direction(model.d_model, self.seed).to(model.device)
        return Steering(self.trainee, layer_of(model, settings), target, settings.answers_only)

    def _batches(self) -> list[Batch]:
        """One epoch: each text to forget once, beside texts to retain in turn."""
        settings = self.settings
        forget = chunks(self._shuffled(self.forget), settings.batch_size)
        pool: list[Passage] = []
        while len(pool) < len(forget) * settings.retain_batch_size:
            pool += self._shuffled(self.retain)
        return list(zip(forget, chunks(pool, settings.retain_batch_size), strict=False))

    def _shuffled(self, passages: list[Passage]) -> list[Passage]:
        return [passages[place] for place in self.random.permutation(len(passages))]

    def _names(self) -> list[str]:
        """The weights that learn."""
        if self.method == UnlearnMethod.RMU:
            return [self.model.mlp_output_name(layer) for layer in self.settings.layers]
        names = block_matrices(self.model, self.settings.layers)
        return self._localise(names) if self.method == UnlearnMethod.MEMFLEX else names

    def _localise(self, names: list[str]) -> list[str]:
        found = localise(
            self.trainee,
            self.forget,
            self.retain,
            names,
            self.settings.localisation,
            self.random,
            self.model.d_vocab,
        )
        self.details["localisation"] = asdict(found)
        self.trainee.changes.clear()  # those of weights that were not selected
        return list(found.selected)

    @torch.no_grad()
    def _score(self, when: str) -> None:
        for name, passages in self.sets.items():
            loss, accuracy = token_accuracy(self.trainee, passages)
            if not np.isfinite(loss):
                raise NumericalError(f"the loss of the {name} set is not finite {when} unlearning")
            self.details.setdefault(name, {})[when] = {"loss": loss, "accuracy": accuracy}
