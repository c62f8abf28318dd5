"""Whether the packages behind the door are ours: their names are names that users have as well."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("circuits", "locate", "viz", "experiments")
HOME = Path(__file__).resolve().parent.parent


class HiddenPackageError(ImportError):
    """A module of the user's hides a package of Knowledge Circuits; says which and where."""


def check_rooms() -> None:
    """HiddenPackageError where one of our packages would be imported from elsewhere."""
    for name in ROOMS:
        found = _origin(name)
        if found is not None and found.resolve() != HOME / name / "__init__.py":
            raise HiddenPackageError(
                f"{found} hides the package {name!r} of Knowledge Circuits: rename it, or start "
                "Python in another folder"
            )


def _origin(name: str) -> Path | None:
    """The file that an import of this name runs, or has run."""
    loaded = sys.modules.get(name)
    origin = getattr(loaded, "__file__", None)
    if loaded is None:
        spec = find_spec(name)
        origin = None if spec is None else spec.origin
    return None if origin is None else Path(origin)
