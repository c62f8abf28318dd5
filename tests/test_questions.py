"""What the model knows is asked, not assumed; partners keep every rule of a corrupted prompt."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

import pytest
import torch
from torch import Tensor

from circuits.base.choices import Templates
from circuits.base.errors import OptionError
from circuits.facts.facts import Fact, Relation, relation
from circuits.facts.knowledge import assume_known, known_facts
from circuits.facts.pairing import Unpaired, make_pairs
from circuits.facts.pairs import PromptPair, encode_pairs
from circuits.facts.questions import KnowledgeCheck, Question, questions
from circuits.graph.noise import corrupted_subject
from circuits.model.model import Model
from circuits.model.patches import Patching
from circuits.model.tokens import Tokenizer
from locate.seen import subjects_of
from tests.tiny import COUNTRIES, byte_level_tokenizer, metaspace_tokenizer

TEMPLATES = ("The capital of {} is", "{} has its capital in", "In {} the capital is")
TOKENIZERS = {
    "gpt2": Tokenizer(byte_level_tokenizer()),
    "llama": Tokenizer(metaspace_tokenizer()),
}


def _relation(objects: dict[str, str], **options) -> Relation:
    facts = tuple(Fact("capital", subject, known) for subject, known in objects.items())
    return Relation("capital", "", "", facts, **({"templates": TEMPLATES} | options))


CAPITALS = _relation(COUNTRIES)
# Of equal length in every tokenizer, and with objects that begin differently.
LETTERS = _relation(dict(zip("XQVWY", COUNTRIES.values(), strict=True)))


class Oracle(Model):
    """Stands in for a model: knows the given questions, and puts another token first otherwise."""

    def __init__(self, tokenizer: Tokenizer, known: Iterable[Question]) -> None:
        self.name, self.tokenizer, self.device = "oracle", tokenizer, torch.device("cpu")
        self.best = {
            tokenizer.encode(each.prompt).ids: tokenizer.first_token(each.prompt, each.fact.object)
            for each in known
        }
        self.batches: list[int] = []
        self.most_rows, self.patching, self._hooked = sys.maxsize, Patching(), 0

    @contextmanager
    def alone(self) -> Iterator[Self]:
        yield self

    def last_logits(self, tokens: Tensor, *args, ends: Tensor | None, **options) -> Tensor:
        self.batches.append(len(tokens))
        logits = torch.zeros(len(tokens), len(self.tokenizer.hf))
        last = [tokens.shape[1] - 1] * len(tokens) if ends is None else ends.tolist()
        for row, (ids, end) in enumerate(zip(tokens.tolist(), last, strict=True)):
            logits[row, self.best.get(tuple(ids[: end + 1]), 0)] = 5.0
        return logits


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


def test_every_fact_is_asked_in_every_chosen_template_once():
    more = _relation(COUNTRIES, templates=(*TEMPLATES, "Of {}: the capital,"), held_out=("{}:",))
    assert len(questions(more)) == 3 * 5
    assert len(questions(more, Templates.TRAIN)) == 4 * 5
    assert {each.template for each in questions(more, Templates.HELD_OUT)} == {"{}:"}
    assert [each.prompt for each in questions(more, ["{} is", "{} is"])][:1] == ["France is"]
    assert len(questions([more, more], ["{} is"])) == 5


def test_a_fact_with_its_own_wording_is_asked_in_it_unless_told_otherwise():
    worded = Relation("r", "", "", (Fact("r", "a", "b", "{} own"),), ("{} own", "{} other"))
    assert [each.prompt for each in questions(worded)] == ["a own"]
    assert [each.prompt for each in questions(worded, ["{} given"])] == ["a given"]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (Templates.HELD_OUT, "has no held-out templates"),
        ([], "has no templates"),
        (["no slot"], "exactly one"),
        ("The capital of {}", "is none; there are usual, first, best, train, held-out, all"),
    ],
)
def test_absurd_templates_are_refused(templates, message: str):
    with pytest.raises(OptionError, match=message):
        questions(CAPITALS, templates)


def test_a_fact_is_known_where_the_answer_is_the_argmax(model: Model):
    check = known_facts(model, CAPITALS, batch_size=4)
    assert [each.question for each in check.answers] == questions(CAPITALS)
    for answer in check.answers:
        prompt = model.tokenizer.encode(answer.question.prompt)
        with torch.no_grad():
            logits = model.bridge(torch.tensor([prompt.ids]))[0, -1]
        token = model.tokenizer.first_token(prompt.text, answer.question.fact.object)
        assert answer.rank == logits.argsort(descending=True).tolist().index(token)
        assert answer.probability == pytest.approx(float(logits.softmax(-1)[token]), rel=1e-4)
        assert answer.known == (int(logits.argmax()) == token)


def test_answers_do_not_depend_on_the_batch_size(model: Model):
    one, all_at_once = (known_facts(model, CAPITALS, batch_size=size) for size in (1, 64))
    for left, right in zip(one.answers, all_at_once.answers, strict=True):
        assert (left.question, left.rank) == (right.question, right.rank)
        assert left.probability == pytest.approx(right.probability, rel=1e-4)


def test_the_check_finds_exactly_what_the_model_knows(tokenizer: Tokenizer):
    asked = questions(CAPITALS)
    secret = [each for each in asked if random.Random(each.prompt).random() < 0.5]
    check = known_facts(Oracle(tokenizer, secret), CAPITALS, batch_size=2)
    assert list(check.known) == secret
    assert [*check.known, *check.unknown] == [*secret, *(q for q in asked if q not in secret)]
    assert check.accuracy == len(secret) / len(asked)
    assert f"{len(secret)} of {len(asked)} questions" in check.describe()


def test_a_question_that_cannot_be_asked_is_counted_with_its_reason(tokenizer: Tokenizer):
    odd = _relation({"France": "Paris", "capital": "\udcff"}, templates=TEMPLATES[:1])
    check = known_facts(Oracle(tokenizer, []), odd)
    assert len(check.answers) == 1
    ((question, reason),) = check.unusable
    assert question.fact.subject == "capital"
    assert "no valid Unicode" in reason
    report = make_pairs(tokenizer, check)
    assert report.unusable == ((question.fact, reason),)
    assert [fact.subject for fact in report.unknown] == ["France"]


def _assume(tokenizer: Tokenizer, relations: Relation | list[Relation], **options):
    return assume_known(tokenizer, questions(relations, **options))


def test_pairs_obey_every_rule_of_a_corrupted_prompt(tokenizer: Tokenizer):
    report = make_pairs(tokenizer, _assume(tokenizer, LETTERS))
    assert len(report.pairs) == 5
    objects = {fact.subject: fact.object for fact in LETTERS.facts}
    for pair in encode_pairs(tokenizer, report.pairs):  # checks lengths and first tokens
        text = pair.text
        assert text.subject is not None
        (template,) = [t for t in TEMPLATES if t.format(text.subject) == text.clean]
        (other,) = [s for s in objects if template.format(s) == text.corrupted]
        assert other != text.subject
        assert (text.answer, text.foil) == (objects[text.subject], objects[other])
        assert text.relation == "capital"


def test_pairs_spread_over_the_templates(tokenizer: Tokenizer):
    pairs = make_pairs(tokenizer, _assume(tokenizer, LETTERS)).pairs
    used = [t for p in pairs for t in TEMPLATES if t.format(p.subject) == p.clean]
    assert used == [TEMPLATES[turn % 3] for turn in range(5)]


def test_a_partner_is_known_in_the_same_template(tokenizer: Tokenizer):
    asked = questions(LETTERS)
    for seed in range(20):
        known = random.Random(seed).sample(asked, 9)
        oracle = Oracle(tokenizer, known)
        report = make_pairs(tokenizer, known_facts(oracle, LETTERS), seed)
        prompts = {each.prompt for each in known}
        assert report.pairs
        for pair in report.pairs:
            assert {pair.clean, pair.corrupted} <= prompts
        facts = {each.fact for each in known}
        assert set(report.unknown) == set(LETTERS.facts) - facts
        assert len(report.pairs) + len(report.unpaired) == len(facts)


def test_pairing_follows_the_seed_and_not_the_batch_size(tokenizer: Tokenizer):
    oracle = Oracle(tokenizer, questions(LETTERS))
    checks = {size: known_facts(oracle, LETTERS, batch_size=size) for size in (1, 2, 50)}
    reports = {size: make_pairs(tokenizer, check, 3) for size, check in checks.items()}
    assert reports[1] == reports[2] == reports[50]
    others = {make_pairs(tokenizer, checks[1], seed).pairs for seed in range(8)}
    assert len(others) > 1


def test_n_pairs_are_chosen_by_the_seed_and_keep_the_order(tokenizer: Tokenizer):
    check = _assume(tokenizer, LETTERS)
    order = list("XQVWY")
    chosen = {tuple(p.subject for p in make_pairs(tokenizer, check, seed, 2).pairs)
              for seed in range(10)}  # fmt: skip
    assert len(chosen) > 1
    assert all(len(pair) == 2 and order.index(pair[0]) < order.index(pair[1]) for pair in chosen)
    assert len(make_pairs(tokenizer, check, n=99).pairs) == 5
    with pytest.raises(OptionError, match="at least 1"):
        make_pairs(tokenizer, check, n=0)


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ({"X": "Paris"}, Unpaired.NO_OTHER_SUBJECT),
        ({"X": "Paris", "Q": "Paris"}, Unpaired.ALSO_TRUE),
        ({"X": "Paris", "South Korea and Cuba": "Seoul"}, Unpaired.LENGTH),
        ({"X": "Paris", "Q": "Paris now"}, Unpaired.FIRST_TOKEN),
    ],
)
def test_a_fact_without_a_partner_is_counted_with_its_reason(
    tokenizer: Tokenizer, objects: dict[str, str], reason: Unpaired
):
    report = make_pairs(tokenizer, _assume(tokenizer, _relation(objects)))
    assert report.pairs == ()
    assert {each for _, each in report.unpaired} == {reason}
    assert f"{len(objects)} without a partner ({reason})" in report.describe()


def test_a_foil_is_never_another_true_answer(tokenizer: Tokenizer):
    facts = (Fact("r", "X", "Lima"), Fact("r", "X", "Oslo"), Fact("r", "Q", "Oslo"))
    speaks = Relation("r", "", "", facts, TEMPLATES)
    # Even where the model knows only one of the two answers.
    known = [each for each in questions(speaks) if each.fact != facts[1]]
    report = make_pairs(tokenizer, known_facts(Oracle(tokenizer, known), speaks))
    assert {fact for fact, _ in report.unpaired} >= {facts[2]}
    assert all(pair.foil != "Oslo" or pair.subject != "X" for pair in report.pairs)


def test_facts_of_different_wording_are_paired_within_their_relation(tokenizer: Tokenizer):
    facts = (
        Fact("P36", "X", "Paris", "The capital of {} is"),
        Fact("P36", "Q", "Tokyo", "In {} the capital is"),
        Fact("P37", "V", "Lima", "The capital of {} is"),
    )
    first = Relation("P36", "", "", facts[:2], ("The capital of {} is", "In {} the capital is"))
    second = Relation("P37", "", "", facts[2:], ("The capital of {} is",))
    report = make_pairs(tokenizer, _assume(tokenizer, [first, second]))
    assert report.pairs == (
        PromptPair("The capital of X is", "The capital of Q is", "Paris", "Tokyo", "X", "P36"),
        PromptPair("In Q the capital is", "In X the capital is", "Tokyo", "Paris", "Q", "P36"),
    )
    assert report.unpaired == ((facts[2], Unpaired.NO_OTHER_SUBJECT),)


def test_a_model_that_knows_nothing_gets_one_line_that_says_so(tokenizer: Tokenizer):
    said = make_pairs(tokenizer, known_facts(Oracle(tokenizer, []), LETTERS)).describe()
    assert said.startswith("0 pairs; 5 facts not known")
    assert "\n" not in said


def test_asking_needs_facts_and_a_batch_size(tokenizer: Tokenizer):
    with pytest.raises(OptionError, match="no facts"):
        questions([])
    with pytest.raises(OptionError, match="batch size"):
        known_facts(Oracle(tokenizer, []), LETTERS, batch_size=0)
    assert KnowledgeCheck(()).accuracy != KnowledgeCheck(()).accuracy


def test_atlas_relations_can_be_paired_in_both_families(tokenizer: Tokenizer):
    check = _assume(tokenizer, relation("country_capital"))
    report = make_pairs(tokenizer, check)
    assert len(report.pairs) >= 60
    assert len(encode_pairs(tokenizer, report.pairs)) == len(report.pairs)


@pytest.mark.parametrize(
    ("template", "clean", "corrupted"),
    [
        ("{}nak a fővárosa", "Franciaország", "Magyarország"),  # an ending is attached
        ("In Paris, the mayor of {} is", "Paris", "London"),  # the second mention is asked about
        ("In London, the mayor of {} is", "Paris", "London"),
    ],
)
def test_the_partner_stands_where_the_question_has_its_subject(template, clean, corrupted):
    question = Question(Fact("r", clean, "a"), template, "Before. ")
    other = replace(question, fact=Fact("r", corrupted, "b"))
    pair = PromptPair(question.prompt, other.prompt, "a", "b", clean, "r", spans=question.spans)
    assert corrupted_subject(pair) == corrupted
    assert subjects_of(pair) == {clean, corrupted}
