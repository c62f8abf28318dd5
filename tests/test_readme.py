"""What the README and the documentation show is there, and what they tell the reader works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from circuits.base import plugins
from circuits.base.choices import FigureKind, Metric
from circuits.edits.methods.registry import EditMethod
from circuits.files import kinds
from circuits.model.model import Model, load
from experiments.analyses.engine import registry
from experiments.cli.main import _apart, main, make_app
from experiments.workshop import pictures
from locate.edges.locators import Locator

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
README, ERRORS, PLUGINS = "README.md", "docs/errors.md", "docs/tasks/plugins.md"
CONTRIBUTING = "CONTRIBUTING.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LARGEST_PICTURE = 300_000
LONGEST_README = 250
LONGEST_EXAMPLE = 41
"""Forty lines, and the file's name."""
FEW = ["--n-pairs", "4", "--no-roles"]
OTHER_PICTURES = (
    {f"run-{name}.svg" for name, _ in pictures.OF_RUNS}
    | {f"app-{name}.png" for name in ("circuit", "difference", "try", "lens")}
    | {"real.svg"}
)
"""Figures of `kc run all`, the app's screens, and what takes a pretrained model."""


def blocks(text: str, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(text) if found == language]


def shell(text: str) -> list[str]:
    """The lines of the page's plain blocks, continued lines joined."""
    return "\n".join(blocks(text, "")).replace("\\\n", " ").splitlines()


def commands(text: str) -> list[str]:
    lines = (line.removeprefix("$ ") for line in shell(text) if line.startswith(("$ kc ", "kc ")))
    return [line for line in lines if not line.startswith("kc: ")]


def links(text: str, mark: str) -> list[str]:
    found = re.findall(rf"{mark}\[[^]]+\]\(([^)\s]+)\)", text)
    return [link for link in found if "://" not in link]


def anchors(text: str) -> set[str]:
    """The names that headings get on the hosting sites and in the built pages."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def pictures_of(page: str) -> list[Path]:
    return [(ROOT / page).parent / link for link in links(PAGES[page], "!")]


def run_python(page: str) -> dict:
    """The names that the page's Python leaves behind, one block after the other."""
    names: dict = {"__name__": page}
    for code in blocks(PAGES[page], "python"):
        exec(compile(code, page, "exec"), names)
    return names


def plugin_files(folder: Path) -> list[Path]:
    """The page of plugins as the files that it tells the reader to write."""
    files = []
    for code in blocks(PAGES[PLUGINS], "python"):
        path = folder / code.splitlines()[0].removeprefix("# ")
        path.write_text(code, encoding="utf-8")
        files.append(path)
    return files


COMMANDS = sorted(
    {(page, line) for page in PAGES if page != ERRORS for line in commands(PAGES[page])}
)
MISTAKES = re.findall(
    r"^\$ (kc .*)\n(kc: error: .*)$", "\n".join(blocks(PAGES[ERRORS], "")), re.MULTILINE
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("facts-gpt2", device="cpu")


@pytest.fixture
def desk(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, one model for all, and registries that forget afterwards."""
    monkeypatch.chdir(tmp_path)

    def known(name: str, device: str | None = None, dtype: str = "fp32", **more: Any) -> Model:
        plain = (name, device, dtype) == (model.name, None, "fp32") and not any(more.values())
        return model if plain else load(name, device, dtype, **more)

    monkeypatch.setattr("circuits.model.model.load", known)
    for kind in (Metric, Locator, EditMethod, FigureKind):
        monkeypatch.setattr(kind, "_known", dict(kind._known))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))
    monkeypatch.setattr(kinds, "KINDS", dict(kinds.KINDS))
    return tmp_path


def test_every_kind_of_result_is_in_the_table_of_kinds():
    for kind in kinds.KINDS.values():
        drawn = ", ".join(map(str, kind.figures)) or "none"
        held = kinds.named(kind.holds).__name__
        row = rf"\| `{kind.name}` \| `{held}` \| .* \| {drawn} \| {kind.view} \|"
        assert re.search(row, PAGES["docs/files.md"]), kind.name


def test_the_readme_is_short_enough_to_be_read():
    assert len(PAGES[README].splitlines()) < LONGEST_README


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_is_there_and_small(page: str):
    for path in pictures_of(page):
        assert path.stat().st_size < LARGEST_PICTURE, path


def test_the_readme_and_the_documentation_show_pictures():
    assert len(pictures_of(README)) >= 2
    shown = {path.resolve() for page in PAGES for path in pictures_of(page)}
    assert shown == set((ROOT / "docs" / "pictures").iterdir())


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_project_leads_somewhere(page: str):
    for link in links(PAGES[page], "(?<!!)"):
        file, _, place = link.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.exists(), link
        if place:
            assert place in anchors(path.read_text(encoding="utf-8")), link


def test_every_page_is_in_the_contents():
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {page.removeprefix("docs/") for page in PAGES} - {
        README,
        CONTRIBUTING,
        "package.md",
    }


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=" ".join)
def test_every_command_is_understood(page: str, line: str, desk: Path):
    if page == PLUGINS:
        for path in plugin_files(desk):
            plugins.load_plugin(path)
    words = _apart(shlex.split(line, comments=True)[1:]).rest
    command, name = typer.main.get_command(make_app()), ""
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, list(words))


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_every_mistake_is_answered_as_the_page_of_errors_says(
    line: str, said: str, desk: Path, capsys: pytest.CaptureFixture
):
    pair = '{"clean": "The capital of France is", "answer": "Paris", "foil": "Seoul",'
    Path("pairs.jsonl").write_text(pair + ' "corrupted": "The capital of South Korea is"}\n')
    Path("facts.csv").write_text("subject,object\nFrance,Paris\n")
    Path("broken.kc.safetensors").write_text("not a circuit\n")
    assert main(shlex.split(line)[1:]) in (2, 3, 4)
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_the_page_of_errors_shows_many():
    assert len(MISTAKES) == len(commands(PAGES[ERRORS])) > 20


def test_the_weights_that_are_refused_are_refused_in_these_words():
    _, _, rest = PAGES[ERRORS].partition("### The weights are refused")
    rows = re.findall(r"^\| (`.*`) \|", rest.partition("###")[0], re.MULTILINE)
    said = [words for row in rows for words in re.findall(r"`([^`]+)`", row)]
    files = ("architectures.py", "loading.py", "sources.py")
    source = "".join((ROOT / "circuits" / "model" / file).read_text("utf-8") for file in files)
    assert len(said) > 6
    assert [words for words in said if words not in source] == []


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for text in PAGES.values()
        for name in re.findall(r"^make ([\w-]+)", "\n".join(shell(text)), re.MULTILINE)
        + re.findall(r"`make ([\w-]+)`", text)
    }
    assert {"demo", "test", "docs"} <= named <= targets


@pytest.mark.slow
def test_every_plugin_is_short_and_does_what_the_page_says(
    desk: Path, capsys: pytest.CaptureFixture
):
    files = {path.name: path for path in plugin_files(desk)}
    assert all(len(path.read_text().splitlines()) <= LONGEST_EXAMPLE for path in files.values())
    plugins.load_plugin(files["norms.py"])
    norms = kinds.named(kinds.KINDS["norms"].holds)
    norms(np.arange(4.0)).save("norms.kc.safetensors")
    ran = set()
    for line in commands(PAGES[PLUGINS]):
        words = shlex.split(line)[1:]
        few = FEW if "discover" in words else []
        few = [*few, "--resamples", "0"] if "metric.py" in words else few
        assert main([*words, *few]) == 0, line
        ran |= {word for word in words if word.endswith(".py")}
    assert ran == set(files)
    assert kinds.open_result("norms.kc.safetensors").rows()[3] == {"layer": 3, "norm": 3.0}
    said = capsys.readouterr().out
    assert "Objects have more than one letter: " in said
    assert "nudge: 1 done; layers 2" in said
    [found] = [
        json.loads(path.read_text()) for path in desk.rglob("summary.json") if "steady" in str(path)
    ]
    assert found["provenance"]["options"] == {"penalty": 2.0}
    assert [each["name"] for each in found["provenance"]["plugins"]][-1] == "locator.py"


WITH_PYTHON = [page for page in PAGES if blocks(PAGES[page], "python") and page != PLUGINS]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs(page: str, desk: Path):
    names = run_python(page)
    if page == README:
        [code] = blocks(PAGES[page], "python")
        stated = float(re.findall(r"# ([\d.]+)$", code, re.MULTILINE)[0])
        assert names["found"].scores["a6.h1->logits"] == pytest.approx(stated, abs=0.02)
        assert (desk / "capitals" / "circuit.kc.safetensors").exists()


@pytest.mark.slow
def test_the_pictures_command_draws_the_pictures_that_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(pictures, "N_PAIRS", 2)
    assert pictures.main(["--out", str(tmp_path)]) == 0
    drawn = {Path(line).name for line in capsys.readouterr().out.split()}
    shown = {path.name for page in PAGES for path in pictures_of(page)}
    assert drawn == shown - OTHER_PICTURES
    assert all((tmp_path / name).read_text().startswith("<?xml") for name in drawn)


def test_the_pictures_shown_say_where_they_come_from_but_not_when():
    for path in (ROOT / "docs" / "pictures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert '"weights_sha256"' in text.replace("&quot;", '"')
        assert "created" not in text
