"""A model's layers one part at a time: attention, MLP, norms, as the whole model would run them.

`Model` inherits this. Whoever recomputes a part of a run, a head with another input or a layer on
another residual stream, asks here, so that what an architecture does differently stands in one
place: masks, scales and caps of attention, norms and rotations of queries and keys, norms after the
block.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.base.progress import stop_here
from circuits.model.architectures import Positions, QueryNorm
from circuits.model.patches import Kind
from circuits.model.weights import Weights


class Blocks(Weights):
    """What `circuits.model.model.Model` can do with single layers."""

    device: torch.device
    windows: list[int | None]
    _turn: threading.RLock

    @contextmanager
    def alone(self) -> Iterator[Self]:
        """Within the block no other thread runs or edits this model: it gets an OptionError.

        Hooks and edits are in the model itself, so two runs at a time would take each other's.
        Refusing, unlike waiting, cannot deadlock. Blocks of one thread may be nested. Here a job
        that is told to stop stops.
        """
        stop_here()
        if not self._turn.acquire(blocking=False):
            raise OptionError(
                f"{self.name!r} is in use in another thread; run one thing at a time, or load the "
                "model once for each thread"
            )
        try:
            self.align()
            yield self
        finally:
            self._turn.release()

    # --- whole parts -------------------------------------------------------------------------

    def run_layer(
        self,
        layer: int,
        residual: Float[Tensor, "batch pos d_model"],
        earlier: tuple[Tensor, Tensor] | None = None,
        at: slice = slice(None),
        own: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch some d_model"]:
        """The residual stream after a layer, at the positions `at`; `earlier`, `own` as below."""
        attention = self.run_attention(layer, residual, earlier, own)
        mid = (residual + attention)[:, at].contiguous()
        start = range(residual.shape[1])[at][0] + (earlier[0].shape[2] if earlier else 0)
        reads = self.mlp_reads(residual[:, at], mid).contiguous()
        with self.patching.positions(start):
            after = mid + self.run_mlp(layer, reads, start)
            return self.patching.written(Kind.RESID, layer, after)

    def mlp_reads(self, before: Tensor, mid: Tensor) -> Tensor:
        """Which residual stream a layer's MLP reads: before the layer, or after its attention."""
        return before if self.architecture.parallel else mid

    def run_attention(
        self,
        layer: int,
        residual: Tensor,
        earlier: tuple[Tensor, Tensor] | None = None,
        own: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What a layer's attention adds to a residual of shape batch pos d_model.

        `earlier` holds keys and values (batch head pos d_head) of the positions before these. Where
        rows have unlike many, the last `own` of them are each row's own, and the others are padding
        that it does not look at; an unpatched model's only, as patches count from one start.
        """
        from transformers.cache_utils import DynamicCache

        block, start = self.bridge.blocks[layer], 0
        options: dict[str, Any] = {}
        if earlier is not None:
            start, cache = earlier[0].shape[2], DynamicCache()
            cache.update(*earlier, layer)
            options = {self.architecture.cache: cache, "use_cache": True}
        length = residual.shape[1]
        places = torch.arange(start, start + length, device=residual.device)[None]
        seen = self.mask(layer, start, length)[None]
        if own is not None:
            padding = start - own[:, None]
            places = places - padding
            seen = seen & (torch.arange(start + length, device=own.device) >= padding)[:, None]
        if self.architecture.positions == Positions.HALVES:
            options["position_embeddings"] = self._angles(layer, residual, places)
        if self.architecture.positions == Positions.PAIRS:
            options["position_ids"] = places
        hidden = residual if self.norm(layer, "ln1") is None else block.ln1(residual)
        mask = residual.new_zeros(seen.shape)
        mask = mask.masked_fill(~seen, torch.finfo(residual.dtype).min)
        with self.alone(), self.patching.positions(start):
            output = block.attn(hidden_states=hidden, attention_mask=mask[:, None], **options)
        output = output[0] if isinstance(output, tuple) else output
        return block.ln1_post(output) if self.architecture.normed_after else output

    def run_mlp(self, layer: int, residual: Tensor, start: int | None = None) -> Tensor:
        """What a layer's MLP adds to the residual that it reads, of shape batch pos d_model.

        `start` is the position of the first, where they are the prompts' positions up to the end.
        """
        with self.alone(), self.patching.positions(start):
            return self._run_mlp_part(layer, residual)

    def _run_mlp_part(self, layer: int, residual: Tensor) -> Tensor:
        block, norm = self.bridge.blocks[layer], self.taps.mlp_norm
        hidden = getattr(block, norm)(residual) if norm else residual
        if self.architecture.bare_mlp:  # past its hooks
            into, out = (block.mlp.submodules[name].original_component for name in ("in", "out"))
            output = out(block.original_component.activation_fn(into(hidden)))
            return self.patching.written(Kind.MLP, layer, self.after_mlp(layer, output))
        output = block.mlp(hidden)
        return self.after_mlp(layer, output[0] if isinstance(output, tuple) else output)

    def after_mlp(self, layer: int, written: Tensor) -> Tensor:
        """What reaches the residual stream of what an MLP's output matrix writes."""
        after = self.architecture.normed_after
        return self.bridge.blocks[layer].ln2_post(written) if after else written

    # --- inside attention --------------------------------------------------------------------

    def normalise(self, residual: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """A residual through the norm that heads read through, without gain and shift.

        It is what `head_projections` expects; without a norm it is the residual itself.
        """
        if not self.architecture.normed_before:
            return residual
        shape = (self.d_model,)
        if self.uses_rms_norm:
            return F.rms_norm(residual, shape, eps=self.norm_eps)
        return F.layer_norm(residual, shape, eps=self.norm_eps)

    def ready(
        self,
        layer: int,
        slot: str,
        value: Float[Tensor, "*rest head pos d_head"],
        start: int = 0,
        *,
        frozen: bool = False,
    ) -> Float[Tensor, "*rest head pos d_head"]:
        """Queries or keys (slot q or k) as attention compares them: normed, then rotated.

        Positions begin at `start`. Where the norm is one over all heads, all of them must be there.
        What the norm divides by has no derivative where it is `frozen`.
        """
        norm = None
        if self.architecture.query_norm != QueryNorm.NONE:
            norm = self.norm(layer, f"{slot}_norm")
        if norm is not None and self.architecture.is_joint:
            flat = value.movedim(-3, -2).flatten(-2)
            repeats = flat.shape[-1] // len(norm.gain)
            gain = norm.gain.view(-1, self.d_head).repeat_interleave(repeats, 0).flatten()
            wide = replace(norm, gain=gain, shift=None)
            flat = wide.frozen(flat) if frozen else wide(flat)
            value = flat.unflatten(-1, (-1, self.d_head)).movedim(-2, -3)
        elif norm is not None:
            value = norm.frozen(value) if frozen else norm(value)
        return self.rotate(layer, value, start)

    def rotate(
        self, layer: int, value: Float[Tensor, "*rest pos d_head"], start: int = 0
    ) -> Float[Tensor, "*rest pos d_head"]:
        """Queries or keys turned to their positions; as they are where positions are learned."""
        flags = self.architecture.turning and getattr(self.config, self.architecture.turning)
        if self.architecture.positions == Positions.LEARNED or (flags and not flags[layer]):
            return value
        places = torch.arange(start, start + value.shape[-2], device=value.device)
        cos, sin = (part[0] for part in self._angles(layer, value, places[None]))
        width = cos.shape[-1]
        turning, rest = value[..., :width], value[..., width:]
        if self.architecture.positions == Positions.PAIRS:
            turned = torch.stack([-turning[..., 1::2], turning[..., ::2]], -1).flatten(-2)
        else:
            turned = torch.cat([-turning[..., width // 2 :], turning[..., : width // 2]], -1)
        turning = turning * cos + turned * sin
        return torch.cat([turning, rest], -1) if rest.shape[-1] else turning

    def _angles(
        self, layer: int, like: Tensor, places: Int[Tensor, "row pos"]
    ) -> tuple[Float[Tensor, "row pos turning"], Float[Tensor, "row pos turning"]]:
        """Cosine and sine of the rotation at some positions."""
        if self.architecture.positions == Positions.PAIRS:
            table = self.bridge.blocks[layer].attn.original_component.embed_positions
            both = table.to(like.device, like.dtype)[places].repeat_interleave(2, -1)
            sin, cos = both.chunk(2, -1)
            return cos, sin
        rotary = self.bridge.rotary_emb
        kinds = getattr(rotary.original_component, "layer_types", None)
        kind = (self.config.layer_types[layer],) if kinds else ()
        return rotary(like, places, *kind)

    def mask(self, layer: int, start: int, length: int) -> Bool[Tensor, "query key"]:
        """Which positions each of `length` queries from `start` on may look at."""
        keys = torch.arange(start + length, device=self.device)
        queries = keys[start:, None]
        seen, window = keys <= queries, self.windows[layer]
        return seen if window is None else seen & (keys > queries - window)

    def mix(
        self,
        layer: int,
        queries: Float[Tensor, "*rest query d_head"],
        keys: Float[Tensor, "*rest key d_head"],
        values: Float[Tensor, "*rest key d_head"],
        mask: Bool[Tensor, "*some query key"],
    ) -> Float[Tensor, "*rest query d_head"]:
        """What attention reads with these queries and keys, as `ready` gives them."""
        scale, cap = self._scale, getattr(self.config, "attn_logit_softcapping", None)
        if cap is None:
            return F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=scale
            )
        return self.compare(queries, keys, mask) @ values

    def compare(
        self,
        queries: Float[Tensor, "*some query d_head"],
        keys: Float[Tensor, "*others key d_head"],
        mask: Bool[Tensor, "*masked query key"],
    ) -> Float[Tensor, "*rest query key"]:
        """The attention of these queries to these keys, as `ready` gives them; they broadcast."""
        cap = getattr(self.config, "attn_logit_softcapping", None)
        scores = queries @ keys.transpose(-1, -2) * self.attention_scale
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)

    def uncapped(
        self, gradient: Float[Tensor, "*rest query key"], scores: Float[Tensor, "*rest query key"]
    ) -> Float[Tensor, "*rest query key"]:
        """The gradient of attention scores before their soft cap, from that after it."""
        cap = getattr(self.config, "attn_logit_softcapping", None)
        return gradient if cap is None else gradient * (1 - (scores / cap).clamp(-1, 1) ** 2)

    @property
    def _scale(self) -> float | None:
        """What scores are multiplied with; None for one over the root of d_head."""
        if self.architecture.scale is not None:
            return self.architecture.scale
        wide = getattr(self.config, "query_pre_attn_scalar", None)
        return None if wide is None else float(wide) ** -0.5

    @property
    def attention_scale(self) -> float:
        """What the products of queries and keys are multiplied with."""
        return self.d_head**-0.5 if self._scale is None else self._scale

    # --- what heads write --------------------------------------------------------------------

    def share_heads(
        self, layer: int, outputs: Float[Tensor, "*rest head d_head"]
    ) -> Float[Tensor, "*rest head d_head"]:
        """All heads' outputs divided by what the norm after attention divides by, if there is one.

        Times `head_output_weights` they are what each head adds to the residual stream.
        """
        norm = self.norm(layer, "ln1_post")
        if norm is None:
            return outputs
        written = torch.einsum("...he,hed->...d", outputs, self.output_matrices(layer))
        return outputs / norm.scale(written).unsqueeze(-1)

    # --- ends --------------------------------------------------------------------------------

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embeddings, without positions."""
        return self.bridge.embed(tokens)

    def unembed(self, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Final norm and output matrix on a residual stream of any leading shape."""
        flat = residual.reshape(-1, 1, residual.shape[-1]).contiguous()
        logits = self.cap(self.bridge.unembed(self.bridge.ln_final(flat)))
        return logits.reshape(*residual.shape[:-1], logits.shape[-1])

    def cap(self, logits: Tensor) -> Tensor:
        """Logits through the model's soft cap, if it has one."""
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)
