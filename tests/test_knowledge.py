"""What counts as known, demonstrations in front, answers that begin alike, when asking stops."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.base.choices import Corruption, Known, Templates
from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import Fact, Relation, fill
from circuits.facts.knowledge import known_facts, with_best
from circuits.facts.loaders import load_facts
from circuits.facts.pairing import make_pairs
from circuits.facts.pairs import PromptPair, encode_pair
from circuits.facts.questions import Question, demonstrations_of, questions
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.patches import Patching
from circuits.model.tokens import Tokenizer
from locate.evaluate import evaluate_stored
from locate.examples import Examples, collect
from locate.options import Source
from tests.tiny import COUNTRIES, byte_level_tokenizer

TEMPLATES = ("The capital of {} is", "In {} the capital is", "Of {} the capital is", "{} has")
TOKENIZER = Tokenizer(byte_level_tokenizer())
EVERY = Known.of("top100000")


def _relation(objects: dict[str, str], **options) -> Relation:
    facts = tuple(Fact("capital", subject, known) for subject, known in objects.items())
    return Relation("capital", "", "", facts, **({"templates": TEMPLATES} | options))


CAPITALS = _relation(COUNTRIES)
LETTERS = _relation({letter: f"{letter}{letter.lower()}" for letter in "ABCDEFGHIJKLMNOPQRST"})


class Oracle(Model):
    """Says the whole answer to the given questions, token by token, and BOS otherwise."""

    def __init__(self, known: Iterable[Question]) -> None:
        self.name, self.tokenizer, self.device = "oracle", TOKENIZER, torch.device("cpu")
        self._turn, self.most_rows = threading.RLock(), sys.maxsize
        self.patching, self._hooked = Patching(), 0
        self.best: dict[tuple[int, ...], int] = {}
        for each in known:
            ids = TOKENIZER.encode(each.prompt).ids
            for token in TOKENIZER.continuation(each.prompt, each.fact.object):
                self.best[ids] = token
                ids = (*ids, token)

    def align(self) -> None:
        """There are no weights."""

    def last_logits(self, tokens: Tensor, *args, ends: Tensor | None, **options) -> Tensor:
        logits = torch.zeros(len(tokens), len(TOKENIZER.hf))
        last = [tokens.shape[1] - 1] * len(tokens) if ends is None else ends.tolist()
        for row, (ids, end) in enumerate(zip(tokens.tolist(), last, strict=True)):
            logits[row, self.best.get(tuple(ids[: end + 1]), 0)] = 5.0
        return logits


def test_a_fact_is_known_by_its_place_among_all_tokens_or_among_the_objects(model: Model):
    for known in ("top1", "top3", "top40", "among-objects"):
        for answer in known_facts(model, CAPITALS, known=known).answers:
            prompt = answer.question.prompt
            ids = model.tokenizer.encode(prompt).ids
            with torch.no_grad():
                logits = model.last_logits(torch.tensor([ids]))[0]
            objects = {model.tokenizer.first_token(prompt, o) for o in COUNTRIES.values()}
            own = model.tokenizer.first_token(prompt, answer.question.fact.object)
            rivals = objects if known == "among-objects" else range(len(logits))
            above = sum(bool(logits[each] > logits[own]) for each in rivals)
            most = 1 if known == "among-objects" else int(known.removeprefix("top"))
            assert answer.known == (above < most)
            assert answer.said == model.tokenizer.token_string(int(logits.argmax()))


def test_the_number_of_places_is_any_number_and_nothing_else_is_taken():
    assert (Known.of("top7"), Known.of("top-7").best) == ("top7", 7)
    for nonsense in ("top0", "top", "topten", "among"):
        with pytest.raises(OptionError, match="top1, top10, among-objects"):
            Known.of(nonsense)


def test_demonstrations_stand_before_every_question_and_are_not_asked(model: Model):
    shown = demonstrations_of(CAPITALS, 2, seed=3)
    assert shown == demonstrations_of(CAPITALS, 2, seed=3)
    assert shown is not None
    asked = questions(CAPITALS, shots=2, seed=3)
    assert {each.fact for each in asked} == set(CAPITALS.facts) - set(shown)
    for each in asked:
        told = "".join(f"{fill(each.template, fact.subject)} {fact.object}. " for fact in shown)
        assert each.prompt == told + fill(each.template, each.fact.subject)
    with pytest.raises(OptionError, match="too few for 4 demonstrations"):
        questions(CAPITALS, shots=4)


def test_demonstrations_run_once_give_the_answers_of_whole_prompts(model: Model):
    for answer in known_facts(model, CAPITALS, shots=2, batch_size=2).answers:
        ids = model.tokenizer.encode(answer.question.prompt).ids
        own = model.tokenizer.first_token(answer.question.prompt, answer.question.fact.object)
        with torch.no_grad():
            share = model.last_logits(torch.tensor([ids]))[0].softmax(-1)[own]
        assert answer.probability == pytest.approx(float(share), rel=1e-4)


def test_pairs_after_demonstrations_share_them_and_their_subject_is_the_questions(model: Model):
    source = Source(relation="letters", shots=3, known=EVERY, hold_out=0.5, n_pairs=4)
    found = collect(model, source, relations=[LETTERS])
    shown = demonstrations_of(LETTERS, 3)
    assert shown is not None
    assert found.counts["asked_as"]["demonstrations"] == {
        "capital": [[fact.subject, fact.object] for fact in shown]
    }
    for pair in (*found.pairs, *found.held_out):
        assert pair.text.clean[: pair.text.start] == pair.text.corrupted[: pair.text.start]
        assert all(fact.object in pair.text.clean[: pair.text.start] for fact in shown)
        assert pair.subject is not None
        assert pair.start <= pair.subject.start
        assert pair.first_difference == pair.subject.start
        assert pair.text.subject not in {fact.subject for fact in shown}


def test_an_evaluation_says_that_other_demonstrations_found_the_circuit(model: Model):
    source = Source(relation="letters", shots=2, known=EVERY, hold_out=0.0, n_pairs=4)
    with_two = collect(model, source, relations=[LETTERS])
    without = collect(model, replace(source, shots=0), relations=[LETTERS])
    circuit = Circuit.empty(model.wiring())
    found = replace(circuit, provenance={"facts": with_two.counts})

    def said(of: Circuit, examples: Examples) -> list[str]:
        warnings = evaluate_stored(model, of, examples).warnings
        return [each for each in warnings if "answered facts" in each]

    assert said(found, with_two) == []
    assert said(circuit, without) == []
    (note,) = said(found, without)
    assert note.startswith("the circuit was found with 2 answered facts")
    assert "evaluated with 0" in note


def test_a_subject_that_stands_in_the_demonstrations_too_is_found_in_the_question():
    before = "X is Y. "
    words = (f"{before}Of X it is", f"{before}Of Q it is", "Paris", "Oslo", "X")
    text = PromptPair(*words, spans=(("subject", "X", 2),), start=len(before))
    pair = encode_pair(TOKENIZER, text)
    assert pair.subject is not None
    assert pair.clean.tokens[pair.subject.start].strip() == "X"
    assert pair.subject.start > pair.start > 0
    with pytest.raises(PromptError, match="occurs 2 times"):
        encode_pair(TOKENIZER, replace(text, spans=()))


def test_answers_that_begin_alike_are_contrasted_where_they_differ():
    asked = PromptPair("Of X it is", "Of Q it is", "1914", "1945", "X")
    pair = encode_pair(TOKENIZER, asked)
    whole = [TOKENIZER.continuation(asked.clean, year) for year in ("1914", "1945")]
    begun = len(pair.clean) - len(TOKENIZER.encode(asked.clean))
    assert begun >= 1
    assert whole[0][:begun] == whole[1][:begun] == pair.clean.ids[-begun:]
    assert pair.corrupted.ids[-begun:] == pair.clean.ids[-begun:]
    assert (pair.answer, pair.foil) == (whole[0][begun], whole[1][begun])
    assert pair.answer != pair.foil
    assert asked.clean + " 1914"[: len(pair.clean.text) - len(asked.clean)] == pair.clean.text


def test_facts_that_begin_alike_are_paired_if_the_tokens_that_differ_are_known():
    years = _relation({"X": "1914", "Q": "1945", "V": "1789"}, templates=TEMPLATES[:1])
    asked = questions(years)
    check = known_facts(Oracle(asked), years)
    assert {pair.answer for pair in make_pairs(TOKENIZER, check).pairs} == {"1914", "1945", "1789"}
    half = Oracle(asked)
    for each in asked[:2]:  # the first token only
        ids = TOKENIZER.encode(each.prompt).ids
        for length in range(1, 5):
            half.best.pop(
                (*ids, *TOKENIZER.continuation(each.prompt, each.fact.object)[:length]), 0
            )
    check = known_facts(half, years)
    assert all(answer.known for answer in check.answers)
    assert len({TOKENIZER.first_token(each.prompt, each.fact.object) for each in asked}) == 1
    assert not make_pairs(TOKENIZER, check).pairs


def test_any_of_several_names_answers_and_the_pair_asks_for_the_one_that_is_said(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(
        '{"relation": "r", "subject": "X", "object": "Oslo", "prompt": "Of {} it is",'
        ' "aliases": ["Lima", "Havana"]}\n'
        '{"relation": "r", "subject": "Q", "object": "Tokyo", "prompt": "Of {} it is"}\n'
    )
    [relation] = load_facts(path)
    assert relation.facts[0].aliases == ("Lima", "Havana")
    said = [Question(Fact("r", "X", "Lima"), "Of {} it is"), questions(relation)[1]]
    check = known_facts(Oracle(said), relation)
    assert len(check.known) == 2
    pairs = {pair.subject: (pair.answer, pair.foil) for pair in make_pairs(TOKENIZER, check).pairs}
    assert pairs == {"X": ("Lima", "Tokyo"), "Q": ("Tokyo", "Lima")}


def test_asking_stops_when_there_are_enough_facts_for_the_pairs(model: Model):
    source = Source(relation="letters", known=EVERY, n_pairs=2)
    few = collect(model, source, relations=[LETTERS])
    every = collect(model, replace(source, n_pairs=None), relations=[LETTERS])
    assert len(few.pairs) == len(few.held_out) == 2
    assert few.counts["facts"] + few.counts["not_asked"] == len(LETTERS.facts)
    assert few.counts["questions"] < every.counts["questions"] == 3 * len(LETTERS.facts)
    assert "not_asked" not in every.counts
    again = collect(model, source, relations=[LETTERS])
    assert [pair.text for pair in again.pairs] == [pair.text for pair in few.pairs]


def test_whoever_knows_nothing_is_told_what_is_said_instead_and_what_may_help():
    with pytest.raises(PromptError, match="of 5 facts 'oracle' knows 0; it says") as error:
        collect(Oracle([]), Source(relation="capital"), relations=[CAPITALS])
    for word in ("15 of 15 times", "'The capital of France is' (not 'Paris')", "`shots=5`"):
        assert word in str(error.value)


def test_the_best_templates_are_those_that_are_answered():
    right = [Question(fact, TEMPLATES[3]) for fact in CAPITALS.facts]
    right += [Question(fact, TEMPLATES[1]) for fact in CAPITALS.facts[:2]]
    [found] = with_best(Oracle(right), [CAPITALS])
    assert found.best[:2] == (TEMPLATES[3], TEMPLATES[1])
    assert {each.template for each in questions(found, Templates.BEST)} == set(found.best)
    check = known_facts(Oracle(right), found, Templates.BEST)
    assert check.by_template()[TEMPLATES[3]] == (5, 5)


def test_the_usual_templates_are_asked_but_of_the_embedded_models(monkeypatch):
    usual = replace(CAPITALS, usual=TEMPLATES[1:])
    oracle = Oracle([Question(fact, each) for fact in CAPITALS.facts for each in TEMPLATES])

    def asked(**options) -> Mapping[str, Any]:
        source = Source(relation="capital", hold_out=0.0, **options)
        return collect(oracle, source, relations=[usual]).counts["asked_as"]

    for embedded, templates, wordings in (
        (False, "usual", TEMPLATES[1:]),
        (True, "first", TEMPLATES[:3]),
    ):
        monkeypatch.setattr(Oracle, "is_embedded", embedded)
        assert asked()["templates"] == templates
        assert set(asked()["wordings"]) == set(wordings)
        assert set(asked(templates=Templates.FIRST)["wordings"]) == set(TEMPLATES[:3])
        assert asked(wordings=TEMPLATES[:1])["wordings"] == list(TEMPLATES[:1])
    assert {each.template for each in questions(CAPITALS, Templates.USUAL)} == set(TEMPLATES[:3])


def test_shots_go_with_facts_of_one_relation_only(tmp_path):
    with pytest.raises(OptionError, match="`shots` are for facts"):
        Source(pairs=tmp_path / "pairs.jsonl", shots=2)
    with pytest.raises(OptionError, match="`shots` show one relation in plain"):
        Source(relation="country_capital", shots=2, corrupt=Corruption.RELATION)
