"""What counts as recalling the fact: one value an example, higher when the fact is recalled.

Answer and foil are a token an example, or a set of them (a column a token, -1 where a row has
fewer). A set counts as one event: its log-probability is that of any of its tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.choices import Metric, MetricLike
from circuits.base.errors import NumericalError, OptionError


def logit_difference(
    logits: Float[Tensor, "batch d_vocab"],
    answer: Int[Tensor, "batch ..."],
    foil: Int[Tensor, "batch ..."],
) -> Float[Tensor, " batch"]:
    """Answer logit minus foil logit; positive when the fact is recalled (Wang et al. 2022).

    Of sets it is the log odds of the one against the other.
    """
    return _pick(logits, answer) - _pick(logits, foil)


def probability_difference(
    logits: Float[Tensor, "batch d_vocab"],
    answer: Int[Tensor, "batch ..."],
    foil: Int[Tensor, "batch ..."],
) -> Float[Tensor, " batch"]:
    """Probability of the answers minus that of the foils, -1 to 1 (Hanna et al. 2023)."""
    shares = logits.float().log_softmax(-1)
    return _pick(shares, answer).exp() - _pick(shares, foil).exp()


def log_probability(
    logits: Float[Tensor, "batch d_vocab"],
    answer: Int[Tensor, "batch ..."],
    foil: Int[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, " batch"]:
    """Log-probability of the answer's first token, in nats; the foil plays no part."""
    return _pick(logits.float().log_softmax(-1), answer)


def negative_kl(
    logits: Float[Tensor, "batch d_vocab"],
    answer: Int[Tensor, "batch ..."],
    foil: Int[Tensor, "batch ..."],
    clean_logits: Float[Tensor, "batch d_vocab"],
) -> Float[Tensor, " batch"]:
    """-KL(clean || this run) in nats, summed over the vocabulary; 0 where the runs agree."""
    clean = clean_logits.float().log_softmax(-1)
    return (clean.exp() * (logits.float().log_softmax(-1) - clean)).sum(-1)


def rank(
    logits: Float[Tensor, "*batch d_vocab"], token: Int[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """How many tokens score higher than this one; 0 is the best rank.

    As `rank_of` its logit.
    """
    return rank_of(logits, logits.gather(-1, token.unsqueeze(-1))[..., 0])


def best_rank(
    logits: Float[Tensor, "batch d_vocab"], answer: Int[Tensor, "batch ..."]
) -> Int[Tensor, " batch"]:
    """The rank of the answer, of several (columns, filled up with -1) that of the likeliest."""
    columns = answer if answer.dim() == 2 else answer[:, None]
    own = logits.gather(-1, columns.clamp(min=0)).masked_fill(columns < 0, -torch.inf)
    return rank_of(logits, own.amax(-1))


def rank_of(
    logits: Float[Tensor, "*batch d_vocab"], own: Float[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """How many tokens score higher than the one whose logit this is; 0 is the best rank.

    Among equal logits it takes the middle place: where all are the same, none is known.
    NumericalError where a logit is NaN or infinite, as then no place means anything.
    """
    if not bool(torch.isfinite(logits).all()):
        raise NumericalError(
            "the logits are not finite numbers, so no answer has a rank; a weight may be NaN, or "
            "a value too large for the model's dtype"
        )
    own = own[..., None]
    return (logits > own).sum(-1) + ((logits == own).sum(-1) - 1) // 2


def hit_at(
    logits: Float[Tensor, "batch d_vocab"], answer: Int[Tensor, "batch ..."], k: int = 10
) -> Bool[Tensor, " batch"]:
    """Whether the answer's first token is among the k best logits (Yao et al. 2024).

    Of several answers any will do. Logits that are all the same (zero ablation of everything, under
    RMSNorm) hit nothing.
    """
    return best_rank(logits, answer) < k


def evaluate_metric(
    metric: MetricLike,
    logits: Float[Tensor, "batch d_vocab"],
    answer: Int[Tensor, "batch ..."],
    foil: Int[Tensor, "batch ..."],
    clean_logits: Float[Tensor, "batch d_vocab"] | None = None,
) -> Float[Tensor, " batch"]:
    """The chosen metric; a relative one needs the clean run's logits.

    OptionError where a user's own function gives something else than one number an example,
    through which gradients flow where they are wanted.
    """
    metric = Metric.of(metric)
    if metric.is_own and max(answer.ndim, foil.ndim) > 1:
        raise OptionError(
            f"the metric {metric} takes one answer and one foil an example; these pairs have sets"
        )
    given: tuple[Tensor, ...] = (logits.float(), answer, foil)
    if metric.relative:
        if clean_logits is None:
            raise ValueError(f"the metric {metric} compares with the clean run's logits")
        given = (*given, clean_logits)
    values = metric.load()(*given)
    if metric.is_own:
        _check_values(metric, values, logits)
    return values


def _check_values(metric: Metric, values: Any, logits: Float[Tensor, "batch d_vocab"]) -> None:
    """Hold what a user's function gave against what a metric is."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise OptionError(f"the metric {metric} gives no tensor of numbers, one an example")
    if values.shape != logits.shape[:1]:
        raise OptionError(
            f"the metric {metric} gives a tensor of shape {list(values.shape)} for "
            f"{len(logits)} examples, not one value an example"
        )
    if logits.requires_grad and not values.requires_grad:
        raise OptionError(f"the metric {metric} cannot be differentiated, which this method needs")
    if not bool(values.isfinite().all()):
        raise NumericalError(f"the metric {metric} is not a finite number for every example")


def _pick(values: Float[Tensor, "batch d_vocab"], token: Int[Tensor, "batch ..."]) -> Tensor:
    """The token's value, or the log of the summed exponentials of a set's."""
    if token.ndim == 1:
        return values.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    chosen = values.gather(-1, token.clamp(min=0))
    return chosen.masked_fill(token < 0, -torch.inf).logsumexp(-1)


def answer_probability(
    logits: Float[Tensor, "batch d_vocab"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Probability of the answer's first token."""
    return torch.exp(log_probability(logits, answer))
