"""Metrics, locators and plugins of a user's own are taken wherever the built-in ones are."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base import plugins
from circuits.base.choices import Metric
from circuits.base.errors import FileFormatError, NumericalError, OptionError
from circuits.base.options import build, sources
from circuits.graph.evaluate import evaluate
from circuits.graph.select import select
from experiments.analyses.engine.config import deciding
from experiments.analyses.locators import analysis as locators
from experiments.analyses.stability import choices as stability
from locate.changes.rewiring import rewiring
from locate.discover import discover
from locate.edges.acdc import acdc
from locate.edges.eap import attribute
from locate.edges.exact import patch_edges
from locate.edges.locators import Locator
from locate.examples import Examples
from locate.options import Editing, Evaluating
from locate.search import Scoring, Search
from tests.oracles import plain_eap
from tests.test_rewiring import small_edit

ROOT = Path(__file__).parent.parent
PLUGIN = '''
"""A locator with one option of its own: EAP-IG's scores plus noise of a chosen size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from circuits.base.choices import Metric
from circuits.base.options import Options, option
from locate.edges.eap import attribute
from locate.edges.locators import Locator


@dataclass(frozen=True)
class Noise(Options):
    noise: float = option(0.0, "Size of the noise.", low=0)


def noisy(model, pairs, scoring, *, batch_size=16, keep_pairs=False, progress=None):
    scores = attribute(model, pairs, metric=scoring.metric, keep_pairs=keep_pairs)
    noise = np.random.default_rng(0).standard_normal(scores.values.size)
    values = scores.values + scoring.options.noise * noise
    return replace(scores, values=values.astype(np.float32), provenance={})


def answer_logit(logits, answer, foil):
    return logits.gather(-1, answer[:, None]).squeeze(-1)


Locator.add("noisy", noisy, "EAP-IG with noise", options=Noise)
Metric.add("answer-logit", answer_logit, "logit of the answer alone")
'''


def difference(logits: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The logit difference, written again."""
    return picked(logits, answer) - picked(logits, foil)


def squares(logits: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """Something that no built-in metric is."""
    return 0.1 * picked(logits, answer) ** 2 - picked(logits, foil)


def picked(logits: Tensor, token: Tensor) -> Tensor:
    return logits.gather(-1, token[:, None]).squeeze(-1)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file above, and a world that forgets it afterwards."""
    for kind in (Metric, Locator):
        monkeypatch.setattr(kind, "_known", dict(kind._known))
    monkeypatch.setattr(plugins, "_loaded", {})
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["eap", "eap-ig", "exact"])
def test_a_users_metric_equal_to_the_logit_difference_scores_the_same_to_the_bit(
    model, pairs, method
):
    score = patch_edges if method == "exact" else attribute
    ours = score(model, pairs[:2], Scoring(Locator.of(method)), metric=difference)
    built_in = score(model, pairs[:2], Scoring(Locator.of(method)))
    np.testing.assert_array_equal(ours.values, built_in.values)
    assert ours.provenance["metric"] == "difference"
    assert len(ours.provenance["metric_sha256"]) == 64
    assert "metric_sha256" not in built_in.provenance


def test_a_users_metric_is_taken_by_evaluation_and_by_acdc(model, pairs):
    circuit = select(attribute(model, pairs), "top", 40)
    ours, built_in = (evaluate(model, pairs, circuit, metric=m) for m in (difference, "logit-diff"))
    assert ours == built_in
    ours, built_in = (acdc(model, pairs[:1], 1.0, metric=m) for m in (difference, "logit-diff"))
    np.testing.assert_array_equal(ours.kept, built_in.kept)


def test_another_metric_gives_what_plain_autograd_gives(model, pairs):
    ours = attribute(model, pairs, method="eap", metric=squares)
    theirs = ours.wiring.from_matrix(plain_eap(model, pairs, squares).numpy())
    assert np.abs(ours.values - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("broken", "error", "reason"),
    [
        (lambda values: values.mean(), OptionError, "shape"),
        (lambda values: values.detach(), OptionError, "cannot be differentiated"),
        (lambda values: values * float("nan"), NumericalError, "not a finite number"),
        (lambda values: 3.0, OptionError, "no tensor"),
    ],
)
def test_what_is_no_metric_is_refused_in_one_line(model, pairs, broken, error, reason):
    def mine(logits, answer, foil):
        return broken(picked(logits, answer))

    with pytest.raises(error, match=f"the metric mine .*{reason}") as caught:
        attribute(model, pairs, metric=mine)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_locator_of_ones_own_is_used_by_discover_and_by_rewiring(model, pairs, plugin):
    assert len(PLUGIN.strip().splitlines()) <= 40
    loaded = plugins.load_plugin(plugin)
    search = Search(Locator.of("noisy"), options={"noise": 0.0}, edges=40, resamples=5, n_random=1)
    examples = Examples("facts", tuple(pairs))
    found = discover(model, examples, search)
    plain = discover(model, examples, replace(search, method=Locator.EAP_IG, options=None))
    np.testing.assert_array_equal(found.circuit.kept, plain.circuit.kept)
    origin = found.circuit.provenance
    assert (origin["method"], origin["options"]) == ("noisy", {"noise": 0.0})
    assert len(origin["method_sha256"]) == 64
    assert origin["plugins"] == [{"name": "mine.py", "sha256": loaded.sha256}]
    louder = discover(model, examples, replace(search, options={"noise": 100.0}))
    assert (louder.circuit.kept != plain.circuit.kept).any()
    change = rewiring(
        model,
        small_edit(model),
        pairs,
        selector=search.selected,
        scoring=search,
        resamples=0,
        draws=0,
    )
    assert change.provenance["method"] == "noisy"


def test_options_that_a_method_does_not_have_are_refused_by_name(plugin):
    plugins.load_plugin(plugin)
    mine = Locator.of("noisy")
    with pytest.raises(OptionError, match="noisy has no option 'nois'; did you mean noise"):
        Scoring(mine, options={"nois": 1})
    with pytest.raises(OptionError, match="noise is at least 0"):
        Scoring(mine, options={"noise": -1})
    with pytest.raises(OptionError, match="eap-ig has no options of its own"):
        Scoring(options={"noise": 1})


def test_a_method_without_scores_of_single_pairs_is_refused_by_rewiring(model, pairs):
    with pytest.raises(OptionError, match="acdc gives no scores of single pairs"):
        rewiring(
            model,
            small_edit(model),
            pairs,
            selector=Search().selected,
            scoring=Scoring(Locator.ACDC),
        )


def test_a_plugin_runs_once_and_a_changed_one_is_refused(plugin):
    first = plugins.load_plugin(plugin)
    assert plugins.load_plugin(str(plugin)) == first
    assert plugins.loaded() == (first,)
    assert str(Metric.of("answer-logit")) == "answer-logit"
    plugin.write_text(PLUGIN + "\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"mine\.py was changed"):
        plugins.load_plugin(plugin)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "invalid syntax"),
        ('Metric.add("kl", answer_logit)', "there is a metric 'kl' already"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_mistake_in_a_plugin_is_one_line_and_leaves_nothing_behind(plugin, end, reason):
    plugin.write_text(PLUGIN + end + "\n", encoding="utf-8")
    line = len((PLUGIN + end).splitlines())
    with pytest.raises(FileFormatError, match=rf"mine\.py:{line}: .*{reason}") as caught:
        plugins.load_plugin(plugin)
    assert "\n" not in str(caught.value)
    assert "noisy" not in Locator
    assert "answer-logit" not in Metric
    assert plugins.record() == {}


def test_a_metric_that_is_not_known_any_more_is_not_taken_for_another(model, pairs):
    from locate.evaluate import evaluate_stored

    circuit = select(attribute(model, pairs, metric=squares), "top", 40)
    with pytest.raises(OptionError, match="metric 'squares' is none"):
        evaluate_stored(model, circuit, Examples("facts", tuple(pairs)))
    again = evaluate_stored(
        model, circuit, Examples("facts", tuple(pairs)), build(Evaluating, {"metric": squares})
    )
    assert torch.isfinite(torch.tensor(again.evaluation.faithfulness.value))


def register() -> None:
    """What an installed package offers."""
    Metric.add("theirs", difference)


def register_half() -> None:
    Metric.add("half", difference)
    raise ValueError("no such\nthing")


def test_installed_packages_offer_plugins_and_a_failing_one_is_named(plugin, monkeypatch):
    offered = [EntryPoint("theirs", f"{__name__}:register", plugins.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: offered)
    assert [each.name for each in plugins.load_installed()] == ["theirs"]
    assert [each.name for each in plugins.load_installed()] == ["theirs"]
    assert "theirs" in Metric
    offered.append(EntryPoint("broken", f"{__name__}:register_half", plugins.GROUP))
    with pytest.raises(OptionError, match="plugin 'broken' fails: ValueError: no such thing"):
        plugins.load_installed()
    assert "half" not in Metric
    assert [each["name"] for each in plugins.record()["plugins"]] == ["theirs"]


HALF = '''
import knowledge_circuits as kc
from knowledge_circuits.parts import Options, Report, Result


@kc.metric
def half_metric(logits, answer, foil):
    """Half."""


@kc.result_kind(paper=print)
class Half(Result):
    KIND = "half"


kc.analysis("half", "Half", "Half?", Options, list, dict, Report)
raise ValueError("too far")
'''


def test_a_plugin_that_fails_takes_back_its_analyses_and_kinds_as_well(tmp_path: Path):
    from circuits.base.choices import FigureKind
    from circuits.files.kinds import KINDS
    from experiments.analyses.engine.registry import names

    before = (list(Metric), list(KINDS), names(), list(FigureKind))
    path = tmp_path / "half.py"
    path.write_text(HALF, encoding="utf-8")
    with pytest.raises(FileFormatError, match="too far"):
        plugins.load_plugin(path)
    assert (list(Metric), list(KINDS), names(), list(FigureKind)) == before


def test_a_choice_that_a_failing_plugin_imports_first_keeps_what_is_ours(tmp_path: Path):
    code = f"""
from circuits.base import plugins
from circuits.base.errors import FileFormatError
path = {str(tmp_path / "half.py")!r}
open(path, "w").write('''
import knowledge_circuits as kc
@kc.locator
def mine(model, pairs, scoring, **rest):
    "Mine."
raise ValueError("too far")
''')
try:
    plugins.load_plugin(path)
except FileFormatError:
    from locate.edges.locators import Locator
    print(*Locator)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [str(each) for each in Locator if not each.is_own], done.stderr


def test_options_that_name_functions_of_ones_own_tell_their_source_and_others_nothing(plugin):
    plugins.load_plugin(plugin)
    noisy, logit = Locator.of("noisy").source_sha256, Metric.of("answer-logit").source_sha256
    asked = locators.Config(locators=("eap", "noisy:noise=1", 'ensemble:of=["eap","noisy"]'))
    assert deciding(asked)["locators_sha256"] == [noisy, noisy]
    assert deciding(replace(asked, metric=Metric.of("answer-logit")))["metric_sha256"] == logit
    varied = stability.Config(locators=("noisy",), metrics=("answer-logit", "log-prob"))
    assert deciding(varied)["metrics_sha256"] == logit
    assert sources(Search(Locator.ENSEMBLE, options={"of": ["eap", "noisy"]})) == {
        "options.of_sha256": noisy
    }
    for kind in (locators.Config, stability.Config, Editing, Search):
        assert not sources(kind())
