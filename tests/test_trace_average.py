"""Laws of traces averaged over facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuits.base.arrays import load_arrays, save_arrays
from circuits.base.choices import TraceKind
from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from circuits.model.tokens import Span
from locate.looks.trace import average_trace as look_at
from locate.states.observed import recorded
from locate.states.trace_average import average_traces, position_roles, trace_facts
from locate.states.trace_result import ALL_KINDS, Trace
from locate.states.trace_roles import ROLES, AverageTrace, PositionRole
from locate.states.tracing import trace
from tests.tiny import tiny_model

PROMPT, SUBJECT, ANSWER = "The capital of South Korea is", "South Korea", "Seoul"


@pytest.fixture(scope="module")
def found() -> Trace:
    return trace(tiny_model("gpt2"), PROMPT, SUBJECT, ANSWER, samples=4)


def test_every_position_has_one_role() -> None:
    role = PositionRole
    assert position_roles(9, Span(1, 5)) == (
        role.BEFORE,
        role.FIRST_SUBJECT,
        role.MIDDLE_SUBJECT,
        role.MIDDLE_SUBJECT,
        role.LAST_SUBJECT,
        role.FIRST_AFTER,
        role.FURTHER,
        role.FURTHER,
        role.LAST,
    )
    assert position_roles(3, Span(0, 1)) == (role.LAST_SUBJECT, role.FIRST_AFTER, role.LAST)
    assert position_roles(3, Span(1, 3)) == (role.BEFORE, role.FIRST_SUBJECT, role.LAST)


def test_the_average_of_one_trace_is_that_trace_without_an_interval(found: Trace) -> None:
    average = average_traces([found])
    for state in ALL_KINDS:
        mean, effect = average.mean(state), found.effect(state)
        last_subject = ROLES.index(PositionRole.LAST_SUBJECT)
        np.testing.assert_allclose(mean[last_subject], effect[:, found.subject.last])
        np.testing.assert_allclose(mean[-1], effect[:, -1])
        assert np.isnan(average.interval(state, resamples=5)).all()


def test_an_average_weighs_prompts_not_positions(model: Model) -> None:
    long = "In the city of South Korea and in all of the other places the capital is"
    traces = [trace(model, prompt, SUBJECT, ANSWER, samples=2) for prompt in (PROMPT, long)]
    average, kind = average_traces(traces), TraceKind.RESID
    further = ROLES.index(PositionRole.FURTHER)
    spans = [slice(found.subject.stop + 1, len(found.tokens) - 1) for found in traces]
    parts = [
        found.effect(kind)[:, span].mean(1)
        for found, span in zip(traces, spans, strict=True)
        if span.start < span.stop
    ]
    assert average.counts[further] == len(parts) >= 1
    np.testing.assert_allclose(average.mean(kind)[further], np.mean(parts, 0))
    assert average.p_clean.tolist() == [found.p_clean for found in traces]
    assert len(average.rows()) == 3 * model.n_layers * int((average.counts > 0).sum())


def test_traces_of_one_fact_are_drawn_together(found: Trace) -> None:
    """Of two facts in twenty traces there is no interval; of ten in twenty that of ten."""
    several = [
        replace(found, probabilities={k: v * (1 + n / 10) for k, v in found.probabilities.items()})
        for n in range(10)
    ]
    once, twice = average_traces(several), average_traces(several * 2)

    def of(average: AverageTrace, groups: list[int]) -> AverageTrace:
        return replace(average, provenance={**average.provenance, **recorded(groups, "facts")})

    ten, own, two = (
        of(twice, groups)
        for groups in ([*range(10)] * 2, list(range(20)), [n % 2 for n in range(20)])
    )
    last, kind = len(ROLES) - 1, TraceKind.MLP
    (low, high), (low_ten, high_ten) = once.interval(kind), ten.interval(kind)
    np.testing.assert_allclose(high_ten[last] - low_ten[last], high[last] - low[last], rtol=0.15)
    np.testing.assert_array_equal(twice.interval(kind), own.interval(kind))
    assert np.isnan(two.interval(kind)[0]).all()
    assert look_at(two).summary["p_clean"]["low"] is None
    assert look_at(own).summary["p_clean"]["low"] is not None


def test_an_interval_holds_the_mean_and_narrows_with_agreement(found: Trace) -> None:
    other = replace(found, probabilities={k: v * 2 for k, v in found.probabilities.items()})
    average = average_traces([found, other] * 5)
    low, high = average.interval(TraceKind.MLP, resamples=200)
    mean, there = average.mean(TraceKind.MLP), average.counts > 0
    assert (low[there] <= mean[there]).all()
    assert (mean[there] <= high[there]).all()
    assert (high[there] - low[there] > 0).any()
    assert np.isnan(low[~there]).all()


def test_traces_of_different_settings_are_not_averaged(found: Trace) -> None:
    other = replace(found, provenance={**found.provenance, "window": 3})
    with pytest.raises(OptionError, match="window is 10 in one and 3 in another"):
        average_traces([found, other])
    fewer = replace(found, probabilities={TraceKind.MLP: found.probabilities[TraceKind.MLP]})
    with pytest.raises(OptionError, match="different kinds"):
        average_traces([found, fewer])
    with pytest.raises(OptionError, match="no traces"):
        average_traces([])
    with pytest.raises(OptionError, match="level"):
        average_traces([found]).interval(TraceKind.MLP, level=1.5)


def test_a_roles_interval_is_over_the_traces_that_have_it(model: Model) -> None:
    long = "In the city of South Korea and in all of the other places the capital is"
    traces = [trace(model, prompt, SUBJECT, ANSWER, samples=1) for prompt in (PROMPT, long, long)]
    both, longs = average_traces(traces), average_traces(traces[1:])
    further = ROLES.index(PositionRole.FURTHER)
    if both.counts[further] == 2:
        for state in ALL_KINDS:
            ours, theirs = both.interval(state), longs.interval(state)
            np.testing.assert_allclose(np.stack(ours)[:, further], np.stack(theirs)[:, further])
    reordered = average_traces(traces[::-1])
    np.testing.assert_array_equal(both.interval(TraceKind.MLP), reordered.interval(TraceKind.MLP))


def test_a_peak_is_the_largest_row_of_its_role(found: Trace) -> None:
    other = replace(found, probabilities={k: v / 2 for k, v in found.probabilities.items()})
    average = average_traces([found, other])
    for kind in ALL_KINDS:
        rows = [
            row for row in average.rows() if row["kind"] == kind and row["role"] == "last token"
        ]
        best = max(rows, key=lambda row: row["effect"])
        peak = average.peak(kind, PositionRole.LAST)
        assert peak is not None
        layer, value = peak
        assert (layer, value.as_dict()) == (
            best["layer"],
            {"value": best["effect"], "low": best["low"], "high": best["high"]},
        )
    assert not average.counts[ROLES.index(PositionRole.FURTHER)]
    assert average.peak(TraceKind.MLP, PositionRole.FURTHER) is None


def test_facts_are_traced_one_by_one_with_noise_of_their_own(
    model: Model, pairs: list[TokenPair]
) -> None:
    seen: list[tuple[int, int]] = []
    average = trace_facts(
        model,
        pairs[:2],
        seed=5,
        samples=2,
        kinds=[TraceKind.ATTN],
        progress=lambda done, total: seen.append((done, total)),
    )
    alone = [
        trace(model, p.text.clean, str(p.text.subject), p.text.answer, seed=seed, samples=2)
        for seed, p in zip((5, 6), pairs, strict=False)
    ]
    assert seen == [(1, 2), (2, 2)]
    assert average.kinds == (TraceKind.ATTN,)
    assert average.p_corrupted.tolist() == [each.p_corrupted for each in alone]
    assert average.provenance["seed"] == 5
    nameless = replace(pairs[1], text=replace(pairs[1].text, subject=None), subject=None)
    with pytest.raises(OptionError, match=r"pair 2 .*names no subject"):
        trace_facts(model, [pairs[0], nameless])


def test_storing_and_loading_an_average_is_identity(found: Trace, tmp_path: Path) -> None:
    average = average_traces([found, found])
    path = tmp_path / "average.kc.safetensors"
    save_arrays(path, "average trace", average.arrays(), average.metadata())
    again = AverageTrace.from_arrays(*load_arrays(path, "average trace"))
    assert again.kinds == average.kinds
    for kind in average.kinds:
        np.testing.assert_array_equal(again.effects[kind], average.effects[kind])
    assert again.rows() == average.rows()
    assert again.provenance == average.provenance
    np.testing.assert_array_equal(again.p_clean, average.p_clean)
    np.testing.assert_array_equal(again.p_corrupted, average.p_corrupted)


def test_arrays_that_are_no_average_are_refused(found: Trace) -> None:
    average = average_traces([found])
    arrays, metadata = average.arrays(), average.metadata()
    wrong = [
        ({}, metadata),
        (arrays, {}),
        (arrays, {**metadata, "kinds": []}),
        (arrays, {**metadata, "kinds": ["soul"]}),
        (arrays, {**metadata, "roles": metadata["roles"][::-1]}),
        ({**arrays, "p_clean": np.zeros(2)}, metadata),
        ({**arrays, "present": arrays["present"][:, :2]}, metadata),
        ({**arrays, "effects.mlp": arrays["effects.mlp"][:, :, :1]}, metadata),
    ]
    for bad_arrays, bad_metadata in wrong:
        with pytest.raises(OptionError, match=r"not an average of traces|is missing"):
            AverageTrace.from_arrays(bad_arrays, bad_metadata)
