"""What the README shows is there, and what it tells the reader to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from experiments.cli.main import make_app
from experiments.workshop import pictures

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURES = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
LINKS = [link for link in re.findall(r"(?<!!)\[[^]]+\]\(([^)]+)\)", TEXT) if "://" not in link]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
SHELL = "\n".join(code for language, code in BLOCKS if not language).replace("\\\n", " ")
COMMANDS = [
    shlex.split(line.removeprefix("$ "), comments=True)[1:]
    for line in SHELL.splitlines()
    if line.startswith(("$ kc ", "kc "))
]
LARGEST_PICTURE = 300_000
OTHER_PICTURES = {f"run-{name}.svg" for name, _ in pictures.OF_RUNS} | {
    f"app-{name}.png" for name in ("circuit", "difference", "try")
}
"""Those that `make pictures` does not draw: figures of `kc run all`, and the app's screens."""


def anchor(heading: str) -> str:
    """The name that a heading gets on the hosting sites."""
    return "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_picture_is_there_and_small():
    assert len(PICTURES) >= 2
    for name in PICTURES:
        assert (ROOT / name).stat().st_size < LARGEST_PICTURE, name


def test_every_link_within_the_project_leads_somewhere():
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    for link in LINKS:
        assert link in headings if link.startswith("#") else (ROOT / link).exists(), link


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_readme_is_understood(words: list[str]):
    group = typer.main.get_command(make_app())
    command = group.commands[words[0]]
    command.make_context(words[0], list(words[1:]))


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", SHELL, re.MULTILINE))
    named |= set(re.findall(r"`make (\w+)`", TEXT))
    assert {"demo", "test"} <= named <= targets


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    [code] = [code for language, code in BLOCKS if language == "python"]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    stated = float(re.findall(r"# ([\d.]+)$", code, re.MULTILINE)[0])
    assert names["scores"]["a6.h1->logits"] == pytest.approx(stated, abs=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "capitals.kc.safetensors",
        "capitals.svg",
    ]


def test_the_pictures_command_draws_the_pictures_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(pictures, "N_PAIRS", 4)
    assert pictures.main(["--out", str(tmp_path)]) == 0
    drawn = {Path(line).name for line in capsys.readouterr().out.split()}
    assert drawn == {Path(name).name for name in PICTURES if Path(name).name not in OTHER_PICTURES}
    assert all((tmp_path / name).read_text().startswith("<?xml") for name in drawn)


def test_the_pictures_shown_say_where_they_come_from_but_not_when():
    for name in (name for name in PICTURES if name.endswith(".svg")):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert '"weights_sha256"' in text.replace("&quot;", '"')
        assert "created" not in text
