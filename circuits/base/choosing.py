"""What a choice is: a closed list of names, or an open one to which users add their own.

A public function takes a choice as its name or as the type's value, and turns it into the value
with `of`, which refuses anything else by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from hashlib import sha256
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from circuits.base.errors import OptionError

C = TypeVar("C", bound="Choice")
Own = TypeVar("Own", bound="Open")


class Choice(StrEnum):
    """One of a closed list of names."""

    @classmethod
    def of(cls: type[C], value: Any, name: str = "") -> C:
        """The value of this name; OptionError with the names there are for anything else."""
        try:
            return cls(value)
        except (ValueError, TypeError):
            raise _no_such(name or _words(cls), value, cls) from None


class _Listed(type):
    """Iterating a class of choices gives its values, as iterating an enum does."""

    _known: dict[str, Any]

    def __iter__(cls) -> Iterator[Any]:
        return iter(tuple(cls._known.values()))

    def __len__(cls) -> int:
        return len(cls._known)

    def __contains__(cls, name: object) -> bool:
        return name in cls._known

    def __bool__(cls) -> bool:
        return True


class Open(str, metaclass=_Listed):
    """A named choice to which users add their own; equal to its name, as a closed choice is.

    `target` is what the name stands for, or "module:attribute", imported when it is asked for. A
    kind's traits are the annotated attributes of its class, which give their usual values.
    """

    _known: ClassVar[dict[str, Any]] = {}
    target: Any
    text: str

    def __init_subclass__(cls) -> None:
        """Each kind of choice has a list of its own."""
        super().__init_subclass__()
        cls._known = {}

    def __new__(cls: type[Own], name: str, target: Any, text: str = "", **traits: Any) -> Own:
        """A value that is not yet known by its name; `add` makes it so."""
        made = super().__new__(cls, name)
        made.target, made.text = target, text
        for trait, value in traits.items():
            if trait not in cls.__annotations__:
                raise OptionError(f"a {_words(cls)} has no trait {trait!r}")
            setattr(made, trait, value)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (str(self), self.target, self.text)

    @property
    def value(self) -> str:
        """The plain name, as an enum's."""
        return str(self)

    @classmethod
    def add(cls: type[Own], name: str, target: Any, text: str = "", **traits: Any) -> Own:
        """Make a name known everywhere; OptionError where something else has it already."""
        known = cls._known.get(name)
        if known is not None and known.target != target:
            if not _is_redefined(known.target, target):
                raise OptionError(f"there is a {_words(cls)} {name!r} already; take another name")
            del cls._known[name]
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise OptionError(f"{name!r} is no name for a {_words(cls)}: use a-z, 0-9, - and _")
        return cls._known.setdefault(name, cls(name, target, text, **traits))

    @classmethod
    def of(cls: type[Own], value: Any, name: str = "") -> Own:
        """The value of this name, or a function of the user's own, named as it is."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value in cls._known:
            return cls._known[value]
        if callable(value) and not isinstance(value, type):
            return cls._own(value)
        raise _no_such(name or _words(cls), value, cls)

    def load(self) -> Any:
        """What the name stands for."""
        if isinstance(self.target, str):
            module, _, attribute = self.target.partition(":")
            return getattr(import_module(module), attribute)
        return self.target

    @property
    def is_own(self) -> bool:
        """Whether it is a user's, and not one of those that come with this project."""
        built_in = ("circuits.", "locate.", "viz.", "experiments.")
        return not (isinstance(self.target, str) and self.target.startswith(built_in))

    @property
    def source_sha256(self) -> str | None:
        """Hash of the source of a user's own function; None where there is no source to be had."""
        if not self.is_own:
            return None
        try:
            return sha256(inspect.getsource(self.load()).encode()).hexdigest()
        except (OSError, TypeError):
            return None

    @classmethod
    def _own(cls: type[Own], function: Callable[..., Any]) -> Own:
        given = getattr(function, "__name__", "<lambda>")
        if given == "<lambda>":
            raise OptionError(f"a {_words(cls)} of your own needs a name: define it with `def`")
        for known in cls:
            if known.target is function:
                return known  # type: ignore[no-any-return]
        if given in cls._known and not _is_redefined(cls._known[given].target, function):
            raise OptionError(f"there is a {_words(cls)} {given!r} already; rename yours")
        return cls(given, function)


def _is_redefined(old: Any, new: Any) -> bool:
    """Whether one is the other's newer version: a notebook's cell run again, a module reloaded."""
    if isinstance(old, str) or isinstance(new, str):
        return False
    places = [
        (getattr(each, "__module__", ""), getattr(each, "__qualname__", "")) for each in (old, new)
    ]
    return places[0] == places[1] and all(places[0]) and "<lambda>" not in places[0][1]


def _words(kind: type) -> str:
    """A class's name in words: KeyValue is a key value."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def _no_such(what: str, value: Any, kind: Any) -> OptionError:
    return OptionError(f"{what} {value!r:.60} is none; there are {', '.join(map(str, kind))}")
