"""Attribution within a bound on memory: the same scores, and the bound is kept."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.sizes import bytes_of, shown
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import random_circuit
from circuits.model.footprint import Footprint
from experiments.cli.main import main
from locate import sizing
from locate.edges import atp_star, room
from locate.edges.eap import attribute
from locate.edges.locators import Locator
from locate.edges.passes import InputGradients
from locate.edges.score import score_edges
from locate.search import Scoring, Search
from locate.states.steering import patched
from tests.families import FAMILIES, family_model, family_pairs

METHODS = {
    "eap": Scoring(Locator.EAP),
    "eap-ig": Scoring(steps=3),
    "relp": Scoring(method=Locator.RELP),
    "gim": Scoring(method=Locator.GIM),
}
MIB = 2**20


def least(model, pairs, scoring, **options) -> int:
    """The bound that the refusal of one byte names."""
    with pytest.raises(OptionError, match="holds no pair") as refusal:
        attribute(model, pairs, scoring, memory=1, **options)
    return named(refusal)


def named(refusal) -> int:
    """The least that would do, as a refusal names it."""
    return bytes_of("memory", str(refusal.value).partition("; ")[2].partition(" would")[0])


def relative_error(ours, theirs) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.ZERO])
@pytest.mark.parametrize("scoring", METHODS.values(), ids=METHODS)
def test_a_bound_leaves_scores_as_they_are_and_is_kept(
    model, pairs, scoring, ablation, monkeypatch
):
    monkeypatch.setattr(room, "OWN_BYTES", 0)  # of a process; tensors alone are watched here
    options = {"ablation": ablation, "keep_pairs": True}
    free = attribute(model, pairs, scoring, **options)
    lowest = least(model, pairs, scoring, **options)
    for memory in (lowest, 4 * lowest):
        with Footprint() as seen:
            bounded = attribute(model, pairs, scoring, memory=memory, **options)
        assert seen.peak <= memory
        assert relative_error(bounded.values, free.values) < 1e-5
        assert relative_error(bounded.per_pair, free.per_pair) < 1e-5


@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.ZERO])
@pytest.mark.slow
def test_atp_star_takes_as_many_pairs_as_its_patterns_have_room_for(
    model, pairs, ablation, monkeypatch
):
    scoring = Scoring(method=Locator.ATP_STAR, ablation=ablation)

    def sizes() -> list[int]:
        done = [0]
        score_edges(model, pairs, scoring, progress=lambda now, of: done.append(now))
        return np.diff(done).tolist()

    free = score_edges(model, pairs, scoring)
    assert max(sizes()) > 1
    monkeypatch.setattr(atp_star, "PATTERN_BYTES", 1)
    assert sizes() == [1] * len(pairs)
    assert relative_error(score_edges(model, pairs, scoring).values, free.values) < 1e-5


@pytest.mark.slow
def test_atp_star_keeps_what_layers_read_of_one_pass_at_a_time(model, pairs, monkeypatch):
    """Gradients of a pass are gone before the next pass but one begins."""
    alive: WeakSet[InputGradients] = WeakSet()
    most = 0

    class Watched(InputGradients):
        def run(self, *given: Any, **options: Any) -> Any:
            nonlocal most
            gc.collect()
            alive.add(self)
            most = max(most, len(alive))
            return super().run(*given, **options)

    monkeypatch.setattr(atp_star, "InputGradients", Watched)
    score_edges(model, pairs, Scoring(method=Locator.ATP_STAR))
    assert model.n_layers > 2
    assert 1 <= most <= 2


QUICK = ("gemma2", "gpt2", "opt")
"""Norms after the block, a cache given by place, and rows that stand in one axis."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in FAMILIES],
)
def test_running_blocks_again_gives_the_same_scores_in_every_architecture(family):
    model = family_model(family)
    pairs = family_pairs(model)
    free = attribute(model, pairs, Scoring(steps=2))
    lowest = least(model, pairs, Scoring(steps=2))
    bounded = attribute(model, pairs, Scoring(steps=2), memory=lowest)
    assert relative_error(bounded.values, free.values) < 1e-6


def test_running_a_block_again_leaves_blocks_and_hooks_as_they_were(model, pairs, monkeypatch):
    monkeypatch.setattr(room, "OWN_BYTES", 0)
    attribute(model, pairs, METHODS["eap"], memory=least(model, pairs, METHODS["eap"]))
    assert not any("forward" in vars(block) for block in model.bridge.blocks)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())


def test_a_bound_leaves_scores_of_a_patched_model_as_they_are(model, pairs):
    """Blocks that run again run patched, as they did the first time."""
    plain = attribute(model, pairs, Scoring(steps=2))
    with patched(model, ["a1.h0", "m1"], to=0.1):
        free = attribute(model, pairs, Scoring(steps=2))
        lowest = least(model, pairs, Scoring(steps=2))
        bounded = attribute(model, pairs, Scoring(steps=2), memory=lowest)
    assert relative_error(bounded.values, free.values) < 1e-5
    assert relative_error(free.values, plain.values) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.ZERO])
def test_circuits_are_measured_within_the_bound_with_the_same_outcome(
    model, pairs, ablation, monkeypatch
):
    monkeypatch.setattr(sizing, "OWN_BYTES", 0)
    wiring, search = model.wiring(), Search(ablation=ablation)
    draw = np.random.default_rng(0)
    circuits = [random_circuit(wiring, size, draw) for size in (5, wiring.n_edges // 2)]
    circuits += [~circuits[0], Circuit.full(wiring)]
    free = run_circuits(model, pairs, circuits, ablation=ablation)
    with pytest.raises(OptionError, match="no room to measure") as refusal:
        sizing.base_runs(model, pairs, wiring, replace(search, memory=1))
    lowest = named(refusal)
    for memory, rows in ((lowest, 1), (50 * lowest, 16)):
        base = sizing.base_runs(model, pairs, wiring, replace(search, memory=memory))
        assert base.batch_size == rows
        with Footprint() as seen:
            bounded = run_circuits(model, pairs, circuits, ablation=ablation, base=base)
        assert seen.peak <= memory
        for ours, theirs in zip(bounded.circuits, free.circuits, strict=True):
            assert np.allclose(ours.metric, theirs.metric, atol=1e-4)
            assert (ours.hit == theirs.hit).all()


def test_the_smallest_circuit_is_the_same_within_a_bound(model, pairs):
    scores = attribute(model, pairs, METHODS["eap"])
    search = Search(faithfulness=0.5)
    free = sizing.smallest(model, pairs, scores, search)
    bounded = sizing.smallest(model, pairs, scores, replace(search, memory="1GiB"))
    assert (free.kept == bounded.kept).all()


def test_a_bound_of_the_model_holds_where_a_search_names_none(model, pairs, monkeypatch):
    scoring = METHODS["eap-ig"]
    free = attribute(model, pairs, scoring)
    monkeypatch.setattr(model, "memory", 1)
    with pytest.raises(OptionError, match="holds no pair"):
        attribute(model, pairs, scoring)
    with pytest.raises(OptionError, match="no room to measure"):
        sizing.base_runs(model, pairs, model.wiring(), Search())
    monkeypatch.setattr(model, "memory", 2**30)
    assert relative_error(attribute(model, pairs, scoring).values, free.values) < 1e-5


@pytest.mark.parametrize(
    ("text", "size"), [("6GiB", 6 * 2**30), ("500MB", 5 * 10**8), ("1.5 kib", 1536), (7, 7)]
)
def test_amounts_are_read_as_people_write_them(text, size):
    assert bytes_of("memory", text) == size
    assert bytes_of("memory", shown(size, up=True)) >= size


@pytest.mark.parametrize("text", ["", "6 gigs", "-1GiB", "0", 0, True])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(OptionError, match="memory"):
        Scoring(memory=text)


@pytest.mark.parametrize("method", [Locator.EXACT, Locator.ACDC])
def test_methods_that_do_not_keep_to_a_bound_refuse_it(method):
    with pytest.raises(OptionError, match="bounds `method` eap, eap-ig"):
        Scoring(method, memory="6GiB")


def test_a_run_that_scores_no_edges_refuses_a_bound(tmp_path, capsys):
    """It would bound nothing."""
    for words in (
        ["run", "flow", "--model", "facts-gpt2"],
        ["benchmark", "counterfact", "--model", "facts-gpt2"],
    ):
        out = tmp_path / words[1]
        assert main([*words, "--memory", "6GiB", "--out", str(out)]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("kc: error: --memory bounds the scoring of edges")
        assert said.endswith("scores none")
        assert not out.exists()
    sweep = {"models": ["facts-gpt2"], "units": [{"verb": "run", "analysis": "flow"}]}
    sweep["units"][0]["memory"] = "6GiB"
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "sweep")]
    assert main(words) == 2
    assert "flow scores none" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
