"""Comparing circuits: sets, score mass, overlap, files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from circuits.base.arrays import save_arrays
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.writing import to_json
from circuits.graph.circuit import Circuit
from circuits.graph.compare import compare_scores
from circuits.graph.comparison import Comparison
from circuits.graph.noise import Decision, NoiseSettings, Sample
from circuits.graph.overlap import overlap
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune, top_n
from circuits.model.wiring import Wiring

WIRINGS = [Wiring(2, 2, 2), Wiring(2, 4, 2)]


def random_circuit(wiring: Wiring, seed: int, share: float = 0.3) -> Circuit:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(wiring.n_edges).astype(np.float32)
    scores = EdgeScores(wiring, values, provenance={"method": "eap"})
    return Circuit(wiring, generator.random(wiring.n_edges) < share, scores)


def random_scores(wiring: Wiring, seed: int, n_pairs: int = 12) -> EdgeScores:
    generator = np.random.default_rng(seed)
    centre = generator.standard_normal(wiring.n_edges)
    rows = (centre + 0.3 * generator.standard_normal((n_pairs, wiring.n_edges))).astype(np.float32)
    return EdgeScores(wiring, rows.mean(0), rows)


def some_sample(n_pairs: int = 12) -> Sample:
    facts = tuple(row // 2 for row in range(n_pairs))
    return Sample(facts, tuple((row // 2 + 1 + row % 2) % (n_pairs // 2) for row in range(n_pairs)))


def compared(wiring: Wiring) -> Comparison:
    return compare_scores(
        random_scores(wiring, 0),
        random_scores(wiring, 1),
        lambda scores: prune(top_n(scores, 20)),
        some_sample(),
        resamples=20,
        roles={"a0.h0": "mover"},
    )


@pytest.mark.parametrize("wiring", WIRINGS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_circuit_compared_with_itself_loses_and_gains_nothing(wiring, seed):
    circuit = random_circuit(wiring, seed)
    found = Comparison(circuit, circuit)
    assert found.jaccard == found.node_jaccard == 1
    assert not found.lost.any()
    assert not found.gained.any()
    assert not found.flipped.any()
    assert found.nodes_lost == found.nodes_gained == ()
    assert found.dissimilarity == 0
    assert found.correlation.spearman == found.union_correlation.kendall == 1
    assert all(mass.moved == mass.share == 0 for mass in found.by_layer() + found.by_role())


@pytest.mark.parametrize("wiring", WIRINGS)
@given(seeds=st.tuples(st.integers(0, 1000), st.integers(0, 1000)))
@settings(max_examples=20, deadline=None)
def test_edges_and_nodes_are_what_sets_of_names_say(wiring, seeds):
    before, after = (random_circuit(wiring, seed, 0.1) for seed in seeds)
    found = Comparison(before, after)
    left, right = set(before.edge_names()), set(after.edge_names())

    def names(mask: np.ndarray) -> set[str]:
        return {wiring.edge_name(int(edge)) for edge in np.flatnonzero(mask)}

    assert (names(found.kept), names(found.lost), names(found.gained)) == (
        left & right,
        left - right,
        right - left,
    )
    union = left | right
    assert found.jaccard == (len(left & right) / len(union) if union else 1.0)
    nodes, others = set(before.nodes()), set(after.nodes())
    assert set(found.nodes_kept) == nodes & others
    assert set(found.nodes_lost) == nodes - others
    assert set(found.nodes_gained) == others - nodes
    every = nodes | others
    assert found.node_jaccard == (len(nodes & others) / len(every) if every else 1.0)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_other_way_round_losses_are_gains(wiring):
    before, after = random_circuit(wiring, 0), random_circuit(wiring, 1)
    forth, back = Comparison(before, after), Comparison(after, before)
    assert np.array_equal(forth.lost, back.gained)
    assert np.array_equal(forth.flipped, back.flipped)
    assert forth.nodes_lost == back.nodes_gained
    assert forth.jaccard == back.jaccard
    assert forth.correlation == back.correlation
    assert [m.moved for m in forth.by_layer()] == [m.moved for m in back.by_layer()]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_flipped_edge_is_kept_and_has_both_signs(wiring):
    before = random_circuit(wiring, 0)
    after = replace(before, scores=replace(before.scores, values=-before.scores.values))
    found = Comparison(before, after)
    assert np.array_equal(found.flipped, before.kept)
    assert found.dissimilarity == pytest.approx(1)
    assert found.correlation.spearman == pytest.approx(-1)
    doubled = replace(before, scores=replace(before.scores, values=2 * before.scores.values))
    assert not Comparison(before, doubled).flipped.any()


@pytest.mark.parametrize("wiring", WIRINGS)
def test_mass_by_layer_and_by_role_sums_to_all_that_moved(wiring):
    roles = {"a0.h1": "mover", "a1.h0": "relation"}
    before = replace(random_circuit(wiring, 0), roles=roles)
    after = random_circuit(wiring, 1)
    found = Comparison(before, after)
    moved = np.abs(after.scores.values.astype(float) - before.scores.values).sum()
    for masses in (found.by_layer(), found.by_role()):
        assert sum(mass.moved for mass in masses) == pytest.approx(moved)
        assert sum(mass.share for mass in masses) == pytest.approx(1)
        assert sum(mass.edges for mass in masses) == wiring.n_edges
    by_role = {mass.group: mass for mass in found.by_role()}
    assert set(by_role) == {"mover", "relation", "head", "mlp", "input"}
    own = [edge for edge in range(wiring.n_edges) if wiring.edge_name(edge).startswith("a0.h1->")]
    expected = sum(abs(float(before.scores.values[edge])) for edge in own)
    assert by_role["mover"].before == pytest.approx(expected)
    assert by_role["mover"].edges == len(own)


def test_rank_correlations_are_scipys():
    wiring = WIRINGS[0]
    before, after = random_circuit(wiring, 0), random_circuit(wiring, 1)
    found = Comparison(before, after)
    either = before.kept | after.kept
    left, right = before.scores.values[either], after.scores.values[either]
    assert found.union_correlation.spearman == pytest.approx(stats.spearmanr(left, right)[0])
    assert found.union_correlation.kendall == pytest.approx(stats.kendalltau(left, right)[0])


def test_circuits_without_scores_are_compared_as_sets():
    wiring = WIRINGS[0]
    before = replace(random_circuit(wiring, 0), scores=None)
    found = Comparison(before, random_circuit(wiring, 1))
    assert found.flipped is None
    assert found.correlation is None
    assert found.by_layer() == ()
    assert found.rows()
    to_json(found.as_dict())


def test_two_empty_circuits_are_equal_and_one_empty_one_shares_nothing():
    wiring = WIRINGS[0]
    empty, some = Circuit.empty(wiring), random_circuit(wiring, 0)
    assert Comparison(empty, empty).jaccard == 1
    assert Comparison(empty, some).jaccard == 0


def test_circuits_of_other_wirings_are_not_compared():
    with pytest.raises(OptionError, match="cannot be compared"):
        Comparison(random_circuit(WIRINGS[0], 0), random_circuit(WIRINGS[1], 0))


def test_scores_found_in_different_ways_are_pointed_out():
    wiring = WIRINGS[0]
    before, after = random_circuit(wiring, 0), random_circuit(wiring, 1)
    other = replace(after, scores=replace(after.scores, provenance={"method": "eap-ig"}))
    assert Comparison(before, after).differing_settings() == {}
    assert Comparison(before, other).differing_settings() == {"method": ("eap", "eap-ig")}


def test_so_are_a_method_s_own_options_and_bos():
    def scored(**origin: Any) -> Circuit:
        circuit = random_circuit(WIRINGS[0], 0)
        return replace(circuit, scores=replace(circuit.scores, provenance=origin))

    def told(before: Circuit, after: Circuit) -> dict[str, Any]:
        return Comparison(before, after).differing_settings()

    frozen, halved = (
        scored(method="relp", bos=bos, options={"patterns": patterns})
        for bos, patterns in ((True, "frozen"), (False, "halved"))
    )
    joined = scored(method="ensemble", bos=True, options={"of": ("eap", "gim"), "by": "ranks"})
    stored = scored(method="ensemble", options={"of": ["eap", "gim"], "by": "scores"})
    assert told(frozen, halved) == {"bos": (True, False), "relp.patterns": ("frozen", "halved")}
    assert told(frozen, joined) == {"method": ("relp", "ensemble")}
    assert told(joined, stored) == {"ensemble.by": ("ranks", "scores")}  # no word of BOS
    assert told(frozen, scored(method="relp")) == {}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_rows_hold_every_edge_of_either_circuit_and_every_changed_one(wiring):
    found = compared(wiring)
    rows = found.rows()
    shown = found.before.kept | found.after.kept | found.changes.called(Decision.CHANGED)
    assert {row["edge"] for row in rows} == {
        wiring.edge_name(int(edge)) for edge in np.flatnonzero(shown)
    }
    sizes = [abs(row["change"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert {row["status"] for row in rows} <= {"kept", "flipped", "lost", "gained", "outside"}
    to_json(rows)


# --- multi-hop overlap ---------------------------------------------------------------------------


def test_the_overlap_of_a_circuit_with_itself_is_whole():
    circuit = random_circuit(WIRINGS[0], 0)
    found = overlap(circuit, [circuit])
    assert (found.nodes, found.edges, found.hop_nodes, found.hop_edges) == (1, 1, (1,), (1,))


def test_the_overlap_counts_what_any_hop_holds():
    wiring = WIRINGS[0]

    def of(*names: str) -> Circuit:
        kept = np.zeros(wiring.n_edges, dtype=bool)
        kept[[wiring.edge_index(name) for name in names]] = True
        return Circuit(wiring, kept)

    integrated = of("input->m0", "m0->a1.h0<q>", "a1.h0->logits", "input->logits")
    first, second = of("input->m0", "m0->a1.h1<q>"), of("a1.h0->logits", "input->m0")
    found = overlap(integrated, [first, second])
    assert found.edges == 2 / 4
    assert found.hop_edges == (1 / 4, 2 / 4)
    assert found.nodes == 1  # input, m0, a1.h0 and logits
    assert found.hop_nodes == (2 / 4, 4 / 4)


def test_an_overlap_with_no_hop_is_refused_and_of_an_empty_circuit_undefined():
    circuit = random_circuit(WIRINGS[0], 0)
    with pytest.raises(OptionError, match="at least one hop"):
        overlap(circuit, [])
    assert np.isnan(overlap(Circuit.empty(WIRINGS[0]), [circuit]).edges)


# --- rediscovery ---------------------------------------------------------------------------------


def test_a_model_compared_with_itself_on_the_same_pairs_agrees_in_every_resample():
    scores = random_scores(WIRINGS[0], 0)
    found = compare_scores(scores, scores, lambda s: top_n(s, 20), some_sample(), resamples=20)
    assert (found.rediscovery.jaccard.low, found.rediscovery.jaccard.high) == (1, 1)
    assert np.array_equal(found.rediscovery.before, found.rediscovery.after)
    assert found.changes.counts()["changed"] == 0
    assert found.changes.counts()["unchanged"] == WIRINGS[0].n_edges


def test_pairs_that_all_agree_leave_nothing_to_chance():
    wiring = WIRINGS[0]
    rows = np.tile(random_scores(wiring, 0).values, (12, 1))
    before, after = (EdgeScores(wiring, x.mean(0), x) for x in (rows, 2 * rows + 1))
    found = compare_scores(
        before, after, lambda s: top_n(s, 20), some_sample(), resamples=10
    ).rediscovery
    assert found.jaccard.low == found.jaccard.high == found.jaccard.value
    assert found.floor.value == 1
    assert set(np.unique(found.before)) <= {0, 1}


def test_resampling_is_a_function_of_the_seed():
    before, after = random_scores(WIRINGS[0], 0), random_scores(WIRINGS[0], 1)

    def run(seed: int) -> dict:
        return compare_scores(
            before, after, lambda s: top_n(s, 20), some_sample(), resamples=10, seed=seed
        ).rediscovery.as_dict()

    assert run(0) == run(0)
    assert run(0) != run(1)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", WIRINGS)
def test_save_then_load_is_identity(wiring, tmp_path):
    found = compared(wiring)
    path = tmp_path / "comparison.kc.safetensors"
    found.save(path)
    loaded = Comparison.load(path)
    assert loaded.as_dict() == found.as_dict()
    assert loaded.rows() == found.rows()
    loaded.save(tmp_path / "again.kc.safetensors")
    assert (tmp_path / "again.kc.safetensors").read_bytes() == path.read_bytes()


def test_a_plain_comparison_is_stored_too(tmp_path):
    found = Comparison(random_circuit(WIRINGS[0], 0), random_circuit(WIRINGS[0], 1))
    found.save(tmp_path / "c.kc.safetensors")
    loaded = Comparison.load(tmp_path / "c.kc.safetensors")
    assert loaded.changes is None
    assert loaded.as_dict() == found.as_dict()


@pytest.mark.parametrize("damage", ["size", "geometry", "missing"])
def test_a_file_that_is_no_comparison_is_refused(tmp_path, damage):
    path = tmp_path / "c.kc.safetensors"
    geometry = {"n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "kv": "grouped"}
    side = {"roles": {}, "provenance": {}}
    metadata = {"geometry": geometry, "before": side, "after": side}
    bits = np.zeros(-(-WIRINGS[0].n_edges // 8), dtype=np.uint8)
    arrays = {"before.in_graph": bits, "after.in_graph": bits}
    if damage == "size":
        arrays["before.score"] = np.zeros(3, dtype=np.float32)
    elif damage == "geometry":
        del metadata["geometry"]
    else:
        del arrays["after.in_graph"]
    save_arrays(path, "comparison", arrays, metadata)
    with pytest.raises(FileFormatError, match=r"c\.kc\.safetensors"):
        Comparison.load(path)


def test_settings_that_make_no_sense_are_refused():
    for bad in ({"level": 0.0}, {"level": 1.0}, {"margin": -1.0}, {"margin_share": np.inf}):
        with pytest.raises(OptionError):
            NoiseSettings(**bad)
