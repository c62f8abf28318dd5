"""The verbs of the door that act on a model by hand: patch, steer, read, exchange."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from circuits.base.choices import Metric, MetricLike
from circuits.base.errors import OptionError
from circuits.model.model import Model
from knowledge_circuits.options import split, takes
from knowledge_circuits.values import loaded_model
from locate.interchange import Interchange
from locate.options import Source
from locate.states.steering import Places


def patched(
    model: Model,
    parts: str | Sequence[str],
    *,
    to: Any = None,
    source: str | None = None,
    add: Any = None,
    factor: float = 1.0,
    at: Places = None,
    prompt: str | None = None,
    source_at: Places = None,
) -> AbstractContextManager[Model]:
    """Patch or steer parts of a model within a `with` block; afterwards it is as before.

    `parts` are heads (`a5.h1`, before the output matrix), MLPs (`m3`) and the residual stream after
    a layer (`resid3`). They are set `to` a number, a vector or one a position; or to what they hold
    for the prompt `source`; or `add` a vector, times `factor`, to what they hold.

    `at` says where: a position counted from the beginning, several, -1 for the last token of
    whatever is run, or the words of `prompt` that stand there; everywhere if not given, with
    `source` at all its positions. `source_at` are the source's own positions or words, by default
    the same.

    Whatever runs in the block runs on the patched model: `ask`, `discover`, `evaluate`, `trace`.
    Blocks may be nested, and what is inside acts last. Edits are made outside. OptionError, before
    anything is touched, for a part, a value or a place that the model does not have.

    >>> model = load("facts-gpt2", device="cpu")
    >>> with patched(model, [f"a6.h{head}" for head in range(8)], to=0):
    ...     model.ask("The capital of France is", k=1).tokens == (' Paris',)
    False
    >>> with patched(model, "resid2", source="The capital of Japan is", at="France",
    ...              prompt="The capital of France is", source_at="Japan"):
    ...     model.ask("The capital of France is", k=1).tokens
    (' Tokyo',)
    """
    from locate.states.steering import patched as with_parts

    given = {"to": to, "source": source, "add": add, "factor": factor}
    return with_parts(model, parts, **given, at=at, prompt=prompt, source_at=source_at)


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


@takes(Source)
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
    `flipped` with 95 % intervals over pairs.

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

    asked, _ = split({"hold_out": 0.0, **options}, Source)
    chosen = [parts] if isinstance(parts, str) else list(parts)
    loaded = loaded_model(model)
    with loaded.alone():
        if source is None:
            pairs = examples_of(loaded, base, batch_size, **asked).pairs
        elif set(options) - {"bos"}:
            raise OptionError(f"prompts as they are take no {min(set(options) - {'bos'})!r}")
        else:
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
