"""Weights that are not where the model runs: every reader and writer goes through `Paging`.

There is no second device here. In its place is one on this processor where every number stands with
its sign turned, so that whoever reads or writes a weight without having it brought gets another
result.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from circuits.base.errors import OptionError
from circuits.edits.methods.run import edit
from circuits.edits.methods.unlearn import unlearn
from circuits.edits.parts.examples import Example
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import top_n
from circuits.model import paging
from circuits.model.loading import LoadedWeights
from circuits.model.mapped import WeightFile
from circuits.model.model import Model
from circuits.model.paging import Paging
from circuits.model.placing import DeviceMap
from circuits.model.taps import EMBEDDING
from circuits.model.tensors import weights_hash
from locate.edges.eap import attribute
from locate.edges.locators import Locator
from locate.edges.score import score_edges
from locate.heads.roles import head_roles
from locate.search import Scoring
from locate.states.lens import lens_on_prompt
from locate.states.trace_average import trace_facts
from tests.edits import QUICK, REQUEST, same, weights
from tests.families import FAMILIES, TOKENIZER, family_hf, family_model, family_pairs
from tests.tiny import (
    byte_level_tokenizer,
    equal_length_pairs,
    gpt2_hf,
    llama_hf,
    metaspace_tokenizer,
)

WORDS = {"answer": " Paris", "foil": " Lima"}
TOKENS = torch.tensor([[5, 6, 7, 8, 9]])
FORGET = [Example("The capital of Peru is", "Lima"), Example("The capital of Cuba is", "Havana")]
HERE, ELSEWHERE = torch.device("cpu"), torch.device("meta")
LOCATORS = ["eap", "eap-ig", "relp", "gim", "atp-star", "eap-gp", "exact"]


class Elsewhere:
    """What stands for another device: what is there, and what copies of it are alive."""

    def __init__(self) -> None:
        self.there: dict[int, torch.Tensor] = {}
        self.copies: list[weakref.ref[torch.Tensor]] = []

    def carried(self, value: torch.Tensor, place: torch.device) -> torch.Tensor:
        if place == ELSEWHERE:
            turned = -value
            self.there[turned.data_ptr()] = turned
            return turned
        if value.data_ptr() not in self.there:
            return value
        copy = -value
        self.copies.append(weakref.ref(copy.untyped_storage()))
        return copy

    @property
    def alive(self) -> int:
        """Bytes of copies that somebody still has."""
        found = {id(each): each for ref in self.copies if (each := ref()) is not None}
        return sum(each.nbytes() for each in found.values())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Another device, from which every weight is brought whenever it is read."""
    made = Elsewhere()
    monkeypatch.setattr(paging, "carried", made.carried)
    monkeypatch.setattr(paging, "RECENT_COPIES", 1)
    return made


def parted(hf: Any, tokenizer: Any, name: str, room: int = 0) -> Model:
    """A model of which so many bytes are where it runs."""
    plan = Paging(DeviceMap(((HERE, room),), ELSEWHERE), HERE)
    origin = {"model": name, "dtype": "fp32", "revision": None, "weights_sha256": ""}
    origin["weights_sha256"] = weights_hash(dict(hf.named_parameters()))
    return Model(LoadedWeights(name, hf, tokenizer, origin, paging=plan, device=HERE))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.slow
def test_whatever_reads_a_weight_has_it_brought(family):
    whole, model = family_model(family), parted(family_hf(family), TOKENIZER, family)
    matrices = [each for each in model.bridge.parameters() if each.ndim > 1]
    assert matrices
    tokens = family_pairs(whole)[0].clean.ids
    assert torch.equal(
        whole.last_logits(torch.tensor([tokens])), model.last_logits(torch.tensor([tokens]))
    )
    pairs = [family_pairs(each) for each in (whole, model)]
    scores = [
        attribute(*each, Scoring(steps=2)) for each in zip((whole, model), pairs, strict=True)
    ]
    assert (scores[0].values == scores[1].values).all()
    circuit = top_n(scores[0], 12)
    ran = [
        run_circuits(*each, [circuit, ~circuit]) for each in zip((whole, model), pairs, strict=True)
    ]
    for left, right in zip(ran[0].circuits, ran[1].circuits, strict=True):
        assert (left.metric == right.metric).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("elsewhere")
def test_a_weight_is_written_where_it_is(family):
    """Also those joint ones of which the bridge has split copies."""
    whole, model = family_model(family), parted(family_hf(family), TOKENIZER, family)
    tokens = torch.tensor([family_pairs(whole)[0].clean.ids])
    before = model.last_logits(tokens)
    for name in whole.parameter_names:
        for each in (whole, model):
            each.set_parameter(name, each.parameter(name) * 0.7)
    assert torch.equal(whole.last_logits(tokens), model.last_logits(tokens))
    assert not torch.equal(before, model.last_logits(tokens))
    assert whole.provenance["weights_sha256"] == model.provenance["weights_sha256"]


@pytest.fixture(params=["gpt2", "llama"])
def two(request: pytest.FixtureRequest, elsewhere: Elsewhere) -> tuple[Model, Model]:
    """A whole model, and the same one of which a part is elsewhere."""
    make = gpt2_hf if request.param == "gpt2" else llama_hf
    tokenizer = byte_level_tokenizer() if request.param == "gpt2" else metaspace_tokenizer()
    whole = Model.from_hf(make(), tokenizer)
    room = sum(each.nbytes for each in whole.bridge.parameters()) // 3
    model = parted(make(), tokenizer, "in-memory", room)
    assert 0 < sum(each.nbytes for each in elsewhere.there.values()) < 3 * room
    return whole, model


@pytest.mark.parametrize("method", LOCATORS)
@pytest.mark.slow
def test_every_locator_finds_the_same(two, method):
    options = Scoring(method=Locator.of(method), steps=2)
    pairs = equal_length_pairs(two[0])[:2]
    left, right = (score_edges(model, pairs, options).values for model in two)
    assert (left == right).all()


def test_lens_traces_and_roles_are_the_same(two):
    pairs = equal_length_pairs(two[0])
    lens = [lens_on_prompt(model, pairs[0].text.clean, WORDS).arrays() for model in two]
    assert lens[0]
    assert all(np.array_equal(lens[0][name], lens[1][name]) for name in lens[0])
    left, right = (trace_facts(model, pairs[:1], samples=1).effects for model in two)
    assert left
    assert all(np.array_equal(left[kind], right[kind], equal_nan=True) for kind in left)
    roles = [head_roles(model, pairs).readings.arrays() for model in two]
    assert all(np.array_equal(roles[0][name], roles[1][name], equal_nan=True) for name in roles[0])
    assert two[0].ask("The capital of France is") == two[1].ask("The capital of France is")


@pytest.mark.parametrize("method", ["rome", "memit", "emmet", "ft"])
@pytest.mark.slow
def test_an_edit_is_the_same_and_is_taken_back_to_the_last_bit(two, method):
    options: dict[str, Any] = {"settings": QUICK, "moments": "identity"}
    if method == "ft":
        options = {"settings": {"steps": 2}}
    before = weights(two[1])
    clean = two[1].last_logits(TOKENS)
    deltas = [edit(model, REQUEST, method, layers=[1], **options).delta for model in two]
    names = deltas[0].changes
    assert all(torch.equal(deltas[0].dense(name), deltas[1].dense(name)) for name in names)
    with deltas[0].applied(two[0]), deltas[0].applied(two[1]):
        hashes = [model.provenance["weights_sha256"] for model in two]
        assert hashes[0] == hashes[1]
        assert torch.equal(two[0].last_logits(TOKENS), two[1].last_logits(TOKENS))
        assert not torch.equal(clean, two[1].last_logits(TOKENS))
    assert same(before, weights(two[1]))
    assert torch.equal(clean, two[1].last_logits(TOKENS))


def test_what_is_unlearned_is_the_same(two):
    found = [
        unlearn(model, FORGET[:1], FORGET[1:], "ga-gd", settings={"epochs": 1, "ceiling": None})
        for model in two
    ]
    left, right = (each.delta for each in found)
    assert left.changes
    assert all(torch.equal(left.dense(name), right.dense(name)) for name in left.changes)


def test_a_plain_model_of_its_own_has_the_true_weights(two):
    left, right = (model.to_hf().state_dict() for model in two)
    assert same(left, right)


def test_no_more_copies_are_kept_than_are_used(two, elsewhere):
    """Neither while a graph waits for its backward pass nor after one that never comes."""
    model, largest = two[1], max(each.nbytes for each in two[1].bridge.parameters())
    seen: list[weakref.ref[torch.Tensor]] = []

    def start(value: torch.Tensor, hook: object) -> torch.Tensor:
        point = value.detach().requires_grad_(True)
        seen.append(weakref.ref(point))
        return point

    def write(value: torch.Tensor, hook: object) -> None:
        seen.append(weakref.ref(value))

    hooks = [(EMBEDDING, start), ("blocks.1.hook_resid_mid", write)]
    logits = model.last_logits(TOKENS, hooks)
    assert logits.requires_grad
    assert elsewhere.alive <= 2 * largest
    (gradient,) = torch.autograd.grad(logits.sum(), seen[0]())
    assert elsewhere.alive <= 2 * largest
    assert gradient.abs().sum() > 0
    del logits, gradient
    for _ in range(3):
        model.last_logits(TOKENS, hooks)
    gc.collect()
    # Whatever holds the last run's beginning, a whole model has it too.
    assert [each() for each in seen[:-2]] == [None] * 6


def test_a_pass_that_fails_leaves_the_weights_where_they_are(two):
    model = two[1]
    places = dict(model.bridge.named_parameters())
    clean = model.last_logits(TOKENS)

    def fail(value: torch.Tensor, hook: object) -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        model.last_logits(TOKENS, [("blocks.1.hook_resid_mid", fail)])
    now = dict(model.bridge.named_parameters())
    assert places.keys() == now.keys()
    assert all(now[name] is each for name, each in places.items())
    assert torch.equal(clean, model.last_logits(TOKENS))


@pytest.mark.parametrize("memory", [None, "64MiB"])
def test_layers_that_run_again_bring_their_weights_again(two, elsewhere, memory):
    pairs = equal_length_pairs(two[0])[:2]
    plain, bounded = (
        attribute(two[1], pairs, Scoring(steps=1, memory=each)).values for each in (None, memory)
    )
    assert np.abs(plain - bounded).max() <= 1e-5 * np.abs(plain).max()


def test_weights_in_a_file_are_brought_as_well(monkeypatch):
    """As on a GPU, by copies: pages of the file are let go of, and an edit is written into it."""
    monkeypatch.setattr(paging, "RECENT_COPIES", 1)
    monkeypatch.setattr(paging, "RECENT_BYTES", 1)
    brought: list[int] = []

    def carried(value: torch.Tensor, place: torch.device) -> torch.Tensor:
        brought.append(value.data_ptr())
        return value.clone()

    whole, hf = Model.from_hf(llama_hf(), metaspace_tokenizer()), llama_hf()
    file = WeightFile.of(hf.named_parameters())
    for name, parameter in hf.named_parameters():
        parameter.data = file.weights[name]
    plan = Paging(DeviceMap(), HERE, [file])
    plan._brings = True
    monkeypatch.setattr(paging, "carried", carried)
    origin = {**whole.origin, "model": "in a file"}
    loaded = LoadedWeights("in a file", hf, metaspace_tokenizer(), origin, paging=plan, device=HERE)
    model = Model(loaded)
    brought.clear()
    assert torch.equal(whole.last_logits(TOKENS), model.last_logits(TOKENS))
    homes = [each for each in model.bridge.parameters() if each.ndim > 1]
    assert set(brought) == {each.data_ptr() for each in homes}
    assert all(plan.holds(each) for each in homes)
    assert len(plan._recent) == 1
    name = model.mlp_output_name(1)
    for each in (whole, model):
        each.set_parameter(name, each.parameter(name) * 2)
    assert torch.equal(whole.last_logits(TOKENS), model.last_logits(TOKENS))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs by name, the second one half full; none of them can be used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    free = {0: 10 * 2**30, 1: 4 * 2**30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda each: (free[each.index], 10 * 2**30))


CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")
TAKEN = {
    "auto": (((SECOND, 2 * 2**30), (FIRST, 9 * 2**30)), CPU),
    "disk": ((), None),
    "cpu": ((), CPU),
    "cuda:1=2GiB,cpu": (((SECOND, 2 * 2**30),), CPU),
    "cuda=2GiB, cuda:0=1GB, cpu=4GiB, disk": (
        ((SECOND, 2 * 2**30), (FIRST, 10**9), (CPU, 4 * 2**30)),
        None,
    ),
    "cuda:1=2GiB,cuda:0": (((SECOND, 2 * 2**30),), FIRST),
}


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("given", "expected"), TAKEN.items())
def test_places_are_read_from_text(given, expected):
    found = DeviceMap.of(given, torch.device("cuda"))
    assert (found.rooms, found.rest) == expected


REFUSED = {
    "balanced": "is auto, or places such as",
    "cuda:0,cpu": "takes an amount",
    "cuda:0=1GiB,cpu=2GiB": "is auto, or places such as",
    "cuda:0=1GiB,cuda:0": "names a place twice",
    "cuda:7=1GiB,cpu": "not available",
    "mps=1GiB,cpu": "is auto, or places such as",
    "disk,cpu": "is auto, or places such as",
}


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("given", "said"), REFUSED.items())
def test_what_is_no_place_is_refused_by_name(given, said):
    with pytest.raises(OptionError, match=said) as refusal:
        DeviceMap.of(given, torch.device("cuda"))
    assert "\n" not in str(refusal.value)
