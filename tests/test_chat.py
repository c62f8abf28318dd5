"""Asking through a chat template: what stands before the question is no part of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from circuits.base.choices import Corruption
from circuits.base.errors import OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import PromptPair, encode_pair
from circuits.facts.questions import KnowledgeCheck
from circuits.facts.spans import span_places
from circuits.model.model import Model, load
from circuits.model.tokens import Span, Tokenizer
from experiments.cli.main import main
from locate.asking import hints
from locate.chat import REQUEST, chat_pair, chat_preamble
from locate.examples import collect
from locate.heads.attention import _region_masks
from locate.heads.readings import REGIONS, Region
from locate.options import Source
from tests.tiny import byte_level_tokenizer, gpt2_hf, metaspace_tokenizer


def test_a_chat_prompt_keeps_its_subject_and_answer():
    hf = byte_level_tokenizer.__wrapped__()
    hf.chat_template = (
        "{% for each in messages %}<{{ each['role'] }}>{{ each['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = Tokenizer(hf)
    plain = "The capital of Peru is"
    text = chat_preamble(tokenizer) + plain
    assert text == f"<user>{REQUEST}\n<assistant>{plain}"
    prompt = tokenizer.encode(text)
    span = prompt.span_of("Peru")
    assert tokenizer.hf.decode(prompt.ids[span.start : span.stop]).strip() == "Peru"
    assert tokenizer.first_token(text, "Lima") == tokenizer.first_token(plain, "Lima")
    with pytest.raises(OptionError, match="no chat template"):
        chat_preamble(Tokenizer(metaspace_tokenizer()))


def test_a_chat_says_the_same_day_whenever_it_is_asked():
    hf = byte_level_tokenizer.__wrapped__()
    hf.chat_template = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- endif %}{{ date_string }}; {{ strftime_now('%d %B %Y') }};"
    )
    assert chat_preamble(Tokenizer(hf), bos=False) == "26 Jul 2024; 26 July 2024;"
    assert "macro" not in hf.chat_template


def test_a_pair_in_chat_keeps_its_question_and_its_places():
    """The request says "words" and "sentence" too, the system's text names the subject."""
    hf = byte_level_tokenizer.__wrapped__()
    hf.chat_template = "I was made in Peru.{{ messages[0]['content'] }}\n"
    tokenizer = Tokenizer(hf)
    shown = "The words of Chad: two. "
    clean, corrupted = (f"{shown}The words of {each}: words" for each in ("Peru", "Cuba"))
    spans = (("noun", "words", 3), ("shown", "Chad", 0))
    pair = PromptPair(clean, corrupted, "a", "b", "Peru", spans=spans, start=len(shown))
    plain = encode_pair(tokenizer, pair, False)
    chat = encode_pair(tokenizer, chat_pair(tokenizer, pair, False), False)
    shift = len(chat.clean) - len(plain.clean)
    assert chat.clean.ids[shift:] == plain.clean.ids
    assert chat.start == plain.start + shift
    found = [("subject", chat.subject), *chat.spans]
    expected = [("subject", plain.subject), *plain.spans]
    assert found == [(name, Span(at.start + shift, at.stop + shift)) for name, at in expected]
    assert chat_pair(tokenizer, replace(pair, subject="Chad"), False).spans[1:] == spans[1:]


def test_the_preamble_is_no_part_of_the_question():
    model = load("facts-gpt2", device="cpu")
    model.tokenizer.hf.chat_template = "<user>"
    for corrupt in Corruption:
        source = Source(
            "country_capital", chat=True, known_only=False, corrupt=corrupt, n_pairs=2, bos=False
        )
        for pair in collect(model, source).pairs:
            start = len(model.tokenizer.encode("<user>", bos=False))
            assert pair.start == start
            assert set(span_places(pair, ("relation", "last", "others"))[:start]) == {2}
            assert 2 not in span_places(pair, ("relation", "last", "others"))[start:]
            regions = _region_masks(next(batches([pair], 1)), [pair])[0].argmax(-1)
            assert [REGIONS[at] for at in regions[:start]] == [Region.EXAMPLES] * start


def test_no_demonstrations_are_recommended_in_chat():
    hf = byte_level_tokenizer.__wrapped__()
    model = Model.from_hf(gpt2_hf(), hf, "tiny")
    check = KnowledgeCheck(())
    for chat in (False, True):
        told = hints(check, Source("country_capital", chat=chat), model)[0]
        assert ("shots" in told) is not chat


def test_facts_are_asked_through_the_chat_template(tmp_path, capsys):
    """What `kc facts --chat` counts is what the prompts in chat are answered with."""
    hf = gpt2_hf()
    tokenizer = byte_level_tokenizer.__wrapped__()
    tokenizer.chat_template = "{% for each in messages %}<{{ each['role'] }}>{% endfor %}"
    for each in (hf, tokenizer):
        each.save_pretrained(tmp_path / "model")
    facts = tmp_path / "facts.json"
    rows = [
        {"subject": name, "object": "x", "prompt": f"{name} is", "relation": "r"}
        for name in ("Peru", "Chad")
    ]
    facts.write_text(json.dumps(rows))
    command = ["facts", "r", "--facts", str(facts), "--model", str(tmp_path / "model"), "--json"]
    said = {}
    for flags in ((), ("--chat",)):
        assert main([*command, *flags]) == 0
        (record,) = json.loads(capsys.readouterr().out)["relations"]
        assert [each["wording"] for each in record["by_wording"]] == ["{} is"]
        said[flags] = [each["says"] for each in record["list"]]
    model = load(tmp_path / "model", device="cpu")
    for flags, front in (((), ""), (("--chat",), "<user>")):
        for row, found in zip(rows, said[flags], strict=True):
            ids = torch.tensor([model.tokenizer.encode(front + row["prompt"]).ids])
            best = int(model.last_logits(ids).argmax())
            assert found == [model.tokenizer.hf.decode([best])]
    assert main(["facts", "r", "--facts", str(facts), "--chat"]) == 2
    assert "needs a model" in capsys.readouterr().err
