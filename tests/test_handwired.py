"""A transformer whose circuit is known, because it was written by hand: every method must find it.

Two layers, four heads, d_model 64. The residual stream's first directions have a meaning:

    SUBJECT + j    the token is subject j                    written by the embedding
    ATTRIBUTE + j  subject j's attribute is present here     written by m0 at the subject
    ANSWER + j     the next token is object j                written by a1.h2 at the last token
    IS_SUBJECT     the token is some subject                 written by the embedding
    IS_LAST        the token is the prompt's last word       written by the embedding

MLP 0 is a table: its unit j fires on subject j and writes attribute j. Head a1.h2 looks from the
last word to the subject (query IS_LAST, key IS_SUBJECT) and moves the attribute to the answer
direction, which the output matrix reads as object j. Everything else (seven heads, one MLP, and
random token patterns in the other directions) is noise. Where the head looks does not
depend on which subject it is, so that exactly three edges carry the fact.

The random patterns hold most of the residual stream's norm, and the subjects share one, as words
of a kind do; so the layer norms' scale hardly depends on the fact. Where it does, plain EAP is
wrong about the edges into that norm: it extrapolates the scale from its slope at the clean run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.base.choices import Metric, Selection
from circuits.facts.batches import batches
from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.scores import EdgeScores
from circuits.graph.select import random_circuit, select
from circuits.model.metrics import rank
from circuits.model.model import Model
from locate.edges.acdc import acdc
from locate.edges.eap import attribute
from locate.edges.exact import patch_edges
from locate.edges.locators import Locator
from locate.search import Scoring
from tests.tiny import COUNTRIES, byte_level_tokenizer

KNOWN = ("input->m0", "m0->a1.h2<v>", "a1.h2->logits")

N = len(COUNTRIES)
SUBJECT, ATTRIBUTE, ANSWER = 0, N, 2 * N
IS_SUBJECT, IS_LAST, BACKGROUND = 3 * N, 3 * N + 1, 3 * N + 2
WIDTH, HEADS = 64, 4
HEAD_WIDTH = WIDTH // HEADS

METHODS: dict[str, Callable[[Model, list[TokenPair]], EdgeScores]] = {
    "exact": patch_edges,
    "eap": lambda model, pairs: attribute(model, pairs, Scoring(method=Locator.EAP)),
    "eap-ig": lambda model, pairs: attribute(model, pairs, Scoring(method=Locator.EAP_IG)),
}


def token(word: str) -> int:
    """A word in the middle of a sentence is one token of this tokenizer."""
    (index,) = byte_level_tokenizer(700)(f" {word}", add_special_tokens=False)["input_ids"]
    return index


@torch.no_grad()
def hand_wired(seed: int = 0) -> GPT2LMHeadModel:
    config = GPT2Config(
        n_layer=2,
        n_embd=WIDTH,
        n_head=HEADS,
        vocab_size=len(byte_level_tokenizer(700)),
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # norm gains stay 1, biases 0
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    embedding = model.transformer.wte.weight
    size = (len(embedding), WIDTH - BACKGROUND)
    embedding[:, BACKGROUND:] = 1.5 * torch.randn(size, generator=generator)
    for j, (country, capital) in enumerate(COUNTRIES.items()):
        embedding[token(country), BACKGROUND:] = embedding[token("France"), BACKGROUND:]
        embedding[token(country), [SUBJECT + j, IS_SUBJECT]] = 3.0
        model.lm_head.weight[token(capital), ANSWER + j] = 3.0
    embedding[token("is"), IS_LAST] = 3.0

    table = model.transformer.h[0].mlp
    for j in range(N):
        table.c_fc.weight[SUBJECT + j, j] = 4.0
        table.c_fc.bias[j] = -4.0  # silent on every token but the subject's
        table.c_proj.weight[j, ATTRIBUTE + j] = 1.0

    # GPT-2 keeps queries, keys and values side by side in one matrix; head 2 begins at `a2`.
    attention, a2 = model.transformer.h[1].attn, 2 * HEAD_WIDTH
    query, key, value = a2, WIDTH + a2, 2 * WIDTH + a2
    attention.c_attn.weight[IS_LAST, query] = 4.0
    attention.c_attn.weight[IS_SUBJECT, key] = 4.0
    for j in range(N):
        attention.c_attn.weight[ATTRIBUTE + j, value + j] = 2.0
        attention.c_proj.weight[a2 + j, ANSWER + j] = 1.0
    return model.eval()


@pytest.fixture(scope="module")
def wired() -> Model:
    return Model.from_hf(hand_wired(), byte_level_tokenizer(700), "hand-wired")


@pytest.fixture(scope="module")
def facts(wired: Model) -> list[TokenPair]:
    """Every subject against every other."""
    texts = [
        PromptPair(f"The capital of {one} is", f"The capital of {other} is", answer, foil, one)
        for one, answer in COUNTRIES.items()
        for other, foil in COUNTRIES.items()
        if one != other
    ]
    return encode_pairs(wired.tokenizer, texts)


def known_circuit(model: Model) -> Circuit:
    wiring = model.wiring()
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[[wiring.edge_index(name) for name in KNOWN]] = True
    return Circuit(wiring, kept)


def test_the_model_recalls_every_fact_and_the_mover_looks_at_the_subject(wired, facts):
    (batch,) = batches(facts, len(facts))
    seen = {}
    name = "blocks.1.attn.hook_pattern"
    hook = (name, lambda value, hook: seen.__setitem__(name, value))
    with torch.no_grad():
        logits = wired.last_logits(batch.clean, [hook])
    assert (rank(logits, batch.answer) == 0).all()
    subject = facts[0].subject
    assert subject is not None
    looks = seen[name][:, :, -1, subject.last]
    assert (looks[:, 2] > 0.9).all()
    assert (looks[:, [0, 1, 3]] < 0.5).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_known_edges_stand_far_above_all_others(wired, facts, method):
    scores = METHODS[method](wired, facts)
    order = np.argsort(-np.abs(scores.values))
    assert {scores.wiring.edge_name(edge) for edge in order[:3]} == set(KNOWN)
    assert scores.values[order[2]] > 20 * np.abs(scores.values[order[3]])


@pytest.mark.parametrize("method", METHODS)
def test_the_three_best_edges_recall_what_the_whole_model_recalls(wired, facts, method):
    circuit = select(METHODS[method](wired, facts), Selection.TOP, n=3)
    runs = run_circuits(wired, facts, [circuit, ~circuit])
    assert circuit.n_edges == 3
    assert runs.faithfulness(0).value == pytest.approx(1, abs=0.02)
    assert runs.faithfulness(1).value == pytest.approx(0, abs=0.02)
    assert runs.circuits[0].hit.all()


def test_random_circuits_of_the_same_size_recall_nothing(wired, facts):
    known, generator = known_circuit(wired), np.random.default_rng(0)
    drawn = [random_circuit(wired.wiring(), 3, generator) for _ in range(20)]
    strangers = [circuit for circuit in drawn if (circuit.kept & known.kept).sum() != 3]
    runs = run_circuits(wired, facts, strangers)
    shares = [abs(runs.faithfulness(index, resamples=0).value) for index in range(len(strangers))]
    assert len(strangers) > 10
    assert max(shares) < 0.02


@pytest.mark.parametrize("metric", Metric)
def test_acdc_leaves_exactly_the_known_circuit(wired, facts, metric):
    circuit = acdc(wired, facts, 0.5, Scoring(metric=metric))
    assert set(circuit.edge_names()) == set(KNOWN)
    # What feeds the noise nodes goes without a run, as nothing reads them any more.
    assert circuit.provenance["selection"]["runs"] < circuit.wiring.n_edges / 2


@pytest.mark.parametrize("edge", KNOWN)
def test_without_any_one_of_its_edges_the_known_circuit_recalls_nothing(wired, facts, edge):
    broken = known_circuit(wired)
    kept = broken.kept.copy()
    kept[broken.wiring.edge_index(edge)] = False
    runs = run_circuits(wired, facts, [Circuit(broken.wiring, kept)])
    assert runs.faithfulness(0).value == pytest.approx(0, abs=0.02)
