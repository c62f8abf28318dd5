"""A source's facts asked and paired: from as many facts as the wanted pairs take.

1. Facts are asked in an order drawn by the seed, ever more of them, until there are enough.
2. The known subjects are dealt into two sides, and pairs are made within each.
3. What the model says instead, and what may help, is told where it knows little.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from circuits.base.choices import Corruption, Known, Templates
from circuits.facts.facts import Fact, Relation, atlas
from circuits.facts.knowledge import ask, assume_known, known_facts, with_best
from circuits.facts.loaders import load_facts
from circuits.facts.pairing import PairingReport, make_pairs
from circuits.facts.questions import KnowledgeCheck, Question, demonstrations_of, questions
from circuits.facts.relation_pairs import (
    known_in_order,
    make_relation_pairs,
    relations_with_subjects_of,
)
from circuits.model.model import Model
from circuits.model.tokens import Tokenizer
from locate.chat import chat_preamble
from locate.options import Source

FEWEST = 2
"""Pairs that each side needs at least; with fewer known facts nothing is held out."""
SPARE = 2
"""Facts that are asked first for every pair that is wanted."""
MOST_WORDINGS = 50
"""Wordings that are listed; facts may have one each."""


class Collected:
    """What is asked for a source's pairs, as far as it was asked.

    `every` are the relations of its fact file, where they are at hand.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        relations: Sequence[Relation],
        batch_size: int,
        every: Sequence[Relation] | None = None,
    ) -> None:
        self.model, self.source, self.batch_size = model, source, batch_size
        self.relations, self.every = list(relations), every
        self.templates = asked_in(model, source)
        self.preamble = preamble(model.tokenizer, source)
        self.check, self.n_facts = KnowledgeCheck(()), 0
        self.others, self.others_of = KnowledgeCheck(()), set[str]()

    def paired(self, known: KnowledgeCheck | None) -> tuple[list[PairingReport], tuple[str, ...]]:
        """The pairs of either side, from as many facts as they take, and a note on hold-outs."""
        source = self.source
        share = 0.5 if source.hold_out is None else source.hold_out
        for check in [known] if known is not None else self._checks(share):
            self.check = check
            sides = [self._pair_up(part) for part in _dealt(check, share, source.seed)]
            if source.n_pairs and all(len(side.pairs) >= source.n_pairs for side in sides):
                break
        if share and any(len(side.pairs) < FEWEST for side in sides):
            note = "too few facts are known to hold some out: evaluated on the pairs that found it"
            return [self._pair_up(self.check)], (note,)
        return sides, ()

    def _checks(self, share: float) -> Iterator[KnowledgeCheck]:
        """What is known of ever more facts, drawn by the seed, up to all of them.

        The embedded models are asked everything: that is quick, and their pairs are of all facts.
        """
        source = self.source
        if self.templates == Templates.BEST and source.known_only is not False:
            self.relations = asked_best(self.model, self.relations, source, self.batch_size)
        how: dict[str, Any] = {"shots": source.shots, "seed": source.seed}
        asked = questions(self.relations, self.templates, **how, before=self.preamble)
        facts = list(dict.fromkeys(question.fact for question in asked))
        self.n_facts = len(facts)
        if source.known_only is False:
            yield assume_known(self.model.tokenizer, asked, source.bos)
            return
        size = len(facts)
        if source.n_pairs and not self.model.is_embedded:
            size = SPARE * source.n_pairs * (2 if share else 1)
        order = facts.copy()
        random.Random(source.seed).shuffle(order)
        done, found = 0, KnowledgeCheck(())
        while done < len(facts):
            now = set(order[done : max(size, done)])
            new = self._ask([question for question in asked if question.fact in now])
            found = _joined(asked, found, new)
            done, size = done + len(now), 2 * size
            yield found

    def _ask(self, asked: Sequence[Question], others: Sequence[Relation] = ()) -> KnowledgeCheck:
        relations, source = [*self.relations, *others], self.source
        return ask(self.model, asked, relations, source.bos, self.batch_size, source.known)

    def _pair_up(self, check: KnowledgeCheck) -> PairingReport:
        source, tokenizer = self.source, self.model.tokenizer
        if source.corrupt == Corruption.SUBJECT:
            return make_pairs(tokenizer, check, source.seed, source.n_pairs, source.bos)
        facts = known_in_order(check, source.seed, source.n_pairs)
        size = SPARE * (source.n_pairs or len(facts))
        while True:
            self._ask_others(facts[:size])
            options = (source.seed, source.n_pairs, source.bos)
            made = make_relation_pairs(tokenizer, check, self.others, *options)
            if size >= len(facts) or len(made.pairs) == source.n_pairs:
                return made
            size *= 2

    def _ask_others(self, facts: Sequence[Fact]) -> None:
        """Ask about the facts' subjects in other relations, where that was not done before."""
        subjects = {fact.subject for fact in facts} - self.others_of
        self.others_of |= subjects
        every = self._other_relations()
        left = [(each, tuple(f for f in each.facts if f.subject in subjects)) for each in every]
        chosen = [replace(each, facts=kept) for each, kept in left if kept]
        if not chosen:
            return
        asked = questions(chosen, Templates.TRAIN, before=self.preamble)
        if self.source.known_only is False:
            found = assume_known(self.model.tokenizer, asked, self.source.bos)
        else:
            found = self._ask(asked, every)
        both = (self.others, found)
        self.others = KnowledgeCheck(
            tuple(answer for check in both for answer in check.answers),
            tuple(each for check in both for each in check.unusable),
        )

    def _other_relations(self) -> list[Relation]:
        """What else can be asked of the same subjects: in the atlas, or in the same fact file."""
        among: Sequence[Relation] = list(atlas().values())
        if self.source.facts is not None:
            among = self.every or load_facts(self.source.facts)
        return relations_with_subjects_of(self.relations, among)

    @property
    def is_poor(self) -> bool:
        """Whether less than half of the facts that were asked are known."""
        asked = {answer.question.fact for answer in self.check.answers}
        return 2 * len({question.fact for question in self.check.known}) < len(asked)

    def told(self) -> list[str]:
        """What the model says instead, and what may help."""
        check, source = self.check, self.source
        said = check.describe_wrong()
        if not said or source.known_only is False:
            return []
        facts = {answer.question.fact for answer in check.answers}
        known = len({question.fact for question in check.known})
        hint = hints(check, source, self.model)
        return [f"of {len(facts)} facts {self.model.name!r} knows {known}", said, *hint]

    def counts(self, sides: Sequence[PairingReport]) -> dict[str, Any]:
        """How many facts there were, why some have no pair, and how they were asked."""
        source = self.source
        counts = _counts(self.check, sides, asked=source.known_only is not False)
        left = self.n_facts - counts["facts"]
        if left > 0:
            counts["not_asked"] = left
        shown = {
            each.name: [[fact.subject, fact.object] for fact in found]
            for each in self.relations
            if (found := demonstrations_of(each, source.shots, source.seed))
        }
        wordings = list(dict.fromkeys(a.question.template for a in self.check.answers))
        counts["asked_as"] = {
            "known": str(source.known),
            "templates": str(self.templates) if isinstance(self.templates, Templates) else "given",
            "wordings": wordings[:MOST_WORDINGS],
            "shots": source.shots,
            **({"chat": True} if source.chat else {}),
            **({"demonstrations": shown} if shown else {}),
        }
        return counts


def asked_in(model: Model, source: Source) -> Templates | Sequence[str]:
    """The source's wordings or its choice of templates: the usual ones are the model's."""
    return source.wordings or resolved(model, source.templates)


def resolved(model: Model, templates: Templates | str) -> Templates:
    """The choice of templates, where the usual ones of an embedded model are the first."""
    usual = Templates.FIRST if model.is_embedded else Templates.USUAL
    chosen = Templates.of(templates, "templates")
    return usual if chosen == Templates.USUAL else chosen


def known_of(
    model: Model, relations: Sequence[Relation], source: Source, batch_size: int = 32
) -> KnowledgeCheck:
    """What the model knows of all facts of the relations, asked as the source says."""
    templates = asked_in(model, source)
    if templates == Templates.BEST:
        relations = asked_best(model, relations, source, batch_size)
    how: dict[str, Any] = {"known": source.known, "shots": source.shots, "seed": source.seed}
    how["before"] = preamble(model.tokenizer, source)
    return known_facts(model, relations, templates, source.bos, batch_size, **how)


def asked_best(
    model: Model, relations: Sequence[Relation], source: Source, batch_size: int
) -> list[Relation]:
    """The relations with the templates that the model answers best, asked as the source says."""
    how: dict[str, Any] = {"known": source.known, "shots": source.shots, "seed": source.seed}
    before = preamble(model.tokenizer, source)
    return with_best(model, relations, source.bos, batch_size, **how, before=before)


def preamble(tokenizer: Tokenizer, source: Source) -> str:
    """What the chat template puts before every question; empty where none is asked through."""
    return chat_preamble(tokenizer, source.bos) if source.chat else ""


def hints(check: KnowledgeCheck, source: Source, model: Model) -> list[str]:
    """What else may be tried where little is known, with what the same answers would give."""
    found = []
    if not source.shots and not source.chat and source.corrupt == Corruption.SUBJECT:
        found.append("`shots=5` shows it answered questions first")
    for other in (Known.of("top10"), Known.AMONG_OBJECTS):
        known = {a.question.fact for a in check.answers if other.counts(a.rank, a.among)}
        if len(known) > len({question.fact for question in check.known}):
            found.append(f"`known='{other}'` would count {len(known)}")
    if source.bos is None and model.tokenizer.use_bos(None):
        found.append("`bos=False` leaves out the BOS token in front")
    if source.templates != Templates.BEST and not source.wordings:
        found.append("`templates='best'` asks in the wordings that it answers best")
    found.append("`wordings` asks in another wording")
    return [f"what may help: {', '.join(found)}"]


def _joined(
    asked: Sequence[Question], one: KnowledgeCheck, other: KnowledgeCheck
) -> KnowledgeCheck:
    """Two checks as one, in the order of the questions."""
    place = {question: n for n, question in enumerate(asked)}
    answers = sorted(one.answers + other.answers, key=lambda each: place[each.question])
    unusable = sorted(one.unusable + other.unusable, key=lambda each: place[each[0]])
    return KnowledgeCheck(tuple(answers), tuple(unusable))


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
