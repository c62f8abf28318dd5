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
to d_model happens once (`InputGradients.attention`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.graph.ablation import SourceConstants, source_hooks
from circuits.graph.circuit import Wiring
from circuits.model import taps as points
from circuits.model.model import Hook, Model, Prefix


class SourceDifferences:
    """Clean minus replacement output of every source, at the positions from `start` on."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.values: dict[str, Tensor] = {}

    def hooks(self, sign: int) -> list[Hook]:
        """Hooks that add (sign 1) or subtract (sign -1) this run's outputs."""

        def save(key: str, value: Tensor) -> None:
            value = value.detach()
            if key in self.values:
                self.values[key].add_(value, alpha=sign)
            else:
                self.values[key] = value.clone() if sign > 0 else value.neg()

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


class InputGradients:
    """Gradients of the metric with respect to each destination's input, summed over runs.

    Rows are (example, position) pairs of one batch, positions from the first difference on.
    """

    def __init__(self, model: Model, wiring: Wiring) -> None:
        self.model, self.wiring = model, wiring
        layers = range(model.n_layers)
        self.per_head = wiring.n_key_inputs != model.n_kv_heads
        self._projected: list[Tensor | None] = [None for _ in layers]
        self._along: list[list[Tensor]] = [[] for _ in layers]
        self._directions: list[list[Tensor]] = [[] for _ in layers]
        self._mlp: list[Tensor | None] = [None for _ in layers]
        self._final: Tensor | None = None
        self.n_runs = 0

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        metric: Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]],
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
        prefix: Prefix | None = None,
        extra_hooks: list[Hook] | None = None,
    ) -> Float[Tensor, "batch d_vocab"]:
        """One forward and one backward pass; returns the logits.

        `embedding` replaces the token embeddings (a point on an integration path).
        """
        taps: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}

        def start(value: Tensor, hook: object) -> Tensor:
            point = value if embedding is None else embedding
            return point.detach().requires_grad_(True)

        def tap(name: str) -> Hook:
            def keep(value: Tensor, hook: object) -> Tensor:
                taps[name] = value
                return value  # the hook sees a view; returning it puts the view on the graph

            return name, keep

        def look(name: str) -> Hook:
            return name, lambda value, hook: seen.__setitem__(name, value.detach())

        hooks: list[Hook] = [(points.EMBEDDING, start)]
        hooks += [tap(name) for name in self._tap_names()]
        hooks += [look(name) for name in self._look_names()]
        with torch.enable_grad():
            logits = self.model.last_logits(tokens, [*hooks, *(extra_hooks or [])], prefix)
            total = metric(logits).sum()
            names = list(taps)
            grads = dict(zip(names, torch.autograd.grad(total, list(taps.values())), strict=True))
        length = tokens.shape[1]
        for layer in range(self.model.n_layers):
            self._add_attention(layer, taps, grads, seen, length)
            self._add_mlp(layer, grads, seen)
        last = grads[points.resid_post(self.model.n_layers - 1)]
        self._final = _accumulate(self._final, last.reshape(-1, self.model.d_model))
        self.n_runs += 1
        return logits.detach()

    def _tap_names(self) -> list[str]:
        names = []
        for layer in range(self.model.n_layers):
            names += [*points.projections(layer), points.norm_out(layer, "ln2")]
            if self.per_head:
                names += [points.head_outputs(layer), points.attention_scores(layer)]
        return [*names, points.resid_post(self.model.n_layers - 1)]

    def _look_names(self) -> list[str]:
        names = []
        for layer in range(self.model.n_layers):
            for norm in ("ln1", "ln2"):
                names += [points.normalized(layer, norm), points.norm_scale(layer, norm)]
            if self.per_head:
                names += [points.rotated_queries(layer), points.pattern(layer)]
        return [*names, *(points.ROTARY if self.per_head else ())]

    def _add_attention(
        self,
        layer: int,
        taps: dict[str, Tensor],
        grads: dict[str, Tensor],
        seen: dict[str, Tensor],
        length: int,
    ) -> None:
        model, names = self.model, points.projections(layer)
        outputs = [taps[name].detach() for name in names]
        gradients = [grads[name] for name in names]
        if self.per_head:
            repeats = model.n_heads // model.n_kv_heads
            outputs[1:] = [value.repeat_interleave(repeats, 2) for value in outputs[1:]]
            gradients[1:] = self._key_value_gradients(layer, grads, seen, length)
        sigma = seen[points.norm_scale(layer, "ln1")].unsqueeze(-1)
        gradient = torch.cat(gradients, 2) / sigma
        offset = self.model.head_offsets(layer, self.wiring.kv)
        along = ((torch.cat(outputs, 2) - offset) * gradient).sum(-1) / model.d_model
        n_attn = self.wiring.n_attn
        self._projected[layer] = _accumulate(
            self._projected[layer], gradient.reshape(-1, n_attn, model.d_head)
        )
        self._along[layer].append(along.reshape(-1, n_attn))
        direction = seen[points.normalized(layer, "ln1")]
        self._directions[layer].append(direction.reshape(-1, model.d_model))

    def _key_value_gradients(
        self, layer: int, grads: dict[str, Tensor], seen: dict[str, Tensor], length: int
    ) -> list[Tensor]:
        """Key and value gradients a query head, from the gradients of scores and head outputs."""
        model = self.model
        pattern = seen[points.pattern(layer)][..., -length:]
        values = torch.einsum("bhij,bihe->bjhe", pattern, grads[points.head_outputs(layer)])
        rotated = seen[points.rotated_queries(layer)]
        if rotated.shape[1] != model.n_heads:
            rotated = rotated.transpose(1, 2)
        scores = grads[points.attention_scores(layer)][..., -length:]
        keys = torch.einsum("bhij,bhie->bjhe", scores, rotated) * model.d_head**-0.5
        cos, sin = (seen[name][:, -length:, None] for name in points.ROTARY)
        half = model.d_head // 2
        turned = keys * sin
        back = torch.cat([turned[..., half:], -turned[..., :half]], -1)
        return [keys * cos + back, values]

    def _add_mlp(self, layer: int, grads: dict[str, Tensor], seen: dict[str, Tensor]) -> None:
        direction = seen[points.normalized(layer, "ln2")]
        gradient = grads[points.norm_out(layer, "ln2")] * self.model.mlp_norm_gain(layer)
        if not self.model.uses_rms_norm:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        along = (gradient * direction).mean(-1, keepdim=True)
        gradient = (gradient - direction * along) / seen[points.norm_scale(layer, "ln2")]
        self._mlp[layer] = _accumulate(self._mlp[layer], gradient.reshape(-1, self.model.d_model))

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
        out.mul_(self.model.attention_norm_gain(layer))
        if not self.model.uses_rms_norm:
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


def _accumulate(total: Tensor | None, value: Tensor) -> Tensor:
    """Running sum, in fp32 at least so that bf16 steps do not lose digits."""
    if total is None:
        return value if value.dtype.itemsize >= 4 else value.float()
    return total.add_(value)
