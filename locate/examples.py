"""Which prompt pairs a question is answered on: from the atlas, a fact file or a pair file.

1. Facts become questions, and the model is asked them until there are enough for the pairs that
   are wanted; what it does not know is left out. Corrupted prompts ask the same of another subject,
   or something else of the same subject.
2. The known subjects are dealt into two groups. Pairs are made within each group, so that the
   circuit is found on one group of subjects and can be tested on another: no subject, clean or
   corrupted, stands on both sides.
A pair file is taken as it is, on one side, unless a share of it is asked to be held out: then no
subject stands on both sides, or no prompt, or a note says that neither can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from circuits.base.choices import Corruption, Known, Task
from circuits.base.errors import NothingFoundError, OptionError, PromptError
from circuits.base.writing import to_json
from circuits.facts.batches import batches
from circuits.facts.facts import Relation, relation
from circuits.facts.knowledge import KnownLike, place_among
from circuits.facts.loaders import load_facts
from circuits.facts.pair_files import read_pair_file
from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs
from circuits.facts.questions import KnowledgeCheck
from circuits.facts.tasks import task_pairs
from circuits.model.holding import alone
from circuits.model.metrics import best_rank, logit_difference
from circuits.model.model import Model
from locate.asking import Collected
from locate.chat import chat_pair
from locate.options import Source
from locate.seen import Finders, held_apart, without

PARTNERS = (
    "a fact needs another known one of its relation, with as many tokens in its subject: add such"
)
LINKED = (
    "{}: prompts link every pair with every other, so held-out pairs share prompts with those that "
    "found the circuit"
)
TASK_PAIRS = 32
"""Pairs of a task on each side unless told otherwise."""


@dataclass(frozen=True)
class Examples:
    """Pairs for finding a circuit, pairs for testing it, and what became of all other facts.

    `corrupt` says what the corrupted prompts ask; None of a pair file, which does not say.
    """

    name: str
    pairs: tuple[TokenPair, ...]
    held_out: tuple[TokenPair, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    corrupt: Corruption | None = None

    @property
    def bos(self) -> bool:
        """Whether prompts begin with the BOS token."""
        return self.pairs[0].clean.bos

    @property
    def fingerprint(self) -> str:
        """sha256 of the prompts, answers and foils of the pairs that find the circuit."""
        return sha256(as_jsonl(self.pairs).encode()).hexdigest()


def check_readable(source: Source) -> None:
    """Read the source's files, so that a mistake in them is found before a model is loaded."""
    _check_asked(source)
    if source.pairs is not None:
        read_pair_file(source.pairs)
    elif source.task is None:
        relations_of(source)


@alone
def collect(
    model: Model,
    source: Source,
    batch_size: int = 32,
    known: KnowledgeCheck | None = None,
    *,
    relations: Sequence[Relation] | None = None,
    pairs: Sequence[PromptPair] | None = None,
    avoid: Finders | None = None,
) -> Examples:
    """The pairs of a source for a model; PromptError where none can be made, saying why.

    `known` are the model's answers, where the source's questions have been asked before.
    `relations` or `pairs` are those of the source, where they are at hand; nothing is read then.
    `avoid` are subjects that no pair may ask about, on either side.
    """
    _check_asked(source)
    if source.task is not None:
        return _from_task(model, source, source.task, batch_size, avoid)
    if source.pairs is not None:
        return _from_pairs(model, source, source.pairs, batch_size, pairs, avoid)
    asked = relations_of(source) if relations is None else relations
    if avoid is not None:
        asked = without(asked, avoid.names)
        if not any(relation.facts for relation in asked):
            raise PromptError(f"every subject of {source.name!r} had a part in finding the circuit")
    found = Collected(model, source, asked, batch_size, every=relations)
    sides, notes = found.paired(known)
    if not sides[0].pairs:
        reasons = [sides[0].describe(), *found.told()]
        if sides[0].unpaired and source.corrupt != Corruption.RELATION:
            reasons.append(PARTNERS)
        raise PromptError(
            f"{model.name!r} gives no prompt pairs for {source.name!r}: {'; '.join(reasons)}"
        )
    encoded = [tuple(encode_pairs(model.tokenizer, each.pairs, source.bos)) for each in sides]
    held_out = encoded[1] if len(encoded) > 1 else ()
    if found.is_poor:
        notes = (*notes, "; ".join(found.told()))
    return Examples(source.name, encoded[0], held_out, found.counts(sides), notes, source.corrupt)


def relations_of(source: Source) -> list[Relation]:
    """The relations that a source asks about; OptionError where a fact file lacks the named one."""
    if source.facts is None:
        return [relation(source.relation or "")]
    relations = load_facts(source.facts)
    if source.relation is None:
        return relations
    chosen = [each for each in relations if each.name == source.relation]
    if not chosen:
        names = ", ".join(each.name for each in relations[:8])
        more = f" and {len(relations) - 8} more" if len(relations) > 8 else ""
        raise OptionError(
            f"{source.facts} has no relation {source.relation!r}; it has {names}{more}"
        )
    return chosen


def _check_asked(source: Source) -> None:
    if not source.asks:
        raise OptionError("say what to ask: a `relation`, `facts` or `pairs`")


def as_jsonl(pairs: Sequence[TokenPair]) -> str:
    """The pairs as lines of a `--pairs` file."""
    return "".join(to_json(pair.text.as_dict()) + "\n" for pair in pairs)


# --- pair files ----------------------------------------------------------------------------------


def _from_task(
    model: Model, source: Source, task: Task, batch_size: int, avoid: Finders | None
) -> Examples:
    """Pairs of a task, half of them held out unless told otherwise."""
    limit = source.n_pairs or TASK_PAIRS
    apart = 0.5 if source.hold_out is None else source.hold_out
    source = replace(source, hold_out=apart, n_pairs=limit)
    made = task_pairs(
        model.tokenizer, task, (4 if source.known_only else 2) * limit, source.seed, source.bos
    )
    return _from_pairs(model, source, Path(task), batch_size, made, avoid)


def _from_pairs(
    model: Model,
    source: Source,
    path: Path,
    batch_size: int,
    at_hand: Sequence[PromptPair] | None,
    avoid: Finders | None,
) -> Examples:
    if source.chat:
        chosen = read_pair_file(path).texts(model.tokenizer) if at_hand is None else at_hand
        at_hand = [chat_pair(model.tokenizer, pair, source.bos) for pair in chosen]
    told: tuple[str, ...] = ()
    if at_hand is None:
        lines, told = read_pair_file(path).encoded(model.tokenizer, source.bos)
    else:
        lines = encode_pairs(model.tokenizer, at_hand, source.bos)
    pairs = list(dict.fromkeys(lines))  # the same pair twice is one observation
    if avoid is not None:
        pairs = [pair for pair in pairs if not avoid.had_part(pair.text)]
        if not pairs:
            raise PromptError(f"every pair of {path} had a part in finding the circuit")
    known = recalled(model, pairs, batch_size, source.known)
    counts = {"lines": len(pairs), "known": sum(known), "unknown": len(pairs) - sum(known)}
    if source.known_only:
        pairs = [pair for pair, is_known in zip(pairs, known, strict=True) if is_known]
        if not pairs:
            raise PromptError(
                f"{path}: {model.name!r} knows none of its {len(known)} answers; "
                "without `known_only` it takes them all the same"
            )
    apart = round((source.hold_out or 0.0) * len(pairs))
    if source.hold_out and not apart:
        raise NothingFoundError(
            f"`hold_out` {source.hold_out} of {len(pairs)} pairs holds out none; give more pairs, "
            "or `hold_out` 0"
        )
    if apart == len(pairs):
        raise NothingFoundError(f"`hold_out` {source.hold_out} leaves no pair to find a circuit on")
    held, is_apart = held_apart(pairs, apart, source.seed) if apart else ([], True)
    found_it = sorted(set(range(len(pairs))) - set(held))
    sides = [found_it[: source.n_pairs], held[: source.n_pairs]]
    found, held_out = (tuple(pairs[index] for index in side) for side in sides)
    relations = {pair.text.relation for pair in pairs}
    name = next(iter(relations)) if len(relations) == 1 else None
    notes = (*told, *_warnings(model, counts, bool(source.known_only)))
    if repeated := len(lines) - len(set(lines)):
        notes = (*notes, f"{path}: {repeated} lines repeat a pair and are left out")
    if not is_apart:
        notes = (*notes, LINKED.format(path))
    return Examples(name or source.name, found, held_out, counts, notes)


def _warnings(model: Model, counts: dict[str, Any], known_only: bool) -> tuple[str, ...]:
    if counts["known"] == counts["lines"]:
        return ()
    if known_only:
        return (
            f"{model.name!r} recalls {counts['known']} of the {counts['lines']} answers; the "
            "others are left out",
        )
    return (
        f"{model.name!r} recalls {counts['known']} of the {counts['lines']} answers; what carries "
        "the others is no recall (asking for known facts only leaves them out)",
    )


@alone
@torch.no_grad()
def recalled(
    model: Model,
    pairs: Sequence[TokenPair],
    batch_size: int = 32,
    known: KnownLike = Known.TOP1,
) -> list[bool]:
    """For each pair whether its answer counts as known after the clean prompt.

    The objects that an answer is held against are the answers and foils of all pairs. Of a
    contrast, which names no subject, whether the answer scores higher than the foil. Of several
    answers the one that the model does best on counts.
    """
    criterion = Known.of(known, "known")
    objects = {token for pair in pairs for side in pair.sides for token in side}
    right = [False] * len(pairs)
    for batch in batches(pairs, batch_size, model, mixed=True, whole=True):
        logits = model.last_logits(batch.clean, ends=batch.ends).float()
        ranks = best_rank(logits, batch.wanted).tolist()
        preferred = (logit_difference(logits, batch.wanted, batch.unwanted) > 0).tolist()
        for at, row in enumerate(batch.index):
            accepted = pairs[row].sides[0]
            among = min(place_among(logits[at], own, objects) for own in accepted)
            asked = pairs[row].text.named_subject is not None
            right[row] = criterion.counts(ranks[at], among) if asked else preferred[at]
    return right
