"""The door `knowledge_circuits`: light, whole, documented, and clear about what hides it."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import knowledge_circuits as kc
from circuits.base.errors import OptionError
from circuits.model.model import Model
from knowledge_circuits import _VERBS, verbs
from knowledge_circuits.rooms import ROOMS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model() -> Model:
    return kc.load("facts-gpt2", device="cpu")


@pytest.fixture(autouse=True)
def _one_model(model: Model, monkeypatch: pytest.MonkeyPatch):
    """Examples load the same model again and again."""
    monkeypatch.setattr("circuits.model.model.load", lambda name, *rest, **more: model)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    lines = f"import sys; sys.path.append({str(ROOT)!r}); sys.path.insert(0, '')\n{code}"
    return subprocess.run(
        [sys.executable, "-c", lines], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", _VERBS)
def test_the_example_of_every_verb_runs(name: str):
    verb = getattr(verbs, name)
    assert verb.__doc__
    examples = doctest.DocTestFinder(recurse=False).find(verb, name, globs=vars(verbs).copy())
    assert name == "explore" or examples[0].examples
    results = [doctest.DocTestRunner(verbose=False).run(each) for each in examples]
    assert sum(each.failed for each in results) == 0


def test_every_name_of_the_door_is_there():
    assert set(kc.__all__) == set(dir(kc)) == set(kc._PLACES)
    assert all(getattr(kc, name) is not None for name in kc.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kc.nonsense


def test_importing_the_door_imports_nothing_else(tmp_path: Path):
    code = """
before = set(sys.modules)
import knowledge_circuits
heavy = {"torch", "numpy", "circuits", "locate", "viz", "experiments"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
@pytest.mark.parametrize("name", ROOMS)
def test_a_module_that_hides_ours_is_named_in_one_line(name: str, form: str, tmp_path: Path):
    path = tmp_path / form.format(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError('this is run by nobody')\n")
    done = run("import knowledge_circuits as kc; kc.relations()", tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert str(path.resolve()) in last
    assert f"hides the package {name!r}" in last
    assert "run by nobody" not in done.stderr


def test_a_folder_without_an_init_hides_nothing(tmp_path: Path):
    for name in ROOMS:
        (tmp_path / name).mkdir()
    done = run("import knowledge_circuits as kc; assert kc.relations()", tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_unknown_option_is_named_with_the_nearest_one(model: Model):
    with pytest.raises(OptionError, match="did you mean n_pairs"):
        kc.discover(model, "country_capital", n_pair=3)
    with pytest.raises(OptionError, match="metric"):
        kc.discover(model, "country_capital", metric="nonsense")


def test_a_verbs_signature_names_all_its_options():
    names = set(inspect.signature(kc.discover).parameters)
    assert {"n_pairs", "method", "metric", "ablation", "edges", "templates", "hold_out"} <= names
    assert not {"options", "limit", "pairs"} & names - {"options"}


def test_a_discovery_shows_tables_and_stores_the_files_of_the_command(model: Model, tmp_path: Path):
    found = kc.discover(model, "country_capital", n_pairs=8, resamples=10)
    table = found.to_pandas()
    assert len(table) == found.circuit.n_edges
    assert {"edge", "score", "inclusion"} <= set(table)
    assert "faithfulness" in str(found)
    names = {path.name for path in found.save(tmp_path)}
    assert {"circuit.kc.safetensors", "circuit.svg", "pairs.jsonl", "summary.json"} <= names
    assert kc.open(tmp_path / "circuit.kc.safetensors") == found.circuit


def test_a_model_says_its_likeliest_tokens_and_goes_on(model: Model):
    said = model.ask("The capital of France is", k=3)
    assert list(said.to_pandas()["probability"]) == sorted(said.probabilities, reverse=True)
    assert model.generate("The capital of France is", 3).startswith(" Paris")
