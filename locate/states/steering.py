"""Steer and patch a model by hand: its parts set to a value, to another prompt's, or pushed along.

What a user writes, names of parts, words of a prompt, plain numbers, becomes patches here
(`circuits.model.patches`). Setting a part to zero or to another prompt's value is activation
patching (Vig et al. 2020); adding a direction to the residual stream is steering by activation
addition (Turner et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import batches_of
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.patches import LAST, Part, Patch, read_parts, with_patches
from circuits.model.tokens import Prompt

Places = int | np.integer | str | Sequence[int] | np.ndarray | range | None
"""Positions: one, several, the words that stand there, or None for all."""


@contextmanager
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
) -> Iterator[Model]:
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
    if not isinstance(model, Model):
        raise OptionError("what is patched is a loaded model: load it first")
    named = [parts] if isinstance(parts, str) else list(parts)
    if not named:
        raise OptionError("name at least one part to patch")
    chosen = [Part.of(model, each) for each in named]
    ways = {"to": to, "source": source, "add": add}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise OptionError("give one of `to`, `source` and `add`: what the parts are patched with")
    if factor != 1.0 and add is None:
        raise OptionError("`factor` is of what is added; give `add`")
    if source is None and source_at is not None:
        raise OptionError("`source_at` is a place in `source`; give that prompt")
    places = _places(model, at, prompt, "prompt")
    if source is not None:
        values = _of_source(model, chosen, source, places, source_at, at)
        places = tuple(range(len(values[0]))) if places is None else places
    else:
        scaled = [_vector(model, part, to if add is None else add, places) for part in chosen]
        values = [value * factor for value in scaled]
    patches = [
        Patch(part, value, places, adds=add is not None)
        for part, value in zip(chosen, values, strict=True)
    ]
    for patch in patches:
        if not bool(torch.isfinite(patch.value).all()):
            raise NumericalError(f"the value for {patch.part.name} is not finite")
    with with_patches(model, patches):
        yield model


@alone
@torch.no_grad()
def activations(
    model: Model,
    prompts: Sequence[str],
    part: str,
    at: int | np.integer | str | Sequence[str] = LAST,
    batch_size: int = 16,
) -> Float[np.ndarray, "prompt width"]:
    """What a part writes at one place of each prompt; see `kc.activations`."""
    if not prompts:
        raise OptionError("there are no prompts to run")
    chosen = Part.of(model, part)
    encoded = [model.tokenizer.encode(prompt) for prompt in prompts]
    words = [at] * len(encoded) if isinstance(at, int | np.integer | str) else list(at)
    if len(words) != len(encoded):
        raise OptionError(f"{len(encoded)} prompts need as many places, not {len(words)}")
    places = [_one_place(prompt, word) for prompt, word in zip(encoded, words, strict=True)]
    found = np.empty((len(encoded), chosen.width(model)), dtype=np.float32)
    for rows, tokens in batches_of(model, encoded, batch_size):
        (value,) = read_parts(model, tokens, [chosen])
        picked = torch.tensor([places[row] for row in rows], device=value.device)
        own = value[torch.arange(len(rows), device=value.device), picked]
        found[rows] = own.float().cpu().numpy()
    return found


def _one_place(prompt: Prompt, at: int | np.integer | str) -> int:
    """A position of a prompt: a number, from the end if negative, or the last token of a text."""
    place = prompt.span_of(at).last if isinstance(at, str) else at
    if isinstance(place, bool) or not -len(prompt) <= place < len(prompt):
        raise OptionError(
            f"there is no position {at} in the {len(prompt)} tokens of {prompt.text!r}"
        )
    return int(place) % len(prompt)


def _places(model: Model, at: Places, text: str | None, name: str) -> tuple[int, ...] | None:
    """Positions as a patch takes them; words stand in the prompt `text`."""
    if at is None:
        return None
    if isinstance(at, str):
        if text is None:
            raise OptionError(f"`at` is {at!r}; give the `{name}` in which these words stand")
        span = model.tokenizer.encode(text).span_of(at)
        return tuple(range(span.start, span.stop))
    found = (at,) if isinstance(at, int | np.integer) else tuple(at)
    whole = all(
        isinstance(place, int | np.integer) and not isinstance(place, bool) for place in found
    )
    if not whole or not found or (found != (LAST,) and min(found) < 0):
        raise OptionError(
            "`at` is a position counted from the prompt's beginning, several, words of `prompt`, "
            f"or -1 for the last token of every prompt, not {at!r:.60}"
        )
    if len(set(found)) != len(found) or max(found) >= model.max_tokens:
        raise OptionError(f"positions are different ones below {model.max_tokens}, not {at!r:.60}")
    return tuple(map(int, found))


def _of_source(
    model: Model,
    parts: Sequence[Part],
    source: str,
    places: tuple[int, ...] | None,
    source_at: Places,
    at: Places,
) -> list[Float[Tensor, "place width"]]:
    """What parts write in another prompt, at its own places or at those that are patched."""
    encoded = model.tokenizer.encode(source)
    taken = places if source_at is None else _places(model, source_at, source, "source")
    if source_at is None and isinstance(at, str) and at in source:
        taken = _places(model, at, source, "source")
    taken = tuple(range(len(encoded))) if taken is None else taken
    if places is not None and len(taken) != len(places):
        raise OptionError(
            f"{len(places)} positions are patched with what stands at {len(taken)} of {source!r}; "
            "`source_at` chooses as many"
        )
    if max(taken) >= len(encoded):
        raise OptionError(f"{source!r} has {len(encoded)} tokens, and no position {max(taken)}")
    tokens = torch.tensor([encoded.ids], device=model.device)
    return [value[0, list(taken)] for value in read_parts(model, tokens, parts)]


def _vector(
    model: Model, part: Part, given: Any, places: tuple[int, ...] | None
) -> Float[Tensor, "*places width"]:
    """A number, a vector or one a position, as a tensor."""
    width = part.width(model)
    try:
        value = torch.as_tensor(given, dtype=torch.float32).detach().to(model.device, model.dtype)
    except (TypeError, ValueError, RuntimeError):
        raise OptionError(f"{part.name} takes numbers, not a {type(given).__name__}") from None
    if value.ndim == 0:
        return value.expand(width).clone()
    wanted = [(width,)] if places is None else [(width,), (len(places), width)]
    if tuple(value.shape) not in wanted:
        shapes = " or ".join(str(list(shape)) for shape in wanted)
        raise OptionError(
            f"{part.name} takes a number or values of shape {shapes}, not {list(value.shape)}"
        )
    return value
