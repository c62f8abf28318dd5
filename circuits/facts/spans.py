"""Which span of a prompt a token is in: subject, relation, last token, others, or the user's own.

    last      the last token, always and alone: only it reaches the logits
    NAME      a span that the pair names (`PromptPair.spans`), the first of them that holds a token
    subject   the subject's tokens
    relation  the question's other words: neither BOS nor what stands before the question
    others    all tokens left

Positions are the same in both prompts of a pair, which have as many tokens. Where scores and
circuits tell spans apart, the wiring holds their names (`circuits.model.wiring`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from circuits.base.errors import OptionError
from circuits.facts.batches import PairBatch
from circuits.facts.pairs import SUBJECT, TokenPair
from circuits.model.wiring import LAST, OTHERS, check_spans

RELATION = "relation"
AUTO = "auto"


def named_spans(pairs: Sequence[TokenPair], asked: str) -> tuple[str, ...]:
    """The names of the spans that these pairs tell apart, `last` and `others` at the end.

    `asked` is `auto` (subject and relation where there are subjects, and all spans that the pairs
    name) or names with commas between. OptionError for a name that no pair has.
    """
    own = list(dict.fromkeys(name for pair in pairs for name, _ in pair.spans))
    reserved = [name for name in own if name in (LAST, OTHERS)]
    if reserved:
        raise OptionError(
            f"the pairs name a span {reserved[0]!r}, which is a span of every prompt; call it "
            "otherwise"
        )
    subjects = any(pair.subject is not None for pair in pairs)
    known = dict.fromkeys([*([SUBJECT, RELATION] if subjects else []), *own])
    names = list(known)
    if asked != AUTO:
        names = [name for name in asked_names(asked) if name not in (LAST, OTHERS)]
        if missing := [name for name in names if name not in known]:
            there = ", ".join([*known, LAST, OTHERS])
            raise OptionError(f"`spans`: no pair has a span {missing[0]!r}; there are {there}")
    if not names:
        raise OptionError(
            "`spans`: the pairs name neither a subject nor spans, so that there is nothing to tell "
            'apart; add "subject" or "spans", such as {"IO": ["Mary", 1]}, to their lines'
        )
    return (*names, LAST, OTHERS)


def asked_names(asked: str) -> tuple[str, ...]:
    """Names from a text with commas between; OptionError for such as no span can have."""
    names = tuple(name.strip() for name in asked.split(","))
    if len(set(names)) < len(names):
        raise OptionError(f"`spans` {asked!r} name one span twice")
    check_spans((*(name for name in names if name not in (LAST, OTHERS)), LAST, OTHERS))
    return names


def span_places(pair: TokenPair, spans: Sequence[str]) -> Int[np.ndarray, " pos"]:
    """For each position the place of its span in `spans`, which `named_spans` gave."""
    places = np.full(len(pair.clean), spans.index(OTHERS))
    if RELATION in spans and pair.subject is not None:
        places[max(pair.start, int(pair.clean.bos)) :] = spans.index(RELATION)
    marked = list(pair.spans)
    if pair.subject is not None:
        marked.append((SUBJECT, pair.subject))
    for name, span in reversed(marked):  # the first named wins
        if name in spans:
            places[span.start : span.stop] = spans.index(name)
    places[-1] = spans.index(LAST)
    return places


def batch_places(
    pairs: Sequence[TokenPair], batch: PairBatch, spans: Sequence[str]
) -> Int[np.ndarray, "batch pos"] | None:
    """The places of a batch's rows, which are of these pairs; None where there are no spans.

    What pads a row is in the span of its last token.
    """
    if not spans:
        return None
    longest, rows = batch.clean.shape[1], [span_places(pairs[row], spans) for row in batch.index]
    return np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])


def check_told_apart(pairs: Sequence[TokenPair], spans: Sequence[str]) -> None:
    """OptionError where none of the pairs has any of the spans beside `last` and `others`."""
    ends = [place for place, name in enumerate(spans) if name in (LAST, OTHERS)]
    if spans and all(np.isin(span_places(pair, spans), ends).all() for pair in pairs):
        named = ", ".join(name for name in spans if name not in (LAST, OTHERS))
        raise OptionError(
            f"the circuit tells the spans {named} apart, and no pair has one of them: give pairs "
            "with a subject or with these spans"
        )
