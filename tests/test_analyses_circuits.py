"""The analyses of circuits and of the flow through the layers, on a few facts of a real model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base.intervals import Interval
from circuits.base.plain import interval, plain
from circuits.facts.batches import batches
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import random_circuit
from circuits.model.metrics import hit_at
from circuits.model.wiring import node_layer
from experiments.analyses.circuits import analysis as circuits
from experiments.analyses.engine.claims import Verdict
from experiments.analyses.engine.context import Context
from experiments.analyses.flow import analysis as flow
from experiments.analyses.flow import report as flow_report
from experiments.analyses.flow.analysis import random_sets, recall_layer
from experiments.analyses.flow.report import curve_of
from locate.search import Search
from locate.states.attribution import direct_logit_attribution

pytestmark = pytest.mark.slow

RELATIONS = ("country_capital", "adjective_antonym")
FEW = circuits.Config(relations=RELATIONS, pairs=8, resamples=20, random_circuits=3, steps=2)
SHORT = flow.Config(relations=RELATIONS, pairs=4, draws=3)


@pytest.fixture(scope="module")
def found(context: Context) -> dict[str, Any]:
    return {name: plain(circuits.compute(context, FEW, name)) for name in RELATIONS}


@pytest.fixture(scope="module")
def flowing(context: Context) -> dict[str, Any]:
    return {name: plain(flow.compute(context, SHORT, name)) for name in RELATIONS}


def circuit_of(context: Context, relation: str) -> Circuit:
    return context.circuit(relation, FEW.pairs, Search(steps=FEW.steps, resamples=FEW.resamples))


def six(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Each relation three times: as many as a verdict needs."""
    return {f"{name}_{i}": copy.deepcopy(part) for name, part in parts.items() for i in range(3)}


# --- circuits ------------------------------------------------------------------------------------


def test_each_half_is_scored_with_its_own_answers(
    context: Context, found: Mapping[str, Any]
) -> None:
    """The model's own Hit@10, from plain passes, on the pairs of each half."""
    name = RELATIONS[0]
    examples = context.examples(name, FEW.pairs)
    for half, pairs in (("validation", examples.pairs), ("test", examples.held_out)):
        hits = np.empty(len(pairs))
        for batch in batches(pairs, 16):
            logits = context.model.last_logits(batch.clean)
            hits[list(batch.index)] = hit_at(logits, batch.answer, 10).numpy()
        stored = found[name]["halves"][half]
        assert stored["hit_at_10"]["model"]["value"] == pytest.approx(hits.mean())
        assert stored["n_pairs"] == len(pairs)


def test_the_halves_share_no_subject(context: Context) -> None:
    examples = context.examples(RELATIONS[0], FEW.pairs)
    sides = examples.pairs, examples.held_out
    for own, other in (sides, sides[::-1]):
        prompts = [text for pair in own for text in (pair.text.clean, pair.text.corrupted)]
        assert prompts
        assert not [p.text.subject for p in other if any(p.text.subject in x for x in prompts)]


def test_stability_and_layers_add_up_to_the_circuit(
    context: Context, found: Mapping[str, Any]
) -> None:
    for name, part in found.items():
        stable = part["stability"]
        assert stable["core"] + stable["contingent"] + stable["noise"] == part["edges"]
        circuit = circuit_of(context, name)
        assert circuit.n_edges == part["edges"]
        from_layers = [
            edge for edge in circuit.edge_names() if node_layer(edge.split("->")[0]) is not None
        ]
        assert sum(part["layers"]["edges"]) == len(from_layers)


def test_a_circuit_is_found_once_in_a_run(context: Context, found: Mapping[str, Any]) -> None:
    stored = list((context.folder / "circuits").glob("country_capital-*"))
    before = [path.stat().st_mtime_ns for path in stored]
    circuit_of(context, RELATIONS[0])
    after = list((context.folder / "circuits").glob("country_capital-*"))
    assert [path.stat().st_mtime_ns for path in after] == before


def test_random_circuits_reach_the_level_that_is_stated(
    context: Context, found: Mapping[str, Any]
) -> None:
    """Other random circuits of the same size, drawn here, do as the report says chance does."""
    name = RELATIONS[0]
    circuit = circuit_of(context, name)
    generator = np.random.default_rng(99)
    drawn = [random_circuit(circuit.wiring, circuit.n_edges, generator) for _ in range(6)]
    pairs = context.examples(name, FEW.pairs).held_out
    runs = run_circuits(context.model, pairs, drawn)
    faithfulness = [runs.faithfulness(i, resamples=2).value for i in range(len(drawn))]
    stated = interval(found[name]["halves"]["test"]["random_faithfulness"])
    assert np.mean(faithfulness) == pytest.approx(stated.value, abs=0.02)


def test_the_curve_ends_at_the_whole_model(found: Mapping[str, Any]) -> None:
    for part in found.values():
        for curve in part["curve"].values():
            assert curve["fractions"][-1] == 1.0
            assert curve["faithfulness"][-1] == pytest.approx(1.0)
        assert (
            part["curve"]["absolute"]["distance"]["value"]
            < (part["curve"]["random"]["distance"]["value"])
        )


def test_labelled_heads_are_of_the_circuit(context: Context, found: Mapping[str, Any]) -> None:
    for name, part in found.items():
        nodes = circuit_of(context, name).nodes()
        assert part["roles"]["heads"]
        assert {head["name"] for head in part["roles"]["heads"]} <= set(nodes)


def test_one_relation_says_what_its_movers_are_worth(found: Mapping[str, Any]) -> None:
    """By its pairs: the table's means, and a verdict that turns with them."""
    name = RELATIONS[0]
    part = found[name]
    movers = [head for head in part["roles"]["heads"] if head["role"] == "mover"]
    lost = [head["control"]["answer_gap"] - head["answer_gap"]["value"] for head in movers]
    cost = interval(part["roles"]["costs"]["mover"])
    assert cost.value == pytest.approx(np.mean(lost), abs=1e-5)
    assert cost.low < cost.value < cost.high
    said = circuits.report(FEW, {name: part}).answer[-1]
    assert said.estimate.value == pytest.approx(cost.value)
    assert said.verdict is Verdict.SUPPORTED
    assert "over prompt pairs of this one" in said.sentence
    turned = copy.deepcopy(part)
    turned["roles"]["costs"]["mover"] = Interval(-cost.value, -cost.high, -cost.low).as_dict()
    assert circuits.report(FEW, {name: turned}).answer[-1].verdict is Verdict.OPPOSITE


def test_the_sentences_follow_the_numbers(found: Mapping[str, Any]) -> None:
    """With the random circuits' numbers in the circuits' place the first claim turns round."""
    two = circuits.report(FEW, found).answer[0]
    assert two.verdict is Verdict.SUPPORTED  # by the pairs of these two relations
    assert "n = 2 relations, over prompt pairs of these" in two.sentence
    report = circuits.report(FEW, six(found))
    turned = six(found)
    for part in turned.values():
        hits = part["halves"]["test"]["hit_at_10"]
        hits["circuit"], hits["random"] = hits["random"], hits["circuit"]
    first, other = report.answer[0], circuits.report(FEW, turned).answer[0]
    assert first.verdict is Verdict.SUPPORTED
    assert other.verdict is Verdict.OPPOSITE
    assert other.estimate.value == pytest.approx(-first.estimate.value)
    assert other.sentence.startswith("Random circuits of the same size recall more")


def test_a_report_without_curve_and_roles_can_be_made(found: Mapping[str, Any]) -> None:
    bare = copy.deepcopy(dict(found))
    for part in bare.values():
        del part["curve"], part["roles"]
        part["stability"] = None
    report = circuits.report(FEW, bare)
    assert "roles" not in {table.name for table in report.tables}
    assert "faithfulness" not in {figure.name for figure in report.figures}


# --- flow ----------------------------------------------------------------------------------------


def test_the_last_state_at_the_last_token_is_the_models_answer(
    context: Context, flowing: Mapping[str, Any]
) -> None:
    name = RELATIONS[0]
    examples = context.examples(name, SHORT.pairs)
    facts = [*examples.pairs, *examples.held_out]
    shares = []
    for batch in batches(facts, 16):
        logits = context.model.last_logits(batch.clean).float()
        shares += logits.softmax(-1)[range(len(batch)), batch.answer].tolist()
    curve = curve_of(flowing[name], "last token", "answer", "probability")
    assert curve[-1].value == pytest.approx(np.mean(shares), abs=1e-4)
    assert len(curve) == context.model.n_layers + 1


def test_recall_is_where_heads_and_mlp_push(context: Context, flowing: Mapping[str, Any]) -> None:
    """Against what each source adds, summed by its layer's name."""
    name = RELATIONS[0]
    examples = context.examples(name, SHORT.pairs)
    given = direct_logit_attribution(context.model, [*examples.pairs, *examples.held_out])
    by_layer = np.zeros(context.model.n_layers)
    for source, push in zip(given.wiring.src_names, given.mean(), strict=True):
        if source != "input":
            by_layer[node_layer(source)] += push
    part = flowing[name]
    assert part["recall"]["value"] == by_layer.argmax()
    assert part["push"]["value"] == pytest.approx(by_layer.max(), rel=1e-4)
    assert np.add(part["pushes"]["heads"], part["pushes"]["mlp"]) == pytest.approx(
        by_layer, abs=1e-4
    )


def test_the_object_is_on_top_from_where_its_rank_stays_first() -> None:
    def part(*ranks: float) -> dict[str, Any]:
        points = [Interval(rank, rank, rank).as_dict() for rank in ranks]
        return {"curves": [{"place": "last token", "followed": "answer", "rank": points}]}

    assert flow_report.first_on_top(part(9, 1, 3, 1, 1)) == 3
    assert flow_report.first_on_top(part(9, 1, 2)) is None
    assert flow_report.first_on_top(part(1, 1)) == 0


def test_recall_is_where_the_probability_jumps() -> None:
    rises = np.zeros((6, 4))
    rises[:, 2] = 0.9
    found = recall_layer(rises)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    rises[3:] = [0.9, 0.0, 0.0, 0.0]
    torn = recall_layer(rises)
    assert (torn.low, torn.high) == (0.0, 2.0)


def test_pushes_add_up_to_the_logit_difference(
    context: Context, flowing: Mapping[str, Any]
) -> None:
    """Heads and MLPs of all layers leave only what embedding, positions and biases add."""
    for part in flowing.values():
        heads, mlp = (sum(part["pushes"][kind]) for kind in ("heads", "mlp"))
        assert heads + mlp == pytest.approx(part["total"], abs=0.15 * part["total"])


def test_random_sets_are_of_the_same_layers_and_hold_no_chosen_one(context: Context) -> None:
    wiring = context.model.wiring()
    chosen = [wiring.head_src(6, 1), wiring.head_src(6, 2), wiring.mlp_src(2)]
    for drawn in random_sets(wiring, chosen, 20, seed=0):
        assert len(set(drawn)) == len(chosen)
        assert not set(drawn) & {0, *chosen}
        layers = [node_layer(wiring.src_names[src]) for src in drawn]
        assert layers == [6, 6, 2]


def test_without_a_difference_the_flow_report_claims_nothing(flowing: Mapping[str, Any]) -> None:
    level = six(flowing)
    for part in level.values():
        part["test"]["without"] = part["test"]["without_random"]
        part["heads_over_mlps"] = Interval(0.0, -1.0, 1.0).as_dict()
    report = flow.report(SHORT, level)
    verdicts = [claim.verdict for claim in report.answer[1:3]]
    assert verdicts == [Verdict.NO_EVIDENCE] * 2
    told = flow.report(SHORT, six(flowing)).answer[1:3]
    assert [claim.verdict for claim in told] == [Verdict.SUPPORTED] * 2


def test_both_reports_draw(tmp_path: Path, found: Any, flowing: Any) -> None:
    for report in (circuits.report(FEW, found), flow.report(SHORT, flowing)):
        for figure in report.figures:
            path = tmp_path / f"{figure.name}.svg"
            figure.draw(path, {"model": "facts-gpt2"})
            assert "facts-gpt2" in path.read_text()
        assert report.lead
        assert all(table.markdown() for table in report.tables)
