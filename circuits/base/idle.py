"""Options without effect beside others, and their refusal where a caller gave them all the same.

A class of options says by `Options.idle` which of its fields have no effect beside the others; what
depends on more than options is refused where that is known. A command and a verb of Python differ
only in how they tell which options were given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from circuits.base.errors import OptionError

if TYPE_CHECKING:
    from circuits.base.options import Options


class Idle(NamedTuple):
    """Options, by name, that have no effect, and why: the end of a sentence."""

    why: str
    names: tuple[str, ...]


class Given:
    """The options that a caller gave, by name, whatever their values."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = frozenset(names)

    def also(self, **values: Any) -> Given:
        """With those of these options whose value is not None."""
        return Given({*self.names, *(name for name in values if values[name] is not None)})

    def refuse(self, *idle: Idle) -> None:
        """OptionError where one of these was given."""
        for why, names in idle:
            for name in names:
                if name in self.names:
                    raise OptionError(f"`{name}` has no effect {why}")

    def check(self, *chosen: Options) -> None:
        """OptionError where one was given that has no effect beside the others of its class."""
        for each in chosen:
            self.refuse(*each.idle())
