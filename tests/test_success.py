"""What an edited model says, and the measures made of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.edits.edit import EditRequest, LowRank, WeightDelta
from circuits.edits.judge.generation import Speaker, ngram_entropy, says
from circuits.edits.judge.measures import SCORINGS, Measure, Rates
from circuits.edits.judge.success import Judge, TextDrift, _text, norm_growth
from circuits.edits.judge.table import summarise
from circuits.edits.requests import Heading
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model
from tests.families import FAMILIES, family_model
from tests.families import PROMPTS as ASKED

PROMPTS = (
    "The capital of Peru is",
    "In Cuba the capital is",
    "Norway has its capital in the city of",
)
PROBES = (
    Probe(ProbeKind.PARAPHRASE, "In Peru the capital is", ("Oslo",), Heading.HELD_OUT),
    Probe(ProbeKind.LOCALITY, "The capital of Cuba is", ("Havana",), Heading.NEIGHBOUR),
    Probe(ProbeKind.LOCALITY, "The language of Peru is", ("Spanish",), Heading.SAME_SUBJECT),
    Probe(ProbeKind.PORTABILITY, "The country whose capital is Oslo is", ("Peru",), "Reasoning"),
)
REQUEST = EditRequest("The capital of {} is", "Peru", "Oslo", "Lima", None, PROBES)


def ids(model: Model, text: str) -> tuple[int, ...]:
    return model.tokenizer.encode(text).ids


def oracle(model: Model, prompt: str, token: int, strength: float = 1e3) -> WeightDelta:
    """A rank-one change of the last MLP's output that shouts one token after one prompt."""
    layer, found = model.n_layers - 1, {}
    hook = (f"blocks.{layer}.mlp.out.hook_in", lambda x, hook: found.update(key=x[0, -1].clone()))
    with torch.no_grad():
        model.last_logits(torch.tensor([ids(model, prompt)]), [hook])
    key, value = found["key"], model.unembedding()[token] * strength
    name = model.mlp_output_name(layer)
    pair = (key, value) if model.is_transposed(name) else (value, key)
    scaled = pair[0][:, None] / key.square().sum()
    return WeightDelta({name: LowRank(scaled, pair[1][None])}, {"method": "oracle"})


# --- what a model says ---------------------------------------------------------------------------


def test_a_reply_to_a_requests_prompt_has_room_for_the_true_answer(model):
    """It says what the model knew; a reply to another wording needs no more than the target."""
    truth = "Lima and other cities of Peru"
    judge = Judge(model, [replace(REQUEST, ground_truth=truth)], extra_tokens=2)
    long, short = (
        len(model.tokenizer.continuation(PROMPTS[0], text)) for text in (truth, REQUEST.target)
    )
    assert long > short
    assert [len(each.reply) for each in judge.observed_before[0][:2]] == [long + 2, short + 2]


def test_a_reply_is_what_step_by_step_runs_say(model):
    """Padding, batching and the cache change nothing."""
    prompts = [ids(model, prompt) for prompt in PROMPTS]
    every = [(token,) for token in range(model.d_vocab)]
    replies = Speaker(model).replies(prompts, 4, dict.fromkeys(prompts, every))
    for prompt, reply in zip(prompts, replies, strict=True):
        said = list(prompt)
        for token in reply.tokens:
            with torch.no_grad():
                logits = model.last_logits(torch.tensor([said]))
            if len(said) == len(prompt):
                expected = logits[0].log_softmax(-1)
                read = torch.tensor([reply.read[answer].log_probs[0] for answer in every])
                torch.testing.assert_close(read, expected, rtol=1e-4, atol=1e-4)
                best = (int(expected.argmax()),)
                assert {found.best for found in reply.read.values()} == {best}
            assert token == int(logits.argmax())
            said.append(token)


def test_replies_of_their_own_lengths_are_the_beginnings_of_long_ones(model):
    """A row that is done leaves the batch and takes nothing of the others with it."""
    prompts = [ids(model, prompt) for prompt in (*PROMPTS, *PROMPTS)]
    counts = [place % 4 for place in range(len(prompts))]
    speaker = Speaker(model, batch_size=5)
    whole = speaker.replies(prompts, 4)
    for long, short, count in zip(whole, speaker.replies(prompts, counts), counts, strict=True):
        assert short.tokens == long.tokens[:count]
    last = tuple(range(1, model.max_tokens))
    assert [len(each.tokens) for each in speaker.replies([last, prompts[0]], [2, 9])] == [2, 9]
    with pytest.raises(OptionError, match="too long"):
        speaker.replies([prompts[0], last], [1, 3])


def test_a_forced_answer_has_the_probabilities_of_its_tokens(model):
    question = (ids(model, PROMPTS[0]), (5, 9, 11))
    other = (ids(model, PROMPTS[2]), (7,))
    forced = Speaker(model).forced([question, other])[0]
    text = list(question[0])
    for token, log_prob, best in zip(forced.answer, forced.log_probs, forced.best, strict=True):
        with torch.no_grad():
            scores = model.last_logits(torch.tensor([text]))[0].log_softmax(-1)
        assert log_prob == pytest.approx(float(scores[token]), rel=1e-4, abs=1e-4)
        assert best == int(scores.argmax())
        text.append(token)
    assert forced.nll == pytest.approx(-np.mean(forced.log_probs))


def test_answers_of_one_prompt_are_those_of_each_alone(model):
    """The prompt is run once, whatever the answers' lengths and how they begin."""
    answers = [(5,), (9, 3), (9, 3, 7, 11), (5, 2), (9, 4, 8), (5,)]
    questions = [(ids(model, prompt), answer) for prompt in PROMPTS for answer in answers]
    questions.append((ids(model, "alone")[:2], (6, 7)))
    for size in (64, 4, 1):
        speaker = Speaker(model, size)
        for question, found in zip(questions, speaker.forced(questions), strict=True):
            (alone,) = speaker.forced([question])
            assert found.answer == alone.answer == question[1]
            assert found.best == alone.best
            np.testing.assert_allclose(found.log_probs, alone.log_probs, rtol=1e-4, atol=1e-5)


def test_an_answer_may_end_at_the_models_last_position_beside_a_longer_one(model):
    longest = tuple(n % 90 for n in range(model.max_tokens))
    short, long = longest[: model.max_tokens - 6], longest[:-1]
    speaker = Speaker(model)
    questions = [
        (short, longest[-6:]),
        (short, (3, 4)),
        (longest[:-1], (5, 8)),
        (longest[:-1], (6,)),
    ]
    found = speaker.forced(questions)
    for question, each in zip(questions, found, strict=True):
        (alone,) = speaker.forced([question])
        np.testing.assert_allclose(each.log_probs, alone.log_probs, rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="too long"):
        speaker.forced([*questions, (long, (5, 8, 9))])


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_every_architecture_are_those_of_its_own_logits(family):
    model = family_model(family)
    prompt = tuple(model.tokenizer.encode(ASKED[0][0]).ids)
    answers = [(5, 6, 7), (5, 6), (7,)]
    for questions in ([(prompt, answers[0])], [(prompt, answer) for answer in answers]):
        for (_, answer), found in zip(questions, Speaker(model).forced(questions), strict=True):
            with torch.no_grad():
                expected = [
                    float(
                        model.last_logits(torch.tensor([(*prompt, *answer[:n])]))[0].log_softmax(
                            -1
                        )[t]
                    )
                    for n, t in enumerate(answer)
                ]
            np.testing.assert_allclose(found.log_probs, expected, rtol=1e-4, atol=1e-5)


def test_greedy_text_begins_with_an_answer_exactly_where_all_its_tokens_are_argmax(model):
    """Teacher forcing and free generation agree on whole answers, and always on one token."""
    prompts = [ids(model, prompt) for prompt in PROMPTS]
    speaker = Speaker(model)
    replies = speaker.replies(prompts, 3)
    for prompt, reply in zip(prompts, replies, strict=True):
        said = reply.tokens
        wrong_end, wrong = (*said[:2], (said[2] + 1) % 300), ((said[0] + 1) % 300,)
        for answer in (said, said[:1], wrong_end, wrong):
            (forced,) = speaker.forced([(prompt, answer)])
            assert (forced.accuracy == 1) == (said[: len(answer)] == answer)


def test_a_speaker_follows_edits(model):
    speaker, prompt = Speaker(model), ids(model, PROMPTS[0])
    plain = speaker.replies([prompt], 1)[0].tokens
    token = (plain[0] + 7) % 300
    with oracle(model, PROMPTS[0], token).applied(model):
        assert speaker.replies([prompt], 1)[0].tokens == (token,)
    assert speaker.replies([prompt], 1)[0].tokens == plain


def test_perplexity_is_over_all_tokens_but_the_first(model):
    texts = [ids(model, prompt) for prompt in PROMPTS]
    losses = []
    for text in texts:
        for stop in range(1, len(text)):
            with torch.no_grad():
                scores = model.last_logits(torch.tensor([text[:stop]]))[0].log_softmax(-1)
            losses.append(-float(scores[text[stop]]))
    assert Speaker(model).text_nll(texts) == pytest.approx(np.mean(losses), rel=1e-4)


def test_sampling_repeats_with_its_generator_and_stays_among_the_best(model):
    speaker, prompt = Speaker(model), ids(model, PROMPTS[0])
    one, other = (speaker.sample(prompt, 6, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one == other
    assert speaker.sample(prompt, 6, 1, torch.Generator()) == list(
        speaker.replies([prompt], 6)[0].tokens
    )


def test_fluency_is_the_entropy_of_ngrams():
    assert ngram_entropy("no no no no no") == 0
    distinct = "a b c d e f g h i"  # 8 bigrams, 7 trigrams
    assert ngram_entropy(distinct) == pytest.approx((2 / 3 * 3 + 4 / 3 * np.log2(7)) / 2)
    assert ngram_entropy("") == 0


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (" Paris. The", "Paris", True),
        ("東京です。", "東京", True),
        ("東京都の", "東京", True),
        ("京都です", "東京", False),
        ("北京是中国的首都", "北京", True),
        ("フランスの首都", "フランス", True),
        ("フランスパン", "フランス", False),
        ("กรุงเทพครับ", "กรุงเทพ", True),
        ("Ｐａｒｉｓ。", "Paris", True),
        ("Paris是", "Paris", True),
        ("Zu\u0308rich", "Zu", False),
        (" paris", "Paris", True),
        (" Parisian", "Paris", False),
        (" New  York City", "New York", True),
        (" the Paris", "Paris", False),
        (" C++ is", "C++", True),
    ],
)
def test_an_answer_is_said_as_whole_words(text, answer, expected):
    assert says(text, answer) is expected


# --- measures ------------------------------------------------------------------------------------


def test_an_edit_that_does_nothing_has_locality_1_and_the_base_model_s_efficacy(model):
    judge = Judge(model, [REQUEST], texts=PROMPTS)
    name = model.mlp_output_name(0)
    with WeightDelta({name: torch.zeros_like(model.parameter(name))}).applied(model):
        (score,) = judge.score()
        assert judge.drift() == 1
    for measure in (Measure.LOCALITY, Measure.NEIGHBOURS, Measure.SAME_SUBJECT):
        assert score.after[measure].tokens == score.after[measure].generation == 1
    assert str(score.after) == str(score.before)  # NaN equals nothing, but reads the same
    assert score.probability[0] == score.probability[1]
    assert score.reply[0] == score.reply[1]


def test_an_oracle_edit_has_efficacy_1(model):
    answer = model.tokenizer.continuation(REQUEST.text, "Oslo")
    judge = Judge(model, [REQUEST], extra_tokens=0)
    with oracle(model, REQUEST.text, answer[0]).applied(model):
        (score,) = judge.score()
    rates = score.after[Measure.EFFICACY]
    assert rates.likelihood == 1
    assert rates.tokens >= 1 / len(answer)
    if len(answer) == 1:
        assert rates.tokens == rates.generation == 1
        assert score.probability[1] > score.probability[0]
    assert score.before[Measure.EFFICACY].tokens < 1


def test_teacher_forced_and_free_scores_agree_on_answers_of_one_token(model):
    """Where nothing is generated beyond the answer."""
    words = ("Lima", "Paris", "Tokyo", "Havana", "Peru")
    tokens = {word: model.tokenizer.continuation(REQUEST.text, word) for word in words}
    said = {word: found[0] for word, found in tokens.items() if len(found) == 1}
    assert said
    for word, token in said.items():
        request = EditRequest(REQUEST.prompt, REQUEST.subject, word, "Rome")
        judge = Judge(model, [request], extra_tokens=0)
        assert judge.score()[0].after[Measure.EFFICACY].generation == 0
        with oracle(model, REQUEST.text, token).applied(model):
            rates = judge.score()[0].after[Measure.EFFICACY]
        assert rates.tokens == rates.generation == 1


def test_each_measure_is_of_the_prompts_that_ask_it(model):
    (score,) = Judge(model, [REQUEST]).score()
    assert set(score.after) == {
        Measure.EFFICACY,
        Measure.PARAPHRASE,
        Measure.HELD_OUT,
        Measure.PORTABILITY,
        Measure.ONE_HOP,
        Measure.LOCALITY,
        Measure.LOCALITY_TRUE,
        Measure.NEIGHBOURS,
        Measure.NEIGHBOURS_TRUE,
        Measure.SAME_SUBJECT,
        Measure.SAME_SUBJECT_TRUE,
    }


def test_likelihood_success_turns_round_for_neighbours(model):
    """One and the same prompt as paraphrase and as neighbour: just one of them can succeed."""
    prompt = "The capital of Cuba is"
    probes = (
        Probe(ProbeKind.PARAPHRASE, prompt, ("Oslo",)),
        Probe(ProbeKind.LOCALITY, prompt, ("Lima",)),
    )
    request = EditRequest("The capital of {} is", "Peru", "Oslo", "Lima", None, probes)
    (score,) = Judge(model, [request]).score()
    wanted, kept = (score.after[m].likelihood for m in (Measure.PARAPHRASE, Measure.LOCALITY_TRUE))
    assert wanted + kept == 1


def test_requests_are_scored_the_same_alone_and_together(model):
    other = EditRequest("In {} the capital is", "Cuba", "Lima", "Havana")
    judge = Judge(model, [REQUEST, other])
    assert str(judge.score()[1].after) == str(judge.score([1])[0].after)


def test_a_probe_that_cannot_be_asked_is_left_out_and_named(model):
    probe = Probe(ProbeKind.LOCALITY, "", ("x",))
    judge = Judge(model, [EditRequest("{} is", "Peru", "Oslo", None, None, (probe,))])
    assert len(judge.left_out) == 1
    with pytest.raises(PromptError):
        Judge(model, [EditRequest("{} " + "is " * 200, "Peru", "Oslo")])


def test_fluency_is_asked_only_where_wanted(model):
    (score,) = Judge(model, [REQUEST]).score()
    assert np.isnan(score.fluency).all()
    (score,) = Judge(model, [REQUEST], fluency_tokens=12).score()
    assert score.fluency[0] == score.fluency[1] > 0


def test_fluency_is_of_so_many_tokens_with_the_prompts_and_does_not_end_at_the_end(model):
    prompt, end = ids(model, REQUEST.text), model.tokenizer.hf.eos_token_id
    (plain,) = Judge(model, [REQUEST], fluency_tokens=30).score()
    said = Speaker(model).sample(prompt, 30, 5, torch.Generator().manual_seed(0))
    decode = partial(
        model.tokenizer.hf.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    own = len(model.tokenizer.encode(REQUEST.text, bos=False).ids)
    wanted = ngram_entropy(decode([*prompt, *said[: 30 - own]]))
    assert plain.fluency[0] == pytest.approx(wanted)
    cut = said[: said.index(end)] if end in said else said
    text = decode([*prompt[1:], *cut], skip_special_tokens=False)
    assert plain.entropy_to_end[0] == pytest.approx(ngram_entropy(text))


def test_a_model_that_ends_at_once_is_low_in_the_entropy_to_the_end_only(model):
    end = model.tokenizer.hf.eos_token_id
    judge = Judge(model, [REQUEST], fluency_tokens=30)
    said = Speaker(model).sample(ids(model, REQUEST.text), 30, 5, torch.Generator().manual_seed(0))
    judge._speaker.sample = lambda *arguments: [end, *said[1:]]
    (score,) = judge.score()
    short = ngram_entropy(REQUEST.text)
    assert score.entropy_to_end[1] == pytest.approx(short)
    assert score.fluency[1] > short


def test_knowedits_aggregation_is_over_categories_first(model):
    """One category of three prompts and one of a single prompt count alike."""
    prompts = ["The capital of Peru is", "The capital of Cuba is", "The capital of Japan is"]
    kind = ProbeKind.LOCALITY
    probes = [Probe(kind, each, ("Oslo",), "many") for each in prompts]
    probes.append(Probe(kind, "The language of Peru is", ("Lima",), "one"))
    request = EditRequest("The capital of {} is", "Norway", "Lima", "Oslo", None, tuple(probes))
    judge = Judge(model, [request])
    token = model.tokenizer.first_token(prompts[0], "Havana")
    with oracle(model, prompts[0], token).applied(model):
        (score,) = judge.score()
        kept = [
            Judge(model, [EditRequest("The {} of", "x", "y", None, None, (probe,))])
            for probe in probes
        ]
    assert len(kept) == 4
    before = [Judge(model, [request])._before[0][place].answers[0].best for place in (1, 2, 3, 4)]
    after = [each._before[0][1].answers[0].best for each in kept]
    same = [np.mean(np.equal(a, b)) for a, b in zip(before, after, strict=True)]
    assert not all(same)
    assert score.after[Measure.LOCALITY].tokens == pytest.approx(np.mean(same))
    wanted = (np.mean(same[:3]) + same[3]) / 2
    assert score.by_category[Measure.LOCALITY].tokens == pytest.approx(wanted)
    table = summarise([score])
    assert table.knowedit[Measure.LOCALITY]["tokens"].value == pytest.approx(wanted)
    assert table.as_dict()["knowedit"]["locality"]["tokens"]["value"] == pytest.approx(wanted)


def test_norm_growth_compares_with_the_weight(model):
    name = model.mlp_output_name(1)
    growth = norm_growth(model, WeightDelta({name: model.parameter(name).clone()}))
    assert growth[name]["change"] == pytest.approx(1)
    assert growth[name]["growth"] == pytest.approx(2)


def test_a_table_averages_over_requests_that_have_the_measure(model):
    bare = EditRequest("In {} the capital is", "Cuba", "Lima", "Havana")
    scores = Judge(model, [REQUEST, bare]).score()
    table = summarise(scores, drifts=[1.0, 3.0])
    assert table.n == 2
    assert table.drift.value == 2
    for scoring in SCORINGS:
        both = [getattr(score.after[Measure.EFFICACY], scoring) for score in scores]
        assert table.after[Measure.EFFICACY][scoring].value == pytest.approx(np.mean(both))
        only = getattr(scores[0].after[Measure.NEIGHBOURS], scoring)
        found = table.after[Measure.NEIGHBOURS][scoring].value
        assert found == only or (np.isnan(found) and np.isnan(only))
    assert table.as_dict()["after"]["neighbours"]["likelihood"]["value"] is None
    with pytest.raises(NumericalError):
        summarise([])


def test_agreement_of_the_model_with_itself_is_certain_and_that_after_an_edit_is_not(model):
    """Before the edit it is 1 by definition; nine of nine afterwards leave room."""
    rates = dict.fromkeys((Measure.EFFICACY, Measure.LOCALITY), Rates(1.0, 1.0, 1.0))
    (score,) = Judge(model, [REQUEST]).score()
    table = summarise([replace(score, before=rates, after=rates)] * 9)
    assert vars(table.before[Measure.LOCALITY]["tokens"]) == {"value": 1, "low": 1, "high": 1}
    for side in (table.before[Measure.EFFICACY], table.after[Measure.LOCALITY]):
        assert side["tokens"].low == pytest.approx(9 / (9 + 1.959964**2))
        assert side["tokens"].high == 1


def test_counterfact_s_score_is_a_harmonic_mean(model):
    (score,) = Judge(model, [REQUEST]).score()
    rows = {Measure.EFFICACY: 1.0, Measure.PARAPHRASE: 0.5, Measure.NEIGHBOURS_TRUE: 0.25}
    made = {measure: Rates(0.0, value, 0.0) for measure, value in rows.items()}
    table = summarise([type(score)(REQUEST, made, made, (0.1, 0.2), ("", ""))])
    assert table.score == pytest.approx(3 / 7)


def test_a_reply_that_begins_with_the_end_is_empty(model):
    """Also where BOS is the same token, as of GPT-2."""
    hf = model.tokenizer.hf
    after = [each for each in ids(model, PROMPTS[0]) if each != hf.bos_token_id]
    assert _text(model.tokenizer, (hf.eos_token_id, *after)) == ""
    assert _text(model.tokenizer, (*after, hf.eos_token_id, *after)) == PROMPTS[0]


def test_judges_may_share_the_texts_and_leave_fluency_out(model: Model) -> None:
    request = EditRequest("The capital of {} is", "Peru", "Oslo")
    texts = ["The river rises in the hills and runs to the sea."]
    drift = TextDrift(model, texts)
    shared = Judge(model, [request], texts=drift, fluency_tokens=8)
    alone = Judge(model, [request], texts=texts, fluency_tokens=8)
    assert shared.perplexity == alone.perplexity == drift.perplexity
    assert shared.drift() == alone.drift() == 1
    (score,) = shared.score(fluency=False)
    assert np.isfinite(score.fluency[0])
    assert np.isnan(score.fluency[1])
    (sampled,) = shared.score()
    assert sampled.fluency[1] == score.fluency[0]
    assert Judge(model, [request]).drift() is None
