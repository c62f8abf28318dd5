"""What is drawn again for an interval is a fact, however often it is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import knowledge_circuits as kc
from circuits.base.errors import OptionError
from circuits.base.intervals import FEWEST, Interval, bootstrap, mean, redrawn
from circuits.facts.facts import relation
from circuits.facts.pairs import PromptPair
from circuits.graph.circuit import Circuit
from circuits.graph.curves import faithfulness_curve
from circuits.graph.evaluate import Outcome, Runs, evaluation_of, restored
from circuits.graph.noise import Sample, corrupted_subject
from circuits.graph.resample import bootstrap_scores, inclusion_frequency
from circuits.graph.scores import EdgeScores
from circuits.graph.select import top_n
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from experiments.analyses.engine.claims import share
from experiments.cli.main import main
from locate.heads.role_criteria import RoleCriteria
from locate.heads.roles import label_heads
from locate.neurons.report import NeuronReport
from tests import results

WORDINGS = 3
FACTS = 16


def pair(subject: str, partner: str, wording: int = 0, named: bool = True) -> PromptPair:
    text = ("The capital of {} is", "The seat of {} is", "In {} it is")[wording]
    asked = subject if named else None
    return PromptPair(text.format(subject), text.format(partner), "Paris", "Lima", asked, "capital")


def outcome(values: np.ndarray) -> Outcome:
    return Outcome(values, values > 0)


def sample_of_facts(n: int, times: int) -> Sample:
    """`n` facts, each in as many pairs, all with other partners."""
    facts = tuple(f"fact {fact}" for fact in range(n) for _ in range(times))
    return Sample(facts, tuple(f"partner {each}" for each in range(len(facts))))


def runs_of(metrics: list[np.ndarray], times: int) -> Runs:
    """Runs in which each fact is asked several times, and always recalled alike."""
    model, empty, *circuits = (outcome(np.repeat(each, times)) for each in metrics)
    return Runs(model, empty, tuple(circuits), sample_of_facts(len(metrics[0]), times))


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_a_rate_without_an_exception_has_wilsons_limits_and_no_other_interval_changes(
    always: float,
) -> None:
    """Of 32 of 32 the lower limit is 32 / (32 + 1.96 ** 2) = 0.8928; facts count, not pairs."""
    values = np.full(32, always)
    found = bootstrap(mean, values, rate=True)
    expected = share(values == 1)
    assert vars(found) == pytest.approx(vars(expected))
    assert abs(always - (found.low if always else found.high)) == pytest.approx(0.1072, abs=1e-4)
    by_fact = bootstrap(mean, values, rate=True, groups=np.arange(32) // 2)
    assert vars(by_fact) == pytest.approx(vars(share(np.full(16, always == 1))))
    assert np.isnan(bootstrap(mean, values[:7], rate=True).low)
    assert bootstrap(mean, values) == Interval(always, always, always)
    values[0] = 1 - always
    assert bootstrap(mean, values, rate=True) == bootstrap(mean, values)
    half = np.full(32, 0.5)
    assert bootstrap(mean, half, rate=True) == Interval(0.5, 0.5, 0.5)


def test_the_observation_is_the_fact_and_of_a_single_fact_the_partner():
    three = [pair("France", "Peru", wording) for wording in range(WORDINGS)]
    several = Sample.of([*three, pair("Japan", "Peru")])
    assert several.groups.tolist() == [0, 0, 0, 1]
    assert (several.observations, several.drawn, several.over) == (2, "facts", "2 facts")
    one = Sample.of([pair("France", partner, wording) for partner in "AB" for wording in (0, 1)])
    assert (one.groups.tolist(), one.over) == ([0, 0, 1, 1], "2 partners")
    own = Sample.of([pair("France", "Peru"), pair("Japan", "Peru")])
    assert (own.groups.tolist(), own.over) == ([0, 1], "pairs")
    # What names no subject is its own clean prompt.
    bare = [pair("France", partner, named=False) for partner in "AB"]
    bare += [pair("Japan", "A", named=False)]
    assert Sample.of(bare).groups.tolist() == [0, 0, 1]


def test_a_fact_asked_three_times_alike_has_the_interval_of_a_fact_asked_once():
    """Three copies tell nothing that one does not; as pairs they would narrow it by sqrt(3)."""
    generator = np.random.default_rng(0)
    metrics = [generator.normal(size=FACTS) + shift for shift in (9, -9, 7, 2)]
    once, thrice = runs_of(metrics, 1), runs_of(metrics, WORDINGS)
    circuit = Circuit.empty(Wiring(2, 2, 2))
    one, three = (evaluation_of(each, circuit) for each in (once, thrice))
    assert (one.n_drawn, one.over) == (FACTS, "pairs")
    assert (three.n_pairs, three.n_drawn, three.over) == (48, FACTS, "16 facts")
    for name in ("clean", "corrupted", "circuit", "faithfulness", "completeness"):
        left, right = (vars(getattr(each, name)) for each in (one, three))
        assert left == pytest.approx(right, abs=1e-12), name
    assert vars(once.difference(0, 1)) == pytest.approx(vars(thrice.difference(0, 1)))
    curves = [faithfulness_curve(each, [circuit] * 2, fractions=(0, 1)) for each in (once, thrice)]
    for name in ("area", "distance"):
        left, right = (vars(getattr(each, name)) for each in curves)
        assert left == pytest.approx(right, abs=1e-12), name
    narrow = replace(thrice, sample=None).faithfulness(0)
    wide = thrice.faithfulness(0)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(3**0.5, rel=0.1)


def test_edges_of_facts_asked_three_times_are_as_certain_as_of_those_asked_once():
    wiring = Wiring(2, 2, 2)
    rows = np.random.default_rng(1).normal(size=(FACTS, wiring.n_edges)).astype(np.float32)
    once = EdgeScores(wiring, rows.mean(0), rows)
    copies = np.repeat(rows, WORDINGS, 0)
    thrice = EdgeScores(wiring, copies.mean(0), copies)
    groups = sample_of_facts(FACTS, WORDINGS).groups

    def choose(scores: EdgeScores) -> Circuit:
        return top_n(scores, 9)

    one, three = bootstrap_scores(once, 60, 3), bootstrap_scores(thrice, 60, 3, groups=groups)
    np.testing.assert_allclose(one.low, three.low, atol=1e-6)
    np.testing.assert_allclose(one.high, three.high, atol=1e-6)
    shares = inclusion_frequency(thrice, choose, 60, 3, groups=groups)
    np.testing.assert_array_equal(inclusion_frequency(once, choose, 60, 3), shares)
    assert not np.array_equal(inclusion_frequency(thrice, choose, 60, 3), shares)


def test_neurons_of_facts_asked_three_times_are_as_certain_as_of_those_asked_once():
    once = results.neurons()
    n = 16
    per_pair = ("scores", "nodes", "changes", "costs", "carried", "random")
    generator = np.random.default_rng(4)
    rows = {name: generator.random((n, *getattr(once, name).shape[1:])) for name in per_pair}
    once = replace(once, **rows, facts=np.arange(n))
    copies = {name: np.repeat(each, WORDINGS, 0) for name, each in rows.items()}
    thrice = replace(once, **copies, facts=np.repeat(once.facts, WORDINGS))
    as_pairs = replace(thrice, facts=np.arange(n * WORDINGS))
    for mlp in once.mlps:
        for one, three in zip(once.shares(mlp), thrice.shares(mlp), strict=True):
            for name in ("share", "random"):
                left, right = (vars(getattr(each, name)) for each in (one, three))
                assert left == pytest.approx(right, abs=1e-12)
        for read in (NeuronReport.cost, NeuronReport.node):
            one, three, narrow = (read(each, mlp) for each in (once, thrice, as_pairs))
            assert one.value == pytest.approx(three.value)
            # Means of as many columns are drawn sorted where each pair is a fact.
            assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.15)
            assert three.high - three.low > 1.4 * (narrow.high - narrow.low)
    few = replace(thrice, facts=np.repeat(np.arange(6), 8))
    assert np.isnan(few.cost("m0").low)


def test_a_stored_report_of_neurons_keeps_its_facts_and_an_older_one_has_a_fact_a_pair():
    found = replace(results.neurons(), facts=np.array([0, 0, 0, 1, 1, 2, 3, 4, 5]))
    arrays, metadata = found.arrays(), found.metadata()
    assert NeuronReport.from_arrays(arrays, metadata).facts.tolist() == found.facts.tolist()
    older = {name: each for name, each in arrays.items() if name != "facts"}
    assert NeuronReport.from_arrays(older, metadata).facts.tolist() == list(range(9))
    with pytest.raises(OptionError, match="shapes"):
        NeuronReport.from_arrays({**arrays, "facts": np.arange(8)}, metadata)


@pytest.mark.slow
def test_heads_are_labelled_over_facts_whatever_their_wordings(model, worded):
    pairs = [PromptPair(**line) for line in worded]
    found = kc.roles(model, pairs)
    counts = [found.provenance[name] for name in ("pairs", "prompts", "facts")]
    assert counts == [FACTS * WORDINGS, FACTS * WORDINGS, FACTS]
    readings = found.readings
    by_prompt = label_heads(readings, RoleCriteria())
    by_fact = label_heads(readings, RoleCriteria(), observed=[row // WORDINGS for row in range(48)])
    for head in found.labelled:
        prompt, fact = (each[head.layer][head.head] for each in (by_prompt, by_fact))
        assert head.answer_gain == fact.answer_gain
        assert fact.answer_gain.value == pytest.approx(prompt.answer_gain.value, rel=1e-5)
        wide, narrow = (each.answer_gain.high - each.answer_gain.low for each in (fact, prompt))
        assert wide > narrow
    one = kc.roles(model, pairs[:WORDINGS])
    assert (one.provenance["prompts"], one.provenance["facts"]) == (WORDINGS, 1)
    assert np.isfinite(one.heads[0].answer_gain.low)


def test_groups_of_one_pair_change_no_digit():
    values = np.random.default_rng(2).normal(size=12)
    alone = np.arange(12)
    assert bootstrap(mean, values, groups=alone) == bootstrap(mean, values)
    runs = Runs(outcome(values + 9), outcome(values - 9), (outcome(2 * values),))
    labelled = replace(runs, sample=sample_of_facts(12, 1))
    assert labelled.faithfulness(0) == runs.faithfulness(0)
    draws = np.random.default_rng(5).integers(12, size=(4, 12))
    np.testing.assert_array_equal(np.stack(list(redrawn(alone, 4, 5))), draws)
    wiring = Wiring(2, 2, 2)
    rows = np.random.default_rng(3).normal(size=(12, wiring.n_edges))
    scores = EdgeScores(wiring, rows.mean(0), rows)
    plain, grouped = bootstrap_scores(scores, 9, 0), bootstrap_scores(scores, 9, 0, groups=alone)
    np.testing.assert_array_equal(plain.low, grouped.low)


def test_a_resample_weighs_a_fact_by_its_pairs():
    """Facts asked unlike often: the statistic of a resample is that of all the pairs it drew."""
    sizes = np.array([1, 2, 3, 1, 4, 2, 1, 2, 5])
    groups = np.repeat(np.arange(9), sizes)
    generator = np.random.default_rng(4)
    circuit, model = (generator.normal(size=len(groups)) + shift for shift in (2, 5))
    empty = np.zeros(len(groups))
    drawn = np.random.default_rng(7).integers(9, size=(50, 9))
    sums = [[each[groups == g].sum() for g in range(9)] for each in (circuit, model)]
    expected = [sum(sums[0][g] for g in draw) / sum(sums[1][g] for g in draw) for draw in drawn]
    options = {"resamples": 50, "seed": 7, "groups": groups}
    found = bootstrap(restored, circuit, model, empty, **options)
    assert (found.low, found.high) == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    plain = bootstrap(mean, circuit, **options)
    means = [sum(sums[0][g] for g in draw) / sizes[draw].sum() for draw in drawn]
    assert (plain.low, plain.high) == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_intervals_over_facts_cover_where_intervals_over_pairs_do_not():
    """The mean of 16 facts in three wordings that share most of their spread: 95 % of intervals."""
    generator = np.random.default_rng(0)
    groups, covered = np.repeat(np.arange(FACTS), WORDINGS), {True: 0, False: 0}
    for seed in range(300):
        values = np.repeat(generator.normal(size=FACTS), WORDINGS)
        values = values + 0.3 * generator.normal(size=len(values))
        for by_fact in covered:
            given = {"resamples": 200, "seed": seed, "groups": groups if by_fact else None}
            found = bootstrap(mean, values, **given)
            covered[by_fact] += found.low <= 0 <= found.high
    assert covered[True] / 300 > 0.88  # the percentile bootstrap of 16 values: somewhat below 0.95
    assert covered[False] / 300 < 0.78


def test_few_facts_have_no_interval_however_often_they_are_asked():
    few = runs_of([np.arange(FEWEST - 1.0) + shift for shift in (9, -9, 7)], 4)
    assert np.isnan(few.faithfulness(0).low)
    assert evaluation_of(replace(few, circuits=few.circuits * 2), Circuit.empty(Wiring(2, 2, 2)))
    one = replace(few, sample=Sample(("fact",) * 28, tuple(range(28))))
    assert np.isfinite(one.faithfulness(0).low)


@pytest.fixture(scope="module")
def model() -> Model:
    return kc.load("facts-gpt2", device="cpu")


@pytest.fixture(scope="module")
def worded(model: Model) -> list[dict[str, str]]:
    """Sixteen facts in three wordings, as the lines of a file of pairs."""
    atlas = kc.discover(model, "country_capital", n_pairs=FACTS, **QUICK).pairs
    texts = relation("country_capital").templates[:WORDINGS]
    return [
        {
            "clean": text.replace("{}", each.text.subject),
            "corrupted": text.replace("{}", corrupted_subject(each.text)),
            "answer": each.text.answer,
            "foil": each.text.foil,
            "subject": each.text.subject,
            "relation": "country_capital",
        }
        for each in atlas
        for text in texts
    ]


QUICK = {"edges": 60, "resamples": 0, "roles": False, "n_random": 1, "method": "eap"}


@pytest.mark.slow
def test_what_is_printed_says_what_the_intervals_are_over(model, worded, tmp_path: Path, capsys):
    path, out = tmp_path / "worded.jsonl", tmp_path / "found"
    path.write_text("".join(json.dumps(line) + "\n" for line in worded))
    options = ("--pairs", str(path), "--model", "facts-gpt2", "--method", "eap")
    more = ("--edges", "60", "--resamples", "20", "--random", "1", "--curve", "--no-roles")
    assert main(["discover", *options, *more, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["intervals"]["drawn"], told["intervals"]["n_drawn"]) == (
        *(48, "facts"),
        FACTS,
    )
    page = (out / "summary.md").read_text()
    assert "95 % bootstrap intervals over 16 facts" in page
    assert "Of 20 resamples of the 16 facts that found it" in page
    assert kc.open(out / "curve.kc.safetensors").provenance["drawn"] == "16 facts"
    single = kc.discover(model, worded[::WORDINGS], **QUICK)
    assert single.evaluation.over == "pairs"
    assert "intervals over" not in str(single.summary().rows)


@pytest.mark.slow
def test_an_interchange_draws_facts_too(model, worded):
    pairs = [PromptPair(**line) for line in worded]
    found = kc.interchange(model, pairs, None, "m2")
    alone = bootstrap(mean, found.changed - found.base)
    assert found.effect.value == alone.value
    assert found.effect.high - found.effect.low > 1.3 * (alone.high - alone.low)
    assert "over 16 facts" in found.summary().note
