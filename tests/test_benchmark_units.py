"""What decides a unit of a benchmark, which cases are drawn, and what is stored of a failure."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.base.content import content_sha256
from circuits.base.errors import (
    KnowledgeCircuitsError,
    ModelNotFoundError,
    NumericalError,
    OptionError,
    OutOfMemoryError,
)
from circuits.edits.edit import WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import share_moments
from circuits.model.model import Model
from experiments.analyses.engine.base import SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.parts import fingerprint
from experiments.analyses.engine.running import run_analysis
from experiments.benchmarks.base import Benchmark, Config, as_analysis, decided
from experiments.benchmarks.pitfalls.multilabel import MEMIT_MLE
from experiments.benchmarks.registry import BENCHMARKS, benchmark
from locate.examples import Examples
from locate.neurons.options import NeuronSearch
from locate.search import Search
from locate.states.steering import patched
from tests.tiny import equal_length_pairs, tiny_model


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context.on(tiny_model("gpt2"), tmp_path_factory.mktemp("units"))


def failing(error: Exception) -> Benchmark:
    def compute(bench: Any, case: Any, method: str) -> Any:
        raise error

    return replace(benchmark("zsre"), compute=compute)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_higher_limit_draws_the_same_cases_and_more(name: str, context: Context) -> None:
    found = benchmark(name)
    cases = found.read(found.own_data)
    cases = replace(cases, items=cases.items * 40)
    asked = {case: found.set_of(case) for case in cases.items} if found.set_of else {}
    drawn: list[list[int]] = []

    def compute(bench: Any, items: Any, method: str) -> Any:
        return {"items": items}

    analysis = as_analysis(replace(found, compute=compute, whole=False), cases)
    for limit in (3, 4, 9, None):
        steps = analysis.steps(context, Config((found.methods[-1],), limit))
        drawn.append([int(step.split()[-1]) for step in steps])
    for fewer, more in pairwise(drawn):
        assert set(fewer) < set(more)
    assert len(drawn[0]) == 3 * len(set(asked.values()) or {None})
    assert drawn[-1] == list(range(1, len(cases.items) + 1))


def test_the_limit_decides_a_unit_only_where_all_cases_are_one_unit(context: Context) -> None:
    for name in ("zsre", "knowundo"):
        found = benchmark(name)
        analysis = as_analysis(found, found.read(found.own_data))
        marks = {fingerprint(analysis, Config(("none",), limit), context) for limit in (2, 3)}
        assert len(marks) == (2 if found.whole else 1)


@pytest.mark.parametrize("error", [NumericalError("no number"), OptionError("too long")])
def test_what_lies_in_a_case_is_recorded(error: KnowledgeCircuitsError, context: Context) -> None:
    found = failing(error)
    analysis = as_analysis(found, found.read(found.own_data))
    with pytest.raises(SkipError, match=str(error)):
        analysis.compute(context, Config(("none",)), "none 1")


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("memory is at an end"), ModelNotFoundError("no such model")]
)
def test_what_may_pass_is_no_result(error: KnowledgeCircuitsError, context: Context) -> None:
    found = failing(error)
    analysis = as_analysis(found, found.read(found.own_data))
    with pytest.raises(type(error), match=str(error)):
        analysis.compute(context, Config(("none",)), "none 1")


def test_content_has_the_names_of_a_folders_files_and_what_is_read_beside(tmp_path: Path) -> None:
    for name in ("easy", "hard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text("[]")
    assert content_sha256(tmp_path / "easy") != content_sha256(tmp_path / "hard")
    file, beside = tmp_path / "easy" / "easy.json", tmp_path / "easy" / "x_prompts.json"
    assert content_sha256(file) == content_sha256(tmp_path / "hard" / "hard.json")
    marks = [content_sha256(file)]
    for text in ("{}", "{ }"):
        beside.write_text(text)
        marks.append(content_sha256(file, [beside]))
    assert len(set(marks)) == 3


def test_paraphrases_own_functions_and_named_folders_decide(tmp_path: Path) -> None:
    rounds = benchmark("roundedit")
    data = tmp_path / "easy.json"
    data.write_text("[]")
    config = Config(("none", "ft"))
    first = decided(rounds, config, data)
    assert first.own_sha256 == ""
    (tmp_path / "round_prompts.json").write_text("{}")
    assert decided(rounds, config, data).data_sha256 != first.data_sha256

    def nothing_at_all(model: Model, requests: Any, layers: Any, **options: Any) -> Any:
        """An edit method of one's own."""

    own = EditMethod.of(nothing_at_all)
    with_own = decided(rounds, replace(config, methods=("none", own)), data)
    assert with_own.own_sha256
    tofu, folder = benchmark("tofu"), tmp_path / "model"
    folder.mkdir()
    marks = set()
    for weights in ("old", "new"):
        (folder / "weights").write_text(weights)
        named = replace(config, methods=("none",), settings=(f"retain_model={folder}",))
        marks.add(decided(tofu, named, tofu.own_data).own_sha256)
    assert len(marks - {""}) == 2


def test_a_run_of_another_model_is_not_replaced(tmp_path: Path) -> None:
    found = benchmark("zsre")
    analysis, config = as_analysis(found, found.read(found.own_data)), Config(("none",), 1)
    one = tiny_model("gpt2")
    run_analysis(analysis, config, Context.on(one, tmp_path))
    summary = (tmp_path / "summary.json").read_bytes()
    other = tiny_model("llama")
    with pytest.raises(OptionError, match="holds a run of tiny-gpt2; name another folder"):
        run_analysis(analysis, config, Context.on(other, tmp_path))
    assert (tmp_path / "summary.json").read_bytes() == summary
    for path in tmp_path.iterdir():  # as if it had been stopped before its report
        if path.is_dir() and path.name != "parts":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    with pytest.raises(OptionError, match="holds a run of tiny-gpt2; name another folder"):
        run_analysis(analysis, config, Context.on(other, tmp_path))
    mquake = benchmark("mquake")
    another = as_analysis(mquake, mquake.read(mquake.own_data))
    with pytest.raises(OptionError, match="holds a run of benchmark-zsre; name another folder"):
        run_analysis(another, config, Context.on(one, tmp_path))
    retrained = tiny_model("gpt2", seed=1)
    assert run_analysis(analysis, config, Context.on(retrained, tmp_path)).parts.reused == 0


def test_a_patched_or_edited_model_gets_no_stored_results_of_the_model_as_it_was(
    tmp_path: Path,
) -> None:
    """Nor one of another patch of equal norm; the same patch gets its own again."""
    found, model = benchmark("zsre"), tiny_model("gpt2")
    analysis, config = as_analysis(found, found.read(found.own_data)), Config(("none",), 1)
    weight = model.mlp_output_name(0)
    shape = model.shape(weight)
    deltas = [WeightDelta({weight: factor * torch.ones(shape)}, {}) for factor in (1, -1)]
    vector = torch.arange(float(model.d_model))

    def run(folder: str) -> int:
        return run_analysis(analysis, config, Context.on(model, tmp_path / folder)).parts.reused

    def circuits() -> Path:
        context = Context.on(model, tmp_path / "circuits")
        return context._path(context.identity_of(), "r", examples, Search())

    examples = Examples("r", tuple(equal_length_pairs(model)))
    assert [run("plain"), run("plain")] == [0, 1]
    blocks = [
        lambda: patched(model, "m1", to=0),
        lambda: patched(model, "m1", add=vector),
        lambda: patched(model, "m1", add=-vector),
        *(partial(delta.applied, model) for delta in deltas),
    ]
    paths = [circuits()]
    for block in blocks:
        with block():
            assert [run("plain"), run("plain")] == [0, 1]
            paths.append(circuits())
    assert len(set(paths)) == len(paths)
    assert run("plain") == 0


def test_methods_that_need_moments_share_them(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    asked: list[list[str]] = []

    def share(model: Model, methods: list[str], **options: Any) -> None:
        asked.append([str(each) for each in methods])

    monkeypatch.setattr("experiments.benchmarks.base.share_moments", share)
    named = {
        "counterfact": ("none", "in-context", "memit", "ft"),
        "roundedit": ("none", "memit-mle"),
        "safeedit": ("none",),
        "knowundo": ("none", "ga"),
    }
    for name, methods in named.items():
        found = benchmark(name)
        prepare = as_analysis(found, found.read(found.own_data)).prepare
        assert prepare is not None
        prepare(context, Config(methods))
    assert asked == [["memit", "ft"], ["memit-mle"]]


def test_a_method_of_a_benchmarks_own_takes_the_moments_of_its_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[int]] = []

    def find(model: Model, layers: list[int], corpus: None, progress: None) -> None:
        asked.append(layers)

    monkeypatch.setattr("circuits.edits.methods.run.find_moments", find)
    for method in (MEMIT_MLE, "memit"):
        share_moments(tiny_model("gpt2"), [method])
    assert asked[0] == asked[1] != []


def test_neurons_are_never_compared_with_no_random_ones() -> None:
    with pytest.raises(OptionError, match="n_random"):
        NeuronSearch(n_random=0)
