"""Random command lines: every one ends in an exit code, one line for a mistake, and no debris."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from experiments.cli.main import main, make_app
from tests.fuzzing import chance, tried

N_LINES = 1500
SLOWEST = 60.0
"""Seconds that a line may take which loads no model; the first ones import the libraries."""
EXITS = {0, 2, 3, 4}
WORDS = (
    *("", " ", "0", "1", "-1", "3", "1e400", "nan", "inf", "0.5", "99999999999999999999", "1-3"),
    *(
        "x",
        "all",
        "auto",
        "eap",
        "acdc",
        "kl",
        "zero",
        "greedy",
        "first",
        "held-out",
        "rome",
        "dot",
    ),
    *("--", "-", "--json", "--help", "--frobnicate", "-q", "=", "a=b", "a.b=1", "steps=[", "{}"),
    *(
        "country_capital",
        "no_such_relation",
        "rome-original",
        "easyedit:",
        "{} is in",
        "\u00e9\u4e2d",
    ),
    *("\x00", "\udcff", "\x1b[31m", "\u202e", "'", '"', "$HOME", "~nobody", "*", "x" * 300),
)
NO_MODEL = ("nobody/no-such-model", "", " ", "./nothing", "facts-gpt2@no-such-step", "\udcff")
GROUP: Any = typer.main.get_command(make_app())
KNOWN = {name: command.params for name, command in GROUP.commands.items()}
"""Every command's parameters, as the parser knows them."""
SERVES = "serve"
"""The one command that would not end by itself: it is asked for folders that there are not."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files of every kind of damage."""
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "list.jsonl").write_text('[1, 2]\n{"clean": 3}\n')
    (tmp_path / "bad.kc.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "plugin.py").write_text("raise ValueError('a plugin that fails')\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KC_PLUGINS", raising=False)
    monkeypatch.setattr("experiments.cli.main.make_app", lambda: GROUP)  # made once, for speed
    return tmp_path


def line(draw: random.Random, files: list[str]) -> list[str]:
    """A command with some of its flags, given what they take or anything else."""
    name = draw.choice(list(KNOWN))
    words, parameters = [name], KNOWN[name]
    for parameter in draw.sample(parameters, min(len(parameters), draw.randint(0, 7))):
        if parameter.param_type_name == "argument":
            words.append(draw.choice([*files, *WORDS]))
            continue
        words.append(draw.choice([*parameter.opts, *parameter.secondary_opts]))
        if draw.random() < 0.9 and not parameter.is_flag:
            words.append(draw.choice([*files, *WORDS]))
    if draw.random() < 0.3:
        words.insert(draw.randrange(len(words) + 1), draw.choice([*files, *WORDS]))
    if draw.random() < 0.1:
        words += draw.choice([["--plugin"], ["--plugin", draw.choice(files)], ["--plugin="]])
    return words


def safe(words: list[str], draw: random.Random) -> list[str]:
    """The line without anything that would load a model or serve: the early part is meant here."""
    if SERVES in words:
        words = ["serve", "./nothing", *(word for word in words if word.startswith("--"))]
    named = [
        draw.choice(NO_MODEL) if before in ("-m", "--model") else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    return [*named, "-m", "nobody/no-such-model"] if "run" in words else named


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_random_command_line_ends_in_an_exit_code_and_one_line(
    seed: int, place: Path, capsys: pytest.CaptureFixture[str]
):
    draw = chance(seed)
    files = sorted(path.name for path in place.iterdir())
    before = {name: os.stat(name).st_mtime_ns for name in files}
    codes = []
    for _ in range(N_LINES):
        words = safe(line(draw, files), draw)
        start = time.perf_counter()
        code = main(words)
        assert time.perf_counter() - start < SLOWEST, words
        captured = capsys.readouterr()
        assert code in EXITS, (words, captured.err)
        assert "Traceback" not in captured.err, words
        if code:
            lines = [each for each in captured.err.splitlines() if each.startswith("kc: error: ")]
            assert len(lines) == 1, (words, captured.err)
        codes.append(code)
    tried(N_LINES)
    assert {name: os.stat(name).st_mtime_ns for name in files} == before
    assert not [path for path in place.rglob("*") if path.name.startswith((".", "tmp"))]
    assert codes.count(0) > N_LINES / 100
    assert codes.count(2) > N_LINES / 4
