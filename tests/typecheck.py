"""Run-time checks of annotations: types by beartype, shapes by jaxtyping.

`install` has every function of the product's modules checked at every call. What jaxtyping
does there costs more than most of what it checks, as it binds the arguments once more and makes
three functions of one; so it is kept for functions that speak of shapes, and beartype alone
checks the others. A function within a function is left to the static types: it would be
decorated anew, in about a millisecond, every time the outer one runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

MODULES = ["circuits", "locate", "viz", "experiments", "knowledge_circuits"]

# As in static typing, an int is welcome where a float is asked for.
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
of_shapes = jaxtyping.jaxtyped


def install() -> None:
    """Check what is imported from here on."""
    # The hook writes this name above every function and class.
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(MODULES, f"{__name__}.check")


def checked(of: Any = None, *, typechecker: Any) -> Any:
    """A function or class as it is, but for its arguments and what it returns being checked."""
    if of is None:
        return partial(checked, typechecker=typechecker)
    if isinstance(of, classmethod | staticmethod):
        return type(of)(checked(of.__func__, typechecker=typechecker))
    if is_dataclass(of) and "__init__" in vars(of) and not speaks_of_shapes(of.__init__):
        of.__init__ = check(of.__init__)
        return of
    if not inspect.isfunction(of):
        return of_shapes(of, typechecker=typechecker)
    if "<locals>" in of.__qualname__:
        return of
    return of_shapes(of, typechecker=typechecker) if speaks_of_shapes(of) else check(of)


def speaks_of_shapes(function: Callable[..., Any]) -> bool:
    """Whether an annotation names a shape, or is none until more has been imported.

    jaxtyping takes the latter for anything at all, where beartype ends in an error.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:
        return True
    return any(map(_is_shape, hints.values()))


def _is_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_is_shape, get_args(hint)))
