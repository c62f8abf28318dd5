"""Examples in the prompt: prompts are what they say, and the report follows the numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base import plain
from circuits.base.choices import Ablation, Metric
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, percentiles, shares_drawn
from circuits.base.plain import interval
from circuits.facts.demonstrations import Style
from circuits.facts.facts import relation
from circuits.graph.scores import EdgeScores
from experiments.analyses.engine.claims import Verdict, widened
from experiments.analyses.engine.context import Context
from experiments.analyses.icl import analysis as icl
from experiments.analyses.icl.analysis import ANALYSIS, Config, compute, heads_of, steps
from experiments.analyses.icl.prompts import Shot, ask, shots_of
from locate.edges.eap import attribute
from locate.heads.silence import Head
from locate.search import Scoring, Search

RELATION = "animal_young"
QUICK = Config(
    relations=(RELATION,), counts=(0, 1), compare=1, facts=10, draws=3, steps=1, edges=120
)


@pytest.fixture(scope="module")
def parts(context: Context) -> dict[str, Any]:
    return {RELATION: plain.plain(compute(context, QUICK, RELATION))}


@pytest.fixture(scope="module")
def shots(context: Context) -> list[dict[int, Shot]]:
    asked = relation(RELATION)
    wording = asked.held_out[0]
    return shots_of(context.model, asked, wording, Style.SENTENCE, (0, 1, 3), 6, seed=0)


def test_fewer_examples_are_the_last_ones_of_more(shots: list[dict[int, Shot]]) -> None:
    assert len(shots) == 6
    for each in shots:
        texts = [each[count].asked.text for count in (0, 1, 3)]
        assert texts[2].endswith(texts[1])
        assert texts[1].endswith(texts[0])
        assert texts[2].count(". ") == 3


def test_clean_and_corrupted_prompt_have_the_same_examples(shots: list[dict[int, Shot]]) -> None:
    for each in shots:
        pair, start = each[3].pair, each[3].asked.start
        assert pair.text.clean[:start] == pair.text.corrupted[:start]
        assert pair.text.clean != pair.text.corrupted
        assert len(pair.clean) == len(pair.corrupted)


def test_subjects_to_avoid_are_in_no_prompt(context: Context, shots: list[dict[int, Shot]]) -> None:
    tested = {each[0].fact.subject for each in shots}
    asked = relation(RELATION)
    found = shots_of(context.model, asked, "", Style.LIST, (0, 3), 10, seed=0, avoid=tested)
    assert found
    for each in found:
        words = set(each[3].pair.text.clean.replace(":", "").replace(".", "").split())
        words |= set(each[3].pair.text.corrupted.replace(":", "").replace(".", "").split())
        assert not words & tested


def test_spans_of_examples_hold_their_words(shots: list[dict[int, Shot]]) -> None:
    for each in shots:
        shot = each[3]
        spans = shot.asked.spans(shot.prompt)
        words = "".join(shot.prompt.tokens[at] for at in spans["their objects"]).split()
        texts = [shot.asked.text[start:stop] for start, stop in shot.asked.objects]
        assert "".join(words) == "".join(texts).replace(" ", "")
        assert not set(spans["examples"]) & set(spans["question"])
        covered = {*spans["examples"], *spans["question"]}
        assert covered == set(range(1, len(shot.prompt)))


def test_asking_agrees_with_the_stored_shares(context: Context, parts: dict[str, Any]) -> None:
    found = parts[RELATION]["list"]
    testing = shots_of(context.model, relation(RELATION), "", Style.LIST, (0, 1), 5, seed=0)
    replies = ask(context.model, [each[1] for each in testing])
    np.testing.assert_allclose(replies.probability[0], found["probability"]["1"][-5:], rtol=1e-4)


def test_new_heads_are_in_the_circuit_with_examples_only(parts: dict[str, Any]) -> None:
    for found in parts[RELATION].values():
        heads = found["heads"]
        assert not set(heads["new"]) & set(heads["kept"])
        assert len(heads["grown"]) == len(heads["new"])
        assert 0 <= heads["jaccard"] <= 1


def test_parts_of_attention_are_shares(parts: dict[str, Any]) -> None:
    attention = parts[RELATION]["list"]["heads"]["attention"]
    for group in ("circuit", "others"):
        inside = attention["examples"][group] + attention["question"][group]
        assert 0.5 < inside <= 1.0 + 1e-6  # the rest is on the BOS token
        assert attention["their objects"][group] < attention["examples"][group]


def test_patching_is_refused_as_it_cannot_cut_the_examples(context: Context) -> None:
    with pytest.raises(OptionError, match="same examples"):
        steps(context, Config(ablation=Ablation.PATCH))


def test_relations_are_drawn_where_none_is_named(context: Context) -> None:
    drawn = steps(context, Config(most=5))
    assert len(set(drawn)) == 5
    assert list(drawn) == list(steps(context, Config(most=5)))
    assert len(steps(context, Config(most=0))) == len(context.names())
    assert list(steps(context, Config(relations=("book_author",)))) == ["book_author"]


# --- the report ----------------------------------------------------------------------------------


def many(parts: dict[str, Any], new: float, control: float) -> dict[str, Any]:
    """The relation six times, with such probabilities without new and without random heads."""
    made = {f"relation {place}": copy.deepcopy(parts[RELATION]) for place in range(6)}
    for found in (style for each in made.values() for style in each.values()):
        shares = found["heads"]["with_examples"]["probability"]
        shares["new"], shares["random"] = [[x] * len(shares["new"]) for x in (new, control)]
    return made


@pytest.mark.parametrize(
    ("new", "control", "verdict"),
    [
        (0.2, 0.9, Verdict.SUPPORTED),
        (0.9, 0.2, Verdict.OPPOSITE),
        (0.5, 0.5, Verdict.NO_EVIDENCE),
    ],
)
def test_the_verdict_on_new_heads_turns_with_the_numbers(
    parts: dict[str, Any], new: float, control: float, verdict: Verdict
) -> None:
    report = ANALYSIS.report(QUICK, many(parts, new, control))
    first = next(claim for claim in report.answer if "as a list" in claim.sentence)
    assert first.verdict is verdict
    assert ("more than random" in report.lead) is (verdict is Verdict.SUPPORTED)


def test_one_relation_is_spoken_of_by_its_own_facts(parts: dict[str, Any]) -> None:
    few = ANALYSIS.report(QUICK, parts).answer[0]
    assert "(too few values for an interval)" in few.sentence  # four facts
    twice = copy.deepcopy(parts)
    for found in twice[RELATION].values():
        shares = found["heads"]["with_examples"]["probability"]
        shares |= {name: [*each, *each] for name, each in shares.items()}
    report = ANALYSIS.report(QUICK, twice)
    assert "n = 1 relation, over facts of this one" in report.answer[0].sentence
    assert any(table.name == "table2_list" for table in report.tables)
    right = next(each for each in report.claims if "facts are right after" in each.sentence)
    assert "n = 1 relation, over facts of this one" in right.sentence
    for found in twice[RELATION].values():
        last = str(found["counts"][-1])
        found["right"] |= {"0": [0.0] * 30, last: [1.0] * 30}
    claims = ANALYSIS.report(QUICK, twice).claims
    right = next(each for each in claims if "facts are right after" in each.sentence)
    assert right.verdict is Verdict.SUPPORTED
    assert 70 < right.estimate.low < right.estimate.value == 100


@pytest.mark.slow
def test_how_many_heads_examples_bring_in_is_counted_on_resampled_facts(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against circuits found anew on the facts that each resample drew, each as often as drawn."""
    with pytest.raises(OptionError, match="of 4 resamples there is no interval: 20 are the fewest"):
        replace(QUICK, resamples=4)
    monkeypatch.setattr(icl, "FEWEST_RESAMPLES", 4)
    asked = replace(
        QUICK,
        styles=(Style.LIST,),
        facts=12,
        resamples=4,
        known_only=False,
        ablation=Ablation.ZERO,  # a mean over the prompts would change with the resample
    )
    part = plain.plain(compute(context, asked, RELATION))
    heads = part["list"]["heads"]
    found = interval(heads["brought_in"])
    assert found.value == len(heads["new"]) - heads["new_by_chance"]

    how = context.model, relation(RELATION), "", Style.LIST, (0, 1)
    testing = shots_of(*how, 6, context.seed)
    subjects = {each[0].fact.subject for each in testing}
    finding = shots_of(*how, 6, context.seed, avoid=subjects)
    assert len(finding) == len(testing) == 6

    def heads_with(facts: list[dict[int, Shot]], count: int, drawn: np.ndarray) -> set[Head]:
        pairs = [facts[at][count].pair for at in np.repeat(np.arange(6), drawn)]
        options = Scoring(steps=1, metric=Metric.LOG_PROBABILITY, ablation=Ablation.ZERO)
        values = [attribute(context.model, [pair], options).values for pair in pairs]
        scores = EdgeScores(context.model.wiring(), np.mean(values, 0))
        return set(heads_of(Search(edges=QUICK.edges).selected(scores)))

    counts = []
    times = [(6 * shares_drawn(np.arange(6), 4, context.seed + n)).round() for n in (0, 1)]
    for first, second in zip(*(each.astype(int) for each in times), strict=True):
        own, bare = (heads_with(finding, count, first) for count in (1, 0))
        counts.append(len(own - bare) - len(heads_with(testing, 0, second) - bare))
    assert np.ptp(counts) > 0
    around = np.array(counts) - np.mean(counts) + found.value
    expected = percentiles(found.value, around.tolist(), widened(6))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))

    said = next(c for c in ANALYSIS.report(asked, {RELATION: part}).answer if "bring" in c.sentence)
    assert "n = 1 relation, over facts of this one" in said.sentence
    heads["brought_in"] = Interval(5.0, 2.0, 8.0).as_dict()
    said = next(c for c in ANALYSIS.report(asked, {RELATION: part}).answer if "bring" in c.sentence)
    assert said.verdict is Verdict.SUPPORTED


def test_the_report_draws_its_figures(parts: dict[str, Any], tmp_path: Path) -> None:
    figures = ANALYSIS.report(QUICK, parts).figures
    assert {figure.name for figure in figures} >= {"examples", "heads_list"}
    for figure in figures:
        figure.draw(tmp_path / f"{figure.name}.svg")
        assert (tmp_path / f"{figure.name}.svg").stat().st_size > 2000
