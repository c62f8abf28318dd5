"""Run a circuit whose edges are kept in part, and the gradient of what it says in their masks.

With a mask m of any real value on every edge, what a destination t reads is

    x_t = base residual at t + sum over edges s -> t of m_st (now_s - base_s),

so masks of 1 are the clean run, masks of 0 the base run, and masks of 0 and 1 the circuit that
`circuits.graph.running` runs. The gradient is taken layer by layer from the logits down: each
part is computed once more from what it read, and

    dm_st = sum over positions and examples of (now_s - base_s) . dx_t.

So nothing is kept between the parts but what sources wrote, and the model's weights take no part.
Where heads share a norm, a head that leads nowhere has its base value in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.graph.running import CircuitRunner

Loss = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, ""]]
"""A number from the logits after the last position."""


@dataclass(frozen=True)
class _Part:
    """A layer's heads or its MLP: which destinations feed it, which sources it is.

    `n_src` sources may feed it, all those before it.
    """

    layer: int
    is_mlp: bool
    feeds: slice
    writes: slice
    n_src: int


class SoftRunner(CircuitRunner):
    """Runs masks of one wiring on one batch of pairs; the model itself is left untouched.

    A matrix of masks has a row a source and a column a destination; entries that are no edges must
    be 0 (`Wiring.to_matrix`).
    """

    @torch.no_grad()
    def run_masked(self, masks: Float[Tensor, "src dst"]) -> Float[Tensor, "batch d_vocab"]:
        """Logits after the last position."""
        masks = self._in_use(masks)
        return self.model.unembed(self._final(masks, self._written(masks)))

    def gradient(
        self, masks: Float[Tensor, "src dst"], loss: Loss
    ) -> tuple[float, Float[Tensor, "src dst"]]:
        """A loss of the logits, and its gradient in the masks; 0 where there is no edge."""
        masks = self._in_use(masks)
        with torch.no_grad():
            written = self._written(masks)
            upward, found = torch.zeros_like(written), torch.zeros_like(masks)
            final = self._final(masks, written)
        with torch.enable_grad():
            value = loss(self.model.unembed(final.requires_grad_(True)))
            (into,) = torch.autograd.grad(value, final)
        last = self._at(True)
        with torch.no_grad():
            end = slice(self.wiring.logits_dst, None)
            self._send(masks[:, end], written, into[None, :, None], last, upward, found[:, end])
            for part in reversed([*self._parts()]):
                at, read = self._positions(part), self._read(part, masks)
                reads = self._reads(part, masks, written, read)
                with torch.enable_grad():
                    outputs = self._compute(part, reads.requires_grad_(True), read)
                    wanted = upward[part.writes, :, self._at(self._is_last(part))]
                    (into,) = torch.autograd.grad(outputs, reads, wanted.reshape(outputs.shape))
                into = into.view(len(into), self.n_examples, -1, self.model.d_model)
                into = self._joined(part, into, read)
                edges = slice(part.n_src), part.feeds
                self._send(masks[edges], written, into, at, upward, found[edges])
        mask = torch.from_numpy(self.wiring.mask).to(found.device)
        return float(value.detach()), found * mask

    # --- going up ----------------------------------------------------------------------------

    def _parts(self) -> Iterator[_Part]:
        wiring = self.wiring
        for layer in range(self.model.n_layers):
            start, first = wiring.attn_dst(layer), wiring.head_src(layer)
            heads = slice(first, first + wiring.n_heads)
            yield _Part(layer, False, slice(start, start + wiring.n_attn), heads, first)
            mlp, source = wiring.mlp_dst(layer), wiring.mlp_src(layer)
            yield _Part(layer, True, slice(mlp, mlp + 1), slice(source, source + 1), source)

    def _in_use(self, masks: Float[Tensor, "src dst"]) -> Float[Tensor, "src dst"]:
        """The masks, as the runner takes circuits: 0 for what leads nowhere where that matters."""
        leads = self._leading((masks != 0).cpu().numpy())
        return masks * torch.from_numpy(leads).to(masks.device)

    def _written(self, masks: Float[Tensor, "src dst"]) -> Float[Tensor, "src batch pos d_model"]:
        """Now minus base output of all sources; after the last layer's attention of the last
        position alone, the others being 0."""
        shape = (self.n_examples, self.n_positions, self.model.d_model)
        written = self._embedding_change.new_zeros(self.wiring.n_src, *shape)
        written[0] = self._embedding_change.view(shape)
        for part in self._parts():
            read = self._read(part, masks)
            outputs = self._compute(part, self._reads(part, masks, written, read), read)
            at = self._at(self._is_last(part))
            written[part.writes, :, at] = outputs.view(len(outputs), self.n_examples, -1, shape[2])
        return written

    def _final(
        self, masks: Float[Tensor, "src dst"], written: Float[Tensor, "src batch pos d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        change = torch.tensordot(masks[:, -1].to(written.dtype), written[:, :, -1], 1)
        return self.base.final + change

    def _is_last(self, part: _Part) -> bool:
        return part.layer == self.model.n_layers - 1

    def _at(self, last: bool) -> slice:
        return slice(-1, None) if last else slice(None)

    def _positions(self, part: _Part) -> slice:
        """Where a part reads: in the last layer keys and values everywhere, the MLP at the end."""
        return self._at(part.is_mlp and self._is_last(part))

    def _read(self, part: _Part, masks: Float[Tensor, "src dst"]) -> Bool[Tensor, " source"]:
        """Which of the sources a part is are read at all."""
        return (masks[part.writes] != 0).any(1)

    def _joined(
        self,
        part: _Part,
        reads: Float[Tensor, "fed batch pos d_model"],
        read: Bool[Tensor, " source"],
    ) -> Float[Tensor, "fed batch pos d_model"]:
        """What queries and keys read beside the base, 0 for heads that nothing reads, whose
        queries and keys the others' norm would see."""
        if part.is_mlp or not self.model.architecture.is_joint:
            return reads
        keys = read.view(self.wiring.n_key_inputs, -1).any(1)
        return reads * torch.cat([read, keys, keys])[:, None, None, None]

    def _reads(
        self,
        part: _Part,
        masks: Float[Tensor, "src dst"],
        written: Float[Tensor, "src batch pos d_model"],
        read: Bool[Tensor, " source"],
    ) -> Float[Tensor, "fed row d_model"]:
        """What each destination reads, in full."""
        at, base = self._positions(part), self.base
        chosen = written[: part.n_src, :, at]
        weights = masks[: part.n_src, part.feeds].to(written.dtype)
        change = (weights.T @ chosen.flatten(1)).view(-1, *chosen.shape[1:])
        before = base.mlp_residual if part.is_mlp else base.resid_pre
        return self._joined(part, change, read).flatten(1, 2) + before[part.layer]

    def _compute(
        self,
        part: _Part,
        reads: Float[Tensor, "fed row d_model"],
        read: Bool[Tensor, " source"],
    ) -> Float[Tensor, "source some_row d_model"]:
        """Now minus base output of a part that reads this."""
        model, layer, base = self.model, part.layer, self.base
        if part.is_mlp:
            residual = reads[0].view(self.n_examples, -1, model.d_model)
            output = model.run_mlp(layer, residual, self._first(residual))
            return (output.flatten(0, 1) - base.mlps[layer])[None]
        n_heads, n_keys = model.n_heads, self.wiring.n_key_inputs
        everything = torch.arange(self.wiring.n_attn, device=reads.device)
        new = self._project(layer, reads, everything, [n_heads, n_keys, n_keys])
        queries, keys, values = new
        if self.start:
            before = (base.keys[layer], base.values[layer])
            keys, values = (
                torch.cat([old[:, :, : self.start], one], 2)
                for old, one in zip(before, (keys, values), strict=True)
            )
        if not model.architecture.normed_after:
            read = torch.ones_like(read)
        heads = read.nonzero()[:, 0]
        outputs = reads.new_zeros(n_heads, len(base.heads[layer]), model.d_model)
        if len(heads) == 0:
            return outputs + 0 * reads.sum()
        changed, heads = self._heads_written(layer, heads, read, queries, keys, values)
        return outputs.index_copy(0, heads, changed)

    # --- coming down -------------------------------------------------------------------------

    def _send(
        self,
        masks: Float[Tensor, "some_src some_dst"],
        written: Float[Tensor, "src batch pos d_model"],
        into: Float[Tensor, "some_dst batch some d_model"],
        at: slice,
        upward: Float[Tensor, "src batch pos d_model"],
        found: Float[Tensor, "some_src some_dst"],
    ) -> None:
        """Hand the gradient at what destinations read to their masks and to their sources."""
        flat, n_src = into.flatten(1), len(masks)
        found.copy_(written[:n_src, :, at].flatten(1) @ flat.T)
        upward[:n_src, :, at] += (masks.to(flat.dtype) @ flat).view(-1, *into.shape[1:])
