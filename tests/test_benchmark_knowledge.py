"""A model that does not know what a benchmark changes is told of before anything is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from circuits.edits.judge.generation import Speaker
from circuits.model.model import Model, load
from experiments.analyses.engine.context import Context
from experiments.benchmarks import base
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, Config, as_analysis
from experiments.benchmarks.knowledge import MOST, knowledge
from experiments.benchmarks.registry import BENCHMARKS, benchmark
from tests.tiny import tiny_model

CAPITALS = [
    (f"The capital of {each} is", (answer,))
    for each, answer in (
        ("France", "Paris"),
        ("Japan", "Tokyo"),
        ("Peru", "Lima"),
        ("Italy", "Rome"),
    )
]


@pytest.fixture(scope="module")
def facts_gpt2() -> Model:
    return load("facts-gpt2", device="cpu")


def told(model: Model, truths: Any) -> str:
    return knowledge(model, Speaker(model, 4), truths, 0)


def test_only_what_is_mostly_unknown_is_told_with_its_share(facts_gpt2: Model) -> None:
    assert told(facts_gpt2, CAPITALS) == ""
    wrong = [(prompt, ("Oslo",)) for prompt, _ in CAPITALS]
    assert told(facts_gpt2, [*wrong[:3], CAPITALS[0]]).startswith(
        "before any change facts-gpt2 gives 25 % of 4 true answers and 25 % of their tokens: it "
    )
    # Of several true answers one is enough.
    both = [(prompt, ("Oslo", *answers)) for prompt, answers in CAPITALS]
    assert told(facts_gpt2, both) == ""
    assert told(facts_gpt2, []) == ""


def test_what_has_no_room_is_not_asked_and_of_many_some_are(facts_gpt2: Model) -> None:
    long = ("the " * (facts_gpt2.max_tokens + 1), ("Oslo",))
    assert "of 1 true answers" in told(facts_gpt2, [long, ("The capital of Peru is", ("Oslo",))])
    assert told(facts_gpt2, [long]) == ""
    many = [("The capital of Peru is", ("Oslo",))] * (MOST + 20)
    assert f"of {MOST} true answers" in told(facts_gpt2, many)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if benchmark(name).truths])
def test_a_model_that_knows_nothing_is_told_of_before_its_edits_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "share_moments", lambda *_, **__: None)
    found = benchmark(name)
    analysis = as_analysis(found, found.read(found.own_data))
    context = Context.on(tiny_model("gpt2"), tmp_path)
    assert analysis.prepare is not None
    method = next(each for each in found.methods if each not in (NO_EDIT, IN_CONTEXT))
    baselines = tuple(each for each in found.methods if each == NO_EDIT)
    said = analysis.prepare(context, Config((*baselines, method), 2))
    if said is None:  # whose file holds no true answers
        assert name in ("zsre", "knowedit", "qaedit")
    else:
        assert said.startswith(f"{name}: before any change ")
        assert " gives 0 % of " in said
    assert not baselines or analysis.prepare(context, Config(baselines, 2)) is None
