"""Circuits of spans on other pairs than found them, which may name spans in another order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuits.base.errors import OptionError
from circuits.base.options import build
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import evaluate, run_circuits
from circuits.graph.measuring import BaseRuns
from circuits.model.tokens import Span
from locate.discover import NO_SUBJECT, discover
from locate.examples import Examples
from locate.search import Search

SPANS = ("subject", "relation", "last", "others")


def named(pairs: list[TokenPair], names: tuple[str, ...]) -> tuple[TokenPair, ...]:
    """Pairs without a subject that name these of two spans, in this order."""
    marks = {"where": Span(0, 2), "what": Span(2, 3)}
    spans = tuple((name, marks[name]) for name in names)
    return tuple(replace(pair, subject=None, spans=spans) for pair in pairs)


@pytest.mark.parametrize("names", [("what", "where"), ("where",)], ids=["other order", "one"])
@pytest.mark.slow
def test_held_out_pairs_and_curves_are_measured_in_the_spans_of_the_circuit(model, pairs, names):
    found, held_out = named(pairs, ("where", "what")), named(pairs, names)
    search = build(
        Search,
        {"spans": "auto", "method": "eap", "edges": 150, "resamples": 0, "n_random": 0},
    )
    result = discover(model, Examples("spans", found, held_out), replace(search, curve=True))
    alone = evaluate(model, held_out, result.circuit)
    assert result.circuit.wiring.spans == ("where", "what", "last", "others")
    assert result.held_out.faithfulness == alone.faithfulness
    size = result.curve.sizes[4]
    runs = run_circuits(model, held_out, [search.of_size(size).selected(result.scores)])
    assert result.curve.faithfulness[4].value == pytest.approx(runs.faithfulness(0).value)


def test_pairs_without_a_subject_are_told_why_no_head_has_a_role(model, pairs) -> None:
    search = build(
        Search, {"method": "eap", "edges": 150, "resamples": 0, "n_random": 0, "roles": True}
    )
    asked = Examples("spans", named(pairs, ("where", "what")))
    assert NO_SUBJECT in discover(model, asked, search).notes
    assert NO_SUBJECT not in discover(model, asked, replace(search, roles=False)).notes
    assert NO_SUBJECT not in discover(model, Examples("facts", tuple(pairs)), search).notes


def test_base_runs_of_other_spans_metric_or_ablation_are_refused(model, pairs) -> None:
    circuit = Circuit.full(model.wiring().with_spans(SPANS))
    turned = model.wiring().with_spans(("relation", "subject", "last", "others"))
    for wiring, metric, ablation, said in (
        (turned, "logit-diff", "patch", "another wiring than"),
        (circuit.wiring, "log-prob", "zero", "another metric and ablation than"),
    ):
        base = BaseRuns(model, pairs, wiring, metric, ablation, 16)
        with pytest.raises(OptionError, match=said):
            run_circuits(model, pairs, [circuit], base=base)
    base = BaseRuns(model, pairs, circuit.wiring, "logit-diff", "patch", 16)
    with pytest.raises(OptionError, match="another pairs than"):
        run_circuits(model, pairs[1:], [circuit], base=base)
