"""Interchange interventions: what a prompt's answer becomes when parts take another's values.

The *base* prompt runs; chosen heads and MLPs write what they write for the *source* prompt, and
chosen edges carry what they carry there; everything after them follows (Geiger et al. 2021,
"Causal Abstractions of Neural Networks"; for edges Goldowsky-Dill et al. 2023, "Localizing Model
Behavior with Path Patching"). Both prompts have as many tokens, and parts take the values of all
positions. It is the run of the circuit that keeps all other edges, with the source as its
corrupted prompt (`circuits.graph.running`).

With m the metric, answer and foil what base and source should be answered with:

    effect           m(changed) - m(base); negative where the parts carry the answer
    share moved      (m(base) - m(changed)) / (m(base) - m(source)), of the means; 1 is all the way
    answers changed  the share of pairs whose foil scores above the answer when changed, of those
                     for which it does so in the source and not in the base (interchange
                     intervention accuracy)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from circuits.base.choices import Metric, MetricLike
from circuits.base.display import Shown, Summary
from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.base.intervals import UNDEFINED, Interval, bootstrap, mean
from circuits.facts.batches import batches
from circuits.facts.pairs import PromptPair, TokenPair
from circuits.graph.evaluate import restored
from circuits.graph.noise import Sample
from circuits.graph.running import CircuitRunner, head_projections
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.ask import without


@dataclass(frozen=True, eq=False)
class Interchange(Shown):
    """One interchange intervention on each of some pairs of prompts; intervals are over facts.

    `base`, `source` and `changed` are the metric of a pair in the base's own run, in the source's,
    and in the base's with the source's values; `logits` are those of the last. `flips` says where
    the foil scores above the answer in each of the three runs.
    """

    parts: tuple[str, ...]
    pairs: tuple[PromptPair, ...]
    metric: str
    base: Float[np.ndarray, " pair"]
    source: Float[np.ndarray, " pair"]
    changed: Float[np.ndarray, " pair"]
    logits: Float[np.ndarray, "pair d_vocab"]
    flips: Bool[np.ndarray, "run pair"]
    resamples: int = 1000
    seed: int = 0

    @property
    def effect(self) -> Interval:
        """Mean of m(changed) - m(base), with its interval."""
        return self._interval(mean, self.changed - self.base)

    @property
    def moved(self) -> Interval:
        """The share of the way from base to source; NaN where their means are the same."""
        return self._interval(restored, self.changed, self.source, self.base)

    @property
    def flipped(self) -> Interval:
        """How often the foil wins when changed, of the pairs where only the source has it win."""
        base, source, changed = self.flips
        open_to_it = source & ~base
        if not open_to_it.any():
            return UNDEFINED
        groups = self.sample.at(np.flatnonzero(open_to_it).tolist()).groups
        values = changed[open_to_it].astype(float)
        return self._interval(mean, values, groups=groups, rate=True)

    def rows(self) -> list[dict[str, Any]]:
        """One record a pair."""
        return [
            {
                "base": pair.clean,
                "source": pair.corrupted,
                "answer": pair.answer,
                "foil": pair.foil,
                "metric, base": float(self.base[row]),
                "metric, source": float(self.source[row]),
                "metric, changed": float(self.changed[row]),
                "effect": float(self.changed[row] - self.base[row]),
                "foil wins": bool(self.flips[2, row]),
            }
            for row, pair in enumerate(self.pairs)
        ]

    def summary(self) -> Summary:
        """The measures with their intervals."""
        measures = {
            f"{self.metric}, base": self._interval(mean, self.base),
            f"{self.metric}, source": self._interval(mean, self.source),
            f"{self.metric}, changed": self._interval(mean, self.changed),
            "effect": self.effect,
            "share moved": self.moved,
            "answers changed": self.flipped,
        }
        rows = [(name, str(each)) for name, each in measures.items() if np.isfinite(each.value)]
        shown = ", ".join(self.parts[:6]) + (", …" if len(self.parts) > 6 else "")
        return Summary(
            f"Interchange of {shown}",
            {"pairs": f"{len(self.pairs):,}"},
            f"means, and 95 % intervals over {self.sample.over}",
            ("measure", "value"),
            rows,
        )

    @property
    def sample(self) -> Sample:
        """Which of the pairs are one observation: intervals are over facts."""
        return Sample.of(self.pairs)

    def _interval(
        self,
        statistic: Any,
        *columns: np.ndarray,
        groups: np.ndarray | None = None,
        rate: bool = False,
    ) -> Interval:
        given: dict[str, Any] = {"resamples": self.resamples, "seed": self.seed, "rate": rate}
        groups = self.sample.groups if groups is None else groups
        return bootstrap(statistic, *columns, groups=groups, **given)


@alone
@torch.no_grad()
def interchange(
    model: Model,
    pairs: Sequence[TokenPair],
    parts: Sequence[str],
    *,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    batch_size: int = 16,
    resamples: int = 1000,
    seed: int = 0,
) -> Interchange:
    """Run every pair's clean prompt with parts and edges as in the corrupted prompt's run.

    `parts` are names of heads and MLPs, all of whose edges count, and of edges. OptionError for a
    name that the model does not have, NumericalError where a metric is not finite.
    """
    metric = Metric.of(metric)
    metric.check_one_token("an interchange")
    if not pairs:
        raise OptionError("there are no prompt pairs to work on")
    if not parts:
        raise OptionError("name at least one head, MLP or edge to take from the source")
    if resamples < 0:
        raise OptionError(f"`resamples` is at least 0, not {resamples}")
    nodes = [part for part in parts if "->" not in part]
    circuit = without(model, nodes, [part for part in parts if "->" in part])
    projections = head_projections(model, circuit.wiring)
    values = np.empty((3, len(pairs)))
    flips = np.empty((3, len(pairs)), dtype=bool)
    logits = np.empty((len(pairs), model.d_vocab), dtype=np.float32)
    for batch in batches(pairs, batch_size, model):
        runner = CircuitRunner(model, batch, circuit.wiring, projections=projections)
        changed = runner.run(circuit)
        runs = (runner.clean_logits, model.last_logits(batch.corrupted), changed)
        rows = list(batch.index)
        logits[rows] = changed.float().cpu().numpy()
        asked = batch.wanted, batch.unwanted, runner.clean_logits
        for run, found in enumerate(runs):
            values[run, rows] = evaluate_metric(metric, found, *asked).float().cpu().numpy()
            gaps = evaluate_metric(Metric.LOGIT_DIFFERENCE, found, *asked[:2])
            flips[run, rows] = (gaps < 0).cpu().numpy()
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(0))[0])
        raise NumericalError(
            f"the metric is not a finite number for {pairs[row].text.clean!r}; "
            f"{model.why_not_finite()}"
        )
    base, source, changed_to = values
    return Interchange(
        parts=tuple(parts),
        pairs=tuple(pair.text for pair in pairs),
        metric=str(metric),
        base=base,
        source=source,
        changed=changed_to,
        logits=logits,
        flips=flips,
        resamples=resamples,
        seed=seed,
    )


@alone
@torch.no_grad()
def said_pairs(
    model: Model, base: Sequence[str], source: Sequence[str], bos: bool | None = None
) -> list[TokenPair]:
    """Pairs of prompts whose answer and foil are what the model itself says first to each.

    PromptError where two prompts differ in length, are the same or are answered alike.
    """
    if len(base) != len(source):
        raise OptionError(f"{len(base)} base prompts need as many sources, not {len(source)}")
    found = []
    for left, right in zip(base, source, strict=True):
        clean, corrupted = (model.tokenizer.encode(text, bos) for text in (left, right))
        if len(clean) != len(corrupted):
            raise PromptError(
                f"{left!r} has {len(clean)} tokens and {right!r} {len(corrupted)}; base and source "
                "have as many"
            )
        if clean.ids == corrupted.ids:
            raise PromptError(f"base and source are the same: {left!r}")
        answer, foil = (_said(model, prompt) for prompt in (clean, corrupted))
        if answer == foil:
            raise PromptError(
                f"{left!r} and {right!r} are both answered with "
                f"{model.tokenizer.token_string(answer)!r}; give pairs with an answer and a foil"
            )
        first, second = (model.tokenizer.token_string(each).strip() for each in (answer, foil))
        text = PromptPair(left, right, first, second)
        fingerprint = model.tokenizer.fingerprint
        found.append(TokenPair(text, clean, corrupted, answer, foil, None, fingerprint))
    return found


def _said(model: Model, prompt: Prompt) -> int:
    ids = torch.tensor([prompt.ids], device=model.device)
    return int(model.last_logits(ids)[0].argmax())
