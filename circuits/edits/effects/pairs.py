"""Prompt pairs that ask an edited model about what was edited.

The clean prompt asks for the edited fact, the corrupted one for another subject in the same words.
Every fact gets several corrupted subjects, as the choice of partner is a source of noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuits.base.choices import Contrast
from circuits.base.errors import OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.facts.facts import Fact, atlas, fill, relation
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair, encode_pairs
from circuits.facts.questions import Question
from circuits.graph.noise import corrupted_subject
from circuits.model.tokens import Tokenizer


@dataclass(frozen=True)
class EditPairs:
    """The same prompts before and after an edit, with what is asked for on either side.

    `skipped` are requests that have too few partners, with the reason.
    """

    before: tuple[PromptPair, ...]
    after: tuple[PromptPair, ...]
    skipped: tuple[tuple[EditRequest, str], ...] = ()

    def encode(self, tokenizer: Tokenizer) -> tuple[list[TokenPair], list[TokenPair]]:
        """Both sides as tokens."""
        return encode_pairs(tokenizer, self.before), encode_pairs(tokenizer, self.after)


def edit_pairs(
    tokenizer: Tokenizer,
    requests: Sequence[EditRequest],
    *,
    contrast: Contrast | str = Contrast.OLD_NEW,
    partners: int = 24,
    templates: Sequence[str] = (),
    others: Sequence[Fact] | None = None,
    known: Callable[[Fact, str], bool] | None = None,
    seed: int = 0,
) -> EditPairs:
    """Pairs for every request, each in its own prompt and in further `templates`.

    Partners are other subjects of the request's relation (in the atlas, or among `others`) with as
    many tokens, whose object is neither the old nor the new one; `known(fact, template)` may leave
    out those that the model does not know. At most `partners` a wording, drawn by the seed, and
    the same for each wording where the tokens allow it. Raises OptionError where a request names
    no ground truth, PromptError where no request has the two partners that a noise floor needs.
    """
    contrast = Contrast.of(contrast)
    if partners < 2:
        raise OptionError(f"a noise floor needs at least 2 partners a fact, not {partners}")
    before: list[PromptPair] = []
    after: list[PromptPair] = []
    skipped: list[tuple[EditRequest, str]] = []
    for request in requests:
        if request.ground_truth is None:
            raise OptionError(f"the edit of {request.text!r} does not say what it replaces")
        pool = _pool(request, others)
        random.Random(f"{seed}/{request.text}").shuffle(pool)
        found: list[tuple[PromptPair, PromptPair]] = []
        for template in dict.fromkeys((request.prompt, *templates)):
            asked = [fact for fact in pool if known is None or known(fact, template)]
            found += _pairs_in(tokenizer, request, template, asked, contrast, partners)
        if len({corrupted_subject(pair) for pair, _ in found}) < 2:
            skipped.append((request, "fewer than 2 other subjects have as many tokens"))
            continue
        before += [pair for pair, _ in found]
        after += [pair for _, pair in found]
    if not requests:
        raise OptionError("there is no edit to make pairs for")
    if not before:
        raise PromptError(f"no pairs can be made for {skipped[0][0].text!r}: {skipped[0][1]}")
    return EditPairs(tuple(before), tuple(after), tuple(skipped))


def in_other_wordings(
    tokenizer: Tokenizer, requests: Sequence[EditRequest], seed: int = 0
) -> list[PromptPair]:
    """The requests of relations of the atlas in these relations' other templates, one pair each.

    Asked as `edit_pairs` asks with the old object against the new one. A wording in which no other
    subject has as many tokens is left out.
    """
    found: list[PromptPair] = []
    for request in requests:
        if request.ground_truth is None or request.relation not in atlas():
            continue
        named = relation(request.relation)
        pool = _pool(request, None)
        random.Random(f"{seed}/{request.text}").shuffle(pool)
        for template in (*named.templates, *named.held_out):
            if template != request.prompt:
                pairs = _pairs_in(tokenizer, request, template, pool, Contrast.OLD_NEW, 1)
                found += [pair for pair, _ in pairs]
    return found


def _pool(request: EditRequest, others: Sequence[Fact] | None) -> list[Fact]:
    """Other subjects none of whose objects is the old or the new one."""
    if others is None:
        if request.relation is None:
            raise OptionError(
                f"the edit of {request.text!r} names no relation, so that corrupted subjects must "
                "be given"
            )
        others = relation(request.relation).facts
    taken = {request.ground_truth, request.target}
    barred = {fact.subject for fact in others if fact.object in taken} | {request.subject}
    return [fact for fact in others if fact.subject not in barred]


def _pairs_in(
    tokenizer: Tokenizer,
    request: EditRequest,
    template: str,
    pool: Sequence[Fact],
    contrast: Contrast,
    partners: int,
) -> list[tuple[PromptPair, PromptPair]]:
    """The pairs before and after in one wording."""
    assert request.ground_truth is not None, "checked by the caller"
    found: list[tuple[PromptPair, PromptPair]] = []
    asked = Question(Fact("", request.subject, request.ground_truth), template)
    about = (request.subject, request.relation)
    for fact in pool:
        if len(found) == partners:
            break
        corrupted = fill(template, fact.subject)
        old, new = request.ground_truth, request.target
        objects = {
            Contrast.OLD_NEW: [(old, new), (old, new)],
            Contrast.ANSWER: [(old, fact.object), (new, fact.object)],
        }[contrast]
        sides = [
            PromptPair(asked.prompt, corrupted, answer, foil, *about, spans=asked.spans)
            for answer, foil in objects
        ]
        try:
            for side in sides:
                encode_pair(tokenizer, side)
        except PromptError:  # other lengths, or objects that begin alike
            continue
        found.append((sides[0], sides[1]))
    return found
