"""The rules of the house that a machine can check: who may import what, and what importing does."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from circuits.base import choices
from tests import results

ROOT = Path(__file__).parent.parent
LAYERS = ("circuits", "locate", "viz", "experiments", "knowledge_circuits")
MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
HEAVY = ("torch", "scipy", "pandas", "transformers", "transformer_lens", "matplotlib", "numpy")
LONGEST = 450
ROOMS = ("base", "model", "facts", "graph", "files", "edits")
"""The rooms within circuits, each of which may import those before it."""
PICTURES = ("paper", "screen", "page", "app")
"""The rooms within viz; each may import those before it, and the files beside them none."""


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            # What is imported from a package may be a module of it.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_module_that_is_imported_from_its_package_is_seen(tmp_path: Path):
    file = tmp_path / "x.py"
    file.write_text("from viz import app, page\nfrom locate.heads import roles\nimport torch.nn\n")
    found = {"viz", "viz.app", "viz.page", "locate.heads", "locate.heads.roles", "torch.nn"}
    assert set(imports_of(file)) == found


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_point_down(path: Path):
    own = LAYERS.index(path.relative_to(ROOT).parts[0])
    tops = {name.split(".")[0] for name in imports_of(path)}
    above = tops & set(LAYERS[own + 1 :])
    assert not above, f"{path.relative_to(ROOT)} imports {above}"
    assert "tests" not in tops


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down_within_circuits(room: str):
    above = {f"circuits.{each}" for each in ROOMS[ROOMS.index(room) + 1 :]}
    for path in sorted((ROOT / "circuits" / room).rglob("*.py")):
        rooms = {".".join(name.split(".")[:2]) for name in imports_of(path)}
        assert not rooms & above, f"{path.relative_to(ROOT)} imports {rooms & above}"


@pytest.mark.parametrize("room", ["", *PICTURES])
def test_imports_point_down_within_viz(room: str):
    above = {f"viz.{each}" for each in PICTURES[PICTURES.index(room) + 1 if room else 0 :]}
    folder = ROOT / "viz" / room
    for path in sorted(folder.rglob("*.py") if room else folder.glob("*.py")):
        rooms = {".".join(name.split(".")[:2]) for name in imports_of(path)}
        assert not rooms & above, f"{path.relative_to(ROOT)} imports {rooms & above}"


def test_pictures_and_pages_have_no_sentences_of_their_own_kind_by_kind():
    users = {
        name
        for name, path in zip(NAMES, MODULES, strict=True)
        if name.startswith("viz.")
        and any(module.startswith("locate.looks") for module in imports_of(path))
    }
    assert users == {"viz.app.lead"}  # an edit's file, whose weights the app does not read


def test_files_about_heads_import_each_other_one_way():
    """What a report is, how it is measured and how it is stored never need each other in a ring."""
    room = {
        name: {each for each in imports_of(path) if each.startswith("locate.heads.")}
        for name, path in zip(NAMES, MODULES, strict=True)
        if name.startswith("locate.heads.")
    }
    assert "locate.heads.roles" in room
    TopologicalSorter(room).prepare()  # CycleError names a ring


def test_a_result_knows_no_drawing_code_before_its_picture_is_asked_for():
    code = """
import sys
import circuits.base.display, locate.changes.rewiring, locate.heads.role_report
import locate.states.trace_average, locate.states.lens_average
known = {name.split(".")[0] for name in sys.modules}
assert not known & {"viz", "plotly", "dash", "matplotlib"}, known
"""
    python(code)


def test_only_the_model_imports_transformer_lens():
    users = [
        name
        for name, path in zip(NAMES, MODULES, strict=True)
        if any(module.split(".")[0] == "transformer_lens" for module in imports_of(path))
    ]
    assert users == ["circuits.model.model"]


def test_names_of_hooks_stand_in_one_file():
    users = [
        name
        for name, path in zip(NAMES, MODULES, strict=True)
        if re.search(r"blocks\.\{|\.hook_[a-z]+\b(?!\()", path.read_text(encoding="utf-8"))
    ]
    assert users == ["circuits.model.taps"]


def test_nothing_reads_pickles():
    for path in MODULES:
        imported = {name.split(".")[0] for name in imports_of(path)}
        assert not imported & {"pickle", "dill", "joblib", "shelve"}, path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path


def test_choices_are_defined_once():
    from circuits.facts import questions
    from circuits.files import exchange
    from circuits.graph import ablation
    from circuits.graph import circuit as graph
    from circuits.graph import select as extract
    from circuits.model import metrics
    from locate.edges import eap
    from locate.states import sweep

    users = (ablation, exchange, extract, graph, metrics, questions, eap, sweep)
    defined = {name: c for name, c in vars(choices).items() if isinstance(c, type)}
    assert len(defined) > 8
    for name, choice in defined.items():
        assert all(getattr(module, name, choice) is choice for module in users), name


@pytest.mark.slow
def test_importing_everything_seeds_nothing_and_opens_no_window():
    names = [name for name in NAMES if not name.endswith("__main__")]
    code = f"""
import importlib, random, sys
import numpy, torch
before = random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
for name in {names!r}:
    importlib.import_module(name)
after = random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
assert before == after
assert (threads, grad) == (torch.get_num_threads(), torch.is_grad_enabled())
assert "matplotlib.pyplot" not in sys.modules
"""
    done = python(code)
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["--help"], ["discover", "--help"], ["--bad"]])
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str]):
    code = f"""
import sys
from experiments.cli.main import main
code = main({arguments!r})
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print("HEAVY", heavy, file=sys.stderr)
"""
    assert "HEAVY []" in python(code).stderr


@pytest.mark.parametrize("arguments", [["models"], ["run", "--list"], ["schema", "error"]])
def test_commands_that_need_no_model_import_none(arguments: list[str]):
    assert "HEAVY []" in python(_heavy_after(arguments)).stderr


SPARED = {"trace": ("torch", "transformers", "matplotlib")}
"""Of kinds that need some of `HEAVY` to be shown: scipy says which peak of a trace is no chance."""
SHOWN = [name for name in results.STORED if name != "delta"]
"""All but an edit, which is weights."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_showing_imports_no_model(name: str, tmp_path: Path):
    stored = tmp_path / f"{name}.kc.safetensors"
    results.STORED[name]().save(stored)
    spared = SPARED.get(name, HEAVY)
    assert "HEAVY []" in python(_heavy_after(["show", str(stored)], spared)).stderr


def test_exporting_a_circuit_imports_no_model(tmp_path: Path):
    stored = tmp_path / "circuit.kc.safetensors"
    results.circuit().save(stored)
    assert "HEAVY []" in python(_heavy_after(["export", str(stored), "--to", "csv"])).stderr


@pytest.mark.parametrize("name", ["circuit", "comparison"])
def test_a_page_of_circuits_needs_no_torch(name: str, tmp_path: Path):
    stored = tmp_path / f"{name}.kc.safetensors"
    getattr(results, name)().save(stored)
    code = _heavy_after(["export", str(stored), "--to", "html", "--cdn"], ("torch", "pandas"))
    assert "HEAVY []" in python(code).stderr


def _heavy_after(arguments: list[str], heavy: tuple[str, ...] = HEAVY) -> str:
    heavy = tuple(name for name in heavy if name != "numpy")
    return f"""
import sys
from experiments.cli.main import main
code = main({arguments!r})
print("HEAVY", [name for name in {heavy!r} if name in sys.modules] + [code] * code, file=sys.stderr)
"""


def test_what_is_listed_of_analyses_is_what_they_say():
    from experiments.analyses.engine.listing import listed, listing
    from experiments.analyses.engine.registry import analysis

    assert listing() == [listed(analysis(each["name"])) for each in listing()]


def test_no_file_is_longer_than_a_sitting():
    long = {
        name: len(path.read_text().splitlines()) for name, path in zip(NAMES, MODULES, strict=True)
    }
    assert {name: lines for name, lines in long.items() if lines > LONGEST} == {}
