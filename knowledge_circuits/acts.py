"""The verbs of the door that act on a model by hand and take a model by name: read, exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from circuits.base.choices import Metric, MetricLike
from circuits.model.model import Model
from knowledge_circuits.options import ONE_SIDE, split, takes
from knowledge_circuits.values import loaded_model
from locate.idle import PROMPTS_AS_THEY_ARE
from locate.interchange import Interchange
from locate.options import Source


def activations(
    model: Model | str,
    prompts: str | Sequence[str],
    part: str,
    at: int | str | Sequence[str] = -1,
) -> np.ndarray:
    """What a part holds at one place of each prompt, a row a prompt: what `patched` sets.

    `part` is named as in `patched`. `at` is a position, from the end if negative, or words, of
    which the last token counts: the same in every prompt, or a list of one each.

    >>> found = activations("facts-gpt2", ["The capital of France is"], "resid3", at="France")
    >>> found.shape
    (1, 160)
    """
    from locate.states.steering import activations as read

    return read(loaded_model(model), [prompts] if isinstance(prompts, str) else prompts, part, at)


@takes(Source, fixed=ONE_SIDE)
def interchange(
    model: Model | str,
    base: Any,
    source: str | Sequence[str] | None,
    parts: str | Sequence[str],
    *,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    batch_size: int = 16,
    resamples: int = 1000,
    **options: Any,
) -> Interchange:
    """Run base prompts with some parts as in the source prompts' runs, and see what they answer.

    `base` and `source` are prompts of as many tokens, one or several; answer and foil are then what
    the model says to each. Or `source` is None and `base` is what `discover` takes, a relation or
    prompt pairs: clean prompts are the base, corrupted ones the source. `parts` are heads, MLPs and
    edges (`a5.h1->logits`). The result has `logits`, `rows()` a pair, and `effect`, `moved` and
    `flipped` with 95 % intervals over facts.

    >>> model = load("facts-gpt2", device="cpu")
    >>> base, source = "The capital of France is", "The capital of Japan is"
    >>> parts = [f"m{layer}" for layer in range(4)]
    >>> found = interchange(model, base, source, parts)
    >>> found.effect.value < 0
    True
    """
    from locate.asked import examples_of
    from locate.interchange import interchange as exchange
    from locate.interchange import said_pairs

    asked, _, given = split(options, Source, fixed=ONE_SIDE)
    chosen = [parts] if isinstance(parts, str) else list(parts)
    loaded = loaded_model(model)
    with loaded.alone():
        if source is None:
            pairs = examples_of(loaded, base, batch_size, given=given, **asked).pairs
        else:
            given.refuse(PROMPTS_AS_THEY_ARE)
            bases, sources = ([x] if isinstance(x, str) else list(x) for x in (base, source))
            pairs = tuple(said_pairs(loaded, bases, sources, asked.get("bos")))
        return exchange(
            loaded,
            pairs,
            chosen,
            metric=metric,
            batch_size=batch_size,
            resamples=resamples,
            seed=asked.get("seed", 0),
        )
