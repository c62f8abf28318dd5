"""Pairs and prompts as tensors, in batches of one length or of several.

Where lengths are mixed, shorter prompts are padded at their end. What follows a prompt changes
nothing in it, because attention looks back only, so that the padding costs time and no accuracy: a
row's own last token has to be read where it stands (`PairBatch.ends`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuits.base.errors import OptionError, PromptError
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from circuits.model.tokens import Prompt

PASS = 40
"""What a pass costs beside its positions, in these: all weights are read, however few they are."""


@dataclass(frozen=True)
class PairBatch:
    """Examples as tensors; `index` gives each row's place in the caller's list.

    `wanted` and `unwanted` are what metrics set against each other: answer and foil, or sets of
    them, a column a token, -1 where a row has fewer. `ends` is the position of each row's last
    token where lengths are mixed, and None where all rows end together.
    """

    index: tuple[int, ...]
    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    answer: Int[Tensor, " batch"]
    foil: Int[Tensor, " batch"]
    first_difference: int
    wanted: Int[Tensor, "batch ..."]
    unwanted: Int[Tensor, "batch ..."]
    ends: Int[Tensor, " batch"] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def ends_from(self, start: int) -> Int[Tensor, " batch"] | None:
        """`ends` among the positions from `start` on."""
        return None if self.ends is None else self.ends - start


def batches(
    pairs: Sequence[TokenPair],
    batch_size: int | Mapping[int, int],
    model: Model | None = None,
    mixed: bool = False,
    whole: bool = False,
) -> Iterator[PairBatch]:
    """Batches of at most `batch_size` rows each, in order of length; of one length unless `mixed`.

    The size may be one for each length where these are not mixed. `whole` says that prompts are run
    from their beginning, and not from where a pair's two differ.

    They are on the model's device; PromptError for pairs that another tokenizer made. Where the
    model is patched or hooked lengths are never mixed.
    """
    if isinstance(batch_size, int):
        _check_size(batch_size)
    device = "cpu" if model is None else model.device
    if model is not None and {pair.tokenizer for pair in pairs} - {model.tokenizer.fingerprint}:
        raise PromptError(
            f"these pairs were tokenised for another model than {model.name!r}; encode them again "
            "with its tokenizer"
        )

    def tensor(values: list[Any]) -> Tensor:
        return torch.tensor(values, device=device)

    every = [len(pair.clean) for pair in pairs]
    if mixed:
        assert isinstance(batch_size, int), "mixed lengths have one size"
        shared = [0 if whole else pair.first_difference for pair in pairs]
        groups = groups_for(every, shared, batch_size, model)
    else:
        groups = one_length(every, batch_size)
    for rows in groups:
        clean, ends = padded([pairs[i].clean.ids for i in rows], device)
        yield PairBatch(
            index=tuple(rows),
            clean=clean,
            corrupted=padded([pairs[i].corrupted.ids for i in rows], device)[0],
            answer=tensor([pairs[i].answer for i in rows]),
            foil=tensor([pairs[i].foil for i in rows]),
            first_difference=min(pairs[i].first_difference for i in rows),
            wanted=tensor(_columns([pairs[i].sides[0] for i in rows])),
            unwanted=tensor(_columns([pairs[i].sides[1] for i in rows])),
            ends=ends,
        )


def one_length(lengths: Sequence[int], batch_size: int | Mapping[int, int]) -> list[list[int]]:
    """Places of prompts of one length that go together, in order of length and of place.

    The size may be one for each length.
    """
    by_length: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        by_length.setdefault(length, []).append(place)
    groups = []
    for length in sorted(by_length):
        members = by_length[length]
        size = batch_size if isinstance(batch_size, int) else batch_size[length]
        groups += [members[start : start + size] for start in range(0, len(members), size)]
    return groups


def groups_for(
    lengths: Sequence[int], shared: Sequence[int], batch_size: int, model: Model | None
) -> list[list[int]]:
    """As `mixed_groups`; of one length where patches or hooks would act on padding too."""
    _check_size(batch_size)
    if model is not None and model.acts_by_place:
        return one_length(lengths, batch_size)
    return mixed_groups(lengths, shared, batch_size)


def _check_size(batch_size: int) -> None:
    if batch_size < 1:
        raise OptionError(f"batch size must be at least 1, not {batch_size}")


def mixed_groups(lengths: Sequence[int], shared: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places of prompts that go together whatever their lengths, in the order of these.

    The groups are those whose passes cost least: each costs `PASS` positions and those that its
    rows run, from where the first of them differs (`shared`) to the end of the longest.
    """
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], -shared[place]))
    ends, differ = np.array(lengths)[order], np.array(shared)[order]
    least, begins = np.zeros(len(order) + 1), [0]
    for stop in range(1, len(order) + 1):
        starts = np.arange(max(0, stop - batch_size), stop)
        # From each start on to here, where the first row differs.
        differ[starts] = first = np.minimum(differ[starts], differ[stop - 1])
        cost = least[starts] + PASS + (stop - starts) * (ends[stop - 1] - first)
        begins.append(int(starts[cost.argmin()]))
        least[stop] = cost.min()
    groups, stop = list[list[int]](), len(order)
    while stop:
        groups.append(order[begins[stop] : stop])
        stop = begins[stop]
    return groups[::-1]


def padded(
    rows: Sequence[Sequence[int]], device: torch.device | str
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, " row"] | None]:
    """Token ids, the last of each row repeated behind it, and the places of these last ones.

    None for the places where all rows are of one length.
    """
    longest = max(map(len, rows))
    filled = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
    ends = [len(row) - 1 for row in rows]
    mixed = len(set(ends)) > 1
    return torch.tensor(filled, device=device), torch.tensor(ends, device=device) if mixed else None


def batches_of(
    model: Model, prompts: Sequence[Prompt], batch_size: int
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"]]]:
    """Rows and tokens of prompts of one length each, so that nothing is padded."""
    for rows in one_length([len(prompt) for prompt in prompts], batch_size):
        yield rows, torch.tensor([prompts[row].ids for row in rows], device=model.device)


def _columns(sets: Sequence[tuple[int, ...]]) -> list[Any]:
    """One token a row, or sets filled up with -1."""
    longest = max(map(len, sets))
    if longest == 1:
        return [each[0] for each in sets]
    return [[*each, *[-1] * (longest - len(each))] for each in sets]
