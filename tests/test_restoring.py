"""Old values put back on edges of an edited model: laws, and a plain oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.choices import Control, Draw, KeyValue
from circuits.base.errors import OptionError
from circuits.edits.edit import LowRank, WeightDelta
from circuits.edits.effects.control import control
from circuits.facts.batches import batches
from circuits.graph.restoring import run_restored, source_outputs
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.changes.restoration import random_edges, restore_edges, rewritten_sources

TOLERANCE = {"rtol": 1e-4, "atol": 2e-4}


@pytest.fixture(autouse=True)
def _small_effects_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of a tiny random model moves the metric by less than a tenth of a logit."""
    monkeypatch.setattr("locate.changes.restored.UNDEFINED_BELOW", 1e-6)


def some_edit(model: Model, seed: int = 0) -> WeightDelta:
    """A change of attention and MLP matrices of every layer but the last."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name in model.parameter_names:
        layer_weights = any(f".{layer}." in name for layer in range(model.n_layers - 1))
        weight = model.parameter(name)
        if layer_weights and weight.ndim == 2:
            noise = torch.randn(weight.shape, generator=generator)
            changes[name] = 0.3 * weight.std() * noise
    return WeightDelta(changes, {"method": "noise"})


def random_sets(wiring: Wiring, shares: list[float]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random(wiring.n_edges) < share for share in shares]


@pytest.mark.parametrize("kv", list(KeyValue))
def test_no_restored_edge_is_the_edited_model_and_all_of_them_the_unedited(model, pairs, kv):
    wiring, delta = model.wiring(kv), some_edit(model)
    for batch in batches(pairs, 4):
        old = source_outputs(model, batch.clean)
        unedited = model.last_logits(batch.clean)
        with delta.applied(model):
            edited = model.last_logits(batch.clean)
            none, all_edges = run_restored(
                model, batch.clean, old, random_sets(wiring, [0.0, 1.1]), wiring
            )
        assert not torch.allclose(edited, unedited, atol=0.1)
        torch.testing.assert_close(none, edited, **TOLERANCE)
        torch.testing.assert_close(all_edges, unedited, **TOLERANCE)


def test_without_an_edit_restoring_changes_nothing(model, pairs):
    for batch in batches(pairs, 4):
        old = source_outputs(model, batch.clean)
        for logits in run_restored(
            model, batch.clean, old, random_sets(model.wiring(), [0.3, 0.7])
        ):
            torch.testing.assert_close(logits, model.last_logits(batch.clean), **TOLERANCE)


def test_restored_runs_are_those_of_the_plain_oracle(model, pairs):
    wiring, delta = model.wiring(), some_edit(model)
    batch = next(batches(pairs, 4))
    sets = random_sets(wiring, [0.02, 0.2, 0.5, 0.9])
    old = source_outputs(model, batch.clean)
    with delta.applied(model):
        edited = model.last_logits(batch.clean)
        found = run_restored(model, batch.clean, old, sets)
        for edges, logits in zip(sets, found, strict=True):
            expected = plain_restored_run(model, batch.clean, old, edges)
            assert not torch.allclose(expected, edited, atol=1e-3)
            torch.testing.assert_close(logits, expected, **TOLERANCE)


def test_what_the_sources_write_sums_to_the_residual_but_for_positions_and_biases(model, pairs):
    batch = next(batches(pairs, 4))
    seen: list[Tensor] = []
    hook = ("blocks.0.hook_out", lambda value, hook: seen.append(value))
    model.last_logits(batch.clean, [hook])
    wiring = model.wiring()
    outputs = source_outputs(model, batch.clean)
    written = outputs[:, : wiring.mlp_src(0) + 1].sum(1)
    rest = seen[0] - written
    torch.testing.assert_close(rest, rest[:1].expand_as(rest), **TOLERANCE)
    if not model.architecture.has_positions:
        torch.testing.assert_close(rest, torch.zeros_like(rest), **TOLERANCE)


def test_sets_side_by_side_are_sets_one_by_one(model, pairs, monkeypatch):
    batch = next(batches(pairs, 4))
    sets, delta = random_sets(model.wiring(), [0.1, 0.4, 0.6]), some_edit(model)
    old = source_outputs(model, batch.clean)
    with delta.applied(model):
        together = run_restored(model, batch.clean, old, sets)
        monkeypatch.setattr("circuits.graph.restoring._ROW_BYTES", 1)
        alone = torch.cat([run_restored(model, batch.clean, old, [edges]) for edges in sets])
    torch.testing.assert_close(together, alone, **TOLERANCE)


def test_a_set_of_another_wiring_is_refused(model, pairs):
    batch = next(batches(pairs, 4))
    old = source_outputs(model, batch.clean)
    with pytest.raises(OptionError, match="one an edge"):
        run_restored(model, batch.clean, old, [np.zeros(3, dtype=bool)])


# --- the causal check ----------------------------------------------------------------------------


def test_restoring_everything_recovers_all_and_nothing_none(model, pairs):
    delta, wiring = some_edit(model), model.wiring()
    every = restore_edges(model, delta, pairs, np.ones(wiring.n_edges, dtype=bool), draws=2)
    assert every.recovered == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(every.restored, every.unedited, rtol=1e-3, atol=1e-3)
    assert np.array_equal(every.first_restored, every.first_unedited)
    assert every.random_recovered == pytest.approx([1, 1], abs=1e-3)  # there are no other edges
    none = restore_edges(model, delta, pairs, np.zeros(wiring.n_edges, dtype=bool), draws=2)
    assert none.recovered == pytest.approx(0, abs=1e-3)
    assert none.random_recovered == pytest.approx([0, 0], abs=1e-3)


def test_the_numbers_are_those_of_plain_runs(model, pairs):
    delta = some_edit(model)
    found = restore_edges(model, delta, pairs, random_sets(model.wiring(), [0.2])[0], draws=3)
    for row, pair in enumerate(pairs):
        ids = torch.tensor([pair.clean.ids])
        plain = model.last_logits(ids)[0]
        with delta.applied(model):
            edited = model.last_logits(ids)[0]
        for logits, values in ((plain, found.unedited), (edited, found.edited)):
            expected = float(logits[pair.answer] - logits[pair.foil])
            assert values[row] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert found.first_unedited[row] == (int(plain.argmax()) == pair.answer)
    assert found.random.shape == (3, len(pairs))


def test_the_share_recovered_of_an_edit_that_does_nothing_is_undefined(model, pairs):
    nothing = 0.0 * some_edit(model)
    found = restore_edges(model, nothing, pairs, random_sets(model.wiring(), [0.2])[0], draws=1)
    assert np.isnan(found.recovered)
    assert found.as_dict()["recovered"] is None


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.9])
def test_random_edges_are_as_many_and_others_where_there_are_enough(share):
    edges, pool = random_sets(Wiring(3, 4, 2), [share, 0.9])
    drawn = random_edges(edges, pool, np.random.default_rng(1))
    assert drawn.sum() == edges.sum()
    others = pool & ~edges
    if others.sum() >= edges.sum():
        assert not (drawn & ~others).any()
    else:
        assert drawn[others].all()
    again = random_edges(edges, pool, np.random.default_rng(2))
    assert not edges.any() or not np.array_equal(again, drawn)


def test_sources_before_the_edited_weights_are_not_rewritten_and_the_edited_one_is(model, pairs):
    wiring = model.wiring()
    found = rewritten_sources(model, edit_of_rank(model, 1), pairs)
    assert not found[: wiring.mlp_src(1)].any()
    assert found[wiring.mlp_src(1) :].all()


def test_a_carrying_control_leaves_rewritten_sources_only(model, pairs):
    wiring, delta = model.wiring(), edit_of_rank(model, 1)
    edges = wiring.edge_src == wiring.mlp_src(1)
    carrying = restore_edges(model, delta, pairs, edges, draws=4, draw=Draw.CARRYING)
    uniform = restore_edges(model, delta, pairs, edges, draws=4, draw=Draw.UNIFORM)
    assert np.array_equal(carrying.restored, uniform.restored)
    assert not np.allclose(carrying.random, uniform.random)


def test_the_edges_that_leave_the_edited_mlp_carry_the_whole_edit(model, pairs):
    wiring, delta = model.wiring(), edit_of_rank(model, 1)
    found = restore_edges(model, delta, pairs, wiring.edge_src == wiring.mlp_src(1), draws=0)
    assert found.recovered == pytest.approx(1, abs=1e-3)
    others = restore_edges(model, delta, pairs, wiring.edge_src < wiring.mlp_src(1), draws=0)
    assert others.recovered == pytest.approx(0, abs=1e-3)


# --- the control edit ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Control))
@pytest.mark.parametrize("rank", [1, 3, None])
def test_a_control_has_the_edits_singular_values_and_says_something_else(model, kind, rank):
    delta = edit_of_rank(model, rank)
    other = control(delta, model, seed=0, kind=kind)
    assert other.changes.keys() == delta.changes.keys()
    assert other.norm() == pytest.approx(delta.norm(), rel=1e-5)
    for name in delta.changes:
        own, new = delta.dense(name), other.dense(name)
        assert type(other.changes[name]) is type(delta.changes[name])
        torch.testing.assert_close(
            torch.linalg.svdvals(new), torch.linalg.svdvals(own), rtol=1e-4, atol=1e-4
        )
        assert abs(float((own * new).sum() / (own.norm() * new.norm()))) < 0.5
    assert control(delta, model, seed=0, kind=kind).fingerprint() == other.fingerprint()
    assert control(delta, model, seed=1, kind=kind).fingerprint() != other.fingerprint()


@pytest.mark.parametrize("rank", [1, 3, None])
def test_a_control_with_the_same_keys_answers_every_input_as_strongly(model, rank):
    delta = edit_of_rank(model, rank)
    other = control(delta, model, seed=0, kind=Control.SAME_KEYS)
    for name in delta.changes:
        matrices = [each.dense(name) for each in (delta, other)]
        own, new = (x if model.is_transposed(name) else x.T for x in matrices)  # input by output
        keys = torch.randn(20, own.shape[0], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close((keys @ new).norm(dim=1), (keys @ own).norm(dim=1))
        assert not torch.allclose(keys @ new, keys @ own, atol=1e-2)


def test_a_bias_keeps_its_norm(model):
    name = next(name for name in model.parameter_names if model.parameter(name).ndim == 1)
    delta = WeightDelta({name: torch.randn(model.parameter(name).shape)})
    other = control(delta, model, seed=0)
    assert other.norm() == pytest.approx(delta.norm())
    assert not torch.allclose(other.dense(name), delta.dense(name))


def edit_of_rank(model: Model, rank: int | None) -> WeightDelta:
    generator = torch.Generator().manual_seed(3)
    name = model.mlp_output_name(1)
    rows, columns = model.parameter(name).shape
    if rank is None:
        return WeightDelta({name: torch.randn(rows, columns, generator=generator)})
    left = torch.randn(rows, rank, generator=generator)
    return WeightDelta({name: LowRank(left, torch.randn(rank, columns, generator=generator))})


# --- the oracle ----------------------------------------------------------------------------------


@torch.no_grad()
def plain_restored_run(model: Model, tokens: Tensor, old: Tensor, edges: np.ndarray) -> Tensor:
    """The edited model under the bridge's own split inputs, node by node, nothing computed here.

    Every destination's input is the run's own plus, for each restored edge, the source's old
    output minus its output in this run.
    """
    bridge, wiring = model.bridge, model.wiring()
    restored = torch.from_numpy(wiring.to_matrix(edges, False))
    now = torch.zeros_like(old)

    def put(where: int | slice):
        def hook(value: Tensor, hook: object) -> None:
            now[:, where] = value.transpose(1, 2) if value.ndim == 4 else value

        return hook

    def missing(dst: int, n_src: int) -> Tensor:
        share = restored[:n_src, dst].to(now.dtype)
        return torch.einsum("bspd,s->bpd", old[:, :n_src] - now[:, :n_src], share)

    def edit_slot(start: int, n_src: int):
        def hook(value: Tensor, hook: object) -> Tensor:
            parts = [value[:, :, i] + missing(start + i, n_src) for i in range(value.shape[2])]
            return torch.stack(parts, 2)

        return hook

    def edit(dst: int, n_src: int):
        return lambda value, hook: value + missing(dst, n_src)

    hooks = [("embed.hook_out", put(0))]
    for layer in range(model.n_layers):
        block, first = f"blocks.{layer}", wiring.head_src(layer)
        start = wiring.attn_dst(layer)
        for slot, width in (("q", model.n_heads), ("k", model.n_kv_heads), ("v", model.n_kv_heads)):
            hooks.append((f"{block}.attn.hook_{slot}_input", edit_slot(start, first)))
            start += width
        hooks.append((f"{block}.attn.hook_result", put(slice(first, first + model.n_heads))))
        mlp = wiring.mlp_src(layer)
        hooks.append((f"{block}.hook_mlp_in", edit(wiring.mlp_dst(layer), mlp)))
        hooks.append((f"{block}.mlp.hook_out", put(mlp)))
    last = f"blocks.{model.n_layers - 1}.hook_out"
    hooks.append((last, edit(wiring.logits_dst, wiring.n_src)))
    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    for flag in flags:
        getattr(bridge, f"set_{flag}")(True)
    try:
        return bridge.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
    finally:
        for flag in flags:
            getattr(bridge, f"set_{flag}")(False)
