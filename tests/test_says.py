"""One sentence first: computed from the result, with its number and control, one convention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuits.base.intervals import Interval
from circuits.files.kinds import KINDS, open_result
from circuits.graph.curve import FaithfulnessCurves
from locate.looks.look import Table, telling
from locate.looks.says import _SENTENCES, says
from locate.looks.says.words import count, figure, percent, percents, sentence
from tests import results

NONE = Interval(np.nan, np.nan, np.nan)
MADE = (
    *(results.scores, results.circuit, results.comparison, results.evaluation, results.curve),
    *(results.trace, results.average_trace, results.lens, results.average_lens, results.roles),
    *(results.prompt_heads, results.rewiring, results.delta, results.outcome, results.carriers),
    results.neurons,
)


@pytest.mark.parametrize("make", MADE)
def test_every_result_begins_with_one_sentence(make) -> None:
    found = make()
    said = found.says()
    assert said == says(found)
    assert said[0] == said[0].upper()
    assert said.endswith(".")
    assert "\n" not in said
    assert any(character.isdigit() for character in said)
    assert found.shown().as_text().splitlines()[1] == said
    assert found.shown().as_html().count("<div>") == 1


def test_every_kind_of_file_has_a_sentence() -> None:
    assert {str(kind.holds) for kind in KINDS.values() if kind.holds} <= set(_SENTENCES)


def test_a_sentence_outlives_the_file(tmp_path: Path) -> None:
    trace = results.trace()
    trace.save(tmp_path / "trace.kc.safetensors")
    assert open_result(tmp_path / "trace.kc.safetensors").says() == trace.says()


def test_what_edges_do_follows_the_numbers() -> None:
    made = replace(results.evaluation(), n_edges=1949, n_pairs=32)

    def said(faithfulness: Interval, random: Interval) -> str:
        return replace(made, faithfulness=faithfulness, random_faithfulness=random).says()

    strong = said(Interval(0.975, 0.961, 0.982), Interval(0.0, -0.01, 0.02))
    assert strong == (
        "1,949 edges alone do 97.5 % [96.1, 98.2] of what the model does (32 prompt pairs); random "
        "circuits of that size 0 %."
    )
    weak = said(Interval(0.1, 0.01, 0.2), Interval(0.02, 0.0, 0.05))
    assert weak.startswith("No evidence that 1,949 edges do more")
    assert "10 % [1, 20] against 2 % [0, 5]" in weak
    assert "too few facts to say how sure" in said(Interval(0.9, np.nan, np.nan), Interval(0, 0, 0))
    assert "no random circuits are known" in said(Interval(0.9, 0.8, 0.95), NONE)
    assert said(NONE, NONE).startswith("No evidence on what 1,949 edges do")


def test_a_circuit_says_what_its_evidence_says_and_nothing_without() -> None:
    bare = replace(results.circuit(), evidence={})
    assert "does not say how well they do" in bare.says()
    measured = {
        "faithfulness": {"value": 0.9, "low": 0.85, "high": 0.95},
        "random_faithfulness": {"value": 0.1, "low": 0.0, "high": 0.2},
    }
    told = replace(bare, evidence={"held_out": measured, "evaluation": {}}).says()
    assert "90 % [85, 95]" in told
    assert "subjects they were not found on" in told
    assert "random circuits of that size 10 %" in told
    broken = replace(bare, evidence={"evaluation": {"faithfulness": 3}})
    assert broken.says() == bare.says()
    named = replace(bare, provenance={"faithfulness": 0.87, "faithfulness_on": "other subjects"})
    assert "alone do 87 % of what the model does (subjects they were not" in named.says()
    assert "no random circuits are known" in named.says()


def test_of_several_curves_each_is_named_with_the_edges_that_it_needs() -> None:
    one = results.curve()
    shares = {"sizes": (10, 100), "fractions": (0.01, 0.1)}
    curve = replace(one, faithfulness=(Interval(0.2, 0.1, 0.3), Interval(0.95, 0.9, 1.0)), **shares)
    other = replace(curve, faithfulness=(Interval(0.9, 0.8, 1.0), Interval(1.0, 1.0, 1.0)))
    never = replace(curve, faithfulness=(Interval(0.1, 0, 0.2), Interval(0.2, 0.1, 0.3)))
    random = replace(curve, faithfulness=(Interval(0, 0, 0), Interval(0.03, 0, 0.1)))
    said = FaithfulnessCurves({"eap": curve, "exact": other, "gim": never, "random": random}).says()
    assert said == (
        "With eap, 100 edges (10 %) are the fewest of 2 sizes that do 90 % of what the model does: "
        "95 % [90, 100]; as many random edges 3 %; with exact 10 edges, with gim no size does."
    )
    alone = FaithfulnessCurves({"eap": curve, "random": random}).says()
    assert alone.startswith("100 edges (10 %) are the fewest")
    assert alone.endswith("as many random edges 3 %.")


def test_a_trace_with_nothing_to_bring_back_says_so() -> None:
    made = results.trace()
    idle = replace(made, p_clean=float(made.p_corrupted_samples.mean()))
    assert idle.says().startswith("No evidence on where it is recalled")
    flat = {
        kind: np.broadcast_to(made.p_corrupted_samples, values.shape).copy()
        for kind, values in made.probabilities.items()
    }
    assert "No evidence that any state" in replace(made, p_clean=0.99, probabilities=flat).says()


def test_another_prompt_is_not_called_noise_nor_a_sample() -> None:
    made = results.trace()
    patched = replace(
        made,
        p_clean=0.999,
        p_corrupted_samples=made.p_corrupted_samples[:1],
        probabilities={kind: values[..., :1] for kind, values in made.probabilities.items()},
        provenance={"corrupted": "The capital of Japan is"},
    )
    assert patched.says().startswith("'The capital of Japan is' in its place takes ")
    assert "noise" not in patched.says()
    assert "one noise sample does not say" in replace(patched, provenance={}).says()


def test_every_label_of_a_lens_is_named_with_its_last_rank() -> None:
    lens = results.lens()
    rank = np.zeros((*lens.rank.shape[:2], 3), lens.rank.dtype)
    rank[-1, 0] = [0, 6, 8]
    three = replace(
        lens,
        labels={"answer": 1, "foil": 2, "subject": 3},
        rank=rank,
        probability=np.full(rank.shape, 0.1, lens.probability.dtype),
    )
    assert three.says().endswith("; the foil ends at rank 7 and the subject ends at rank 9.")


def test_ranks_are_counted_from_one_in_rows_summaries_and_sentences() -> None:
    lens = results.lens()
    assert [row["rank"] for row in lens.rows()] == (lens.rank.ravel() + 1).tolist()
    top = replace(lens, rank=np.zeros_like(lens.rank))
    assert {row["rank"] for row in top.rows()} == {1}
    assert "leads after" in top.says()
    low = replace(lens, rank=lens.rank * 0 + 4)
    assert "ends at rank 5" in low.says()
    average = results.average_lens()
    first = replace(average, rank=np.zeros_like(average.rank))
    assert {row["median_rank"] for row in first.rows()} == {1.0}
    assert "(1 is the top)" in first.summary().note
    assert "median rank 1" in first.says()


def test_a_flipped_edge_is_called_flipped() -> None:
    found = results.comparison()
    assert found.flipped is not None
    statuses = {row["edge"]: row["status"] for row in found.rows()}
    names = found.before.wiring.edge_name
    for edge in np.flatnonzero(found.kept):
        expected = "flipped" if found.flipped[edge] else "kept"
        assert statuses[names(int(edge))] == expected


def test_long_tables_are_cut_and_say_where_the_rest_is() -> None:
    rows = [(str(n),) for n in range(1234)]
    cut = Table("t", ("n",), rows).first("all.csv")
    assert (len(cut.rows), cut.rest) == (10, "1,224 more in all.csv")
    assert Table("t", ("n",), rows[:10]).first("all.csv").rest == ""


def test_layers_to_print_hold_both_ends_and_the_largest_step() -> None:
    ranks = np.full(30, 900)
    ranks[23:] = 0
    shown = telling(ranks[:, None])
    assert len(shown) == 10
    assert {0, 23, 29} <= set(shown)


def test_numbers_are_written_in_one_way() -> None:
    assert count(1949, "edge") == "1,949 edges"
    assert count(1, "edge") == "1 edge"
    assert (percent(0.9754), percent(0), percent(-0.0001), percent(1)) == (
        *("97.5 %", "0 %", "0 %"),
        "100 %",
    )
    assert percents(Interval(0.5, np.nan, np.nan)) == "50 %"
    assert figure(-0.0001) == "0.00"
    assert sentence("no evidence") == "No evidence."
