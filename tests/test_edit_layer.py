"""The layer to edit, as causal tracing sees it."""

from __future__ import annotations

import numpy as np
import pytest

from circuits.base.choices import TraceKind
from circuits.base.errors import PromptError
from circuits.edits.edit import EditRequest
from circuits.model.model import load
from locate.changes.edit_layer import layer_by_trace
from locate.states.tracing import trace, trace_tokens, usual_window
from tests.edits import OTHER, REQUEST


def test_the_layer_is_where_the_mean_effect_at_the_subjects_end_is_largest(model):
    broken = EditRequest("The capital of {} is ", "France", "Tokyo", "Paris")
    requests = [EditRequest(r.prompt, r.subject, r.target, "Paris") for r in (REQUEST, OTHER)]
    layer, evidence = layer_by_trace(model, [requests[0], broken, requests[1]], samples=2)
    for row, request in enumerate(requests):
        found = trace(
            model,
            request.text,
            request.subject,
            "Paris",
            window=1,
            samples=2,
            kinds=[TraceKind.MLP],
        )
        np.testing.assert_allclose(
            evidence.effects[row], found.effect(TraceKind.MLP)[:, found.subject.last]
        )
    assert layer == evidence.effects.mean(0).argmax()
    assert len(evidence.left_out) == 1
    assert f"{layer}: " in evidence.describe()


def test_nothing_to_trace_is_one_clear_line(model):
    with pytest.raises(PromptError, match="white space"):
        layer_by_trace(model, [EditRequest("The capital of {} is ", "France", "Tokyo", "Paris")])


def test_the_subject_is_traced_where_it_is_edited(model):
    request = EditRequest("France and {} have the capital", "France", "Tokyo", "Paris")
    prompt = model.tokenizer.encode(request.text)
    span = prompt.span_of("France", 2)
    token = model.tokenizer.first_token(request.text, "Paris")
    how = {"window": usual_window(model.n_layers), "samples": 2, "kinds": [TraceKind.MLP]}
    found = trace_tokens(model, prompt, span, "Paris", token, **how)
    _, evidence = layer_by_trace(model, [request], samples=2)
    np.testing.assert_allclose(evidence.effects[0], found.effect(TraceKind.MLP)[:, span.last])


def test_facts_gpt2_is_edited_where_it_recalls():
    model = load("facts-gpt2", device="cpu")
    requests = [
        EditRequest("The capital of {} is", name, "Tokyo") for name in ("France", "Portugal")
    ]
    layer, evidence = layer_by_trace(model, requests, samples=4)
    assert layer == 2
    assert evidence.mean[2] > 5 * np.delete(evidence.mean, 2).max()
