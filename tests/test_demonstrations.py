"""Answered questions before a question: each is answered as the question itself would be."""

from __future__ import annotations

import pytest

from circuits.facts.demonstrations import Style, demonstrated, shown_before
from circuits.facts.facts import Fact, atlas, fill
from circuits.facts.wordings import wordings
from circuits.model.tokens import Tokenizer, sentence_end
from experiments.analyses.multihop.prompts import Asking, TwoHops
from tests.tiny import byte_level_tokenizer


@pytest.mark.parametrize(
    ("template", "shown", "expected"),
    [
        ("法国的首都是", ("法国", "巴黎"), "法国的首都是巴黎。"),
        ("{}的首都是", ("法国", "巴黎"), "法国的首都是巴黎。"),
        ("{}の首都は「", ("日本", "東京"), "日本の首都は「東京」。"),
        ("问：{}的首都？答：", ("法国", "巴黎"), "问：法国的首都？答：巴黎。"),
        ("{}成立于", ("公司", "1949"), "公司成立于1949。"),
        ("เมืองหลวงของ{}คือ", ("ญี่ปุ่น", "โตเกียว"), "เมืองหลวงของญี่ปุ่นคือโตเกียว "),
        ('The capital of {} is "', ("France", "Paris"), 'The capital of France is "Paris". '),
        ("They said: \"It's {},", ("on", "off"), 'They said: "It\'s on, off". '),
        ("The 'capital' (of {}: “", ("Peru", "Lima"), "The 'capital' (of Peru: “Lima”). "),
        (
            "( a « b » ) The capital of {} is '",
            ("France", "Paris"),
            "( a « b » ) The capital of France is 'Paris'. ",
        ),
        ('{}\'s "capital" is', ("Chad", "N'Djamena"), "Chad's \"capital\" is N'Djamena. "),
        ("Q: the capital of {}?\nA:\n", ("Peru", "Lima"), "Q: the capital of Peru?\nA:\nLima. "),
        ("{}의 수도는", ("한국", "서울"), "한국의 수도는 서울. "),
        ("„{}“ ist von", ("Faust", "Goethe"), "„Faust“ ist von Goethe. "),
        ("»{}« ist von", ("Faust", "Goethe"), "»Faust« ist von Goethe. "),
        ("« {} » est de", ("Faust", "Goethe"), "« Faust » est de Goethe. "),
        ("{} heißt dort „", ("Rom", "Roma"), "Rom heißt dort „Roma“. "),
    ],
)
def test_an_example_is_answered_as_its_language_writes(template, shown, expected):
    template = template if "{}" in template else template.replace(shown[0], "{}")
    found = demonstrated(template, "X", [Fact("r", *shown)])
    assert found.text == expected + fill(template, "X")
    assert found.start == len(expected)
    assert [found.text[slice(*at)] for at in found.objects] == [shown[1]]
    assert [found.text[slice(*at)] for at in found.subjects] == [shown[0]]


def test_an_example_continues_with_the_tokens_that_a_question_expects():
    tokenizer = Tokenizer(byte_level_tokenizer())
    for template, fact in (
        ("{}的首都是", Fact("r", "法国", "巴黎")),
        ('The capital of {} is "', Fact("r", "Peru", "Lima")),
    ):
        question = fill(template, fact.subject)
        whole = tokenizer.encode(shown_before(template, [fact]), bos=False).ids
        end = tokenizer.encode(sentence_end(question), bos=False).ids
        said = tokenizer.continuation(question, fact.object)
        assert whole == (*tokenizer.encode(question, bos=False).ids, *said, *end)


def test_examples_of_the_atlas_have_a_space_before_and_a_full_stop_after():
    for relation in atlas().values():
        facts = relation.facts[:40]
        for template in (*relation.templates, *relation.held_out):
            expected = "".join(f"{fill(template, x.subject)} {x.object}. " for x in facts)
            assert shown_before(template, facts) == expected
        listed = "".join(f"{x.subject}: {x.object}. " for x in facts)
        assert demonstrated("{}", "X", facts, Style.LIST).text == f"{listed}X:"
    for template in wordings().reversed.values():
        assert sentence_end(fill(template, "Peru")) == ". "


def test_chains_stand_answered_as_facts_do():
    shown = (TwoHops("法国", "巴黎", "欧洲"), TwoHops("日本", "東京", "亚洲"))
    asking = Asking(lambda hops: f"{hops.subject}的首都在", shown)
    assert asking.before == "法国的首都在欧洲。日本的首都在亚洲。"
