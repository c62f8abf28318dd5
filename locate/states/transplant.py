"""Transplants: what one run computed, put into another, to see which part of it was at fault.

A *donor* prompt is answered right, a *target* prompt wrong. Parts of the donor's run replace the
same parts of the target's, and the target is asked again (activation patching between prompts of
any two lengths; Meng et al. 2022, Ghandeharioun et al. 2024, "Patchscopes"):

- components at the last token: what chosen heads and MLPs write there (`transplant_outputs`);
- the residual stream at one token, layer by layer (`transplant_states`).

A donor about the same subject brings its answer along where it has been recalled already: late
states repair any question. A donor that asks the same of *another* subject does not hold the
answer; where it repairs the target, what the target lacked was the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.facts.batches import batches_of
from circuits.model import taps
from circuits.model.continuing import before_each, from_each, run_above
from circuits.model.holding import alone
from circuits.model.metrics import answer_probability, rank
from circuits.model.model import Hook, Model
from circuits.model.tokens import Prompt
from circuits.model.wiring import Wiring
from locate.states.lens import residual_states

RUNS_AT_ONCE = 4
"""A run at the last token alone is cheap: so many batches go together."""


@dataclass(frozen=True, eq=False)
class LastOutputs:
    """What each head (before its output matrix) and each MLP wrote at every prompt's last token."""

    heads: Float[Tensor, "prompt layer head d_head"]
    mlps: Float[Tensor, "prompt layer d_model"]

    def __len__(self) -> int:
        return len(self.heads)


@dataclass(frozen=True, eq=False)
class Replies:
    """How each prompt's answer fares in several runs: its rank (0 is best) and probability."""

    rank: Int[np.ndarray, "run prompt"]
    probability: Float[np.ndarray, "run prompt"]

    @property
    def right(self) -> Bool[np.ndarray, "run prompt"]:
        """Whether no token scores higher than the answer's first token."""
        return self.rank == 0


@alone
@torch.no_grad()
def last_outputs(model: Model, prompts: Sequence[Prompt], batch_size: int = 16) -> LastOutputs:
    """The outputs of all heads and MLPs at the last token of each prompt."""
    heads = torch.empty(
        len(prompts),
        model.n_layers,
        model.n_heads,
        model.d_head,
        dtype=model.dtype,
        device=model.device,
    )
    mlps = torch.empty(
        len(prompts), model.n_layers, model.d_model, dtype=model.dtype, device=model.device
    )
    for rows, tokens in batches_of(model, prompts, batch_size):

        def keep_heads(value: Tensor, layer: int, rows: list[int] = rows) -> None:
            heads[rows, layer] = value[:, -1].reshape(len(rows), model.n_heads, -1)

        def keep_mlp(value: Tensor, layer: int, rows: list[int] = rows) -> None:
            mlps[rows, layer] = value[:, -1]

        model.last_logits(tokens, _readers(model, keep_heads, keep_mlp))
    return LastOutputs(heads, mlps)


@alone
@torch.no_grad()
def transplant_outputs(
    model: Model,
    targets: Sequence[Prompt],
    donors: LastOutputs,
    components: Bool[np.ndarray, "run prompt src"],
    answers: Sequence[int],
    *,
    batch_size: int = 16,
) -> Replies:
    """Ask every target once a run, with the chosen components' outputs taken from its donor.

    `components` marks sources of the wiring (`Wiring.src_names`); the embedding, source 0, belongs
    to no run and is never taken. All at once they bring the donor's whole computation at the last
    token, none of them leaves the target as it is.
    """
    n_runs = len(components)
    wiring = model.wiring()
    if components.shape[1:] != (len(targets), wiring.n_src) or len(donors) != len(targets):
        raise OptionError("a transplant needs one donor and one set of components for each target")
    if components[:, :, 0].any():
        raise OptionError("the token embedding cannot be transplanted, only heads and MLPs")
    ranks, shares = _empty(n_runs, len(targets))
    lowest = _lowest(wiring, components)
    for rows, tokens in batches_of(model, targets, min(len(targets), model.most_rows)):
        # Earlier positions are untouched by a change at the last one: they run once.
        prefix, last = model.share_prefix(tokens[:, :-1]), tokens[:, -1:]
        states, keep = taps.keeping(map(taps.resid_post, range(model.n_layers)))
        model.last_logits(last, keep, prefix)
        asked = [(run, place) for run in range(n_runs) for place in range(len(rows))]
        asked.sort(key=lambda each: lowest[each[0], rows[each[1]]])
        for start in range(0, len(asked), RUNS_AT_ONCE * batch_size):
            runs, places = np.array(asked[start : start + RUNS_AT_ONCE * batch_size]).T
            here = np.array(rows)[places]
            chosen = torch.from_numpy(components[runs, here]).to(model.device)
            hooks = _replacing(model, chosen, donors, here.tolist())
            picked = torch.from_numpy(places).to(model.device)
            before = None if prefix is None else prefix.take(picked)
            begin = int(lowest[runs, here].min())
            if begin == 0 or model.architecture.bare_mlp:  # whose MLPs alone no hook sees
                logits = model.last_logits(last[picked], hooks, before).float()
            else:  # below the first layer that is changed all is as it was
                with model.hooks(hooks):
                    above = run_above(
                        model, begin - 1, states[taps.resid_post(begin - 1)][picked], before
                    )
                logits = model.unembed(above[:, -1]).float()
            wanted = torch.tensor([answers[row] for row in here], device=model.device)
            ranks[runs, here] = rank(logits, wanted).cpu().numpy()
            shares[runs, here] = answer_probability(logits, wanted).cpu().numpy()
    return Replies(ranks, shares)


@alone
@torch.no_grad()
def transplant_states(
    model: Model,
    targets: Sequence[Prompt],
    donors: Sequence[Prompt],
    at: Sequence[int],
    from_: Sequence[int],
    answers: Sequence[int],
    *,
    batch_size: int = 16,
) -> Replies:
    """Ask every target once a layer, with the residual stream after it taken from the donor.

    `at` is the position in each target whose state is replaced, `from_` the donor's position that
    it is taken from. Run l takes the state after layer l.
    """
    if not len(targets) == len(donors) == len(at) == len(from_) == len(answers):
        raise OptionError("a transplant needs one donor, two positions and one answer a target")
    for prompt, place in [*zip(targets, at, strict=True), *zip(donors, from_, strict=True)]:
        if not 0 <= place < len(prompt):
            raise OptionError(f"there is no position {place} in {prompt.text!r}")
    given = torch.empty(
        len(donors), model.n_layers, model.d_model, dtype=model.dtype, device=model.device
    )
    for rows, tokens in batches_of(model, donors, batch_size):
        places = torch.tensor([[from_[row]] for row in rows], device=model.device)
        found = residual_states(model, tokens, places)
        given[rows] = torch.stack([state[:, 0] for state in found[1:]], 1)
    ranks, shares = _empty(model.n_layers, len(targets))
    for rows, tokens in batches_of(model, targets, batch_size):
        states, keep = taps.keeping(map(taps.resid_post, range(model.n_layers)))
        _, prefix = model.last_logits_and_prefix(tokens, keep)
        for part in _alike(model, [at[row] for row in rows], tokens.shape[1] - 1):
            first = torch.tensor([at[rows[place]] for place in part], device=model.device)
            before = before_each(prefix.take(torch.tensor(part, device=model.device)), first)
            ends, own = tokens.shape[1] - 1 - first, [rows[place] for place in part]
            for layer in range(model.n_layers):
                state = states[taps.resid_post(layer)][part]
                residual = from_each(state, first, int(ends.max()) + 1)
                residual[:, 0] = given[own, layer]
                unlike = first if bool((first != first[0]).any()) else None
                residual = run_above(model, layer, residual, before, unlike)
                logits = model.unembed(residual[torch.arange(len(part)), ends]).float()
                _record(ranks[layer], shares[layer], own, logits, answers)
    return Replies(ranks, shares)


def _alike(model: Model, at: Sequence[int], last: int) -> list[list[int]]:
    """Rows that run together: those that run their last token alone, and the others.

    Rows of a patched model go by position, as its patches do; so do those of prompts so long that
    the model has no positions for their padding.
    """
    by_place = bool(model.patching.patches) or 2 * last >= model.max_tokens
    groups: dict[int, list[int]] = {}
    for row, place in enumerate(at):
        groups.setdefault(place if by_place or place == last else -1, []).append(row)
    return list(groups.values())


def _readers(model: Model, heads: Any, mlps: Any) -> list[Hook]:
    def reader(keep: Any, layer: int) -> Any:
        return lambda value, hook: keep(value, layer)

    layers = range(model.n_layers)
    hooks: list[Hook] = [(taps.head_outputs(at), reader(heads, at)) for at in layers]
    return hooks + [(model.taps.mlp_out(at), reader(mlps, at)) for at in layers]


def _lowest(
    wiring: Wiring, components: Bool[np.ndarray, "run prompt src"]
) -> Int[np.ndarray, "run prompt"]:
    """The lowest layer with a chosen component; the last one where there is none."""
    layers = np.where(components, np.array(wiring.src_layers), wiring.n_layers - 1)
    return layers.min(-1)  # type: ignore[no-any-return]


def _replacing(
    model: Model, chosen: Bool[Tensor, "batch src"], donors: LastOutputs, rows: list[int]
) -> list[Hook]:
    """Hooks only where something is replaced."""
    wiring, hooks = model.wiring(), []

    def replacing(mask: Tensor, given: Tensor) -> Any:
        def replace(value: Tensor, hook: Any) -> Tensor:
            changed = value.clone()
            last = changed[:, -1].reshape(given.shape)
            changed[:, -1] = torch.where(mask, given, last).reshape(changed[:, -1].shape)
            return changed

        return replace

    for layer in range(model.n_layers):
        first, mlp = wiring.head_src(layer), wiring.mlp_src(layer)
        heads = chosen[:, first : first + model.n_heads]
        if heads.any():
            given = replacing(heads[..., None], donors.heads[rows, layer])
            hooks.append((taps.head_outputs(layer), given))
        if chosen[:, mlp].any():
            given = replacing(chosen[:, mlp, None], donors.mlps[rows, layer])
            hooks.append((model.taps.mlp_out(layer), given))
    return hooks


def _empty(n_runs: int, n_prompts: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (n_runs, n_prompts)
    return np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)


def _record(
    ranks: np.ndarray,
    shares: np.ndarray,
    rows: list[int],
    logits: Float[Tensor, "batch d_vocab"],
    answers: Sequence[int],
) -> None:
    wanted = torch.tensor([answers[row] for row in rows], device=logits.device)
    ranks[rows] = rank(logits, wanted).cpu().numpy()
    shares[rows] = answer_probability(logits, wanted).cpu().numpy()
