"""A circuit as a model: prompts in, logits out, with nothing but the circuit at work.

Along the circuit's edges travels what the prompt brings about. What travels along all others
depends on the ablation: what a corrupted prompt of as many tokens brings about (PATCH), nothing
(ZERO), what the source writes on average over given prompts (MEAN), or constants of one's own. How
is said in `circuits.graph.running`, which this is a plain way to use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError, PromptError
from circuits.facts.batches import PairBatch, batches_of
from circuits.graph.ablation import SourceConstants, mean_constants, source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import check_geometry
from circuits.graph.running import CircuitRunner, head_projections
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.patches import Kind, Part
from circuits.model.saying import NextTokens
from circuits.model.tokens import Prompt

Texts = str | Sequence[str]


class CircuitModel:
    """A model of which only a circuit is at work; made by `Circuit.as_model`.

    It holds no weights of its own: an edit or a patch of `model` is one of this. Means are those of
    the model as it is when prompts are run, and are taken anew after an edit or a patch.
    """

    def __init__(
        self,
        model: Model,
        circuit: Circuit,
        ablation: Ablation | str | None = None,
        *,
        prompts: Sequence[str] = (),
        constants: Mapping[str, Any] | None = None,
        batch_size: int = 16,
    ) -> None:
        """As of `Circuit.as_model`."""
        if not isinstance(model, Model):
            raise OptionError(f"a model is what `load` gives, not a {type(model).__name__}")
        check_geometry(model, circuit.wiring)
        if circuit.wiring.spans:
            raise OptionError(
                "a prompt alone does not say where its spans are: `circuit.blind()` runs without "
                "spans, and `evaluate` runs this one on pairs"
            )
        found = circuit.provenance.get("ablation", Ablation.PATCH)
        if ablation is None and constants is not None:
            ablation = Ablation.ZERO
        model = model.with_bos(circuit.provenance.get("bos"))  # as `evaluate` asks
        self.model, self.circuit = model, circuit
        self.ablation = Ablation.of(found if ablation is None else ablation)
        self.batch_size = batch_size
        self._prompts = [model.tokenizer.encode(prompt) for prompt in prompts]
        self._own = constants
        if constants is not None and self.ablation == Ablation.PATCH:
            raise OptionError("`constants` stand for corrupted prompts: take ablation zero or mean")
        if self.ablation == Ablation.MEAN and not prompts:
            raise OptionError("the ablation `mean` needs `prompts` to take means over")
        if self.ablation != Ablation.MEAN and prompts:
            raise OptionError(f"`prompts` are for the ablation mean, not {self.ablation}")
        self._taken: tuple[Mapping[str, Any], SourceConstants] | None = None
        _ = self.constants  # refuses what the model does not have

    def __repr__(self) -> str:
        size = f"{self.circuit.n_edges:,} of {self.circuit.wiring.n_edges:,} edges"
        return f"CircuitModel({self.model.name!r}, {size}, ablation {self.ablation})"

    def logits(
        self, prompts: Texts, corrupted: Texts | None = None
    ) -> Float[Tensor, "prompt d_vocab"]:
        """Logits after the last token of each prompt.

        With the ablation `patch`, `corrupted` is one prompt each, of as many tokens, or one for
        all; PromptError where the lengths differ. Otherwise there is none.
        """
        return _logits(self.model, self, prompts, corrupted)

    def ask(self, prompt: str, corrupted: str | None = None, k: int = 5) -> NextTokens:
        """The k most likely next tokens, with their probabilities."""
        return self.model.said(prompt, self.logits(prompt, corrupted)[0], k)

    @property
    def constants(self) -> SourceConstants | None:
        """What cut edges carry on the model as it is now; None for the ablation `patch`."""
        if not self.ablation.is_constant:
            return None
        state = self.model.provenance  # tells weights, edits and patches apart
        if self._taken is None or self._taken[0] != state:
            self._taken = state, self._constants()
        return self._taken[1]

    def _constants(self) -> SourceConstants:
        if self.ablation == Ablation.MEAN:
            batches = self._batches(self._prompts)
            runs = ((tokens, self._prompts[rows[0]].bos) for rows, tokens in batches)
            found = mean_constants(self.model, runs)
        else:
            found = source_constants(self.model, (), self.ablation)
        return found if self._own is None else _replaced(self.model, found, self._own)

    def _batches(self, encoded: Sequence[Prompt]) -> Any:
        return batches_of(self.model, encoded, self.batch_size)

    def _sides(self, prompts: Texts, corrupted: Texts | None) -> tuple[list[Prompt], list[Prompt]]:
        encode = self.model.tokenizer.encode
        clean = [encode(text) for text in _listed(prompts)]
        if not clean:
            raise OptionError("there are no prompts to run")
        if self.ablation.is_constant:
            if corrupted is not None:
                raise OptionError(f"the ablation {self.ablation} takes no corrupted prompts")
            return clean, clean
        if corrupted is None:
            raise OptionError(
                "along the edges that are cut travels a corrupted prompt: give one a prompt as "
                "`corrupted`, or make the model with the ablation zero or mean"
            )
        other = [encode(text) for text in _listed(corrupted)]
        other = other * len(clean) if len(other) == 1 else other
        if len(other) != len(clean):
            raise OptionError(f"{len(clean)} prompts need as many corrupted ones, not {len(other)}")
        for left, right in zip(clean, other, strict=True):
            if len(left) != len(right):
                raise PromptError(
                    f"{left.text!r} has {len(left)} tokens and {right.text!r} {len(right)}; a "
                    "corrupted prompt has as many as the prompt"
                )
        return clean, other


@alone
@torch.no_grad()
def _logits(
    model: Model, circuit_model: CircuitModel, prompts: Texts, corrupted: Texts | None
) -> Float[Tensor, "prompt d_vocab"]:
    circuit, kept = circuit_model.circuit, circuit_model.circuit.matrix()
    clean, other = circuit_model._sides(prompts, corrupted)
    projections = head_projections(model, circuit.wiring)
    result = torch.empty(len(clean), model.d_vocab, device=model.device)
    for rows, tokens in circuit_model._batches(clean):
        beside = torch.tensor([other[row].ids for row in rows], device=model.device)
        runner = CircuitRunner(
            model,
            side_by_side(rows, tokens, beside),
            circuit.wiring,
            circuit_model.ablation,
            circuit_model.constants,
            projections,
        )
        result[rows] = runner.run(kept).float()
    return result


def side_by_side(rows: Sequence[int], clean: Tensor, corrupted: Tensor) -> PairBatch:
    """A batch of prompts that asks for nothing in particular."""
    differ = (clean != corrupted).any(0).nonzero()
    first = int(differ[0]) if len(differ) else clean.shape[1] - 1  # the same prompts run once
    nothing = torch.zeros(len(rows), dtype=torch.long, device=clean.device)
    return PairBatch(tuple(rows), clean, corrupted, nothing, nothing, first, nothing, nothing)


def _listed(texts: Texts) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _replaced(
    model: Model, constants: SourceConstants, given: Mapping[str, Any]
) -> SourceConstants:
    """Constants with those of some heads and MLPs replaced by a user's own."""
    if model.architecture.normed_after:
        raise OptionError(
            f"what a head of {model.name!r} writes depends on the others, through a norm after "
            "them, so constants of your own cannot be set"
        )
    heads = [each.clone() for each in constants.heads]
    mlps = list(constants.mlps)
    for name, value in given.items():
        part = Part.of(model, name)
        if part.kind == Kind.RESID:
            raise OptionError(f"constants are of heads and MLPs, not of {name!r}")
        try:
            own = torch.from_numpy(np.asarray(value, dtype=np.float32))
            own = own.to(model.device, model.dtype).expand(part.width(model))
        except (TypeError, ValueError, RuntimeError):
            raise OptionError(
                f"the constant of {name!r} is a number or {part.width(model)} of them"
            ) from None
        if part.kind == Kind.HEAD:
            heads[part.layer][part.head] = own
        else:
            mlps[part.layer] = own
    return SourceConstants(constants.embedding, tuple(heads), tuple(mlps), tuple(heads))
