"""Spans, continuations and BOS mean the same for both families of tokenizers."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from circuits.base.errors import PromptError
from circuits.model.tokens import Prompt, Tokenizer, find_mentions, usual_bos
from tests.shared import shared_data
from tests.tiny import byte_level_tokenizer, metaspace_tokenizer

TOKENIZERS = {
    "byte-level": Tokenizer(byte_level_tokenizer()),
    "metaspace": Tokenizer(metaspace_tokenizer()),
}


@pytest.fixture(params=[*TOKENIZERS, "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Both families, small; and the real GPT-2 tokenizer where it is at hand."""
    return _real_gpt2() if request.param == "gpt2" else TOKENIZERS[request.param]


@cache
def _real_gpt2() -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(shared_data("gpt2-tokenizer")))


def _read_bytes(tokenizer: Tokenizer, prompt: Prompt, start: int, stop: int) -> str:
    return tokenizer.hf.decode(list(prompt.ids[start:stop]), clean_up_tokenization_spaces=False)


SENTENCES = [
    ("The capital of France is", "France"),
    ("France has its capital in", "France"),
    ("The capital of Zürich is", "Zürich"),
    ("São Paulo lies in", "São Paulo"),
    ("In Côte d'Ivoire's capital", "Côte d'Ivoire"),
    ("The 🦊🦊 is a", "🦊🦊"),
    ("日本 has its capital in", "日本"),
    ("é is", "é"),
    ("Romania and Oman differ", "Oman"),
    ("Romania and Oman differ", "Romania"),
    ("(Peru) is", "Peru"),
    ("The word 'Peru' means", "Peru"),
    ("  Peru  is", "Peru"),
]


@pytest.mark.parametrize(("text", "subject"), SENTENCES)
@pytest.mark.parametrize("bos", [True, False])
def test_a_subjects_span_reads_as_the_subject(
    tokenizer: Tokenizer, text: str, subject: str, bos: bool
):
    prompt = tokenizer.encode(text, bos)
    span = prompt.span_of(subject)
    inside = _read_bytes(tokenizer, prompt, span.start, span.stop)
    assert subject in inside
    assert len(inside.strip()) <= len(subject) + 2, "a neighbour is in the span"
    for smaller in ((span.start + 1, span.stop), (span.start, span.last)):
        assert subject not in _read_bytes(tokenizer, prompt, *smaller), "the span is too wide"


@pytest.mark.parametrize(("text", "subject"), SENTENCES)
def test_bos_moves_a_span_by_one_and_changes_nothing_else(
    tokenizer: Tokenizer, text: str, subject: str
):
    plain, with_bos = tokenizer.encode(text, bos=False), tokenizer.encode(text, bos=True)
    assert with_bos.ids == (tokenizer.hf.bos_token_id, *plain.ids)
    assert with_bos.span_of(subject).start == plain.span_of(subject).start + 1
    assert len(with_bos.span_of(subject)) == len(plain.span_of(subject))
    assert len(with_bos.tokens) == len(with_bos.offsets) == len(with_bos)


def test_there_is_never_a_second_bos_although_llama_adds_its_own():
    automatic = TOKENIZERS["metaspace"].hf("France")["input_ids"]
    assert automatic[0] == TOKENIZERS["metaspace"].hf.bos_token_id
    assert TOKENIZERS["metaspace"].encode("France").ids == tuple(automatic)
    assert TOKENIZERS["byte-level"].hf("France")["input_ids"][0] != 0
    assert TOKENIZERS["byte-level"].encode("France", bos=True).ids[0] == 0


@pytest.mark.parametrize(("kind", "sign"), [("byte-level", "<|endoftext|>"), ("metaspace", "<s>")])
def test_a_bos_written_in_the_prompt_is_refused_and_not_doubled(kind: str, sign: str):
    tokenizer = TOKENIZERS[kind]
    with pytest.raises(PromptError, match="BOS"):
        tokenizer.encode(f"{sign}France is", bos=True)
    assert tokenizer.encode(f"{sign}France is", bos=False).ids.count(tokenizer.hf.bos_token_id) == 1


def test_a_blank_token_before_the_first_word_is_not_the_subjects():
    prompt = TOKENIZERS["metaspace"].encode("Qatar is", bos=False)
    assert prompt.tokens[0] == " ", "this vocabulary has no token for a space and Q"
    assert prompt.span_of("Qatar").start == 1


@pytest.mark.parametrize(
    ("text", "subject", "count"),
    [
        ("Romania and Oman", "Oman", 1),
        ("Romania is", "Oman", 0),
        ("Oman's neighbour of Oman", "Oman", 2),
        ("snake_case is", "snake", 0),
        ("C++ is", "C++", 1),
        ("Oman.", " Oman ", 1),
        ("oman is", "Oman", 0),
        ("a.c is not abc", "a.c", 1),
        ("to and to and to", "to and to", 2),
        ("日本の首都は", "日本", 1),
        ("法国的首都是", "法国", 1),
        ("フランスパンの国", "フランス", 0),
    ],
)
def test_mentions_are_whole_words_as_written(text: str, subject: str, count: int):
    mentions = find_mentions(text, subject)
    assert len(mentions) == count
    assert all(text[start:stop] == subject.strip() for start, stop in mentions)


@pytest.mark.parametrize(
    ("text", "subject", "message"),
    [
        ("The capital of Romania is", "Oman", "subject 'Oman' is not in the prompt"),
        ("Oman borders Oman in", "Oman", "occurs 2 times"),
        ("The capital is", "", "the subject is empty"),
        ("The capital is", "  ", "the subject is empty"),
    ],
)
def test_an_absent_double_or_empty_subject_is_refused(text: str, subject: str, message: str):
    for tokenizer in TOKENIZERS.values():
        with pytest.raises(PromptError, match=message):
            tokenizer.encode(text).span_of(subject)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_prompt_is_refused(text: str):
    with pytest.raises(PromptError, match="prompt is empty"):
        TOKENIZERS["byte-level"].encode(text)


def test_the_default_is_what_the_tokenizer_does_and_not_that_it_has_a_bos_token():
    assert TOKENIZERS["byte-level"].hf.bos_token_id == 0
    assert not TOKENIZERS["byte-level"].default_bos
    assert TOKENIZERS["metaspace"].default_bos


def test_a_gpt2_is_asked_with_bos_and_a_llama_as_its_tokenizer_does():
    adds, does_not = metaspace_tokenizer(), byte_level_tokenizer()
    assert usual_bos(does_not, "gpt2")
    assert not usual_bos(does_not, "llama")
    assert usual_bos(adds, "llama")


def test_bos_cannot_be_asked_of_a_tokenizer_without_one():
    class NoBos:
        is_fast, bos_token_id, name_or_path = True, None, "nameless"

    assert Tokenizer(NoBos()).use_bos(None) is False
    with pytest.raises(PromptError, match="no BOS token"):
        Tokenizer(NoBos()).use_bos(True)


def test_a_slow_tokenizer_is_refused_because_it_has_no_offsets():
    class Slow:
        is_fast, bos_token_id, name_or_path = False, 0, "slow"

    with pytest.raises(PromptError, match="no fast version"):
        Tokenizer(Slow())


@pytest.mark.parametrize(
    ("prompt", "joint"),
    [
        ("The capital of France is", "The capital of France is Paris"),
        ("Q: Which city? A:", "Q: Which city? A: Paris"),
        ("Everyone says, “", "Everyone says, “Paris"),
        ("(the capital is (", "(the capital is (Paris"),
        ('The capital is "', 'The capital is "Paris'),
        ("The capital is '", "The capital is 'Paris"),
        ("Instead of 'Lima' say '", "Instead of 'Lima' say 'Paris"),
        ("The opposite of 'Lima'", "The opposite of 'Lima' Paris"),
        ('They say "Lima" not "Oslo"', 'They say "Lima" not "Oslo" Paris'),
        ("the players'", "the players' Paris"),
        ("Answer:\n", "Answer:\nParis"),
    ],
)
def test_an_answer_continues_the_prompt_as_a_writer_would(
    tokenizer: Tokenizer, prompt: str, joint: str
):
    whole = tokenizer.encode(joint, bos=False).ids
    alone = tokenizer.encode(prompt, bos=False).ids
    assert tokenizer.continuation(prompt, "Paris") == whole[len(alone) :]
    assert tokenizer.continuation(prompt, "  Paris ") == tokenizer.continuation(prompt, "Paris")
    assert tokenizer.first_token(prompt, "Paris") == whole[len(alone)]


def test_scripts_without_spaces_get_none_before_the_answer():
    tokenizer = Tokenizer(byte_level_tokenizer())
    whole, alone = (
        tokenizer.encode(text, bos=False).ids for text in ("日本の首都は東京", "日本の首都は")
    )
    assert tokenizer.continuation("日本の首都は", "東京") == whole[len(alone) :]


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_an_answer_to_nothing_is_its_own_tokens(tokenizer):
    assert tokenizer.continuation("", "Paris") == tokenizer.encode("Paris", bos=False).ids


def test_a_prompt_that_ends_in_a_space_is_refused_where_the_space_belongs_to_the_answer():
    with pytest.raises(PromptError, match="it ends in white space"):
        _real_gpt2().continuation("The capital of France is ", "Paris")


def test_no_space_is_doubled_after_a_prompt_that_ends_in_one():
    prompt = "The capital of Norway is "
    for tokenizer in TOKENIZERS.values():
        alone = tokenizer.encode(prompt, bos=False).ids
        whole = tokenizer.encode(prompt + "Oslo", bos=False).ids
        if whole[: len(alone)] == alone:
            assert tokenizer.continuation(prompt, "Oslo") == whole[len(alone) :]
        else:
            with pytest.raises(PromptError, match="it ends in white space"):
                tokenizer.continuation(prompt, "Oslo")


def test_an_answer_that_merges_with_the_prompt_is_refused():
    with pytest.raises(PromptError, match="their tokens merge"):
        _real_gpt2().continuation("He said (", "(")


def test_an_empty_answer_is_refused():
    with pytest.raises(PromptError, match="answer to 'The' is empty"):
        TOKENIZERS["byte-level"].continuation("The", " ")


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=12
).filter(str.strip)


@pytest.mark.parametrize("family", list(TOKENIZERS))
@given(prompt=WORDS, answer=WORDS)
def test_prompt_tokens_and_continuation_are_the_whole_tokenised_at_once(
    family: str, prompt: str, answer: str
):
    tokenizer = TOKENIZERS[family]
    alone = tokenizer.encode(prompt, bos=False).ids
    glued = [prompt + glue + answer.strip() for glue in ("", " ")]
    wholes = [tokenizer.encode(text, bos=False).ids for text in glued]
    if all(whole[: len(alone)] != alone for whole in wholes):
        with pytest.raises(PromptError, match="cannot continue"):
            tokenizer.continuation(prompt, answer)
        return
    try:
        ending = tokenizer.continuation(prompt, answer)
    except PromptError:  # the one way that keeps the prompt's tokens is not how a writer goes on
        return
    assert alone + ending in wholes


@pytest.mark.parametrize("family", list(TOKENIZERS))
@given(before=WORDS, subject=WORDS, after=WORDS)
def test_every_letter_of_the_subject_lies_in_its_span_and_no_token_is_wasted(
    family: str, before: str, subject: str, after: str
):
    text = f"{before} {subject} {after}"
    mentions = find_mentions(text, subject)
    assume(len(mentions) == 1)
    prompt = TOKENIZERS[family].encode(text)
    span = prompt.span_of(subject)
    start, stop = mentions[0]
    covered = {
        position
        for left, right in prompt.offsets[span.start : span.stop]
        for position in range(left, right)
    }
    assert set(range(start, stop)) <= covered
    for edge in (span.start, span.last):
        left, right = prompt.offsets[edge]
        assert left < stop
        assert right > start


def test_tokens_read_as_text_with_their_spaces():
    for tokenizer in TOKENIZERS.values():
        prompt = tokenizer.encode("The capital of France is", bos=False)
        assert "".join(prompt.tokens).strip() == "The capital of France is"
        assert " capital" in prompt.tokens


def test_the_fingerprint_tells_vocabularies_apart():
    assert len({tokenizer.fingerprint for tokenizer in TOKENIZERS.values()}) == 2
    again = Tokenizer(byte_level_tokenizer())
    assert again.fingerprint == TOKENIZERS["byte-level"].fingerprint
