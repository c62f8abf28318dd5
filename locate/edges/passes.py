"""The model passes behind edge attribution: what sources write and how inputs matter.

Two recorders turn a batch of runs into the two factors of an edge's score. `SourceDifferences`
holds what each source writes in the clean run minus what replaces it. `InputGradients` holds the
metric's gradient with respect to what each destination reads. Neither materialises one copy of
the residual stream a head: head outputs stay in d_head space until the contraction, and the
gradient through a norm is written in closed form.

For q = W' x_hat + q_0 with x_hat = (x - mean) / sigma and gradient g on q, let u = W'^T g. Then

    dm/dx = (u - x_hat (u . x_hat) / d_model) / sigma,   u . x_hat = g . (q - q_0),

so the projection term needs d_head numbers only (the mean's own term is inside W', which is
centred). Along an integrated-gradients path W' is constant: g / sigma is summed over the steps in
d_head space, the factors (c, x_hat) of the rank-one term are kept for each step, and the expansion
to d_model happens once (`InputGradients.attention`). Where heads read without a norm, dm/dx = u. By
the rules of `locate.edges.rules` sigma is a constant, and the term with x_hat falls away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graph.ablation import SourceConstants, source_hooks
from circuits.model import taps as points
from circuits.model.model import Hook, Model
from circuits.model.wiring import Wiring
from locate.edges.recording import Differences, Gradients, accumulate
from locate.edges.rules import PLAIN, BackwardRules


class SourceDifferences(Differences):
    """Clean minus replacement output of every source, at the positions from `start` on."""

    def hooks(self, sign: int) -> list[Hook]:
        """Hooks that add (sign 1) or subtract (sign -1) this run's outputs."""

        def save(key: str, value: Tensor) -> None:
            if not key.startswith("raw."):
                self.add(key, value, sign)

        return source_hooks(self.model, save)

    def subtract(self, constants: SourceConstants) -> None:
        """Subtract one constant a source."""
        self.values["embedding"] -= constants.embedding
        for layer in range(self.model.n_layers):
            self.values[f"heads.{layer}"] -= constants.heads[layer]
            self.values[f"mlp.{layer}"] -= constants.mlps[layer]

    def write_layer(
        self, layer: int, rows: slice, out: Float[Tensor, "src row d_model"], first: int
    ) -> None:
        """Write a layer's heads (in d_model space) and MLP into `out` from index `first` on."""
        n_heads = self.model.n_heads
        heads = self.values[f"heads.{layer}"].reshape(-1, n_heads, self.model.d_head)[rows]
        output = self.model.head_output_weights(layer).to(out.dtype)
        torch.bmm(heads.transpose(0, 1).to(out.dtype), output, out=out[first : first + n_heads])
        out[first + n_heads] = self.values[f"mlp.{layer}"].reshape(-1, self.model.d_model)[rows]


class InputGradients(Gradients):
    """Gradients of the metric with respect to each destination's input, summed over runs.

    Rows are (example, position) pairs of one batch, positions from the first difference on.
    """

    def __init__(
        self,
        model: Model,
        wiring: Wiring,
        rules: BackwardRules = PLAIN,
        also: Sequence[str] = (),
        recompute: bool = False,
    ) -> None:
        super().__init__(model, rules, also, recompute)
        self.wiring = wiring
        self.norms = model.taps.attention_norm, model.taps.mlp_norm
        layers = range(model.n_layers)
        self.per_head = wiring.n_key_inputs != model.n_kv_heads
        self._projected: list[Tensor | None] = [None for _ in layers]
        self._along: list[list[Tensor]] = [[] for _ in layers]
        self._directions: list[list[Tensor]] = [[] for _ in layers]
        self._mlp: list[Tensor | None] = [None for _ in layers]
        self._final: Tensor | None = None

    def later_bytes(self, runs: int) -> int:
        """Bytes a position of an example that runs after a path's first find and leave behind."""
        model, each = self.model, self.wiring.n_attn + self.model.d_model
        sums = model.n_layers * (self.wiring.n_attn * model.d_head + model.d_model) + model.d_model
        factors = model.n_layers * each * model.dtype.itemsize if self.norms[0] else 0
        return (sums * max(4, model.dtype.itemsize) if runs else 0) + runs * factors

    def keep(
        self,
        taps: dict[str, Tensor],
        grads: dict[str, Tensor],
        seen: dict[str, Tensor],
        start: int,
    ) -> None:
        """Add a run's gradients to those of the runs before it."""
        for layer in range(self.model.n_layers):
            self._add_attention(layer, taps, grads, seen, start)
            self._add_mlp(layer, grads, seen)
        last = grads[points.resid_post(self.model.n_layers - 1)]
        self._final = accumulate(self._final, last.reshape(-1, self.model.d_model))

    def tapped(self) -> list[str]:
        """Where destinations read."""
        names = []
        for layer in range(self.model.n_layers):
            names += [*points.projections(layer), points.mlp_in(layer)]
            if self.per_head:
                names += [points.head_outputs(layer), points.attention_scores(layer)]
        return [*names, points.resid_post(self.model.n_layers - 1)]

    def looked_at(self) -> list[str]:
        """What norms do there, and attention where it is wanted a query head."""
        names = []
        for layer in range(self.model.n_layers):
            for norm in dict.fromkeys(filter(None, self.norms)):
                names += [points.normalized(layer, norm), points.norm_scale(layer, norm)]
            if self.per_head:
                names.append(points.pattern(layer))
        return names

    def _add_attention(
        self,
        layer: int,
        taps: dict[str, Tensor],
        grads: dict[str, Tensor],
        seen: dict[str, Tensor],
        start: int,
    ) -> None:
        model, names = self.model, points.projections(layer)
        outputs = [_by_head(taps[name], model.d_head) for name in names]
        gradients = [_by_head(grads[name], model.d_head) for name in names]
        if self.per_head:
            repeats = model.n_heads // model.n_kv_heads
            outputs[1:] = [value.repeat_interleave(repeats, 2) for value in outputs[1:]]
            gradients[1:] = self._key_value_gradients(layer, outputs, taps, grads, seen, start)
        n_attn, norm, gradient = self.wiring.n_attn, self.norms[0], torch.cat(gradients, 2)
        if norm is not None:
            gradient = gradient / seen[points.norm_scale(layer, norm)].unsqueeze(-1)
        if norm is not None and not self.rules.frozen_norms:
            offset = self.model.head_offsets(layer, self.wiring.kv)
            along = ((torch.cat(outputs, 2) - offset) * gradient).sum(-1) / model.d_model
            self._along[layer].append(along.reshape(-1, n_attn))
            direction = seen[points.normalized(layer, norm)]
            self._directions[layer].append(direction.reshape(-1, model.d_model))
        self._projected[layer] = accumulate(
            self._projected[layer], gradient.reshape(-1, n_attn, model.d_head)
        )

    def _key_value_gradients(
        self,
        layer: int,
        outputs: list[Tensor],
        taps: dict[str, Tensor],
        grads: dict[str, Tensor],
        seen: dict[str, Tensor],
        start: int,
    ) -> list[Tensor]:
        """Key and value gradients a query head, from the gradients of scores and head outputs."""
        model, length = self.model, outputs[0].shape[1]
        pattern = seen[points.pattern(layer)][..., -length:]
        written = _by_head(grads[points.head_outputs(layer)], model.d_head)
        written = model.patching.gradient(layer, written, start)
        frozen, scales = self.rules.frozen_norms, self.rules.scales
        values = torch.einsum("bhij,bihe->bjhe", pattern, written) * scales[2]
        name = points.attention_scores(layer)
        scores = model.uncapped(grads[name], taps[name].detach())[..., -length:]
        queries = model.ready(layer, "q", outputs[0].transpose(1, 2), start)
        ready = torch.einsum("bhij,bhie->bhje", scores, queries)
        ready = ready * (model.attention_scale * scales[1])
        with torch.enable_grad():  # back through the keys' norm and rotation
            keys = outputs[1].transpose(1, 2).requires_grad_(True)
            compared = model.ready(layer, "k", keys, start, frozen=frozen)
            (gradient,) = torch.autograd.grad(compared, keys, ready)
        return [gradient.transpose(1, 2), values]

    def _add_mlp(self, layer: int, grads: dict[str, Tensor], seen: dict[str, Tensor]) -> None:
        gradient, name = grads[points.mlp_in(layer)], self.norms[1]
        if name is not None:
            norm = self.model.norm(layer, name)
            assert norm is not None, "the taps name a norm that is there"
            # Some blocks have all rows of a batch stand in one axis here.
            direction = seen[points.normalized(layer, name)].reshape(gradient.shape)
            scale = seen[points.norm_scale(layer, name)].reshape(*gradient.shape[:-1], 1)
            gradient = gradient * norm.gain
            if norm.centres:
                gradient = gradient - gradient.mean(-1, keepdim=True)
            if not self.rules.frozen_norms:
                along = (gradient * direction).mean(-1, keepdim=True)
                gradient = gradient - direction * along
            gradient = gradient / scale
        self._mlp[layer] = accumulate(self._mlp[layer], gradient.reshape(-1, self.model.d_model))

    def attention(self, layer: int, rows: slice, out: Float[Tensor, "dst row d_model"]) -> None:
        """Write the gradients at a layer's attention destinations, summed over the runs."""
        projected = self._projected[layer]
        assert projected is not None, "no run yet"
        start = 0
        for weight in self.model.head_input_weights(layer, self.wiring.kv):
            part = slice(start, start + len(weight))
            gradient = projected[rows, part].transpose(0, 1).to(out.dtype)
            torch.bmm(gradient, weight.transpose(1, 2).to(out.dtype), out=out[part])
            start = part.stop
        # Folding the norm here costs no copy of the weights, unlike `Model.head_projections`.
        norm = self.model.norm(layer, self.norms[0]) if self.norms[0] else None
        if norm is None:
            return
        out.mul_(norm.gain)
        if norm.centres:
            out.sub_(out.mean(-1, keepdim=True))
        for along, direction in zip(self._along[layer], self._directions[layer], strict=True):
            factors, hats = along[rows].to(out.dtype), direction[rows].to(out.dtype)
            for index in range(out.shape[0]):
                out[index].addcmul_(factors[:, index : index + 1], hats, value=-1)

    def mlp(self, layer: int, rows: slice) -> Float[Tensor, "row d_model"]:
        """Gradients at a layer's MLP input, summed over the runs."""
        value = self._mlp[layer]
        assert value is not None, "no run yet"
        return value[rows]

    def final(self, rows: slice) -> Float[Tensor, "row d_model"]:
        """Gradients at the final residual stream, summed over the runs."""
        assert self._final is not None, "no run yet"
        return self._final[rows]


def _by_head(value: Tensor, d_head: int) -> Float[Tensor, "batch pos head d_head"]:
    """A projection whose heads may stand together in the last axis."""
    return value.detach().reshape(*value.shape[:2], -1, d_head)
