"""Runs of analyses: options, units that are computed once, sentences that follow their numbers."""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.base.choices import Known, Templates
from circuits.base.errors import (
    FileFormatError,
    NothingFoundError,
    OptionError,
    PromptError,
    StoreError,
)
from circuits.base.intervals import Interval, bootstrap, mean
from circuits.base.options import Options, meanings, option
from circuits.base.origin import model_label
from circuits.base.plain import interval, plain
from circuits.facts.facts import atlas
from circuits.model.model import Model
from circuits.model.packaged import EMBEDDED_DIR
from experiments.analyses.engine import config as options
from experiments.analyses.engine import context as surroundings
from experiments.analyses.engine import registry
from experiments.analyses.engine.asking import last_logits
from experiments.analyses.engine.base import Analysis, Figure, Part, Report, Section, SkipError
from experiments.analyses.engine.claims import (
    FEWEST,
    Claim,
    Verdict,
    across,
    average,
    claim,
    difference,
    false_discovery,
    judge,
    measured,
    minus,
    paired_p,
    share,
    widened,
)
from experiments.analyses.engine.context import Context, safe
from experiments.analyses.engine.page import inline_svg
from experiments.analyses.engine.parts import Shard, UnfinishedError, fingerprint
from experiments.analyses.engine.registry import analysis, names
from experiments.analyses.engine.running import redraw, run_all, run_analysis, write_index
from experiments.analyses.engine.tables import Table
from experiments.analyses.mechanisms.probes import Probe, probe_set
from experiments.cli.main import main
from locate.examples import Examples
from locate.search import Search
from viz.paper.charts import Bars


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Config(Options):
    keys: tuple[str, ...] = option(("a", "b"), "units", selects=True)
    scale: float = option(1.0, "what values are multiplied by")
    count: int | None = option(None, "how many", low=0, high=9)
    colour: Colour = option(Colour.RED, "which")
    flag: bool = option(False, "whether")
    numbers: tuple[int, ...] = option((), "some")


class Counting:
    """A toy analysis that counts how often a unit is computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.broken = False
        self.analysis = Analysis(
            "toy", "Toy <b>", "Does it count?", Config, self.steps, self.compute, self.report
        )

    def steps(self, context: Context, config: Config) -> list[str]:
        return list(config.keys)

    def compute(self, context: Context, config: Config, key: str) -> dict[str, Any]:
        if key == "broken" and self.broken:
            raise KeyboardInterrupt
        if key == "odd":
            raise SkipError("it is odd")
        if key == "empty":
            raise NothingFoundError("no edge is on a path")
        self.computed.append(key)
        return {"value": np.float32(config.scale), "nothing": float("nan"), "key": key}

    def report(self, config: Config, parts: Mapping[str, Part]) -> Report:
        rows = [[key, part["value"], Interval(1.0, 0.5, 1.5)] for key, part in parts.items()]
        table = Table("main", ("unit", "value", "estimate"), rows, title="All <units>")
        chart = Bars(["one"], {"x": [Interval(1.0, 0.5, 1.5)]})
        found = difference("a is above b", [2.0, 3.0, 4.0, 2.0, 2.5], [1.0, 1.0, 1.5, 1.0, 1.0])
        section = Section(
            "Part", "", (table,), (found,), (Figure("bars", "Some bars.", chart.draw),)
        )
        return Report(f"{len(parts)} units.", (section,), (found,), ("As said.",))


@pytest.fixture
def toy() -> Counting:
    return Counting()


@pytest.fixture
def context(tmp_path: Path, model: Model) -> Context:
    found = Context(model.name, tmp_path / "out")
    found._held.model = model
    return found


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("scale=2", "scale", 2.0),
        ("count=3", "count", 3),
        ("count=null", "count", None),
        ("keys=a, c", "keys", ("a", "c")),
        ("keys=[a, c]", "keys", ("a", "c")),
        ("keys=", "keys", ()),
        ("numbers=1,2", "numbers", (1, 2)),
        ("colour=blue", "colour", Colour.BLUE),
        ("flag=true", "flag", True),
    ],
)
def test_a_setting_becomes_the_type_of_its_option(setting: str, name: str, value: Any) -> None:
    assert getattr(options.with_settings(Config(), [setting]), name) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scal=2", "did you mean scale"),
        ("zzz=2", "there are keys, scale"),
        ("count=many", "whole number"),
        ("count=true", "whole number"),
        ("colour=green", "red, blue"),
        ("flag=1", "true or false"),
        ("scale", "NAME=VALUE"),
        ("count=-1", "at least 0"),
        ("count=10", "at most 9"),
        ("scale=.inf", "finite"),
        ("count=2020-99-99", "no YAML value"),
        ("count=!!bool maybe", "tags are not read"),
        ("count=!!int x", "tags are not read"),
        ("keys=[&a x, *a]", "aliases are not read"),
        ("count=" + "9" * 5000, "no YAML value"),
        ("keys=" + "[" * 1000, "nested too deeply"),
    ],
)
def test_an_unknown_option_or_value_is_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as raised:
        options.with_settings(Config(), [setting])
    assert "\n" not in str(raised.value)


def test_options_survive_their_yaml(tmp_path: Path) -> None:
    changed = Config(("x",), 2.5, 7, Colour.BLUE, True, (1,))
    path = tmp_path / "toy.yaml"
    path.write_text(options.as_yaml(changed))
    assert options.read_config(Config, path) == changed


@pytest.mark.parametrize("text", ["scal: 2", "- 1", "{", "scale: many"])
def test_a_wrong_config_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"toy\.yaml"):
        options.read_config(Config, path)


def test_a_config_that_grows_or_never_ends_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 9)]
    path.write_text("\n".join(["k0: &k0 [x, x]", *levels]))
    with pytest.raises(FileFormatError, match="aliases are not read") as raised:
        options.read_config(Config, path)
    assert len(str(raised.value)) < 300
    path.write_text("#" * (2 * options.MAX_BYTES))
    with pytest.raises(FileFormatError, match="at most 1 are read"):
        options.read_config(Config, path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for endless in (pipe, Path("/dev/zero")):
        with pytest.raises(FileFormatError, match="not a regular file"):
            options.read_config(Config, endless)


@pytest.mark.parametrize("name", names())
def test_every_option_says_what_it_means(name: str) -> None:
    assert all(meaning.text for meaning in meanings(analysis(name).config).values())


# --- sentences -----------------------------------------------------------------------------------

numbers = st.floats(-1e3, 1e3, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(numbers, numbers, numbers)
def test_the_sentence_follows_the_interval(value: float, one: float, other: float) -> None:
    low, high = min(one, other, value), max(one, other, value)
    found = claim("cats beat dogs", Interval(value, low, high), 5, opposite="dogs beat cats")
    starts = {
        Verdict.SUPPORTED: "Cats beat dogs: ",
        Verdict.OPPOSITE: "Dogs beat cats: ",
        Verdict.NO_EVIDENCE: "No evidence that cats beat dogs: ",
    }
    assert found.sentence.startswith(starts[found.verdict])
    assert (found.verdict is Verdict.SUPPORTED) == (low > 0)
    assert (found.verdict is Verdict.OPPOSITE) == (high < 0)
    assert found.sentence.endswith("n = 5 facts.")


@given(st.integers(1, 12), st.floats(0.5, 2.0))
def test_a_handful_of_values_decides_nothing(n: int, value: float) -> None:
    found = difference("a is above b", [value] * n, [0.0] * n)
    assert found.verdict is (Verdict.SUPPORTED if n >= FEWEST else Verdict.NO_EVIDENCE)
    assert found.sentence.startswith("Too few facts to say whether") == (n < FEWEST)


def test_intervals_of_few_values_miss_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)

    def missed(found: list[Interval]) -> float:
        return float(np.mean([not each.low <= 0 <= each.high for each in found]))

    for n in (5, 10):
        samples = generator.normal(size=(300, n))
        plain_bootstrap = missed([bootstrap(mean, sample) for sample in samples])
        assert missed([average(sample) for sample in samples]) < min(0.1, plain_bootstrap)
    for few in (2, FEWEST - 1):
        found, grouped = average(samples[0][:few]), average(samples[0], list("ab" * 5))
        assert np.isfinite(found.value)
        assert not np.isfinite([found.low, found.high, grouped.low, grouped.high]).any()
    assert widened(5) > widened(20) > widened(1000) > 0.95
    assert widened(1000) == pytest.approx(0.95, abs=0.001)


@given(st.lists(numbers, min_size=2, max_size=8), st.integers(0, 3))
@settings(max_examples=30)
def test_swapping_the_sides_swaps_the_verdict(values: list[float], seed: int) -> None:
    zeros = [0.0] * len(values)
    forth = difference("a is above b", values, zeros, seed=seed)
    back = difference("a is above b", zeros, values, seed=seed)
    swapped = {
        Verdict.SUPPORTED: Verdict.OPPOSITE,
        Verdict.OPPOSITE: Verdict.SUPPORTED,
        Verdict.NO_EVIDENCE: Verdict.NO_EVIDENCE,
    }
    assert back.verdict is swapped[forth.verdict]
    assert back.estimate.value == pytest.approx(-forth.estimate.value)


@given(st.lists(numbers, min_size=2, max_size=8))
@settings(max_examples=30)
def test_every_number_in_a_sentence_is_one_of_its_estimate(values: list[float]) -> None:
    found = difference("a is above b", values, [0.0] * len(values))
    text = found.sentence.replace("−", "-").replace(",", "").replace("95 % interval", "")
    text = text.replace("(too few values for an interval)", "")
    said = [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", text)]
    limits = [each for each in vars(found.estimate).values() if np.isfinite(each)]
    assert len(limits) == (3 if len(values) >= FEWEST else 1)
    for number, limit in zip(said, [*limits, len(values)], strict=True):
        assert number == pytest.approx(limit, abs=0.51, rel=0.01)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0, 2.0, 3.0] * 2, "Cats sleep longer than dogs: "),
        ([-1.0, -2.0, -3.0] * 2, "Cats sleep less than dogs: "),
        ([-1.0, 1.0] * 3, "No evidence that cats sleep longer than dogs: "),
    ],
)
def test_a_claim_has_words_for_either_verdict(values: list[float], sentence: str) -> None:
    found = difference("cats sleep [longer|less] than dogs", values, [0.0] * 6)
    assert found.sentence.startswith(sentence)


def test_equal_sides_are_no_evidence() -> None:
    assert difference("a is above b", [1.0, 2.0], [1.0, 2.0]).verdict is Verdict.NO_EVIDENCE


def test_one_value_is_no_evidence_and_no_value_cannot_be_said() -> None:
    assert difference("a is above b", [2.0], [1.0]).verdict is Verdict.NO_EVIDENCE
    found = difference("a is above b", [], [])
    assert found.verdict is Verdict.UNDEFINED
    assert "cannot be said" in found.sentence


def test_a_measured_number_claims_nothing() -> None:
    found = measured("the mean is", Interval(0.5, 0.4, 0.6), 7, over="relations")
    assert found.verdict is Verdict.MEASURED
    assert found.sentence == "The mean is 0.50, 95 % interval 0.40 to 0.60, n = 7 relations."
    one = measured("the mean is", Interval(0.5, 0.5, 0.5), 1, over="relations with both")
    assert one.sentence.endswith("n = 1 relation with both.")


def test_a_few_relations_are_decided_by_their_own_facts() -> None:
    """Of fewer than five relations a claim is about these; from five on, about such relations."""
    one = Interval(0.92, 0.88, 0.96)
    found = across("a is [above|below] b", [one], scale=100)
    assert found.verdict == Verdict.SUPPORTED
    assert found.n == 1
    assert "difference 92 points, 95 % interval 88 to 96, n = 1 relation, over" in found.sentence
    both = across("a is [above|below] b", [one, Interval(-0.9, -1.0, -0.8)], scale=100)
    assert both.verdict == Verdict.NO_EVIDENCE
    assert both.estimate.high - both.estimate.low == pytest.approx(100 * np.hypot(0.08, 0.2) / 2)
    bare = across("a is above b", [one, Interval(0.9, np.nan, np.nan)])
    assert bare.verdict == Verdict.NO_EVIDENCE
    assert bare.sentence.startswith("Too few relations to say whether a is above b: ")
    many = [Interval(value, np.nan, np.nan) for value in (1.0, 2.0, 1.5, 1.2, 1.7)]
    assert across("a is above b", many).estimate == average([each.value for each in many])
    assert across("a is above b", []).verdict == Verdict.UNDEFINED


def test_a_few_groups_are_decided_by_the_values_in_them() -> None:
    values, groups = [1.0, 2.0, 1.5, 1.2, 1.7, 1.4], ["x", "x", "x", "y", "y", "y"]
    found = difference("a is above b", values, [0.0] * 6, clusters=groups, over="relations")
    assert found.verdict == Verdict.SUPPORTED
    assert "n = 6 cases of 2 relations" in found.sentence
    few = difference("a is above b", values[:4], [0.0] * 4, clusters=groups[:4], over="relations")
    assert few.verdict == Verdict.NO_EVIDENCE


def test_the_interval_of_a_difference_is_that_of_independent_estimates() -> None:
    found = minus(Interval(0.9, 0.8, 1.0), Interval(0.2, 0.1, 0.3))
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.7, 0.7 - 0.1 * 2**0.5, 0.7 + 0.1 * 2**0.5)
    )


def test_the_interval_of_shares_stays_within_what_shares_can_be() -> None:
    """Newcombe's (1998) example h: 9 of 9 against none of 9, by the score method 0.66 to 1."""
    every, none = Interval(1.0, 0.758, 1.0), Interval(0.0, 0.0, 0.242)
    found = minus(every, none)
    assert (found.value, found.low, found.high) == pytest.approx((1, 0.658, 1), abs=5e-4)
    back = minus(none, every)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    both = across("a is above b", [every, every]).estimate
    assert (both.low, both.high) == pytest.approx((1 - 0.242 / 2**0.5, 1))


def test_clusters_count_and_widen_the_interval() -> None:
    values = np.array(([1.0, 1.1, 0.9] * 3 + [-1.0, -1.1, -0.9] * 3) * 3)
    groups = [name for name in "abcdef" for _ in range(9)]
    single, grouped = average(values), average(values, groups)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)
    found = difference("a is above b", values, np.zeros(54), clusters=groups, over="groups")
    assert found.n == 6


def test_unpaired_values_may_differ_in_number() -> None:
    found = difference("a is above b", [5.0, 6.0, 7.0] * 2, [1.0, 2.0] * 4, paired=False)
    assert found.verdict is Verdict.SUPPORTED
    assert "n = 6 and 8 facts" in found.sentence


def test_a_proportion_of_all_or_none_keeps_a_width() -> None:
    every, none = share([True] * 10), share([False] * 10)
    assert (every.value, every.high) == (1.0, pytest.approx(1.0))
    assert 0.5 < every.low < 0.9
    assert none.high == pytest.approx(1 - every.low)


def test_chance_alone_gives_small_p_values_rarely() -> None:
    generator = np.random.default_rng(0)
    p_values = [paired_p(generator.normal(size=12), draws=199, seed=i) for i in range(200)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.1
    assert (false_discovery(p_values) >= np.array(p_values)).all()
    assert paired_p([0.0, 0.0]) == 1.0
    assert judge(Interval(1.0, np.nan, np.nan)) is Verdict.NO_EVIDENCE


# --- tables --------------------------------------------------------------------------------------


def test_a_table_keeps_its_values_on_disk_unrounded(tmp_path: Path) -> None:
    rows = [["a", 1 / 3, Interval(0.5, 0.25, np.nan), None], ["b", 2.0, Interval(1.0, 0.0, 2.0), 3]]
    table = Table("t", ("name", "x", "y", "z"), rows, percent=frozenset({"y"}))
    table.save_parquet(tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert stored["x"] == [1 / 3, 2.0]
    assert stored["y"] == [0.5, 1.0]
    assert stored["y_low"] == [0.25, 0.0]
    assert stored["y_high"] == [None, 2.0]
    assert table.texts()[1] == ["b", "2.000", "100.0 [0.0, 200.0]", "3"]
    assert table.texts()[0][2:] == ["50.0", "–"]


def test_a_table_reads_its_columns_from_items() -> None:
    by_key = Table.of("t", {"a": 1}, {"name": lambda key, _: key, "n": lambda _, n: n})
    by_item = Table.of("t", [("a", 1)], {"name": lambda each: each[0], "n": lambda each: each[1]})
    assert by_key == by_item == Table("t", ("name", "n"), [["a", 1]])


def test_markdown_cells_cannot_break_the_table() -> None:
    text = Table("t", ("a|b",), [["x|y\nz"]]).markdown()
    assert text.splitlines()[2] == "| x\\|y z |"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", ("a", "b"), [["x"]])


def test_intervals_survive_json() -> None:
    stored = json.loads(json.dumps(plain({"x": Interval(1.0, np.nan, 2.0), "y": np.arange(2)})))
    assert stored == {"x": {"value": 1.0, "low": None, "high": 2.0}, "y": [0, 1]}
    found = interval(stored["x"])
    assert (found.value, found.high) == (1.0, 2.0)
    assert np.isnan(found.low)


@pytest.mark.parametrize("name", ["a/b", "..", "", ".x", "x" * 200, "model@step 1", "ü"])
def test_any_key_makes_a_file_name_of_its_own(name: str) -> None:
    assert re.fullmatch(r"[\w-][\w.-]*", safe(name), flags=re.ASCII)
    assert safe(name) != safe(name + "!")


def test_last_logits_are_those_of_each_prompt_alone(model: Model) -> None:
    prompts = [model.tokenizer.encode(text) for text in ("ab", "abc", "cd", "a")]
    together = last_logits(model, prompts, 2)
    with torch.no_grad():
        alone = [model.last_logits(torch.tensor([each.ids]))[0] for each in prompts]
    torch.testing.assert_close(together, torch.stack(alone))


# --- runs ----------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_reports_the_same(
    toy: Counting, context: Context
) -> None:
    first = run_analysis(toy.analysis, Config(), context)
    second = run_analysis(toy.analysis, Config(), context)
    assert toy.computed == ["a", "b"]
    assert second.parts.reused == 2
    assert second.report.lead == first.report.lead
    pages = [(each.name, each.caption) for run in (first, second) for each in run.report.figures]
    assert pages[0] == pages[1]


def test_what_is_named_twice_is_one_unit(toy: Counting, context: Context) -> None:
    run = run_analysis(toy.analysis, Config(keys=("a", "b", "a")), context)
    assert toy.computed == ["a", "b"]
    assert list(run.parts.values) == ["a", "b"]


def test_a_run_that_stopped_goes_on_where_it_was(toy: Counting, context: Context) -> None:
    config = Config(keys=("a", "broken", "b"))
    toy.broken = True
    with pytest.raises(KeyboardInterrupt):
        run_analysis(toy.analysis, config, context)
    toy.broken = False
    run_analysis(toy.analysis, config, context)
    assert toy.computed == ["a", "broken", "b"]


def test_shards_compute_each_unit_once_and_the_last_reports(
    toy: Counting, context: Context, tmp_path: Path
) -> None:
    config = Config(keys=("a", "b", "odd", "c", "d"))
    for place in (3, 1):
        with pytest.raises(UnfinishedError, match="of 5 units are stored"):
            run_analysis(toy.analysis, config, context, shard=Shard(place, 3))
    assert toy.computed == ["a", "c"]
    run = run_analysis(toy.analysis, config, context, shard=Shard(2, 3))
    assert toy.computed == ["a", "c", "b", "d"]
    assert list(run.parts.values) == ["a", "b", "c", "d"]
    assert run.parts.skipped == {"odd": "it is odd"}
    assert run.parts.reused == 3
    whole = run_analysis(toy.analysis, config, replace(context, folder=tmp_path / "whole"))
    assert whole.parts.values == run.parts.values
    assert whole.parts.fingerprint == run.parts.fingerprint


def test_an_unfinished_shard_is_no_mistake(
    toy: Counting,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(registry, "_ANALYSES", {**registry._ANALYSES, "toy": toy.analysis})
    command = ["run", "toy", "--model", tiny, "--out", str(tmp_path / "out"), "--shard"]
    assert main([*command, "1/2"]) == 0
    assert "1 of 2 units are stored" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()
    assert main([*command, "2/2"]) == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_the_last_shard_of_all_reports_what_was_unfinished_when_it_came_by(
    toy: Counting, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other shard ends while this one is at a later analysis."""
    other = replace(toy.analysis, name="other")
    beside = replace(context, folder=context.folder)

    def slow(own: Context, config: Config, key: str) -> dict[str, Any]:
        with pytest.raises(UnfinishedError):  # `other` is this shard's to finish
            run_all([toy.analysis, replace(other, compute=toy.compute)], beside, shard=Shard(1, 2))
        return toy.compute(own, config, key)

    late = replace(other, compute=slow)
    runs, left_out = run_all([toy.analysis, late], context, shard=Shard(2, 2))
    assert [run.analysis.name for run in runs] == ["toy", "other"]
    assert not left_out


def test_a_model_is_named_in_titles_by_its_label_or_the_end_of_its_path(
    toy: Counting, context: Context
) -> None:
    assert model_label({"model": "/data/models/tiny-llama"}) == "tiny-llama"
    assert model_label({"model": "files/small.gguf"}) == "small.gguf"
    assert model_label({"model": "org/name"}) == "org/name"
    assert model_label({"model": "/data/x", "label": "Ours"}) == "Ours"
    assert model_label({}) == ""
    named = replace(context, label="Ours <1>")
    run = run_analysis(toy.analysis, Config(), named)
    assert "Toy &lt;b&gt;: Ours &lt;1&gt;" in (context.folder / "report.html").read_text()
    assert run.provenance["model"] == context.model.name
    again = redraw(toy.analysis, context.folder, label="Theirs")
    assert again.model == "Theirs"
    assert redraw(toy.analysis, context.folder).model == "Theirs"


@pytest.mark.parametrize(("most", "expected"), [(0, 37), (5, 5), (None, 37), (100, 37)])
def test_relations_are_drawn_by_the_seed(
    context: Context, most: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = context.names((), most)
    assert len(names) == expected
    assert names == [name for name in context.relations if name in names]  # in the facts' order
    assert context.names((), most) == names
    assert context.names(["country_capital"], most) == ["country_capital"]
    monkeypatch.setattr(surroundings, "LARGE", 1)
    assert len(context.names()) == 37
    assert len(context.names((), None)) == surroundings.USUAL


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_a_shard_is_one_of_some(text: str) -> None:
    with pytest.raises(OptionError, match="shard"):
        Shard.parse(text)


def test_what_decides_a_value_decides_whether_it_is_computed_again(
    toy: Counting, context: Context
) -> None:
    run_analysis(toy.analysis, Config(keys=("a",)), context)
    run_analysis(toy.analysis, Config(keys=("a", "b")), context)  # chooses units only
    assert toy.computed == ["a", "b"]
    run_analysis(toy.analysis, Config(keys=("a",), scale=2.0), context)
    assert toy.computed == ["a", "b", "a"]
    run_analysis(toy.analysis, Config(keys=("a",), scale=2.0), replace(context, seed=1))
    assert toy.computed == ["a", "b", "a", "a"]
    newer = replace(toy.analysis, version=2)
    run_analysis(newer, Config(keys=("a",), scale=2.0), replace(context, seed=1))
    assert toy.computed == ["a", "b", "a", "a", "a"]


def test_what_units_share_is_prepared_once_and_not_where_all_are_stored(
    toy: Counting, context: Context
) -> None:
    order: list[str] = []
    toy.computed = order
    prepared = replace(toy.analysis, prepare=lambda context, config: order.append("prepared"))
    run_analysis(prepared, Config(), context)
    assert order == ["prepared", "a", "b"]
    run_analysis(prepared, Config(), context)
    assert order == ["prepared", "a", "b"]
    run_analysis(prepared, Config(keys=("a", "b", "c")), context)
    assert order[3:] == ["prepared", "c"]


def test_a_damaged_part_is_computed_again(toy: Counting, context: Context) -> None:
    run_analysis(toy.analysis, Config(), context)
    (context.folder / "parts" / "a.json").write_text("{")
    run_analysis(toy.analysis, Config(), context)
    assert toy.computed == ["a", "b", "a"]


def test_units_left_out_are_named_with_their_reason(toy: Counting, context: Context) -> None:
    notes: list[str] = []
    keys = ("a", "odd", "empty")
    run = run_analysis(toy.analysis, Config(keys=keys), context, note=notes.append)
    assert run.parts.skipped == {"odd": "it is odd", "empty": "no edge is on a path"}
    assert notes == [
        "toy odd left out: it is odd",
        "toy empty left out: no edge is on a path",
    ]
    assert "odd (it is odd)" in (context.folder / "report.html").read_text()
    with pytest.raises(PromptError, match="it is odd"):
        run_analysis(toy.analysis, Config(keys=("odd",)), context)


def test_a_report_is_made_again_without_the_model(toy: Counting, context: Context) -> None:
    first = run_analysis(toy.analysis, Config(scale=3.0), context)
    (context.folder / "report.html").unlink()
    again = redraw(toy.analysis, context.folder)
    assert again.as_dict()["claims"] == first.as_dict()["claims"]
    assert (context.folder / "report.html").exists()
    assert toy.computed == ["a", "b"]
    with pytest.raises(FileFormatError, match="run it first"):
        redraw(toy.analysis, context.folder / "nowhere")


def test_a_report_is_not_made_again_of_missing_damaged_or_other_units(
    toy: Counting, context: Context
) -> None:
    run_analysis(toy.analysis, Config(), context)
    part, page = context.folder / "parts" / "a.json", context.folder / "report.html"
    whole, report = part.read_text(), page.read_text()
    other = replace(context, folder=context.folder / "other")
    run_analysis(toy.analysis, Config(scale=3.0), other)
    foreign = (other.folder / "parts" / "a.json").read_text()
    for text in (None, whole[:40], whole.replace('"value": 1.0', '"value": "x"'), foreign):
        part.unlink() if text is None else part.write_text(text)
        with pytest.raises(
            FileFormatError, match=r"a\.json: is (missing|damaged or of another run)"
        ):
            redraw(toy.analysis, context.folder)
    assert page.read_text() == report
    part.write_text(whole)
    assert redraw(toy.analysis, context.folder).parts.values["a"]["value"] == 1.0


def test_a_run_of_another_version_is_not_read_as_one_of_this(
    toy: Counting, context: Context
) -> None:
    run_analysis(toy.analysis, Config(), context)
    newer = replace(toy.analysis, version=toy.analysis.version + 1)
    with pytest.raises(FileFormatError, match="another version of toy; run it again"):
        redraw(newer, context.folder)


def test_facts_are_known_by_what_they_say_and_not_by_their_path(
    toy: Counting, context: Context, tmp_path: Path
) -> None:
    paths = [tmp_path / "facts.jsonl", tmp_path / "other.jsonl"]
    line = {"relation": "r", "subject": "France", "object": "Paris", "prompt": "{} has"}

    def computed() -> int:
        for path in paths:
            asked = Context(context.model_name, context.folder, facts=str(path))
            asked._held.model = context.model
            run_analysis(toy.analysis, Config(keys=("a",)), asked)
        return len(toy.computed)

    for path in paths:
        path.write_text(json.dumps(line))
    assert computed() == 1
    paths[1].write_text(json.dumps(line | {"object": "Rome"}))
    assert computed() == 2


def test_another_tokenizer_is_another_run_with_other_circuits(
    toy: Counting, context: Context
) -> None:
    examples = Examples("r", ())

    def marks() -> tuple[str, Path]:
        path = context._path(context.identity_of(), "r", examples, Search())
        return fingerprint(toy.analysis, Config(), context), path

    before, provenance = marks(), dict(context.model.provenance)
    assert marks() == before
    other = copy.copy(context.model)
    other.provenance = {**provenance, "tokenizer_sha256": "other"}
    context._held.model = other
    assert all(new != old for new, old in zip(marks(), before, strict=True))


def test_two_analyses_do_not_share_a_folder(toy: Counting, context: Context) -> None:
    run_analysis(toy.analysis, Config(), context)
    with pytest.raises(OptionError, match="holds a run of toy"):
        run_analysis(replace(toy.analysis, name="other"), Config(), context)


def test_all_analyses_share_a_run_and_one_that_cannot_be_made_is_left_out(
    toy: Counting, context: Context
) -> None:
    def impossible(context: Context, config: Config) -> list[str]:
        raise OptionError("there are no checkpoints")

    other = replace(toy.analysis, name="other", title="Another")
    third = replace(toy.analysis, name="third", steps=impossible)
    runs, left_out = run_all([toy.analysis, other, third], context)
    assert [run.analysis.name for run in runs] == ["toy", "other"]
    assert left_out == {"third": "there are no checkpoints"}
    _, path = write_index(runs, left_out, context.folder)
    page = path.read_text()
    links = [address for address in Ids(page).addresses if not address.startswith("#")]
    assert links == ["toy/report.html", "other/report.html"]
    assert all((context.folder / link).exists() for link in links)
    assert "third was left out: there are no checkpoints" in page
    again, _ = run_all([toy.analysis], context, again=True)
    assert toy.computed == ["a", "b"] * 2
    assert again[0].as_dict()["claims"] == runs[0].as_dict()["claims"]
    with pytest.raises(PromptError, match="no checkpoints"):
        run_all([third], context)


def test_files_of_an_earlier_report_do_not_stay_and_a_users_do(
    toy: Counting, context: Context
) -> None:
    run_analysis(toy.analysis, Config(), context)
    summary = context.folder / "summary.json"
    theirs = [context.folder / "tables" / "mine.parquet", context.folder / "figures" / "mine.svg"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    stale = context.folder / "tables" / "stale.parquet"
    stale.write_text("of the report before")
    outside = context.folder / "parts" / "a.json"
    told = json.loads(summary.read_text())
    told["written"] += ["tables/stale.parquet", "parts/a.json", "../x.parquet", "tables/../a", 3]
    summary.write_text(json.dumps(told))
    run_analysis(toy.analysis, Config(), context)
    assert not stale.exists()
    assert outside.exists()
    assert [path.read_text() for path in theirs] == ["mine", "mine"]
    here = (*context.folder.glob("tables/*"), *context.folder.glob("figures/*"))
    assert {f"{path.parent.name}/{path.name}" for path in here if path not in theirs} == set(
        json.loads(summary.read_text())["written"]
    )


@pytest.mark.parametrize("name", ["report.md", "report.html", "summary.json"])
def test_a_file_that_no_report_wrote_is_kept_and_named_before_anything_is_computed(
    toy: Counting, context: Context, name: str
) -> None:
    context.folder.mkdir()
    mine = context.folder / name
    mine.write_text('{"schema": "discovery", "files": ["summary.json"]}')
    with pytest.raises(OptionError, match=f"holds a file {name} that is of no earlier report"):
        run_analysis(toy.analysis, Config(), context)
    if name != "report.md":  # the page over several reports has none
        with pytest.raises(OptionError, match=f"holds a file {name} that is of no"):
            run_all([toy.analysis], context)
    assert toy.computed == []
    assert [path.name for path in context.folder.iterdir()] == [name]


def test_a_table_of_the_users_own_is_kept_and_the_units_too(
    toy: Counting, context: Context
) -> None:
    mine = context.folder / "tables" / "main.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OptionError, match=r"holds a file tables/main\.parquet"):
        run_analysis(toy.analysis, Config(), context)
    assert mine.read_text() == "mine"
    assert not (context.folder / "report.html").exists()
    mine.unlink()
    run_analysis(toy.analysis, Config(), context)
    assert toy.computed == ["a", "b"]


def test_a_report_that_cannot_be_written_leaves_the_earlier_one_whole(
    toy: Counting, context: Context
) -> None:
    run_analysis(toy.analysis, Config(), context)

    def files() -> dict[Path, bytes]:
        found = (path for path in context.folder.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in found if path.parent.name != "parts"}

    def fail(path: Path, provenance: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    def other(config: Config, parts: Mapping[str, Part]) -> Report:
        report = toy.report(config, parts)
        late = Section("Late", figures=(Figure("late", "", fail),))
        return replace(report, lead="Another lead.", sections=(*report.sections, late))

    before = files()
    with pytest.raises(StoreError, match="No space left"):
        run_analysis(replace(toy.analysis, report=other), Config(scale=9.0), context)
    assert files() == before


def test_the_summary_says_where_the_numbers_come_from(toy: Counting, context: Context) -> None:
    run_analysis(toy.analysis, Config(), context)
    provenance = json.loads((context.folder / "summary.json").read_text())["provenance"]
    for name in ("weights_sha256", "seed", "config", "versions", "commit", "created", "units"):
        assert name in provenance
    assert provenance["bos"] is context.model.tokenizer.use_bos(None)


class Ids(HTMLParser):
    """Ids, addresses and open tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.addresses.append(value or "")


def test_a_page_needs_no_other_file(toy: Counting, context: Context) -> None:
    run_analysis(toy.analysis, Config(), context)
    text = (context.folder / "report.html").read_text()
    page = Ids(text)
    assert text.count("<svg") == 1
    assert all(address.startswith("#") for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert "url(http" not in text
    assert "@import" not in text


def test_a_report_leads_to_its_terms_once_each_and_leaves_code_alone(
    toy: Counting, context: Context
) -> None:
    def report(config: Config, parts: Mapping[str, Part]) -> Report:
        table = Table("main", ("edge", "score, `foil`"), [["m0->logits", 1.0]], title="Circuit")
        section = Section("Part", "Edges by their score; `circuit` is code.", (table,))
        return Report("The edges of 3 circuits, 50 % held out.", (section,), (), ("A foil.",))

    run_analysis(replace(toy.analysis, report=report), Config(), context)
    page = Ids((context.folder / "report.html").read_text())
    terms = ["circuit", "edge", "held-out", "score"]
    assert [each for each in page.ids if each.startswith("use-")] == [
        "use-term-edge",
        "use-term-circuit",
        "use-term-held-out",
        "use-term-score",
    ]
    assert [each for each in page.ids if each.startswith("term-")] == [f"term-{t}" for t in terms]
    text = (context.folder / "report.md").read_text()
    assert "The [edges](#term-edge) of 3 [circuits](#term-circuit), 50 % [held out]" in text
    assert "Edges by their [score](#term-score); `circuit` is code." in text
    assert "| edge | score, `foil` |" in text
    assert re.findall(r'<a id="term-([a-z-]+)"></a>', text) == terms
    assert re.findall(r"\]\(#term-([a-z-]+)\)", text) == ["edge", "circuit", "held-out", "score"]


def test_text_on_a_page_is_no_markup(toy: Counting, context: Context) -> None:
    run_analysis(toy.analysis, Config(), context)
    text = (context.folder / "report.html").read_text()
    assert "Toy &lt;b&gt;" in text
    assert "<units>" not in text
    assert "All <units>" in (context.folder / "report.md").read_text()


def test_two_pictures_on_a_page_keep_their_ids_apart() -> None:
    inside = '<defs><g id="a"/></defs><use xlink:href="#a"/>'
    svg = f'<?xml version="1.0"?>\n<svg width="100pt">{inside}</svg>'
    one, other = (inline_svg(svg, name, 'say "hi"') for name in ("one", "other"))
    assert 'id="one-a"' in one
    assert 'href="#one-a"' in one
    assert 'id="other-a"' in other
    assert "<?xml" not in one
    assert "&#34;hi&#34;" in one


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "name an analysis"),
        (["run", "circuit"], "did you mean circuits"),
        (["run", "flow", "icl", "--set", "pairs=3"], "go with one analysis"),
        (["run", "circuits", "--set", "resamples=-1"], "resamples is at least 0"),
        (["run", "flow", "--set", "pair=3"], "did you mean pairs"),
        (["run", "all", "--set", "pairs=3"], "go with one analysis"),
        (["run", "flow", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "flow", "--redraw", "--out", "nowhere"], "run it first"),
        (["run", "flow", "--redraw", "--set", "draws=7"], "--set has no effect with --redraw"),
        (["run", "flow", "--redraw", "--seed", "7"], "--seed has no effect with --redraw"),
        (["run", "flow", "--redraw", "--dtype", "bf16"], "--dtype has no effect with --redraw"),
        (["run", "flow", "--redraw", "--out", "o", "-m", "x"], "--model has no effect with"),
        (["run", "flow", "--set", "relations=capital"], "country_capital"),
    ],
)
def test_a_mistake_costs_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = arguments if "--out" in arguments else [*arguments, "--out", str(tmp_path)]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_the_list_explains_every_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--list"]) == 0
    text = capsys.readouterr().out
    for name in names():
        assert f"\n{name}: " in f"\n{text}"
        assert analysis(name).question in text


@pytest.mark.parametrize("name", names())
def test_the_shown_options_are_a_config_file_of_the_defaults(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", name, "--show"]) == 0
    path = tmp_path / "options.yaml"
    path.write_text(capsys.readouterr().out)
    kind = analysis(name).config
    assert options.read_config(kind, path) == kind()
    assert path.read_text().count("# ") == len(meanings(kind))


OWN = """
from dataclasses import dataclass

from circuits.base.options import Options, option
from experiments.analyses.engine.base import Analysis, Report, Section
from experiments.analyses.engine.claims import above
from experiments.analyses.engine.registry import register
from experiments.analyses.engine.tables import Table


@dataclass(frozen=True)
class Config(Options):
    relations: tuple[str, ...] = option((), "relations to count; none: all", selects=True)
    most: int = option(5, "facts a relation", low=1)


def steps(context, config):
    return context.names(config.relations)


def compute(context, config, key):
    facts = context.relations[key].facts[: config.most]
    return {"lengths": [len(fact.object) for fact in facts]}


def report(config, parts):
    lengths = [length for part in parts.values() for length in part["lengths"]]
    rows = [[name, len(part["lengths"])] for name, part in parts.items()]
    table = Table("lengths", ("relation", "facts"), rows)
    longer = above("objects have more than one letter", lengths, 1.0, unit="letters")
    return Report(f"{len(lengths)} objects.", (Section("Lengths", "", (table,)),), (longer,))


register(
    Analysis("lengths", "Lengths", "How long are objects?", Config, steps, compute, report)
)
"""


def test_an_analysis_in_a_file_of_the_users_own_is_run_like_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))
    path, out = tmp_path / "mine.py", tmp_path / "out"
    path.write_text(OWN)
    runpy.run_path(str(path))
    run = ["run", "lengths", "--out", str(out)]
    assert main(["run", "--list"]) == 0
    assert main([*run, "--show"]) == 0
    assert main([*run, "--set", "most=0"]) == 2
    assert main([*run, "--set", "relations=country_capital", "--set", "most=6"]) == 0
    text = capsys.readouterr().out
    assert "lengths: Lengths" in text
    assert "# facts a relation" in text
    assert "Objects have more than one letter: " in text
    (out / "report.html").unlink()
    assert main([*run, "--redraw"]) == 0
    assert "6 objects." in (out / "report.html").read_text()
    path.write_text(OWN.replace('"lengths", "Lengths"', '"sizes", "Sizes"'))
    runpy.run_path(str(path))
    assert main(["run", "lengths", "sizes", "--out", str(tmp_path / "both")]) == 0
    links = Ids((tmp_path / "both" / "report.html").read_text()).addresses
    assert links == ["lengths/report.html", "sizes/report.html"]


def test_a_name_is_given_to_one_analysis(monkeypatch: pytest.MonkeyPatch, toy: Counting) -> None:
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))
    assert registry.register(registry.register(toy.analysis)) is toy.analysis
    assert "toy" in names()
    for name in ("toy", "circuits", "all", "../toy"):
        with pytest.raises(OptionError, match=r"another name|no name for"):
            registry.register(replace(toy.analysis, name=name, version=2))


@pytest.mark.parametrize(
    "asked", [{"shots": 2}, {"known": Known.of("top5")}, {"templates": Templates.TRAIN}]
)
def test_what_changes_nothing_is_refused_or_left_out_of_the_run(
    toy: Counting, context: Context, asked: dict[str, Any]
) -> None:
    (name,) = asked
    own = replace(toy.analysis, name="own-ways", paired=False)
    given, told = replace(context, **asked), []
    with pytest.raises(OptionError, match=f"^`{name}` would change nothing in own-ways"):
        run_analysis(own, Config(), given)
    with pytest.raises(OptionError, match="own-ways"):
        run_all([own], given)
    assert not toy.computed
    runs, _ = run_all([toy.analysis, own], given, note=told.append)
    (line,) = told
    assert line.startswith(f"`{name}` would change nothing in own-ways,")
    stored = {run.analysis.name: run.provenance for run in runs}
    assert stored["toy"][name] == asked[name]
    kept = [stored["own-ways"][each] for each in ("shots", "known", "templates")]
    assert kept == [0, "top1", "usual"]
    plain = run_all([own], context)[0][0]
    assert plain.parts.reused == len(plain.parts.values)


def test_a_copy_of_an_embedded_model_is_asked_as_it_and_shares_its_units(
    toy: Counting, tmp_path: Path
) -> None:
    shutil.copytree(EMBEDDED_DIR / "facts-gpt2", tmp_path / "copy")
    contexts = [Context(name, tmp_path) for name in ("facts-gpt2", str(tmp_path / "copy"))]
    contexts.append(replace(contexts[0], templates=Templates.FIRST))
    assert {each.asked_in for each in contexts} == {Templates.FIRST}
    assert len({fingerprint(toy.analysis, Config(), each) for each in contexts}) == 1


@pytest.mark.parametrize("templates", [Templates.HELD_OUT, Templates.BEST])
def test_questions_of_an_analysis_own_kind_stand_in_the_runs_wordings(
    tmp_path: Path, templates: Templates
) -> None:
    context, name = Context("facts-gpt2", tmp_path, templates=templates), "country_capital"
    plain = context.relations[name]
    chosen = plain.held_out if templates == Templates.HELD_OUT else context.best(name).best
    asked = probe_set(Probe.CLOZE, name, {name: context.worded(name)})
    assert asked.template == chosen[0]
    assert set(context.worded(name).templates) == {*plain.templates, *chosen}


@pytest.mark.slow
def test_a_runs_templates_word_its_pairs(tmp_path: Path) -> None:
    context, name = Context("facts-gpt2", tmp_path), "country_capital"
    asked = atlas()[name]
    for templates, wordings in (
        (Templates.FIRST, asked.templates[:3]),
        (Templates.USUAL, asked.templates[:3]),  # the model is an embedded one
        (Templates.HELD_OUT, asked.held_out),
    ):
        found = replace(context, templates=templates).examples(name, 8)
        said = {pair.text.clean.replace(pair.text.subject, "{}") for pair in found.pairs}
        assert said
        assert said <= set(wordings)
    best = replace(context, templates=Templates.BEST).examples(name, 8)
    assert set(best.counts["asked_as"]["wordings"]) <= set(asked.templates)


def test_roles_are_of_the_pairs_that_known_and_shots_ask_for(context: Context, monkeypatch) -> None:
    """Contexts that differ in these alone share what was made, and not the roles."""
    asked = []

    def noted(self: Context, relation: str, limit: int, **more: Any) -> Any:
        asked.append((self.known, self.shots))
        raise PromptError("no pairs here")

    monkeypatch.setattr(Context, "examples", noted)
    for shots in (0, 2, 2):
        assert replace(context, shots=shots).roles("country_capital", 4) == {}
    assert [shots for _, shots in asked] == [0, 2]


@pytest.mark.parametrize("name", ["icl", "unlearning"])
def test_an_analysis_without_such_pairs_refuses_demonstrations(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", name, "--shots", "5", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--shots would change nothing in {name}, where questions are worded" in line


def test_all_leaves_out_what_takes_hours() -> None:
    slow = {name for name in names() if analysis(name).slow}
    assert slow == {"edit-study", "unlearning", "locators", "stability"}
    assert [each.name for each in registry.chosen(["all"])] == [n for n in names() if n not in slow]
    assert [each.name for each in registry.chosen(["flow", "flow"])] == ["flow"]


def test_claims_are_values() -> None:
    one = Claim("x", Interval(1.0, 0.0, 2.0), Verdict.MEASURED, 3)
    assert one == Claim("x", Interval(1.0, 0.0, 2.0), Verdict.MEASURED, 3)
    assert one.as_dict()["verdict"] == "measured"


@pytest.mark.parametrize("size", [0, -3])
def test_no_analysis_takes_batches_of_nothing(tmp_path: Path, size: int):
    with pytest.raises(OptionError, match=f"at least 1, not {size}"):
        Context("facts-gpt2", tmp_path, batch_size=size)
