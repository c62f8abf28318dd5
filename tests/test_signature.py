"""Flags are the fields of options: written once, offered everywhere, and named in errors."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer

import circuits
import locate
from circuits.base.errors import OptionError
from circuits.base.idle import Given, Idle
from circuits.base.options import Options, default_of, meaning, option, types_of
from experiments import analyses
from experiments.cli.console import in_flags
from experiments.cli.main import COMMANDS, GROUPS, main, make_app
from experiments.cli.signature import Fixed, Starts, command
from tests.test_cli import refusal

PLUGIN = """
from circuits.base.choices import Metric

def margin_of_mine(logits, answer, foil):
    return logits[:, 0]

Metric.add("margin-of-mine", margin_of_mine)
"""
GROUP: Any = typer.main.get_command(make_app())
NAMED: dict[Any, Any] = {each: GROUP.commands[each.__name__] for each in COMMANDS} | {
    each: GROUP.commands[name].commands[each.__name__]
    for name, (_, members) in GROUPS.items()
    for each in members
}
"""What Typer made of every function, also of those of a group."""


@dataclass(frozen=True)
class Cooking(Options):
    """Options to try the signature with."""

    minutes: int = option(10, "How long.", low=1, high=60, flags=("--minutes", "-t"))
    spices: tuple[str, ...] = option((), "What else; repeatable.", flags=("--spice",))
    oven: Path | None = option(None, "Which.")
    stirred: bool = option(False, "Whether.")
    own: Any = option(None, "More.", flags=("--set",), metavar="NAME=VALUE")


def run(function: Any, *words: str) -> None:
    """A function as the only command of an app, called with these words."""
    app = typer.Typer()
    app.command()(command(function))
    app(args=list(words), standalone_mode=False)


def groups_of(function: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The classes of options that a command takes, with what is noted beside them."""
    hints = get_type_hints(function, include_extras=True)
    found = {}
    for name, hint in hints.items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if inspect.isclass(kind) and issubclass(kind, Options):
            found[name] = (kind, tuple(notes))
    return found


def test_every_number_among_the_options_has_a_least_value():
    """Layers are held against the model's instead (`circuits.edits.settings.check_layers`)."""
    for room in (circuits, locate, analyses):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    ours = [each for each in below(Options) if not each.__module__.startswith("tests")]
    numbers = [
        (kind.__name__, each.name, meaning(each))
        for kind in ours
        for each in fields(kind)
        if each.name != "layers" and {int, float} & plain_types(types_of(kind)[each.name])
    ]
    assert len(numbers) > 100
    assert [each[:2] for each in numbers if each[2].low is None and each[2].above is None] == []


def below(kind: type) -> list[type]:
    return [each for own in kind.__subclasses__() for each in (own, *below(own))]


def plain_types(hint: Any) -> set[Any]:
    return set().union(*map(plain_types, get_args(hint))) if get_args(hint) else {hint}


@pytest.mark.parametrize("function", NAMED, ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_every_field_that_a_command_takes_is_its_flag_with_its_help_range_and_default(function):
    parameters = {each.name: each for each in NAMED[function].params}
    for kind, notes in groups_of(function).values():
        hidden = {name for note in notes if isinstance(note, Fixed) for name in note.names}
        starts = {
            k: v for note in notes if isinstance(note, Starts) for k, v in note.values.items()
        }
        for each in fields(kind):
            if each.name in hidden:
                continue
            shown, means = parameters[each.name], meaning(each)
            flags = means.flags or ("--" + each.name.replace("_", "-"),)
            wanted = [part for flag in flags for part in flag.split("/")]
            offered = [*shown.opts, *shown.secondary_opts]
            assert set(wanted) <= set(offered), (each.name, offered)
            assert shown.help.startswith(means.text)
            default = starts.get(each.name, default_of(each))
            assert shown.default == (None if default == () else default), each.name


def test_a_flag_that_no_field_and_no_parameter_declares_is_none():
    for function in NAMED:
        taken = {n for n, hint in get_type_hints(function).items() if hint is not Given}
        for name, (kind, notes) in groups_of(function).items():
            hidden = {n for note in notes if isinstance(note, Fixed) for n in note.names}
            taken |= {each.name for each in fields(kind)} - hidden
            taken -= {name}
        shown = {each.name for each in NAMED[function].params}
        assert shown - {"help"} <= taken | {"return"}, function.__name__


def test_what_is_given_arrives_as_the_options():
    seen = []

    def cook(*, cooking: Cooking) -> None:
        seen.append(cooking)

    run(cook, "-t", "5", "--spice", "a", "--spice", "b", "--oven", "x/y", "--set", "heat.top=3")
    assert seen == [Cooking(5, ("a", "b"), Path("x/y"), False, {"heat": {"top": 3}})]
    run(cook)
    assert seen[1] == Cooking()


def test_a_field_of_several_classes_is_one_flag_that_fills_them_all():
    @dataclass(frozen=True)
    class Eating(Options):
        minutes: int = option(10, "How long.", low=1, high=60, flags=("--minutes", "-t"))

    seen = []

    def dine(*, cooking: Cooking, eating: Eating) -> None:
        seen.append((cooking.minutes, eating.minutes))

    globals()["Eating"] = Eating  # annotations are resolved in the module
    run(dine, "--minutes", "7")
    assert seen == [(7, 7)]


def test_fixed_fields_are_no_flags_and_hold_their_values():
    seen = []

    def cook(
        *, cooking: Annotated[Cooking, Fixed("oven", minutes=3), Starts(stirred=True)]
    ) -> None:
        seen.append(cooking)

    run(cook)
    assert seen == [Cooking(minutes=3, stirred=True)]
    with pytest.raises(typer.TyperException):
        run(cook, "--minutes", "4")


@pytest.mark.parametrize("words", [["-t", "0"], ["-t", "61"], ["-t", "x"], ["--oven", ""]])
def test_a_value_out_of_range_is_refused_by_its_flag(words: list[str]):
    def cook(*, cooking: Cooking) -> None:
        raise AssertionError("this is not reached")

    with pytest.raises(typer.TyperException) as caught:
        run(cook, *words)
    assert {"-t": "--minutes", "--oven": "--oven"}[words[0]] in caught.value.format_message()


def test_options_without_effect_are_refused_only_where_they_were_given():
    def cook(*, given: Given, cooking: Cooking) -> None:
        given.refuse(Idle("in the cold", ("minutes", "spices")))

    run(cook, "--stirred")
    for words, flag in ((["-t", "10"], "--minutes"), (["--spice", "a"], "--spice")):
        with pytest.raises(OptionError, match=f"^{flag} has no effect in the cold$"):
            run(cook, *words)


def test_errors_name_options_and_the_command_line_names_its_flags():
    assert in_flags("`a` and `b`", {"a": "--an-a"}) == "--an-a and `b`"

    def cook(*, cooking: Cooking) -> None:
        raise OptionError("`minutes` and `spices` exclude each other")

    with pytest.raises(OptionError, match=r"^--minutes and --spice exclude each other$"):
        run(cook)


# --- the whole command line ----------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "mine.py"


def kc(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from experiments.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
    )


def test_what_a_plugin_registers_is_a_choice_wherever_the_plugin_is_named(plugin: Path):
    name, flag = "margin-of-mine", f"--plugin={plugin}"
    assert name not in kc("discover", "--help").stdout
    for words in ([flag, "discover"], ["discover", flag], ["discover", "--plugin", str(plugin)]):
        assert name in kc(*words, "--help").stdout
    assert name in kc("discover", "--help", KC_PLUGINS=str(plugin)).stdout
    refused = kc("discover", "-m", "facts-gpt2", "-r", "country_capital", "--metric", name)
    assert refused.returncode == 2
    assert "--metric" in refused.stderr


def test_a_plugin_that_is_not_named_does_not_run(plugin: Path, monkeypatch, capsys):
    monkeypatch.chdir(plugin.parent)
    assert main(["discover", "--help"]) == 0
    assert "margin-of-mine" not in capsys.readouterr().out
    assert "needs a file" in refusal(capsys, "facts", "--plugin")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_letters_gets_what_it_can_show(encoding: str):
    environment = {"PYTHONIOENCODING": encoding}
    listed = kc("facts", "athlete_sport", **environment)
    assert listed.returncode == 0, listed.stderr
    told = kc("facts", "--json", **environment)
    assert json.loads(told.stdout)["relations"]


@pytest.mark.parametrize("word", ["\x00", "\udcff"])
def test_words_that_are_no_text_are_one_line(word: str, capsys):
    assert "no text" in refusal(capsys, "facts", word)


def test_an_empty_host_is_refused(tmp_path: Path, capsys):
    assert "--host" in refusal(capsys, "serve", str(tmp_path), "--host", "")
