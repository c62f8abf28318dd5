"""Pairs that differ in the relation: the same subject at the same places, asked something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from circuits.base.choices import Corruption, Templates
from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import Fact, Relation, atlas
from circuits.facts.knowledge import assume_known
from circuits.facts.pairing import Unpaired
from circuits.facts.pairs import encode_pair
from circuits.facts.questions import KnowledgeCheck, questions
from circuits.facts.relation_pairs import make_relation_pairs, relations_with_subjects_of
from circuits.model.model import Model, load
from circuits.model.tokens import Tokenizer
from locate.examples import collect
from locate.options import Source
from tests.tiny import COUNTRIES, byte_level_tokenizer

TOKENIZER = Tokenizer(byte_level_tokenizer())


def _relation(name: str, objects: dict[str, str], template: str) -> Relation:
    facts = tuple(Fact(name, subject, known) for subject, known in objects.items())
    return Relation(name, "", "", facts, (template,))


CAPITALS = _relation("capital", COUNTRIES, "The capital of {} is")
AS_LONG, LONGER = "The language of {} is", "The language of {} is the"
# Another wording of as many tokens, with the objects of the next country.
CITIES = list(COUNTRIES.values())
NEXT = dict(zip(COUNTRIES, CITIES[1:] + CITIES[:1], strict=True))
OTHERS = _relation("other", NEXT, AS_LONG)


def _check(relation: Relation) -> KnowledgeCheck:
    return assume_known(TOKENIZER, questions(relation))


def _places(text: str, subject: str) -> tuple[int, int, int]:
    prompt = TOKENIZER.encode(text)
    span = prompt.span_of(subject)
    return len(prompt), span.start, span.stop


def test_partners_ask_something_else_of_the_subject_at_the_same_places():
    report = make_relation_pairs(TOKENIZER, _check(CAPITALS), _check(OTHERS))
    assert len(report.pairs) == len(COUNTRIES)
    for pair in report.pairs:
        assert pair.subject is not None
        assert pair.answer == COUNTRIES[pair.subject]
        assert pair.foil == NEXT[pair.subject]
        assert pair.clean != pair.corrupted
        assert _places(pair.clean, pair.subject) == _places(pair.corrupted, pair.subject)
        encode_pair(TOKENIZER, pair)


def test_who_has_no_partner_is_told_why():
    def reasons(others: Relation) -> set[Unpaired]:
        report = make_relation_pairs(TOKENIZER, _check(CAPITALS), _check(others))
        assert not report.pairs
        return {reason for _, reason in report.unpaired}

    assert reasons(CAPITALS) == {Unpaired.NO_OTHER_RELATION}
    assert reasons(_relation("other", COUNTRIES, AS_LONG)) == {Unpaired.ALSO_TRUE}
    assert reasons(_relation("other", NEXT, LONGER)) == {Unpaired.PLACES}
    with pytest.raises(OptionError, match="at least 1"):
        make_relation_pairs(TOKENIZER, _check(CAPITALS), _check(OTHERS), n=0)


def _known_by_alias(relation: Relation, aliases: dict[str, str]) -> KnowledgeCheck:
    """All known through an alias: the objects themselves are words that the model does not say."""
    facts = tuple(
        replace(fact, object=f"Zzyzx {fact.object}", aliases=(aliases[fact.subject],))
        for fact in relation.facts
    )
    check = _check(replace(relation, facts=facts))
    said = (replace(each, text=each.question.fact.aliases[0]) for each in check.answers)
    return replace(check, answers=tuple(said))


def test_pairs_ask_for_the_accepted_answer_that_the_model_gives():
    checks = _known_by_alias(CAPITALS, COUNTRIES), _known_by_alias(OTHERS, NEXT)
    report = make_relation_pairs(TOKENIZER, *checks)
    assert len(report.pairs) == len(COUNTRIES)
    for pair in report.pairs:
        assert pair.subject is not None
        assert (pair.answer, pair.foil) == (COUNTRIES[pair.subject], NEXT[pair.subject])


def test_what_an_alias_says_too_is_no_foil():
    """Nor is an answer that the corrupted prompt accepts: either way both would be right."""
    plain, aliased = _check(OTHERS), _known_by_alias(CAPITALS, NEXT)
    for clean, others in ((aliased, plain), (plain, aliased)):
        report = make_relation_pairs(TOKENIZER, clean, others)
        assert not report.pairs
        assert {reason for _, reason in report.unpaired} == {Unpaired.ALSO_TRUE}


def test_only_relations_that_share_a_subject_are_asked():
    found = relations_with_subjects_of([atlas()["country_capital"]], atlas().values())
    names = {each.name for each in found}
    assert {"country_language", "country_currency"} <= names
    assert not {"country_capital", "animal_class"} & names
    subjects = set(atlas()["country_capital"].subjects())
    assert all(set(each.subjects()) <= subjects for each in found)


@pytest.fixture(scope="module", params=["facts-gpt2", "facts-llama"])
def trained(request: pytest.FixtureRequest) -> Model:
    return load(request.param, device="cpu")


@pytest.mark.slow
def test_both_sides_of_a_relation_ask_the_model_what_it_knows(trained: Model):
    source = Source(relation="country_capital", n_pairs=6, corrupt=Corruption.RELATION)
    examples = collect(trained, source)
    assert examples.corrupt is Corruption.RELATION
    assert len(examples.pairs) == len(examples.held_out) == 6
    sides = [{pair.text.subject for pair in side} for side in (examples.pairs, examples.held_out)]
    assert sides[0].isdisjoint(sides[1])
    wordings = questions(atlas()["country_capital"], Templates.FIRST)
    prompts = {each.prompt for each in wordings}
    for pair in (*examples.pairs, *examples.held_out):
        assert pair.text.clean in prompts
        assert pair.text.corrupted not in prompts
        assert pair.subject is not None
        assert pair.text.subject is not None
        assert pair.corrupted.span_of(pair.text.subject) == pair.subject


def test_facts_without_another_relation_are_refused_in_words(trained: Model):
    with pytest.raises(PromptError, match="no other relation of its subject is known"):
        collect(trained, Source(relation="book_author", corrupt=Corruption.RELATION, hold_out=0.0))
    source = Source(relation="country_capital")
    with pytest.raises(OptionError, match="`corrupt`"):
        replace(source, relation=None, pairs=Path("pairs.jsonl"), corrupt=Corruption.RELATION)
