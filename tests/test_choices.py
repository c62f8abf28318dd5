"""A choice is taken by its name or as its value, everywhere, and nothing else is taken for one."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from circuits.base import choices
from circuits.base.choices import Choice, Metric, Open
from circuits.base.errors import OptionError

ROOT = Path(__file__).parent.parent
PACKAGES = ("circuits", "locate", "viz", "experiments", "knowledge_circuits")


@pytest.mark.slow
def test_every_public_callable_takes_names_as_values_and_refuses_all_else():
    """In a process of its own: the type checks of the tests would refuse a name before the code."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.choice_calls"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_compares_a_choice_by_identity(package):
    """Text equals the choice that it names, but is not the same object."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                for sign, right in zip(node.ops, node.comparators, strict=True):
                    by_identity = isinstance(sign, ast.Is | ast.IsNot)
                    named = re.search(r"\b[A-Z]\w*[a-z]\w*\.[A-Z_]+$", ast.unparse(right))
                    assert not (by_identity and named), f"{path}:{node.lineno}"


@pytest.mark.parametrize("kind", Choice.__subclasses__())
def test_a_closed_choice_is_its_name_and_refuses_another(kind):
    for value in kind:
        assert kind.of(str(value)) is value
        assert kind.of(value) is value
    for nonsense in ("no-such-name", "", 3, None, object()):
        with pytest.raises(OptionError, match=", ".join(map(str, kind))):
            kind.of(nonsense)


class Colour(Open):
    """A list for the tests."""

    bright: bool = False


def test_an_open_choice_grows_and_keeps_what_it_has():
    red = Colour.add("red", len, "a colour", bright=True)
    assert Colour.of("red") is red
    assert (red, red.bright, red.text) == ("red", True, "a colour")
    assert Colour.of(len) is red
    assert Colour.add("red", len) is red
    with pytest.raises(OptionError, match="there is a colour 'red' already"):
        Colour.add("red", max)
    with pytest.raises(OptionError, match="no trait 'dark'"):
        Colour.add("blue", max, dark=True)
    with pytest.raises(OptionError, match="needs a name"):
        Colour.of(lambda: 0)
    assert list(Colour) == ["red"]
    assert list(Metric) == [
        "logit-diff",
        "log-prob",
        "answer-log-prob",
        "prob-diff",
        "kl",
    ]


def test_every_choice_says_what_it_is():
    for name, kind in vars(choices).items():
        if isinstance(kind, type) and issubclass(kind, Choice | Open):
            assert kind.__doc__, name
