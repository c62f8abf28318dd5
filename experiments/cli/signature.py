"""Commands whose flags are the fields of the options that their functions take.

    def evaluate(*, circuit: CircuitFile, source: Annotated[Source, Fixed(hold_out=0.0)]) -> None:

Each field of `Source` becomes a flag with its help, range, choices and default, and the function
gets the options as they were built. A field that several classes have is one flag, which fills them
all. Parameters of other types are flags and arguments of Typer's, as they are declared.
The signature is made when `command` is called, so that choices hold what plugins have added.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer

from circuits.base.choices import Open
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.base.idle import Given
from circuits.base.options import build, default_of, meaning, parse_settings, types_of
from experiments.cli.console import VOICE, in_flags

_CONTEXT = "typer_context"


class Fixed:
    """Fields of a class of options that are no flags here: left at their default, or set."""

    def __init__(self, *names: str, **values: Any) -> None:
        self.names, self.values = {*names, *values}, values


class Starts:
    """Other defaults of fields than their class's."""

    def __init__(self, **values: Any) -> None:
        self.values = values


class Like(NamedTuple):
    """A parameter that is declared as a field of a class of options."""

    kind: type
    name: str


class _Group(NamedTuple):
    """A parameter that is a class of options: the fields that are flags, and the others' values."""

    kind: Any
    offered: tuple[str, ...]
    fixed: Mapping[str, Any]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function as Typer wants it: every field a parameter, errors in the words of its flags."""
    groups: dict[str, _Group] = {}
    own: list[str] = []
    flags: dict[str, inspect.Parameter] = {}
    given = None
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, notes = _apart(hints[name])
        if kind is Given:
            given = name
        elif is_dataclass(kind):
            groups[name] = _group(kind, notes)
            for flag in _flags_of(groups[name], notes):
                flags.setdefault(flag.name, flag)
        else:
            own.append(name)
            like = next((note for note in notes if isinstance(note, Like)), None)
            declared = hints[name] if like is None else _declared(_field(*like), like.kind)
            flags[name] = _parameter(name, declared, parameter.default)
    spelled = {name: _spelling(name, flag) for name, flag in flags.items()}

    def run(**values: Any) -> None:
        context, VOICE.flags = values.pop(_CONTEXT), spelled
        try:
            arguments = {name: values[name] for name in own}
            for name, group in groups.items():
                arguments[name] = _built(group, values)
            told = Given(name for name in spelled if _is_given(context, name))
            told.check(*(arguments[name] for name in groups))
            if given is not None:
                arguments[given] = told
            function(**arguments)
        except KnowledgeCircuitsError as error:
            error.args = (in_flags(str(error), spelled),)
            raise

    parameters = [_parameter(_CONTEXT, typer.Context), *flags.values()]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _is_given(context: Any, name: str) -> bool:
    """Whether the user gave an option; `context` is typer's, which is of no public class."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def path(text: str) -> Path:
    """A path; an empty one would be the working folder, and is more likely an unset variable."""
    if not text.strip():
        raise typer.BadParameter("the path is empty")
    return Path(text)


def _apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation and what is noted beside it."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return kind, tuple(notes)
    return hint, ()


def _group(kind: Any, notes: tuple[Any, ...]) -> _Group:
    hidden: set[str] = set()
    fixed: dict[str, Any] = {}
    for note in notes:
        if isinstance(note, Fixed):
            hidden, fixed = note.names, note.values
    names = [each.name for each in fields(kind)]
    assert hidden <= set(names), f"{kind.__name__} has no {hidden - set(names)}"
    return _Group(kind, tuple(name for name in names if name not in hidden), fixed)


def _flags_of(group: _Group, notes: tuple[Any, ...]) -> Iterator[inspect.Parameter]:
    starts = next((note.values for note in notes if isinstance(note, Starts)), {})
    for name in group.offered:
        each = _field(group.kind, name)
        default = starts.get(name, default_of(each))
        yield _parameter(name, _declared(each, group.kind), default)


def _parameter(name: str, annotation: Any, default: Any = MISSING) -> inspect.Parameter:
    missing = default in (MISSING, inspect.Parameter.empty)
    shown = inspect.Parameter.empty if missing else None if default == () else default
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=shown, annotation=annotation)


def _field(kind: Any, name: str) -> Field[Any]:
    return next(each for each in fields(kind) if each.name == name)


def _declared(each: Field[Any], kind: type) -> Any:
    """A field as an annotation that Typer reads."""
    means = meaning(each)
    whole = types_of(kind)[each.name]
    hint, optional = _item(whole)
    repeatable = get_origin(whole) is tuple
    dashed = each.name.replace("_", "-")
    usual = f"--{dashed}/--no-{dashed}" if hint is bool else f"--{dashed}"
    options: dict[str, Any] = {"help": means.text, "metavar": means.metavar}
    if hint in (int, float):
        options |= {"min": means.low, "max": means.high}
    if hint is Path:
        options |= {"parser": path, "metavar": means.metavar or "<path>"}
    if isinstance(hint, type) and issubclass(hint, Open):
        options |= {"parser": _of(hint), "metavar": means.metavar or f"<{'|'.join(hint)}>"}
    shown = list[str] if hint is Any else list[hint] if repeatable else hint  # type: ignore[valid-type]
    declared = typer.Option(*(means.flags or (usual,)), **options)
    return Annotated[shown | None if optional else shown, declared]


def _item(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be none."""
    if get_origin(hint) in (Union, UnionType):
        item = next(each for each in get_args(hint) if each is not type(None))
        return item, type(None) in get_args(hint)
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, hint is Any


def _of(kind: type[Open]) -> Callable[[Any], Open]:
    def known(value: Any) -> Open:
        try:
            return kind.of(value)
        except OptionError as error:
            raise typer.BadParameter(str(error)) from None

    return known


def _built(group: _Group, values: Mapping[str, Any]) -> Any:
    """The options of the values that there are."""
    chosen = dict(group.fixed)
    for name in group.offered:
        value = values[name]
        if types_of(group.kind)[name] is Any and value:
            try:
                value = parse_settings(value)
            except OptionError as error:
                raise OptionError(f"`{name}` {error}") from None
        if value is not None and value != []:
            chosen[name] = value
    return build(group.kind, chosen)


def _spelling(name: str, flag: inspect.Parameter) -> str:
    """What users call it: --flag, or an argument's name."""
    info = next(
        (n for n in _apart(flag.annotation)[1] if isinstance(n, typer.models.OptionInfo)), None
    )
    if info is None:
        return name.upper()
    spelled = [info.default, *(info.param_decls or ())]
    long = next(each for each in spelled if isinstance(each, str) and each.startswith("--"))
    return long.split("/")[0]
