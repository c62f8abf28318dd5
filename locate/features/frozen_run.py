"""One run in which only attention's values move: the linear model that edges of features live in.

Attention patterns and the denominators of all norms are constants, and MLPs write constants (they
are cut: what passes through one is an edge to its features and another from them). Then what
reaches a reader is linear in what was written into the residual stream before, and one backward
pass from the reader gives the direction in which every place of every layer's residual stream acts
on it (Ameisen et al. 2025; Dunefsky et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import UnsupportedArchitectureError
from circuits.model import taps
from circuits.model.model import Hook, Model
from circuits.model.tokens import Prompt
from locate.edges.rules import BackwardRules
from locate.features.directions import Reads
from locate.states.frozen_norm import FrozenNorm


@dataclass(frozen=True, eq=False)
class Reader:
    """What a feature reads, as directions in the residual stream.

    `here` acts where the feature reads, at its own position, and `states[k]` acts on the residual
    stream before layer k, at every position, up to the reader's own layer.
    """

    here: Float[Tensor, " d_model"]
    states: Sequence[Float[Tensor, "pos d_model"]]


class FrozenRun:
    """A prompt's run with the graph of its backward pass; numbers are at least single precision."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        """UnsupportedArchitectureError where attention cannot be frozen."""
        if model.architecture.closed_attention:
            raise UnsupportedArchitectureError(
                f"{model.name!r} computes attention where no hook can freeze it: its edges of "
                "features cannot be taken apart by heads"
            )
        self.model, self._seen = model, dict[str, Tensor]()
        self._wide = torch.promote_types(model.dtype, torch.float32)
        tokens = torch.tensor([prompt.ids], device=model.device)
        with torch.enable_grad():
            model.last_logits(tokens, [*self._rules(), *self._reads()])

    def reader(
        self, layer: int, at: int, encoder: Float[Tensor, " d_model"], reads: Reads | str
    ) -> Reader:
        """The directions of a feature that reads at a layer's MLP and a position."""
        reads, before = Reads.of(reads, "reads"), self.model.taps.mlp_norm
        read = stream = self._seen[self.model.taps.mlp_residual(layer)]
        norm = None if before is None else self._norm(layer, before)
        if norm is not None and reads == Reads.MLP:
            read = self._seen[taps.norm_ends(layer, str(before))[1]]
        if norm is not None and reads == Reads.NORMALIZED:
            bare = replace(norm.at([at]), gain=torch.ones_like(norm.gain))
            encoder = bare.pull_back(encoder[None])[0]
        value = (read[0, at] * encoder.to(read)).sum()
        states = [self._seen[taps.resid_pre(each)] for each in range(layer + 1)]
        here, *found = torch.autograd.grad(value, [stream, *states], retain_graph=True)
        return Reader(here[0, at].to(self._wide), [each[0].to(self._wide) for each in found])

    def written(
        self, layer: int, places: Sequence[int], decoders: Float[Tensor, "some d_model"]
    ) -> Float[Tensor, "some d_model"]:
        """What reaches the residual stream of what is written at the MLP's side, one a place."""
        norm = self._norm(layer, "ln2_post")
        return decoders if norm is None else norm.at(places).apply(decoders)

    def received(
        self, layer: int, readers: Float[Tensor, "pos d_model"]
    ) -> Float[Tensor, "pos d_model"]:
        """The directions at the MLP's side of directions in the stream: the adjoint of `written`.

        One at every position of the prompt.
        """
        norm = self._norm(layer, "ln2_post")
        return readers if norm is None else norm.pull_back(readers)

    def through_heads(
        self,
        layer: int,
        places: Sequence[int],
        vectors: Float[Tensor, "some d_model"],
        to: int,
        reader: Float[Tensor, " d_model"],
    ) -> Float[Tensor, "some head"]:
        """What each head of a layer moves of vectors in the residual stream at places to a reader.

        The reader is a direction in the residual stream at the position `to`.
        """
        model = self.model
        norm, after = self._norm(layer, "ln1"), self._norm(layer, "ln1_post")
        if norm is not None:
            vectors = norm.at(places).apply(vectors)
        values = model.head_input_weights(layer, "per-query-head")[2].to(self._wide)
        outputs = model.output_matrices(layer).to(self._wide)
        if after is not None:
            reader = after.at([to]).pull_back(reader[None])[0]
        moved = torch.einsum("sd,hdf->shf", vectors, values)
        wanted = torch.einsum("hfd,d->hf", outputs, reader)
        pattern = self._seen[taps.pattern(layer)][0, :, to, list(places)].detach()
        return torch.einsum("shf,hf,hs->sh", moved, wanted, pattern.to(self._wide))

    def heads_between(self, source: int, target: int) -> range:
        """The layers whose attention lies between features of two layers."""
        return range(source + 1, target + (not self.model.architecture.parallel))

    def activations(self, layer: int) -> Float[Tensor, "pos d_mlp"]:
        """What the MLP's output matrix reads of every neuron."""
        return self._seen[taps.mlp_keys(layer)][0].detach().to(self._wide)

    def wide(self, vectors: Tensor) -> Tensor:
        """In the precision of this run's numbers, on its device."""
        return vectors.to(self.model.device, self._wide)

    def _norm(self, layer: int, name: str) -> FrozenNorm | None:
        norm = self.model.norm(layer, name)
        if norm is None:
            return None
        read = self._seen[taps.norm_ends(layer, name)[0]][0].detach().to(self._wide)
        return FrozenNorm.of(norm, read)

    def _rules(self) -> list[Hook]:
        return BackwardRules(frozen_norms=True, frozen_patterns=True).hooks(self.model)

    def _reads(self) -> list[Hook]:
        """Hooks after the rules': they keep what the rules gave, begin the graph and cut MLPs."""
        model, hooks, names = self.model, list[Hook](), list[str]()
        for layer in range(model.n_layers):
            names += [taps.resid_pre(layer), taps.pattern(layer), model.taps.mlp_residual(layer)]
            for norm in ("ln1", "ln2", "ln1_post", "ln2_post"):
                if model.norm(layer, norm) is not None:
                    names += taps.norm_ends(layer, norm)
            if model.architecture.mlp_output is not None:
                names.append(taps.mlp_keys(layer))
            hooks.append((model.taps.mlp_out(layer), lambda value, hook: value.detach()))
        hooks += [(name, self._keep(name)) for name in dict.fromkeys(names)]
        return [(taps.resid_pre(0), _begin), *hooks]

    def _keep(self, name: str) -> Callable[..., None]:
        return lambda value, hook: self._seen.__setitem__(name, value)


def _begin(value: Tensor, hook: object) -> Tensor:
    return value.detach().requires_grad_()
