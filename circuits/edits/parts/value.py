"""The value that makes the model say the target: ROME's and MEMIT's shared optimisation.

For each request a vector delta is added at the subject's last token of its prompt, in every
context, and found by Adam on (Meng et al. 2022, equation 4, and the penalty of the released code)

    mean over contexts and target tokens of -log p(target)
    + kl_factor * KL(p with delta || p without) on "SUBJECT is a"
    + weight_decay * |delta| / |v0|^2                            (the norm is not squared, as there)

and is kept within clamp * |v0|. The papers have the KL term after the last token of "SUBJECT is a",
all released code at the subject's last token, where the prediction is of "is". Here `kl_position`
says which: the papers' by default, as it keeps what the subject is, the code's for `rome-original`.
The vector is added to what the layer's MLP writes, which is an addition to the residual stream
after the layer unless a norm comes between; there ROME's stands before that norm and MEMIT's past
it. So all that stands before is computed once, the layers
below and every layer's keys and values before the subject's last token: a step costs the layers
above, from that token on. A request's delta does not depend on its batch mates. Of long prompts a
few are run at a time and their gradients added, so that of the contexts keys and values alone stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.choices import Choice
from circuits.base.errors import NumericalError
from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest
from circuits.edits.parts.contexts import PlacedPrompt, place, place_essence
from circuits.edits.parts.keys import residual_point, value_point
from circuits.facts.batches import padded
from circuits.model.continuing import before_each, from_each, run_above
from circuits.model.holding import fitting
from circuits.model.model import Model, Prefix
from circuits.model.taps import keeping

MAX_ROWS = 256
MOST_POSITIONS = 512
"""From the subjects on, of the prompts that a processor runs at once, which costs it no time. A GPU
says when its memory runs out, and takes fewer prompts then; a processor's process ends."""


class KlPosition(Choice):
    """Where the KL term reads "SUBJECT is a": after its END, or after the SUBJECT."""

    END = "end"
    SUBJECT = "subject"


@dataclass(frozen=True)
class ValueSettings(Options):
    """Hyperparameters of the optimisation, with ROME's published values for GPT-2 XL."""

    steps: int = option(20, low=1)
    learning_rate: float = option(0.5, above=0, high=1e6)
    kl_factor: float = option(0.0625, low=0)
    kl_position: KlPosition = KlPosition.END
    weight_decay: float = option(0.5, low=0)
    clamp: float = option(4.0, above=0)
    stop_below: float = option(0.05, low=0)


@dataclass(frozen=True, eq=False)
class Value:
    """What the optimisation found for one request.

    `losses` and `probabilities` (of the target: geometric mean over contexts and tokens) have one
    entry a forward pass, the first of the unchanged model.
    """

    delta: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Every prompt of several requests after the edited layer, from its subject's last token on.

    One row a prompt. The delta is added at its position `subject`, the first; `written` is what the
    layer's MLP wrote there, before a norm that may follow it. `before` has the keys and values of
    the layers above at the positions before, of which the last `own` are a row's own. `counts` are
    the predictions of each request in all its rows.
    """

    residual: Float[Tensor, "row pos d_model"]
    written: Float[Tensor, "row d_model"]
    before: Prefix | None
    own: Int[Tensor, " row"]
    subject: Int[Tensor, " row"]
    owner: Int[Tensor, " row"]
    predicted: Int[Tensor, "prediction 2"]
    target: Int[Tensor, " prediction"]
    essence: Int[Tensor, "some 2"]
    counts: Float[Tensor, " request"]


def optimise_values(
    model: Model,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    scale: Float[Tensor, "request d_model"],
    settings: ValueSettings,
    progress: Progress | None = None,
    *,
    past_norm: bool = False,
) -> list[Value]:
    """One value a request. `scale` holds v0: ROME's MLP output or MEMIT's residual at the subject.

    With `past_norm` the value is added past the norm that may follow the MLP.
    NumericalError where a loss is not finite; the model is never changed.
    """

    def run(rows: int) -> list[Value]:
        size = max(1, rows // (len(contexts) + 1))
        values: list[Value] = []
        for start in range(0, len(requests), size):
            part = slice(start, start + size)
            values += _optimise(
                model,
                requests[part],
                layer,
                contexts,
                scale[part],
                settings,
                most=rows,
                past_norm=past_norm,
            )
            if progress is not None:
                progress(len(values), len(requests))
        return values

    return fitting(model, MAX_ROWS, run)


def _optimise(
    model: Model,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    scale: Float[Tensor, "request d_model"],
    settings: ValueSettings,
    *,
    most: int,
    past_norm: bool,
) -> list[Value]:
    parts = _placed(model, requests, layer, contexts, settings.kl_position, most)
    norms = scale.float().norm(dim=1)
    delta = torch.zeros(len(requests), model.d_model, device=model.device, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    losses: list[list[float]] = [[] for _ in requests]
    likely: list[list[float]] = [[] for _ in requests]
    before: list[Tensor] = []
    open_ = torch.ones(len(requests), dtype=torch.bool, device=model.device)
    for step in range(settings.steps):
        last = step == settings.steps - 1
        nll, divergence = (delta.new_zeros(len(requests)) for _ in range(2))
        gradient = torch.zeros_like(delta)
        for at, rows in enumerate(parts):
            with torch.set_grad_enabled(not last):
                own, essence = _forward(model, rows, layer, delta, past_norm)
                if step == 0:
                    before.append(essence.detach().clone())  # a view would keep all logits
                moved = (essence.exp() * (essence - before[at])).sum(-1)
                spread = divergence.new_zeros(len(requests)).index_add(
                    0, rows.owner[rows.essence[:, 0]], moved
                )
            if len(parts) > 1 and not last:
                both = (own + settings.kl_factor * spread).sum()
                gradient += torch.autograd.grad(both, delta)[0]
                own, spread = own.detach(), spread.detach()
            nll, divergence = nll + own, divergence + spread
        length = delta.norm(dim=1)
        loss = nll + settings.kl_factor * divergence
        loss = loss + settings.weight_decay * length / norms.square()
        _record(requests, open_, loss, nll, losses, likely)
        open_ = open_ & (loss.detach() >= settings.stop_below)
        if last or not bool(open_.any()):
            break
        delta.grad = torch.autograd.grad(loss[open_].sum(), delta)[0] + gradient
        _step(optimiser, delta, open_, settings.clamp * norms)
    found = delta.detach()
    return [
        Value(found[index], tuple(losses[index]), tuple(likely[index]))
        for index in range(len(requests))
    ]


@torch.no_grad()
def _step(
    optimiser: torch.optim.Optimizer,
    delta: Float[Tensor, "request d_model"],
    open_: Tensor,
    bound: Float[Tensor, " request"],
) -> None:
    """One Adam step within the ball; a request that is done stays, though Adam has momentum."""
    kept = delta.clone()
    optimiser.step()
    length = delta.norm(dim=1)
    factor = torch.where(length > bound, bound / length.clamp_min(1e-30), 1.0)
    delta.copy_(torch.where(open_[:, None], delta * factor[:, None], kept))


def _record(
    requests: Sequence[EditRequest],
    open_: Tensor,
    loss: Float[Tensor, " request"],
    nll: Float[Tensor, " request"],
    losses: list[list[float]],
    likely: list[list[float]],
) -> None:
    values, shares = loss.tolist(), nll.neg().exp().tolist()
    for index in open_.nonzero()[:, 0].tolist():
        if values[index] != values[index] or abs(values[index]) == float("inf"):
            raise NumericalError(
                f"the loss of the edit of {requests[index].text!r} is {values[index]} after "
                f"{len(losses[index])} steps"
            )
        losses[index].append(values[index])
        likely[index].append(shares[index])


def _forward(
    model: Model,
    rows: _Rows,
    layer: int,
    delta: Float[Tensor, "request d_model"],
    past_norm: bool,
) -> tuple[Float[Tensor, " request"], Float[Tensor, "some d_vocab"]]:
    """These rows' part in the mean NLL of each request's target, and log p where the KL reads."""
    added = delta[rows.owner].to(rows.residual.dtype)
    if model.architecture.normed_after and not past_norm:
        old, new = (
            model.after_mlp(layer, x[:, None]) for x in (rows.written, rows.written + added)
        )
        added = (new - old)[:, 0]
    at = torch.arange(len(rows.owner), device=model.device), rows.subject
    start = rows.residual.index_put(at, added, accumulate=True)
    residual = run_above(model, layer, start, rows.before, rows.own)
    places = torch.cat([rows.predicted, rows.essence])
    logits = model.unembed(residual[places[:, 0], places[:, 1]]).float().log_softmax(-1)
    log_p = logits[: len(rows.target)].gather(1, rows.target[:, None])[:, 0]
    owner = rows.owner[rows.predicted[:, 0]]
    nll = -log_p.new_zeros(delta.shape[0]).index_add(0, owner, log_p) / rows.counts
    return nll, logits[len(rows.target) :]


def _placed(
    model: Model,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    kl_position: KlPosition,
    most: int,
) -> list[_Rows]:
    """Every request in every context, run up to the layer; at most so many rows at a time.

    And on a processor no more than `MOST_POSITIONS` positions at a time.
    """
    placed: list[tuple[int, PlacedPrompt]] = []
    for owner, request in enumerate(requests):
        placed += [(owner, place(model, request, context)) for context in contexts]
    counts = torch.zeros(len(requests), device=model.device)
    for owner, prompt in placed:
        counts[owner] += len(prompt.targets)
    placed += [(o, place_essence(model, request.subject)) for o, request in enumerate(requests)]
    subjects = [prompt.subject_last for _, prompt in placed]
    begins, width = _begin(subjects, [len(prompt.ids) for _, prompt in placed], model.max_tokens)
    size = MOST_POSITIONS // width if model.device.type == "cpu" else len(placed)
    size = max(1, min(most, size))
    return [
        _rows(model, placed[at : at + size], begins[at : at + size], layer, kl_position, counts)
        for at in range(0, len(placed), size)
    ]


def _rows(
    model: Model,
    placed: Sequence[tuple[int, PlacedPrompt]],
    begins: Sequence[int],
    layer: int,
    kl_position: KlPosition,
    counts: Float[Tensor, " request"],
) -> _Rows:
    """Some placed prompts, by their requests, run up to the layer; those of a KL have no target."""
    subjects = [prompt.subject_last for _, prompt in placed]
    lengths = [len(prompt.ids) for _, prompt in placed]
    width = max(length - begin for begin, length in zip(begins, lengths, strict=True))
    predicted = [
        (row, prompt.prompt_length - 1 + step - begins[row])
        for row, (_, prompt) in enumerate(placed)
        for step in range(len(prompt.targets))
    ]
    place_of = {
        KlPosition.END: lambda prompt: prompt.prompt_length - 1,
        KlPosition.SUBJECT: lambda prompt: prompt.subject_last,
    }[kl_position]
    essence = [
        (row, place_of(prompt) - begins[row])
        for row, (_, prompt) in enumerate(placed)
        if not prompt.targets
    ]

    def integers(values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=model.device)

    found, keep = keeping([residual_point(layer), value_point(layer)])
    tokens = padded([prompt.ids for _, prompt in placed], model.device)[0]
    _, prefix = model.last_logits_and_prefix(tokens, keep)
    own, at = integers(begins), integers(subjects)
    return _Rows(
        residual=from_each(found[residual_point(layer)], own, width),
        written=from_each(found[value_point(layer)], at, 1)[:, 0],
        before=before_each(prefix, own, layer),
        own=own,
        subject=at - own,
        owner=integers([owner for owner, _ in placed]),
        predicted=integers(predicted).reshape(-1, 2),
        target=integers([token for _, prompt in placed for token in prompt.targets]),
        essence=integers(essence).reshape(-1, 2),
        counts=counts,
    )


def _begin(subjects: Sequence[int], lengths: Sequence[int], most: int) -> tuple[Sequence[int], int]:
    """Where each row begins, and how many positions the longest has from there.

    At its subject; all as early as the earliest, where with padding they would have more positions
    than the model.
    """

    def width(begins: Sequence[int]) -> int:
        return max(length - begin for begin, length in zip(begins, lengths, strict=True))

    if max(subjects) + width(subjects) > most:
        subjects = [min(subjects)] * len(subjects)
    return subjects, width(subjects)
