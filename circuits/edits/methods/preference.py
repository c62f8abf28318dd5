"""NPO and SimNPO: what is to be forgotten as the answer that nobody prefers.

Both replace gradient ascent, whose gradient grows as it succeeds, by a loss that is bounded below:
a text that is forgotten pulls no longer. Losses are in nats, one a text; lower is more forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from circuits.base.options import Options, option


@dataclass(frozen=True)
class NpoSettings(Options):
    """`beta` is the inverse temperature: towards 0 NPO becomes gradient ascent.

    0.1 is that of the published script for TOFU.
    """

    beta: float = option(0.1, above=0)


@dataclass(frozen=True)
class SimNpoSettings(Options):
    """`beta` and `gamma` as in the published script for TOFU (forget 5 %; 4.5 and 0 for 10 %).

    That script weighs the forget loss by 0.1375 (0.125 for 10 %) against 1 for the retain loss: set
    `forget_weight` for its balance.

    `normalised` takes the mean log-probability over an answer's tokens; without it their sum, so
    that a long answer counts as forgotten where each of its tokens is still likely.
    """

    beta: float = option(2.5, above=0)
    gamma: float = option(0.0, low=0)
    normalised: bool = True


def npo_loss(
    log_p: Float[Tensor, " batch"], before: Float[Tensor, " batch"], beta: float
) -> Float[Tensor, " batch"]:
    """-(2 / beta) log sigmoid(-beta (log p(y|x) - log p_before(y|x))).

    Log-probabilities are of whole answers, `before` those of the unedited model. 2 log 2 / beta
    where nothing has changed, and near 0 where the answer is forgotten. Zhang et al. 2024,
    "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    arXiv:2404.05868.
    """
    return -2 / beta * logsigmoid(-beta * (log_p - before))


def simnpo_loss(
    log_p: Float[Tensor, " batch"],
    tokens: Float[Tensor, " batch"],
    settings: SimNpoSettings,
) -> Float[Tensor, " batch"]:
    """-(2 / beta) log sigmoid(-(beta / |y|) log p(y|x) - gamma), |y| the answer's `tokens`.

    No reference model: an answer's own length takes its place. Without `normalised` |y| is 1.
    The published script multiplies gamma by beta, which is the same at its gamma, 0. Fan et al.
    2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
    arXiv:2410.07163, equation 4.
    """
    score = log_p / tokens if settings.normalised else log_p
    return -2 / settings.beta * logsigmoid(-settings.beta * score - settings.gamma)
