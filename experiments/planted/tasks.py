"""The programs of `kc bench locators`: small tasks whose circuits strain locators in known ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from experiments.planted.program import (
    ONE,
    Example,
    Head,
    Match,
    Mlp,
    Move,
    Program,
    Readout,
    Symbol,
    Unit,
    table,
)
from experiments.planted.wire import Build

COUNTRIES = ("France", "Japan", "Peru", "Norway", "Cuba", "Kenya")
CAPITALS = ("Paris", "Tokyo", "Lima", "Oslo", "Havana", "Nairobi")
LANGUAGES = ("French", "Japanese", "Spanish", "Norwegian", "Cuban", "Swahili")
NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn")
N = len(COUNTRIES)
SUBJECT, LAST = "subject", "last"
SUBJECTS = {word: (("name", j), (SUBJECT, 0)) for j, word in enumerate(COUNTRIES)}
"""A country sets its own symbol, and that it is one."""
FRAME: dict[str, tuple[Symbol, ...]] = {
    "The": (),
    "capital": (),
    "of": (),
    "is": ((LAST, 0),),
}
TO_SUBJECT = (Match(LAST, SUBJECT),)
USUAL = {"name": N, SUBJECT: 1, LAST: 1, "answer": N}
SAID = Readout({word: ("answer", j) for j, word in enumerate(CAPITALS)})


def _others(j: int) -> tuple[int, int]:
    return (j + 1) % N, (j + 2) % N


def _capitals() -> tuple[Example, ...]:
    """Every country against two others."""
    frame = "The capital of {} is"
    return tuple(
        Example(frame.format(COUNTRIES[j]), frame.format(COUNTRIES[k]), CAPITALS[j], CAPITALS[k])
        for j in range(N)
        for k in _others(j)
    )


def _chained(layer: int, read: str, write: str, turn: int = 0) -> Mlp:
    """A look-up from one register to another, each symbol to the next but `turn` - 1."""
    return table(layer, [([(read, j)], (write, (j + turn) % N)) for j in range(N)])


_recall = partial(Program, words=SUBJECTS | FRAME, readout=SAID, examples=_capitals())


def _mover() -> Program:
    return _recall(
        "mover",
        "one head moves the subject's symbol to the last word, which reads out as the answer",
        registers=USUAL,
        parts=(Head(1, 2, (Move("name", "answer"),), TO_SUBJECT),),
    )


def _lookup() -> Program:
    return _recall(
        "lookup",
        "an MLP looks the attribute up at the subject, a head moves it",
        registers=USUAL | {"attribute": N},
        parts=(
            _chained(0, "name", "attribute"),
            Head(1, 2, (Move("attribute", "answer"),), TO_SUBJECT),
        ),
    )


def _enrichment() -> Program:
    return _recall(
        "enrichment",
        "two MLPs enrich the subject one after the other, a late head extracts the attribute",
        registers=USUAL | {"kind": N, "attribute": N},
        parts=(
            _chained(0, "name", "kind", 1),
            _chained(1, "kind", "attribute", N - 1),
            Head(2, 1, (Move("attribute", "answer"),), TO_SUBJECT),
        ),
    )


def _chain() -> Program:
    registers = {"name": N, SUBJECT: 1, LAST: 1, **{f"step{i}": N for i in range(4)}, "answer": N}
    return _recall(
        "chain",
        "a head fetches the subject, then four MLPs hand it on at the last word",
        registers=registers,
        parts=(
            Head(0, 3, (Move("name", "step0"),), TO_SUBJECT),
            *(_chained(i, f"step{i}", f"step{i + 1}", 1) for i in range(3)),
            _chained(3, "step3", "answer", N - 3),
        ),
        n_layers=4,
    )


def _shared() -> Program:
    return _recall(
        "shared",
        "two heads, which in GQA share keys and values, move the same attribute",
        registers=USUAL,
        parts=tuple(Head(1, h, (Move("name", "answer", 0.5),), TO_SUBJECT) for h in (2, 3)),
        weakens=frozenset(
            edge for h in (2, 3) for edge in (f"input->a1.h{h}<v>", f"a1.h{h}->logits")
        ),
    )


def _decoys() -> Program:
    return _recall(
        "decoys",
        "a mover, beside heads and an MLP that carry the subject, loudly, to where nobody reads",
        registers=USUAL | {"unread": N, "unread-too": N},
        parts=(
            Head(0, 0, (Move("name", "unread", 2.0),), TO_SUBJECT),
            Head(0, 3, (Move("name", "unread-too", -2.0),), TO_SUBJECT),
            _chained(0, "unread", "unread-too"),
            Head(1, 2, (Move("name", "answer"),), TO_SUBJECT),
        ),
    )


def _negative() -> Program:
    return _recall(
        "negative",
        "a mover, and a later head that looks for what was said already and takes half of it back",
        registers=USUAL,
        parts=(
            Head(0, 1, (Move("name", "answer", 1.5),), TO_SUBJECT),
            Head(1, 2, (Move("name", "answer", -0.8),), (Match("answer", "name"),)),
        ),
        weakens=frozenset(
            ("a0.h1->a1.h2<q>", "input->a1.h2<k>", "input->a1.h2<v>", "a1.h2->logits")
        ),
    )


def _backup() -> Program:
    units = [
        Unit(((("spare", j), 1.0), (("answer", j), -1.0)), 0.5, ((("answer", j), 2.0),))
        for j in range(N)
    ]
    return _recall(
        "backup",
        "a mover, and a second one whose answer an MLP says where the first has not said it",
        registers=USUAL | {"spare": N},
        parts=(
            Head(0, 1, (Move("name", "answer"),), TO_SUBJECT),
            Head(1, 2, (Move("name", "spare"),), TO_SUBJECT),
            Mlp(1, tuple(units)),
        ),
        redundant=frozenset(("m1->logits",)),
        weakens=frozenset(("input->a0.h1<v>", "a0.h1->m1", "input->a1.h2<v>", "a1.h2->m1")),
    )


def _redundant() -> Program:
    """Each vote alone fills the ramp from 0.25 to 0.75, so that the second one adds nothing."""
    units = [
        Unit(((("votes", j), 1.0),), threshold, ((("answer", j), gain),))
        for j in range(N)
        for threshold, gain in ((0.25, 2.0), (0.75, -2.0))
    ]
    frame = "The capital of {} is"
    return Program(
        "redundant",
        "two movers vote, an MLP saturates: either of them suffices",
        USUAL | {"votes": N, "none": 1},
        SUBJECTS | FRAME | {"nowhere": ((SUBJECT, 0),)},
        (
            Head(0, 1, (Move("name", "votes"),), TO_SUBJECT),
            Head(1, 2, (Move("name", "votes"),), TO_SUBJECT),
            Mlp(1, tuple(units)),
        ),
        Readout({**SAID.words, "unknown": ("none", 0)}),
        tuple(
            Example(frame.format(country), frame.format("nowhere"), capital, "unknown")
            for country, capital in zip(COUNTRIES, CAPITALS, strict=True)
        ),
        redundant=frozenset(
            edge for head in ("a0.h1", "a1.h2") for edge in (f"input->{head}<v>", f"{head}->m1")
        ),
    )


HUM = ("hum", "counter-hum")
"""Opposite, so that a layer norm's mean tells nothing of them."""


def _norm(loud_first: bool) -> Program:
    """At the last word a loud noun's hum makes every norm's denominator nearly twice as large.

    The denominator's square is a sum of squares, which has hardly a slope where nothing hums.
    """
    loud, quiet, said = ("lion", "horn", "storm"), ("mouse", "leaf", "moon"), ("noisy", "calm")
    words: dict[str, tuple[Symbol, ...]] = {
        **dict.fromkeys(loud, ((SUBJECT, 0), ("loud", 0))),
        **dict.fromkeys(quiet, ((SUBJECT, 0),)),
    }
    units = (
        Unit((((ONE, 0), -1.0),), -0.82, ((("answer", 0), 5.0),)),
        Unit((((ONE, 0), 1.0),), 0.82, ((("answer", 1), 5.0),)),
    )
    pairs = [(f"The {one} is", f"The {other} is") for one in loud for other in quiet]
    return Program(
        "norm-loud" if loud_first else "norm-quiet",
        "a head writes a large vector that nobody reads; an MLP reads it off the norm's scale; the "
        f"answer is the {'loud' if loud_first else 'quiet'} one",
        {"loud": 1, SUBJECT: 1, LAST: 1, "hum": 1, "counter-hum": 1, "answer": 2},
        words | FRAME,
        (
            Head(2, 1, (Move("loud", "hum", 14.0), Move("loud", "counter-hum", -14.0)), TO_SUBJECT),
            Mlp(2, units, scaled_by=HUM),
        ),
        Readout({word: ("answer", j) for j, word in enumerate(said)}, scaled_by=HUM),
        tuple(
            Example(one, other, *said) if loud_first else Example(other, one, *said[::-1])
            for one, other in pairs
        ),
        weakens=frozenset(("a2.h1->logits",)),
    )


LABELS = ("capital", "language")
M = 4
"""Countries of the tasks with two relations."""
VALUES = (*CAPITALS[:M], *LANGUAGES[:M])


def _two_hop(name: str, text: str, strength: float) -> Program:
    """Two values, and a word that names the one asked for; it or the wanted value is exchanged."""
    words: dict[str, tuple[Symbol, ...]] = {
        "ask": (),
        "is": ((LAST, 0),),
        **{word: (("label", i), ("is-label", 0)) for i, word in enumerate(LABELS)},
        **{word: (("label-of", j // M), ("value", j)) for j, word in enumerate(VALUES)},
    }
    examples = []
    for j in range(M):
        k, other = (j + 1) % M, (j + 2) % M
        prompt = f"{CAPITALS[j]} {LANGUAGES[k]} ask {{}} is"
        changed = f"{CAPITALS[other]} {LANGUAGES[k]} ask capital is"
        both = [prompt.format(label) for label in LABELS]
        examples += [
            Example(both[0], both[1], CAPITALS[j], LANGUAGES[k]),
            Example(both[1], both[0], LANGUAGES[k], CAPITALS[j]),
            Example(both[0], changed, CAPITALS[j], CAPITALS[other]),
        ]
    return Program(
        name,
        text,
        {
            **{"label": 2, "is-label": 1, "label-of": 2, "value": 2 * M, LAST: 1},
            **{"asked": 2, "answer": 2 * M},
        },
        words,
        (
            Head(0, 1, (Move("label", "asked"),), (Match(LAST, "is-label"),)),
            Head(
                1,
                2,
                (Move("value", "answer"),),
                (Match("asked", "label-of", strength),),
                rest=strength / 2,
            ),
        ),
        Readout({word: ("answer", j) for j, word in enumerate(VALUES)}),
        tuple(examples),
    )


def _mixture() -> Program:
    """Relation and subject meet at the last word, where an MLP looks the pair of them up."""
    words: dict[str, tuple[Symbol, ...]] = {
        **{word: SUBJECTS[word] for word in COUNTRIES[:M]},
        **{word: (("label", i), ("is-label", 0)) for i, word in enumerate(LABELS)},
        **{"The": (), "of": (), "is": ((LAST, 0),)},
    }
    rows = [([("asked", i), ("who", j)], ("answer", i * M + j)) for i in range(2) for j in range(M)]
    examples = []
    for i, label in enumerate(LABELS):
        for j in range(M):
            k = (j + 1) % M
            here = f"The {label} of {COUNTRIES[j]} is"
            examples += [
                Example(
                    here,
                    f"The {label} of {COUNTRIES[k]} is",
                    VALUES[i * M + j],
                    VALUES[i * M + k],
                ),
                Example(
                    here,
                    f"The {LABELS[1 - i]} of {COUNTRIES[j]} is",
                    VALUES[i * M + j],
                    VALUES[(1 - i) * M + j],
                ),
            ]
    return Program(
        "mixture",
        "a relation head and a mover bring relation and subject together, an MLP knows the pair",
        {
            **{"name": N, "label": 2, "is-label": 1, SUBJECT: 1, LAST: 1},
            **{"asked": 2, "who": N, "answer": 2 * M},
        },
        words,
        (
            Head(0, 1, (Move("label", "asked"),), (Match(LAST, "is-label"),)),
            Head(1, 2, (Move("name", "who"),), TO_SUBJECT),
            table(1, rows),
        ),
        Readout({word: ("answer", j) for j, word in enumerate(VALUES)}),
        tuple(examples),
    )


TOKENS = {word: (("token", j),) for j, word in enumerate(NAMES)}


def _induction() -> Program:
    """A B ... A is followed by B; exchanged is what went before, what followed, or who is asked."""
    examples = []
    for j in range(N):
        a, b, c, d = (NAMES[(j + i) % N] for i in range(4))
        clean = f"{a} {b} {c} {d} {a}"
        examples += [
            Example(clean, f"{c} {b} {a} {d} {a}", b, d),
            Example(clean, f"{a} {d} {c} {b} {a}", b, d),
            Example(clean, f"{a} {b} {c} {d} {c}", b, d),
        ]
    return Program(
        "induction",
        "a previous-token head tells each word what stood before it, an induction head finds it",
        {"token": N, "previous": N, "answer": N},
        TOKENS,
        (
            Head(0, 1, (Move("token", "previous"),), offset=1),
            Head(1, 2, (Move("token", "answer"),), (Match("token", "previous", 8.0),)),
        ),
        Readout({word: ("answer", j) for j, word in enumerate(NAMES)}),
        tuple(examples),
    )


def _positional() -> Program:
    return Program(
        "positional",
        "a head copies the word three places back, by its place alone",
        {"token": N, "answer": N},
        TOKENS | {"and": (), "then": ()},
        (Head(1, 1, (Move("token", "answer"),), offset=3),),
        Readout({word: ("answer", j) for j, word in enumerate(NAMES)}),
        tuple(
            Example(
                f"{NAMES[(j + 3) % N]} {NAMES[j]} and {NAMES[(j + 4) % N]} then",
                f"{NAMES[(j + 3) % N]} {NAMES[k]} and {NAMES[(j + 4) % N]} then",
                NAMES[j],
                NAMES[k],
            )
            for j in range(N)
            for k in _others(j)
        ),
    )


_GPT2, _LLAMA, _GQA = Build
_HOP = "a relation head fetches the relation, which is the query by which a mover finds its value"
PROGRAMS: Sequence[tuple[Program, tuple[Build, ...]]] = (
    (_mover(), (_GPT2, _GQA)),
    (_lookup(), (_GPT2, _GQA)),
    (_enrichment(), (_LLAMA, _GQA)),
    (_chain(), (_GPT2, _LLAMA)),
    (_shared(), (_GPT2, _GQA)),
    (_decoys(), (_GPT2, _LLAMA)),
    (_mixture(), (_GPT2, _GQA)),
    (_two_hop("two-hop", _HOP, 9.0), (_GPT2, _GQA)),
    (_two_hop("saturated", f"{_HOP}, so sharply that attention is 1", 40.0), (_GPT2, _LLAMA)),
    (_induction(), (_GPT2, _LLAMA)),
    (_positional(), (_GPT2, _LLAMA)),
    (_negative(), (_GPT2, _GQA)),
    (_backup(), (_GPT2, _LLAMA)),
    (_redundant(), (_GPT2, _GQA)),
    (_norm(True), (_GPT2,)),
    (_norm(False), (_GPT2,)),
)
"""Programs and what they are compiled to; the norm's needs thresholds that no norm scales."""
TRAINED = (_mover(), _lookup(), _enrichment())
"""Programs that a model is also trained to do."""
