"""Restoring clean states in a corrupted run: many sites at the price of few layers.

The plain loop of causal tracing runs the whole model once for every site. Here one run of the
clean prompt and its corrupted copies is kept, and for each position all sites are computed in one
pass over the layers. Five facts make this exact:

1. A restored state changes nothing at earlier positions, so only positions from the restored one
   on are run; earlier ones enter as keys and values of the corrupted run.
2. After its first restored layer a site differs from the corrupted run at one position only, so
   it joins the pass there, by replacing that position in the kept corrupted residual.
3. Windows that begin at the same layer are one run until the shorter ends; there they part, again
   differing at one position.
4. Windows that are clipped to the same layers are the same site, and what is restored in the last
   layer counts at the last position only.
5. Only the last position passes the last MLP, the final norm and the output matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.choices import TraceKind
from circuits.model import taps
from circuits.model.metrics import answer_probability
from circuits.model.model import Hook, Model, Prefix
from circuits.model.tokens import Span

Measure = Callable[[Tensor], Tensor]
"""From the logits of rows to a number a row."""


@dataclass(frozen=True, order=True)
class Site:
    """The states of a kind in layers `start` to `stop` - 1, restored at one position."""

    kind: TraceKind
    start: int
    stop: int


@dataclass(frozen=True)
class CorruptedRun:
    """One run of the clean prompt (row 0) and its corrupted copies (the other rows).

    `value` is what is measured of each, such as the probability of the answer. Residuals are one
    tensor a layer; `resid_post` of a layer is `resid_pre` of the next.
    """

    resid_pre: tuple[Float[Tensor, "row pos d_model"], ...]
    resid_mid: tuple[Float[Tensor, "row pos d_model"], ...]
    resid_post: tuple[Float[Tensor, "row pos d_model"], ...]
    clean_attn: tuple[Float[Tensor, "pos d_model"], ...]
    clean_mlp: tuple[Float[Tensor, "pos d_model"], ...]
    prefix: Prefix
    value: Float[Tensor, " row"]

    @property
    def n_samples(self) -> int:
        """Number of corrupted copies."""
        return self.value.shape[0] - 1

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.prefix.length

    def keys_values(self, layer: int, position: int, copies: int) -> tuple[Tensor, Tensor] | None:
        """The corrupted rows' keys and values before a position, repeated; None where none are."""
        if position == 0:
            return None
        keys, values = self.prefix.keys_values[layer]
        return (
            keys[1:, :, :position].repeat(copies, 1, 1, 1),
            values[1:, :, :position].repeat(copies, 1, 1, 1),
        )


@dataclass(frozen=True)
class _Front:
    """Residuals on their way up, one row a branch; a branch carries sites not yet told apart."""

    branches: tuple[tuple[Site, ...], ...]
    residual: Float[Tensor, "branch sample pos d_model"] | None


def corrupted_run(
    model: Model,
    tokens: Int[Tensor, " pos"],
    subject: Span,
    noise: Float[Tensor, "sample subject d_model"],
    answer: int,
) -> CorruptedRun:
    """Run the prompt clean, and once for each noise sample added to the subject's embeddings."""
    rows = tokens.expand(noise.shape[0] + 1, -1)
    return run_rows(model, rows, probability_of(answer), [add_noise(subject, noise)])


def run_rows(
    model: Model, rows: Int[Tensor, "row pos"], measure: Measure, corrupting: Sequence[Hook] = ()
) -> CorruptedRun:
    """Run the clean prompt (row 0) beside what corrupts it: other prompts, or hooks."""
    model.patching.check_parts(model.name)
    layers = range(model.n_layers)
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def read(value: Tensor, hook: Any) -> None:
            kept[name] = value

        return (name, read)

    names = [
        point(layer)
        for layer in layers
        for point in (taps.resid_pre, model.taps.attention_out, model.taps.mlp_out)
    ]
    names.append(taps.resid_post(model.n_layers - 1))
    hooks = [*corrupting, *(keep(name) for name in names)]
    logits, prefix = model.last_logits_and_prefix(rows, hooks)
    resid_pre = tuple(kept[taps.resid_pre(layer)] for layer in layers)
    return CorruptedRun(
        resid_pre=resid_pre,
        resid_mid=tuple(
            pre + kept[model.taps.attention_out(layer)] for layer, pre in enumerate(resid_pre)
        ),
        resid_post=(*resid_pre[1:], kept[names[-1]]),
        clean_attn=tuple(kept[model.taps.attention_out(layer)][0] for layer in layers),
        clean_mlp=tuple(kept[model.taps.mlp_out(layer)][0] for layer in layers),
        prefix=prefix,
        value=measure(logits),
    )


def add_noise(subject: Span, noise: Float[Tensor, "sample subject d_model"]) -> Hook:
    """A hook that adds noise to the subject's token embeddings in all rows but the first."""

    def corrupt(embedding: Tensor, hook: Any) -> Tensor:
        embedding = embedding.clone()
        embedding[1:, subject.start : subject.stop] += noise.to(embedding)
        return embedding

    return (taps.EMBEDDING, corrupt)


def restore_at(
    model: Model, run: CorruptedRun, position: int, sites: Sequence[Site], measure: Measure
) -> dict[Site, Float[Tensor, " sample"]]:
    """What is measured with each site restored, all in one pass over the layers.

    A site is absent from the result where restoring it cannot change anything.
    """
    last = model.n_layers - 1
    at_end = position == run.length - 1
    effective = {site: site if at_end else _without_last_layer(site, last) for site in sites}
    wanted = sorted({site for site in effective.values() if site.start < site.stop})
    if not wanted:
        return {}
    front = _Front((), None)
    for layer in range(model.n_layers):
        front = _advance(model, run, position, front, layer)
        joining = [site for site in wanted if site.start == layer]
        front = _join(model, run, position, front, joining, layer)
    assert front.residual is not None
    final = front.residual[:, :, -1]
    logits = model.unembed(final.flatten(0, 1))
    values = measure(logits).unflatten(0, final.shape[:2])
    found = {
        site: row for branch, row in zip(front.branches, values, strict=True) for site in branch
    }
    return {site: found[same] for site, same in effective.items() if same in found}


def _without_last_layer(site: Site, last: int) -> Site:
    return Site(site.kind, site.start, min(site.stop, last))


def _advance(model: Model, run: CorruptedRun, position: int, front: _Front, layer: int) -> _Front:
    """Take every branch through a layer; those whose windows end here part from the others."""
    if front.residual is None:
        return front
    before = front.residual
    shape = before.shape
    restoring, parting = _split(front.branches, layer)
    attn_on = [row for row in restoring if front.branches[row][0].kind == TraceKind.ATTN]
    mlp_on = [row for row in restoring if front.branches[row][0].kind == TraceKind.MLP]

    earlier = run.keys_values(layer, position, shape[0])
    attn = model.run_attention(layer, before.flatten(0, 1), earlier)
    mid = before + attn.view(shape)
    if layer == model.n_layers - 1:
        before, mid = before[:, :, -1:], mid[:, :, -1:].contiguous()
    unrestored_mid = mid[:, :, 0].clone()
    if attn_on:
        mid[attn_on, :, 0] = before[attn_on, :, 0] + run.clean_attn[layer][position]
    reads = model.mlp_reads(before, mid).flatten(0, 1)
    after = mid + model.run_mlp(layer, reads).view(mid.shape)
    parted = after[list(parting)]
    for row, (source, branch) in enumerate(parting.items()):
        if branch[0].kind == TraceKind.ATTN:
            states = before[source, :, 0], unrestored_mid[source]
            parted[row, :, 0] = _through_mlp(model, layer, *states)
    if mlp_on:
        after[mlp_on, :, 0] = mid[mlp_on, :, 0] + run.clean_mlp[layer][position]

    gone = [set(parting.get(row, ())) for row in range(shape[0])]
    staying = [
        tuple(site for site in branch if site not in gone[row])
        for row, branch in enumerate(front.branches)
    ]
    return _Front((*staying, *parting.values()), torch.cat([after, parted]) if parting else after)


def _split(
    branches: Sequence[tuple[Site, ...]], layer: int
) -> tuple[list[int], dict[int, tuple[Site, ...]]]:
    """Rows that restore in this layer, and for some of them the sites whose windows are over."""
    restoring, parting = [], {}
    for row, branch in enumerate(branches):
        over = tuple(site for site in branch if site.stop <= layer)
        if len(over) == len(branch):
            continue
        restoring.append(row)
        if over:
            parting[row] = over
    return restoring, parting


def _join(
    model: Model,
    run: CorruptedRun,
    position: int,
    front: _Front,
    sites: Sequence[Site],
    layer: int,
) -> _Front:
    """Add the sites that begin in this layer: the corrupted run with one position replaced."""
    branches, residuals = list(front.branches), []
    for kind, members in groupby(sites, key=lambda site: site.kind):
        if kind == TraceKind.RESID:
            restored = run.resid_post[layer][0, position]
        elif kind == TraceKind.MLP:
            restored = run.resid_mid[layer][1:, position] + run.clean_mlp[layer][position]
        else:
            assert kind == TraceKind.ATTN
            before = run.resid_pre[layer][1:, position]
            mid = before + run.clean_attn[layer][position]
            restored = _through_mlp(model, layer, before, mid)
        residual = run.resid_post[layer][1:, position:].clone()
        residual[:, 0] = restored
        residuals.append(residual)
        branches.append(tuple(members))
    if not residuals:
        return front
    if layer == model.n_layers - 1:  # only at the last position, where this slice is everything
        residuals = [residual[:, -1:] for residual in residuals]
    joined = torch.stack(residuals)
    if front.residual is not None:
        joined = torch.cat([front.residual, joined])
    return _Front(tuple(branches), joined)


def _through_mlp(
    model: Model,
    layer: int,
    before: Float[Tensor, "sample d_model"],
    mid: Float[Tensor, "sample d_model"],
) -> Float[Tensor, "sample d_model"]:
    return mid + model.run_mlp(layer, model.mlp_reads(before, mid)[:, None])[:, 0]


def probability_of(answer: int) -> Measure:
    """Measures the probability of the answer's first token."""

    def measure(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
        index = torch.full((logits.shape[0],), answer, device=logits.device)
        return answer_probability(logits, index)

    return measure
