"""The measures of KnowUnDo and TOFU, from numbers alone.

KnowUnDo: Tian et al. 2024, "To Forget or Not? Towards Practical Knowledge Unlearning for Large
Language Models", arXiv:2407.01920. TOFU: Maini et al. 2024, "TOFU: A Task of Fictitious Unlearning
for LLMs", arXiv:2401.06121. Log-probabilities are natural.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# --- texts ----------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """A text's words for ROUGE: runs of letters and digits in lower case; no stemming."""
    return re.findall(r"[^\W_]+", text.lower())


def rouge_l_recall(said: str, reference: str) -> float:
    """Longest common subsequence of words, as a share of the reference's words (0 to 1).

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries". TOFU's
    script stems the words first. NaN for a reference without words.
    """
    a, b = words(said), words(reference)
    if not b:
        return float("nan")
    longest = [0] * (len(b) + 1)
    for word in a:
        above = longest[:]
        for place, other in enumerate(b, start=1):
            longest[place] = (
                above[place - 1] + 1 if word == other else max(above[place], longest[place - 1])
            )
    return longest[-1] / len(b)


# --- TOFU ----------------------------------------------------------------------------------------


def probability(mean_log_p: float) -> float:
    """P(a|q)^(1/|a|), from the answer's mean log-probability a token (Maini et al.)."""
    return float(np.exp(mean_log_p))


def probability_among(mean_log_p: float, perturbed: Sequence[float]) -> float:
    """The answer's P^(1/|a|) as a share of that of all answers, right and wrong.

    Maini et al. score real authors and world facts so, as questions with choices; the lengths'
    roots are those of the published script.
    """
    right = probability(mean_log_p)
    return right / (right + sum(map(probability, perturbed)))


def truth_ratio(paraphrased: float, perturbed: Sequence[float]) -> float:
    """Mean over wrong answers of P^(1/|a|), over that of the paraphrased right one.

    The truth ratio of Maini et al. At 1 the model cannot tell them apart, towards 0 it knows the
    answer.
    """
    return float(np.mean(np.exp(perturbed)) / np.exp(paraphrased))


def truth_ratio_script(paraphrased: float, perturbed: Sequence[float]) -> float:
    """The truth ratio of the published script (locuslab/tofu, aggregate_eval_stat.py).

    Its mean over the wrong answers is of log-probabilities: geometric, where the paper has the
    arithmetic one, and so never above `truth_ratio`. The script stores the inverse, which changes
    no test.
    """
    return float(np.exp(np.mean(perturbed) - paraphrased))


def truthful(ratio: float) -> float:
    """max(0, 1 - truth ratio): the part of model utility that is higher for a better model.

    NaN of a row without a truth ratio.
    """
    return float(np.maximum(0.0, 1.0 - ratio))


def forget_quality(unlearned: Sequence[float], retained: Sequence[float]) -> float:
    """p of the two-sample Kolmogorov-Smirnov test between truth ratios on the forget set.

    `retained` are those of a model that never saw the set; high p: the two cannot be told apart.
    The forget quality of Maini et al. NaN where one of the samples is empty.
    """
    a, b = (np.asarray(x, dtype=float) for x in (unlearned, retained))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return float(stats.ks_2samp(a, b).pvalue) if len(a) and len(b) else float("nan")


def model_utility(parts: Sequence[float]) -> float:
    """Harmonic mean of shares: probability, ROUGE-L recall and `truthful` on each set to keep.

    Maini et al. have nine parts: three sets. 0 where one is 0, NaN where there is none.
    """
    values = np.asarray(parts, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan")
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())


# --- a set's scores ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Values of a set's rows, in order; NaN where a row has none."""

    accuracy: tuple[float, ...]
    mean_log_p: tuple[float, ...]
    tokens: tuple[int, ...]
    rouge: tuple[float, ...]
    probability: tuple[float, ...] = ()
    truth_ratio: tuple[float, ...] = ()
    truth_ratio_script: tuple[float, ...] = ()


def utility(sets: Mapping[str, Scored], script: bool = False) -> float:
    """`model_utility` of the sets to keep; with `script` by the published script's truth ratio."""
    parts = []
    for each in sets.values():
        ratios = each.truth_ratio_script if script else each.truth_ratio
        columns = (each.probability, each.rouge, [truthful(ratio) for ratio in ratios])
        parts += [float(np.nanmean(values)) for values in columns if np.isfinite(values).any()]
    return model_utility(parts)
