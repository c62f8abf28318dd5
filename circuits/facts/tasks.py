"""Tasks that are no facts, as prompt pairs: indirect objects, later years, verbs that agree.

Each is a contrast: the model does the task where it prefers the answer to the foil. Pairs name the
spans that a role can be told by. Those that a tokenizer gives prompts of different length, or
answers that begin alike, are left out.

- IOI (Wang et al. 2022): two names, of which one acts; who receives? Corrupted, the other acts.
- GREATER_THAN (Hanna et al. 2023): a span of years ends after it began. Corrupted, it begins in
  the century's first year. Answers are all endings that are later, foils all that are not: of two
  digits where these are one token, else the next digit, whose ending might be either way left out.
- AGREEMENT (Linzen et al. 2016): the verb agrees with its noun and not with the one beside it.
  Corrupted, the noun has the other number.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from circuits.base.choices import Task
from circuits.base.errors import PromptError
from circuits.facts.pairs import PromptPair, encode_pair
from circuits.model.tokens import Tokenizer

_MOST_TRIED = 50
"""Candidates for each pair that is wanted."""
_NAMES = (
    *("Mary", "John", "Anna", "Tom", "Paul", "Laura", "David", "Sarah", "James", "Emma", "Peter"),
    *("Alice", "Mark", "Jane", "Robert", "Julia", "Daniel", "Kate", "Simon", "Lucy", "George"),
)
_MEETINGS = (
    "When {0} and {1} went to the {2}, {3} gave a {4} to",
    "After {0} and {1} had met at the {2}, {3} handed a {4} to",
    "While {0} and {1} were at the {2}, {3} brought a {4} to",
    "Since {0} and {1} shared a table in the {2}, {3} passed a {4} to",
)
_PLACES = ("store", "park", "school", "station", "garden", "library", "office", "market")
_THINGS = ("book", "drink", "letter", "ring", "map", "gift", "key", "flower")
_PERIODS = ("war", "siege", "trial", "voyage", "reign", "drought", "strike", "truce")
_YEARS = (
    "The {0} lasted from the year {1} to the year {2}",
    "It is known that the {0} went on from {1} to {2}",
    "The {0} that began in {1} came to its end in {2}",
)
_NOUNS = (
    *(("key", "keys"), ("book", "books"), ("boy", "boys"), ("car", "cars"), ("tree", "trees")),
    *(("letter", "letters"), ("student", "students"), ("doctor", "doctors"), ("road", "roads")),
    *(("house", "houses"), ("door", "doors"), ("friend", "friends"), ("teacher", "teachers")),
)
_BESIDE = ("near the {}", "behind the {}", "next to the {}", "that belonged to the {}")
_VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


def task_pairs(
    tokenizer: Tokenizer, task: Task | str, n: int, seed: int = 0, bos: bool | None = None
) -> list[PromptPair]:
    """Up to n different pairs of a task that the tokenizer can ask; PromptError for none."""
    task = Task.of(task)
    makers = {Task.IOI: _ioi, Task.GREATER_THAN: _greater_than, Task.AGREEMENT: _agreement}
    made: dict[PromptPair, None] = {}
    for pair in islice(makers[task](tokenizer, random.Random(seed)), _MOST_TRIED * n):
        if len(made) == n:
            break
        try:
            encode_pair(tokenizer, pair, bos)
        except PromptError:
            continue
        made[pair] = None
    if not made:
        raise PromptError(f"the tokenizer asks no pair of the task {task} in prompts of one length")
    return list(made)


def _ioi(tokenizer: Tokenizer, chance: random.Random) -> Iterator[PromptPair]:
    while True:
        pair = chance.sample(_NAMES, 2)
        words = (chance.choice(_MEETINGS), chance.choice(_PLACES), chance.choice(_THINGS))
        acts = chance.randrange(2)
        clean, corrupted = (
            words[0].format(*pair, words[1], pair[who], words[2]) for who in (acts, 1 - acts)
        )
        giver, other = pair[acts], pair[1 - acts]
        spans = (("IO", other, 1), ("S1", giver, 1), ("S2", giver, 2))
        yield PromptPair(clean, corrupted, other, giver, relation=str(Task.IOI), spans=spans)


def _greater_than(tokenizer: Tokenizer, chance: random.Random) -> Iterator[PromptPair]:
    whole = has_whole_endings(tokenizer)
    while True:
        template, period = chance.choice(_YEARS), chance.choice(_PERIODS)
        century, year = chance.randrange(11, 20), chance.randrange(11, 89)
        clean, corrupted = (
            template.format(period, f"{century}{begun:02d}", century) for begun in (year, 1)
        )
        later, earlier = year_ends(year, whole, first=2)
        yield PromptPair(
            clean,
            corrupted,
            later[0],
            earlier[0],
            relation=str(Task.GREATER_THAN),
            answers=later,
            foils=earlier,
            spans=(("start", f"{century}{year}", 1),),
            exact=True,
        )


def has_whole_endings(tokenizer: Tokenizer) -> bool:
    """Whether the last two digits of a year are one token."""
    return len(tokenizer.continuation("from 1741 to 17", "42", exact=True)) == 1


def year_ends(year: int, whole: bool, first: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Endings later than that of a year (0 to 99), and those that are not, from `first` on.

    Where they are not `whole` tokens, the next digit alone, without the one that might be either.
    """
    if whole:
        later = tuple(f"{each:02d}" for each in range(year + 1, 100))
        return later, tuple(f"{each:02d}" for each in range(first, year + 1))
    ten = year // 10
    return tuple(map(str, range(ten + 1, 10))), tuple(map(str, range(ten)))


def _agreement(tokenizer: Tokenizer, chance: random.Random) -> Iterator[PromptPair]:
    while True:
        noun, other = chance.sample(_NOUNS, 2)
        number, beside = chance.randrange(2), other[chance.randrange(2)]
        where = chance.choice(_BESIDE).format(beside)
        verbs = chance.choice(_VERBS)
        clean, corrupted = (f"The {noun[each]} {where}" for each in (number, 1 - number))
        yield PromptPair(
            clean,
            corrupted,
            verbs[number],
            verbs[1 - number],
            relation=str(Task.AGREEMENT),
            spans=(("noun", noun[number], 1), ("beside", beside, 1)),
        )
