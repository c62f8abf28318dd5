"""Weights that stay in a file: the same model to the last bit, and its pages are let go of."""

from __future__ import annotations

import errno
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.base.errors import OptionError, StoreError
from circuits.edits.methods.run import edit
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import top_n
from circuits.model import mapped, paging
from circuits.model.model import Model, load
from experiments.executors.base import Workplace
from experiments.sweeps.plan import planned
from experiments.sweeps.spec import parse_spec
from locate.edges.eap import attribute
from locate.examples import collect
from locate.options import Source
from locate.search import Scoring
from locate.states.lens import lens_on_prompt
from locate.states.trace_average import trace_facts
from tests.edits import QUICK, REQUEST, same, weights
from tests.tiny import (
    byte_level_tokenizer,
    equal_length_pairs,
    gpt2_hf,
    llama_hf,
    metaspace_tokenizer,
)

MODELS = [("gpt2", "fp32"), ("llama", "fp32"), ("llama", "bf16")]
WRITE = mapped.write
WORDS = {"answer": " Paris", "foil": " Lima"}
TOKENS = torch.tensor([[5, 6, 7, 8, 9]])
SOURCE = Source(relation="country_capital", n_pairs=4)
needs_maps = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="needs Linux' table of mappings"
)


def folder(kind: str, path: Path) -> Path:
    """A tiny random model in several files; GPT-2's output matrix is its embedding."""
    hf = gpt2_hf() if kind == "gpt2" else llama_hf()
    hf.save_pretrained(path, max_shard_size="60KB")
    (byte_level_tokenizer if kind == "gpt2" else metaspace_tokenizer)().save_pretrained(path)
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


@pytest.fixture(scope="module", params=MODELS, ids=[" ".join(each) for each in MODELS])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Model]:
    """A model in memory, and the same one in a file."""
    kind, dtype = request.param
    path = folder(kind, tmp_path_factory.mktemp("model"))
    return load(path, "cpu", dtype), load(path, "cpu", dtype, device_map="disk")


@pytest.fixture(autouse=True)
def few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small a share of a tiny model stays that pages come and go in every pass."""
    monkeypatch.setattr(paging, "RECENT_BYTES", 2**14)


def in_memory() -> int:
    """Bytes of files of weights that are in this process's memory."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if not head.endswith(":"):
            ours = "own.weights" in line
        elif head == "Rss:" and ours:
            found += int(line.split()[1]) * 1024
    return found


def test_what_a_model_says_and_what_is_found_in_it_is_the_same_to_the_last_bit(both):
    plain, paged = both
    assert paged.provenance == plain.provenance
    assert paged.parameter_names == plain.parameter_names
    assert torch.equal(plain.last_logits(TOKENS), paged.last_logits(TOKENS))
    pairs = equal_length_pairs(plain)
    scores = [attribute(model, pairs, Scoring(steps=2)) for model in both]
    assert (scores[0].values == scores[1].values).all()
    circuit = top_n(scores[0], 60)
    ran = [run_circuits(model, pairs, [circuit, ~circuit]) for model in both]
    for left, right in zip(ran[0].circuits, ran[1].circuits, strict=True):
        assert (left.metric == right.metric).all()
    lens = [lens_on_prompt(model, pairs[0].text.clean, WORDS).arrays() for model in both]
    assert lens[0]
    assert all(np.array_equal(lens[0][name], lens[1][name]) for name in lens[0])
    traced = [trace_facts(model, pairs[:1], samples=1) for model in both]
    assert traced[0].effects
    for kind, effects in traced[0].effects.items():
        assert np.array_equal(effects, traced[1].effects[kind], equal_nan=True)


@pytest.mark.parametrize(
    ("method", "options"),
    [("ft", {}), ("rome", {"settings": QUICK, "moments": "identity"})],
    ids=["ft", "rome"],
)
def test_an_edit_is_the_same_and_is_taken_back_to_the_last_bit(both, method, options):
    plain, paged = both
    before, told = weights(paged), paged.provenance
    deltas = [edit(model, REQUEST, method, layers=[1], **options).delta for model in both]
    assert deltas[0].fingerprint() == deltas[1].fingerprint()
    clean = paged.last_logits(TOKENS)
    with deltas[0].applied(plain), deltas[0].applied(paged):
        assert paged.provenance == plain.provenance
        assert torch.equal(plain.last_logits(TOKENS), paged.last_logits(TOKENS))
        assert not torch.equal(clean, paged.last_logits(TOKENS))
    assert same(before, weights(paged))
    assert paged.provenance == told
    assert torch.equal(clean, paged.last_logits(TOKENS))


def test_what_is_saved_is_the_same(both, tmp_path):
    for name, model in zip(("plain", "paged"), both, strict=True):
        model.save_pretrained(tmp_path / name)
    files = [tmp_path / name / "model.safetensors" for name in ("plain", "paged")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_directory_is_put_into_the_file_weight_by_weight(kind, tmp_path, monkeypatch):
    path, written = folder(kind, tmp_path), []

    def write(path: Path, given: object) -> None:
        written.append(given)
        WRITE(path, given)

    monkeypatch.setattr(mapped, "write", write)
    paged = load(path, "cpu", device_map="disk")
    assert isinstance(written[0], Iterator), "all weights were in memory at once"
    for parameter in paged.bridge.parameters():
        assert paged.paging.holds(parameter)


@pytest.mark.slow
@needs_maps
def test_only_what_was_used_last_and_what_there_is_room_for_is_in_memory(monkeypatch):
    size = 4 * 2**20
    paged = load("facts-llama", "cpu", device_map="disk")
    pairs = collect(paged, SOURCE, 16).pairs
    total = sum(paged.parameter(name).nbytes for name in paged.parameter_names)
    most = paging.RECENT_BYTES + 2 * max(each.nbytes for each in paged.bridge.parameters())
    for memory in (None, "128MiB"):
        attribute(paged, pairs, Scoring(steps=1, memory=memory))
        assert in_memory() < most < 0.5 * total
    with monkeypatch.context() as patched:
        patched.setattr(paging, "RECENT_BYTES", 2 * total)
        attribute(paged, pairs, Scoring(steps=1))
        assert in_memory() > 0.9 * total
    del paged
    gc.collect()
    roomy = load("facts-llama", "cpu", device_map=f"cpu={size},disk")
    roomy.last_logits(TOKENS)
    assert size * 0.8 < in_memory() < size + most


@pytest.mark.slow
def test_layers_that_run_again_give_the_same_scores(both):
    plain, paged = both
    pairs = equal_length_pairs(plain)
    free = attribute(plain, pairs, Scoring(steps=2))
    with pytest.raises(OptionError, match="would do") as refusal:
        attribute(paged, pairs, Scoring(steps=2, memory=1))
    lowest = str(refusal.value).partition("; ")[2].partition(" would")[0]
    bounded = attribute(paged, pairs, Scoring(steps=2, memory=lowest))
    tolerance = 1e-5 if plain.dtype == torch.float32 else 3e-2
    assert np.abs(bounded.values - free.values).max() < tolerance * np.abs(free.values).max()


REFUSED = {
    "auto": "goes with `device` cuda",
    "cuda:0=1GiB,cuda:1": "goes with `device` cuda",
    "balanced": "is disk, or cpu=SIZE,disk",
    "cpu": "is disk, or cpu=SIZE,disk",
    "disk,cpu": "is disk, or cpu=SIZE,disk",
    "": "is disk, or cpu=SIZE,disk",
    "cpu=,disk": "takes an amount",
    "cpu=much,disk": "takes an amount",
}


@pytest.mark.parametrize(("given", "said"), REFUSED.items())
def test_what_cannot_be_done_is_refused_by_name_before_a_model_is_looked_for(given, said):
    with pytest.raises(OptionError, match=said) as refusal:
        load("no such model", "cpu", device_map=given)
    assert "device_map" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_device_without_such_memory_takes_no_map():
    with pytest.raises(OptionError, match="goes with `device` cpu or cuda"):
        paging.DeviceMap.of("disk", torch.device("mps"))


def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(tmp_path, monkeypatch):
    path, temporary = folder("llama", tmp_path / "model"), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def full(path: Path, given: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(mapped, "write", full)
        with pytest.raises(StoreError, match=r"TMPDIR.*No space left"):
            load(path, "cpu", device_map="disk")
    assert list(temporary.iterdir()) == []
    model = load(path, "cpu", device_map="disk")
    assert list(temporary.iterdir()) == [], "the file of a model in use has no name"
    assert model.paging.holds(next(model.bridge.parameters()))


def test_where_weights_stay_decides_no_unit_of_a_sweep(tmp_path):
    name = str(folder("llama", tmp_path / "model"))
    entry = {"units": [{"verb": "lens", "relation": "country_capital", "n-pairs": 2}]}
    specs = [{"models": [name]}, {"models": [name], "device-map": "disk"}]
    plain, paged = (
        planned(parse_spec({**each, **entry}).works, tmp_path / "sweep")[0] for each in specs
    )
    assert (plain.key, plain.identity) == (paged.key, paged.identity)
    place, stored = Workplace(), []
    for job, in_file in ((paged, True), (plain, False)):
        job.run(place)
        held = place.model(name, None, "fp32", job.work.model.device_map)
        assert held.paging.holds(next(held.bridge.parameters())) == in_file
        stored.append({path: path.read_bytes() for path in (tmp_path / "sweep").rglob("*.kc.*")})
    assert stored[0]
    assert stored[0] == stored[1]
