"""Which prompt pairs a question is answered on: from the atlas, a fact file or a pair file.

1. Facts become questions, and the model is asked them all; what it does not know is left out.
   Corrupted prompts ask the same of another subject, or something else of the same subject.
2. The known subjects are dealt into two groups. Pairs are made within each group, so that the
   circuit is found on one group of subjects and can be tested on another: no subject, clean or
   corrupted, stands on both sides.
A pair file is taken as it is, on one side, unless a share of it is asked to be held out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from circuits.base.choices import Corruption, Task, Templates
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.records import read_jsonl
from circuits.base.writing import to_json
from circuits.facts.facts import Relation, atlas, relation
from circuits.facts.loaders import load_facts
from circuits.facts.pairs import (
    PromptPair,
    TokenPair,
    batches,
    encode_pair,
    encode_pairs,
    read_pairs,
)
from circuits.facts.questions import (
    KnowledgeCheck,
    PairingReport,
    assume_known,
    known_facts,
    make_pairs,
    questions,
)
from circuits.facts.relation_pairs import make_relation_pairs, relations_with_subjects_of
from circuits.facts.tasks import task_pairs
from circuits.model.holding import alone
from circuits.model.metrics import logit_difference, rank
from circuits.model.model import Model
from locate.chat import chat_pair, chat_relation, in_chat
from locate.options import Source

__all__ = ["Examples", "Source", "as_jsonl", "check_readable", "collect", "relations_of"]

TASK_PAIRS = 32
"""Pairs of a task on each side unless told otherwise."""
FEWEST = 2
"""Pairs that each side needs at least; with fewer known facts nothing is held out."""


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
        read_pairs(source.pairs)
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
) -> Examples:
    """The pairs of a source for a model; PromptError where none can be made, saying why.

    `known` are the model's answers, where the source's questions have been asked before.
    `relations` or `pairs` are those of the source, where they are at hand; nothing is read then.
    """
    _check_asked(source)
    if source.task is not None:
        return _from_task(model, source, source.task, batch_size)
    if source.pairs is not None:
        return _from_pairs(model, source, source.pairs, batch_size, pairs)
    at_hand = relations
    relations = relations_of(source) if at_hand is None else at_hand
    chosen: Templates | Sequence[str] = source.wordings or source.templates
    ask = partial(_check, model, source, batch_size)
    check = ask(relations, chosen) if known is None else known
    others = None
    if source.corrupt == Corruption.RELATION:
        asked_too = _other_relations(source, relations, at_hand)
        others = ask(asked_too, Templates.TRAIN) if asked_too else KnowledgeCheck(())
    share = 0.5 if source.hold_out is None else source.hold_out
    notes: tuple[str, ...] = ()
    parts = _dealt(check, share, source.seed)
    reports = [_pair_up(model, part, others, source) for part in parts]
    if share and any(len(report.pairs) < FEWEST for report in reports):
        reports = [_pair_up(model, check, others, source)]
        notes = ("too few facts are known to hold some out: evaluated on the pairs that found it",)
    if not reports[0].pairs:
        found = reports[0].describe()
        raise PromptError(f"{model.name!r} gives no prompt pairs for {source.name!r}: {found}")
    sides = [tuple(encode_pairs(model.tokenizer, r.pairs, source.bos)) for r in reports]
    held_out = sides[1] if len(sides) > 1 else ()
    counts = _counts(check, reports, asked=source.known_only is not False)
    return Examples(source.name, sides[0], held_out, counts, notes, source.corrupt)


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


def _dealt(check: KnowledgeCheck, share: float, seed: int) -> list[KnowledgeCheck]:
    """The answers by subject, in two parts of which the second holds the share."""
    subjects = list(dict.fromkeys(answer.question.fact.subject for answer in check.answers))
    known = {question.fact.subject for question in check.known}
    if not share:
        return [check]
    # Unknown subjects are dealt as well, so that both sides' counts stay honest.
    order = [[s for s in subjects if (s in known) is wanted] for wanted in (True, False)]
    generator = random.Random(seed)
    apart: set[str] = set()
    for group in order:
        generator.shuffle(group)
        apart.update(group[: round(share * len(group))])
    parts = []
    for wanted in (False, True):
        chosen = [a for a in check.answers if (a.question.fact.subject in apart) is wanted]
        parts.append(replace(check, answers=tuple(chosen)))
    return parts


def _check(
    model: Model,
    source: Source,
    batch_size: int,
    relations: Sequence[Relation],
    templates: Templates | Sequence[str],
) -> KnowledgeCheck:
    """What the model knows, or all of it where it is not to be asked."""
    if source.chat:
        relations = [chat_relation(model.tokenizer, each, source.bos) for each in relations]
        if not isinstance(templates, Templates):
            templates = [in_chat(model.tokenizer, each, source.bos) for each in templates]
    if source.known_only is False:
        return assume_known(model.tokenizer, questions(relations, templates), source.bos)
    return known_facts(model, relations, templates, source.bos, batch_size)


def _other_relations(
    source: Source, relations: Sequence[Relation], at_hand: Sequence[Relation] | None
) -> list[Relation]:
    """What else can be asked of the same subjects: in the atlas, or in the same fact file."""
    if source.facts is None:
        return relations_with_subjects_of(relations, atlas().values())
    facts = load_facts(source.facts) if at_hand is None else at_hand
    return relations_with_subjects_of(relations, facts)


def _pair_up(
    model: Model, check: KnowledgeCheck, others: KnowledgeCheck | None, source: Source
) -> PairingReport:
    options = (source.seed, source.limit, source.bos)
    if others is None:
        return make_pairs(model.tokenizer, check, *options)
    return make_relation_pairs(model.tokenizer, check, others, *options)


def _counts(check: KnowledgeCheck, reports: Sequence[PairingReport], asked: bool) -> dict[str, Any]:
    """How many facts there were, and why some have no pair; None for what nobody `asked`."""
    known = {question.fact for question in check.known}
    facts = {answer.question.fact for answer in check.answers}
    unusable = {question.fact for question, _ in check.unusable} - facts
    reasons = Counter(str(reason) for report in reports for _, reason in report.unpaired)
    return {
        "facts": len(facts | unusable),
        "known": len(known) if asked else None,
        "unknown": len(facts - known) if asked else None,
        "cannot_be_asked": len(unusable),
        "without_partner": dict(reasons),
        "questions": len(check.answers),
        "answered_right": len(check.known) if asked else None,
    }


# --- pair files ----------------------------------------------------------------------------------


def _from_task(model: Model, source: Source, task: Task, batch_size: int) -> Examples:
    """Pairs of a task, half of them held out unless told otherwise."""
    source = replace(source, hold_out=0.5 if source.hold_out is None else source.hold_out)
    limit = source.limit or TASK_PAIRS
    made = task_pairs(model.tokenizer, task, (4 if source.known_only else 2) * limit, source.seed)
    return _from_pairs(model, source, Path(task), batch_size, made)


def _from_pairs(
    model: Model,
    source: Source,
    path: Path,
    batch_size: int,
    at_hand: Sequence[PromptPair] | None,
) -> Examples:
    if source.chat:
        chosen = read_pairs(path) if at_hand is None else at_hand
        at_hand = [chat_pair(model.tokenizer, pair, source.bos) for pair in chosen]
    if at_hand is None:
        lines = encode_file(model, path, source.bos)
    else:
        lines = encode_pairs(model.tokenizer, at_hand, source.bos)
    pairs = list(dict.fromkeys(lines))  # the same pair twice is one observation
    known = recalled(model, pairs, batch_size)
    counts = {"lines": len(pairs), "known": sum(known), "unknown": len(pairs) - sum(known)}
    if source.known_only:
        pairs = [pair for pair, is_known in zip(pairs, known, strict=True) if is_known]
        if not pairs:
            raise PromptError(
                f"{path}: {model.name!r} knows none of its {len(known)} answers; "
                "without `known_only` it takes them all the same"
            )
    order = list(range(len(pairs)))
    apart = round((source.hold_out or 0.0) * len(pairs))
    if apart:
        random.Random(source.seed).shuffle(order)
    if source.hold_out and not apart:
        raise OptionError(
            f"`hold_out` {source.hold_out} of {len(pairs)} pairs holds out none; give more pairs, "
            "or `hold_out` 0"
        )
    if apart == len(pairs):
        raise OptionError(f"`hold_out` {source.hold_out} leaves no pair to find a circuit on")
    sides = [sorted(order[apart:])[: source.limit], sorted(order[:apart])[: source.limit]]
    found, held_out = (tuple(pairs[index] for index in side) for side in sides)
    relations = {pair.text.relation for pair in pairs}
    name = next(iter(relations)) if len(relations) == 1 else None
    notes = _warnings(model, counts)
    if repeated := len(lines) - counts["lines"]:
        notes = (*notes, f"{path}: {repeated} lines repeat a pair and are left out")
    return Examples(name or source.name, found, held_out, counts, notes)


def _warnings(model: Model, counts: dict[str, Any]) -> tuple[str, ...]:
    if counts["known"] == counts["lines"]:
        return ()
    return (
        f"{model.name!r} recalls {counts['known']} of the {counts['lines']} answers; what carries "
        "the others is no recall (asking for known facts only leaves them out)",
    )


def encode_file(model: Model, path: Path, bos: bool | None = None) -> list[TokenPair]:
    """The pairs of a file, tokenised; FileFormatError names the line that cannot be used."""
    pairs = read_pairs(path)
    model.tokenizer.use_bos(bos)  # a wrong choice is no line's mistake
    encoded = []
    for (line, _), pair in zip(read_jsonl(path), pairs, strict=True):
        try:
            encoded.append(encode_pair(model.tokenizer, pair, bos))
        except PromptError as error:
            raise FileFormatError(path, str(error), line) from None
    return encoded


@alone
@torch.no_grad()
def recalled(model: Model, pairs: Sequence[TokenPair], batch_size: int = 32) -> list[bool]:
    """For each pair whether no token scores higher than the answer after the clean prompt.

    Of a contrast, which names no subject, whether the answer scores higher than the foil.
    """
    known = [False] * len(pairs)
    for batch in batches(pairs, batch_size, model):
        logits = model.last_logits(batch.clean).float()
        ranks = rank(logits, batch.answer).tolist()
        preferred = (logit_difference(logits, batch.wanted, batch.unwanted) > 0).tolist()
        for place, row in enumerate(batch.index):
            known[row] = ranks[place] == 0 if pairs[row].text.subject else preferred[place]
    return known
