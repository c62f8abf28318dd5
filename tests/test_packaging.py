"""What is installed: the wheel, the dependencies that it names, and what works without an extra."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from circuits.base.errors import MissingExtraError, ModelNotFoundError
from circuits.base.places import check_extra
from circuits.model.packaged import embedded_models
from circuits.model.sources import embedded_checkpoints, resolve
from experiments.benchmarks.base import FIXTURES
from experiments.benchmarks.registry import BENCHMARKS, benchmark

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHIPPED = ("knowledge_circuits", "circuits", "locate", "viz", "experiments")
CHECKOUT_ONLY = ("experiments/train/", "experiments/workshop/")
LARGEST_WHEEL = 16_000_000
NOT_IMPORTED = {"nbformat", "ipykernel"}
"""Needed without an import of ours: by plotly's figures, and by a notebook that runs Python."""


def requirements(*extras: str) -> dict[str, Requirement]:
    """What an installation with these extras asks for, by canonical name, without this project."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in found if r.name != PROJECT["name"]}


def imported_by_the_package() -> set[str]:
    """The distributions whose modules the installed package imports anywhere."""
    providers = packages_distributions()
    found: set[str] = set()
    for top in SHIPPED:
        for path in (ROOT / top).rglob("*.py"):
            if path.relative_to(ROOT).as_posix().startswith(CHECKOUT_ONLY):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
                found |= {provider for name in tops for provider in providers.get(name, ())}
    return {canonicalize_name(name) for name in found} - {PROJECT["name"]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources, so that no older build is mixed in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*SHIPPED, "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_models_and_neither_checkpoints_nor_tools(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    for model in embedded_models():
        assert f"circuits/embedded/{model}/model.safetensors" in names
    data = ("circuits/facts/atlas/relations.csv", "circuits/edits/prose.jsonl")
    for needed in ("circuits/py.typed", *data, "viz/app/server.py"):
        assert needed in names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops <= set(SHIPPED)
    assert [n for n in names if n.startswith(CHECKOUT_ONLY) or "checkpoints/" in n] == []
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_the_wheel_holds_every_benchmarks_own_cases(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in BENCHMARKS:
        data = benchmark(name).own_data
        files = [each for each in data.rglob("*") if each.is_file()] if data.is_dir() else [data]
        places = {f"experiments/benchmarks/fixtures/{each.relative_to(FIXTURES)}" for each in files}
        assert places
        assert places <= names


def test_the_description_on_a_package_index_needs_no_file_beside_it(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith("METADATA")]
    text = archive.read(name).decode()
    assert "Description-Content-Type: text/markdown" in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all("://" in link for link in links)


def test_the_wheel_runs_without_the_sources(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = """
import sys
sys.path.insert(0, "site")
import circuits, experiments
from circuits.facts.facts import relation
from circuits.model.packaged import embedded_models
from experiments.benchmarks.base import FIXTURES
from experiments.benchmarks.registry import BENCHMARKS, benchmark
from experiments.cli.main import main
assert all("site" in module.__path__[0] for module in (circuits, experiments))
assert len(relation("country_capital").facts) == 90 and len(embedded_models()) == 2
sys.exit(main(["models", "--json"]) or main(["run", "--list"]))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert "circuits" in done.stdout


def test_every_import_of_the_package_is_declared_and_every_declared_one_is_imported():
    declared = requirements("app", "notebook", "ray")
    assert imported_by_the_package() - {"ipython"} == set(declared) - NOT_IMPORTED


def test_a_batch_job_installs_neither_the_app_nor_a_notebook():
    assert not set(requirements()) & {"dash", "dash-ag-grid", "plotly", "ipykernel", "nbformat"}


def test_the_development_environment_has_every_extra():
    [own] = [r for r in map(Requirement, EXTRAS["dev"]) if r.name == PROJECT["name"]]
    assert own.extras == set(EXTRAS) - {"dev"}


def test_the_exact_versions_are_within_the_ranges():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(r.name): r for r in map(Requirement, lines[1:])}
    for name, wanted in requirements(*EXTRAS).items():
        [exact] = pins[name].specifier
        assert wanted.specifier.contains(exact.version), name


def test_the_python_versions_agree():
    wanted = SpecifierSet(PROJECT["requires-python"])
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named
    assert all(wanted.contains(version) for version in named)
    lowest = min(named, key=lambda version: int(version.split(".")[1]))
    assert not wanted.contains(f"3.{int(lowest.split('.')[1]) - 1}.99")
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["python_version"] == lowest
    assert tools["ruff"]["target-version"] == "py" + lowest.replace(".", "")


def test_a_missing_extra_is_named():
    check_extra("app", "the app", "json")
    with pytest.raises(MissingExtraError, match=r"the app needs nowhere_.*circuits\[app\]'"):
        check_extra("app", "the app", "json", "nowhere_to_be_found")


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("sys.exit(main(['serve', '.']))", "app"),
        ("explored(None)", "notebook"),
        ("plotted(None)", "notebook"),
    ],
)
def test_without_the_extra_one_line_says_which(code: str, extra: str):
    start = "import sys; sys.modules.update(dash=None, plotly=None)\n"
    start += "from experiments.cli.main import main\n"
    start += "from circuits.base.display import explored, plotted\n"
    start += "import viz; viz.offer()\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert f"pip install 'knowledge-circuits[{extra}]'" in done.stderr.splitlines()[-1]
    if code.startswith("sys.exit"):
        assert done.returncode == MissingExtraError.exit_code
        assert len(done.stderr.splitlines()) == 1


def test_discovering_needs_no_extra():
    code = """
import sys
sys.modules.update(dash=None, plotly=None, dash_ag_grid=None)
import locate.discover, locate.edit, viz.paper.circuit
import experiments.cli.find, experiments.cli.edit, experiments.cli.run, experiments.cli.drawing
import experiments.analyses.engine.running
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_checkpoints_of_an_installed_package_are_looked_for_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, step = "facts-gpt2", "step00703"
    installed = tmp_path / "embedded"
    shutil.copytree(
        embedded_models()[model],
        installed / model,
        ignore=shutil.ignore_patterns("checkpoints", "*.safetensors"),
    )
    checkpoint = embedded_checkpoints(model)[step]
    monkeypatch.setattr("circuits.model.packaged.EMBEDDED_DIR", installed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "knowledge-circuits" / "checkpoints" / model
    with pytest.raises(ModelNotFoundError) as refused:
        resolve(f"{model}@{step}")
    assert str(place) in str(refused.value)
    assert "experiments.train" in str(refused.value)
    assert "\n" not in str(refused.value)
    shutil.copytree(checkpoint, place / step)
    assert resolve(f"{model}@{step}").weights == str(place / step)
    assert list(embedded_checkpoints(model)) == [step]


def test_the_benchmark_is_a_tool_of_the_checkout_and_refuses_unknown_names(
    capsys: pytest.CaptureFixture,
):
    from experiments.workshop import bench

    assert bench.main(["--only", "nothing"]) == 2
    assert "no measurement 'nothing'" in capsys.readouterr().err
