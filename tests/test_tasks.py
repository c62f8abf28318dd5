"""Tasks that are no facts: sets of answers, exact answers, spans, patching, heads by span."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import knowledge_circuits as kc
from circuits.base.choices import Task, TraceKind
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.facts.batches import batches
from circuits.facts.facts import fill, place_in
from circuits.facts.pairs import PromptPair, encode_pair, encode_pairs, read_pairs
from circuits.facts.tasks import task_pairs
from circuits.model.metrics import evaluate_metric, logit_difference, probability_difference
from circuits.model.model import Model
from circuits.model.tokens import Tokenizer, find_mentions
from locate.examples import TASK_PAIRS, collect, recalled
from locate.heads.span_roles import span_roles
from locate.options import Source
from locate.states.patching import patch_pairs
from locate.states.trace_average import places_of, trace_facts
from locate.states.trace_roles import AverageTrace
from tests.tiny import COUNTRIES, byte_level_tokenizer, metaspace_tokenizer

PERU = {
    "clean": "People in Peru speak of Peru and say",
    "corrupted": "People in Peru speak of Cuba and say",
    "answer": "Lima",
    "foil": "Oslo",
}


@pytest.fixture(scope="module", params=["bytes", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    make = {"bytes": byte_level_tokenizer, "metaspace": metaspace_tokenizer}
    return Tokenizer(make[request.param]())


@pytest.mark.parametrize("task", Task)
def test_a_tasks_pairs_can_be_asked_and_differ(tokenizer: Tokenizer, task: Task):
    pairs = task_pairs(tokenizer, task, 6, seed=1)
    assert len(set(pairs)) == len(pairs) == 6
    assert pairs == task_pairs(tokenizer, task, 6, seed=1)
    for pair in pairs:
        encoded = encode_pair(tokenizer, pair)
        answers, foils = encoded.sides
        assert not set(answers) & set(foils)
        assert encoded.spans


def test_every_answer_to_greater_than_makes_a_later_year_and_every_foil_an_earlier_one():
    tokenizer = Tokenizer(byte_level_tokenizer())
    for pair in task_pairs(tokenizer, Task.GREATER_THAN, 12):
        start = next(text for name, text, _ in pair.spans if name == "start")
        width = len(pair.answers[0])
        assert all(text > start[2 : 2 + width] for text in pair.answers)
        assert all(text <= start[2 : 2 + width] for text in pair.foils)


def test_a_set_counts_as_one_event():
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0]])
    answers, foils = torch.tensor([[0, 2]]), torch.tensor([[3, -1]])
    shares = logits.softmax(-1)[0]
    wanted = shares[0] + shares[2]
    torch.testing.assert_close(
        probability_difference(logits, answers, foils)[0], wanted - shares[3]
    )
    torch.testing.assert_close(
        logit_difference(logits, answers, foils)[0], (wanted / shares[3]).log()
    )
    single = [torch.tensor([token]) for token in (2, 3)]
    columns = [token[:, None] for token in single]
    for metric in ("logit-diff", "log-prob", "prob-diff"):
        left, right = (evaluate_metric(metric, logits, *each) for each in (single, columns))
        torch.testing.assert_close(left, right)


def test_a_metric_of_ones_own_refuses_sets():
    def own(logits, answer, foil):
        return logits[:, 0]

    sets = torch.tensor([[1, 2]])
    with pytest.raises(OptionError, match="have sets"):
        evaluate_metric(own, torch.zeros(1, 4), sets, sets + 1)


def test_an_exact_answer_is_not_given_a_space(tokenizer: Tokenizer):
    pair = encode_pair(tokenizer, PromptPair("In 17", "In 18", "4", "5", exact=True))
    assert tokenizer.token_string(pair.answer) == "4"
    spaced = tokenizer.first_token("In Peru", " Lima", exact=True)
    assert spaced == tokenizer.first_token("In Peru", "Lima")


def test_a_span_is_where_its_occurrence_stands(tokenizer: Tokenizer):
    spans = (("first", "Peru", 1), ("second", "Peru", 2))
    pair = encode_pair(tokenizer, PromptPair(**PERU, spans=spans))
    first, second = (span for _, span in pair.spans)
    assert first.last < second.start
    assert tokenizer.hf.decode(pair.clean.ids[second.start : second.stop]).strip() == "Peru"
    with pytest.raises(PromptError, match="stands 2 times"):
        encode_pair(tokenizer, PromptPair(**PERU, spans=(("third", "Peru", 3),)))


def test_pairs_of_tasks_are_read_as_they_are_written(tmp_path: Path):
    tokenizer = Tokenizer(byte_level_tokenizer())
    pairs = [pair for task in Task for pair in task_pairs(tokenizer, task, 2)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair.as_dict()) + "\n" for pair in pairs))
    assert read_pairs(path) == pairs
    for wrong in ({"spans": {"a": ["x"]}}, {"exact": 1}, {"answers": []}, {"answers": ["Rome"]}):
        path.write_text(json.dumps({**PERU, **wrong}))
        if wrong == {"answers": []}:
            assert read_pairs(path)[0].answers == ()
            continue
        with pytest.raises(FileFormatError, match=next(iter(wrong))[:4]):
            read_pairs(path)


def contrasts(model: Model):
    examples = collect(model, Source(task=Task.IOI, n_pairs=3, bos=True))
    assert examples.held_out
    return list(examples.pairs)


@pytest.mark.parametrize(
    ("asked", "sides"),
    [
        ({}, (TASK_PAIRS, TASK_PAIRS)),
        ({"hold_out": 0.0}, (TASK_PAIRS, 0)),
        ({"n_pairs": 3}, (3, 3)),
    ],
)
def test_a_task_has_its_usual_number_of_pairs_a_side(
    model: Model, asked: dict[str, Any], sides: tuple[int, int]
):
    examples = collect(model, Source(task=Task.IOI, bos=True, **asked))
    assert (len(examples.pairs), len(examples.held_out)) == sides


def test_a_contrast_is_known_where_the_answer_is_preferred(model: Model):
    pairs = contrasts(model)
    (preferred,) = [
        logit_difference(model.last_logits(batch.clean), batch.wanted, batch.unwanted)
        for batch in islice(batches(pairs[:1], 1, model), 1)
    ]
    assert recalled(model, pairs[:1]) == [bool(preferred > 0)]


def test_a_subject_that_a_span_names_asks_for_a_fact_as_one_by_itself_does(model: Model):
    clean, corrupted = "The capital of France is", "The capital of Peru is"
    logits = model.last_logits(torch.tensor([model.tokenizer.encode(clean).ids]))[0]
    worst, other, *_ = sorted(
        COUNTRIES.values(), key=lambda city: float(logits[model.tokenizer.first_token(clean, city)])
    )
    words = clean, corrupted, other, worst  # preferred to the foil, and not the best token
    pairs = [PromptPair(*words), PromptPair(*words, "France")]
    pairs.append(PromptPair(*words, spans=(("subject", "France", 1),)))
    assert recalled(model, encode_pairs(model.tokenizer, pairs)) == [True, False, False]


def test_any_of_several_answers_may_be_the_best_among_the_objects(model: Model):
    clean, corrupted = "The capital of France is", "The capital of Peru is"
    logits = model.last_logits(torch.tensor([model.tokenizer.encode(clean).ids]))[0]
    worst, *_, middle, best = sorted(
        COUNTRIES.values(), key=lambda city: float(logits[model.tokenizer.first_token(clean, city)])
    )
    pairs = [
        PromptPair(clean, corrupted, worst, foil, "France", answers=(worst, other))
        for foil, other in ((middle, best), (best, middle))
    ]
    encoded = encode_pairs(model.tokenizer, pairs)
    assert recalled(model, encoded[:1], known="among-objects") == [True]
    assert recalled(model, encoded[1:], known="among-objects") == [False]


def test_patching_the_last_residual_at_the_last_token_is_the_clean_run(model: Model):
    pairs = contrasts(model)
    found = trace_facts(model, pairs, window=2)
    assert isinstance(found, AverageTrace)
    last = [str(role) for role in found.roles].index("last token")
    np.testing.assert_allclose(
        found.effects[TraceKind.RESID][:, last, -1], found.p_clean - found.p_corrupted, atol=1e-4
    )
    before = found.effects[TraceKind.RESID][:, 0]
    assert np.nanmax(np.abs(before), initial=0) == 0
    again = AverageTrace.from_arrays(found.arrays(), found.metadata())
    assert again.roles == found.roles
    assert again.measure == "logit-diff"


def test_patching_agrees_with_a_run_with_the_state_set_by_a_plain_hook(model: Model):
    pair = contrasts(model)[0]
    found = patch_pairs(model, [pair], kinds=["resid"])
    (batch,) = batches([pair], 1, model)
    layer, names = 1, places_of(pair)
    spots = [at for at, name in enumerate(names) if name == "S2"]
    from circuits.model import taps

    kept = {}
    look = (taps.resid_post(layer), lambda value, hook: kept.__setitem__("clean", value))
    with torch.no_grad():
        model.last_logits(batch.clean, [look])
        gains = []
        for at in spots:

            def put(value, hook, at=at):
                value = value.clone()
                value[:, at] = kept["clean"][:, at]
                return value

            runs = [
                model.last_logits(batch.corrupted, hooks)
                for hooks in ([], [(taps.resid_post(layer), put)])
            ]
            values = [logit_difference(run, batch.wanted, batch.unwanted) for run in runs]
            gains.append(float(values[1] - values[0]))
    place = [str(role) for role in found.roles].index("S2")
    assert found.effects[TraceKind.RESID][0, place, layer] == pytest.approx(
        np.mean(gains), abs=1e-4
    )


def test_heads_get_roles_by_the_spans_that_the_pairs_name(model: Model, tmp_path: Path):
    pairs = contrasts(model)
    report = span_roles(model, pairs)
    saved = kc.save(report, tmp_path / "roles")
    assert [path.name for path in saved] == ["summary.json"]
    heads = json.loads(saved[0].read_text("utf-8"))["heads"]
    assert [head["head"] for head in heads] == [head.name for head in report.heads]
    assert len(report.heads) == model.n_layers * model.n_heads
    assert all(set(head.attention) == {"IO", "S1", "S2"} for head in report.heads)
    assert all(0 <= sum(head.attention.values()) <= 1 + 1e-5 for head in report.heads)
    bare = [encode_pair(model.tokenizer, PromptPair(**PERU))] * 2
    with pytest.raises(OptionError, match="neither a subject nor spans"):
        span_roles(model, bare)


@pytest.mark.parametrize(
    ("template", "subject"),
    [
        ("Peru borders {}", "Peru"),  # the word stands elsewhere too
        ("{}'da başkent", "Fransa"),
        ("{}의 수도는", "한국"),  # an ending is attached
        ("{}n pääkaupunki on", "Suome"),
        ("The letters of {} in words", "word"),
    ],
)
def test_the_subject_stands_where_the_template_says(template: str, subject: str):
    tokenizer = Tokenizer(byte_level_tokenizer())
    prompt = tokenizer.encode(fill(template, subject), bos=False)
    span = prompt.span_of(subject, place_in(template, subject))
    start = template.index("{}")
    covered = prompt.offsets[span.start][0], prompt.offsets[span.last][1]
    assert covered[0] <= start < start + len(subject) <= covered[1]


def test_a_subject_is_found_in_another_unicode_form():
    composed, apart = "S\u00e3o Paulo", "Sa\u0303o Paulo"
    for text, subject in ((composed, apart), (apart, composed)):
        assert find_mentions(f"In {text} live", subject) == [(3, 3 + len(text))]
