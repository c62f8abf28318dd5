"""The value of ROME and MEMIT, found from the subject on, is that of runs of whole prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from circuits.edits.edit import EditRequest
from circuits.edits.methods.run import target_scores
from circuits.edits.parts import value as value_module
from circuits.edits.parts.contexts import (
    ContextSettings,
    place,
    place_essence,
    sample_contexts,
)
from circuits.edits.parts.keys import value_point
from circuits.edits.parts.value import ValueSettings, optimise_values
from circuits.model.model import Model, load
from tests.edits import REQUEST
from tests.families import FAMILIES, family_model
from tests.tiny import tiny_model

LAYER = 0
CONTEXTS = ("", "In Peru. ", "They say that of all the towns of the north. ")
OTHER = EditRequest("In {} is", "Norway", "Lima")
"""Its answer is near the subject, as some families' attention reaches three tokens back only."""
SETTINGS = ValueSettings(steps=3, learning_rate=0.1, kl_factor=2.0, clamp=1.0, stop_below=0.0)


def plain_value(
    model: Model, request: EditRequest, contexts: Sequence[str], scale: torch.Tensor
) -> tuple[list[float], torch.Tensor]:
    """The losses and the delta of a loop that runs every prompt whole and alone, by a hook."""
    delta = torch.zeros(model.d_model, requires_grad=True)

    def log_p(ids, subject) -> torch.Tensor:
        def add(value, hook):
            added = torch.zeros_like(value)
            added[0, subject] = delta
            return value + added

        return model.last_logits(torch.tensor([ids]), [(value_point(LAYER), add)])[0].log_softmax(
            -1
        )

    optimiser = torch.optim.Adam([delta], lr=SETTINGS.learning_rate)
    losses, before = [], None
    for step in range(SETTINGS.steps):
        scores = []
        for context in contexts:
            prompt = place(model, request, context)
            for at, token in enumerate(prompt.targets):
                ids = prompt.ids[: prompt.prompt_length + at]
                scores.append(log_p(ids, prompt.subject_last)[token])
        essence = place_essence(model, request.subject)
        now = log_p(essence.ids, essence.subject_last)
        before = now.detach() if before is None else before
        loss = -torch.stack(scores).mean()
        loss = loss + SETTINGS.kl_factor * (now.exp() * (now - before)).sum()
        loss = loss + SETTINGS.weight_decay * delta.norm() / scale.norm() ** 2
        losses.append(float(loss.detach()))
        if step < SETTINGS.steps - 1:
            (delta.grad,) = torch.autograd.grad(loss, delta)
            optimiser.step()
            with torch.no_grad():
                delta *= min(1.0, float(SETTINGS.clamp * scale.norm() / delta.norm()))
    return losses, delta.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_is_that_of_whole_runs(family: str) -> None:
    """Prompts whose subjects end at unlike places, two requests at a time."""
    check_values(family_model(family), (REQUEST, OTHER), CONTEXTS)


@pytest.mark.parametrize("family", ["gpt_neo", "gptj", "gemma2", "opt"])
def test_so_are_those_of_prompts_for_whose_padding_there_is_no_room(family: str) -> None:
    """One subject stands at the end of a long prompt, one before a long answer."""
    late = EditRequest(f"{'In ' * 22}{{}} is", "France", "Tokyo")
    early = EditRequest("{} is", "Norway", " ".join(["city"] * 20))
    check_values(family_model(family), (late, early), ("",))


def test_so_are_those_of_subjects_without_anything_before() -> None:
    model = family_model("llama")
    model.tokenizer.default_bos = False
    requests = [EditRequest("{} is", subject, "Lima") for subject in ("France", "Norway")]
    check_values(model, requests, ("",))


def check_values(model: Model, requests: Sequence[EditRequest], contexts: Sequence[str]) -> None:
    scale = torch.full((2, model.d_model), 0.2)
    found = optimise_values(model, requests, LAYER, contexts, scale, SETTINGS)
    for request, value in zip(requests, found, strict=True):
        losses, delta = plain_value(model, request, contexts, scale[0])
        assert value.losses == pytest.approx(losses, rel=1e-4)
        assert len(set(losses)) == SETTINGS.steps
        torch.testing.assert_close(value.delta, delta, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("positions", [1, 9])
def test_so_are_those_of_prompts_that_are_run_a_few_at_a_time(
    family: str, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_module, "MOST_POSITIONS", positions)
    runs = []
    plainly = value_module.run_above
    monkeypatch.setattr(
        value_module, "run_above", lambda *a, **o: (runs.append(len(a[2])), plainly(*a, **o))[1]
    )
    check_values(family_model(family), (REQUEST, OTHER), CONTEXTS)
    rows = 2 * (len(CONTEXTS) + 1)
    assert sum(runs) == rows * SETTINGS.steps
    assert max(runs) == (1 if positions == 1 else 3)


@pytest.mark.slow
def test_memory_that_holds_few_prompts_holds_an_edit_of_many_contexts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Contexts are split too, not requests alone, so that an edit fits where a prompt does."""
    plainly = value_module.run_above

    def narrow(model: Model, layer: int, residual: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(residual) > 1:
            raise torch.OutOfMemoryError("made to fail")
        return plainly(model, layer, residual, *rest)

    monkeypatch.setattr(value_module, "run_above", narrow)
    model = tiny_model("gpt2")
    run = model.last_logits_and_prefix

    def placing(tokens: torch.Tensor, *rest: Any) -> Any:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("made to fail")
        return run(tokens, *rest)

    monkeypatch.setattr(model, "last_logits_and_prefix", placing)
    check_values(model, (REQUEST, OTHER), CONTEXTS)
    assert model.most_rows == 1


def test_answers_are_scored_as_in_runs_of_each_alone() -> None:
    """Several answers of one question, of one token and of more; texts of unlike length."""
    model = load("facts-gpt2", device="cpu")
    asked = [
        place(model, EditRequest(prompt, "France", target))
        for prompt in ("The capital of {} is", "It is known that the capital of {} is")
        for target in ("Paris", "Lima", "Paris and Rome", "Oslo")
    ]
    assert {len(each.targets) == 1 for each in asked} == {True, False}
    found = target_scores(model, asked, max_rows=3)
    for each, share, said in zip(asked, found.probability, found.said, strict=True):
        log_p, best = [], []
        for at, token in enumerate(each.targets):
            ids = torch.tensor([each.ids[: each.prompt_length + at]])
            scores = model.last_logits(ids)[0].float().log_softmax(-1)
            log_p.append(float(scores[token]))
            best.append(int(scores.argmax()) == token)
        assert float(share) == pytest.approx(math.exp(sum(log_p) / len(log_p)), rel=1e-5)
        assert bool(said) == all(best)
    assert set(found.said.tolist()) == {True, False}


def test_a_run_that_follows_a_prefix_gives_the_whole_ones_keys_and_values() -> None:
    model, tokens = tiny_model("llama"), torch.arange(14).reshape(2, 7) + 5
    logits, whole = model.last_logits_and_prefix(tokens)
    _, first = model.last_logits_and_prefix(tokens[:, :3])
    after, both = model.last_logits_and_prefix(tokens[:, 3:], prefix=first)
    torch.testing.assert_close(after, logits, rtol=1e-5, atol=1e-5)
    assert (first.length, both.length) == (3, whole.length)
    second = both.take(torch.tensor([1]))
    for layer in range(model.n_layers):
        for found, expected in zip(second[layer], whole[layer], strict=True):
            torch.testing.assert_close(found, expected[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gptj"])
def test_contexts_are_those_of_whole_runs_at_every_step(family: str) -> None:
    """Two starts and lengths: what is drawn is what a loop without cached keys draws."""
    model = family_model(family)
    settings = ContextSettings(("The", "In city"), (3, 6, 7), 4, 5)
    found = sample_contexts(model, settings, torch.Generator().manual_seed(3))
    generator, expected = torch.Generator().manual_seed(3), [""]
    for start in settings.starts:
        first = model.tokenizer.encode(start).ids
        rows = [list(first) for _ in range(3 * settings.copies)]
        kept: list[list[int]] = []
        for length in settings.lengths:
            while len(rows[0]) < length:
                logits = model.last_logits(torch.tensor(rows)).float()
                best = logits.topk(settings.top_k)
                drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
                new = best.indices.gather(1, drawn)[:, 0].tolist()
                rows = [[*row, token] for row, token in zip(rows, new, strict=True)]
            kept += rows[: settings.copies]
            rows = rows[settings.copies :]
        texts = [model.tokenizer.hf.decode(row, skip_special_tokens=True).strip() for row in kept]
        expected += [f"{text.rstrip(' .')}. " if text.strip(" .") else "" for text in texts]
    assert list(found) == expected
    assert len(set(found)) > 8
